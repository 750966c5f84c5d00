"""Test a detector: mmdet's test.py with its flags, plus checks before the start and gloo on CPUs."""

import argparse

# First: it may have to serve the operators without which mmdet cannot be imported.
import mmdet_edge  # noqa: F401

# isort: split
from mmdet.engine.hooks.utils import trigger_visualization_hook
from mmdet.utils import setup_cache_size_limit_of_dynamo

from mmdet_edge.config.edits import use_boundary_metric, use_dump, use_tta
from mmdet_edge.engine.launch import (
    add_common_arguments,
    build_runner,
    checks_here,
    edit_config,
    parse_arguments,
    read_config,
)
from mmdet_edge.errors import UserError, one_line_errors
from mmdet_edge.preflight import check


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Test (and evaluate) a detector')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    add_common_arguments(parser)
    parser.add_argument('--boundary', action='store_true', help='evaluate boundary AP beside mask AP')
    parser.add_argument('--out', help='pickle file (.pkl) for the predictions')
    parser.add_argument('--show', action='store_true', help='show the predictions in a window')
    parser.add_argument('--show-dir', help='folder below the work dir for images with predictions')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds between shown images')
    parser.add_argument('--tta', action='store_true', help='augment at test time')
    return parse_arguments(parser)


@one_line_errors
def main() -> None:
    """Test."""
    args = parse_args()
    if args.out and not args.out.endswith(('.pkl', '.pickle')):
        raise UserError(f'--out: predictions are written to a pickle file, .pkl, got {args.out}')
    setup_cache_size_limit_of_dynamo()
    cfg = edit_config(read_config(args.config), args.cfg_options, args.work_dir, args.launcher)
    if args.boundary:
        use_boundary_metric(cfg, ('test',))
    cfg.load_from = args.checkpoint
    if args.show or args.show_dir:
        cfg = trigger_visualization_hook(cfg, args)
    if args.tta:
        use_tta(cfg)
    if args.out:
        use_dump(cfg, args.out)

    if checks_here(args):
        check(cfg, ('test',), args.checkpoint, outputs={'--out': args.out})
    if not args.check:
        build_runner(cfg).test()


if __name__ == '__main__':
    main()
