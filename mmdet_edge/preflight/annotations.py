"""Finding in a COCO annotation file what mmdet would leave out silently, number wrongly, or fail on hours later."""

import codecs
import json
import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pycocotools.mask as mask_utils

from mmdet_edge.errors import some

Size = tuple[float, float]
"""Height and width in pixels."""

ID_TYPES = (int, float, str)


@dataclass(frozen=True)
class Use:
    """One part of a config that reads an annotation file, and what it makes of it.

    Args:
        where (str): Its section, such as 'train_dataloader' or 'val_evaluator'.
        classes (tuple[str, ...], optional): Classes of the data set, compared with the categories. Defaults to None.
        folder (str, optional): Where its images must be. Defaults to None: not looked for.
        size_of (Callable, optional): Returns the (height, width) with which the pipeline loads an image file, or None
            if that is unknown. Defaults to None.
        is_training (bool): Whether it is trained on. Defaults to False.
        needs_objects (bool): Whether it must have objects, as to train without empty images. Defaults to False.
        with_masks (bool): Whether masks are read. Defaults to True.
        poly2mask (bool): Whether the pipeline turns polygons into bitmaps, without which it takes polygons only.
            Defaults to True.
        min_size (float): Shorter side in pixels of the smallest image that is trained on. Defaults to 0.
        metric (str, optional): Name of the metric that reads the file as its ground truth. Defaults to None: a data
            set reads it.
        is_pycocotools (bool): Whether pycocotools evaluates, and not faster-coco-eval. Defaults to False.
    """

    where: str = 'train_dataloader'
    classes: tuple[str, ...] | None = None
    folder: str | None = None
    size_of: Callable[[Path], Size | None] | None = None
    is_training: bool = False
    needs_objects: bool = False
    with_masks: bool = True
    poly2mask: bool = True
    min_size: float = 0
    metric: str | None = None
    is_pycocotools: bool = False


class Image(NamedTuple):
    """What a file says of an image."""

    name: Any
    size: Size | None


@dataclass
class Report:
    """What was found in an annotation file.

    Args:
        path (str): The file; opens the messages.
    """

    path: str
    images: dict[Any, Image] = field(default_factory=dict)
    """Image id -> name and size."""
    num_objects: int = 0
    left_out: dict[str, Counter[str]] = field(default_factory=dict)
    """Section of the config -> reason -> number of objects that it does not train on, or evaluate with."""
    _found: dict[tuple[str, str], list[Any]] = field(default_factory=dict)

    def add(self, level: str, kind: str, items: Iterable[Any] = (None,)) -> None:
        """Add a kind of problem of a level, 'error' or 'warning', with the ids that have it."""
        self._found.setdefault((level, kind), []).extend(items)

    def merge(self, level: str, kind: str, items: list[Any]) -> None:
        """Add a kind of problem that another use of the file may have reported too."""
        if len(items) > len(self._found.get((level, kind), [])):
            self._found[level, kind] = items

    @property
    def errors(self) -> list[str]:
        """One line for each kind of what makes a run fail, or silently wrong."""
        return self._lines('error')

    @property
    def warnings(self) -> list[str]:
        """One line for each kind of what mmdet leaves out, or takes as it is."""
        return self._lines('warning')

    def _lines(self, level: str) -> list[str]:
        found = [(kind, items) for (its_level, kind), items in self._found.items() if its_level == level]
        return [
            f'{self.path}: {kind}' if items == [None] else f'{self.path}: {len(items)} {kind}: {some(items)}'
            for kind, items in found
        ]


def check_annotations(path: str, uses: Sequence[Use]) -> Report:
    """Read a COCO annotation file once, and report all problems that its ``uses`` have with it.

    Errors are what a run would be silently wrong with (labels that mean another class, objects of unknown images or
    categories, numbers that are none) or fail on later. Warnings are what mmdet skips. Boxes that reach over the border
    of the image and polygons that cross themselves are neither: mmdet clips the ones and fills the others.

    The images are looked for, and the headers of up to 1000 of them, evenly spread, are read for their size; only one
    that EXIF turns is decoded.
    """
    report = Report(path)
    content = _read(path, any(use.needs_objects for use in uses), report)
    if content is None:
        return report
    categories = _read_categories(content['categories'], report)
    named = any(use.folder is not None for use in uses)
    report.images = _read_images(content['images'], named, report)
    objects = _read_objects(content.get('annotations') or [], report.images, categories, report)
    del content
    for use in uses:
        # Labels and objects mean little if an earlier check has failed.
        if not report.errors and use.classes is not None:
            _check_classes(categories, use, report)
        if use.metric is not None:
            _check_ids(categories, report.images, objects, use, report)
        if use.folder is not None:
            _check_files(report.images.values(), use, report)
        _check_objects(objects, list(categories.values()), use, report)
    return report


def _read(path: str, needs_objects: bool, report: Report) -> dict[str, Any] | None:
    """Return the content of a file if it is one of COCO's."""
    data = Path(path).read_bytes()
    # mmdet opens it as a text, and json finds no mark there.
    if data.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b'\0' in data[:4]:
        report.add(
            'error', 'starts with a byte order mark or is not in UTF-8: mmdet reads UTF-8 without that mark only'
        )
        return None
    try:
        text = data.decode()
        # COCO's file has half a gigabyte.
        del data
        content = json.loads(text)
    except ValueError as error:
        report.add('error', f'not JSON, or cut off ({error})')
        return None
    wanted = ('images', 'annotations', 'categories') if needs_objects else ('images', 'categories')
    if not isinstance(content, dict):
        report.add('error', f'not a COCO file: it must hold an object with {", ".join(wanted)}, got {_kind(content)}')
        return None
    for key in ('images', 'annotations', 'categories'):
        if key not in wanted and key not in content:
            continue
        if not isinstance(content.get(key), list):
            report.add('error', f'not a COCO file: {key!r} must be a list, got {_kind(content.get(key))}')
        elif key in wanted and not content[key]:
            report.add('error', f'{key!r} is empty')
        if report.errors:
            return None
    return content


def _kind(value: Any) -> str:
    return 'nothing' if value is None else type(value).__name__


def _id_of(item: Any) -> str:
    return f'{item.get("id", item) if isinstance(item, dict) else item}'


def _read_categories(categories: list[Any], report: Report) -> dict[Any, str]:
    """Return id -> name."""
    names: dict[Any, str] = {}
    for item in categories:
        number = item.get('id') if isinstance(item, dict) else None
        if not isinstance(number, ID_TYPES) or not isinstance(item.get('name'), str):
            report.add('error', 'categories without id or name', [_id_of(item)])
            names.update({number: ''} if isinstance(number, ID_TYPES) else {})
        elif number in names:
            report.add('error', 'categories with the id of another one', [number])
        else:
            names[number] = item['name']
    return names


def _read_images(images: list[Any], named: bool, report: Report) -> dict[Any, Image]:
    """Return id -> image; those with errors have no size."""
    found: dict[Any, Image] = {}
    wanted = sorted({'id', 'height', 'width'} | ({'file_name'} if named else set()))
    for item in images:
        number = item.get('id') if isinstance(item, dict) else None
        if not isinstance(number, ID_TYPES) or any(item.get(key) is None for key in wanted):
            report.add('error', f'images without {", ".join(wanted)}', [_id_of(item)])
            found.update({number: Image(None, None)} if isinstance(number, ID_TYPES) else {})
            continue
        if number in found:
            report.add('error', 'images with the id of another one', [number])
        size: Size | None = (item['height'], item['width'])
        if not all(isinstance(side, (int, float)) and side > 0 for side in (item['height'], item['width'])):
            report.add('error', 'images whose height or width is not a positive number', [number])
            size = None
        if named and not isinstance(item['file_name'], str):
            report.add('error', 'images whose file_name is not a text', [number])
        found[number] = Image(item.get('file_name'), size)
    return found


# What a segmentation is: lists of polygons up to POLYGON, run lengths up to RUN_LENGTH.
Mask = IntEnum('Mask', 'NOTHING NO_POLYGON NOT_FINITE OUTSIDE FLAT POLYGON OTHER_SIZE BROKEN RUN_LENGTH NOT_READ')
# What an object's iscrowd is: 0, 1, ...
Crowd = IntEnum('Crowd', 'NO YES NOT_THERE NULL OTHER', start=0)

COLUMNS = (
    *('left', 'top', 'width', 'height', 'area', 'image_height', 'image_width', 'category', 'crowd', 'ignore'),
    # The mask: its kind, what it reaches from and to in pixels, and how many numbers its first polygon has.
    *('kind', 'x1', 'y1', 'x2', 'y2', 'first'),
    # For the use that is checked: the kind of mask as it reads it, and whether the category is among its classes.
    *('mask', 'is_class'),
)


class Objects(NamedTuple):
    """The ids of the objects of a file that have the fields of one, and their :data:`COLUMNS`, (N,), numbers."""

    ids: list[Any]
    table: np.recarray


def _box_fits(o: np.recarray, x1: np.ndarray, y1: np.ndarray, x2: np.ndarray, y2: np.ndarray) -> np.ndarray:
    """Return whether a box, (N,) each, clipped to the image, is about that of the mask.

    They count as the same from an IoU of 0.5 on, and where no side is more than 2 pixels off.
    """
    limits = (o.image_width, o.image_height) * 2
    box, mask = (
        [np.clip(side, 0, limit) for side, limit in zip(sides, limits)]
        for sides in ((x1, y1, x2, y2), (o.x1, o.y1, o.x2, o.y2))
    )
    both = _area(*map(np.maximum, box[:2], mask[:2]), *map(np.minimum, box[2:], mask[2:]))
    close = np.max([np.abs(a - b) for a, b in zip(box, mask)], axis=0) <= 2
    return close | (both >= 0.5 * (_area(*box) + _area(*mask) - both))


def _area(x1: np.ndarray, y1: np.ndarray, x2: np.ndarray, y2: np.ndarray) -> np.ndarray:
    return np.maximum(x2 - x1, 0) * np.maximum(y2 - y1, 0)


def _read_objects(
    annotations: list[Any], images: Mapping[Any, Image], categories: Mapping[Any, str], report: Report
) -> Objects:
    report.num_objects = len(annotations)
    rows, ids, seen = array('d'), [], set()
    places = {number: place for place, number in enumerate(categories)}
    for item in annotations:
        try:
            number, image, category = item['id'], item['image_id'], item['category_id']
            (left, top, width, height), area = item['bbox'], item['area']
            finite = math.isfinite(left + top + width + height + area)
            known_image, known_category, is_again = image in images, category in categories, number in seen
        except (KeyError, TypeError, ValueError, OverflowError):
            report.add(
                'error', 'objects without id, image_id, category_id, area, or a bbox of 4 numbers', [_id_of(item)]
            )
            continue
        seen.add(number)
        if is_again:
            report.add('error', 'objects with the id of another one', [number])
        if not known_image:
            report.add('error', 'objects of an image that is not in the file', [f'{number} (image {image!r})'])
        elif not known_category:
            report.add('error', 'objects of a category that is not in the file', [f'{number} (category {category!r})'])
        elif not finite:
            report.add('error', 'objects whose bbox or area is not finite', [number])
        elif (size := images[image].size) is not None:
            crowd, ignore = _crowd(item), bool(item.get('ignore'))
            mask = _read_mask(item.get('segmentation'), *size)
            rows.extend((left, top, width, height, area, *size, places[category], crowd, ignore, *mask, 0, 0))
            ids.append(number)
    return Objects(ids, np.array(rows).view([(name, float) for name in COLUMNS]).view(np.recarray))


def _crowd(item: dict[str, Any]) -> Crowd:
    if 'iscrowd' not in item:
        return Crowd.NOT_THERE
    value = item['iscrowd']
    if value is None:
        return Crowd.NULL
    return Crowd(int(value)) if isinstance(value, (int, float)) and value in (0, 1) else Crowd.OTHER


def _read_mask(mask: Any, height: float, width: float) -> tuple[float, ...]:
    """Return the last columns of an object."""
    nowhere = (0, 0, 0, 0, 0)
    if not mask or not isinstance(mask, (list, dict)):
        return Mask.NOTHING, *nowhere
    if isinstance(mask, dict):
        if mask.get('size') != [height, width]:
            return Mask.OTHER_SIZE, *nowhere
        if _run_length(mask.get('counts')) != height * width:
            return Mask.BROKEN, *nowhere
        rle: Any = dict(size=[int(height), int(width)], counts=mask['counts'])
        rle = rle if isinstance(mask['counts'], str) else mask_utils.frPyObjects(rle, *rle['size'])
        x, y, w, h = mask_utils.toBbox(rle).tolist()
        return Mask.RUN_LENGTH, x, y, x + w, y + h, 0
    parts = [p for p in mask if isinstance(p, list) and len(p) % 2 == 0 and len(p) >= 6]
    first = len(mask[0]) if isinstance(mask[0], list) else 0
    if not parts:
        return Mask.NO_POLYGON, 0, 0, 0, 0, first
    try:
        # A sum is not finite if a term is not.
        if not math.isfinite(sum(map(sum, parts))):
            return Mask.NOT_FINITE, *nowhere
        boxes = [(min(xs := p[::2]), min(ys := p[1::2]), max(xs), max(ys)) for p in parts]
    except TypeError:
        return Mask.NOT_FINITE, *nowhere
    x1, y1, x2, y2 = boxes[0] if len(boxes) == 1 else [f(b) for f, b in zip((min, min, max, max), zip(*boxes))]
    kind = Mask.POLYGON
    if not any(a < width and b < height and c > 0 and d > 0 for a, b, c, d in boxes):
        kind = Mask.OUTSIDE
    elif all(a == c or b == d for a, b, c, d in boxes):
        kind = Mask.FLAT
    return kind, x1, y1, x2, y2, first


def _run_length(counts: Any) -> int | None:
    """Return the number of pixels that a run-length mask covers, set or not; None if it is not one."""
    try:
        if isinstance(counts, list):
            is_valid = counts and all(type(count) is int and count >= 0 for count in counts)
            return sum(counts) if is_valid else None
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


# An object to which a rule applies: the run would fail, or be wrong; it is taken as it is, with a warning; it is not
# trained on, with a warning; it is not trained on, as it should be.
Level = Enum('Level', 'ERROR WARNING LEFT_OUT AS_USUAL')
ERROR, WARNING, LEFT_OUT, AS_USUAL = Level


class Rule(NamedTuple):
    """What is wrong with an object, or why it is not trained on."""

    level: Level
    text: str
    applies: Callable[[np.recarray, Use], Any]
    """Returns for each object, (N,), whether the rule applies."""


def _is_outside(o: np.recarray, u: Use) -> np.ndarray:
    beside = (o.left >= o.image_width) | (o.left + o.width <= 0)
    return beside | (o.top >= o.image_height) | (o.top + o.height <= 0)


def _has_another_box(o: np.recarray, u: Use) -> np.ndarray:
    has_mask = ((o.mask == Mask.POLYGON) | (o.mask == Mask.RUN_LENGTH)) & (o.x2 > o.x1)
    return has_mask & (o.crowd != Crowd.YES) & ~_box_fits(o, o.left, o.top, o.left + o.width, o.top + o.height)


NULL_CROWD = "objects whose iscrowd is null, which COCO's evaluation fails on: make it 0"
NO_CROWD = 'objects without iscrowd, which pycocotools fails on: make it 0'
NO_CLASS = 'objects of categories that are not among the classes of the config: left out'
TOO_SMALL = 'objects smaller than one pixel (width, height or area): left out'
OTHER_SIZE = 'objects with a run-length mask of another size than their image'
POINT_FIRST = 'objects whose first polygon has fewer than 3 points, which pycocotools fails on'
NO_POLYGON = 'objects without a polygon of 3 points or more: not trained on, and never found in an evaluation'
LOST_RUN_LENGTH = 'objects with a run-length mask, which LoadAnnotations leaves out with poly2mask=False'
SMALL_IMAGE = 'in images below filter_cfg.min_size'
NO_PIXEL = 'objects with a run-length mask without a pixel: an empty mask'
CORNERS = "objects whose bbox looks like x1, y1, x2, y2: COCO's is x, y, width, height"

RULES = (
    Rule(ERROR, 'objects whose iscrowd is not 0 or 1', lambda o, u: o.crowd == Crowd.OTHER),
    Rule(ERROR, NULL_CROWD, lambda o, u: (o.crowd == Crowd.NULL) & bool(u.metric)),
    Rule(ERROR, NO_CROWD, lambda o, u: (o.crowd == Crowd.NOT_THERE) & u.is_pycocotools),
    Rule(AS_USUAL, 'with "ignore"', lambda o, u: (o.ignore > 0) & (not u.metric)),
    Rule(LEFT_OUT, NO_CLASS, lambda o, u: o.is_class == 0),
    Rule(LEFT_OUT, TOO_SMALL, lambda o, u: (o.width < 1) | (o.height < 1) | (o.area <= 0)),
    Rule(LEFT_OUT, 'objects with a bbox outside their image: left out', _is_outside),
    Rule(ERROR, 'objects without a segmentation', lambda o, u: o.mask == Mask.NOTHING),
    Rule(ERROR, 'objects with a polygon that is not of finite numbers', lambda o, u: o.mask == Mask.NOT_FINITE),
    Rule(ERROR, OTHER_SIZE, lambda o, u: o.mask == Mask.OTHER_SIZE),
    Rule(ERROR, 'objects with a run-length mask that does not fill its size', lambda o, u: o.mask == Mask.BROKEN),
    Rule(ERROR, POINT_FIRST, lambda o, u: (o.mask < Mask.OTHER_SIZE) & (o.first <= 4) & u.is_pycocotools),
    Rule(LEFT_OUT, NO_POLYGON, lambda o, u: o.mask == Mask.NO_POLYGON),
    Rule(AS_USUAL, 'with iscrowd=1', lambda o, u: o.crowd == Crowd.YES),
    Rule(LEFT_OUT, LOST_RUN_LENGTH, lambda o, u: (o.mask == Mask.RUN_LENGTH) & u.is_training & (not u.poly2mask)),
    Rule(AS_USUAL, SMALL_IMAGE, lambda o, u: (np.minimum(o.image_height, o.image_width) < u.min_size) & u.is_training),
    Rule(WARNING, 'objects with a polygon outside their image: an empty mask', lambda o, u: o.mask == Mask.OUTSIDE),
    Rule(WARNING, 'objects with a polygon without an area: an empty mask', lambda o, u: o.mask == Mask.FLAT),
    Rule(WARNING, NO_PIXEL, lambda o, u: (o.mask == Mask.RUN_LENGTH) & (o.x2 <= o.x1)),
    Rule(WARNING, CORNERS, lambda o, u: _has_another_box(o, u) & _box_fits(o, o.left, o.top, o.width, o.height)),
    Rule(WARNING, 'objects whose bbox is not that of their mask (IoU below 0.5)', _has_another_box),
)
"""The first rule that applies to an object is the one that is reported."""


def _check_objects(objects: Objects, names: list[str], use: Use, report: Report) -> None:
    """Report what the rules find, and count what is left to train on or to evaluate."""
    table = objects.table
    is_class = np.array([use.classes is None or name in use.classes for name in names] or [True])
    # After an error in the classes this would be reported twice.
    table.is_class = is_class[table.category.astype(int)] | bool(report.errors)
    table.mask = table.kind if use.with_masks else Mask.NOT_READ
    found = np.full(len(table), len(RULES))
    for number, rule in reversed(list(enumerate(RULES))):
        found[rule.applies(table, use)] = number
    reasons: Counter[str] = Counter()
    for number, rule in enumerate(RULES):
        ids = [objects.ids[place] for place in np.flatnonzero(found == number)]
        if ids and rule.level is not AS_USUAL:
            report.merge('error' if rule.level is ERROR else 'warning', rule.text, ids)
        if ids and rule.level in (LEFT_OUT, AS_USUAL):
            reasons[rule.text.removeprefix('objects ').split(':')[0]] = len(ids)
    report.left_out[use.where] = reasons


def _check_classes(categories: Mapping[Any, str], use: Use, report: Report) -> None:
    """Report categories that would get the label of another class."""
    classes = use.classes or ()
    # mmdet counts the categories that it knows in the order of the file, and takes the count for the label.
    listed = list(categories.values())
    known = [name for name in listed if name in set(classes)]
    if not known:
        report.add(
            'error',
            f'none of its categories is among the classes of the config, so that every object would be left out; '
            f'categories: {some(listed)}; classes: {some(classes)}. Set metainfo=dict(classes=...) of the data set',
        )
        return
    for label, name in enumerate(known):
        if label >= len(classes) or classes[label] != name:
            report.add(
                'error',
                f'category {name!r} would get label {label}, which is the class '
                f'{classes[label] if label < len(classes) else "(none)"!r}: mmdet counts labels in the order of the '
                f'file, and skips what it does not find. Sort the categories of the file as the classes of the config, '
                f'which must be the same for all data sets and for the checkpoint; categories: {some(listed)}; '
                f'classes: {some(classes)}',
            )
            return
    missing = [name for name in classes if name not in listed]
    if missing and use.metric:
        kind = 'classes of the config that are not among its categories: a prediction of one would end the evaluation'
        report.merge('error', kind, missing)
    elif missing:
        report.merge('warning', 'classes of the config that are not among its categories', missing)


def _check_ids(
    categories: Mapping[Any, str], images: Mapping[Any, Image], objects: Objects, use: Use, report: Report
) -> None:
    """Report ids that the evaluation cannot work with."""
    if not use.is_pycocotools:
        for what, ids in (('images', images), ('categories', categories)):
            broken = [number for number in ids if isinstance(number, str) or number != int(number)]
            if broken:
                report.merge('error', f'{what} whose id is not a whole number, as faster-coco-eval needs', broken)
    if use.metric == 'CocoMetric':
        broken = [number for number in objects.ids if isinstance(number, str) and not _is_number(number)]
        if broken:
            report.merge('error', 'objects whose id is not a number, as pycocotools needs', broken)
        zero = [number for number in objects.ids if not isinstance(number, str) and number == 0]
        if zero:
            report.merge(
                'warning',
                'objects with an id that pycocotools takes for "no match", so that they count as never found: number '
                'them from 1, or evaluate with CocoBoundaryMetric',
                zero,
            )


def _is_number(text: str) -> bool:
    try:
        return bool(float(text))
    except ValueError:
        return False


OPENED = 1000
"""Images of a data set whose size is read."""


def _check_files(images: Iterable[Image], use: Use, report: Report) -> None:
    """Report images that are missing, empty, or of another size than stated."""
    folder = use.folder or ''
    found: list[tuple[Path, Size]] = []
    for name, stated in images:
        if not isinstance(name, str):
            continue
        try:
            num_bytes = Path(folder, name).stat().st_size
        except (OSError, ValueError):
            report.add('error', f'images that are not in {folder}', [name])
            continue
        if num_bytes == 0:
            report.add('error', f'images in {folder} that are empty files', [name])
        elif stated is not None:
            found.append((Path(folder, name), stated))
    for place, (height, width) in found[:: math.ceil(len(found) / OPENED) or 1]:
        real = use.size_of(place) if use.size_of else None
        if real not in (None, (height, width)):
            report.add(
                'error',
                'images that are loaded with another size than the file says, so that masks would be misplaced '
                '(resized or turned by EXIF after they were annotated, or height and width exchanged?)',
                [f'{place} is {real[0]} high and {real[1]} wide, the file says {height} and {width}'],
            )
