"""The fixed filters of the Edge Agreement Head.

Source: Zimmermann & Siems, arXiv 1809.07069, and the authors' code. Every kernel is stored as 3x3: the 2x2 Roberts
kernels sit in the lower right corner, which is the same as padding one row below and one column right of the map.

For one input channel a convolution is slow: its backward alone costs many times the mask cross entropy. Each kernel is
a sum of one or two outer products, so that filtering adds shifted copies of the map, first along its rows, then along
its columns. The taps are Python numbers, which need no device and are not in the state dict.

Shape letters: N instances, D kernels, H and W mask height and width.
"""

import difflib
from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

Taps = tuple[float, ...]
Kernel = tuple[tuple[float, ...], ...]

EDGE_FILTERS: dict[str, tuple[Kernel, ...]] = {
    'sobel': (
        ((1, 2, 1), (0, 0, 0), (-1, -2, -1)),
        ((1, 0, -1), (2, 0, -2), (1, 0, -1)),
    ),
    'prewitt': (
        ((1, 1, 1), (0, 0, 0), (-1, -1, -1)),
        ((1, 0, -1), (1, 0, -1), (1, 0, -1)),
    ),
    'kayyali': (
        ((6, 0, -6), (0, 0, 0), (-6, 0, 6)),
        ((-6, 0, 6), (0, 0, 0), (6, 0, -6)),
    ),
    'roberts': (
        ((0, 0, 0), (0, 1, 0), (0, 0, -1)),
        ((0, 0, 0), (0, 0, 1), (0, -1, 0)),
    ),
    'laplacian': (((1, 1, 1), (1, -8, 1), (1, 1, 1)),),
}
"""Filter name -> its 3x3 kernels, applied as cross-correlation (not flipped)."""

GAUSSIAN_KERNEL = (
    (0.077847, 0.123317, 0.077847),
    (0.123317, 0.195346, 0.123317),
    (0.077847, 0.123317, 0.077847),
)
"""The smoothing kernel of the authors' code (pixel-integrated, sigma = 1)."""

PADDING_MODES = ('zeros', 'replicate', 'reflect')
"""Known values beyond the mask's border; the authors' code has zeros."""


def check_filter_names(filters: str | Sequence[str], owner: str) -> tuple[str, ...]:
    """Check filter names and return them as a tuple.

    Args:
        filters (str | Sequence[str]): One name or several, out of :data:`EDGE_FILTERS`.
        owner (str): Class or function that needs them; begins the error message.

    Returns:
        tuple[str, ...]: The names, in the order given.

    Raises:
        TypeError: If ``filters`` is neither a name nor a sequence of names.
        ValueError: If it is empty, names an unknown filter or one filter twice.
    """
    known = ', '.join(EDGE_FILTERS)
    names = [filters] if isinstance(filters, str) else filters
    if not isinstance(names, (list, tuple)) or not all(isinstance(n, str) for n in names):
        raise TypeError(f'{owner}: filters must be a name or a list of names ({known}), got {filters!r}')
    if not names:
        raise ValueError(
            f'{owner}: filters is empty, which would train without an edge loss. Name at least one '
            f'of {known}; to switch the edge loss off, set loss_edge=None on the mask head'
        )
    for name in names:
        if name not in EDGE_FILTERS:
            near = difflib.get_close_matches(name.lower(), EDGE_FILTERS, n=1)
            hint = f'; did you mean {near[0]!r}?' if near else ''
            raise ValueError(f'{owner}: unknown edge filter {name!r}, expected one of {known}{hint}')
    if len(set(names)) < len(names):
        raise ValueError(f'{owner}: a filter is named twice in {list(names)}; name each once')
    return tuple(names)


def get_edge_kernels(filters: Sequence[str]) -> tuple[Kernel, ...]:
    """Return the kernels of the named filters.

    Args:
        filters (Sequence[str]): Names out of :data:`EDGE_FILTERS`.

    Returns:
        tuple[Kernel, ...]: D kernels of 3 rows of 3 numbers; D sums the kernels of all filters.

    Example:
        >>> len(get_edge_kernels(['sobel', 'laplacian']))
        3
    """
    return tuple(kernel for name in filters for kernel in EDGE_FILTERS[name])


@cache
def separate(kernel: Kernel) -> tuple[tuple[Taps, Taps], ...]:
    """Write a kernel as a sum of outer products.

    Args:
        kernel (Kernel): 3 rows of 3 numbers.

    Returns:
        tuple[tuple[Taps, Taps], ...]: Pairs of a column and a row, whose outer products add up to the kernel.

    Example:
        >>> separate(EDGE_FILTERS['sobel'][0])
        (((1.0, 0.0, -1.0), (1.0, 2.0, 1.0)),)
    """
    # Plain Python, which torch.compile can trace.
    rest = [[float(tap) for tap in row] for row in kernel]
    # The Gaussian is an outer product up to the rounding of its six digits.
    negligible = 1e-5 * max(abs(tap) for row in rest for tap in row)
    terms = []
    for i in range(3):
        for j in range(3):
            if abs(rest[i][j]) > negligible:
                column, row = tuple(line[j] / rest[i][j] for line in rest), tuple(rest[i])
                terms.append((column, row))
                rest = [[tap - factor * x for tap, x in zip(line, row)] for factor, line in zip(column, rest)]
    return tuple(terms)


def add_shifted(total: Tensor, maps: Tensor, taps: Taps, dim: int) -> Tensor:
    """Cross-correlate maps along one dimension and add the result to ``total``, in place.

    Args:
        total (Tensor): Added to, shape of ``maps``.
        maps (Tensor): Shape (N, H, W); zeros lie beyond the border.
        taps (Taps): Weights of the neighbour before, the element itself and the neighbour after.
        dim (int): 1 along the columns, 2 along the rows.

    Returns:
        Tensor: ``total``.
    """
    for shift, tap in zip((-1, 0, 1), taps):
        if tap:
            length = maps.size(dim) - abs(shift)
            shifted = maps.narrow(dim, max(shift, 0), length)
            total.narrow(dim, max(-shift, 0), length).add_(shifted, alpha=tap)
    return total


def correlate(maps: Tensor, kernel: Kernel, total: Tensor, scratch: Tensor, adjoint: bool = False) -> Tensor:
    """Cross-correlate each map with one kernel, zeros beyond the border, and add the result to ``total``, in place.

    Args:
        maps (Tensor): Shape (N, H, W), floating.
        kernel (Kernel): 3 rows of 3 numbers.
        total (Tensor): Added to, shape of ``maps``.
        scratch (Tensor): Overwritten, shape of ``maps``.
        adjoint (bool): Apply the transposed operator, that of the kernel rotated by 180 degrees, which gives the
            gradient of ``maps`` for the gradient of the result. Defaults to False.

    Returns:
        Tensor: ``total``.
    """
    for column, row in separate(kernel):
        if adjoint:
            column, row = column[::-1], row[::-1]
        add_shifted(total, add_shifted(scratch.zero_(), maps, row, dim=2), column, dim=1)
    return total


def takes_convolution(maps: Tensor) -> bool:
    """Return whether :func:`convolve` is faster than :func:`correlate`, and as exact.

    On a GPU the number of operations decides, not their work, unless torch.compile makes them one. The convolution of a
    single map would be cuDNN's, which by default rounds to TF32.
    """
    # torch 2.1 has no is_compiling, and does not compile the loss either. A fake or traced tensor is a subclass.
    is_compiling = getattr(torch.compiler, 'is_compiling', bool)
    return maps.is_cuda and len(maps) > 1 and type(maps) is Tensor and not is_compiling()


def convolve(maps: Tensor, kernels: Sequence[Kernel], padding: int = 1, adjoint: bool = False) -> Tensor:
    """Cross-correlate each map with each kernel, in one depthwise convolution.

    Args:
        maps (Tensor): Shape (N, H, W), or (N, D, H, W) if ``adjoint``, floating, N > 0.
        kernels (Sequence[Kernel]): D kernels.
        padding (int): Zeros added on each side: the result has 2 * padding - 2 more rows and columns than ``maps``.
            Defaults to 1.
        adjoint (bool): Apply the transposed operators, and add up their results. Defaults to False.

    Returns:
        Tensor: Shape (N, D, H', W'), or (N, H', W') if ``adjoint``.
    """
    weight = _kernel_weight(tuple(kernels), maps.dtype, maps.device)
    if adjoint:
        weight = weight.flip(2, 3)
    groups = maps.shape[:-2].numel()
    size = (len(maps), len(kernels))
    # The maps are the channels of one image.
    result = F.conv2d(
        maps.flatten(0, -3).contiguous()[None], weight.repeat(len(maps), 1, 1, 1), padding=padding, groups=groups
    )
    result = result.view(*size, *result.shape[-2:])
    return result.sum(dim=1) if adjoint else result


@cache
def _kernel_weight(kernels: tuple[Kernel, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the kernels as a tensor, (D, 1, 3, 3); made once, since a copy to a GPU waits for it.

    A CUDA graph cannot record that copy: like all graphs it needs a first run outside.
    """
    return torch.tensor(kernels, dtype=dtype, device=device)[:, None]


def filter_masks(masks: Tensor, kernels: Sequence[Kernel], padding_mode: str = 'zeros') -> Tensor:
    """Cross-correlate each mask with each kernel, at the masks' own size.

    Args:
        masks (Tensor): Shape (N, H, W), floating.
        kernels (Sequence[Kernel]): D kernels, see :func:`get_edge_kernels`.
        padding_mode (str): One of :data:`PADDING_MODES`. Defaults to 'zeros'.

    Returns:
        Tensor: Shape (N, D, H, W), dtype of ``masks``.
    """
    if padding_mode == 'zeros':
        new, scratch = torch.zeros_like, torch.empty_like(masks)
        return torch.stack([correlate(masks, kernel, new(masks), scratch) for kernel in kernels], dim=1)
    padded = F.pad(masks, (1, 1, 1, 1), mode=padding_mode)
    return filter_masks(padded, kernels)[..., 1:-1, 1:-1]
