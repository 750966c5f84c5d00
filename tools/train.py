"""Train a detector: mmdet's train.py with its flags, plus checks before the start and gloo on CPUs."""

import argparse

# First: mmdet may not be importable without what it brings.
import mmdet_edge  # noqa: F401

# isort: split
from mmdet.utils import setup_cache_size_limit_of_dynamo
from mmengine.config import Config

from mmdet_edge.config.edits import use_boundary_metric, use_resume, use_safe_checkpoints
from mmdet_edge.engine.hooks.atomic_checkpoint_hook import DISK_IS_FULL, CheckpointError
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


def stages(text: str) -> str | list[int]:
    """Read the value of --edge-stages."""
    if text in ('all', 'last'):
        return text
    try:
        return [int(stage) for stage in text.split(',')]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected 'all', 'last', or numbers counted from 0 with commas between them, such as 1,2; got {text!r}"
        ) from None


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Train a detector')
    parser.add_argument('config', help='config file')
    add_common_arguments(parser)
    parser.add_argument('--boundary', action='store_true', help='evaluate boundary AP beside mask AP')
    parser.add_argument('--edge', action='store_true', help="train the config's mask heads with the edge loss")
    parser.add_argument(
        '--edge-stages',
        type=stages,
        metavar='STAGES',
        help="--edge for some stages of a cascade only: 'last', or numbers counted from 0, such as 1,2",
    )
    parser.add_argument('--amp', action='store_true', help='train with mixed precision')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help="scale the learning rate by the ratio of the job's batch size to auto_scale_lr.base_batch_size",
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='resume from a checkpoint, by default the latest one in the work dir',
    )
    return parse_arguments(parser)


def train(cfg: Config) -> None:
    """Train; report in one line what the user can mend or resume."""
    try:
        build_runner(cfg).train()
    except CheckpointError as error:
        raise UserError(str(error)) from None
    except OSError as error:
        if error.errno not in DISK_IS_FULL:
            raise
        # Of the log, for example.
        raise UserError(f'no space left: {error}. Free space and resume with --resume') from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f'interrupted: the same command with --resume continues from the latest checkpoint in {cfg.work_dir}'
        ) from None


@one_line_errors
def main() -> None:
    """Train."""
    args = parse_args()
    setup_cache_size_limit_of_dynamo()
    edge_stages = args.edge_stages or ('all' if args.edge else None)
    cfg = edit_config(read_config(args.config), args.cfg_options, args.work_dir, args.launcher, edge_stages)
    if args.boundary:
        use_boundary_metric(cfg, ('val',))
    if args.amp:
        cfg.optim_wrapper = dict(cfg.get('optim_wrapper') or {}, type='AmpOptimWrapper', loss_scale='dynamic')
    if args.auto_scale_lr:
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            raise UserError(f'--auto-scale-lr: {args.config} has no auto_scale_lr.base_batch_size')
        cfg.auto_scale_lr.enable = True
    if args.resume is not None:
        use_resume(cfg, args.resume)
    use_safe_checkpoints(cfg)

    if checks_here(args):
        check(cfg, ('train', 'val'))
    if not args.check:
        train(cfg)


if __name__ == '__main__':
    main()
