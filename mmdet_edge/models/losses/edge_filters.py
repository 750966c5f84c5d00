"""The fixed filters of the Edge Agreement Head.

Source: Zimmermann & Siems, arXiv 1809.07069, and the authors' code. Every kernel is stored as 3x3, so that any mix
of filters is one convolution: the 2x2 Roberts kernels sit in the lower right corner, which is the same as padding
one row below and one column right of the map.

Shape letters: N instances, D kernels, H and W mask height and width.
"""

import difflib
from collections.abc import Sequence
from typing import Union

import torch
import torch.nn.functional as F
from torch import Tensor

EDGE_FILTERS = {
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
"""What lies beyond the mask's border; the authors' code has zeros."""


def check_filter_names(filters: Union[str, Sequence[str]], owner: str) -> tuple[str, ...]:
    """Check filter names and return them as a tuple.

    Args:
        filters (str | Sequence[str]): One name or several, out of :data:`EDGE_FILTERS`.
        owner (str): Who asks; opens the error message.

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


def get_edge_kernels(filters: Sequence[str]) -> Tensor:
    """Return the kernels of the named filters.

    Args:
        filters (Sequence[str]): Names out of :data:`EDGE_FILTERS`.

    Returns:
        Tensor: Shape (D, 3, 3), float32; D sums the kernels of all filters.

    Example:
        >>> get_edge_kernels(['sobel', 'laplacian']).shape
        torch.Size([3, 3, 3])
    """
    return torch.tensor([k for name in filters for k in EDGE_FILTERS[name]], dtype=torch.float32)


def filter_masks(masks: Tensor, kernels: Tensor, padding_mode: str = 'zeros') -> Tensor:
    """Cross-correlate each mask with each kernel, at the masks' own size.

    Args:
        masks (Tensor): Shape (N, H, W), floating.
        kernels (Tensor): Shape (D, 3, 3), on the device of ``masks``.
        padding_mode (str): One of :data:`PADDING_MODES`. Defaults to 'zeros'.

    Returns:
        Tensor: Shape (N, D, H, W), dtype of ``masks``.
    """
    masks, kernels = masks[:, None], kernels[:, None].to(masks.dtype)
    if padding_mode == 'zeros':
        return F.conv2d(masks, kernels, padding=1)
    return F.conv2d(F.pad(masks, (1, 1, 1, 1), mode=padding_mode), kernels)
