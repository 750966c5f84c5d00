"""The config of one run of a benchmark."""

import copy
import inspect
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmdet.registry import MODELS
from mmengine.config import Config

from mmdet_edge.config.edge import EDGE_TWINS
from mmdet_edge.config.types import type_of
from mmdet_edge.errors import UserError
from mmdet_edge.models.mask_heads.edge_agreement_mixin import DEFAULT_LOSS_EDGE
from mmdet_edge.paths import get_config_path

from .results import RunKey
from .spec import OBSERVING_HOOKS, Spec

KEPT_SECTIONS = (
    *('default_scope', 'train_cfg', 'val_cfg', 'param_scheduler', 'optim_wrapper', 'randomness', 'env_cfg'),
    'log_level',
)
"""Sections that a mask-branch run takes over from the config of the detector."""


def make_run_config(spec: Spec, key: RunKey, cfg_options: dict) -> Config:
    """Build the config of a run, free of paths of this machine.

    Args:
        spec (Spec): The benchmark.
        key (RunKey): The run.
        cfg_options (dict): Options for all runs.

    Returns:
        Config: Complete except for ``work_dir`` and, with the protocol 'mask-branch', the folder of the RoI features
            (see :func:`place_features`).

    Raises:
        UserError: If the options do not fit the config, the budget does not fit the schedule, or mask heads alone
            would be trained by epochs.
    """
    setting = spec.settings[key.setting]
    cfg = _read(setting.get('config', spec.config))
    # Merged separately: a dict and a dotted option for the same key would overwrite each other.
    _merge(cfg, cfg_options)
    _merge(cfg, setting.get('cfg_options', {}))
    cfg.randomness = dict(seed=key.seed)
    if key.learning_rate is not None:
        cfg.optim_wrapper.optimizer.lr = key.learning_rate
    if key.budget is not None:
        set_budget(cfg, key.budget)
    _write_out_defaults(cfg)
    return _mask_branch_config(cfg, spec) if spec.protocol == 'mask-branch' else cfg


def _write_out_defaults(cfg: Config) -> None:
    """Write the defaults of edge heads into the config: a later default must not pass for this one."""
    heads = cfg.get('model', {}).get('roi_head', {}).get('mask_head', [])
    for head in heads if isinstance(heads, (list, tuple)) else [heads]:
        if type_of(head)[1] in EDGE_TWINS.values():
            head.setdefault('loss_edge', dict(DEFAULT_LOSS_EDGE))
            default = inspect.signature(MODELS.get(type_of(head)[1]).__init__).parameters['feature_grad_scale'].default
            head.setdefault('feature_grad_scale', default)


def make_detector_config(spec: Spec, cfg_options: dict) -> Config:
    """Build the config of the detector whose RoI features are cached: the baseline, unchanged.

    Args:
        spec (Spec): The benchmark.
        cfg_options (dict): Options for all runs.

    Returns:
        Config: Complete except for ``work_dir``.
    """
    cfg = _read(spec.config)
    _merge(cfg, cfg_options)
    return cfg


@lru_cache
def _parse(name: str) -> dict:
    """Read a packaged config once; mmengine takes a tenth of a second for each."""
    return Config.fromfile(get_config_path(name)).to_dict()


def _read(name: str) -> Config:
    return Config(copy.deepcopy(_parse(name)))


def _merge(cfg: Config, options: Mapping[str, Any]) -> None:
    """Merge a copy of the options: merging takes out every _delete_."""
    try:
        cfg.merge_from_dict(copy.deepcopy(dict(options)))
    except (KeyError, TypeError) as error:
        raise UserError(f'options {dict(options)} do not fit the config: {error}') from None


def set_budget(cfg: Config, budget: int) -> None:
    """Shorten or lengthen an iteration-based schedule; evaluate, and save a checkpoint, at its end only.

    A warm-up keeps its length; what lasts to the end of the old schedule lasts to the end of the new one. A run that is
    shorter than the interval of the log is logged at its end.

    Args:
        cfg (Config): Changed in place.
        budget (int): Training iterations.

    Raises:
        UserError: If the config trains by epochs, or the warm-up or a milestone lies beyond the budget.
    """
    old = cfg.train_cfg.get('max_iters')
    if old is None:
        raise UserError(f'a budget in iterations needs a config that trains by iterations, got {dict(cfg.train_cfg)}')
    for scheduler in cfg.param_scheduler:
        if scheduler.get('end') == old:
            scheduler.end = budget
        last = max([scheduler.get('end', 0), *scheduler.get('milestones', [])])
        if scheduler.get('begin', 0) >= budget or last > budget:
            raise UserError(f'a budget of {budget} iterations is too short for {dict(scheduler)}')
    cfg.train_cfg.max_iters = cfg.train_cfg.val_interval = budget
    # More evaluations at certain iterations of the old schedule.
    cfg.train_cfg.pop('dynamic_intervals', None)
    if cfg.default_hooks.get('logger'):
        # A run without a logged iteration has no result.
        cfg.default_hooks.logger.interval = min(cfg.default_hooks.logger.get('interval', 10), budget)
    if cfg.default_hooks.get('checkpoint'):
        cfg.default_hooks.checkpoint.interval = budget


def _mask_branch_config(cfg: Config, spec: Spec) -> Config:
    """Keep the mask head and the schedule of a config, and replace the rest by cached RoI features."""
    iterations = cfg.train_cfg.get('max_iters')
    if iterations is None:
        # The sampler of the RoIs never ends, nor would an epoch.
        raise UserError(f'mask heads alone are trained by iterations, got {dict(cfg.train_cfg)}')
    imports = cfg.get('custom_imports', {}).get('imports', [])
    imports = [imports] if isinstance(imports, str) else list(imports)
    loader = dict(num_workers=0, dataset=dict(type='RoIFeatureDataset'), collate_fn=dict(type='default_collate'))
    return Config(
        {
            **{name: cfg[name] for name in KEPT_SECTIONS if name in cfg},
            'custom_imports': dict(imports=[*imports, 'benchmarks.convergence'], allow_failed_imports=False),
            # Not read by the runner: what the RoI features are is part of what a result was made with.
            'roi_features': dict(config=spec.config, **spec.features),
            'model': dict(type='MaskBranch', mask_head=cfg.model.roi_head.mask_head),
            'train_dataloader': dict(
                loader,
                batch_size=int(spec.features['batch_size']),
                sampler=dict(type='InfiniteSampler', shuffle=True),
            ),
            'val_dataloader': dict(
                loader, batch_size=256, drop_last=False, sampler=dict(type='DefaultSampler', shuffle=False)
            ),
            'val_evaluator': dict(type='MaskBranchMetric'),
            'custom_hooks': _training_hooks(cfg),
            'default_hooks': dict(
                timer=dict(type='IterTimerHook'),
                logger=dict(type='LoggerHook', interval=min(10, iterations)),
                param_scheduler=dict(type='ParamSchedulerHook'),
                sampler_seed=dict(type='DistSamplerSeedHook'),
                checkpoint=None,
            ),
            'log_processor': dict(type='LogProcessor', window_size=10, by_epoch=False),
        }
    )


def _training_hooks(cfg: Config) -> list[dict]:
    """Return the hooks that change the training, such as a schedule of the weight of a loss."""
    return [hook for hook in cfg.get('custom_hooks', []) if type_of(hook)[1] not in OBSERVING_HOOKS]


def without_evaluation(cfg: Config) -> Config:
    """Return the config of a training run that only trains: without evaluations and the hooks that observe it.

    Args:
        cfg (Config): Stays as it is.

    Returns:
        Config: A copy.
    """
    cfg = Config(cfg.to_dict())
    cfg.update(val_dataloader=None, val_evaluator=None, val_cfg=None, custom_hooks=_training_hooks(cfg))
    return cfg


def place_features(cfg: Config, folder: Path) -> None:
    """Set the folder of the cached RoI features in the config of a mask-branch run."""
    cfg.train_dataloader.dataset.data_root = str(folder / 'train')
    cfg.val_dataloader.dataset.data_root = str(folder / 'val')


def place_pretrained(cfg: Config, file: str) -> None:
    """Let the backbone start from a file instead of the URL that its config names.

    Args:
        cfg (Config): Config of a detector; changed in place.
        file (str): The same weights, or others of the same architecture.

    Raises:
        UserError: If the backbone does not start from pretrained weights.
    """
    if not (cfg.model.backbone.get('init_cfg') or {}).get('checkpoint'):
        raise UserError(f'--pretrained {file}: the backbone {cfg.model.backbone.type} has no pretrained weights')
    cfg.model.backbone.init_cfg.checkpoint = file
