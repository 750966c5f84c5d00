"""Write the mask branch of a trained Mask R-CNN as an ONNX model: RoI features in, mask logits out."""

import argparse
from pathlib import Path

from mmdet_edge.deployment import export_mask_branch
from mmdet_edge.engine.launch import read_config
from mmdet_edge.errors import UserError, one_line_errors
from mmdet_edge.preflight.checkpoint import check_checkpoint


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file that the model was trained with')
    parser.add_argument('checkpoint', help='path or URL of its checkpoint')
    parser.add_argument('out', help='ONNX file to write; must not exist yet')
    return parser.parse_args()


@one_line_errors
def main() -> None:
    """Export, and print what was written."""
    args = parse_args()
    cfg = read_config(args.config)
    check_checkpoint(args.checkpoint)
    try:
        checked = export_mask_branch(cfg, args.checkpoint, args.out)
    except (FileExistsError, ImportError, RuntimeError, ValueError) as error:
        raise UserError(str(error)) from None
    size = Path(args.out).stat().st_size / 2**20
    check = 'onnxruntime computes the same logits' if checked else 'not checked: onnxruntime is not installed'
    print(f'wrote {args.out} ({size:.1f} MiB); {check}')


if __name__ == '__main__':
    main()
