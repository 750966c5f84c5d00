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
    drops all others. It weights it by the sum of its ``stage_loss_weights``, like the mask loss.

    Args:
        loss_edge (ConfigDict | dict, optional): Config of the edge loss; None equals ``SCNetMaskHead``. Defaults to
            ``dict(type='EdgeLoss', exponent=2.0, loss_weight=3.0)``.
        **kwargs: The arguments of ``SCNetMaskHead``.
    """

    def loss_and_target(
        self,
        mask_preds: Tensor,
        sampling_results: list[SamplingResult],
        batch_gt_instances: InstanceList,
        rcnn_train_cfg: ConfigDict,
    ) -> dict:
        """Compute the sum of the mask loss and the edge loss on the same targets.

        Args:
            mask_preds (Tensor): See :meth:`EdgeAgreementMixin.loss_and_target`, as for the others.
            sampling_results (list[:obj:`SamplingResult`]): Sampled RoIs of each image.
            batch_gt_instances (list[:obj:`InstanceData`]): Ground truth of each image.
            rcnn_train_cfg (ConfigDict): ``train_cfg`` of the RoI head.

        Returns:
            dict: ``loss_mask``, a dict with ``loss_mask``, the sum; and ``mask_targets``, (N, H, W). For N = 0 the sum
            is 0.
        """
        results = super().loss_and_target(mask_preds, sampling_results, batch_gt_instances, rcnn_train_cfg)
        results['loss_mask'] = dict(loss_mask=sum(results['loss_mask'].values()))
        return results
