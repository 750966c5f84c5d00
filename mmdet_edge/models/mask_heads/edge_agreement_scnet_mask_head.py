"""The Edge Agreement Head of SCNet."""

from typing import Any

from mmdet.models.roi_heads.mask_heads import SCNetMaskHead
from mmdet.registry import MODELS

from .edge_agreement_mixin import EdgeAgreementMixin


@MODELS.register_module()
class EdgeAgreementSCNetMaskHead(EdgeAgreementMixin, SCNetMaskHead):
    """``SCNetMaskHead`` that is also trained to agree with the target's edges.

    Differs from ``SCNetMaskHead`` by the edge loss, which is part of ``loss_mask``: ``SCNetRoIHead`` reads that key and
    drops all others. It weights it by the sum of its ``stage_loss_weights``, like the mask loss.

    Args:
        loss_edge (ConfigDict | dict, optional): Config of the edge loss; None equals ``SCNetMaskHead``. Defaults to
            ``dict(type='EdgeLoss', exponent=2.0, loss_weight=3.0)``.
        **kwargs: The arguments of ``SCNetMaskHead``.
    """

    def loss_and_target(self, *args: Any, **kwargs: Any) -> dict:
        """Compute the sum of the mask loss and the edge loss on the same targets.

        Args:
            *args: Those of :meth:`EdgeAgreementMixin.loss_and_target`.
            **kwargs: Those of :meth:`EdgeAgreementMixin.loss_and_target`.

        Returns:
            dict: ``loss_mask``, a dict with ``loss_mask``, the sum; and ``mask_targets``, (N, H, W). For N = 0 the sum
            is 0.
        """
        results = super().loss_and_target(*args, **kwargs)
        losses = results['loss_mask']
        if 'loss_edge' in losses:
            losses['loss_mask'] = losses['loss_mask'] + losses.pop('loss_edge')
        return results
