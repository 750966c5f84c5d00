"""The loss is a finite, non-negative number with a finite gradient, whatever it is given."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.registry import init_default_scope

from mmdet_edge import EdgeAgreementMaskHead, EdgeLoss, EdgeWeightedCrossEntropyLoss, edge_loss
from mmdet_edge.models.losses.edge_filters import EDGE_FILTERS, GAUSSIAN_KERNEL

# A mask loss of |F * r| ** p follows r through a flip if the flipped kernels are the same up to sign and order.
# Roberts' 2x2 kernels look to the right and below only: they can be transposed but not flipped, which moves what they
# answer by a pixel, and at the border that pixel is another one.
FLIPS = {
    'left-right': lambda x: x.flip(-1),
    'up-down': lambda x: x.flip(-2),
    'transposed': lambda x: x.transpose(-1, -2),
    'turned': lambda x: x.rot90(1, (-2, -1)),
}
KEEPS = {
    'sobel': set(FLIPS),
    'prewitt': set(FLIPS),
    'kayyali': set(FLIPS),
    'laplacian': set(FLIPS),
    'roberts': {'transposed'},
}


def make_masks(seed, num, height, width, pred_dtype, target_dtype):
    """Logits from tiny to +-1e4; targets from empty to full, soft ones too; and which pairs agree."""
    rng = np.random.default_rng(seed)
    shape = (num, height, width)
    target = (rng.random(shape) > rng.random((num, 1, 1))).astype(float)
    for mask, kind in zip(target, rng.integers(0, 6, num)):
        if kind < 3:
            mask[:] = kind == 1
            mask[height // 2, width // 2] = kind > 0
        elif kind == 3 and target_dtype.is_floating_point:
            mask[:] = rng.random((height, width))
    # As the loss will see it.
    target = torch.tensor(target).to(target_dtype)
    exact = target.double().numpy()
    logits = rng.normal(size=shape) * 10 ** rng.uniform(-4, 4, (num, 1, 1))
    saturated = rng.random(num) < 0.2
    logits[saturated] = np.sign(logits[saturated]) * 1e4
    agree = rng.random(num) < 0.25
    if pred_dtype in (torch.float16, torch.bfloat16):
        # They have no logit for each probability.
        agree &= np.isin(exact, (0, 1)).all(axis=(1, 2))
    with np.errstate(divide='ignore'):
        logits[agree] = np.log(exact[agree]) - np.log1p(-exact[agree])
    return torch.tensor(logits.clip(-1e4, 1e4), dtype=pred_dtype).requires_grad_(), target, torch.tensor(agree)


FILTERS = st.lists(st.sampled_from(list(EDGE_FILTERS)), min_size=1, unique=True)
FLOATS = [torch.float32, torch.float32, torch.float64, torch.float16, torch.bfloat16]
SIDES = st.one_of(st.integers(2, 9), st.sampled_from([14, 28]))


CASES = dict(
    seed=st.integers(0, 2**32 - 1),
    num=st.integers(0, 4),
    size=st.tuples(SIDES, SIDES),
    pred_dtype=st.sampled_from(FLOATS),
    target_dtype=st.sampled_from([*FLOATS, torch.bool, torch.uint8]),
    filters=FILTERS,
    exponent=st.one_of(st.floats(1, 8), st.sampled_from([1.0, 1.5, 2.0, 5.0, 8.0])),
    smooth=st.tuples(st.booleans(), st.booleans()),
    padding_mode=st.sampled_from(['zeros', 'replicate', 'reflect']),
    loss_weight=st.floats(0, 10),
    flip=st.sampled_from(list(FLIPS)),
)


def check_properties(
    seed, num, size, pred_dtype, target_dtype, filters, exponent, smooth, padding_mode, loss_weight, flip
):
    if pred_dtype == torch.float16:
        # The loss is computed in float32, but its gradient has to fit into float16.
        exponent = min(exponent, 5)
    pred, target, agree = make_masks(seed, num, *size, pred_dtype, target_dtype)
    loss = EdgeLoss(filters, exponent, *smooth, padding_mode, reduction='none')
    each = loss(pred, target)
    assert each.shape == (num,)
    assert each.dtype == (torch.float64 if pred_dtype == torch.float64 else torch.float32)
    assert each.isfinite().all() and (each >= 0).all()
    # The gradient of each on its own, as in the smallest batch.
    (gradient,) = torch.autograd.grad(each.sum(), pred)
    assert gradient.dtype == pred_dtype and gradient.isfinite().all()
    if smooth[0] == smooth[1]:
        assert (each[agree] < 1e-5).all()

    loss.loss_weight, expected = loss_weight, each.sum() / max(num, 1)
    # float32 knows 0 to 1e-45: what is smaller may be lost.
    mean = loss(pred, target, reduction_override='mean')
    torch.testing.assert_close(mean, loss_weight * expected, rtol=1e-5, atol=1e-30)
    if all(flip in KEEPS[name] for name in filters):
        loss.loss_weight = 1
        torch.testing.assert_close(loss(FLIPS[flip](pred), FLIPS[flip](target)), each, rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=300)
@given(**CASES)
def test_properties(**case):
    check_properties(**case)


@pytest.mark.soak
@settings(deadline=None, max_examples=10_000)
@given(**CASES)
def test_properties_of_many_examples(**case):
    check_properties(**case)


@pytest.mark.parametrize('name', EDGE_FILTERS)
@pytest.mark.parametrize('flip', FLIPS)
def test_the_rule_of_flips_is_that_of_the_kernels(name, flip):
    kernels = torch.tensor(EDGE_FILTERS[name])
    signed = torch.cat([kernels, -kernels])
    flipped = FLIPS[flip](kernels)
    assert (flip in KEEPS[name]) == all((signed == kernel).flatten(1).all(dim=1).any() for kernel in flipped)
    gaussian = torch.tensor(GAUSSIAN_KERNEL)
    assert torch.equal(FLIPS[flip](gaussian), gaussian)


@pytest.mark.parametrize('flip', ['left-right', 'up-down', 'turned'])
def test_roberts_is_not_flipped(flip):
    pred, target, _ = make_masks(1, 4, 8, 8, torch.float32, torch.float32)
    there = edge_loss(pred, target, filters='roberts', reduction='none')
    flipped = edge_loss(FLIPS[flip](pred), FLIPS[flip](target), filters='roberts', reduction='none')
    assert ((there - flipped).abs() > 1e-3).any()


@settings(deadline=None, max_examples=100, derandomize=True)
@given(
    channels=st.one_of(st.none(), st.integers(1, 80)),
    size=st.tuples(st.integers(2, 30), st.integers(2, 30)),
    dtype=st.sampled_from(FLOATS),
    filters=FILTERS,
    exponent=st.floats(1, 8),
    reduction=st.sampled_from(['mean', 'sum', 'none']),
    loss_class=st.sampled_from([EdgeLoss, EdgeWeightedCrossEntropyLoss]),
)
def test_no_instance(channels, size, dtype, filters, exponent, reduction, loss_class):
    pred = torch.zeros((0, *size) if channels is None else (0, channels, *size), dtype=dtype, requires_grad=True)
    label = None if channels is None else torch.zeros(0, dtype=torch.long)
    loss = loss_class(filters, exponent, reduction=reduction)(pred, torch.zeros(0, *size), label)
    assert loss.shape == ((0,) if reduction == 'none' else ()) and loss.sum() == 0
    (gradient,) = torch.autograd.grad(loss.sum(), pred)
    assert gradient.shape == pred.shape


@settings(deadline=None, max_examples=100, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    pred_dtype=st.sampled_from(FLOATS),
    filters=st.sampled_from(['sobel', 'prewitt', 'laplacian', 'roberts']),
    exponent=st.floats(1, 2),
)
def test_weighted_cross_entropy(seed, pred_dtype, filters, exponent):
    """Where its weight cannot overflow, which it warns of, the other loss is finite too."""
    pred, target, agree = make_masks(seed, 6, 9, 7, pred_dtype, torch.bool)
    each = EdgeWeightedCrossEntropyLoss(filters, exponent, reduction='none')(pred, target)
    (gradient,) = torch.autograd.grad(each.sum(), pred)
    assert each.isfinite().all() and (each >= 0).all() and gradient.isfinite().all()
    assert (each[agree] < 1e-6).all()


@pytest.mark.parametrize('size', [(14, 14), (28, 28), (56, 56)])
def test_float16_with_the_largest_responses(size):
    # A checkerboard of diagonal edges: kayyali answers with 12, and 12 ** 5 is far beyond float16.
    board = (torch.arange(size[0])[:, None] // 2 + torch.arange(size[1]) // 2) % 2
    target = board.expand(8, *size).half()
    for scale in (1, 10, 1e4):
        pred = ((0.5 - target) * scale).half().requires_grad_()
        loss = edge_loss(pred, target, filters='kayyali', exponent=5)
        loss.backward()
        assert loss.isfinite() and loss > 65504 / 10**4 and pred.grad.isfinite().all()
        assert pred.grad.dtype == torch.float16
    assert loss > 65504 / 4


def train_head(dtype, seed, steps=50):
    """Train a small mask head on RoI features of discs, as RoIs have them; return the losses of each step."""
    init_default_scope('mmdet')
    torch.manual_seed(seed)
    head = EdgeAgreementMaskHead(num_convs=2, in_channels=8, conv_out_channels=16, num_classes=3)
    head.init_weights()
    optimizer = torch.optim.SGD(head.parameters(), lr=0.02, momentum=0.9)
    rows, columns = torch.meshgrid(torch.arange(28), torch.arange(28), indexing='ij')
    losses = []
    for _ in range(steps):
        centre, radius = 14 + 3 * torch.randn(16, 2, 1, 1), 6 + 3 * torch.rand(16, 1, 1)
        targets = ((rows - centre[:, 0]) ** 2 + (columns - centre[:, 1]) ** 2 < radius**2).float()
        features = torch.nn.functional.avg_pool2d(targets[:, None], 2) + 0.3 * torch.randn(16, 8, 14, 14)
        labels = torch.randint(3, (16,))
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            preds = head(features)
            assert preds.dtype == dtype
            parts = torch.stack([head.loss_mask(preds, targets, labels).sum(), head.loss_edge(preds, targets, labels)])
        assert parts.isfinite().all() and parts.dtype == torch.float32
        optimizer.zero_grad()
        parts.sum().backward()
        optimizer.step()
        losses.append(parts.detach())
    return torch.stack(losses)


@pytest.mark.parametrize('seed', [0, 1])
def test_training_with_bfloat16_follows_float32(seed):
    exact, rounded = (train_head(dtype, seed) for dtype in (torch.float32, torch.bfloat16))
    assert (exact[-5:].mean(0) < 0.5 * exact[:5].mean(0)).all()
    assert ((rounded - exact).abs() <= TOLERANCE * exact).all()


TOLERANCE = 0.05
