import pytest
from mmdet.datasets import CocoDataset
from mmengine.config import Config

from mmdet_edge.errors import UserError
from mmdet_edge.preflight.model import build_model

from ..test_reliability.conftest import CONFIGS, EDGE

MASK_LOSS = dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0)


def test_cascade_with_heads_that_do_not_fit():
    head = dict(
        type='EdgeAgreementMaskHead',
        num_convs=1,
        in_channels=64,
        conv_out_channels=8,
        num_classes=6,
        loss_mask=MASK_LOSS,
    )
    cfg = Config.fromfile(EDGE)
    box = dict(cfg.model.roi_head.bbox_head, in_channels=64, fc_out_channels=8)
    cfg.model.type = 'CascadeRCNN'
    cfg.model.roi_head.update(
        type='CascadeRoIHead', num_stages=2, stage_loss_weights=[1, 0.5], bbox_head=[box, box], mask_head=[head, head]
    )
    rcnn = cfg.model.train_cfg.rcnn
    cfg.model.train_cfg.rcnn = [rcnn, dict(rcnn, mask_size=14)]
    with pytest.raises(ValueError, match='mask head 1 predicts 28x28 masks, but train_cfg.rcnn.mask_size is 14'):
        build_model(cfg)
    cfg.model.train_cfg.rcnn = [rcnn, rcnn]
    assert build_model(cfg).roi_head.num_stages == 2
    cfg.model.roi_head.mask_head = [head]
    with pytest.raises(ValueError, match=r'cannot be built: AssertionError.*assert len\(mask_head\) =='):
        build_model(cfg)


@pytest.mark.parametrize('kind', ['CocoDataset', 'mmdet.CocoDataset', CocoDataset])
def test_every_data_set_must_fit(kind):
    cfg = Config.fromfile(EDGE)
    fits = cfg.train_dataloader.dataset
    fits.type = kind
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[fits, dict(fits)])
    build_model(cfg)
    other = cfg.train_dataloader.dataset.datasets[1]
    other.metainfo = None
    with pytest.raises(ValueError, match='the training data have 80 classes'):
        build_model(cfg)
    other.update(metainfo=fits.metainfo, pipeline=[dict(type='mmdet.LoadAnnotations', with_bbox=True)])
    with pytest.raises(ValueError, match='the training data come without masks'):
        build_model(cfg)


def test_a_shared_head_and_a_data_set_with_its_own_classes():
    cfg = Config.fromfile(CONFIGS / 'mask-rcnn_r50-caffe-c4_edge_1x_coco.py')
    assert build_model(cfg).roi_head.with_shared_head
    cfg = Config.fromfile(EDGE)
    cfg.train_dataloader.dataset.metainfo = None
    with pytest.raises(ValueError, match='bbox_head has num_classes=6, but the training data have 80 classes'):
        build_model(cfg)


def test_a_panoptic_model_has_a_head_for_things():
    cfg = Config.fromfile(EDGE)
    for head in ('bbox_head', 'mask_head'):
        cfg.model.roi_head[head].num_classes = 80
    cfg.train_dataloader.dataset.update(type='CocoPanopticDataset', metainfo=None)
    build_model(cfg)


@pytest.mark.parametrize('split', ['val', 'test'])
def test_the_data_that_are_evaluated_have_the_classes_of_the_model(split):
    cfg = Config.fromfile(EDGE)
    cfg[f'{split}_dataloader'].dataset.metainfo = dict(classes=('one', 'two'))
    build_model(cfg)
    word = dict(val='validation', test='test')[split]
    with pytest.raises(UserError, match=f'bbox_head has num_classes=6, but the {word} data have 2 classes'):
        build_model(cfg, (split,))


def test_more_classes_than_the_data_have_are_an_error():
    cfg = Config.fromfile(EDGE)
    cfg.model.roi_head.bbox_head.num_classes = 80
    with pytest.raises(UserError, match='bbox_head has num_classes=80, but the training data have 6 classes'):
        build_model(cfg)
