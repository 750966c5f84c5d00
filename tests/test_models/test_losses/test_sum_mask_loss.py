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
