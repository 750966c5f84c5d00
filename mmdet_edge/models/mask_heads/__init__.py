"""Mask heads with the edge agreement loss."""

from .edge_agreement_htc_mask_head import EdgeAgreementHTCMaskHead
from .edge_agreement_mask_head import EdgeAgreementMaskHead

__all__ = ['EdgeAgreementHTCMaskHead', 'EdgeAgreementMaskHead']
