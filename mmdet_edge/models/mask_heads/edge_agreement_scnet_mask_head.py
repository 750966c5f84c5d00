"""The Edge Agreement Head of SCNet."""

from mmdet.models.roi_heads.mask_heads import SCNetMaskHead
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.registry import MODELS
from mmdet.utils import InstanceList
from mmengine.config import ConfigDict
from torch import Tensor

from .edge_agreement_mixin import EdgeAgreementMixin


@MODELS.register_module()
class EdgeAgreementSCNetMaskHead(EdgeAgreementMixin, SCNetMaskHead):
    """``SCNetMaskHead`` that is also trained to agree with the target's edges.

    Differs from ``SCNetMaskHead`` by the edge loss, which is part of ``loss_mask``: ``SCNetRoIHead`` reads that key and
    drops all others. It weights the sum by the sum of its ``stage_loss_weights``, like the mask loss.

    Args:
        loss_edge (ConfigDict | dict, optional): Config of the edge loss; None equals ``SCNetMaskHead``. Defaults to
            ``dict(type='EdgeLoss', exponent=2.0, loss_weight=3.0)``.
        feature_grad_scale (float): Scale of the gradient of the RoI features, see :class:`EdgeAgreementMixin`. Defaults
            to 0.25.
        edge_feature_grad_scale (float, optional): The same for the edge loss alone. Defaults to None:
            ``feature_grad_scale``.
        **kwargs: The arguments of ``SCNetMaskHead``.
    """

    def loss_and_target(
        self,
        mask_preds: Tensor,
        sampling_results: list[SamplingResult],
        batch_gt_instances: InstanceList,
        rcnn_train_cfg: ConfigDict,
    ) -> dict:
        """Compute the sum of the mask loss and the edge loss, as ``loss_mask``; see :class:`EdgeAgreementMixin`."""
        results = super().loss_and_target(mask_preds, sampling_results, batch_gt_instances, rcnn_train_cfg)
        results['loss_mask'] = dict(loss_mask=sum(results['loss_mask'].values()))
        return results
