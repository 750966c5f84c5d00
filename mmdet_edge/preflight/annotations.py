"""Finding in a COCO annotation file what mmdet would drop without a word, number wrongly, or fail on hours later."""

import json
import math
import os
import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Optional

import numpy as np
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS
from mmengine import list_from_file
from mmengine.config import ConfigDict
from PIL import Image

from mmdet_edge.config.datasets import loads_masks

SHOWN = 5
"""Ids or names that a message lists."""

OPENED = 100
"""Images of a data set whose header is read."""

ORIENTATION = 0x0112
"""Number of the EXIF entry that says how an image is to be turned; from 5 on, height and width change places."""


class AnnotationProblems:
    """What was found, counted by kind.

    Args:
        path (str): Annotation file; opens the messages.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._errors: dict[str, list[Any]] = {}
        self._warnings: dict[str, list[Any]] = {}

    def error(self, kind: str, item: Any = None) -> None:
        """Note what makes a training fail, or wrong without a word."""
        self._errors.setdefault(kind, []).append(item)

    def warn(self, kind: str, item: Any = None) -> None:
        """Note what mmdet leaves out, or takes as it is."""
        self._warnings.setdefault(kind, []).append(item)

    @property
    def errors(self) -> list[str]:
        """One line for each kind of error."""
        return [self._line(*found) for found in self._errors.items()]

    @property
    def warnings(self) -> list[str]:
        """One line for each kind of warning."""
        return [self._line(*found) for found in self._warnings.items()]

    def _line(self, kind: str, items: list[Any]) -> str:
        if items == [None]:
            return f'{self.path}: {kind}'
        return f'{self.path}: {len(items)} {kind}: {_some(items)}'


@lru_cache(maxsize=16)
def check_annotations(
    path: str,
    classes: Optional[tuple[str, ...]] = None,
    image_folder: Optional[str] = None,
    with_masks: bool = True,
    needs_objects: bool = True,
) -> AnnotationProblems:
    """Read a COCO annotation file once, and tell all problems in it.

    Errors are what training would be silently wrong with (labels that mean another class, objects of unknown images or
    categories, numbers that are none) or fail on in the middle of a run. Warnings are what mmdet skips. Boxes that
    reach over the border of the image and polygons that cross themselves are neither: mmdet clips the ones and fills
    the others.

    Args:
        path (str): The file.
        classes (tuple[str, ...], optional): Classes of the data set, compared with the categories. Defaults to None.
        image_folder (str, optional): Where the images must be. Defaults to None.
        with_masks (bool): Whether masks will be read. Defaults to True.
        needs_objects (bool): Whether it must have objects, as to train without empty images. Defaults to True.

    Returns:
        AnnotationProblems: The problems; the result is kept, for who asks again.

    Note:
        The images are looked for, and the headers of up to 100 of them, evenly spread, are read for their size, but
        none is decoded: mmdet stops with the name of one that cannot be when it comes to it.
    """
    problems = AnnotationProblems(path)
    try:
        content = json.loads(Path(path).read_bytes())
    except ValueError as error:
        problems.error(f'not JSON, or cut off ({error})')
        return problems
    wanted = ('images', 'annotations', 'categories') if needs_objects else ('images', 'categories')
    if not isinstance(content, dict):
        problems.error(f'not a COCO file: it must hold an object with {", ".join(wanted)}, got {_kind(content)}')
        return problems
    for key in wanted:
        if not isinstance(content.get(key), list):
            problems.error(f'not a COCO file: {key!r} must be a list, got {_kind(content.get(key))}')
        elif not content[key]:
            problems.error(f'{key!r} is empty')
        if problems.errors:
            return problems
    categories = _check_categories(content['categories'], classes, problems)
    images = _check_images(content['images'], image_folder, problems)
    _check_objects(content.get('annotations') or [], images, categories, classes, with_masks, problems)
    return problems


def check_dataset(dataset: ConfigDict, is_training: bool) -> Optional[AnnotationProblems]:
    """Check the annotation file of a data set's config, with the classes and images that the config names.

    Args:
        dataset (ConfigDict): The config, without wrappers; its files exist on this machine.
        is_training (bool): Whether it will be trained on.

    Returns:
        AnnotationProblems | None: The problems; None if mmdet reads this type of data set in a way of its own.
    """
    kind = DATASETS.get(dataset['type']) if isinstance(dataset['type'], str) else dataset['type']
    if kind is None:
        problems = AnnotationProblems(dataset.get('ann_file') or 'data set')
        problems.error(f'{dataset["type"]} is not a data set that mmdet or a custom import has registered')
        return problems
    if not dataset.get('ann_file') or getattr(kind, 'parse_data_info', None) is not CocoDataset.parse_data_info:
        return None
    path = os.path.join(dataset.get('data_root') or '', dataset['ann_file'])
    classes, folder = None, None
    # LVIS and the like have names for files and an order of classes of their own.
    if kind.load_data_list is CocoDataset.load_data_list:
        classes = (dataset.get('metainfo') or {}).get('classes', kind.METAINFO.get('classes'))
        if isinstance(classes, str) and not Path(classes).is_file():
            problems = AnnotationProblems(path)
            problems.error(f'the classes of the config must be a list of names, got the text {classes!r}')
            return problems
        classes = tuple(list_from_file(classes) if isinstance(classes, str) else classes or ()) or None
        folder = os.path.join(dataset.get('data_root') or '', (dataset.get('data_prefix') or {}).get('img') or '')
    # mmdet trains on images without objects, as those without labels are, unless it is told to leave them out.
    needs_objects = is_training and bool((dataset.get('filter_cfg') or {}).get('filter_empty_gt'))
    return check_annotations(path, classes, folder, bool(loads_masks(dataset)), needs_objects)


def _some(items: Sequence[Any]) -> str:
    return ', '.join(str(item) for item in items[:SHOWN]) + (', ...' if len(items) > SHOWN else '')


def _kind(value: Any) -> str:
    return 'nothing' if value is None else type(value).__name__


def _check_categories(
    categories: list[Any], classes: Optional[Sequence[str]], problems: AnnotationProblems
) -> dict[Any, str]:
    """Return id -> name."""
    names: dict[Any, str] = {}
    for item in categories:
        if not isinstance(item, dict) or not {'id', 'name'} <= set(item):
            problems.error('categories without id or name', _id_of(item))
            names.update({item['id']: ''} if isinstance(item, dict) and 'id' in item else {})
        elif item['id'] in names:
            problems.error('categories with the id of another one', item['id'])
        else:
            names[item['id']] = item['name']
    if classes is None or problems.errors:
        return names
    # mmdet counts the categories that it knows in the order of the file, and takes the count for the label.
    known = [name for name in names.values() if name in set(classes)]
    listed = list(names.values())
    if not known:
        problems.error(
            f'none of its categories is among the classes of the config, so that every object would be left out; '
            f'categories: {_some(listed)}; classes: {_some(classes)}. Set metainfo=dict(classes=...) of the data set'
        )
    for label, name in enumerate(known):
        if label >= len(classes) or classes[label] != name:
            problems.error(
                f'category {name!r} would get label {label}, which is the class '
                f'{classes[label] if label < len(classes) else "(none)"!r}: mmdet counts labels in the order of the '
                f'file, and skips what it does not find. Give the classes of the config as the file has them; '
                f'categories: {_some(listed)}; classes: {_some(classes)}'
            )
            break
    else:
        for name in [name for name in classes if known and name not in listed]:
            problems.warn('classes of the config that are not among its categories', name)
    return names


def _check_images(
    images: list[Any], folder: Optional[str], problems: AnnotationProblems
) -> dict[Any, Optional[tuple[float, float]]]:
    """Return id -> (height, width), or None if the file does not say."""
    sizes: dict[Any, Optional[tuple[float, float]]] = {}
    files: list[tuple[str, Optional[tuple[float, float]]]] = []
    for item in images:
        wanted = {'id', 'height', 'width'} | ({'file_name'} if folder is not None else set())
        if not isinstance(item, dict) or not wanted <= set(item):
            problems.error(f'images without {", ".join(sorted(wanted))}', _id_of(item))
            if isinstance(item, dict):
                sizes.setdefault(item.get('id'))
            continue
        if item['id'] in sizes:
            problems.error('images with the id of another one', item['id'])
        if all(isinstance(item[side], (int, float)) and item[side] > 0 for side in ('height', 'width')):
            sizes[item['id']] = item['height'], item['width']
        else:
            problems.error('images whose height or width is not a positive number', item['id'])
            sizes[item['id']] = None
        if folder is not None:
            files.append((item['file_name'], sizes[item['id']]))
    if folder is not None:
        _check_files(files, folder, problems)
    return sizes


def _check_files(
    files: list[tuple[str, Optional[tuple[float, float]]]], folder: str, problems: AnnotationProblems
) -> None:
    found: list[tuple[Path, tuple[float, float]]] = []
    for name, stated in files:
        place = Path(folder, name)
        try:
            size = place.stat().st_size
        except OSError:
            size = None
        if size is None:
            problems.error(f'images that are not in {folder}', name)
        elif size == 0:
            problems.error(f'images in {folder} that are empty files', name)
        elif stated is not None:
            found.append((place, stated))
    for place, (height, width) in found[:: math.ceil(len(found) / OPENED) or 1]:
        real = _size_of_image(place, (height, width))
        if real != (height, width):
            problems.error(
                'images of another size than the file says, so that masks would be misplaced (resized after they were '
                'annotated, or height and width exchanged?)',
                f'{place} is {real[0]} high and {real[1]} wide, the file says {height} and {width}',
            )


def _size_of_image(path: Path, stated: tuple[float, float]) -> tuple[float, float]:
    """Return height and width from the header of an image; what is stated if it is of a kind that PIL cannot read."""
    try:
        with warnings.catch_warnings():
            # About very large images, which are not decoded here.
            warnings.simplefilter('ignore')
            with Image.open(path) as image:
                width, height = image.size
                # OpenCV turns an image as its EXIF data say; who annotated it may have seen it either way.
                if (width, height) == stated and image.getexif().get(ORIENTATION, 1) >= 5:
                    return stated
                return height, width
    except (OSError, Image.DecompressionBombError):
        return stated


def _check_objects(
    annotations: list[Any],
    images: dict[Any, Optional[tuple[float, float]]],
    categories: dict[Any, str],
    classes: Optional[Sequence[str]],
    with_masks: bool,
    problems: AnnotationProblems,
) -> None:
    seen: set[Any] = set()
    used = set(categories.values()) if classes is None or problems.errors else set(classes)
    for item in annotations:
        try:
            number, image, category = item['id'], item['image_id'], item['category_id']
            (left, top, width, height), area = item['bbox'], item['area']
            finite = math.isfinite(left + top + width + height + area)
        except (KeyError, TypeError, ValueError, OverflowError):
            problems.error('objects without id, image_id, category_id, area, or a bbox of 4 numbers', _id_of(item))
            continue
        if number in seen:
            problems.error('objects with the id of another one', number)
        seen.add(number)
        if image not in images:
            problems.error('objects of an image that is not in the file', f'{number} (image {image!r})')
        elif category not in categories:
            problems.error('objects of a category that is not in the file', f'{number} (category {category!r})')
        elif not finite:
            problems.error('objects whose bbox or area is not finite', number)
        elif categories[category] not in used:
            problems.warn('objects of categories that are not among the classes of the config: left out', number)
        elif width < 1 or height < 1 or area <= 0:
            problems.warn('objects smaller than one pixel (width, height or area): left out', number)
        elif (size := images[image]) is None:
            continue
        elif left >= size[1] or top >= size[0] or left + width <= 0 or top + height <= 0:
            problems.warn('objects with a bbox outside their image: left out', number)
        elif with_masks and not item.get('ignore'):
            _check_mask(item.get('segmentation'), *size, number, problems)


def _check_mask(mask: Any, height: float, width: float, number: Any, problems: AnnotationProblems) -> None:
    if not mask or not isinstance(mask, (list, dict)):
        problems.error('objects without a segmentation', number)
    elif isinstance(mask, list):
        parts = [p for p in mask if isinstance(p, list) and len(p) % 2 == 0 and len(p) >= 6]
        if not parts:
            problems.warn('objects without a polygon of 3 points or more: not trained on', number)
            return
        try:
            # A sum is not finite if a term is not.
            finite = math.isfinite(sum(map(sum, parts)))
            inside = any(
                min(xs := p[::2]) < width and min(ys := p[1::2]) < height and max(xs) > 0 and max(ys) > 0 for p in parts
            )
        except TypeError:
            finite = inside = False
        if not finite:
            problems.error('objects with a polygon that is not of finite numbers', number)
        elif not inside:
            problems.warn('objects with a polygon outside their image: an empty mask', number)
        elif all(len(set(p[::2])) == 1 or len(set(p[1::2])) == 1 for p in parts):
            problems.warn('objects with a polygon without an area: an empty mask', number)
    elif mask.get('size') != [height, width]:
        problems.error('objects with a run-length mask of another size than their image', number)
    elif _run_length(mask.get('counts')) != height * width:
        problems.error('objects with a run-length mask that does not fill its size', number)


def _run_length(counts: Any) -> Optional[int]:
    """Return the number of pixels that a run-length mask covers, set or not; None if it is not one."""
    try:
        if isinstance(counts, list):
            return sum(counts) if min(counts, default=-1) >= 0 else None
        # COCO's compression: 5 bits a character, the 6th says that more follow; from the fourth count on, the
        # difference from the last but one.
        bits = np.frombuffer(counts.encode('ascii'), np.uint8).astype(np.int64) - 48
        last = np.flatnonzero((bits & 32) == 0)
        if not len(last) or last[-1] != len(bits) - 1 or bits.min() < 0 or bits.max() > 63:
            return None
        first = np.append(0, last[:-1] + 1)
        place = np.arange(len(bits)) - np.repeat(first, last - first + 1)
        if place.max() > 6:
            return None
        values = np.add.reduceat((bits & 31) << (5 * place), first)
        values = np.where(bits[last] & 16, values - (np.int64(32) << (5 * (last - first))), values)
        values[1::2] = np.cumsum(values[1::2])
        values[2::2] = np.cumsum(values[2::2])
        return int(values.sum()) if values.min() >= 0 else None
    except (AttributeError, TypeError, ValueError):
        return None


def _id_of(item: Any) -> str:
    return f'{item.get("id", item) if isinstance(item, dict) else item}'
