"""The edge agreement loss.

Source: Zimmermann & Siems, arXiv 1809.07069, and the authors' TensorFlow code, with which it agrees on 150 settings
(tests/test_models/test_losses/test_reference.py).

Shape letters: N masks (positive RoIs, or the positive samples of a head without RoIs), C channels of the mask head
(classes, or 1 if class-agnostic), D kernels, H and W mask height and width.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models.losses.utils import weight_reduce_loss
from mmdet.registry import MODELS
from mmengine.logging import print_log
from torch import Tensor, nn

from ..option_checks import check_bool, check_choice, check_number
from .edge_filters import (
    GAUSSIAN_KERNEL,
    PADDING_MODES,
    Kernel,
    check_filter_names,
    convolve,
    correlate,
    filter_masks,
    get_edge_kernels,
    takes_convolution,
)

REDUCTIONS = ('none', 'mean', 'sum')
NORMALIZATIONS = ('map', 'edges')
NO_MAP = (
    'Edges are differences of neighbours: the loss needs whole maps, not points sampled from them (Mask2Former, '
    'PointRend) and not flattened pixels (the loss_mask of MaskFormer, whose loss_dice gets maps)'
)
"""Why a prediction without rows and columns is refused."""


def edge_loss(
    pred: Tensor,
    target: Tensor,
    label: Tensor | None = None,
    weight: Tensor | None = None,
    avg_factor: float | None = None,
    filters: str | Sequence[str] = 'sobel',
    exponent: float = 2.0,
    smooth_pred: bool = False,
    smooth_target: bool = False,
    padding_mode: str = 'zeros',
    reduction: str = 'mean',
    loss_weight: float = 1.0,
    *,
    activate: bool = True,
    normalize_by: str = 'map',
) -> Tensor:
    """Compute the edge agreement loss.

    The arguments are those of :meth:`EdgeLoss.forward` and :class:`EdgeLoss`, which is the module of this function.

    Returns:
        Tensor: See :meth:`EdgeLoss.forward`.

    Example:
        >>> logits, target = torch.zeros(4, 80, 28, 28), torch.ones(4, 28, 28)
        >>> edge_loss(logits, target, label=torch.tensor([0, 3, 3, 79]), filters='prewitt').shape
        torch.Size([])
    """
    name, smoothing = 'edge_loss', (smooth_pred, smooth_target)
    kernels = get_edge_kernels(check_options(name, filters, exponent, smoothing, padding_mode, reduction, loss_weight))
    check_bool(name, 'activate', activate)
    check_choice(name, 'normalize_by', normalize_by, NORMALIZATIONS)
    with torch.autocast(pred.device.type, enabled=False):
        pred, target = select_class_masks(name, pred, target, label, padding_mode)
        if len(pred):
            residual = mask_residual(pred, target, *smoothing, padding_mode, activate)
            losses = edge_norm(residual, kernels, exponent, padding_mode)
            losses = normalize_losses(losses, target, normalize_by, kernels, exponent, padding_mode)
        else:
            losses = pred.flatten(1).sum(1)
        return loss_weight * reduce_losses(name, losses, weight, reduction, avg_factor)


def mask_residual(
    pred: Tensor, target: Tensor, smooth_pred: bool, smooth_target: bool, padding_mode: str, activate: bool = True
) -> Tensor:
    """Compute how far predicted masks are from the target.

    Filters are linear: filtering this difference replaces filtering prediction and target.

    Args:
        pred (Tensor): Logits or, without ``activate``, probabilities, (N, H, W), float32 or float64.
        target (Tensor): Masks in [0, 1], (N, H, W), dtype of ``pred``.
        smooth_pred (bool): Smooth the probabilities first.
        smooth_target (bool): Smooth the target first.
        padding_mode (str): Beyond the border: 'zeros', 'replicate' or 'reflect'.
        activate (bool): Whether ``pred`` is logits; if not, it is probabilities. Defaults to True.

    Returns:
        Tensor: ``S(sigmoid(pred)) - S(target)``, (N, H, W), dtype of ``pred``.
    """

    def smooth(masks: Tensor) -> Tensor:
        return filter_masks(masks, (GAUSSIAN_KERNEL,), padding_mode)[:, 0]

    prob = pred.sigmoid() if activate else pred
    if smooth_pred and smooth_target:
        return smooth(prob - target)
    return (smooth(prob) if smooth_pred else prob) - (smooth(target) if smooth_target else target)


class _FilteredNorm(torch.autograd.Function):
    """Mean of ``|F * r| ** p`` over kernels and pixels, with a custom backward.

    With x = F * r and s = sign(x) * |x| ** (p - 1), the sum is that of x * s, and its gradient is p times the sum over
    the kernels of F^T * s. The forward pass computes both and saves the gradient alone, up to the incoming scale.
    """

    @staticmethod
    def forward(ctx: Any, residual: Tensor, kernels: Sequence[Kernel], exponent: float, framed: bool) -> Tensor:
        """Return the means, (N,), of residuals (N, H, W); ``framed`` says that these have one more pixel per side."""
        compute = _norm_by_convolution if takes_convolution(residual) else _norm_by_shifts
        norm, gradient = compute(residual, kernels, exponent, framed)
        height, width = (side - 2 * framed for side in residual.shape[1:])
        scale = 1 / (len(kernels) * height * width)
        ctx.save_for_backward(gradient.mul_(exponent * scale))
        return norm.mul_(scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the residuals, (N, H, W), for that of the sums, (N,)."""
        # once_differentiable does not catch this: what it misses here does not depend on ``grad``.
        if torch.is_grad_enabled():
            raise RuntimeError(
                'EdgeLoss cannot differentiate twice (create_graph=True): take the mean of EdgeLoss.edge_disagreement, '
                'which can'
            )
        (gradient,) = ctx.saved_tensors
        return gradient * grad[:, None, None], None, None, None


def _norm_by_shifts(
    residual: Tensor, kernels: Sequence[Kernel], exponent: float, framed: bool
) -> tuple[Tensor, Tensor]:
    """Return the sum of ``x * s`` of each mask, (N,), and the sum of ``F^T * s``, (N, H, W)."""
    norm = residual.new_zeros(len(residual))
    gradient = torch.zeros_like(residual)
    # The only memory beside these two, whatever the number of kernels.
    response, scratch = torch.empty_like(residual), torch.empty_like(residual)
    for kernel in kernels:
        correlate(residual, kernel, response.zero_(), scratch)
        if framed:
            for side in (response[:, 0], response[:, -1], response[..., 0], response[..., -1]):
                side.zero_()
        slope, powers = _slope_and_powers(response, exponent, scratch)
        norm += powers.sum(dim=(1, 2))
        correlate(slope, kernel, gradient, scratch=powers, adjoint=True)
    return norm, gradient


def _norm_by_convolution(
    residual: Tensor, kernels: Sequence[Kernel], exponent: float, framed: bool
) -> tuple[Tensor, Tensor]:
    """Return the same as :func:`_norm_by_shifts`, with a quarter of its operations and D times its memory."""
    response = convolve(residual, kernels, padding=1 - framed)
    slope, powers = _slope_and_powers(response, exponent, torch.empty_like(response))
    return powers.sum(dim=(1, 2, 3)), convolve(slope, kernels, padding=1 + framed, adjoint=True)


def _slope_and_powers(response: Tensor, exponent: float, scratch: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``s`` and ``x * s`` for responses ``x``, in the memory of ``response`` and ``scratch``."""
    if exponent == 2:
        return response, torch.mul(response, response, out=scratch)
    # At 0 the sign is 0, and so is the slope, also for exponent 1.
    if exponent == 1:
        slope = torch.sign(response, out=scratch)
    else:
        slope = torch.abs(response, out=scratch).pow_(exponent - 1).copysign_(response)
    return slope, response.mul_(slope)


def edge_norm(residual: Tensor, kernels: Sequence[Kernel], exponent: float, padding_mode: str = 'zeros') -> Tensor:
    """Compute each mask's mean of ``|F * r| ** p``, at a fraction of the cost of :func:`edge_disagreement`.

    Args:
        residual (Tensor): Shape (N, H, W), floating.
        kernels (Sequence[Kernel]): D kernels.
        exponent (float): p of the norm, at least 1.
        padding_mode (str): Beyond the border: 'zeros', 'replicate' or 'reflect'. Defaults to 'zeros'.

    Returns:
        Tensor: Mean over D, H and W, (N,), dtype of ``residual``. It can be differentiated once.
    """
    framed = padding_mode != 'zeros'
    padded = F.pad(residual, (1, 1, 1, 1), mode=padding_mode) if framed else residual
    return _FilteredNorm.apply(padded, kernels, exponent, framed)


def normalize_losses(
    losses: Tensor, target: Tensor, normalize_by: str, kernels: Sequence[Kernel], exponent: float, padding_mode: str
) -> Tensor:
    """Change what the loss of each mask is relative to.

    Args:
        losses (Tensor): Means over the map, (N,), see :func:`edge_norm`.
        target (Tensor): Masks in [0, 1], (N, H, W).
        normalize_by (str): 'map' or 'edges', see :class:`EdgeLoss`.
        kernels (Sequence[Kernel]): D kernels.
        exponent (float): p of the norm, at least 1.
        padding_mode (str): Beyond the border: 'zeros', 'replicate' or 'reflect'.

    Returns:
        Tensor: Shape (N,), dtype of ``losses``.
    """
    if normalize_by == 'map':
        return losses
    # An object that is smaller than a pixel counts as one: its response is the kernel.
    one_pixel = sum(abs(tap) ** exponent for kernel in kernels for row in kernel for tap in row) / len(kernels)
    with torch.no_grad():
        edges = edge_norm(target, kernels, exponent, padding_mode)
    return losses / edges.clamp(min=one_pixel / target[0].numel())


def edge_disagreement(
    residual: Tensor, kernels: Sequence[Kernel], exponent: float, padding_mode: str = 'zeros'
) -> Tensor:
    """Return the per-pixel loss map, (N, H, W); its mean is :func:`edge_norm`, whose arguments it takes."""
    return filter_masks(residual, kernels, padding_mode).abs().pow(exponent).mean(dim=1)


def select_class_masks(
    owner: str, pred: Tensor, target: Tensor, label: Tensor | None = None, padding_mode: str = 'zeros'
) -> tuple[Tensor, Tensor]:
    """Select each mask's channel of the mask head, and convert ``pred`` and ``target`` to one dtype.

    Args:
        owner (str): Class or function that is called; error messages begin with it.
        pred (Tensor): Logits, (N, C, H, W) with ``label`` or (N, H, W) without.
        target (Tensor): Masks in [0, 1], (N, H, W), any dtype.
        label (Tensor, optional): Channel of each mask, (N,), integer, counted from 0. All 0 for a class-agnostic head.
            Defaults to None.
        padding_mode (str): That of the filters, which decides how small masks may be: 2x2 with 'reflect', 1x1
            otherwise. Defaults to 'zeros'.

    Returns:
        tuple[Tensor, Tensor]: Logits and target, both (N, H, W), float32 (float64 if ``pred`` is).

    Raises:
        ValueError: If ranks or sizes do not fit.
    """
    if label is None:
        if pred.dim() != 3:
            channels = 'A mask head with one channel per class needs the labels too'
            raise ValueError(
                f'{owner}: without label, pred must be (N, H, W), got {tuple(pred.shape)}. '
                f'{channels if pred.dim() == 4 else NO_MAP}'
            )
    else:
        if pred.dim() != 4:
            raise ValueError(f'{owner}: with label, pred must be (N, C, H, W), got {tuple(pred.shape)}. {NO_MAP}')
        if label.shape != pred.shape[:1] or label.is_floating_point():
            raise ValueError(
                f'{owner}: label must be {len(pred)} integers, one per mask, got shape '
                f'{tuple(label.shape)} of {label.dtype}'
            )
        # Indexing a single channel would cost half as much as an edge loss.
        one = pred.size(1) == 1
        pred = pred[:, 0] if one else pred[torch.arange(len(pred), device=pred.device), label.long()]
    if target.shape != pred.shape:
        raise ValueError(
            f'{owner}: target must have the shape of the predicted masks, {tuple(pred.shape)}, got '
            f'{tuple(target.shape)}. In a RoI head, train_cfg.rcnn.mask_size must equal the output size of the mask '
            'head'
        )
    side = 2 if padding_mode == 'reflect' else 1
    if len(pred) and min(pred.shape[1:]) < side:
        raise ValueError(
            f'{owner}: with padding_mode={padding_mode!r} masks must be at least {side}x{side}, got '
            f'{pred.shape[1]}x{pred.shape[2]}'
        )
    if pred.dtype != torch.float64:
        pred = pred.float()
    return pred, target.to(pred.dtype)


def reduce_losses(
    owner: str, losses: Tensor, weight: Tensor | None, reduction: str, avg_factor: float | None
) -> Tensor:
    """Weight and reduce the losses of the masks, (N,); for N = 0 to a zero that is connected to them."""
    if weight is not None and weight.shape != losses.shape:
        raise ValueError(f'{owner}: weight must have one number per mask, ({len(losses)},), got {tuple(weight.shape)}')
    if not len(losses):
        return losses if reduction == 'none' else losses.sum()
    return weight_reduce_loss(losses, weight, reduction, avg_factor)


def check_options(
    owner: str, filters: Any, exponent: Any, smoothing: tuple, padding_mode: Any, reduction: Any, loss_weight: Any
) -> tuple[str, ...]:
    """Check the options of an edge loss (see :class:`EdgeLoss`) and return the names of its filters."""
    check_number(owner, 'exponent', exponent, minimum=1)
    for option, value in zip(('smooth_pred', 'smooth_target'), smoothing):
        check_bool(owner, option, value)
    check_choice(owner, 'padding_mode', padding_mode, PADDING_MODES)
    check_choice(owner, 'reduction', reduction, REDUCTIONS)
    check_number(owner, 'loss_weight', loss_weight, minimum=0)
    return check_filter_names(filters, owner)


@MODELS.register_module()
class EdgeLoss(nn.Module):
    """L^p norm of the difference between the edges of predicted and target masks.

    arXiv 1809.07069, with the definitions of the authors' code: on probabilities, no root, filters averaged (not
    summed), x and y responses separate::

        r    = S(sigmoid(pred)) - S(target)                  S: 3x3 Gaussian where smoothing is on
        loss = loss_weight * mean over N, D, H, W of |F * r| ** exponent

    It has no trainable parameter and adds no key to the state dict. It is called like mmdet's mask losses, so that it
    also works as the ``loss_mask`` of a head. :func:`edge_loss` is the same as a function.

    Args:
        filters (str | Sequence[str]): One or more of 'sobel', 'prewitt', 'kayyali', 'roberts', 'laplacian'. Weights
            are not comparable between them: they respond to a straight unit step with 4, 3, 0, 1 and 3. Defaults to
            'sobel'.
        exponent (float): p, any real number >= 1. Defaults to 2.0.
        smooth_pred (bool): Smooth the probabilities with a 3x3 Gaussian first. Defaults to False.
        smooth_target (bool): Smooth the target likewise. If only one side is smoothed, a perfect prediction has a
            non-zero loss. Defaults to False.
        padding_mode (str): What lies beyond the mask's border: 'zeros' (the authors'), 'replicate' or 'reflect'.
            Defaults to 'zeros'.
        reduction (str): 'mean', 'sum' or 'none', over the masks. Defaults to 'mean'.
        loss_weight (float): Weight of the loss, >= 0. Defaults to 1.0.
        activate (bool): Whether ``pred`` is logits, as in mmdet's ``DiceLoss``. Set it to False for a head that gives
            probabilities (DecoupledSOLO). Defaults to True.
        normalize_by (str): What the loss of a mask is relative to. 'map': its pixels, for RoIs, which objects fill.
            'edges': the edges of its target, the mean over D, H, W of ``|F * target| ** exponent``, for masks of the
            whole image, where a mean over all pixels would count small objects less; the loss of an empty prediction
            is then 1, whatever the size of the object. Weights are not comparable between the two. Defaults to 'map'.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If an option is out of range; the message lists the known values.

    Note:
        With zero padding the border of the RoI is an edge for prediction and target alike, as in the authors' code.
        Computes in float32 even under autocast: fp16 overflows for kayyali with exponent 5 (12^5).

    Example:
        >>> EdgeLoss(filters=['sobel', 'laplacian'], loss_weight=3)
        EdgeLoss(filters=sobel+laplacian, exponent=2, smoothing=off, padding_mode=zeros, loss_weight=3)
    """

    def __init__(
        self,
        filters: str | Sequence[str] = 'sobel',
        exponent: float = 2.0,
        smooth_pred: bool = False,
        smooth_target: bool = False,
        padding_mode: str = 'zeros',
        reduction: str = 'mean',
        loss_weight: float = 1.0,
        *,
        activate: bool = True,
        normalize_by: str = 'map',
    ) -> None:
        super().__init__()
        name, smoothing = type(self).__name__, (smooth_pred, smooth_target)
        self.filters = check_options(name, filters, exponent, smoothing, padding_mode, reduction, loss_weight)
        self.kernels = get_edge_kernels(self.filters)
        self.exponent = float(exponent)
        self.smooth_pred = smooth_pred
        self.smooth_target = smooth_target
        self.padding_mode = padding_mode
        self.reduction = reduction
        self.loss_weight = float(loss_weight)
        self.activate = check_bool(name, 'activate', activate)
        self.normalize_by = check_choice(name, 'normalize_by', normalize_by, NORMALIZATIONS)
        self._announced = False

    def train(self, mode: bool = True) -> 'EdgeLoss':
        """Log once, when a training run starts, that the edge loss is on."""
        # Not in forward, where torch.compile would break the graph.
        if mode and not self._announced:
            print_log(f'Edge loss is on: {type(self).__name__}({self.extra_repr()})', 'current')
            self._announced = True
        return super().train(mode)

    def extra_repr(self) -> str:
        """Return the options, for ``print(model)`` and the log line at the start of training."""
        smoothed = [s for s, on in (('pred', self.smooth_pred), ('target', self.smooth_target)) if on]
        return (
            f'filters={"+".join(self.filters)}, exponent={self.exponent:g}, '
            f'smoothing={"+".join(smoothed) or "off"}, padding_mode={self.padding_mode}, '
            f'loss_weight={self.loss_weight:g}'
            + ('' if self.normalize_by == 'map' else f', normalize_by={self.normalize_by}')
            + ('' if self.activate else ', activate=False')
        )

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        label: Tensor | None = None,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Compute the loss.

        Args:
            pred (Tensor): Logits (probabilities with ``activate=False``), (N, C, H, W) with ``label`` or (N, H, W)
                without.
            target (Tensor): Masks in [0, 1], hard or soft, (N, H, W).
            label (Tensor, optional): Channel of each mask, (N,), integer, counted from 0. Defaults to None.
            weight (Tensor, optional): Weight of each mask, (N,). Defaults to None.
            avg_factor (float, optional): Replaces N as the divisor of reduction 'mean'. Defaults to None.
            reduction_override (str, optional): Replaces the ``reduction`` of the constructor. Defaults to None.

        Returns:
            Tensor: A scalar, or (N,) with reduction 'none'; float32, or float64 if ``pred`` is. For N = 0 a zero that
            is still connected to ``pred``, so that every rank of a distributed job has a gradient.

        Raises:
            ValueError: If ranks or sizes do not fit, masks are too small for the ``padding_mode`` ('reflect' needs two
                pixels each way), or ``reduction_override`` is unknown.
        """
        name, reduction = type(self).__name__, self.reduction
        if reduction_override is not None:
            reduction = check_choice(name, 'reduction_override', reduction_override, REDUCTIONS)
        with torch.autocast(pred.device.type, enabled=False):
            pred, target = select_class_masks(name, pred, target, label, self.padding_mode)
            losses = self.instance_losses(pred, target) if len(pred) else pred.flatten(1).sum(1)
            return self.loss_weight * reduce_losses(name, losses, weight, reduction, avg_factor)

    def instance_losses(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the unweighted loss of each mask, (N,), for logits and target, both (N, H, W)."""
        losses = edge_norm(self._residual(pred, target), self.kernels, self.exponent, self.padding_mode)
        return normalize_losses(losses, target, self.normalize_by, self.kernels, self.exponent, self.padding_mode)

    def edge_disagreement(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the per-pixel loss map, (N, H, W); its mean is :meth:`instance_losses` normalised by 'map'."""
        residual = self._residual(pred, target)
        return edge_disagreement(residual, self.kernels, self.exponent, self.padding_mode)

    def _residual(self, pred: Tensor, target: Tensor) -> Tensor:
        return mask_residual(
            pred, target, self.smooth_pred, self.smooth_target, self.padding_mode, activate=self.activate
        )
