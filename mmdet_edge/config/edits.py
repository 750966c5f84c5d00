"""Edits, in place, of a parsed config that the command lines offer."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.utils import apply_to

from mmdet_edge.errors import UserError

from .datasets import datasets_of, evaluators_of
from .edge import import_mmdet_edge
from .types import as_list, type_of


def override_data_root(cfg: Config, old: str, new: str) -> None:
    """Replace the data root ``old``, with which a config was parsed, by ``new`` wherever the config has used it.

    A config reads ``ann_file=data_root + 'val.json'`` when it is parsed, so that setting ``data_root`` afterwards would
    change nothing.
    """
    if not old:
        raise UserError(f'the config has no data_root to replace with {new}: set the paths of its data sets one by one')
    old, new = old.rstrip('/'), new.rstrip('/')
    for key in cfg:
        cfg[key] = apply_to(
            cfg[key],
            lambda value: isinstance(value, str) and f'{value}/'.startswith(f'{old}/'),
            lambda path: new + path[len(old) :],
        )


def use_boundary_metric(cfg: Config, splits: Sequence[str]) -> None:
    """Let the evaluators of mask AP evaluate boundary AP too, those of 'val' and of 'test'.

    Raises:
        UserError: If the evaluator of one of ``splits``, those that will run, does not evaluate mask AP with
            ``CocoMetric``.
    """
    changed = set()
    for split in ('val', 'test'):
        for evaluator in evaluators_of(cfg, split):
            metrics = as_list(evaluator.get('metric', 'bbox'))
            scope, name = type_of(evaluator)
            if name in ('CocoMetric', 'CocoBoundaryMetric') and 'segm' in metrics:
                evaluator.type = scope + 'CocoBoundaryMetric'
                evaluator.metric = [*metrics, *({'boundary'} - set(metrics))]
                changed.add(split)
    for split in splits:
        if split not in changed:
            raise UserError(f"--boundary: {split}_evaluator has no CocoMetric with metric 'segm'")
    # The config in the work dir must also run with other tools.
    import_mmdet_edge(cfg)


def use_resume(cfg: Config, checkpoint: str) -> None:
    """Let a training run resume from a path or URL, or with 'auto' from the latest checkpoint in the work dir.

    With 'auto', ``load_from`` counts as long as the work dir has no checkpoint, so that the same line starts and
    restarts a job.
    """
    work_dir = Path(cfg.work_dir)
    if checkpoint == 'auto' and not (work_dir / 'last_checkpoint').exists() and not any(work_dir.glob('*.pth')):
        return
    cfg.resume = True
    cfg.load_from = None if checkpoint == 'auto' else checkpoint


def use_safe_checkpoints(cfg: Config) -> None:
    """Save checkpoints so that a training run killed at any moment resumes from an intact one, bit for bit.

    Only ``CheckpointHook`` is replaced; any other hook stays.
    """
    if 'default_hooks' not in cfg:
        cfg.default_hooks = {}
    if 'checkpoint' not in cfg.default_hooks:
        # mmengine's own default.
        cfg.default_hooks.checkpoint = dict(type='mmengine.CheckpointHook', interval=1)
    checkpoint = cfg.default_hooks.checkpoint
    scope, name = type_of(checkpoint or {})
    if name == 'CheckpointHook':
        checkpoint['type'] = scope + 'AtomicCheckpointHook'
        cfg.default_hooks.random_state = dict(type=scope + 'RandomStateHook')
        import_mmdet_edge(cfg)


def use_tta(cfg: Config) -> None:
    """Wrap the model for test-time augmentation; without settings in the config, flip each image.

    Raises:
        UserError: If the model predicts masks, and the config has no ``tta_model`` that merges them.
    """
    if 'tta_model' not in cfg and cfg.model.get('roi_head', {}).get('mask_head'):
        raise UserError(
            "--tta: mmdet's DetTTAModel merges boxes but no masks; give the config a tta_model that does, or test "
            'without --tta'
        )
    tta_cfg = dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
    cfg.setdefault('tta_model', dict(type='DetTTAModel', tta_cfg=tta_cfg))
    datasets = datasets_of(cfg, 'test')
    if 'tta_pipeline' not in cfg and datasets:
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


def use_dump(cfg: Config, path: str) -> None:
    """Let a test write its predictions to a pickle file."""
    dump = dict(type='mmdet.DumpDetResults', out_file_path=path)
    metrics = [*evaluators_of(cfg, 'test'), dump]
    given = cfg.get('test_evaluator')
    has_own_type = isinstance(given, dict) and 'metrics' in given
    cfg.test_evaluator = dict(given, metrics=metrics) if has_own_type else metrics
