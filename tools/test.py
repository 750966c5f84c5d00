"""Test a detector: mmdet's test.py with its flags, plus checks before the start and gloo on CPUs."""

import argparse
from copy import deepcopy

# First: it may have to serve the operators without which mmdet cannot be imported.
import mmdet_edge  # noqa: F401

# isort: split
from mmdet.engine.hooks.utils import trigger_visualization_hook
from mmdet.evaluation import DumpDetResults
from mmdet.utils import setup_cache_size_limit_of_dynamo
from mmengine.config import Config, ConfigDict

from mmdet_edge.config.datasets import inner_datasets
from mmdet_edge.config.edits import use_boundary_metric
from mmdet_edge.engine.launch import add_common_arguments, build_runner, load_config
from mmdet_edge.errors import UserError, one_line_errors
from mmdet_edge.preflight.checks import (
    check_checkpoint,
    check_data,
    check_keys,
    check_model,
    check_parts,
    check_writable,
)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Test (and evaluate) a detector')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file or address')
    add_common_arguments(parser)
    parser.add_argument('--boundary', action='store_true', help='evaluate boundary AP beside mask AP')
    parser.add_argument('--out', help='pickle file (.pkl) for the predictions')
    parser.add_argument('--show', action='store_true', help='show the predictions in a window')
    parser.add_argument('--show-dir', help='folder below the work dir for images with predictions')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds between shown images')
    parser.add_argument('--tta', action='store_true', help='augment at test time')
    return parser.parse_args()


def use_tta(cfg: Config) -> None:
    """Wrap the model for test-time augmentation; without settings in the config, flip each image."""
    if 'tta_model' not in cfg and cfg.model.get('roi_head', {}).get('mask_head'):
        raise UserError(
            "--tta: mmdet's DetTTAModel merges boxes but no masks; give the config a tta_model that does, or test "
            'without --tta'
        )
    cfg.setdefault(
        'tta_model',
        dict(
            type='DetTTAModel',
            tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100),
        ),
    )
    datasets = list(inner_datasets(cfg.test_dataloader.dataset))
    if 'tta_pipeline' not in cfg:
        meta_keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
        flips = dict(
            type='TestTimeAug',
            transforms=[
                [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)],
                [dict(type='PackDetInputs', meta_keys=(*meta_keys, 'flip', 'flip_direction'))],
            ],
        )
        cfg.tta_pipeline = [*deepcopy(datasets[0].pipeline[:-1]), flips]
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    for dataset in datasets:
        dataset.pipeline = cfg.tta_pipeline


@one_line_errors
def main() -> None:
    """Test."""
    args = parse_args()
    if args.out and not args.out.endswith(('.pkl', '.pickle')):
        raise UserError(f'--out: predictions are written to a pickle file, .pkl, got {args.out}')
    setup_cache_size_limit_of_dynamo()
    cfg = load_config(args.config, args.cfg_options, args.work_dir, args.launcher, args.local_rank)
    check_keys(cfg, 'model', 'test_dataloader', 'test_cfg', 'test_evaluator')
    check_writable('work dir', cfg.work_dir)
    if args.out:
        check_writable('--out', args.out, is_folder=False)
    if args.boundary:
        use_boundary_metric(cfg, ('test',))
    cfg.load_from = args.checkpoint
    if args.show or args.show_dir:
        cfg = trigger_visualization_hook(cfg, args)
    model = check_model(cfg)
    if args.tta:
        use_tta(cfg)

    check_parts(cfg, ('test',))
    check_checkpoint(args.checkpoint, model)
    check_data(cfg, ('test',))
    # The runner builds its own.
    del model
    if args.check:
        return
    runner = build_runner(cfg)
    if args.out:
        runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=args.out))
    runner.test()


if __name__ == '__main__':
    main()
