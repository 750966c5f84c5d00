"""Cross entropy that counts more where the edges disagree.

Source: the second combination of the ablation in Zimmermann & Siems (arXiv 1809.07069; ``weight_entropy`` in the
authors' code). Shape letters as in edge_loss.py.
"""

import logging
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmengine.logging import print_log
from torch import Tensor

from ..option_checks import check_number
from .edge_loss import EdgeLoss


def edge_weighted_cross_entropy(pred: Tensor, target: Tensor, disagreement: Tensor, temperature: float) -> Tensor:
    """Compute each mask's mean of ``BCE(pred, target) * exp(disagreement / temperature)``, (N,).

    Logits ``pred``, ``target`` and ``disagreement`` (see :meth:`EdgeLoss.edge_disagreement`) have shape (N, H, W).
    """
    cross_entropy = F.binary_cross_entropy_with_logits(pred, target, reduction='none')
    return (cross_entropy * (disagreement / temperature).exp()).mean(dim=(1, 2))


@MODELS.register_module()
class EdgeWeightedCrossEntropyLoss(EdgeLoss):
    """Mask cross entropy, each pixel weighted by how much its edges disagree.

    ::

        e    = mean over D of |F * (S(sigmoid(pred)) - S(target))| ** exponent
        loss = loss_weight * mean over N, H, W of BCE(pred, target) * exp(e / temperature)

    with the gradient through both factors. Like the authors' it is an addition to the mask loss (``loss_edge``), and
    may also replace it (``loss_mask``).

    Differs from :class:`EdgeLoss`, whose call it has, by what is done with the edge disagreement; use
    :class:`EdgeLoss` unless you repeat the paper's ablation.

    Args:
        filters, exponent, smooth_pred, smooth_target, padding_mode, reduction, loss_weight: See :class:`EdgeLoss`.
        temperature (float): Divides the edge disagreement, > 0. Defaults to 16.0, the largest disagreement at a
            straight edge with sobel and exponent 2.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If an option is out of range.

    Note:
        The cross entropy is always that of the unsmoothed masks. (In the authors' code smoothing affects it too if
        both sides are smoothed, an oversight.) Where the weight can exceed float32, the constructor logs a warning:
        raise the temperature then.

    Example:
        >>> EdgeWeightedCrossEntropyLoss(filters='sobel', temperature=8).temperature
        8.0
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
        temperature: float = 16.0,
    ) -> None:
        super().__init__(filters, exponent, smooth_pred, smooth_target, padding_mode, reduction, loss_weight)
        name = type(self).__name__
        self.temperature = check_number(name, 'temperature', temperature, minimum=0)
        if self.temperature == 0:
            raise ValueError(f'{name}: temperature must be greater than 0, got {temperature!r}')
        # A residual is in [-1, 1], so that a response is at most the sum of a kernel's absolute entries. In practice
        # exponents this high overflow on bad predictions only.
        largest = float((np.abs(self.kernels).sum(axis=(1, 2)) ** self.exponent).mean())
        if largest / self.temperature > math.log(torch.finfo(torch.float32).max):
            print_log(
                f'{name}: with {self.extra_repr()} the pixel weight exp(e / temperature) can overflow float32 (e '
                f'reaches up to {largest:g}); a temperature of {largest / 16:g} would be safe',
                'current',
                level=logging.WARNING,
            )

    def extra_repr(self) -> str:
        """Return the options of :class:`EdgeLoss` and the temperature."""
        return f'{super().extra_repr()}, temperature={self.temperature:g}'

    def instance_losses(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the unweighted loss of each mask, (N,)."""
        return edge_weighted_cross_entropy(pred, target, self.edge_disagreement(pred, target), self.temperature)
