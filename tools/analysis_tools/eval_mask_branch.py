"""Evaluate the mask branch of a checkpoint alone: ground-truth boxes and labels as RoIs on the test set of the config.

Distributed like test.py: torchrun ... eval_mask_branch.py CONFIG CHECKPOINT --launcher pytorch.
"""

import argparse
import json
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.model import is_model_wrapper
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mmdet_edge.engine.launch import (
    add_common_arguments,
    build_runner,
    checks_here,
    edit_config,
    parse_arguments,
    read_config,
)
from mmdet_edge.errors import UserError, one_line_errors
from mmdet_edge.evaluation.mask_branch import check_mask_branch, evaluate_mask_branch
from mmdet_edge.preflight import check


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    add_common_arguments(parser)
    parser.add_argument('--out', help='JSON file for the values')
    return parse_arguments(parser)


@one_line_errors
def main() -> None:
    """Evaluate; print a table and write the values."""
    args = parse_args()
    cfg = edit_config(read_config(args.config), args.cfg_options, args.work_dir, args.launcher)
    cfg.load_from = args.checkpoint
    if checks_here(args):
        check(cfg, ('test',), args.checkpoint, outputs={'--out': args.out})
    if args.check:
        return
    runner = build_runner(cfg)
    runner.load_or_resume()
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    loader = runner.build_dataloader(cfg.test_dataloader)
    try:
        check_mask_branch(model, loader.dataset[0]['data_samples'])
    except ValueError as error:
        raise UserError(str(error)) from None
    batches = track(loader, 'mask branch', disable=not is_main_process())
    values = evaluate_mask_branch(model, batches, len(loader.dataset))
    if is_main_process():
        table = Table('metric', 'mean over instances', title=f'Mask branch on ground-truth boxes: {args.checkpoint}')
        for name, value in values.items():
            table.add_row(name, f'{value:.4f}' if isinstance(value, float) else str(value))
        Console().print(table)
        if args.out:
            Path(args.out).parent.mkdir(parents=True, exist_ok=True)
            Path(args.out).write_text(json.dumps(values))


if __name__ == '__main__':
    main()
