"""Edits of a parsed config that the command lines offer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmdet_edge.errors import UserError

from .edge import import_mmdet_edge
from .types import type_of


def override_data_root(cfg: Config, old: str, new: str) -> None:
    """Replace the data root wherever the config has used it.

    A config reads ``ann_file=data_root + 'val.json'`` when it is parsed, so that setting ``data_root`` afterwards would
    change nothing.

    Args:
        cfg (Config): Changed in place.
        old (str): Data root that the config was parsed with.
        new (str): Data root to use.
    """
    if not old:
        raise UserError(f'the config has no data_root to replace with {new}: set the paths of its data sets one by one')
    old, new = old.rstrip('/'), new.rstrip('/')

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            for key in value:
                value[key] = moved(value[key])
        elif isinstance(value, (list, tuple)):
            return type(value)(moved(item) for item in value)
        elif isinstance(value, str) and f'{value}/'.startswith(f'{old}/'):
            return new + value[len(old) :]
        return value

    for key in cfg:
        cfg[key] = moved(cfg[key])


def use_boundary_metric(cfg: Config, splits: Sequence[str]) -> None:
    """Let the evaluators of mask AP evaluate boundary AP too.

    Args:
        cfg (Config): Changed in place, the evaluator of the other split too.
        splits (Sequence[str]): Of 'val' and 'test', those that will run.

    Raises:
        UserError: If the evaluator of one of them does not evaluate mask AP with ``CocoMetric``.
    """
    changed = set()
    for split in ('val', 'test'):
        evaluators = cfg.get(f'{split}_evaluator') or []
        for evaluator in evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]:
            metrics = evaluator.get('metric', 'bbox')
            metrics = [metrics] if isinstance(metrics, str) else list(metrics)
            scope, name = type_of(evaluator)
            if name in ('CocoMetric', 'CocoBoundaryMetric') and 'segm' in metrics:
                evaluator.type = scope + 'CocoBoundaryMetric'
                evaluator.metric = [*metrics, *({'boundary'} - set(metrics))]
                changed.add(split)
    for split in splits:
        if split not in changed:
            raise UserError(f"--boundary: {split}_evaluator has no CocoMetric with metric 'segm'")
    # For whoever runs the config that is written to the work dir.
    import_mmdet_edge(cfg)


def use_resume(cfg: Config, checkpoint: str) -> None:
    """Let a training go on where it was.

    Args:
        cfg (Config): Changed in place. ``load_from`` counts as long as the work dir has nothing to go on from, so that
            a job can be started and restarted by the same line.
        checkpoint (str): Path or address; 'auto' for the latest one in the work dir.
    """
    work_dir = Path(cfg.work_dir)
    if checkpoint == 'auto' and not (work_dir / 'last_checkpoint').exists() and not any(work_dir.glob('*.pth')):
        return
    cfg.resume = True
    cfg.load_from = None if checkpoint == 'auto' else checkpoint


def use_safe_checkpoints(cfg: Config) -> None:
    """Save checkpoints so that a training killed at any moment goes on from a whole one, as if nothing had happened.

    Args:
        cfg (Config): Changed in place where it says ``CheckpointHook``; any other hook stays.
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
