"""Variants of the edge loss that were tried and are not part of the package: for the specs only."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.registry import HOOKS, MODELS
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from mmdet_edge.models.losses.edge_filters import get_edge_kernels
from mmdet_edge.models.losses.edge_loss import EdgeLoss

KERNELS = {
    'scharr': (((3, 10, 3), (0, 0, 0), (-3, -10, -3)), ((3, 0, -3), (10, 0, -10), (3, 0, -3))),
    'identity': (((0, 0, 0), (0, 1, 0), (0, 0, 0)),),
}


@MODELS.register_module()
class TriedEdgeLoss(EdgeLoss):
    """EdgeLoss with other kernels.

    Args:
        kernels (str | Sequence[str]): Names out of EDGE_FILTERS or :data:`KERNELS`.
        dilations (Sequence[int]): Each kernel is applied at each of these scales; the scales are averaged. Defaults to
            (1,).
        normalized (bool): Whether each kernel is divided by the sum of its positive entries, its largest response to a
            binary mask, so that one weight should fit all. Defaults to False.
        exponent (float): As in :class:`EdgeLoss`. Defaults to 2.0.
        loss_weight (float): As in :class:`EdgeLoss`. Defaults to 1.0.
    """

    def __init__(
        self,
        kernels: str | Sequence[str] = 'sobel',
        dilations: Sequence[int] = (1,),
        normalized: bool = False,
        exponent: float = 2.0,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(exponent=exponent, loss_weight=loss_weight)
        names = [kernels] if isinstance(kernels, str) else kernels
        self.kernels = tuple(k for n in names for k in (KERNELS[n] if n in KERNELS else get_edge_kernels([n])))
        bank = torch.tensor(self.kernels, dtype=torch.float32)
        if normalized:
            bank = bank / bank.clamp(min=0).sum(dim=(1, 2), keepdim=True)
        self.register_buffer('bank', bank, persistent=False)
        self.dilations = tuple(dilations)

    def instance_losses(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the mean of the map: there is no faster way for dilated kernels."""
        return self.edge_disagreement(pred, target).mean(dim=(1, 2))

    def edge_disagreement(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return |F * r| ** p, averaged over kernels and scales; (N, H, W)."""
        residual = (pred.sigmoid() - target)[:, None]
        kernels = self.bank[:, None].to(residual.dtype)
        maps = [F.conv2d(residual, kernels, padding=d, dilation=d) for d in self.dilations]
        return torch.stack(maps).abs().pow(self.exponent).mean(dim=(0, 2))


@HOOKS.register_module()
class EdgeLossScheduleHook(Hook):
    """Changes an option of every edge loss linearly over the training run.

    Args:
        option (str): 'loss_weight' or 'exponent'.
        start (float): Value at the first iteration.
        end (float): Value at the last one.
    """

    def __init__(self, option: str, start: float, end: float) -> None:
        self.option, self.start, self.end = option, start, end

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Set the option."""
        progress = runner.iter / max(1, runner.max_iters - 1)
        for module in runner.model.modules():
            if isinstance(module, EdgeLoss):
                setattr(module, self.option, self.start + progress * (self.end - self.start))
