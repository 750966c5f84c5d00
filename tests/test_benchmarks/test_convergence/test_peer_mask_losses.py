"""Each peer's loss against a hand-computed or a naive value."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from scipy.ndimage import distance_transform_cdt, distance_transform_edt
from torch.autograd import gradcheck

from mmdet_edge.models import EdgeAgreementMaskHead

NAMES = [
    *('SignedDistanceLoss', 'ContourDistanceLoss', 'LaplacianBoundaryLoss', 'LovaszHingeLoss', 'FocalMaskLoss'),
    *('BorderWeightedLoss', 'ActiveBoundaryLoss'),
]


def masks(number=4, size=14):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(number, 3, size, size, generator=generator)
    target = (F.avg_pool2d(torch.randn(number, 1, size, size, generator=generator), 5, 1, 2)[:, 0] > 0).float()
    target[-1] = 1
    return logits, target, torch.tensor([0, 2, 1, 1])[:number]


def logit(prob):
    return torch.as_tensor(prob).clamp(1e-6, 1 - 1e-6).logit()


@pytest.mark.parametrize('name', NAMES)
def test_call_of_a_mask_loss(peer_mask_losses, name):
    pred, target, label = masks()
    loss = MODELS.build(dict(type=name))
    value = loss(pred, target, label)
    assert value.dim() == 0 and value.isfinite() and value.dtype == torch.float32
    assert torch.equal(value, loss(pred[torch.arange(4), label], target))
    assert torch.allclose(MODELS.build(dict(type=name, loss_weight=3))(pred, target, label), 3 * value)
    empty = loss(pred[:0].requires_grad_(), target[:0], label[:0])
    assert empty == 0 and empty.requires_grad
    assert not loss.state_dict()
    # As the second loss of a mask head.
    EdgeAgreementMaskHead(num_convs=1, num_classes=3, loss_edge=dict(type=name))


# The active boundary loss leaves a part of its gradient out.
@pytest.mark.parametrize('name', [name for name in NAMES if name != 'ActiveBoundaryLoss'])
def test_gradient(peer_mask_losses, name):
    pred, target, label = masks(size=6)
    loss = MODELS.build(dict(type=name))
    assert gradcheck(lambda x: loss(x, target.double(), label), pred.double().requires_grad_())


@pytest.mark.parametrize('name', NAMES)
def test_the_right_mask_costs_least(peer_mask_losses, name):
    _, target, _ = masks()
    loss = MODELS.build(dict(type=name))
    right, wrong = loss(20 * (target - 0.5), target), loss(20 * (target.roll(3, 2) - 0.5), target)
    assert right < wrong
    flat = loss(torch.zeros_like(target), target)
    # A flat mask has no boundary that could be at the wrong place.
    assert flat == 0 if name == 'ActiveBoundaryLoss' else right < flat


def test_signed_distance(peer_mask_losses):
    mask = torch.zeros(5, 5)
    mask[1:4, 1:4] = 1
    diagonal = math.sqrt(2)
    expected = torch.tensor([[diagonal, 1, 1, 1, diagonal], [1, 0, 0, 0, 1], [1, 0, -1, 0, 1]])
    expected = torch.cat([expected, expected[:2].flip(0)])
    found = peer_mask_losses.signed_distance(torch.stack([mask, torch.zeros(5, 5), torch.ones(5, 5)]))
    assert torch.allclose(found, torch.stack([expected, torch.zeros(5, 5), torch.zeros(5, 5)]), atol=1e-6)
    loss = peer_mask_losses.SignedDistanceLoss()
    assert torch.allclose(loss(torch.zeros(1, 5, 5), mask[None]), expected.mean() / 2 / 5, atol=1e-6)


def test_signed_distance_is_scipys(peer_mask_losses):
    _, target, _ = masks()
    for mask, found in zip(target[:3].numpy(), peer_mask_losses.signed_distance(target)[:3]):
        expected = distance_transform_edt(1 - mask) - (distance_transform_edt(mask) - 1) * mask
        assert np.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize('steps', [1, 2, 5])
def test_truncated_distance_is_the_chessboard_distance(peer_mask_losses, steps):
    _, target, _ = masks()
    contour = peer_mask_losses.soft_contour(target)[:3]
    found = peer_mask_losses.truncated_distance(contour, steps)
    for one, distance in zip(contour.numpy(), found.numpy()):
        assert np.array_equal(distance, distance_transform_cdt(1 - one, 'chessboard').clip(max=steps))


def test_contour_distance_by_hand(peer_mask_losses):
    first, second = torch.zeros(2, 1, 9, 9)
    first[0, 4, 2], second[0, 4, 5] = 1, 1
    # Two single pixels, three apart: the distance of each contour is 3, of at most 5.
    loss = peer_mask_losses.ContourDistanceLoss(steps=5)
    assert torch.allclose(loss(100 * (first - 0.5), second), torch.tensor(3 / 5))
    assert loss(100 * (first - 0.5), first) < 1e-6


def test_laplacian_boundary_by_hand(peer_mask_losses):
    target = torch.zeros(1, 4, 4)
    target[0, 1:3, 1:3] = 1
    loss = peer_mask_losses.LaplacianBoundaryLoss()
    # A square of two pixels is nothing but boundary: four of sixteen pixels.
    right = loss(100 * (target - 0.5), target)
    assert torch.allclose(right, torch.tensor(-math.log(0.99)), atol=1e-4)
    # Nothing predicted: no boundary is found.
    missed = loss(torch.full((1, 4, 4), -100.0), target)
    cross_entropy = (-4 * math.log(0.01) - 12 * math.log(0.99)) / 16
    assert torch.allclose(missed, torch.tensor(cross_entropy + 1 - 1 / 5), atol=1e-4)


def test_neighbours_are_the_eight_around_a_pixel(peer_mask_losses):
    maps = torch.arange(12.0).view(1, 3, 4)
    assert peer_mask_losses.stack_neighbours(maps)[0, :, 1, 1].tolist() == [0, 1, 2, 4, 6, 8, 9, 10]
    assert peer_mask_losses.stack_neighbours(maps)[0, :, 0, 0].tolist() == [0, 0, 1, 0, 1, 4, 4, 5]


def test_divergence_is_torchs(peer_mask_losses):
    logits, others = torch.randn(2, 50, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    probs, from_ = (torch.stack([x.sigmoid(), 1 - x.sigmoid()]).log() for x in (logits, others))
    expected = F.kl_div(from_, probs, reduction='none', log_target=True).sum(0)
    assert torch.allclose(peer_mask_losses.divergence(logits, others), expected, atol=1e-6)


def test_active_boundary_by_hand(peer_mask_losses):
    """The predicted boundary is between columns 1 and 2, the target's between 4 and 5."""
    target, logits = torch.zeros(1, 9, 9), torch.full((1, 9, 9), -2.0)
    target[..., 5:], logits[..., 2:] = 1, 2
    found = peer_mask_losses.ActiveBoundaryLoss(max_distance=4)(logits.requires_grad_(), target)
    # Columns 0 to 2 are taken, at distances of 4, 3 and 2; right is the direction to go. Of the pixels of columns 1 and
    # 2, three of eight neighbours differ, on the right and on the left.
    difference = 2 * math.tanh(1)
    normalizer, smoothed = math.log(3 * math.exp(difference) + 5), 0.2 * 3 / 8 * difference
    losses = [math.log(8), normalizer - 0.8 * difference - smoothed, normalizer - smoothed]
    assert torch.allclose(found, torch.tensor(np.dot([1, 3 / 4, 2 / 4], losses) / 3, dtype=torch.float32))
    # Both columns beside the predicted boundary become background.
    found.backward()
    moved = logits.grad.sum((0, 1))
    assert (moved[1:3] > 0.01).all() and moved[[0, *range(3, 9)]].abs().max() < 1e-7


def test_lovasz_hinge_is_the_jaccard_loss_at_its_corners(peer_mask_losses):
    """With errors of 0 or 1 (margins of 1 or 0) the surrogate is 1 - IoU of the mask without the missed pixels."""
    target = torch.tensor([[[1.0, 1, 1, 0], [1, 0, 0, 0]]])
    pred = torch.tensor([[[1.0, 0, 1, 0], [1, -1, -1, -1]]])
    # Wrong: one pixel of the mask, one of the background.
    assert torch.allclose(peer_mask_losses.LovaszHingeLoss()(pred, target), torch.tensor(1 - 3 / 5))


def test_focal_by_hand(peer_mask_losses):
    pred, target = logit([[[0.9, 0.2]]]), torch.tensor([[[1.0, 1.0]]])
    expected = -(0.1**2 * math.log(0.9) + 0.8**2 * math.log(0.2)) / 2
    assert torch.allclose(peer_mask_losses.FocalMaskLoss()(pred, target), torch.tensor(expected))
    plain = F.binary_cross_entropy_with_logits(pred, target)
    assert torch.allclose(peer_mask_losses.FocalMaskLoss(gamma=0)(pred, target), plain)


def test_border_weight_by_hand(peer_mask_losses):
    target = torch.tensor([[[0.0, 0, 1, 1, 1]] * 2])
    loss = peer_mask_losses.BorderWeightedLoss(border_weight=2, sigma=1)
    near, far = (1 + 2 * math.exp(-(d**2) / 2) for d in (0.5, 1.5))
    farthest = 1 + 2 * math.exp(-(2.5**2) / 2)
    expected = math.log(2) * (far + near + near + far + farthest) / 5
    assert torch.allclose(loss(torch.zeros(1, 2, 5), target), torch.tensor(expected))
    # Without a boundary it is the plain one.
    assert torch.allclose(loss(torch.zeros(1, 2, 5), torch.ones(1, 2, 5)), torch.tensor(math.log(2)))
