"""What it does not share with EdgeLoss, whose tests run for both."""

import pytest
import torch
import torch.nn.functional as F
from mmdet.registry import MODELS

from mmdet_edge import EdgeWeightedCrossEntropyLoss
from mmdet_edge.models.losses.edge_loss import EdgeLoss


def test_by_hand():
    pred, target = torch.zeros(1, 4, 4), torch.zeros(1, 4, 4)
    # The residual is 0.5 everywhere. Replicated beyond the border no edge disagrees: plain cross entropy, log 2.
    flat = EdgeWeightedCrossEntropyLoss(padding_mode='replicate')
    assert flat(pred, target).item() == pytest.approx(0.693147, rel=1e-5)
    # Zeros beyond the border: responses of sobel at a corner are 3 * 0.5 and at a side 4 * 0.5 and 0.
    zeros = EdgeWeightedCrossEntropyLoss(exponent=2, temperature=8)
    corner, side = (1.5**2 + 1.5**2) / 2, 2.0**2 / 2
    weight = torch.tensor([4 * [corner] + 8 * [side] + 4 * [0.0]]).div(8).exp().mean().item()
    assert zeros(pred, target).item() == pytest.approx(0.693147 * weight, rel=1e-5)


def test_gradient_runs_through_both_factors():
    pred = torch.randn(2, 9, 9, requires_grad=True)
    target = (torch.rand(2, 9, 9) > 0.5).float()
    loss = EdgeWeightedCrossEntropyLoss()
    (gradient,) = torch.autograd.grad(loss(pred, target), pred)
    weight = (loss.edge_disagreement(pred, target) / 16).exp().detach()
    bce = F.binary_cross_entropy_with_logits(pred, target, reduction='none')
    (of_bce,) = torch.autograd.grad((bce * weight).mean(), pred)
    assert not torch.allclose(gradient, of_bce, rtol=1e-3)


@pytest.mark.parametrize(
    ('temperature', 'error', 'message'),
    [
        (0, ValueError, 'temperature must be greater than 0'),
        (-1, ValueError, 'temperature must be finite and at least 0, got -1'),
        (float('nan'), ValueError, 'temperature must be finite'),
        ('16', TypeError, 'temperature must be a number'),
    ],
)
def test_wrong_temperature(temperature, error, message):
    with pytest.raises(error, match=f'^EdgeWeightedCrossEntropyLoss: {message}'):
        EdgeWeightedCrossEntropyLoss(temperature=temperature)


def test_warns_where_the_weight_can_overflow(mocker_log):
    EdgeWeightedCrossEntropyLoss(filters='sobel', exponent=2)
    assert not mocker_log
    EdgeWeightedCrossEntropyLoss(filters='sobel', exponent=5)
    (line,) = mocker_log
    # A residual of 1 against -1 under sobel: 8 ** 5; over 16 far beyond what exp() has in float32.
    assert 'e reaches up to 32768' in line and 'temperature of 2048' in line


def test_the_temperature_advised_is_safe():
    loss = EdgeWeightedCrossEntropyLoss(filters='sobel', exponent=5, temperature=2048)
    target = torch.zeros(1, 9, 9)
    target[..., 4:] = 1
    pred = (target - 0.5) * -40
    assert loss(pred.requires_grad_(), target).isfinite()


@pytest.fixture
def mocker_log(monkeypatch):
    lines = []
    module = 'mmdet_edge.models.losses.edge_weighted_cross_entropy_loss.print_log'
    monkeypatch.setattr(module, lambda message, *args, **kwargs: lines.append(message))
    return lines


def test_registered():
    loss = MODELS.build(dict(type='EdgeWeightedCrossEntropyLoss', temperature=8))
    assert isinstance(loss, EdgeLoss) and 'temperature=8' in repr(loss)
