"""Checks of the sections of a config."""

import difflib
import importlib.util
import inspect
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from mmdet.datasets.samplers import MultiSourceSampler
from mmengine.config import Config
from mmengine.dataset import InfiniteSampler
from mmengine.device import get_device
from mmengine.registry import DATA_SAMPLERS, HOOKS, LOOPS, Registry
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from mmdet_edge.config.datasets import evaluators_of
from mmdet_edge.config.types import as_list, type_of, walk
from mmdet_edge.errors import UserError

from .parts import find_type


def sections() -> set[str]:
    """Return the sections of a config that mmengine, mmdet's tools and ours read."""
    of_runner = set(inspect.signature(Runner.__init__).parameters) - {'self', 'cfg'}
    return of_runner | {'compile', 'custom_imports', 'find_unused_parameters', 'runner_type', 'tta_model'}


def check_names(names: Iterable[str], known: set[str], where: str, cutoff: float) -> None:
    """Reject near misspellings of known sections: mmengine would take them, and nothing would read them."""
    for name in names:
        near = [other for other in known if sorted(other) == sorted(name)]
        if not near and len(name) > 5:
            # A shorter one, say mode, is as good a word as model.
            near = difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
        # What a config calls val_evaluator_2 is a part of its val_evaluator.
        if name not in known and near and not name.startswith(f'{near[0]}_'):
            raise UserError(
                f'{where} {name!r}, which nothing reads; did you mean {near[0]!r}? (A variable of your own needs '
                'another name.)'
            )


TOGETHER = {
    'train': ('train_dataloader', 'train_cfg', 'optim_wrapper'),
    'val': ('val_dataloader', 'val_cfg', 'val_evaluator'),
    'test': ('test_dataloader', 'test_cfg', 'test_evaluator'),
}
"""Split -> sections of which the runner takes all or none."""

DICTS = (
    *('model', 'optim_wrapper', 'default_hooks', 'visualizer'),
    *(f'{split}_{part}' for split in ('train', 'val', 'test') for part in ('dataloader', 'cfg')),
)
"""Sections that are no list."""

OLD_SECTIONS = {
    'checkpoint_config': 'default_hooks=dict(checkpoint=...)',
    'data': 'train_dataloader, val_dataloader and test_dataloader',
    'dist_params': 'env_cfg=dict(dist_cfg=...)',
    'evaluation': 'val_evaluator, and train_cfg=dict(val_interval=...)',
    'fp16': "optim_wrapper=dict(type='AmpOptimWrapper')",
    'log_config': 'default_hooks=dict(logger=...) and visualizer',
    'lr_config': 'param_scheduler',
    'momentum_config': 'param_scheduler',
    'optimizer': 'optim_wrapper=dict(optimizer=...)',
    'optimizer_config': 'optim_wrapper=dict(clip_grad=...)',
    'resume_from': 'resume=True and load_from',
    'runner': 'train_cfg',
    'total_epochs': 'train_cfg=dict(max_epochs=...)',
    'workflow': 'train_cfg and val_cfg',
}
"""Section of mmdet 2 -> what has taken its place."""


def check_sections(cfg: Config, splits: Sequence[str]) -> None:
    """Raise UserError if a section that the splits need is missing or None, or one is of mmdet 2 and now ignored."""
    for key, new in OLD_SECTIONS.items():
        # A variable that the config has used for a section of today is none.
        used = (part for name in sections() for _, part in walk(cfg.get(name)))
        if cfg.get(key) is not None and not any(part == cfg[key] for part in used):
            raise UserError(f'the config has {key}, a section of mmdet 2 that mmdet 3 ignores: it is {new} now')
    # A run can do without validation.
    for key in (key for split in splits if split != 'val' for key in ('model', *TOGETHER[split])):
        if cfg.get(key) is None:
            near = difflib.get_close_matches(key, set(cfg) - sections(), n=1)
            hint = f'; it has {near[0]!r}: a typo?' if near else ''
            raise UserError(f'the config has no {key}{hint}')
    for key in DICTS:
        if not isinstance(cfg.get(key) or {}, dict):
            raise UserError(f'{key} must be a dict, got {cfg[key]!r}')
    for keys in TOGETHER.values():
        missing = [key for key in keys if cfg.get(key) is None]
        if 0 < len(missing) < len(keys):
            raise UserError(
                f'the config has no {" and no ".join(missing)}: the runner takes all of {", ".join(keys)}, or, with '
                'each of them None, none'
            )


BACKENDS = {
    'AimVisBackend': 'aim',
    'ClearMLVisBackend': 'clearml',
    'DVCLiveVisBackend': 'dvclive',
    'MLflowVisBackend': 'mlflow',
    'NeptuneVisBackend': 'neptune',
    'TensorboardVisBackend': 'tensorboard',
    'WandbVisBackend': 'wandb',
}
"""Backend of the visualizer -> package that it needs."""


def check_visualizer(cfg: Config) -> None:
    """Raise UserError if the package of a backend of the visualizer is not installed."""
    for backend in (cfg.get('visualizer') or {}).get('vis_backends') or []:
        package = BACKENDS.get(type_of(backend)[1])
        if package and importlib.util.find_spec(package) is None:
            raise UserError(f'visualizer: {type_of(backend)[1]} needs {package}: pip install {package}')


def check_loops(cfg: Config, splits: Sequence[str]) -> None:
    """Raise UserError if a loop over epochs has a sampler whose epochs never end, or a schedule counts epochs in vain.

    The types of the config must be known (:func:`.check_parts`).
    """
    for split in splits:
        loop = _type(cfg.get(f'{split}_cfg'), LOOPS, BY_EPOCH[(cfg.get(f'{split}_cfg') or {}).get('by_epoch', True)])
        counts_iterations = split == 'train' and not issubclass(loop, EpochBasedTrainLoop)
        sampler = _type((cfg.get(f'{split}_dataloader') or {}).get('sampler'), DATA_SAMPLERS, 'DefaultSampler')
        if issubclass(sampler, ENDLESS) and not counts_iterations:
            raise UserError(
                f'{split}_dataloader: the epochs of {sampler.__name__} never end, and {split}_cfg runs whole epochs: '
                'take DefaultSampler' + (', or IterBasedTrainLoop with max_iters' if split == 'train' else '')
            )
        for scheduler in as_list(cfg.get('param_scheduler')) if issubclass(loop, IterBasedTrainLoop) else ():
            by_epoch = scheduler.get('by_epoch', True) and not scheduler.get('convert_to_iter_based')
            if by_epoch and not type_of(scheduler)[1].startswith('ReduceOnPlateau'):
                raise UserError(
                    f'param_scheduler: {type_of(scheduler)[1]} counts epochs, and {loop.__name__} has none, so that it '
                    'would never take a step: set by_epoch=False, and begin and end in iterations'
                )


ENDLESS = (InfiniteSampler, MultiSourceSampler)
BY_EPOCH = {True: 'EpochBasedTrainLoop', False: 'IterBasedTrainLoop'}


def _type(part: Any, registry: Registry, default: str) -> Any:
    """Return the class of a part of a config; ``object`` if it is none."""
    name = (part or {}).get('type', default)
    kind = find_type(name, (part or {}).get('_scope_'), (registry,)) if isinstance(name, str) else name
    return kind if inspect.isclass(kind) else object


ITEMS = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')
RECALLS = ('AR@100', 'AR@300', 'AR@1000', 'AR_s@1000', 'AR_m@1000', 'AR_l@1000')


def check_metrics(cfg: Config) -> None:
    """Raise UserError if a hook or schedule looks at a metric that the validation does not compute.

    Nothing is checked where a metric or hook of another package may add it.
    """
    hooks = [*(cfg.get('default_hooks') or {}).values(), *as_list(cfg.get('custom_hooks'))]
    watched = [('save_best', key) for hook in hooks if hook for key in as_list(hook.get('save_best'))]
    for part in (*hooks, *as_list(cfg.get('param_scheduler'))):
        name = type_of(part or {})[1]
        if name == 'EarlyStoppingHook' or name.startswith('ReduceOnPlateau'):
            watched.append((f'{name}.monitor', part.get('monitor', 'loss')))
    evaluators = evaluators_of(cfg, 'val')
    kinds = [type_of(evaluator)[1] for evaluator in evaluators]
    hook_types = [_type(hook, HOOKS, '') for hook in hooks if hook]
    is_known = all(kind.__module__.split('.')[0] in ('mmengine', 'mmdet', 'mmdet_edge') for kind in hook_types)
    if not is_known or not {*kinds} <= {'CocoMetric', 'CocoBoundaryMetric'}:
        return
    keys = [key for evaluator in evaluators for key in _keys(evaluator)]
    has_branch = any(kind.__name__ == 'MaskBranchEvalHook' for kind in hook_types)
    keys += ['mask_branch/mIoU'] if has_branch else []
    for where, key in watched:
        is_there = key in ('auto', *keys) or (has_branch and key.startswith('mask_branch/'))
        is_there |= key.endswith('_precision') and any(evaluator.get('classwise') for evaluator in evaluators)
        if not is_there:
            raise UserError(
                f'{where}={key!r}: the validation has no such metric; it has {", ".join(keys) or "none at all"}'
            )


def _keys(evaluator: Any) -> Iterator[str]:
    """Yield the metrics of a CocoMetric."""
    items = evaluator.get('metric_items')
    prefix = evaluator.get('prefix') or 'coco'
    for metric in [] if evaluator.get('format_only') else as_list(evaluator.get('metric', 'bbox')):
        if metric == 'proposal_fast':
            yield from (f'{prefix}/AR@{number}' for number in evaluator.get('proposal_nums', (100, 300, 1000)))
        elif metric == 'proposal':
            yield from (f'{prefix}/{item}' for item in items or RECALLS)
        else:
            yield from (f'{prefix}/{metric}_{item}' for item in items or ITEMS)


def check_amp(cfg: Config) -> None:
    """Raise UserError if mixed precision is on and there is no accelerator: mmengine wants one for it."""
    if type_of(cfg.optim_wrapper)[1] == 'AmpOptimWrapper' and get_device() == 'cpu':
        raise UserError(
            f'mixed precision needs a GPU, and torch {torch.__version__} sees none: leave out --amp, or use the '
            'config without amp'
        )
