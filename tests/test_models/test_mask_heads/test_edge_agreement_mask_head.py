import copy
import inspect

import pytest
import torch
from mmdet.models.losses import CrossEntropyLoss
from mmdet.models.roi_heads.mask_heads import DynamicMaskHead, FCNMaskHead, HTCMaskHead, SCNetMaskHead
from mmdet.registry import MODELS

import mmdet_edge
from mmdet_edge import (
    EdgeAgreementDynamicMaskHead,
    EdgeAgreementHTCMaskHead,
    EdgeAgreementMaskHead,
    EdgeAgreementSCNetMaskHead,
    EdgeLoss,
)

SMALL = dict(num_convs=1, in_channels=8, conv_out_channels=8, num_classes=4)
PARENTS = [
    (EdgeAgreementMaskHead, FCNMaskHead),
    (EdgeAgreementHTCMaskHead, HTCMaskHead),
    (EdgeAgreementDynamicMaskHead, DynamicMaskHead),
]
HEADS = pytest.mark.parametrize(('head_class', 'parent'), PARENTS)
ALL_PARENTS = [*PARENTS, (EdgeAgreementSCNetMaskHead, SCNetMaskHead)]
ALL_HEADS = pytest.mark.parametrize(('head_class', 'parent'), ALL_PARENTS)


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
        ours['loss_mask']['loss_edge'], EdgeLoss(exponent=2, loss_weight=3)(selected, ours['mask_targets'])
    )
    assert ours['loss_mask']['loss_edge'] > 0


def test_scnet_adds_it_to_the_mask_loss(head_inputs):
    # SCNetRoIHead drops every other key.
    inputs = head_inputs([0, 3, 0, 1], channels=4)
    ours = EdgeAgreementSCNetMaskHead(**SMALL).loss_and_target(**inputs)
    separate = EdgeAgreementMaskHead(**SMALL).loss_and_target(**inputs)
    assert list(ours['loss_mask']) == ['loss_mask']
    assert torch.equal(ours['loss_mask']['loss_mask'], sum(separate['loss_mask'].values()))
    assert torch.equal(ours['mask_targets'], separate['mask_targets'])


@ALL_HEADS
def test_off_it_equals_the_parent_bit_for_bit(head_class, parent, head_inputs):
    torch.manual_seed(0)
    ours = head_class(loss_edge=None, **SMALL)
    torch.manual_seed(0)
    theirs = parent(**SMALL)
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value)
    assert head_class.forward is parent.forward and head_class.predict_by_feat is parent.predict_by_feat
    inputs = head_inputs([1, 2], channels=4)
    losses = ours.loss_and_target(**inputs)['loss_mask']
    assert list(losses) == ['loss_mask']
    assert torch.equal(losses['loss_mask'], theirs.loss_and_target(**inputs)['loss_mask']['loss_mask'])


@ALL_HEADS
def test_checkpoints_load_both_ways(head_class, parent):
    ours, theirs = head_class(**SMALL), parent(**SMALL)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict(), strict=True)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert len(list(ours.parameters())) == len(list(theirs.parameters()))


@pytest.mark.parametrize(
    ('head_class', 'parent', 'class_agnostic'),
    # DynamicMaskHead cannot be class-agnostic.
    [(*pair, value) for pair in ALL_PARENTS for value in (False, True) if not (value and pair[1] is DynamicMaskHead)],
)
def test_no_positive_roi(head_class, parent, class_agnostic, head_inputs):
    inputs = head_inputs([], channels=1 if class_agnostic else 4)
    results = head_class(class_agnostic=class_agnostic, **SMALL).loss_and_target(**inputs)
    losses = results['loss_mask']
    assert list(losses) == ['loss_mask', *([] if parent is SCNetMaskHead else ['loss_edge'])]
    assert sum(losses.values()).item() == 0
    for loss in losses.values():
        (gradient,) = torch.autograd.grad(loss, inputs['mask_preds'])
        assert gradient.shape == inputs['mask_preds'].shape


def test_class_agnostic(head_inputs):
    inputs = head_inputs([2, 0, 3], channels=1)
    results = EdgeAgreementMaskHead(class_agnostic=True, **SMALL).loss_and_target(**inputs)
    expected = EdgeLoss(exponent=2, loss_weight=3)(inputs['mask_preds'][:, 0], results['mask_targets'])
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


@pytest.mark.parametrize('head_class', [EdgeAgreementMaskHead, EdgeAgreementHTCMaskHead])
@pytest.mark.parametrize('loss_edge', [dict(loss_weight=3), None])
@pytest.mark.parametrize('named', [False, True])
def test_scales_the_gradient_of_the_features_alone(head_class, loss_edge, named, head_inputs):
    inputs = head_inputs([0, 3, 0, 1], channels=4)
    results = []
    for scale in (1, 0.25):
        torch.manual_seed(0)
        head = copy.deepcopy(head_class(**SMALL, loss_edge=loss_edge, feature_grad_scale=scale))
        head.init_weights()
        features = torch.linspace(-1, 1, 4 * 8 * 14 * 14).view(4, 8, 14, 14).requires_grad_()
        outputs = head(x=features) if named else head(features)
        inputs['mask_preds'] = outputs[0] if isinstance(outputs, list) else outputs
        losses = head.loss_and_target(**inputs)['loss_mask']
        sum(loss.sum() for loss in losses.values()).backward()
        own = [parameter.grad for parameter in head.parameters() if parameter.grad is not None]
        predicted = head.eval()(features)
        results.append((features.grad, losses, own, predicted[0] if isinstance(predicted, list) else predicted))
    (gradient, *plain), (scaled, *others) = results
    assert gradient.abs().sum() > 0
    torch.testing.assert_close(scaled, gradient * (0.25 if loss_edge else 1))
    torch.testing.assert_close(others, plain, rtol=0, atol=0)


def first_of(outputs):
    """The logits, without HTC's features."""
    return outputs[0] if isinstance(outputs, list) else outputs


def run_head(head, inputs, names=('loss_mask', 'loss_edge'), *others, **named):
    """Losses, and the gradients of features and parameters for the sum of these losses."""
    head.zero_grad()
    features = torch.linspace(-1, 1, 4 * 8 * 14 * 14).view(4, 8, 14, 14).requires_grad_()
    preds = first_of(head(features, *others, **named))
    losses = head.loss_and_target(**{**inputs, 'mask_preds': preds})['loss_mask']
    sum(losses[name].sum() for name in names).backward()
    own = [None if parameter.grad is None else parameter.grad.clone() for parameter in head.parameters()]
    return losses, features.grad, own


@pytest.mark.parametrize('head_class', [EdgeAgreementMaskHead, EdgeAgreementHTCMaskHead])
@pytest.mark.parametrize('scales', [(0.25, 0), (1, 0.5), (0.25, 0.1)])
@pytest.mark.parametrize('class_agnostic', [False, True])
def test_each_loss_can_have_its_own_scale(head_class, scales, class_agnostic, head_inputs):
    inputs = head_inputs([0, 3, 0, 1], channels=4)
    options = dict(SMALL, class_agnostic=class_agnostic)
    torch.manual_seed(0)
    head = head_class(**options, feature_grad_scale=scales[0], edge_feature_grad_scale=scales[1])
    head.init_weights()
    plain = head_class(**options, feature_grad_scale=1)
    plain.load_state_dict(head.state_dict())
    losses, of_features, own = run_head(head, inputs)
    expected_losses, _, expected = run_head(plain, inputs)
    torch.testing.assert_close(losses, expected_losses, rtol=0, atol=0)
    torch.testing.assert_close(own, expected)
    mask, edge = (run_head(plain, inputs, [name])[1] for name in ('loss_mask', 'loss_edge'))
    assert mask.abs().sum() > 0 and edge.abs().sum() > 0
    torch.testing.assert_close(of_features, scales[0] * mask + scales[1] * edge)
    # A loss of earlier logits, or two of the same, get the same; nothing stays in the head.
    for _ in range(2):
        features = torch.linspace(-1, 1, 4 * 8 * 14 * 14).view(4, 8, 14, 14).requires_grad_()
        outputs = [first_of(head(x)) for x in (features, torch.zeros(2, 8, 14, 14))]
        with torch.no_grad():
            head(torch.ones(3, 8, 14, 14))
        for _ in range(2):
            features.grad = None
            again = head.loss_and_target(**{**inputs, 'mask_preds': outputs[0]})['loss_mask']['loss_edge']
            again.backward(retain_graph=True)
            torch.testing.assert_close(again, expected_losses['loss_edge'], rtol=0, atol=0)
            torch.testing.assert_close(features.grad, scales[1] * edge)
    copy.deepcopy(head)


def test_features_for_a_later_stage_of_htc_start_no_second_run():
    head = EdgeAgreementHTCMaskHead(**SMALL, edge_feature_grad_scale=0)
    for features in (
        head(torch.zeros(4, 8, 14, 14), return_logits=False),
        head(torch.zeros(4, 8, 14, 14), None, False),
    ):
        assert not hasattr(features, 'for_edge_loss')


@pytest.mark.parametrize('by_name', [False, True])
@pytest.mark.parametrize('scale', [0, 0.1])
def test_features_of_an_earlier_stage_of_htc_get_the_same_proportion(by_name, scale, head_inputs):
    inputs = head_inputs([0, 3, 0, 1], channels=4)
    earlier = torch.rand(4, 8, 14, 14, requires_grad=True)
    gradients = []
    for options in (dict(edge_feature_grad_scale=scale), {}):
        torch.manual_seed(0)
        head = EdgeAgreementHTCMaskHead(**SMALL, **options)
        head.init_weights()
        for name in ('loss_edge', 'loss_mask'):
            earlier.grad = None
            run_head(
                head, inputs, [name], *([] if by_name else [earlier]), **(dict(res_feat=earlier) if by_name else {})
            )
            gradients.append(earlier.grad)
    assert all(gradient.any() for gradient in gradients[1:])
    torch.testing.assert_close(gradients[0], gradients[2] * scale / 0.25)
    torch.testing.assert_close(gradients[1], gradients[3])


def test_proposal_features_of_queryinst_get_the_same_proportion(head_inputs):
    inputs = head_inputs([0, 3, 0, 1], channels=4)
    proposals = torch.rand(4, 8, requires_grad=True)
    gradients = []
    for scale in (0.1, None):
        torch.manual_seed(0)
        conv = dict(type='DynamicConv', in_channels=8, feat_channels=4, out_channels=8, with_proj=False)
        head = EdgeAgreementDynamicMaskHead(
            **SMALL, dynamic_conv_cfg=dict(conv, input_feat_shape=14), edge_feature_grad_scale=scale
        )
        head.init_weights()
        proposals.grad = None
        _, features, _ = run_head(head, inputs, ['loss_edge'], proposals)
        gradients.append((features, proposals.grad))
    assert all(gradient.any() for gradient in gradients[1])
    torch.testing.assert_close(gradients[0], tuple(gradient * 0.1 for gradient in gradients[1]))


def test_logits_that_were_selected_have_no_second_run(head_inputs):
    inputs = head_inputs([0, 3, 0, 1], channels=4)
    head = EdgeAgreementMaskHead(**SMALL, edge_feature_grad_scale=0)
    inputs['mask_preds'] = head(torch.rand(4, 8, 14, 14))[:]
    with pytest.raises(RuntimeError, match='EdgeAgreementMaskHead: edge_feature_grad_scale=0 needs the logits as'):
        head.loss_and_target(**inputs)
    # In eval mode nothing is scaled.
    inputs['mask_preds'] = head.eval()(torch.rand(4, 8, 14, 14))
    assert head.loss_and_target(**inputs)['loss_mask']['loss_edge'] > 0


def test_second_run_under_autocast_and_loss_outside(head_inputs):
    inputs = head_inputs([0, 3, 0, 1], channels=4)
    head = EdgeAgreementMaskHead(**SMALL, edge_feature_grad_scale=0.1)
    head.init_weights()
    features = torch.rand(4, 8, 14, 14, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast('cpu', torch.bfloat16):
        inputs['mask_preds'] = head(features)
    head.loss_and_target(**inputs)['loss_mask']['loss_edge'].backward()
    assert features.grad.any()


@pytest.mark.parametrize('scale', [-1, '0.25', 0.3])
def test_wrong_scales_of_the_edge_gradient(scale):
    with pytest.raises((TypeError, ValueError), match='EdgeAgreementMaskHead: edge_feature_grad_scale must be'):
        EdgeAgreementMaskHead(**SMALL, edge_feature_grad_scale=scale)


@pytest.mark.parametrize('scale', [-1, '0.25', None])
def test_wrong_scales_of_the_gradient(scale):
    with pytest.raises((TypeError, ValueError), match='EdgeAgreementMaskHead: feature_grad_scale must be'):
        EdgeAgreementMaskHead(**SMALL, feature_grad_scale=scale)


def test_only_keywords():
    with pytest.raises(TypeError):
        EdgeAgreementMaskHead(dict(type='EdgeLoss'))
    assert 'loss_edge' in inspect.signature(EdgeAgreementMaskHead).parameters


def test_wrong_loss_edge_is_refused_at_construction():
    with pytest.raises(ValueError, match="did you mean 'sobel'"):
        EdgeAgreementMaskHead(loss_edge=dict(type='EdgeLoss', filters='sobl'), **SMALL)


@pytest.mark.parametrize('option', ['loss_edge', 'loss_mask'])
@pytest.mark.parametrize(
    ('loss', 'third'),
    [
        *((dict(type=name), 'weight') for name in ('DiceLoss', 'MSELoss', 'L1Loss', 'FocalLoss', 'SmoothL1Loss')),
        (dict(type='GHMC'), 'label_weight'),
        (dict(type='SeesawLoss', num_classes=1), 'label_weights'),
        (dict(type='GaussianFocalLoss'), 'pos_inds'),
    ],
    ids=lambda x: x['type'] if isinstance(x, dict) else x,
)
@pytest.mark.parametrize('head_class', [EdgeAgreementMaskHead, EdgeAgreementHTCMaskHead, EdgeAgreementSCNetMaskHead])
def test_a_loss_that_would_take_the_labels_for_weights_is_refused(head_class, loss, third, option):
    # With one class all labels are 0: the loss would be off without a word.
    message = rf'^{head_class.__name__}: {option} must be called with \(pred, target, label\), got {loss["type"]} with'
    with pytest.raises(TypeError, match=rf'{message} .*, {third}\)\. Wrap it.*SumMaskLoss'):
        head_class(**{option: loss}, **SMALL)


@pytest.mark.parametrize('option', ['loss_edge', 'loss_mask'])
@pytest.mark.parametrize('use_sigmoid', [False, True])
def test_a_cross_entropy_that_is_not_of_masks_is_refused(use_sigmoid, option):
    loss = dict(type='CrossEntropyLoss', use_sigmoid=use_sigmoid)
    with pytest.raises(TypeError, match=rf'{option} must be called .*\(cls_score, label, weight\)\. Set use_mask=True'):
        EdgeAgreementMaskHead(**{option: loss}, **SMALL)


@pytest.mark.parametrize('option', ['loss_edge', 'loss_mask'])
@pytest.mark.parametrize(
    'loss',
    [
        dict(type='SumMaskLoss', losses=[dict(type='DiceLoss')]),
        dict(type='CrossEntropyLoss', use_mask=True),
        dict(type='EdgeWeightedCrossEntropyLoss'),
    ],
    ids=lambda loss: loss['type'],
)
def test_a_loss_that_takes_the_labels_trains_a_head_of_one_class(loss, option, head_inputs):
    head = EdgeAgreementMaskHead(**{option: loss}, **{**SMALL, 'num_classes': 1})
    assert head.loss_and_target(**head_inputs([0, 0], channels=1))['loss_mask'][option] > 0


class AnyArguments(CrossEntropyLoss):
    def forward(self, *args):
        return super().forward(*args)


def test_a_loss_with_any_arguments_may_take_the_labels(monkeypatch):
    monkeypatch.setitem(MODELS.module_dict, 'AnyArguments', AnyArguments)
    EdgeAgreementMaskHead(loss_mask=dict(type='AnyArguments', use_mask=True), **SMALL)


def test_the_dice_loss_of_queryinst_has_a_call_of_its_own():
    EdgeAgreementDynamicMaskHead(loss_mask=dict(type='DiceLoss'), **SMALL)


def test_the_head_gives_logits():
    with pytest.raises(ValueError, match='loss_edge gets logits, but activate=False says that it gets probabilities'):
        EdgeAgreementMaskHead(loss_edge=dict(activate=False), **SMALL)


def test_a_loss_for_each_mask():
    # The mean over no positive RoI would be NaN.
    with pytest.raises(ValueError, match="one number, got reduction='none'"):
        EdgeAgreementMaskHead(loss_edge=dict(reduction='none'), **SMALL)


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
