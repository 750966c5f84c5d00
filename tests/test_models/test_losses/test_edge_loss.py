import inspect
import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.registry import MODELS

from mmdet_edge import EdgeLoss, EdgeWeightedCrossEntropyLoss, edge_loss
from mmdet_edge.models.losses.edge_filters import EDGE_FILTERS

BOTH = pytest.mark.parametrize('loss_class', [EdgeLoss, EdgeWeightedCrossEntropyLoss])


def masks(num=3, height=28, width=28, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pred = torch.randn(num, height, width, generator=generator, dtype=dtype) * 3
    target = (torch.rand(num, height, width, generator=generator) > 0.5).to(dtype)
    return pred.requires_grad_(), target


def test_by_hand():
    # sigmoid(0) = 0.5 everywhere, target 1 in the middle: the residual is 0.5, and -0.5 in the middle. Roberts'
    # differences on a 2x2 mask, padded below and right with zeros:
    #   r = [-0.5  0.5]   first: [-1.0  0.5]   second: [0.0 -0.5]
    #       [ 0.5  0.5]          [ 0.5  0.5]           [0.5  0.0]
    target = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    loss = edge_loss(torch.zeros(1, 2, 2), target, filters='roberts', exponent=1)
    assert loss.item() == pytest.approx((1.0 + 3 * 0.5 + 2 * 0.5) / 8)
    loss = edge_loss(torch.zeros(1, 2, 2), target, filters='roberts', exponent=2, loss_weight=3)
    assert loss.item() == pytest.approx(3 * (1.0 + 3 * 0.25 + 2 * 0.25) / 8)


def test_one_convolution_of_the_residual_equals_two():
    pred, target = masks()
    from mmdet_edge.models.losses.edge_filters import filter_masks, get_edge_kernels

    kernels = get_edge_kernels(['sobel', 'roberts'])
    two = filter_masks(pred.sigmoid(), kernels) - filter_masks(target, kernels)
    assert edge_loss(pred, target, filters=['sobel', 'roberts']).item() == pytest.approx(
        two.square().mean().item(), rel=1e-5
    )


@pytest.mark.parametrize('filters', [*EDGE_FILTERS, ['sobel', 'laplacian'], list(EDGE_FILTERS)])
@pytest.mark.parametrize('smoothing', [(False, False), (True, False), (False, True), (True, True)])
@BOTH
def test_gradcheck(loss_class, filters, smoothing):
    pred, target = masks(2, 7, 6, torch.float64)
    loss = loss_class(filters, 2.5, *smoothing).double()
    assert torch.autograd.gradcheck(lambda x: loss(x, target), pred, fast_mode=True)
    assert loss(pred, target).dtype == torch.float64


@pytest.mark.parametrize('padding_mode', ['zeros', 'replicate', 'reflect'])
@pytest.mark.parametrize('exponent', [1, 1.5, 2, 3.7, 5])
def test_gradcheck_of_exponents_and_padding(exponent, padding_mode):
    pred, target = masks(2, 7, 6, torch.float64)
    loss = EdgeLoss(exponent=exponent, padding_mode=padding_mode)
    assert torch.autograd.gradcheck(lambda x: loss(x, target), pred, fast_mode=True)


@pytest.mark.parametrize('exponent', [1, 1.2, 2, 5])
@BOTH
def test_gradient_is_finite_where_nothing_disagrees(loss_class, exponent):
    # |x| ** p has no slope at 0 for p = 1 and an infinite curvature below 2.
    pred = torch.full((2, 9, 9), 200.0, requires_grad=True)
    loss = loss_class(exponent=exponent)(pred, torch.ones(2, 9, 9))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(pred.grad, torch.zeros_like(pred))


@pytest.mark.parametrize('size', [(7, 7), (14, 14), (28, 28), (28, 56), (9, 5), (112, 112)])
@BOTH
def test_sizes(loss_class, size):
    pred, target = masks(2, *size)
    loss = loss_class()(pred, target)
    assert loss.shape == () and loss > 0
    (gradient,) = torch.autograd.grad(loss, pred)
    assert gradient.shape == pred.shape and gradient.isfinite().all()


@BOTH
def test_selects_the_channel_of_the_label(loss_class):
    pred = torch.randn(4, 3, 10, 10, requires_grad=True)
    target = (torch.rand(4, 10, 10) > 0.5).float()
    label = torch.tensor([0, 2, 0, 1])
    loss = loss_class()(pred, target, label)
    assert loss.item() == loss_class()(pred[range(4), label], target).item()
    loss.backward()
    touched = pred.grad.abs().sum(dim=(2, 3)) > 0
    assert torch.equal(touched.nonzero()[:, 1], label)


@BOTH
def test_one_class_and_label_0(loss_class):
    # Label 0 is a class like any other, also where all labels are 0.
    pred, target = masks()
    one_channel = pred.detach()[:, None].requires_grad_()
    loss = loss_class()(one_channel, target, torch.zeros(3, dtype=torch.long))
    assert loss.item() == loss_class()(pred, target).item() > 0
    loss.backward()
    assert one_channel.grad.abs().sum() > 0


@pytest.mark.parametrize('shape', [(0, 28, 28), (0, 80, 28, 28)])
@BOTH
def test_no_instance(loss_class, shape):
    pred = torch.randn(shape, requires_grad=True)
    label = torch.zeros(0, dtype=torch.long) if len(shape) == 4 else None
    loss = loss_class()(pred, torch.zeros(0, 28, 28), label)
    assert loss.shape == () and loss.item() == 0 and loss.dtype == torch.float32
    (gradient,) = torch.autograd.grad(loss, pred)
    assert gradient.shape == shape
    none = loss_class(reduction='none')(pred, torch.zeros(0, 28, 28), label)
    assert none.shape == (0,) and none.requires_grad


def test_reductions_and_weights():
    pred, target = masks(4)
    each = edge_loss(pred, target, reduction='none')
    assert each.shape == (4,)
    assert edge_loss(pred, target).item() == pytest.approx(each.mean().item())
    assert edge_loss(pred, target, reduction='sum').item() == pytest.approx(each.sum().item())
    weight = torch.tensor([0.0, 1.0, 2.0, 0.5])
    weighted = edge_loss(pred, target, weight=weight, avg_factor=3.5)
    assert weighted.item() == pytest.approx(((each * weight).sum() / 3.5).item(), rel=1e-5)
    loss = EdgeLoss()
    assert torch.equal(loss(pred, target, reduction_override='none'), each)
    assert EdgeLoss(loss_weight=0)(pred, target).item() == 0


@pytest.mark.parametrize('options', [{}, dict(filters=['roberts', 'sobel'], exponent=1.5, smooth_target=True)])
def test_module_equals_function(options):
    pred, target = masks()
    assert torch.equal(EdgeLoss(**options)(pred, target), edge_loss(pred, target, **options))


def test_module_and_function_have_the_same_options():
    ours = inspect.signature(EdgeLoss).parameters
    function = inspect.signature(edge_loss).parameters
    assert list(function.values())[-len(ours) :] == list(ours.values())
    weighted = list(inspect.signature(EdgeWeightedCrossEntropyLoss).parameters.values())
    # The cross entropy is a mean over the map, of logits.
    assert weighted[:-1] == list(ours.values())[:-2] and weighted[-1].name == 'temperature'


def test_wrong_options_of_the_function():
    with pytest.raises(ValueError, match='^edge_loss: exponent must be finite and at least 1, got 0.5'):
        edge_loss(*masks(), exponent=0.5)
    with pytest.raises(ValueError, match="^edge_loss: unknown edge filter 'sobl'.*did you mean 'sobel'"):
        edge_loss(*masks(), filters='sobl')
    with pytest.raises(ValueError, match='^edge_loss: target must have the shape'):
        edge_loss(masks()[0], torch.zeros(3, 5, 5))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@BOTH
def test_half_precision_inputs(loss_class, dtype):
    # kayyali, p = 5 reaches 12 ** 5, beyond fp16.
    pred, target = masks()
    half = pred.detach().to(dtype).requires_grad_()
    options = dict(filters='kayyali', exponent=5 if loss_class is EdgeLoss else 2)
    loss = loss_class(**options)(half, target.to(dtype))
    assert loss.dtype == torch.float32
    assert loss.item() == loss_class(**options)(half.float(), target).item()
    (gradient,) = torch.autograd.grad(loss, half)
    assert gradient.dtype == dtype


@BOTH
def test_autocast(loss_class):
    pred, target = masks()
    expected = loss_class()(pred, target)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = loss_class()(pred, target)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


def test_targets_of_any_dtype_and_soft():
    pred, target = masks()
    expected = edge_loss(pred, target)
    for dtype in (torch.bool, torch.uint8, torch.float64):
        assert torch.equal(edge_loss(pred, target.to(dtype)), expected)
    soft = pred.detach().sigmoid()
    assert edge_loss(pred, soft).item() == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize('normalize_by', ['map', 'edges'])
@pytest.mark.parametrize('smooth', [False, True])
def test_probabilities(smooth, normalize_by):
    pred, target = masks()
    options = dict(exponent=1.5, smooth_pred=smooth, normalize_by=normalize_by)
    expected = EdgeLoss(**options)(pred, target)
    assert torch.equal(EdgeLoss(**options, activate=False)(pred.sigmoid(), target), expected)
    assert torch.equal(edge_loss(pred.sigmoid(), target, **options, activate=False), expected)


@pytest.mark.parametrize('filters', EDGE_FILTERS)
@pytest.mark.parametrize('exponent', [1, 2, 3])
def test_relative_to_its_edges_an_object_counts_the_same_at_any_size(filters, exponent):
    target = torch.zeros(3, 32, 32)
    target[0, 10, 10] = target[1, 5:9, 6:10] = target[2, 2:30, 2:20] = 1
    options = dict(filters=filters, exponent=exponent, reduction='none', normalize_by='edges')
    nothing = torch.full_like(target, -1e4)
    assert edge_loss(nothing, target, **options).tolist() == pytest.approx([1, 1, 1])
    # Without a target, one pixel too many counts as much as one that is missing.
    assert edge_loss(target[:1] * 2e4 - 1e4, torch.zeros(1, 32, 32), **options).item() == pytest.approx(1)
    # Half of the map, half of the object: the same number.
    assert edge_loss(nothing[..., :20], target[..., :20], **options)[:2].tolist() == pytest.approx([1, 1])


def test_relative_to_its_edges_it_is_a_ratio_of_means():
    pred, target = masks(4, 9, 7, torch.float64)
    options = dict(exponent=1.5, reduction='none', padding_mode='reflect')
    nothing = torch.full_like(target, -1e4)
    ratio = edge_loss(pred, target, **options) / edge_loss(nothing, target, **options)
    torch.testing.assert_close(edge_loss(pred, target, **options, normalize_by='edges'), ratio)
    loss = EdgeLoss(exponent=1.5, normalize_by='edges')
    assert torch.autograd.gradcheck(lambda x: loss(x, target), pred, fast_mode=True)
    # Whatever says how masks are combined applies to the ratios.
    weight = torch.tensor([0.0, 1.0, 2.0, 3.0])
    value = edge_loss(pred, target, weight=weight, avg_factor=8.0, exponent=1.5, normalize_by='edges')
    each = edge_loss(pred, target, exponent=1.5, reduction='none', normalize_by='edges')
    torch.testing.assert_close(value, (each * weight).sum() / 8)


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        (dict(activate=0), TypeError, 'activate must be True or False, got 0'),
        (dict(normalize_by='box'), ValueError, "normalize_by must be one of .*got 'box'"),
    ],
)
def test_wrong_options_for_whole_images(options, error, message):
    with pytest.raises(error, match=f'^EdgeLoss: {message}'):
        EdgeLoss(**options)
    with pytest.raises(error, match=f'^edge_loss: {message}'):
        edge_loss(*masks(), **options)


def test_the_log_names_what_differs_from_a_roi():
    assert 'normalize' not in EdgeLoss().extra_repr() and 'activate' not in EdgeLoss().extra_repr()
    assert EdgeLoss(activate=False, normalize_by='edges').extra_repr().endswith('normalize_by=edges, activate=False')


def test_non_contiguous():
    pred, target = masks(2, 12, 9)
    assert edge_loss(pred.mT, target.mT).item() == pytest.approx(
        edge_loss(pred.mT.contiguous(), target.mT.contiguous()).item()
    )
    assert not pred.mT.is_contiguous()


@settings(deadline=None, max_examples=40)
@given(
    exponent=st.floats(1, 5),
    seed=st.integers(0, 1000),
    filters=st.lists(st.sampled_from(list(EDGE_FILTERS)), min_size=1, unique=True),
)
def test_properties(exponent, seed, filters):
    pred, target = masks(2, 8, 8, torch.float64, seed)
    loss = edge_loss(pred, target, filters=filters, exponent=exponent)
    assert loss >= 0
    # Exchanging object and background changes nothing; the order of the filters neither.
    assert edge_loss(-pred, 1 - target, filters=filters, exponent=exponent).item() == pytest.approx(loss.item())
    assert edge_loss(pred, target, filters=filters[::-1], exponent=exponent).item() == pytest.approx(loss.item())


def test_registered_and_without_state():
    loss = MODELS.build(dict(type='EdgeLoss', filters=['sobel', 'roberts']))
    assert isinstance(loss, EdgeLoss)
    # Nothing to move to a device, nothing in a checkpoint.
    assert not list(loss.parameters()) and not list(loss.buffers())


def test_logs_once_that_it_is_on(caplog):
    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    try:
        with caplog.at_level(logging.INFO):
            loss = EdgeLoss(['sobel', 'laplacian'], exponent=1.5, smooth_target=True, loss_weight=3)
            loss.eval()
            assert not caplog.messages
            # As a training loop does, before the first iteration and after each evaluation.
            for _ in range(2):
                loss.train()
                loss(*masks())
    finally:
        logger.removeHandler(caplog.handler)
    (line,) = caplog.messages
    for part in ('filters=sobel+laplacian', 'exponent=1.5', 'smoothing=target', 'loss_weight=3'):
        assert part in line


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        (dict(filters='scharr'), ValueError, "unknown edge filter 'scharr', expected one of sobel"),
        (dict(filters=[]), ValueError, 'filters is empty'),
        (dict(exponent=0.5), ValueError, 'exponent must be finite and at least 1, got 0.5'),
        (dict(exponent=float('nan')), ValueError, 'exponent must be finite'),
        (dict(exponent=float('inf')), ValueError, 'exponent must be finite'),
        (dict(exponent='2'), TypeError, "exponent must be a number, got '2'"),
        (dict(exponent=True), TypeError, 'exponent must be a number'),
        (dict(loss_weight=-1), ValueError, 'loss_weight must be finite and at least 0, got -1'),
        (dict(loss_weight=float('inf')), ValueError, 'loss_weight must be finite'),
        (dict(reduction='avg'), ValueError, "reduction must be one of .*got 'avg'"),
        (dict(padding_mode='same'), ValueError, "padding_mode must be one of .*got 'same'"),
        (dict(smooth_pred=1), TypeError, 'smooth_pred must be True or False, got 1'),
        (dict(smooth_target='yes'), TypeError, 'smooth_target must be True or False'),
    ],
)
@BOTH
def test_wrong_options(loss_class, options, error, message):
    with pytest.raises(error, match=f'^{loss_class.__name__}: .*{message}'):
        loss_class(**options)


@pytest.mark.parametrize(
    ('pred', 'target', 'options', 'message'),
    [
        (
            (2, 5, 8, 8),
            (2, 8, 8),
            {},
            r'without label, pred must be \(N, H, W\), got \(2, 5, 8, 8\)',
        ),
        (
            (2, 8, 8),
            (2, 8, 8),
            dict(label=torch.zeros(2).long()),
            r'with label, pred must be \(N, C, H, W\)',
        ),
        (
            (2, 8, 8),
            (2, 7, 8),
            {},
            r'target must have the shape.*\(2, 8, 8\), got \(2, 7, 8\).*mask_size',
        ),
        ((2, 8, 8), (2, 1, 8, 8), {}, 'target must have the shape'),
        ((2, 5, 8, 8), (2, 8, 8), dict(label=torch.zeros(3).long()), 'label must be 2 integers'),
        ((2, 5, 8, 8), (2, 8, 8), dict(label=torch.zeros(2)), 'label must be 2 integers.*float32'),
        (
            (2, 8, 8),
            (2, 8, 8),
            dict(weight=torch.ones(3)),
            r'weight must have one number per mask, \(2,\)',
        ),
        ((2, 8, 8), (2, 8, 8), dict(reduction_override='avg'), 'reduction_override must be one of'),
    ],
)
@BOTH
def test_wrong_call(loss_class, pred, target, options, message):
    with pytest.raises(ValueError, match=f'^{loss_class.__name__}: {message}'):
        loss_class()(torch.zeros(pred), torch.zeros(target), **options)


@pytest.mark.parametrize('smooth', [False, True])
@pytest.mark.parametrize(('mode', 'side'), [('zeros', 1), ('replicate', 1), ('reflect', 2)])
@BOTH
def test_masks_too_small_for_their_border(loss_class, mode, side, smooth):
    loss = loss_class(padding_mode=mode, smooth_pred=smooth)
    assert loss(torch.zeros(2, side, side), torch.zeros(2, side, side)) >= 0
    message = f'^{loss_class.__name__}: with padding_mode={mode!r} masks must be at least {side}x{side}, got '
    for size in ((side - 1, 5), (5, side - 1)):
        with pytest.raises(ValueError, match=f'{message}{size[0]}x{size[1]}$'):
            loss(torch.zeros(2, *size), torch.zeros(2, *size))
        assert loss(torch.zeros(0, *size), torch.zeros(0, *size)) == 0
