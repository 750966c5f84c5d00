"""Checks of the data sets of a config: files, annotations, and how splits and metrics fit each other."""

import functools
import importlib.util
import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import PIL.Image
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS, TRANSFORMS
from mmengine import list_from_file
from mmengine.config import Config, ConfigDict

from mmdet_edge.config.datasets import datasets_of, evaluators_of, loading_step, loads_masks
from mmdet_edge.config.types import as_list, type_of
from mmdet_edge.errors import UserError, some

from .annotations import Report, Size, Use, check_annotations
from .paths import exists, is_local

COCO_METRICS = ('CocoMetric', 'CocoBoundaryMetric')

ORIENTATION = 0x0112
"""Number of the EXIF entry that says how an image is to be turned; from 5 on, height and width change places."""


def check_data(cfg: Config, splits: Sequence[str], classes: Sequence[str] | None = None) -> None:
    """Check that the files of the data sets are there, what the annotation files say, and that they fit each other.

    Each annotation file is read once; warnings go to the standard error. ``splits`` are those of 'train', 'val', 'test'
    that will run; ``classes`` of the checkpoint are compared if they are given.

    Raises:
        UserError: At the first folder or file that is missing, or annotation file with errors; if the data sets do not
            have the same classes, nothing is left to train on, or a metric reads other images than it gets.
    """
    uses: dict[str, list[Use]] = {}
    for split in splits:
        loaders: list[tuple[str, Use]] = []
        for dataset in datasets_of(cfg, split):
            _check_paths(dataset, f'{split}_dataloader')
            loaders += uses_of(dataset, split)
        for path, use in [*loaders, *_uses_of_metrics(cfg, split, [use.classes for _, use in loaders])]:
            uses.setdefault(path, []).append(use)
    _check_agreement([use for its_uses in uses.values() for use in its_uses], classes)
    reports = [check_annotations(path, its_uses) for path, its_uses in uses.items()]
    for report in reports:
        for text in report.warnings:
            _warn(text)
        if report.errors:
            raise UserError('\nerror: '.join(report.errors))
    for split in splits:
        datasets = datasets_of(cfg, split)
        loaded = [report for report in reports if f'{split}_dataloader' in report.left_out]
        # Otherwise some are read in a way of their own.
        if loaded and len(loaded) == len({_path_of(dataset) for dataset in datasets}):
            if split == 'train':
                _check_left(loaded)
            evaluated = [report for report in reports if f'{split}_evaluator' in report.left_out]
            _check_images(split, datasets, loaded, evaluated)


def _check_agreement(uses: Sequence[Use], classes: Sequence[str] | None) -> None:
    """Check that all data sets have the classes of the training data, or of the checkpoint."""
    named = [(use.where, use.classes) for use in uses if use.classes]
    named = [('the checkpoint', tuple(classes)), *named] if classes else named
    for where, others in named[1:]:
        first, expected = named[0]
        moved = [name for name in others if name in expected and others.index(name) != expected.index(name)]
        if moved or len(others) != len(expected):
            what = f'{moved[0]!r} is another class there' if moved else f'{len(others)} instead of {len(expected)}'
            raise UserError(
                f'{where} has other classes than {first} ({what}): give all data sets the same '
                f'metainfo=dict(classes=...), in the same order; {some(others)} and {some(expected)}'
            )
        if others != expected:
            _warn(f'{where} has other names of classes than {first}: {some(others)} and {some(expected)}')


def _check_left(reports: Sequence[Report]) -> None:
    """Check that objects are left to train on."""
    total = sum(report.num_objects for report in reports)
    reasons = sum((report.left_out['train_dataloader'] for report in reports), Counter())
    left = total - sum(reasons.values())
    why = ', '.join(f'{number} {reason}' for reason, number in reasons.items()) or 'there are none'
    if not left:
        raise UserError(f'train_dataloader: none of {total} objects is left to train on: {why}')
    if left < total / 2:
        _warn(f'train_dataloader: {left} of {total} objects are left to train on: {why}')


def _uses_of_metrics(cfg: Config, split: str, classes: list) -> Iterator[tuple[str, Use]]:
    """Yield the ground truth of a split's CocoMetrics and its use; ``classes`` are those of each of its data sets."""
    where = f'{split}_evaluator'
    for evaluator in evaluators_of(cfg, split):
        ann_file = None if evaluator.get('backend_args') else evaluator.get('ann_file')
        if ann_file and not isinstance(ann_file, str):
            raise UserError(f'{where}: ann_file must be one path, got {ann_file!r}')
        if ann_file and not exists('', ann_file, Path.is_file):
            raise _missing('annotation file', ann_file, where)
        name = type_of(evaluator)[1]
        if not ann_file or not is_local(ann_file) or name not in COCO_METRICS or evaluator.get('format_only'):
            continue
        metrics = {*as_list(evaluator.get('metric', 'bbox'))}
        is_fast = name == 'CocoBoundaryMetric' and evaluator.get('backend') != 'pycocotools'
        yield (
            os.path.realpath(ann_file),
            Use(
                where,
                # What sorts the categories has an order of its own.
                classes[0] if classes and not evaluator.get('sort_categories') else None,
                with_masks=bool({'segm', 'boundary'} & metrics),
                metric=name,
                is_pycocotools=not (is_fast and importlib.util.find_spec('faster_coco_eval')),
            ),
        )


def _check_images(
    split: str, datasets: Sequence[ConfigDict], loaders: Sequence[Report], evaluators: Sequence[Report]
) -> None:
    """Check that the metrics of a split read the images that they get predictions for."""
    loaded = {number: image for report in loaders for number, image in report.images.items()}
    for report in evaluators:
        other = [number for number, image in loaded.items() if report.images.get(number) != image]
        if other:
            raise UserError(
                f'{split}_evaluator: {len(other)} of the {len(loaded)} images of {split}_dataloader are not in '
                f'{report.path}, or are other images there: {some(other)}. Give both the same ann_file'
            )
        number = sum(_length(part.get('indices'), len(loaded)) for part in datasets)
        if len(report.images) > min(number, len(loaded)):
            _warn(
                f'{split}_evaluator: {report.path} has {len(report.images)} images and {split}_dataloader gives '
                f'{min(number, len(loaded))}: the objects of the others count as never found'
            )
        objects = report.num_objects - sum(report.left_out[f'{split}_evaluator'].values())
        if not objects:
            _warn(f'{split}_evaluator: {report.path} has no objects to evaluate with, and every metric will be -1')


def _length(indices: Any, whole: int) -> int:
    """Return how many images of a data set ``indices`` choose."""
    if indices is None:
        return whole
    return min(abs(indices), whole) if isinstance(indices, int) else len(indices)


def _path_of(dataset: ConfigDict) -> str:
    return os.path.realpath(os.path.join(dataset.get('data_root') or '', dataset.get('ann_file') or ''))


def _warn(text: str) -> None:
    print(f'warning: {text}', file=sys.stderr)


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
    if not isinstance(dataset.get('data_prefix') or {}, dict):
        raise UserError(f'{where}: data_prefix must be a dict of folders, got {dataset.data_prefix!r}')
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
            size_of=functools.partial(_size_of, loading_step(dataset, 'LoadImageFromFile')),
            is_training=split == 'train',
            # mmdet trains on images without objects, such as unlabelled ones, unless filter_empty_gt removes them.
            needs_objects=split == 'train' and bool(filters.get('filter_empty_gt')),
            with_masks=bool(loads_masks(dataset)),
            poly2mask=bool((loads or {}).get('poly2mask', True)),
            min_size=filters.get('min_size', 0),
        ),
    )


def _classes_of(dataset: ConfigDict, kind: Any, where: str) -> tuple[str, ...] | None:
    """Return the classes of a data set; None if it has no names for them."""
    classes = (dataset.get('metainfo') or {}).get('classes', kind.METAINFO.get('classes'))
    if isinstance(classes, str) and not Path(classes).is_file():
        raise UserError(f'{where}: the classes of the config must be a list of names, got the text {classes!r}')
    return tuple(list_from_file(classes) if isinstance(classes, str) else classes or ()) or None


def _size_of(step: ConfigDict | None, path: Path) -> Size | None:
    """Return the size with which a pipeline, whose ``step`` loads images, loads an image file; None if unknown."""
    try:
        with warnings.catch_warnings():
            # About very large images, which are not decoded here.
            warnings.simplefilter('ignore')
            with PIL.Image.open(path) as image:
                width, height = image.size
                is_turned = image.getexif().get(ORIENTATION, 1) >= 5
        if not is_turned or step is None:
            return None if is_turned else (height, width)
        # Whether EXIF counts depends on the backend and its flags.
        height, width = TRANSFORMS.build(step)(dict(img_path=str(path)))['img'].shape[:2]
        return height, width
    except (OSError, PIL.Image.DecompressionBombError):
        # Not of a kind that Pillow reads.
        return None
