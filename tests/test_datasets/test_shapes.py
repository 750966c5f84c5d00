import json

import numpy as np
import pycocotools.mask as mask_utils
import pytest
from mmdet.datasets import CocoDataset
from pycocotools.coco import COCO
from shapely.geometry import Point, box

from mmdet_edge.datasets import SHAPES, make_shapes_dataset, shapes


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp('data') / 'shapes'
    assert make_shapes_dataset(str(path), num_train=12, num_val=4, size=96, seed=3)
    return path


def test_layout(folder):
    assert sorted(p.name for p in folder.iterdir()) == ['train', 'train.json', 'val', 'val.json']
    assert len(list((folder / 'train').glob('*.png'))) == 12
    # Nothing is left of the temporary folder.
    assert [p.name for p in folder.parent.iterdir()] == ['shapes']


def test_annotations_are_consistent(folder):
    coco = COCO(folder / 'train.json')
    assert [c['name'] for c in coco.loadCats(coco.getCatIds())] == list(SHAPES)
    assert len(coco.anns) > 30
    for image in coco.imgs.values():
        masks = np.array([coco.annToMask(a) for a in coco.imgToAnns[image['id']]])
        assert masks.shape[1:] == (96, 96)
        # Visible masks: no pixel belongs to two objects.
        assert masks.sum(axis=0).max() == 1
    for annotation in coco.anns.values():
        assert annotation['area'] == mask_utils.area(annotation['segmentation']) > 0
        ys, xs = coco.annToMask(annotation).nonzero()
        x, y, width, height = annotation['bbox']
        assert (x, y, x + width, y + height) == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


def test_has_holes_and_occlusion(folder):
    coco = COCO(folder / 'train.json')
    by_class = {name: [] for name in SHAPES}
    for annotation in coco.anns.values():
        name = list(SHAPES)[annotation['category_id'] - 1]
        width, height = annotation['bbox'][2:]
        by_class[name].append(annotation['area'] / (width * height))
    assert all(by_class.values()), 'a class is missing'
    # Thin, hollow and concave shapes fill their box less than a disc (0.79).
    assert np.median(by_class['cross']) < 0.5 and np.median(by_class['ring']) < 0.7


def test_same_seed_same_data_and_a_prefix_of_more(folder, tmp_path):
    make_shapes_dataset(str(tmp_path / 'more'), num_train=14, num_val=4, size=96, seed=3)
    for name in ('train/000011.png', 'val/000003.png'):
        assert (folder / name).read_bytes() == (tmp_path / 'more' / name).read_bytes()
    assert (folder / 'train/000000.png').read_bytes() != (folder / 'val/000000.png').read_bytes()
    first, second = (json.loads((f / 'val.json').read_text()) for f in (folder, tmp_path / 'more'))
    assert first['annotations'] == second['annotations']
    make_shapes_dataset(str(tmp_path / 'other'), num_train=1, num_val=1, size=96, seed=4)
    assert (folder / 'train/000000.png').read_bytes() != (tmp_path / 'other/train/000000.png').read_bytes()


def test_mmdet_reads_it(folder):
    dataset = CocoDataset(
        ann_file='train.json',
        data_root=str(folder),
        data_prefix=dict(img='train'),
        metainfo=dict(classes=tuple(SHAPES)),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True),
        ],
    )
    item = dataset[0]
    assert item['img'].shape == (96, 96, 3)
    assert len(item['gt_masks']) == len(item['gt_bboxes_labels']) > 0
    annotations = [a for a in json.loads((folder / 'train.json').read_text())['annotations'] if a['image_id'] == 0]
    assert [m.sum() for m in item['gt_masks'].masks] == [a['area'] for a in annotations]


@pytest.mark.parametrize('name', SHAPES)
def test_outlines(name):
    for seed in range(20):
        outline = SHAPES[name](np.random.default_rng(seed))
        assert outline.is_valid and outline.geom_type == 'Polygon'
        assert max(abs(v) for v in outline.bounds) <= 1.3
        assert bool(outline.interiors) == (name == 'ring')


def test_rasterise_by_hand():
    # Whole pixels, exactly; a pixel half and a pixel a quarter covered.
    assert np.array_equal(shapes.rasterise(box(1, 1, 3, 4), 8), np.pad(np.ones((3, 2)), ((1, 4), (1, 5))))
    coverage = shapes.rasterise(box(2, 2, 3.5, 3.5), 8)
    assert (coverage[2, 2], coverage[2, 3], coverage[3, 3]) == (1, 0.5, 0.25)
    disc = shapes.rasterise(Point(20, 20).buffer(10, quad_segs=64), 40)
    assert disc.sum() == pytest.approx(np.pi * 100, rel=0.01)
    ring = Point(20, 20).buffer(10).difference(Point(20, 20).buffer(5))
    assert shapes.rasterise(ring, 40)[20, 20] == 0


def test_made_once(folder):
    before = (folder / 'val.json').stat().st_mtime_ns
    assert not make_shapes_dataset(str(folder), num_train=12, num_val=4, size=96, seed=3)
    assert (folder / 'val.json').stat().st_mtime_ns == before


def test_never_overwrites(folder, tmp_path):
    with pytest.raises(FileExistsError, match='exists and is not the data set asked for'):
        make_shapes_dataset(str(folder), num_train=13, num_val=4, size=96, seed=3)
    (tmp_path / 'precious.txt').touch()
    with pytest.raises(FileExistsError):
        make_shapes_dataset(str(tmp_path))
    assert (tmp_path / 'precious.txt').exists()


def test_interrupted_it_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(shapes.mask_utils, 'encode', interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_shapes_dataset(str(tmp_path / 'shapes'), num_train=2, num_val=1, size=64)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(num_train=0), 'num_train must be at least 1, got 0'),
        (dict(size=8), 'size must be at least 64'),
        (dict(seed=-1), 'seed must be at least 0'),
    ],
)
def test_wrong_numbers(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make_shapes_dataset(str(tmp_path / 'shapes'), **options)
