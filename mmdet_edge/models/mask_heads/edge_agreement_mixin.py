"""What turns an FCN-like mask head into an Edge Agreement Head (arXiv 1809.07069)."""

from typing import Any

import torch
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.registry import MODELS
from mmdet.utils import InstanceList, OptConfigType
from mmengine.config import ConfigDict
from torch import Tensor


class EdgeAgreementMixin:
    """Adds ``loss_edge`` to the losses of an ``FCNMaskHead`` or a head derived from it.

    Put it before the head among the base classes. mmdet's RoI heads pass the new key on, and those with stages weight
    it by their ``stage_loss_weights``, like every loss; only SCNet's drops it (see
    :class:`EdgeAgreementSCNetMaskHead`).

    Args:
        loss_edge (ConfigDict | dict, optional): Config of the edge loss, by default of type 'EdgeLoss'; it replaces the
            default as a whole. None switches it off. Defaults to
            ``dict(type='EdgeLoss', exponent=1.5, loss_weight=3.0)``, the setting that this package recommends
            (docs/evidence.md); the authors' is ``dict(type='EdgeLoss')``.
        **kwargs: The arguments of the mask head.

    Raises:
        TypeError: If ``loss_edge`` is neither a config nor None.
    """

    def __init__(
        self,
        *,
        loss_edge: OptConfigType = dict(type='EdgeLoss', exponent=1.5, loss_weight=3.0),  # noqa: B006
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if loss_edge is not None and not isinstance(loss_edge, dict):
            raise TypeError(
                f'{type(self).__name__}: loss_edge must be a config, such as dict(filters="sobel"), or None, got '
                f'{loss_edge!r}. In a cascade, each head of the list mask_head has its own'
            )
        self.loss_edge = None if loss_edge is None else MODELS.build({'type': 'EdgeLoss', **loss_edge})

    def loss_and_target(
        self,
        mask_preds: Tensor,
        sampling_results: list[SamplingResult],
        batch_gt_instances: InstanceList,
        rcnn_train_cfg: ConfigDict,
    ) -> dict:
        """Compute the losses of the mask head and the edge loss on the same targets.

        Args:
            mask_preds (Tensor): Logits, (N, C, H, W): N positive RoIs, C classes (1 if class-agnostic).
            sampling_results (list[:obj:`SamplingResult`]): Sampled RoIs of each image.
            batch_gt_instances (list[:obj:`InstanceData`]): Ground truth of each image, with ``masks``.
            rcnn_train_cfg (ConfigDict): ``train_cfg`` of the RoI head; ``mask_size`` must be (H, W).

        Returns:
            dict: ``loss_mask``, a dict with ``loss_mask`` and ``loss_edge`` (without the latter if it is off), and
            ``mask_targets``, (N, H, W). For N = 0 the keys are the same and the losses are 0.
        """
        results = super().loss_and_target(  # type: ignore[misc]
            mask_preds, sampling_results, batch_gt_instances, rcnn_train_cfg
        )
        if self.loss_edge is not None:
            labels = torch.cat([res.pos_gt_labels for res in sampling_results])
            if self.class_agnostic:  # type: ignore[attr-defined]
                labels = torch.zeros_like(labels)
            results['loss_mask']['loss_edge'] = self.loss_edge(mask_preds, results['mask_targets'], labels)
        return results
