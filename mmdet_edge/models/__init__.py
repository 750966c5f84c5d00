"""Losses and mask heads, registered in MMDetection's ``MODELS``."""

from .losses import EdgeLoss, EdgeWeightedCrossEntropyLoss, SumMaskLoss, edge_loss
from .mask_heads import (
    EdgeAgreementDynamicMaskHead,
    EdgeAgreementHTCMaskHead,
    EdgeAgreementMaskHead,
    EdgeAgreementSCNetMaskHead,
)

__all__ = [
    'EdgeAgreementDynamicMaskHead',
    'EdgeAgreementHTCMaskHead',
    'EdgeAgreementMaskHead',
    'EdgeAgreementSCNetMaskHead',
    'EdgeLoss',
    'EdgeWeightedCrossEntropyLoss',
    'SumMaskLoss',
    'edge_loss',
]
