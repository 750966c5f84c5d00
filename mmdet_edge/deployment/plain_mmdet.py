"""A trained model as config and checkpoint of plain MMDetection."""

import inspect
import os
import tempfile
from pathlib import Path
from typing import Any

import mmdet.registry
import numpy as np
import torch
from mmdet.evaluation import CocoMetric
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import Registry

from mmdet_edge.config.edge import EDGE_OPTIONS
from mmdet_edge.config.types import as_list
from mmdet_edge.models import EdgeLoss, SumMaskLoss
from mmdet_edge.models.mask_heads.edge_agreement_mixin import EdgeAgreementMixin
from mmdet_edge.preflight.checkpoint import read_checkpoint

from .strict_loading import load_strictly

PACKAGE = __name__.partition('.')[0]
# Keys that describe a run, not a model.
RUN_KEYS = ('launcher', 'load_from', 'resume', 'work_dir')


def export_plain_mmdet(cfg: Config, checkpoint: str, out: str | Path) -> None:
    """Write the folder ``out`` with config.py and weights.pth, for MMDetection without this package.

    The folder appears complete or not at all: the plain model is built from the written config, and the weights are
    loaded strictly, before it gets its name.

    Args:
        cfg (Config): Config that the model was trained with.
        checkpoint (str): Path or URL of its checkpoint.
        out (str | Path): Folder to write; it must not exist yet.

    Raises:
        FileExistsError: If ``out`` exists.
        TypeError: If the meta data of the checkpoint's data set have types other than numbers and names.
        ValueError: If the config has a type of this package that plain MMDetection has no counterpart of; if the
            checkpoint cannot be read or is refused as unsafe (torch 2.6 and newer), or the two do not fit.
    """
    out = Path(out)
    if out.exists():
        raise FileExistsError(f'{out} exists, and nothing is overwritten: remove it or name another folder')
    plain = to_plain_config(cfg)
    weights = to_plain_checkpoint(read_checkpoint(checkpoint))
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{out.name}.', dir=out.parent) as scratch:
        folder = Path(scratch, out.name)
        folder.mkdir()
        plain.dump(folder / 'config.py')
        torch.save(weights, folder / 'weights.pth')
        load_strictly(Config.fromfile(folder / 'config.py'), checkpoint, weights['state_dict'])
        os.rename(folder, out)


def to_plain_config(cfg: Config) -> Config:
    """Return a config without this package.

    Edge heads become the heads that they are derived from, edge losses in ``loss_mask`` plain ones, and
    ``CocoBoundaryMetric`` becomes ``CocoMetric``; hooks and imports of this package, and keys that describe a run (work
    dir, checkpoint to load, ...) are left out. Predictions stay the same; further training has no edge loss.

    Args:
        cfg (Config): The config; its ``custom_imports`` must be imported, as ``Config.fromfile`` does.

    Returns:
        Config: A changed copy.

    Raises:
        ValueError: If it has a type of this package, or derived from one, that plain MMDetection has no counterpart of.

    Example:
        >>> cfg = Config(dict(model=dict(mask_head=dict(type='EdgeAgreementMaskHead', loss_edge=dict(exponent=1)))))
        >>> to_plain_config(cfg).model.mask_head
        {'type': 'FCNMaskHead'}
    """
    content = {key: value for key, value in cfg.to_dict().items() if key not in RUN_KEYS}
    imports = content.pop('custom_imports', None)
    if imports:
        others = [name for name in as_list(imports['imports']) if name.partition('.')[0] != PACKAGE]
        if others:
            content['custom_imports'] = {**imports, 'imports': others}
    return Config(_to_plain(content, '', _our_classes()), filename=cfg.filename)


def to_plain_checkpoint(checkpoint: dict) -> dict:
    """Return what inference needs of a checkpoint, in types that ``torch.load`` considers safe.

    Args:
        checkpoint (dict): As mmengine writes it.

    Returns:
        dict: ``state_dict``, and ``meta`` with ``dataset_meta`` (names and colors of the classes) if it is there.

    Raises:
        TypeError: If the meta data have types other than numbers and names.
    """
    plain: dict[str, Any] = dict(state_dict=checkpoint['state_dict'])
    dataset_meta = (checkpoint.get('meta') or {}).get('dataset_meta')
    if dataset_meta is not None:
        plain['meta'] = dict(dataset_meta=_to_builtins(dataset_meta))
    return plain


def _is_ours(cls: type) -> bool:
    """Return whether a class needs this package."""
    return any(base.__module__.partition('.')[0] == PACKAGE for base in cls.__mro__)


def _our_classes() -> dict[str, type]:
    """Return all registered classes that need this package, by name."""
    registries = [value for value in vars(mmdet.registry).values() if isinstance(value, Registry)]
    return {
        name: cls
        for registry in registries
        for name, cls in registry.module_dict.items()
        if isinstance(cls, type) and _is_ours(cls)
    }


def _class_of(cfg: Any, ours: dict[str, type]) -> type | None:
    """Return the class that a config names, if it needs this package."""
    given = cfg.get('type') if isinstance(cfg, dict) else None
    if isinstance(given, str):
        # A scope, or the path of the module, may precede it.
        cls = ours.get(given.rpartition('.')[2])
        if cls is None and given.startswith(f'{PACKAGE}.'):
            raise ValueError(f'{PACKAGE} has no {given}, which the config names as a type')
        return cls
    return given if isinstance(given, type) and _is_ours(given) else None


def _to_plain(value: Any, where: str, ours: dict[str, type]) -> Any:
    """Return a copy of any part of a config, such as that at 'model.roi_head.mask_head', with all of ours replaced."""
    if isinstance(value, (list, tuple)):
        items = [(f'{where}.{index}', item) for index, item in enumerate(value) if not _is_hook(item, ours)]
        return type(value)(_to_plain(item, name, ours) for name, item in items)
    if not isinstance(value, dict):
        return value
    cls = _class_of(value, ours)
    if cls is not None:
        # The counterpart may have parts of ours itself.
        return _to_plain(_counterpart(cls, value, where, ours), where, ours)
    items = [(key, item) for key, item in value.items() if not _is_hook(item, ours)]
    return {key: _to_plain(item, f'{where}.{key}'.lstrip('.'), ours) for key, item in items}


def _is_hook(value: Any, ours: dict[str, type]) -> bool:
    cls = _class_of(value, ours)
    return cls is not None and issubclass(cls, Hook)


def _counterpart(cls: type, cfg: dict, where: str, ours: dict[str, type]) -> dict:
    """Return the config of plain MMDetection's counterpart of one of our types."""
    if issubclass(cls, EdgeAgreementMixin):
        parent = next(base for base in cls.__mro__ if not _is_ours(base))
        ours_first = cls.__mro__[: cls.__mro__.index(parent)]
        overridden = {name for c in ours_first for name in vars(c) if inspect.isfunction(getattr(parent, name, None))}
        if MODELS.get(parent.__name__) is parent and overridden <= {'__init__', 'loss_and_target'}:
            rest = {key: value for key, value in cfg.items() if key not in ('type', *EDGE_OPTIONS)}
            return {'type': parent.__name__, **rest}
    # MaskFormer's loss_dice is its mask loss on maps.
    if where.endswith(('.loss_mask', '.loss_dice')) and issubclass(cls, (EdgeLoss, SumMaskLoss)):
        others = [loss for loss in cfg.get('losses', []) if _class_of(loss, ours) is None]
        return others[0] if len(others) == 1 else dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0)
    if issubclass(cls, CocoMetric):
        metrics = as_list(cfg.get('metric', 'bbox'))
        known = inspect.signature(CocoMetric).parameters
        rest = {key: value for key, value in cfg.items() if key in known or key == '_scope_'}
        return {'type': 'CocoMetric', **rest, 'metric': [name for name in metrics if name != 'boundary'] or ['segm']}
    raise ValueError(
        f'{where}: {cls.__name__} needs {PACKAGE}, and nothing in plain MMDetection does the same; remove it from the '
        'config, or replace it'
    )


def _to_builtins(value: Any) -> Any:
    """Return meta data with NumPy's types converted to Python's."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, dict):
        return {key: _to_builtins(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_to_builtins(item) for item in value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f'expected numbers and names as meta data of the data set, got {type(value).__name__}: {value!r}')
