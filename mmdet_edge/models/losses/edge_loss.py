"""The edge agreement loss.

Source: Zimmermann & Siems, arXiv 1809.07069, and the authors' TensorFlow code, with which it agrees on 150 settings
(tests/test_models/test_losses/test_reference.py).

Shape letters: N positive RoIs, C channels of the mask head (classes, or 1 if class-agnostic), D kernels, H and W
mask height and width.
"""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any, Optional, Union

import torch
from mmdet.models.losses.utils import weight_reduce_loss
from mmdet.registry import MODELS
from mmengine.logging import print_log
from torch import Tensor, nn

from .edge_filters import (
    GAUSSIAN_KERNEL,
    PADDING_MODES,
    check_filter_names,
    filter_masks,
    get_edge_kernels,
)

REDUCTIONS = ('none', 'mean', 'sum')


def check_finite(owner: str, name: str, value: Any, minimum: float) -> float:
    """Check that an option is a finite number that is not too small.

    Args:
        owner (str): Class whose option it is; opens the error message.
        name (str): Name of the option.
        value (Any): What the user gave.
        minimum (float): Smallest value allowed.

    Returns:
        float: The value.

    Raises:
        TypeError: If ``value`` is not a number.
        ValueError: If it is not finite or below ``minimum``.
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f'{owner}: {name} must be a number, got {value!r}')
    if not math.isfinite(value) or value < minimum:
        raise ValueError(f'{owner}: {name} must be finite and at least {minimum:g}, got {value!r}')
    return float(value)


def select_class_masks(
    owner: str, pred: Tensor, target: Tensor, label: Optional[Tensor] = None
) -> tuple[Tensor, Tensor]:
    """Pick each instance's channel of the mask head and bring both sides to one dtype.

    Args:
        owner (str): Who asks; opens the error message.
        pred (Tensor): Logits, (N, C, H, W) with ``label`` or (N, H, W) without.
        target (Tensor): Masks in [0, 1], (N, H, W), any dtype.
        label (Tensor, optional): Channel of each instance, (N,), integer, counted from 0. All 0 for a class-agnostic
            head. Defaults to None.

    Returns:
        tuple[Tensor, Tensor]: Logits and target, both (N, H, W), float32 (float64 if ``pred`` is).

    Raises:
        ValueError: If ranks or sizes do not fit.
    """
    if label is None:
        if pred.dim() != 3:
            raise ValueError(
                f'{owner}: without label, pred must be (N, H, W), got {tuple(pred.shape)}. A mask '
                'head with one channel per class needs the labels too'
            )
    else:
        if pred.dim() != 4:
            raise ValueError(f'{owner}: with label, pred must be (N, C, H, W), got {tuple(pred.shape)}')
        if label.shape != pred.shape[:1] or label.is_floating_point():
            raise ValueError(
                f'{owner}: label must be {len(pred)} integers, one per mask, got shape '
                f'{tuple(label.shape)} of {label.dtype}'
            )
        pred = pred[torch.arange(len(pred), device=pred.device), label.long()]
    if target.shape != pred.shape:
        raise ValueError(
            f'{owner}: target must have the shape of the predicted masks, {tuple(pred.shape)}, got '
            f'{tuple(target.shape)}. train_cfg.rcnn.mask_size must equal the output size of the mask head'
        )
    if pred.dtype != torch.float64:
        pred = pred.float()
    return pred, target.to(pred.dtype)


def edge_disagreement(
    pred: Tensor,
    target: Tensor,
    kernels: Tensor,
    gaussian: Tensor,
    exponent: float = 2.0,
    smooth_pred: bool = False,
    smooth_target: bool = False,
    padding_mode: str = 'zeros',
) -> Tensor:
    """Compute how far the edges of predicted masks are from those of the target, pixel by pixel.

    Filters are linear: one convolution of the residual replaces those of prediction and target.

    Args:
        pred (Tensor): Logits, (N, H, W), float32 or float64.
        target (Tensor): Masks in [0, 1], (N, H, W), dtype of ``pred``.
        kernels (Tensor): Edge kernels, (D, 3, 3).
        gaussian (Tensor): Smoothing kernel, (1, 3, 3).
        exponent (float): p of the norm, at least 1. Defaults to 2.0.
        smooth_pred (bool): Smooth the probabilities first. Defaults to False.
        smooth_target (bool): Smooth the target first. Defaults to False.
        padding_mode (str): Beyond the border: 'zeros', 'replicate' or 'reflect'. Defaults to 'zeros'.

    Returns:
        Tensor: Mean over the kernels of ``|F * (sigmoid(pred) - target)| ** p``, (N, H, W), dtype of ``pred``.
    """
    prob = pred.sigmoid()
    if smooth_pred and smooth_target:
        residual = filter_masks(prob - target, gaussian, padding_mode)[:, 0]
    elif smooth_pred:
        residual = filter_masks(prob, gaussian, padding_mode)[:, 0] - target
    elif smooth_target:
        residual = prob - filter_masks(target, gaussian, padding_mode)[:, 0]
    else:
        residual = prob - target
    return filter_masks(residual, kernels, padding_mode).abs().pow(exponent).mean(dim=1)


def edge_loss(
    pred: Tensor,
    target: Tensor,
    label: Optional[Tensor] = None,
    weight: Optional[Tensor] = None,
    avg_factor: Optional[float] = None,
    filters: Union[str, Sequence[str]] = 'sobel',
    exponent: float = 2.0,
    smooth_pred: bool = False,
    smooth_target: bool = False,
    padding_mode: str = 'zeros',
    reduction: str = 'mean',
    loss_weight: float = 1.0,
) -> Tensor:
    """Compute the edge agreement loss; the function behind :class:`EdgeLoss`, which documents the arguments.

    Returns:
        Tensor: See :meth:`EdgeLoss.forward`.

    Example:
        >>> logits, target = torch.zeros(4, 80, 28, 28), torch.ones(4, 28, 28)
        >>> edge_loss(logits, target, label=torch.tensor([0, 3, 3, 79]), filters='prewitt').shape
        torch.Size([])
    """
    loss = EdgeLoss(filters, exponent, smooth_pred, smooth_target, padding_mode, reduction, loss_weight)
    return loss.to(pred.device).compute(pred, target, label, weight, avg_factor, reduction)


@MODELS.register_module()
class EdgeLoss(nn.Module):
    """L^p norm of the difference between the edges of predicted and target masks.

    arXiv 1809.07069, with the definitions of the authors' code: on probabilities, no root, filters averaged (not
    summed), x and y responses separate::

        r    = S(sigmoid(pred)) - S(target)                  S: 3x3 Gaussian where smoothing is on
        loss = loss_weight * mean over N, D, H, W of |F * r| ** exponent

    It has no trainable parameter and adds no key to the state dict. It is called like mmdet's mask losses, so it may
    also stand as the ``loss_mask`` of a head.

    Args:
        filters (str | Sequence[str]): One or more of 'sobel', 'prewitt', 'kayyali', 'roberts', 'laplacian'. The weight
            is not comparable between them: a straight unit step answers with 4, 3, 0, 1 and 3. Defaults to 'sobel'.
        exponent (float): p, any real number >= 1. Defaults to 2.0.
        smooth_pred (bool): Smooth the probabilities with a 3x3 Gaussian first. Defaults to False.
        smooth_target (bool): Smooth the target likewise. If only one side is smoothed, a perfect prediction has a
            non-zero loss. Defaults to False.
        padding_mode (str): What lies beyond the mask's border: 'zeros' (the authors'), 'replicate' or 'reflect'.
            Defaults to 'zeros'.
        reduction (str): 'mean', 'sum' or 'none', over the instances. Defaults to 'mean'.
        loss_weight (float): Weight of the loss, >= 0. Defaults to 1.0.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If an option has a value out of range; the message lists what is known.

    Note:
        With zero padding the frame of the RoI is an edge for prediction and target alike, as in the authors' code.
        Computes in float32 even under autocast: fp16 overflows for kayyali with exponent 5 (12^5).

    Example:
        >>> EdgeLoss(filters=['sobel', 'laplacian'], loss_weight=3)
        EdgeLoss(filters=sobel+laplacian, exponent=2, smoothing=off, padding_mode=zeros, loss_weight=3)
    """

    kernels: Tensor
    gaussian: Tensor

    def __init__(
        self,
        filters: Union[str, Sequence[str]] = 'sobel',
        exponent: float = 2.0,
        smooth_pred: bool = False,
        smooth_target: bool = False,
        padding_mode: str = 'zeros',
        reduction: str = 'mean',
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.filters = check_filter_names(filters, name)
        self.exponent = check_finite(name, 'exponent', exponent, minimum=1)
        for option, value in (('smooth_pred', smooth_pred), ('smooth_target', smooth_target)):
            if not isinstance(value, bool):
                raise TypeError(f'{name}: {option} must be True or False, got {value!r}')
        if padding_mode not in PADDING_MODES:
            raise ValueError(f'{name}: padding_mode must be one of {PADDING_MODES}, got {padding_mode!r}')
        if reduction not in REDUCTIONS:
            raise ValueError(f'{name}: reduction must be one of {REDUCTIONS}, got {reduction!r}')
        self.smooth_pred = smooth_pred
        self.smooth_target = smooth_target
        self.padding_mode = padding_mode
        self.reduction = reduction
        self.loss_weight = check_finite(name, 'loss_weight', loss_weight, minimum=0)
        # Not persistent: a checkpoint has to load in plain MMDetection, and the other way round.
        self.register_buffer('kernels', get_edge_kernels(self.filters), persistent=False)
        self.register_buffer('gaussian', torch.tensor([GAUSSIAN_KERNEL]), persistent=False)
        self._announced = False

    def extra_repr(self) -> str:
        """Return the options, for ``print(model)`` and the log line at the start of training."""
        smoothed = [s for s, on in (('pred', self.smooth_pred), ('target', self.smooth_target)) if on]
        return (
            f'filters={"+".join(self.filters)}, exponent={self.exponent:g}, '
            f'smoothing={"+".join(smoothed) or "off"}, padding_mode={self.padding_mode}, '
            f'loss_weight={self.loss_weight:g}'
        )

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        label: Optional[Tensor] = None,
        weight: Optional[Tensor] = None,
        avg_factor: Optional[float] = None,
        reduction_override: Optional[str] = None,
    ) -> Tensor:
        """Compute the loss.

        Args:
            pred (Tensor): Logits, (N, C, H, W) with ``label`` or (N, H, W) without.
            target (Tensor): Masks in [0, 1], hard or soft, (N, H, W).
            label (Tensor, optional): Channel of each instance, (N,), integer, counted from 0. Defaults to None.
            weight (Tensor, optional): Weight of each instance, (N,). Defaults to None.
            avg_factor (float, optional): Replaces N as the divisor of reduction 'mean'. Defaults to None.
            reduction_override (str, optional): Replaces the ``reduction`` of the constructor. Defaults to None.

        Returns:
            Tensor: A scalar, or (N,) with reduction 'none'; float32, or float64 if ``pred`` is. For N = 0 a zero that
            is still connected to ``pred``, so that every rank of a distributed job has a gradient.

        Raises:
            ValueError: If ranks or sizes do not fit, or ``reduction_override`` is unknown.
        """
        if not self._announced:
            print_log(f'Edge loss is on: {type(self).__name__}({self.extra_repr()})', 'current')
            self._announced = True
        reduction = self.reduction if reduction_override is None else reduction_override
        if reduction not in REDUCTIONS:
            raise ValueError(
                f'{type(self).__name__}: reduction_override must be one of {REDUCTIONS}, got {reduction!r}'
            )
        return self.compute(pred, target, label, weight, avg_factor, reduction)

    def compute(
        self,
        pred: Tensor,
        target: Tensor,
        label: Optional[Tensor],
        weight: Optional[Tensor],
        avg_factor: Optional[float],
        reduction: str,
    ) -> Tensor:
        """Compute the loss in full precision, with the arguments of :meth:`forward` checked and resolved."""
        name = type(self).__name__
        with torch.autocast(pred.device.type, enabled=False):
            pred, target = select_class_masks(name, pred, target, label)
            if weight is not None and weight.shape != pred.shape[:1]:
                raise ValueError(
                    f'{name}: weight must have one number per mask, ({len(pred)},), got {tuple(weight.shape)}'
                )
            if len(pred) == 0:
                return pred.flatten(1).sum(1) if reduction == 'none' else pred.sum()
            losses = self.instance_losses(pred, target)
            return self.loss_weight * weight_reduce_loss(losses, weight, reduction, avg_factor)

    def instance_losses(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the unweighted loss of each instance.

        Args:
            pred (Tensor): Logits, (N, H, W).
            target (Tensor): Masks in [0, 1], (N, H, W), dtype of ``pred``.

        Returns:
            Tensor: Shape (N,), dtype of ``pred``.
        """
        return self.edge_disagreement(pred, target).mean(dim=(1, 2))

    def edge_disagreement(self, pred: Tensor, target: Tensor) -> Tensor:
        """Apply :func:`edge_disagreement` with the options of this loss."""
        return edge_disagreement(
            pred,
            target,
            self.kernels,
            self.gaussian,
            self.exponent,
            self.smooth_pred,
            self.smooth_target,
            self.padding_mode,
        )
