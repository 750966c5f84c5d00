"""Write config and weights of a trained model for MMDetection without this package; predictions stay the same."""

import argparse
from pathlib import Path

from mmdet_edge.deployment import export_plain_mmdet
from mmdet_edge.engine.launch import read_config
from mmdet_edge.errors import UserError, one_line_errors
from mmdet_edge.preflight.checkpoint import check_checkpoint


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file that the model was trained with')
    parser.add_argument('checkpoint', help='path or URL of its checkpoint')
    parser.add_argument('out', help='folder to write config.py and weights.pth to; must not exist yet')
    return parser.parse_args()


@one_line_errors
def main() -> None:
    """Convert, and print what was written."""
    args = parse_args()
    cfg = read_config(args.config)
    check_checkpoint(args.checkpoint)
    try:
        export_plain_mmdet(cfg, args.checkpoint, args.out)
    except (FileExistsError, TypeError, ValueError) as error:
        raise UserError(str(error)) from None
    config, weights = Path(args.out, 'config.py'), Path(args.out, 'weights.pth')
    size = weights.stat().st_size / 2**20
    print(f'wrote {config} and {weights} ({size:.1f} MiB), for MMDetection without mmdet_edge')


if __name__ == '__main__':
    main()
