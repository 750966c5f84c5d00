"""The losses that specs name and the package does not have."""

from types import SimpleNamespace

import pytest
import torch
from mmdet.registry import HOOKS, MODELS
from torch import nn

from mmdet_edge.models import EdgeLoss, SumMaskLoss


def pair(number=3, size=28):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(number, 2, size, size, generator=generator)
    targets = torch.zeros(number, size, size)
    targets[:, 5:20, 7:24] = 1
    return logits, targets, torch.tensor([0, 1, 1])[:number]


@pytest.mark.parametrize('exponent', [1, 1.5, 2])
@pytest.mark.parametrize('filters', ['sobel', 'laplacian', ['prewitt', 'laplacian']])
def test_known_filters_are_the_packages(tried_edge_losses, filters, exponent):
    options = dict(exponent=exponent, loss_weight=3)
    loss = MODELS.build(dict(type='TriedEdgeLoss', kernels=filters, **options))
    assert isinstance(loss, tried_edge_losses.TriedEdgeLoss)
    expected = EdgeLoss(filters=filters, **options)(*pair())
    assert torch.allclose(loss(*pair()), expected, rtol=1e-6) and expected > 0


def test_the_default_is_sobel(tried_edge_losses):
    assert torch.allclose(tried_edge_losses.TriedEdgeLoss()(*pair()), EdgeLoss()(*pair()), rtol=1e-6)


def by_hand(tried_edge_losses, residual, **options):
    """The map of a loss for given differences of probability and target."""
    target = torch.full_like(residual, 0.5) - residual
    # Probability 0.5 everywhere.
    return tried_edge_losses.TriedEdgeLoss(**options).edge_disagreement(torch.zeros(1, *residual.shape), target[None])[
        0
    ]


def test_identity_by_hand(tried_edge_losses):
    residual = torch.tensor([[0.5, -0.5, 0.0], [0.1, 0.2, -0.4]])
    assert torch.allclose(by_hand(tried_edge_losses, residual, kernels='identity', exponent=1), residual.abs())
    assert torch.allclose(by_hand(tried_edge_losses, residual, kernels='identity', exponent=2), residual**2)


def test_scharr_by_hand(tried_edge_losses):
    residual = torch.zeros(5, 5)
    residual[2, 2] = 0.5
    # Cross-correlated with a single pixel: both kernels turned around, times 0.5.
    vertical = torch.tensor([[-3.0, -10, -3], [0, 0, 0], [3, 10, 3]]).abs() / 2
    expected = torch.zeros(5, 5)
    expected[1:4, 1:4] = (vertical + vertical.T) / 2
    assert torch.allclose(by_hand(tried_edge_losses, residual, kernels='scharr', exponent=1), expected, atol=1e-6)


def test_dilation_by_hand(tried_edge_losses):
    residual = torch.zeros(7, 7)
    residual[3, 3] = 1
    one = torch.zeros(7, 7)
    sobel = torch.tensor([[1.0, 2, 1], [0, 0, 0], [1, 2, 1]])
    one[2:5, 2:5] = (sobel + sobel.T) / 2
    two = torch.zeros(7, 7)
    two[1:6:2, 1:6:2] = (sobel + sobel.T) / 2
    assert torch.allclose(by_hand(tried_edge_losses, residual, dilations=[1], exponent=1), one, atol=1e-6)
    assert torch.allclose(by_hand(tried_edge_losses, residual, dilations=[2], exponent=1), two, atol=1e-6)
    assert torch.allclose(
        by_hand(tried_edge_losses, residual, dilations=(1, 2), exponent=1), (one + two) / 2, atol=1e-6
    )
    squared = torch.zeros(7, 7)
    squared[1:6:2, 1:6:2] = (sobel**2 + sobel.T**2) / 2
    assert torch.allclose(by_hand(tried_edge_losses, residual, dilations=[2], exponent=2), squared, atol=1e-6)


def test_several_kernels_are_averaged(tried_edge_losses):
    residual = torch.rand(6, 6, generator=torch.Generator().manual_seed(1)) - 0.5
    both = by_hand(tried_edge_losses, residual, kernels=['sobel', 'identity'], exponent=1)
    sobel = by_hand(tried_edge_losses, residual, kernels='sobel', exponent=1)
    # Two kernels and one.
    assert torch.allclose(both, (2 * sobel + residual.abs()) / 3, atol=1e-6)


def test_normalised_kernels_answer_with_one(tried_edge_losses):
    loss = tried_edge_losses.TriedEdgeLoss(
        kernels=['sobel', 'scharr', 'kayyali', 'laplacian', 'identity'], normalized=True
    )
    assert torch.allclose(loss.bank.clamp(min=0).sum(dim=(1, 2)), torch.ones(8))
    sobel = tried_edge_losses.TriedEdgeLoss(normalized=True, exponent=1)(*pair())
    assert torch.allclose(4 * sobel, EdgeLoss(exponent=1)(*pair()), rtol=1e-5)


def test_no_key_in_the_checkpoint(tried_edge_losses):
    assert not tried_edge_losses.TriedEdgeLoss(kernels=['sobel', 'identity'], dilations=[1, 2]).state_dict()


def test_misspelt_kernel(tried_edge_losses):
    with pytest.raises(KeyError, match='sobl'):
        tried_edge_losses.TriedEdgeLoss(kernels='sobl')


@pytest.mark.parametrize('option, start, end', [('loss_weight', 3.0, 0.5), ('exponent', 1.0, 2.0)])
def test_hook_moves_an_option_over_the_training(tried_edge_losses, option, start, end):
    hook = HOOKS.build(dict(type='EdgeLossScheduleHook', option=option, start=start, end=end))
    losses = [EdgeLoss(), tried_edge_losses.TriedEdgeLoss(kernels='identity')]
    model = nn.ModuleList([losses[0], SumMaskLoss([dict(type='MSELoss'), dict(type='TriedEdgeLoss')]), losses[1]])
    losses.append(model[1].losses[1])
    untouched = model[1].losses[0]
    seen = []
    for step in range(5):
        hook.before_train_iter(SimpleNamespace(iter=step, max_iters=5, model=model), step)
        seen.append(getattr(losses[0], option))
        assert {getattr(loss, option) for loss in losses} == {seen[-1]}
    assert seen == pytest.approx([start + i * (end - start) / 4 for i in range(5)])
    assert untouched.loss_weight == 1.0
    # A training of one step starts, at least.
    hook.before_train_iter(SimpleNamespace(iter=0, max_iters=1, model=model), 0)
    assert getattr(losses[0], option) == start
