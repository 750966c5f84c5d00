"""The Edge Agreement Head of Mask R-CNN (arXiv 1809.07069)."""

from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.registry import MODELS

from .edge_agreement_mixin import EdgeAgreementMixin


@MODELS.register_module()
class EdgeAgreementMaskHead(EdgeAgreementMixin, FCNMaskHead):
    """``FCNMaskHead`` that is also trained to agree with the target's edges.

    Differs from ``FCNMaskHead`` by one more training loss, ``loss_edge``; use ``FCNMaskHead`` for plain Mask R-CNN.
    Parameters, state dict and predictions are those of ``FCNMaskHead``: checkpoints load both ways, and inference
    costs the same.

    Args:
        loss_edge (ConfigDict | dict, optional): Config of the edge loss; None equals ``FCNMaskHead``. Defaults to
            ``dict(type='EdgeLoss', exponent=2.0, loss_weight=3.0)``, which this package recommends; a dict replaces it
            as a whole.
        feature_grad_scale (float): Scale of the gradient of the RoI features, see :class:`EdgeAgreementMixin`. Defaults
            to 0.25.
        edge_feature_grad_scale (float, optional): The same for the edge loss alone. Defaults to None:
            ``feature_grad_scale``.
        **kwargs: The arguments of ``FCNMaskHead``.

    Example:
        >>> head = EdgeAgreementMaskHead(num_classes=3, loss_edge=dict(type='EdgeLoss', exponent=1))
        >>> head.loss_edge.exponent
        1.0
    """
