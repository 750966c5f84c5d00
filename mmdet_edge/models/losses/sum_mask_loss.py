"""Several mask losses as one.

Shape letters as in edge_loss.py.
"""

from collections.abc import Sequence
from typing import Optional

import torch
from mmdet.models.losses import CrossEntropyLoss
from mmdet.registry import MODELS
from mmdet.utils import ConfigType
from torch import Tensor, nn

from .edge_loss import EdgeLoss, select_class_masks


def call_mask_loss(loss: nn.Module, logits: Tensor, target: Tensor) -> Tensor:
    """Call a mask loss with logits or probabilities, (N, H, W), whichever it expects, and the target, (N, H, W)."""
    if isinstance(loss, CrossEntropyLoss) and loss.use_mask:
        only_channel = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        return loss(logits[:, None], target, only_channel)
    takes_logits = isinstance(loss, (EdgeLoss, SumMaskLoss)) or (
        getattr(loss, 'use_sigmoid', False) and getattr(loss, 'activate', True)
    )
    return loss(logits if takes_logits else logits.sigmoid(), target)


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

    Raises:
        TypeError: If ``losses`` is not a list of configs.
        ValueError: If ``losses`` is empty, or holds a softmax ``CrossEntropyLoss``.

    Example:
        >>> loss = SumMaskLoss([dict(type='CrossEntropyLoss', use_mask=True), dict(type='DiceLoss')])
        >>> loss(torch.randn(4, 3, 28, 28), torch.ones(4, 28, 28), torch.tensor([0, 1, 2, 2])).dim()
        0
    """

    def __init__(self, losses: Sequence[ConfigType]) -> None:
        super().__init__()
        if not isinstance(losses, (list, tuple)) or not all(isinstance(x, dict) for x in losses):
            raise TypeError(f'SumMaskLoss: losses must be a list of configs, dict(type=...), got {losses!r}')
        if not losses:
            raise ValueError('SumMaskLoss: losses is empty; name at least one mask loss')
        self.losses = nn.ModuleList(MODELS.build(x) for x in losses)
        for loss in self.losses:
            if isinstance(loss, CrossEntropyLoss) and not (loss.use_mask or loss.use_sigmoid):
                raise ValueError(
                    'SumMaskLoss: CrossEntropyLoss on masks needs use_mask=True; as given it is a softmax over classes'
                )

    def forward(self, pred: Tensor, target: Tensor, label: Optional[Tensor] = None) -> Tensor:
        """Compute the sum of the losses.

        Args:
            pred (Tensor): Logits, (N, C, H, W) with ``label`` or (N, H, W) without.
            target (Tensor): Masks in [0, 1], (N, H, W).
            label (Tensor, optional): Channel of each mask, (N,), integer, counted from 0. Defaults to None.

        Returns:
            Tensor: A scalar, float32 (float64 if ``pred`` is); for N = 0 a zero that is still connected to ``pred``.

        Raises:
            ValueError: If ranks or sizes do not fit.
        """
        with torch.autocast(pred.device.type, enabled=False):
            logits, target = select_class_masks('SumMaskLoss', pred, target, label)
            if len(logits) == 0:
                return logits.sum()
            # CrossEntropyLoss(use_mask=True) returns shape (1,), the others a scalar.
            return torch.stack([call_mask_loss(loss, logits, target).mean() for loss in self.losses]).sum()
