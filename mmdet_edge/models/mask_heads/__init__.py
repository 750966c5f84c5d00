"""Mask heads with the edge agreement loss."""

from .edge_agreement_dynamic_mask_head import EdgeAgreementDynamicMaskHead
from .edge_agreement_htc_mask_head import EdgeAgreementHTCMaskHead
from .edge_agreement_mask_head import EdgeAgreementMaskHead
from .edge_agreement_scnet_mask_head import EdgeAgreementSCNetMaskHead

__all__ = [
    'EdgeAgreementDynamicMaskHead',
    'EdgeAgreementHTCMaskHead',
    'EdgeAgreementMaskHead',
    'EdgeAgreementSCNetMaskHead',
]
