"""Checks of the data sets of a config: files, annotations, and how splits and metrics fit each other."""

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

import PIL.Image
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS, TRANSFORMS
from mmengine import list_from_file
from mmengine.config import Config, ConfigDict

from mmdet_edge.config.datasets import evaluators_of, inner_datasets, loading_step, loads_masks
from mmdet_edge.errors import UserError

from .annotations import Report, Size, Use, check_annotations
from .paths import exists, is_local

ORIENTATION = 0x0112
"""Number of the EXIF entry that says how an image is to be turned; from 5 on, height and width change places."""


def check_data(cfg: Config, splits: Sequence[str]) -> None:
    """Check that the files of the data sets are there, and what the annotation files say.

    Each annotation file is read once; warnings go to the standard error.

    Args:
        cfg (Config): The config.
        splits (Sequence[str]): Of 'train', 'val', 'test', those that will run.

    Raises:
        UserError: At the first folder or file that is missing, or annotation file with errors.
    """
    uses: dict[str, list[Use]] = {}
    for split in splits:
        for dataset in inner_datasets((cfg.get(f'{split}_dataloader') or {}).get('dataset')):
            _check_paths(dataset, f'{split}_dataloader')
            for path, use in uses_of(dataset, split):
                uses.setdefault(path, []).append(use)
        for evaluator in evaluators_of(cfg, split):
            ann_file = None if evaluator.get('backend_args') else evaluator.get('ann_file')
            if ann_file and not exists('', ann_file, Path.is_file):
                raise _missing('annotation file', ann_file, f'{split}_evaluator')
    for path, its_uses in uses.items():
        _print(check_annotations(path, its_uses))


def _print(report: Report) -> None:
    for text in report.warnings:
        print(f'warning: {text}', file=sys.stderr)
    if report.errors:
        raise UserError('\nerror: '.join(report.errors))


def _check_paths(dataset: ConfigDict, where: str) -> None:
    """Check that the files and folders of a data set are there."""
    if dataset.get('backend_args'):
        return
    root = dataset.get('data_root') or ''
    for key, value in (('data_root', root), ('ann_file', dataset.get('ann_file') or '')):
        if not isinstance(value, str):
            raise UserError(
                f'{where}: {key} must be one path, got {value!r}; several files are data sets of a ConcatDataset'
            )
    if is_local(root) and not Path(root).is_dir():
        raise _missing('data root', root, where)
    if dataset.get('ann_file') and not exists(root, dataset.ann_file, Path.is_file):
        raise _missing('annotation file', Path(root, dataset.ann_file), where)
    for prefix in (dataset.get('data_prefix') or {}).values():
        if not exists(root, prefix or ''):
            raise _missing('image folder', Path(root, prefix), where)


def _missing(what: str, path: Any, where: str) -> UserError:
    return UserError(
        f'{what} not found: {path} ({where} of the config). Put the data there or name its place with '
        '--cfg-options data_root=FOLDER'
    )


def uses_of(dataset: ConfigDict, split: str) -> Iterator[tuple[str, Use]]:
    """Yield the annotation file of a data set and what it makes of it, unless it reads it in a way of its own."""
    where = f'{split}_dataloader'
    kind = DATASETS.get(dataset['type']) if isinstance(dataset['type'], str) else dataset['type']
    if kind is None:
        raise UserError(f'{where}: {dataset["type"]} is not a data set that mmdet or a custom import has registered')
    root, ann_file = dataset.get('data_root') or '', dataset.get('ann_file')
    if dataset.get('backend_args') or not ann_file or not is_local(root) or not is_local(ann_file):
        return
    if getattr(kind, 'parse_data_info', None) is not CocoDataset.parse_data_info:
        return
    classes, folder = None, None
    # LVIS and the like have names for files and an order of classes of their own.
    if kind.load_data_list is CocoDataset.load_data_list:
        classes = _classes_of(dataset, kind, where)
        folder = os.path.join(root, (dataset.get('data_prefix') or {}).get('img') or '')
    filters = dataset.get('filter_cfg') or {}
    loads = loading_step(dataset, 'LoadAnnotations')
    yield (
        os.path.join(root, ann_file),
        Use(
            where,
            classes,
            folder,
            size_of=_Sizes(loading_step(dataset, 'LoadImageFromFile')),
            is_training=split == 'train',
            # mmdet trains on images without objects, as those without labels are, unless it is told to leave them out.
            needs_objects=split == 'train' and bool(filters.get('filter_empty_gt')),
            with_masks=bool(loads_masks(dataset)),
            poly2mask=bool((loads or {}).get('poly2mask', True)),
            min_size=filters.get('min_size', 0),
        ),
    )


def _classes_of(dataset: ConfigDict, kind: Any, where: str) -> Optional[tuple[str, ...]]:
    """Return the classes of a data set; None if it has no names for them."""
    classes = (dataset.get('metainfo') or {}).get('classes', kind.METAINFO.get('classes'))
    if isinstance(classes, str) and not Path(classes).is_file():
        raise UserError(f'{where}: the classes of the config must be a list of names, got the text {classes!r}')
    return tuple(list_from_file(classes) if isinstance(classes, str) else classes or ()) or None


class _Sizes:
    """Returns the size with which a pipeline loads an image file.

    Args:
        step (ConfigDict, optional): The step that loads images.
    """

    def __init__(self, step: Optional[ConfigDict]) -> None:
        self.step = step

    def __call__(self, path: Path) -> Optional[Size]:
        try:
            with warnings.catch_warnings():
                # About very large images, which are not decoded here.
                warnings.simplefilter('ignore')
                with PIL.Image.open(path) as image:
                    width, height = image.size
                    is_turned = image.getexif().get(ORIENTATION, 1) >= 5
            if not is_turned or self.step is None:
                return None if is_turned else (height, width)
            # Whether EXIF counts depends on the backend and its flags.
            height, width = TRANSFORMS.build(self.step)(dict(img_path=str(path)))['img'].shape[:2]
            return height, width
        except (OSError, PIL.Image.DecompressionBombError):
            # Not of a kind that Pillow reads.
            return None
