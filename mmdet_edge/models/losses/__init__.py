"""Losses that compare the edges of predicted and target masks."""

from .edge_loss import EdgeLoss, edge_loss
from .edge_weighted_cross_entropy_loss import EdgeWeightedCrossEntropyLoss
from .sum_mask_loss import SumMaskLoss

__all__ = ['EdgeLoss', 'EdgeWeightedCrossEntropyLoss', 'SumMaskLoss', 'edge_loss']
