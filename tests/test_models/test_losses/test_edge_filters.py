import numpy as np
import pytest
import torch

from mmdet_edge.models.losses.edge_filters import (
    EDGE_FILTERS,
    GAUSSIAN_KERNEL,
    check_filter_names,
    convolve,
    correlate,
    filter_masks,
    get_edge_kernels,
    separate,
    takes_convolution,
)


def step(height=5, width=5, column=2):
    """A straight unit step: 1 from the given column on."""
    mask = torch.zeros(1, height, width)
    mask[..., column:] = 1
    return mask


# The largest response of each filter to a straight unit step, away from the border (PEERS: 4, 3, 0, 1, 3).
@pytest.mark.parametrize(
    ('name', 'response'),
    [('sobel', 4), ('prewitt', 3), ('kayyali', 0), ('roberts', 1), ('laplacian', 3)],
)
def test_response_to_a_straight_step(name, response):
    responses = filter_masks(step(7, 8, 4), get_edge_kernels([name]))[0, :, 2:5, 2:6]
    assert responses.abs().max() == response


def test_sobel_by_hand():
    image = torch.zeros(1, 5, 5)
    image[0, 1:4, 1:4] = 1
    vertical, horizontal = filter_masks(image, get_edge_kernels(['sobel']))[0]
    # Cross-correlation, not flipped, with [1 2 1; 0 0 0; -1 -2 -1]: what lies above minus what lies below.
    expected = torch.tensor(
        [
            [-1, -3, -4, -3, -1],
            [-1, -3, -4, -3, -1],
            [0, 0, 0, 0, 0],
            [1, 3, 4, 3, 1],
            [1, 3, 4, 3, 1],
        ]
    ).float()
    assert torch.equal(vertical, expected)
    assert torch.equal(horizontal.abs(), expected.T.abs())


def test_laplacian_by_hand():
    image = torch.zeros(1, 5, 5)
    image[0, 2, 2] = 1
    (response,) = filter_masks(image, get_edge_kernels(['laplacian']))[0]
    expected = torch.zeros(5, 5)
    expected[1:4, 1:4] = 1
    expected[2, 2] = -8
    assert torch.equal(response, expected)


def test_kayyali_by_hand():
    image = torch.zeros(1, 5, 5)
    image[0, 2, 2] = 1
    first, second = filter_masks(image, get_edge_kernels(['kayyali']))[0]
    expected = torch.zeros(5, 5)
    expected[1, 1] = expected[3, 3] = -6
    expected[1, 3] = expected[3, 1] = 6
    assert torch.equal(first, -second)
    assert torch.equal(first.abs(), expected.abs())


def test_roberts_pads_below_and_right():
    image = torch.arange(12.0).reshape(1, 3, 4)
    padded = torch.nn.functional.pad(image, (0, 1, 0, 1))[0]
    here, right = padded[:-1, :-1], padded[:-1, 1:]
    below, diagonal = padded[1:, :-1], padded[1:, 1:]
    first, second = filter_masks(image, get_edge_kernels(['roberts']))[0]
    assert torch.equal(first, here - diagonal)
    assert torch.equal(second, right - below)


def test_padding_modes_differ_at_the_border_only():
    image = torch.ones(1, 6, 7)
    zeros = filter_masks(image, get_edge_kernels(['sobel']), 'zeros')
    assert zeros[..., 1:-1, 1:-1].abs().max() == 0
    assert zeros.abs().max() == 4
    for mode in ('replicate', 'reflect'):
        assert filter_masks(image, get_edge_kernels(['sobel']), mode).abs().max() == 0


def test_kernels_of_several_filters():
    assert np.shape(get_edge_kernels(['sobel', 'laplacian', 'roberts'])) == (5, 3, 3)


@pytest.mark.parametrize(
    ('filters', 'error', 'message'),
    [
        ('sobell', ValueError, "unknown edge filter 'sobell'.*did you mean 'sobel'"),
        ('laplace', ValueError, "did you mean 'laplacian'"),
        ('Sobel', ValueError, "did you mean 'sobel'"),
        (['sobel', 'xyz'], ValueError, "unknown edge filter 'xyz', expected one of sobel, prewitt"),
        ([], ValueError, 'filters is empty.*loss_edge=None'),
        (['sobel', 'sobel'], ValueError, 'named twice'),
        (None, TypeError, 'must be a name or a list of names'),
        ([1], TypeError, 'must be a name or a list of names'),
    ],
)
def test_wrong_names(filters, error, message):
    with pytest.raises(error, match=f'Owner: .*{message}|{message}'):
        check_filter_names(filters, 'Owner')


def test_every_kernel_is_blind_to_a_constant():
    assert not np.sum(get_edge_kernels(list(EDGE_FILTERS)), axis=(1, 2)).any()


@pytest.mark.parametrize('padding_mode', ['zeros', 'replicate', 'reflect'])
def test_equals_convolution(padding_mode):
    # Named filters, the Gaussian and a kernel of full rank; non-square maps.
    kernels = (*get_edge_kernels(list(EDGE_FILTERS)), GAUSSIAN_KERNEL, ((1, 2, 0), (0, 3, 1), (5, 0, -2)))
    masks = torch.randn(3, 6, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(
        masks[:, None], (1, 1, 1, 1), mode='constant' if padding_mode == 'zeros' else padding_mode
    )
    expected = torch.nn.functional.conv2d(padded, torch.tensor(kernels, dtype=torch.float64)[:, None])
    assert torch.allclose(filter_masks(masks, kernels, padding_mode), expected, atol=1e-6)


def test_kernels_are_short_sums_of_outer_products():
    for kernel in (*get_edge_kernels(list(EDGE_FILTERS)), GAUSSIAN_KERNEL):
        terms = separate(kernel)
        assert len(terms) <= 2
        assert np.allclose(sum(np.outer(column, row) for column, row in terms), kernel, atol=1e-6)


@pytest.mark.parametrize('padding', [0, 1, 2])
def test_in_one_convolution(padding):
    kernels = get_edge_kernels(list(EDGE_FILTERS))
    maps, responses = torch.randn(3, 6, 9, dtype=torch.float64), torch.randn(3, 9, 6, 9, dtype=torch.float64)
    weight = torch.tensor(kernels, dtype=torch.float64)[:, None]
    expected = torch.nn.functional.conv2d(maps[:, None], weight, padding=padding)
    torch.testing.assert_close(convolve(maps, kernels, padding), expected)
    # The transposed convolution takes away what the padding adds.
    expected = torch.nn.functional.conv_transpose2d(responses, weight, padding=2 - padding)[:, 0]
    torch.testing.assert_close(convolve(responses, kernels, padding, adjoint=True), expected)


def test_a_cpu_takes_the_shifted_copies():
    assert not takes_convolution(torch.zeros(2, 3, 3))


def test_adjoint():
    # <F a, b> = <a, F' b>.
    a, b = torch.randn(2, 2, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for kernel in get_edge_kernels(list(EDGE_FILTERS)):
        forth = correlate(a, kernel, torch.zeros_like(a), torch.empty_like(a))
        back = correlate(b, kernel, torch.zeros_like(b), torch.empty_like(b), adjoint=True)
        assert (forth * b).sum().item() == pytest.approx((a * back).sum().item())
