"""The Edge Agreement Head of QueryInst."""

from typing import Any

from mmdet.models.roi_heads.mask_heads import DynamicMaskHead
from mmdet.registry import MODELS

from .edge_agreement_mixin import EdgeAgreementMixin


@MODELS.register_module()
class EdgeAgreementDynamicMaskHead(EdgeAgreementMixin, DynamicMaskHead):
    """``DynamicMaskHead`` that is also trained to agree with the target's edges.

    Differs from ``DynamicMaskHead`` by one more training loss, ``loss_edge``, in every stage that uses it. The
    head's own loss is Dice with weight 8; the default weight of the edge loss was chosen for a cross entropy with
    weight 1.

    Args:
        loss_edge (ConfigDict | dict, optional): Config of the edge loss; None equals ``DynamicMaskHead``. Defaults to
            ``dict(type='EdgeLoss', exponent=2.0, loss_weight=3.0)``.
        feature_grad_scale (float): Scale of the gradient of the RoI features, see :class:`EdgeAgreementMixin`. Defaults
            to 1.0: beside a Dice loss of weight 8 the edge loss is not a heavy one.
        edge_feature_grad_scale (float, optional): The same for the edge loss alone. Defaults to None:
            ``feature_grad_scale``.
        **kwargs: The arguments of ``DynamicMaskHead``.
    """

    def __init__(self, *, feature_grad_scale: float = 1.0, **kwargs: Any) -> None:
        super().__init__(feature_grad_scale=feature_grad_scale, **kwargs)
