"""The Edge Agreement Head of Hybrid Task Cascade."""

from mmdet.models.roi_heads.mask_heads import HTCMaskHead
from mmdet.registry import MODELS

from .edge_agreement_mixin import EdgeAgreementMixin


@MODELS.register_module()
class EdgeAgreementHTCMaskHead(EdgeAgreementMixin, HTCMaskHead):
    """``HTCMaskHead`` that is also trained to agree with the target's edges.

    Differs from ``HTCMaskHead`` by one more training loss, ``loss_edge``, in every stage that uses it; use
    :class:`EdgeAgreementMaskHead` for Mask R-CNN and Cascade Mask R-CNN.

    Args:
        loss_edge (ConfigDict | dict, optional): Config of the edge loss; None equals ``HTCMaskHead``. Defaults to
            ``dict(type='EdgeLoss', exponent=2.0, loss_weight=3.0)``.
        feature_grad_scale (float): Scale of the gradient of the RoI features, see :class:`EdgeAgreementMixin`. Defaults
            to 0.25.
        edge_feature_grad_scale (float, optional): The same for the edge loss alone. Defaults to None:
            ``feature_grad_scale``.
        **kwargs: The arguments of ``HTCMaskHead``.
    """
