"""Cross entropy that counts more where the edges disagree.

Source: the second combination in the survey of Zimmermann & Siems (arXiv 1809.07069; ``weight_entropy`` in the
authors' code). Shape letters as in edge_loss.py.
"""

import logging
import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmengine.logging import print_log
from torch import Tensor

from .edge_loss import EdgeLoss, check_finite


@MODELS.register_module()
class EdgeWeightedCrossEntropyLoss(EdgeLoss):
    """Mask cross entropy, each pixel weighted by how much its edges disagree.

    ::

        e    = mean over D of |F * (S(sigmoid(pred)) - S(target))| ** exponent
        loss = loss_weight * mean over N, H, W of BCE(pred, target) * exp(e / temperature)

    with the gradient through both factors. Like the authors' it is an addition to the mask loss (``loss_edge``), and
    may also replace it (``loss_mask``).

    Differs from :class:`EdgeLoss` by what is done with the edge disagreement; use :class:`EdgeLoss` unless you repeat
    the paper's survey.

    Args:
        *args: The arguments of :class:`EdgeLoss`.
        temperature (float): Divides the edge disagreement, > 0. Defaults to 16.0, the largest disagreement at a
            straight edge with sobel and exponent 2.
        **kwargs: The arguments of :class:`EdgeLoss`.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If an option has a value out of range.

    Note:
        The cross entropy is always that of the unsmoothed masks. (In the authors' code smoothing reaches it too if
        both are switched on, an oversight.) Where the weight can exceed float32, a warning says so at construction:
        raise the temperature then.

    Example:
        >>> EdgeWeightedCrossEntropyLoss(filters='sobel', temperature=8).temperature
        8.0
    """

    def __init__(self, *args: Any, temperature: float = 16.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        name = type(self).__name__
        self.temperature = check_finite(name, 'temperature', temperature, minimum=0)
        if self.temperature == 0:
            raise ValueError(f'{name}: temperature must be greater than 0, got {temperature!r}')
        # A residual lies in [-1, 1], so that a response is at most the sum of a kernel's positive
        # and negative entries. Exponents this high do overflow in practice only on bad predictions.
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
        """Return the unweighted loss of each instance, (N,)."""
        cross_entropy = F.binary_cross_entropy_with_logits(pred, target, reduction='none')
        weight = (self.edge_disagreement(pred, target) / self.temperature).exp()
        return (cross_entropy * weight).mean(dim=(1, 2))
