"""Building a model before anything else happens, to find what its config and a checkpoint do not agree about."""

import copy
import traceback
from collections.abc import Sequence
from typing import Any

from mmdet.models.roi_heads.mask_heads import FCNMaskHead, HTCMaskHead
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.model import BaseTTAModel
from mmengine.registry import init_default_scope
from torch import nn

from mmdet_edge.config.datasets import datasets_of, loads_masks
from mmdet_edge.config.types import as_list
from mmdet_edge.errors import UserError, one_line


def build_model(cfg: Config, splits: Sequence[str] = ()) -> nn.Module:
    """Build the model of a config as mmengine would, without pretrained weights; check that its parts fit the data.

    ``splits`` are those of 'val' and 'test' whose data it must fit beside the training data.

    Raises:
        UserError: If it cannot be built, or a mask head does not fit ``train_cfg.rcnn.mask_size``, the classes of the
            training data or what its pipeline loads; the message says where and why.
    """
    if 'model' not in cfg:
        raise UserError('the config has no model')
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    try:
        # A copy: what is built takes keys out of its config.
        model = MODELS.build(copy.deepcopy(cfg.model))
    except Exception as error:
        # A constructor can raise anything; registries prepend the names of the classes. mmdet's assertions have no
        # text: report the line of code instead.
        root: BaseException = error
        while root.__context__ is not None:
            root = root.__context__
        line = '' if f'{root}' else traceback.extract_tb(root.__traceback__)[-1].line
        raise UserError(f'the model cannot be built: {one_line(error)} {line}'.rstrip()) from error
    # What augments at test time has the model inside.
    roi_head = getattr(model.module if isinstance(model, BaseTTAModel) else model, 'roi_head', None)
    if roi_head is not None:
        for split in dict.fromkeys(('train', *splits)):
            for dataset in datasets_of(cfg, split):
                _check_classes(roi_head, dataset, DATA[split])
        with_mask = getattr(roi_head, 'with_mask', False)
        if with_mask and any(loads_masks(dataset) is False for dataset in datasets_of(cfg, 'train')):
            raise UserError(
                'the model has a mask head, but the training data come without masks: set with_mask=True of '
                'LoadAnnotations in the pipeline of train_dataloader, or mask_head=None in roi_head'
            )
        if with_mask:
            _check_masks(roi_head)
    return model


DATA = {'train': 'training', 'val': 'validation', 'test': 'test'}


def _check_classes(roi_head: Any, dataset: Any, what: str) -> None:
    kind = DATASETS.get(dataset['type']) if isinstance(dataset.get('type'), str) else dataset.get('type')
    given = {**getattr(kind, 'METAINFO', {}), **(dataset.get('metainfo') or {})}
    # Of panoptic data, a RoI head predicts the things.
    classes = given.get('thing_classes') or given.get('classes')
    if not isinstance(classes, (list, tuple)):
        return
    for name in ('bbox_head', 'mask_head'):
        for head in _stages(getattr(roi_head, name, None)):
            number = getattr(head, 'num_classes', len(classes))
            if number != len(classes) and not getattr(head, 'class_agnostic', False):
                raise UserError(
                    f'{name} has num_classes={number}, but the {what} data have {len(classes)} classes: set '
                    'num_classes of bbox_head and mask_head, or metainfo=dict(classes=...) of the data set'
                )


def _check_masks(roi_head: Any) -> None:
    extractors, settings = _stages(roi_head.mask_roi_extractor), _stages(roi_head.train_cfg)
    for stage, head in enumerate(heads := _stages(roi_head.mask_head)):
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
            raise UserError(
                f'{where} predicts {size}x{size} masks, but train_cfg.rcnn.mask_size is {setting.mask_size}: make them '
                'equal'
            )


def _stages(part: Any) -> list:
    """Return the modules or settings of each stage of a RoI head; those of one without stages as the only ones."""
    return list(part) if isinstance(part, nn.ModuleList) else as_list(part)
