import pytest
import torch
from mmdet.models.losses import DiceLoss, MSELoss
from mmdet.registry import MODELS

from mmdet_edge import SumMaskLoss, edge_loss

CROSS_ENTROPY = dict(type='CrossEntropyLoss', use_mask=True)


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(0)
    pred = torch.randn(5, 4, 14, 14, generator=generator, requires_grad=True)
    target = (torch.rand(5, 14, 14, generator=generator) > 0.5).float()
    return pred, target, torch.tensor([0, 3, 0, 1, 2])


def test_sum_equals_parts(inputs):
    pred, target, label = inputs
    selected = pred[range(5), label]
    loss = SumMaskLoss(
        [
            dict(CROSS_ENTROPY, loss_weight=2.0),
            dict(type='EdgeLoss', loss_weight=3.0),
            dict(type='DiceLoss', loss_weight=0.5),
            dict(type='DiceLoss', activate=False, loss_weight=0.25),
            dict(type='MSELoss', loss_weight=10.0),
            dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=0.1),
        ]
    )
    bce = torch.nn.functional.binary_cross_entropy_with_logits(selected, target)
    dice = DiceLoss()(selected, target)
    expected = (
        (2.0 + 0.1) * bce
        + 3.0 * edge_loss(selected, target)
        + (0.5 + 0.25) * dice
        + 10.0 * MSELoss()(selected.sigmoid(), target)
    )
    assert loss(*inputs).item() == pytest.approx(expected.item(), rel=1e-5)
    assert loss(*inputs).shape == ()
    assert loss(selected, target).item() == pytest.approx(expected.item(), rel=1e-5)


def test_alone_it_equals_mmdets_mask_loss(inputs):
    assert SumMaskLoss([CROSS_ENTROPY])(*inputs).item() == MODELS.build(CROSS_ENTROPY)(*inputs).item()


def test_nested_and_unreduced(inputs):
    losses = [CROSS_ENTROPY, dict(type='EdgeLoss')]
    expected = SumMaskLoss(losses)(*inputs).item()
    assert SumMaskLoss([dict(type='SumMaskLoss', losses=losses)])(*inputs).item() == pytest.approx(expected)
    losses = [CROSS_ENTROPY, dict(type='EdgeLoss', reduction='none')]
    assert SumMaskLoss(losses)(*inputs).item() == pytest.approx(expected)


def test_no_instance():
    pred = torch.zeros(0, 4, 14, 14, requires_grad=True)
    loss = SumMaskLoss([CROSS_ENTROPY, dict(type='DiceLoss')])
    value = loss(pred, torch.zeros(0, 14, 14), torch.zeros(0, dtype=torch.long))
    value.backward()
    assert value.item() == 0 and pred.grad.shape == pred.shape


def test_double_precision(inputs):
    pred, target, label = inputs
    loss = SumMaskLoss([CROSS_ENTROPY, dict(type='EdgeLoss')]).double()
    assert loss(pred.double(), target, label).item() == pytest.approx(loss(*inputs).item(), rel=1e-5)


def test_half_precision(inputs):
    pred, target, label = inputs
    loss = SumMaskLoss([CROSS_ENTROPY, dict(type='DiceLoss'), dict(type='MSELoss')])
    with torch.autocast('cpu', dtype=torch.bfloat16):
        value = loss(pred.bfloat16(), target, label)
    assert value.dtype == torch.float32
    assert torch.equal(value, loss(pred.bfloat16().float(), target, label))


REDUCIBLE = [
    dict(type='DiceLoss', loss_weight=2.0),
    dict(type='EdgeLoss', loss_weight=3.0, exponent=1.5),
    dict(type='MSELoss', loss_weight=5.0),
    dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=0.5),
]


def test_masks_are_weighted_and_reduced_as_in_mmdets_losses(inputs):
    pred, target, label = inputs
    selected, loss = pred[range(5), label], SumMaskLoss(REDUCIBLE)
    each = loss(*inputs, reduction_override='none')
    assert each.shape == (5,)
    # Each mask alone, as where the whole batch is reduced at once.
    alone = torch.stack([loss(selected[i : i + 1], target[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(each, alone)
    torch.testing.assert_close(loss(*inputs, reduction_override='mean'), loss(*inputs))
    torch.testing.assert_close(loss(*inputs, reduction_override='sum'), each.sum())
    torch.testing.assert_close(loss(*inputs, avg_factor=7.0), each.sum() / 7)
    weight = torch.tensor([0.0, 1.0, 2.0, 0.5, 1.0])
    torch.testing.assert_close(loss(*inputs, weight=weight), (each * weight).mean())
    torch.testing.assert_close(loss(selected, target, weight=weight, avg_factor=3.0), (each * weight).sum() / 3)
    # The same numbers as the losses give alone.
    parts = [MODELS.build(REDUCIBLE[i])(selected, target, weight=weight, avg_factor=3.0) for i in (0, 1)]
    both = SumMaskLoss(REDUCIBLE[:2])(selected, target, weight=weight, avg_factor=3.0)
    torch.testing.assert_close(both, sum(parts))


def test_probabilities(inputs):
    pred, target, label = inputs
    losses = [dict(type='DiceLoss'), dict(type='EdgeLoss')]
    probabilities = [dict(loss, activate=False) for loss in losses]
    loss = SumMaskLoss([*probabilities, dict(type='MSELoss')], activate=False)
    expected = SumMaskLoss([*losses, dict(type='MSELoss')])(*inputs)
    assert torch.equal(loss(pred.sigmoid(), target, label), expected)
    nested = SumMaskLoss([dict(type='SumMaskLoss', losses=probabilities, activate=False)], activate=False)
    assert torch.equal(nested(pred.sigmoid(), target, label), SumMaskLoss(losses)(*inputs))
    # As the head of a RoI: each loss says what it takes.
    assert torch.equal(SumMaskLoss(probabilities)(*inputs), SumMaskLoss(losses)(*inputs))


@pytest.mark.parametrize('reduction', ['none', 'mean', 'sum'])
def test_no_instance_reduced_by_the_head(reduction):
    pred = torch.zeros(0, 14, 14, requires_grad=True)
    value = SumMaskLoss(REDUCIBLE)(pred, torch.zeros(0, 14, 14), avg_factor=None, reduction_override=reduction)
    assert value.shape == ((0,) if reduction == 'none' else ())
    value.sum().backward()
    assert pred.grad.shape == pred.shape
    assert SumMaskLoss(REDUCIBLE)(pred, torch.zeros(0, 14, 14), avg_factor=1.0).item() == 0


@pytest.mark.parametrize(
    ('loss', 'name'),
    [
        (dict(type='EdgeLoss'), 'EdgeLoss'),
        (dict(type='DiceLoss'), 'DiceLoss'),
        (CROSS_ENTROPY, 'CrossEntropyLoss'),
        (dict(type='CrossEntropyLoss', use_sigmoid=True), 'CrossEntropyLoss'),
        (dict(type='FocalLoss'), 'FocalLoss'),
        (dict(type='EdgeWeightedCrossEntropyLoss'), 'EdgeWeightedCrossEntropyLoss'),
        (dict(type='SumMaskLoss', losses=[dict(type='EdgeLoss')]), 'SumMaskLoss'),
    ],
)
def test_a_second_sigmoid_is_refused(loss, name):
    with pytest.raises(
        ValueError, match=f'^SumMaskLoss: with activate=False the head gives probabilities, but {name} '
    ):
        SumMaskLoss([loss], activate=False)


def test_a_loss_that_gives_one_number_for_all_masks_is_refused(inputs):
    loss = SumMaskLoss([CROSS_ENTROPY])
    with pytest.raises(ValueError, match=r'use CrossEntropyLoss\(use_sigmoid=True\), which has the same value'):
        loss(*inputs, avg_factor=3.0)
    sigmoid = SumMaskLoss([dict(type='CrossEntropyLoss', use_sigmoid=True)])
    torch.testing.assert_close(sigmoid(*inputs, avg_factor=5.0), loss(*inputs))


@pytest.mark.parametrize(
    ('losses', 'error', 'message'),
    [
        ([], ValueError, 'losses is empty'),
        (CROSS_ENTROPY, TypeError, 'must be a list of configs'),
        (['EdgeLoss'], TypeError, 'must be a list of configs'),
        ([dict(type='CrossEntropyLoss')], ValueError, 'needs use_mask=True'),
    ],
)
def test_wrong_losses(losses, error, message):
    with pytest.raises(error, match=f'^SumMaskLoss: .*{message}'):
        SumMaskLoss(losses)


def test_wrong_call(inputs):
    with pytest.raises(ValueError, match='^SumMaskLoss: without label'):
        SumMaskLoss([CROSS_ENTROPY])(*inputs[:2])
