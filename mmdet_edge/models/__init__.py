"""Losses and mask heads, registered in MMDetection's ``MODELS``."""

from .losses import EdgeLoss, EdgeWeightedCrossEntropyLoss, SumMaskLoss, edge_loss
from .mask_heads import EdgeAgreementHTCMaskHead, EdgeAgreementMaskHead

__all__ = [
    'EdgeAgreementHTCMaskHead',
    'EdgeAgreementMaskHead',
    'EdgeLoss',
    'EdgeWeightedCrossEntropyLoss',
    'SumMaskLoss',
    'edge_loss',
]
