import codecs
import json
import re

import numpy as np
import pycocotools.mask as mask_utils
import pytest

from mmdet_edge.preflight.annotations import Use, _run_length, check_annotations


def content(**changes):
    """A valid annotation file with two images and four objects; ``changes`` replace parts of it."""
    square = [[10, 10, 20, 10, 20, 20, 10, 20]]
    objects = [
        dict(id=i, image_id=i % 2, category_id=1 + i % 2, bbox=[10, 10, 10, 10], area=100, segmentation=square)
        for i in range(4)
    ]
    # A hole and a crowd, as COCO has them: run-length masks.
    objects[3] = dict(objects[3], iscrowd=1, segmentation=dict(size=[48, 64], counts=[72, 100, 48 * 64 - 172]))
    return {
        'images': [dict(id=i, file_name=f'{i}.png', height=48, width=64) for i in range(2)],
        'annotations': objects,
        'categories': [dict(id=1, name='cat'), dict(id=2, name='dog')],
        **changes,
    }


def first(**values):
    """The same with other values in the first object; None takes a key out."""
    changed = content()
    changed['annotations'][0].update(values)
    changed['annotations'][0] = {k: v for k, v in changed['annotations'][0].items() if v is not None}
    return changed


def first_image(**values):
    changed = content()
    changed['images'][0].update(values)
    changed['images'][0] = {k: v for k, v in changed['images'][0].items() if v is not None}
    return changed


def all_objects(**values):
    changed = content()
    for item in changed['annotations']:
        item.update(values)
    return changed


def rle(counts, size=(48, 64)):
    return first(segmentation=dict(size=list(size), counts=counts))


NAN, INF = float('nan'), float('inf')
ERRORS = {
    'empty file': (b'', 'not JSON, or cut off'),
    'cut off': (json.dumps(content())[:300].encode(), 'not JSON, or cut off'),
    'a list': ([], 'not a COCO file: it must hold an object with images, annotations, categories, got list'),
    'no list of images': ({}, "not a COCO file: 'images' must be a list, got nothing"),
    'a list of results': ([dict(image_id=0, bbox=[0, 0, 1, 1], score=1)], 'not a COCO file'),
    'no image': (content(images=[]), "'images' is empty"),
    'no object': (content(annotations=[]), "'annotations' is empty"),
    'no category': (content(categories=[]), "'categories' is empty"),
    'no name matches': (
        content(categories=[dict(id=1, name='Cat'), dict(id=2, name='Dog')]),
        'none of its categories is among the classes of the config.*categories: Cat, Dog; classes: cat, dog',
    ),
    'first name differs': (
        content(categories=[dict(id=1, name='Cat'), dict(id=2, name='dog')]),
        "category 'dog' would get label 0, which is the class 'cat'",
    ),
    'other order': (
        content(categories=[dict(id=2, name='dog'), dict(id=1, name='cat')]),
        "category 'dog' would get label 0, which is the class 'cat'.*categories: dog, cat; classes: cat, dog",
    ),
    'category twice': (
        content(categories=[dict(id=1, name='cat'), dict(id=1, name='dog'), dict(id=2, name='dog')]),
        '1 categories with the id of another one: 1',
    ),
    'category without name': (
        content(categories=[dict(id=1), dict(id=2, name='dog')]),
        'categories without id or name',
    ),
    'unknown category': (
        first(category_id=7),
        r'1 objects of a category that is not in the file: 0 \(category 7\)',
    ),
    'all of unknown categories': (
        all_objects(category_id=0),
        r'4 objects of a category that is not in the file: 0 \(category 0\), 1',
    ),
    'unknown image': (first(image_id=9), r'1 objects of an image that is not in the file: 0 \(image 9\)'),
    'image id as text': (first(image_id='0'), r"of an image that is not in the file: 0 \(image '?0'?\)"),
    'object twice': (first(id=1), '1 objects with the id of another one: 1'),
    'image twice': (
        content(images=[content()['images'][i] for i in (0, 1, 1)]),
        '1 images with the id of another one: 1',
    ),
    'NaN box': (first(bbox=[NAN] * 4), '1 objects whose bbox or area is not finite: 0'),
    'NaN width': (first(bbox=[1, 1, NAN, 5]), 'bbox or area is not finite'),
    'infinite box': (first(bbox=[1, 1, INF, 5]), 'bbox or area is not finite'),
    'NaN area': (first(area=NAN), 'bbox or area is not finite'),
    'box of 3': (first(bbox=[1, 2, 3]), '1 objects without id.*or a bbox of 4 numbers: 0'),
    'box of text': (first(bbox=['1', '2', '3', '4']), 'a bbox of 4 numbers'),
    'no box': (first(bbox=None), 'a bbox of 4 numbers'),
    'no area': (first(area=None), 'without id, image_id, category_id, area'),
    'no image id': (first(image_id=None), 'without id, image_id'),
    'no segmentation': (first(segmentation=None), '1 objects without a segmentation: 0'),
    'empty segmentation': (first(segmentation=[]), 'objects without a segmentation'),
    'segmentation as text': (first(segmentation='x'), 'objects without a segmentation'),
    'NaN polygon': (first(segmentation=[[10, 10, NAN, 20, 20, 20]]), 'a polygon that is not of finite numbers: 0'),
    'polygon of text': (first(segmentation=[['10'] * 6]), 'a polygon that is not of finite numbers'),
    'mask of another size': (rle([48 * 64], (64, 48)), 'a run-length mask of another size than their image: 0'),
    'mask too short': (rle([5, 5]), 'a run-length mask that does not fill its size: 0'),
    'mask of nonsense': (rle('!!!'), 'does not fill its size'),
    'mask without counts': (first(segmentation=dict(size=[48, 64])), 'does not fill its size'),
    'image without a size': (first_image(height=None), '1 images without .*height'),
    'image without a name': (first_image(file_name=None), '1 images without file_name'),
    'image size as text': (first_image(width='64'), 'height or width is not a positive number: 0'),
    'image missing': (first_image(file_name='7.png'), '1 images that are not in .*: 7.png'),
    'image in a missing folder': (first_image(file_name='x/0.png'), '1 images that are not in .*: x/0.png'),
    'BOM': (codecs.BOM_UTF8 + json.dumps(content()).encode(), 'starts with a byte order mark or is not in UTF-8'),
    'UTF-16': (json.dumps(content()).encode('utf-16'), 'starts with a byte order mark or is not in UTF-8'),
    'UTF-16 without a mark': (json.dumps(content()).encode('utf-16-le'), 'is not in UTF-8'),
    'Latin-1': ('{"café": 1}'.encode('latin-1'), "not JSON, or cut off .'utf-8' codec"),
    'image name of null': (
        content(images=[dict(image, file_name=None) for image in content()['images']]),
        '2 images without file_name',
    ),
    'image name as a number': (first_image(file_name=7), '1 images whose file_name is not a text: 0'),
    'image id as a list': (
        content(images=[*content()['images'], dict(content()['images'][0], id=[0])]),
        '1 images without file_name, height, id',
    ),
    'category id as a list': (
        content(categories=[*content()['categories'], dict(id=[1], name='x')]),
        'categories without id',
    ),
    'category name of null': (
        content(categories=[dict(id=1, name=None), dict(id=2, name='dog')]),
        'without id or name',
    ),
    'object id as a list': (first(id=[0]), '1 objects without id'),
    'image of an object as a list': (first(image_id=[0]), '1 objects without id'),
    'category of an object as a list': (first(category_id=[1]), '1 objects without id'),
    'annotations of null': (content(annotations=None), "'annotations' must be a list, got nothing"),
    'iscrowd as text': (first(iscrowd='no'), '1 objects whose iscrowd is not 0 or 1: 0'),
    'counts of fractions': (rle([0.5, 48 * 64 - 0.5]), 'does not fill its size'),
    'image file empty': (first_image(file_name='empty.png'), 'that are empty files: empty.png'),
}
WARNINGS = {
    'a class without a category': (
        dict(all_objects(category_id=1), categories=[dict(id=1, name='cat')]),
        '1 classes of the config that are not among its categories: dog',
    ),
    'a category that is no class': (
        content(categories=[dict(id=1, name='cat'), dict(id=2, name='dog'), dict(id=3, name='cow')]),
        None,
    ),
    'an object of no class': (
        dict(first(category_id=3), categories=[*content()['categories'], dict(id=3, name='cow')]),
        '1 objects of categories that are not among the classes of the config: left out: 0',
    ),
    'zero width': (first(bbox=[10, 10, 0, 10]), '1 objects smaller than one pixel .*: left out: 0'),
    'negative size': (first(bbox=[20, 20, -10, -10]), 'smaller than one pixel'),
    'zero area': (first(area=0), 'smaller than one pixel'),
    'box outside': (first(bbox=[70, 10, 5, 5]), '1 objects with a bbox outside their image: left out: 0'),
    'box across the border': (first(bbox=[-5, 10, 100, 30], segmentation=[[-5, 10, 95, 10, 95, 40, -5, 40]]), None),
    'polygon of 2 points': (first(segmentation=[[1, 2, 3, 4]]), 'without a polygon of 3 points or more'),
    'odd polygon': (first(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), 'without a polygon of 3 points or more'),
    'polygon without an area': (first(segmentation=[[10, 10, 20, 10, 30, 10]]), 'a polygon without an area'),
    'polygon outside': (first(segmentation=[[90, 90, 95, 90, 95, 95]]), 'a polygon outside their image'),
    'polygon that crosses itself': (first(segmentation=[[10, 10, 20, 20, 20, 10, 10, 20]]), None),
    'run length without a pixel': (
        rle([48 * 64]),
        '1 objects with a run-length mask without a pixel: an empty mask: 0',
    ),
    'corners as box': (
        first(bbox=[30, 25, 40, 35], segmentation=[[30, 25, 40, 25, 40, 35, 30, 35]]),
        '1 objects whose bbox looks like x1, y1, x2, y2: COCO.*: 0',
    ),
    'corners as box of a run length': (
        first(bbox=[10, 10, 11, 20], segmentation=dict(size=[48, 64], counts=[490, 10, 48 * 64 - 500])),
        '1 objects whose bbox looks like x1, y1, x2, y2',
    ),
    'box of another object': (first(bbox=[40, 30, 10, 10]), '1 objects whose bbox is not that of their mask .*: 0'),
    'box by the centre': (first(bbox=[20, 20, 20, 20]), '1 objects whose bbox is not that of their mask'),
    'box of a crowd elsewhere': (first(bbox=[40, 30, 10, 10], iscrowd=1), None),
    'loose box': (first(bbox=[8, 8, 14, 13]), None),
    'box of a pixel more': (first(bbox=[9, 9, 2, 2], segmentation=[[10, 10, 11, 10, 11, 11, 10, 11]]), None),
    'nothing': (content(), None),
}


def check(folder, given, **options):
    for name, data in (('0.png', b'x'), ('1.png', b'x'), ('empty.png', b'')):
        (folder / name).write_bytes(data)
    (folder / 'x.json').write_bytes(given if isinstance(given, bytes) else json.dumps(given).encode())
    options = dict(dict(classes=('cat', 'dog'), folder=str(folder), needs_objects=True), **options)
    return check_annotations(str(folder / 'x.json'), [Use(**options)])


@pytest.mark.parametrize('case', ERRORS)
def test_annotations_with_errors(case, tmp_path):
    given, message = ERRORS[case]
    problems = check(tmp_path, given)
    (found,) = problems.errors
    assert re.search(message, found) and found.startswith(f'{tmp_path}/x.json: '), found


@pytest.mark.parametrize('case', WARNINGS)
def test_annotations_with_warnings(case, tmp_path):
    given, message = WARNINGS[case]
    problems = check(tmp_path, given)
    assert problems.errors == []
    if message is None:
        assert problems.warnings == []
    else:
        (found,) = problems.warnings
        assert re.search(message, found), found


@pytest.mark.parametrize(('number', 'opened'), [(1, 1), (1000, 1000), (1001, 501), (3000, 1000)])
def test_a_sample_of_the_images_is_opened(number, opened, tmp_path):
    given = content(
        images=[dict(id=i, file_name=f'{i}.png', height=48, width=64) for i in range(number)], annotations=[]
    )
    for i in range(number):
        (tmp_path / f'{i}.png').write_bytes(b'x')
    (tmp_path / 'x.json').write_text(json.dumps(given))
    seen = []
    use = Use(folder=str(tmp_path), size_of=lambda path: seen.append(int(path.stem)))
    assert not check_annotations(str(tmp_path / 'x.json'), [use]).errors
    assert len(seen) == opened and seen[-1] >= number - 10


def test_all_problems_are_told_and_counted(tmp_path):
    given = content()
    given['annotations'] += [dict(given['annotations'][0], id=10 + i, category_id=9) for i in range(7)]
    given['annotations'] += [dict(given['annotations'][0], id=20, bbox=[0, 0, 0, 0])]
    given['images'][1]['file_name'] = 'gone.png'
    problems = check(tmp_path, given)
    assert len(problems.errors) == 2 and len(problems.warnings) == 1
    assert '1 images that are not in' in problems.errors[1]
    assert problems.errors[0].endswith(
        '7 objects of a category that is not in the file: 10 (category 9), 11 (category 9), 12 (category 9), '
        '13 (category 9), 14 (category 9), ...'
    )


def test_a_file_for_tests_needs_no_objects_and_boxes_no_masks(tmp_path):
    only_images = {key: value for key, value in content().items() if key != 'annotations'}
    assert not check(tmp_path, only_images, needs_objects=False).errors
    (tmp_path / 'b').mkdir()
    assert not check(tmp_path / 'b', first(segmentation=None), with_masks=False).errors


def test_a_link_to_nowhere(tmp_path):
    (tmp_path / 'old.png').symlink_to('nowhere.png')
    assert not check(tmp_path, content()).errors
    (found,) = check(tmp_path, first_image(file_name='old.png')).errors
    assert '1 images that are not in' in found


@pytest.mark.parametrize('seed', range(20))
def test_run_lengths_as_pycocotools_writes_them(seed):
    rng = np.random.default_rng(seed)
    mask = (rng.random((37 + seed, 300)) > rng.uniform(0, 1)).astype(np.uint8)
    mask[:, : rng.integers(1, 250)] = seed % 2
    counts = mask_utils.encode(np.asfortranarray(mask))['counts'].decode()
    assert _run_length(counts) == mask.size
    assert _run_length(counts[:-1]) != mask.size
