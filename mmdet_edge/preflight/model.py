"""Building a model before anything else happens, to find what its config and a checkpoint do not agree about."""

import copy
import pickle
import re
import traceback
from typing import Any, Optional

import torch
from mmdet.models.roi_heads.mask_heads import FCNMaskHead, HTCMaskHead
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from mmdet_edge.config.datasets import inner_datasets, loads_masks

SHOWN = 3
"""Names that a message lists."""


def build_model(cfg: Config) -> nn.Module:
    """Build the model of a config, and check that its parts fit each other and the data.

    Args:
        cfg (Config): The config.

    Returns:
        nn.Module: The model, as mmengine would build it, without pretrained weights.

    Raises:
        ValueError: If it cannot be built, or a mask head does not fit ``train_cfg.rcnn.mask_size``, the classes of the
            training data or what its pipeline loads; the message says where and why.
    """
    if 'model' not in cfg:
        raise ValueError('the config has no model')
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    try:
        # A copy: what is built takes keys out of its config.
        model = MODELS.build(copy.deepcopy(cfg.model))
    except Exception as error:
        # Whatever a constructor raises; registries put the names of the classes before it. mmdet's assertions have no
        # text: then the line is told.
        root: BaseException = error
        while root.__context__ is not None:
            root = root.__context__
        line = '' if f'{root}' else traceback.extract_tb(root.__traceback__)[-1].line
        raise ValueError(f'the model cannot be built: {_one_line(error)} {line}'.rstrip()) from error
    roi_head = getattr(model, 'roi_head', None)
    if roi_head is not None:
        with_mask = getattr(roi_head, 'with_mask', False)
        for dataset in inner_datasets((cfg.get('train_dataloader') or {}).get('dataset')):
            _check_classes(roi_head, dataset)
            if with_mask and loads_masks(dataset) is False:
                raise ValueError(
                    'the model has a mask head, but the training data come without masks: set with_mask=True of '
                    'LoadAnnotations in the pipeline of train_dataloader, or mask_head=None in roi_head'
                )
        if with_mask:
            _check_masks(roi_head)
    return model


def _check_classes(roi_head: Any, dataset: Any) -> None:
    kind = DATASETS.get(dataset['type']) if isinstance(dataset.get('type'), str) else dataset.get('type')
    classes = {**getattr(kind, 'METAINFO', {}), **(dataset.get('metainfo') or {})}.get('classes')
    if not isinstance(classes, (list, tuple)):
        return
    for name in ('bbox_head', 'mask_head'):
        for head in _as_list(getattr(roi_head, name, None)):
            number = getattr(head, 'num_classes', len(classes))
            if number < len(classes) and not getattr(head, 'class_agnostic', False):
                raise ValueError(
                    f'{name} has num_classes={number}, but the training data have {len(classes)} classes: set '
                    'num_classes of bbox_head and mask_head, or metainfo=dict(classes=...) of the data set'
                )


def _check_masks(roi_head: Any) -> None:
    extractors, settings = _as_list(roi_head.mask_roi_extractor), _as_list(roi_head.train_cfg)
    for stage, head in enumerate(heads := _as_list(roi_head.mask_head)):
        # Others, and a shared head before it, have sizes of their own.
        is_usual = type(head).forward in (FCNMaskHead.forward, HTCMaskHead.forward) and not roi_head.with_shared_head
        setting: Any = settings[min(stage, len(settings) - 1)] if settings else {}
        if not is_usual or 'mask_size' not in setting:
            continue
        features = extractors[min(stage, len(extractors) - 1)].roi_layers[0].output_size[0]
        size = features * (head.scale_factor if head.upsample_method else 1)
        wanted = setting.mask_size if isinstance(setting.mask_size, int) else tuple(setting.mask_size)
        if wanted not in (size, (size, size)):
            where = f'mask head {stage}' if len(heads) > 1 else 'the mask head'
            raise ValueError(
                f'{where} predicts {size}x{size} masks, but train_cfg.rcnn.mask_size is {setting.mask_size}: make them '
                'equal'
            )


def _as_list(part: Any) -> list:
    if part is None:
        return []
    return list(part) if isinstance(part, (nn.ModuleList, list, tuple)) else [part]


def read_checkpoint(path: str) -> dict[str, Any]:
    """Read the checkpoint of a model into main memory, without running what it may hold.

    Args:
        path (str): Path or address.

    Returns:
        dict[str, Any]: As mmengine writes it, with ``state_dict``; that of a bare state dict too.

    Raises:
        ValueError: If it cannot be loaded, or has no weights; the message says why.
    """
    content = _load(path)
    if isinstance(content, dict):
        content = content if 'state_dict' in content else dict(state_dict=content)
        weights = content['state_dict']
        if isinstance(weights, dict) and any(isinstance(value, torch.Tensor) for value in weights.values()):
            return content
    raise ValueError(f'{path} is not a checkpoint of a model: it has no state_dict with weights')


def check_weights(path: str, model: Optional[nn.Module] = None, whole: bool = True) -> None:
    """Check that a file is a checkpoint that can be loaded without running it, and that it fits a model.

    Args:
        path (str): A file on this machine.
        model (nn.Module, optional): The model to fit; takes the weights. Defaults to None: not compared.
        whole (bool): Whether the model needs all of its weights, as for a test. To train on, one is enough. Defaults to
            True.

    Raises:
        ValueError: If it cannot be loaded, or does not fit; the message says why.
    """
    if model is None:
        _load(path)
        return
    weights = {re.sub(r'^module\.', '', key): value for key, value in read_checkpoint(path)['state_dict'].items()}
    try:
        # Loaded, not compared by name: a model may rename what it is given, as those that learn from a teacher do.
        missing = model.load_state_dict(weights, strict=False).missing_keys
    except RuntimeError as error:
        # The name fits, the shape does not.
        if not whole:
            return
        raise ValueError(
            f'{path} does not fit the model, as if of other classes or another config: {_one_line(error)}'
        ) from None
    if {name for name, _ in model.named_parameters()} <= set(missing):
        raise ValueError(
            f'nothing in {path} fits the model ({type(model).__name__}); it has {_some(sorted(weights))}: it is of '
            'another architecture'
        )
    if whole and missing:
        raise ValueError(
            f'{path} lacks {len(missing)} of the {len(model.state_dict())} weights of the model: {_some(missing)}. '
            'It is of another architecture, or of a part of the model'
        )


def _load(path: str) -> Any:
    try:
        return CheckpointLoader.load_checkpoint(path, map_location='cpu', logger='silent')
    except pickle.UnpicklingError as error:
        raise ValueError(
            f'{path} is not a checkpoint, or holds more than weights and numbers, which could run code; nothing of it '
            f'was run ({_reason(error)})'
        ) from None
    except Exception as error:
        raise ValueError(
            f'{path} cannot be loaded: cut off, damaged or not a checkpoint ({_one_line(error)})'
        ) from None


def _some(names: list[str]) -> str:
    return ', '.join(names[:SHOWN]) + (', ...' if len(names) > SHOWN else '')


def _one_line(error: BaseException) -> str:
    text = ' '.join(f'{error}'.split()) or type(error).__name__
    return text if len(text) < 500 else f'{text[:500]}...'


def _reason(error: BaseException) -> str:
    """Return what torch's long message says at its core."""
    found = re.search(r'(?:Unsupported|Trying|Can only|a checkpoint may)[^\n]*', f'{error}')
    return (found.group() if found else _one_line(error)).split(' was not an allowed')[0]
