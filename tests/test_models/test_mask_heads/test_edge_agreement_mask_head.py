import copy
import inspect

import pytest
import torch
from mmdet.models.roi_heads.mask_heads import FCNMaskHead, HTCMaskHead
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.config import Config

import mmdet_edge
from mmdet_edge import EdgeAgreementHTCMaskHead, EdgeAgreementMaskHead, EdgeLoss
from mmdet_edge.models.mask_heads.class_selected_conv import LazyLogits

SMALL = dict(num_convs=1, in_channels=8, conv_out_channels=8, num_classes=4)
HEADS = pytest.mark.parametrize(
    ('head_class', 'parent'),
    [(EdgeAgreementMaskHead, FCNMaskHead), (EdgeAgreementHTCMaskHead, HTCMaskHead)],
)


@HEADS
def test_adds_loss_edge_and_changes_nothing_else(head_class, parent, head_inputs):
    inputs = head_inputs([0, 3, 0, 1], channels=4)
    ours = head_class(**SMALL).loss_and_target(**inputs)
    theirs = parent(**SMALL).loss_and_target(**inputs)
    assert list(ours['loss_mask']) == ['loss_mask', 'loss_edge']
    assert torch.equal(ours['loss_mask']['loss_mask'], theirs['loss_mask']['loss_mask'])
    assert torch.equal(ours['mask_targets'], theirs['mask_targets'])
    selected = inputs['mask_preds'][range(4), [0, 3, 0, 1]]
    assert torch.equal(
        ours['loss_mask']['loss_edge'], EdgeLoss(exponent=1.5, loss_weight=3)(selected, ours['mask_targets'])
    )
    assert ours['loss_mask']['loss_edge'] > 0


@HEADS
def test_off_it_equals_the_parent_bit_for_bit(head_class, parent, head_inputs):
    torch.manual_seed(0)
    ours = head_class(loss_edge=None, **SMALL)
    torch.manual_seed(0)
    theirs = parent(**SMALL)
    features = torch.randn(3, 8, 14, 14)
    predictions = [head(features) for head in (ours, theirs)]
    if head_class is EdgeAgreementHTCMaskHead:
        predictions = [p[0] for p in predictions]
    assert torch.equal(*predictions)
    inputs = head_inputs([1, 2], channels=4)
    losses = ours.loss_and_target(**inputs)['loss_mask']
    assert list(losses) == ['loss_mask']
    assert torch.equal(losses['loss_mask'], theirs.loss_and_target(**inputs)['loss_mask']['loss_mask'])


@HEADS
def test_checkpoints_load_both_ways(head_class, parent):
    ours, theirs = head_class(**SMALL), parent(**SMALL)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict(), strict=True)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert len(list(ours.parameters())) == len(list(theirs.parameters()))


@HEADS
@pytest.mark.parametrize('class_agnostic', [False, True])
def test_no_positive_roi(head_class, parent, class_agnostic, head_inputs):
    inputs = head_inputs([], channels=1 if class_agnostic else 4)
    results = head_class(class_agnostic=class_agnostic, **SMALL).loss_and_target(**inputs)
    losses = results['loss_mask']
    assert list(losses) == ['loss_mask', 'loss_edge']
    assert sum(losses.values()).item() == 0
    (gradient,) = torch.autograd.grad(losses['loss_edge'], inputs['mask_preds'])
    assert gradient.shape == inputs['mask_preds'].shape


def test_class_agnostic(head_inputs):
    inputs = head_inputs([2, 0, 3], channels=1)
    results = EdgeAgreementMaskHead(class_agnostic=True, **SMALL).loss_and_target(**inputs)
    expected = EdgeLoss(exponent=1.5, loss_weight=3)(inputs['mask_preds'][:, 0], results['mask_targets'])
    assert torch.equal(results['loss_mask']['loss_edge'], expected)


def test_mask_size_that_does_not_fit(head_inputs):
    inputs = head_inputs([0, 1], channels=4)
    inputs['rcnn_train_cfg'].mask_size = 56
    head = EdgeAgreementMaskHead(loss_mask=dict(type='SumMaskLoss', losses=[dict(type='EdgeLoss')]), **SMALL)
    with pytest.raises(ValueError, match='target must have the shape.*mask_size must equal'):
        head.loss_and_target(**inputs)


def test_losses_as_loss_mask(head_inputs):
    inputs = head_inputs([0, 1, 3], channels=4)
    plain = FCNMaskHead(**SMALL).loss_and_target(**inputs)['loss_mask']['loss_mask']
    edge = FCNMaskHead(loss_mask=dict(type='EdgeLoss'), **SMALL).loss_and_target(**inputs)
    both = FCNMaskHead(
        loss_mask=dict(
            type='SumMaskLoss',
            losses=[dict(type='CrossEntropyLoss', use_mask=True), dict(type='EdgeLoss')],
        ),
        **SMALL,
    ).loss_and_target(**inputs)
    expected = plain + edge['loss_mask']['loss_mask']
    assert both['loss_mask']['loss_mask'].item() == pytest.approx(expected.item())


def test_only_keywords():
    with pytest.raises(TypeError):
        EdgeAgreementMaskHead(dict(type='EdgeLoss'))
    assert 'loss_edge' in inspect.signature(EdgeAgreementMaskHead).parameters


def test_wrong_loss_edge_is_told_at_construction():
    with pytest.raises(ValueError, match="did you mean 'sobel'"):
        EdgeAgreementMaskHead(loss_edge=dict(type='EdgeLoss', filters='sobl'), **SMALL)


def losses_of_detector(name, change):
    """Build a detector of mmdet, small, with changed mask heads, and return its training losses."""
    register_all_modules()
    cfg = Config.fromfile(f'{mmdet_edge_test_configs()}/{name}').model
    cfg.backbone.update(depth=18, init_cfg=None)
    cfg.neck.in_channels = [64, 128, 256, 512]
    heads = cfg.roi_head.mask_head
    for head in heads if isinstance(heads, list) else [heads]:
        change(head)
    model = MODELS.build(cfg).train()
    data = demo_mm_inputs(2, [[3, 96, 96], [3, 96, 96]], num_items=[3, 0], with_mask=True, with_semantic='htc' in name)
    return model(**model.data_preprocessor(data, True), mode='loss')


def mmdet_edge_test_configs():
    from mmengine.utils import get_installed_path

    return f'{get_installed_path("mmdet")}/.mim/configs'


def test_standard_roi_head():
    losses = losses_of_detector(
        'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', lambda h: h.update(type='EdgeAgreementMaskHead')
    )
    assert losses['loss_edge'].requires_grad


def test_cascade_weights_it_by_stage():
    losses = losses_of_detector(
        'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py',
        lambda h: h.update(type='EdgeAgreementMaskHead'),
    )
    assert {k for k in losses if 'edge' in k} == {f's{i}.loss_edge' for i in range(3)}
    # The same data in every stage, weighted 1, 0.5, 0.25: an untrained head's loss differs little between stages.
    assert losses['s2.loss_edge'] < 0.6 * losses['s0.loss_edge']


def test_mask_scoring_gets_the_logits_of_all_classes(monkeypatch):
    asked = []
    monkeypatch.setattr(LazyLogits, '__getitem__', lambda self, index: asked.append(1) or self._all[index])
    losses = losses_of_detector(
        'ms_rcnn/ms-rcnn_r50-caffe_fpn_1x_coco.py', lambda head: head.update(type='EdgeAgreementMaskHead')
    )
    assert asked and losses['loss_mask_iou'].isfinite() and losses['loss_edge'] > 0


def test_hybrid_task_cascade():
    losses = losses_of_detector('htc/htc_r50_fpn_1x_coco.py', lambda h: h.update(type='EdgeAgreementHTCMaskHead'))
    assert {k for k in losses if 'edge' in k} == {f's{i}.loss_edge' for i in range(3)}


def test_options_without_a_type():
    # What `--cfg-options model.roi_head.mask_head.loss_edge.loss_weight=3` gives: our configs state no loss_edge.
    head = EdgeAgreementMaskHead(loss_edge=dict(loss_weight=3), **SMALL)
    assert type(head.loss_edge) is EdgeLoss and head.loss_edge.loss_weight == 3


def test_default_config_is_not_shared():
    first, second = EdgeAgreementMaskHead(**SMALL), EdgeAgreementMaskHead(**SMALL)
    assert first.loss_edge is not second.loss_edge
    config = dict(type='EdgeLoss', exponent=1)
    before = copy.deepcopy(config)
    EdgeAgreementMaskHead(loss_edge=config, **SMALL)
    assert config == before
    assert mmdet_edge.EdgeAgreementMaskHead is EdgeAgreementMaskHead
