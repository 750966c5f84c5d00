from mmdet.datasets.transforms import LoadAnnotations
from mmengine.config import ConfigDict

from mmdet_edge.config.datasets import inner_datasets, loads_masks


def test_inside_wrappers():
    first, second, third = (dict(type='CocoDataset', ann_file=name) for name in 'abc')
    semi = dict(type='ConcatDataset', datasets=[first, dict(type='RepeatDataset', times=2, dataset=second)])
    mixed = dict(type='MultiImageMixDataset', pipeline=[dict(type='Mosaic')], dataset=third)
    for dataset, inner in (
        (first, [first]),
        (semi, [first, second]),
        (mixed, [third]),
        (dict(type='ConcatDataset', datasets=[semi, mixed]), [first, second, third]),
        (dict(type='ConcatDataset', datasets=[]), []),
        ({}, []),
    ):
        assert list(inner_datasets(ConfigDict(dataset))) == inner
    assert list(inner_datasets(None)) == []


def test_masks_that_are_loaded():
    for kind in ('LoadAnnotations', 'mmdet.LoadAnnotations', 'MyLoadAnnotations', LoadAnnotations):
        boxes = ConfigDict(pipeline=[dict(type='LoadImageFromFile'), dict(type=kind, with_bbox=True)])
        assert loads_masks(boxes) is False
        boxes.pipeline[1].with_mask = True
        assert loads_masks(boxes) is True
    for nothing in (dict(), dict(pipeline=[dict(type='LoadEmptyAnnotations', with_mask=True)])):
        assert loads_masks(ConfigDict(nothing)) is None
