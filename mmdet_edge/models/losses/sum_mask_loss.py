"""Several mask losses as one.

Shape letters as in edge_loss.py.
"""

from collections.abc import Sequence

import torch
from mmdet.models.losses import CrossEntropyLoss
from mmdet.registry import MODELS
from mmdet.utils import ConfigType
from torch import Tensor, nn

from ..option_checks import check_bool
from .edge_loss import EdgeLoss, reduce_losses, select_class_masks


def takes_logits(loss: nn.Module) -> bool:
    """Return whether a mask loss applies the sigmoid itself."""
    applies_sigmoid = isinstance(loss, (EdgeLoss, SumMaskLoss)) or getattr(loss, 'use_sigmoid', False)
    return getattr(loss, 'activate', True) and (applies_sigmoid or getattr(loss, 'use_mask', False))


@MODELS.register_module()
class SumMaskLoss(nn.Module):
    """Sum of several mask losses, for a head that takes only one.

    Use it as the ``loss_mask`` of a head of your own whose RoI head drops any further key, or to use mmdet's losses
    without class channels (Dice, squared error, ...) on a mask head. The channel of each mask's class is selected
    once; then each loss gets what it expects:

    - losses that apply the sigmoid themselves get logits: :class:`EdgeLoss`, ``CrossEntropyLoss`` (``use_mask`` or
      ``use_sigmoid``), and losses with ``use_sigmoid=True`` unless they also say ``activate=False``;
    - all others (``MSELoss``, ``L1Loss``, ``DiceLoss(activate=False)``, ...) get probabilities.

    Differs from :class:`EdgeAgreementMaskHead` by logging one number, ``loss_mask``, for the sum; use the head where
    you can.

    Args:
        losses (Sequence[dict]): Configs of the losses; each keeps its own ``loss_weight``.
        activate (bool): Whether the head gives logits. Set it to False, as on ``DiceLoss``, for a head that gives
            probabilities (DecoupledSOLO); then no loss of the sum may apply the sigmoid. Defaults to True.

    Raises:
        TypeError: If ``losses`` is not a list of configs, or ``activate`` not a bool.
        ValueError: If ``losses`` is empty, or holds a softmax ``CrossEntropyLoss``, or with ``activate=False`` a loss
            that applies the sigmoid.

    Example:
        >>> loss = SumMaskLoss([dict(type='CrossEntropyLoss', use_mask=True), dict(type='DiceLoss')])
        >>> loss(torch.randn(4, 3, 28, 28), torch.ones(4, 28, 28), torch.tensor([0, 1, 2, 2])).dim()
        0
    """

    def __init__(self, losses: Sequence[ConfigType], *, activate: bool = True) -> None:
        super().__init__()
        if not isinstance(losses, (list, tuple)) or not all(isinstance(x, dict) for x in losses):
            raise TypeError(f'SumMaskLoss: losses must be a list of configs, dict(type=...), got {losses!r}')
        if not losses:
            raise ValueError('SumMaskLoss: losses is empty; name at least one mask loss')
        self.activate = check_bool('SumMaskLoss', 'activate', activate)
        self.losses = nn.ModuleList(MODELS.build(x) for x in losses)
        for loss in self.losses:
            if isinstance(loss, CrossEntropyLoss) and not (loss.use_mask or loss.use_sigmoid):
                raise ValueError(
                    'SumMaskLoss: CrossEntropyLoss on masks needs use_mask=True; as given it is a softmax over classes'
                )
            if not activate and takes_logits(loss):
                raise ValueError(
                    f'SumMaskLoss: with activate=False the head gives probabilities, but {type(loss).__name__} would '
                    'apply the sigmoid once more; give it activate=False too, or leave it out if it does not take that'
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
        """Compute the sum of the losses.

        Args:
            pred (Tensor): Logits (probabilities with ``activate=False``), (N, C, H, W) with ``label`` or (N, H, W)
                without.
            target (Tensor): Masks in [0, 1], (N, H, W).
            label (Tensor, optional): Channel of each mask, (N,), integer, counted from 0. Defaults to None.
            weight (Tensor, optional): Weight of each mask, (N,). Defaults to None.
            avg_factor (float, optional): Replaces N as the divisor of the mean over the masks. Defaults to None.
            reduction_override (str, optional): 'none', 'mean' or 'sum' over the masks. Defaults to None: that of each
                loss, or 'mean' where ``weight`` or ``avg_factor`` is given.

        Returns:
            Tensor: A scalar, or (N,) with 'none'; float32 (float64 if ``pred`` is). For N = 0 a zero that is still
            connected to ``pred``.

        Raises:
            ValueError: If ranks or sizes do not fit, or a loss cannot be computed mask by mask where that is needed.
        """
        with torch.autocast(pred.device.type, enabled=False):
            pred, target = select_class_masks('SumMaskLoss', pred, target, label)
            if weight is None and avg_factor is None and reduction_override is None and len(pred):
                # CrossEntropyLoss(use_mask=True) returns shape (1,), the others a scalar.
                return torch.stack([self._call(loss, pred, target).mean() for loss in self.losses]).sum()
            losses = pred.flatten(1).sum(1)
            if len(pred):
                losses = torch.stack([self._each_mask(loss, pred, target) for loss in self.losses]).sum(0)
            return reduce_losses('SumMaskLoss', losses, weight, reduction_override or 'mean', avg_factor)

    def _call(self, loss: nn.Module, pred: Tensor, target: Tensor, **kwargs: str) -> Tensor:
        """Call a loss with logits or probabilities, (N, H, W), whichever it expects, and the target, (N, H, W)."""
        if isinstance(loss, CrossEntropyLoss) and loss.use_mask:
            only_channel = torch.zeros(len(pred), dtype=torch.long, device=pred.device)
            return loss(pred[:, None], target, only_channel)
        return loss(pred.sigmoid() if self.activate and not takes_logits(loss) else pred, target, **kwargs)

    def _each_mask(self, loss: nn.Module, pred: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each mask, (N,)."""
        if isinstance(loss, CrossEntropyLoss) and loss.use_mask:
            raise ValueError(
                'SumMaskLoss: CrossEntropyLoss(use_mask=True) gives one number for all masks, but this head weights or '
                'reduces the masks itself; use CrossEntropyLoss(use_sigmoid=True), which has the same value'
            )
        # Dice has one number a mask, the cross entropy one a pixel.
        return self._call(loss, pred, target, reduction_override='none').reshape(len(pred), -1).mean(dim=1)
