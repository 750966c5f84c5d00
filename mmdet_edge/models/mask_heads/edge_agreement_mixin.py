"""What turns an FCN-like mask head into an Edge Agreement Head (arXiv 1809.07069)."""

import copy
import inspect
from typing import Any, Union

import torch
from mmdet.models.losses import CrossEntropyLoss
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.registry import MODELS
from mmdet.utils import InstanceList, OptConfigType
from mmengine.config import ConfigDict
from torch import Tensor, nn

from ..losses import EdgeLoss, EdgeWeightedCrossEntropyLoss, SumMaskLoss
from .class_selected_conv import ClassSelectedConv2d, LazyLogits

CLASS_BLIND_LOSSES = (CrossEntropyLoss, EdgeLoss, EdgeWeightedCrossEntropyLoss, SumMaskLoss)
"""Mask losses that use the label for nothing but picking a channel; a subclass may use it for more."""

DEFAULT_LOSS_EDGE = dict(type='EdgeLoss', exponent=2.0, loss_weight=3.0)
"""The edge loss that this package recommends."""


class EdgeAgreementMixin:
    """Adds ``loss_edge`` to the losses of an ``FCNMaskHead`` or a head derived from it.

    Put it before the head among the base classes. mmdet's RoI heads pass the new key on, and those with stages weight
    it by their ``stage_loss_weights``, like every loss; only SCNet's drops it (see
    :class:`EdgeAgreementSCNetMaskHead`).

    While training, only the logits of each mask's own class are computed, unless somebody asks for all of them
    (:class:`LazyLogits`): losses and gradients are the same up to rounding, and the step is cheaper than the plain
    head's. ``predictor_cfg=dict(type='Conv')``, mmdet's default, brings all logits back, as does any other predictor.

    Args:
        loss_edge (ConfigDict | dict, optional): Config of the edge loss, by default of type 'EdgeLoss'; it replaces the
            default as a whole. None switches it off. Defaults to
            ``dict(type='EdgeLoss', exponent=2.0, loss_weight=3.0)``, the setting that this package recommends
            (docs/evidence.md); the authors' is ``dict(type='EdgeLoss')``.
        **kwargs: The arguments of the mask head.

    Raises:
        TypeError: If ``loss_edge`` is neither a config nor None, or the loss does not take the labels of the masks.
        ValueError: If it does not return one number.
    """

    def __init__(
        self,
        *,
        loss_edge: OptConfigType = DEFAULT_LOSS_EDGE,
        **kwargs: Any,
    ) -> None:
        if loss_edge is not None:
            kwargs = {'predictor_cfg': dict(type=ClassSelectedConv2d), **kwargs}
        super().__init__(**kwargs)
        if loss_edge is not None and not isinstance(loss_edge, dict):
            raise TypeError(
                f'{type(self).__name__}: loss_edge must be a config, such as dict(filters="sobel"), or None, got '
                f'{loss_edge!r}. In a cascade, each head of the list mask_head has its own'
            )
        self.loss_edge = None
        if loss_edge is not None:
            self.loss_edge = MODELS.build({'type': 'EdgeLoss', **loss_edge})
            self._check_loss(self.loss_edge)

    def _check_loss(self, loss: nn.Module) -> None:
        """Refuse what would take the labels for weights, or has no number for a rank without positive RoIs."""
        name = type(self).__name__
        arguments = list(inspect.signature(loss.forward).parameters)
        # The cross entropy calls what it takes there label and weight; mmdet's heads give it target and label.
        if 'label' not in arguments[2:3] and not isinstance(loss, CrossEntropyLoss):
            raise TypeError(
                f'{name}: loss_edge must be called with (pred, target, label), got {type(loss).__name__} with '
                f"({', '.join(arguments[:3])}). Wrap it: dict(type='SumMaskLoss', losses=[dict(type=...)])"
            )
        if getattr(loss, 'reduction', 'mean') == 'none':
            raise ValueError(f"{name}: loss_edge must return one number, got reduction='none'; take 'mean' or 'sum'")

    def loss_and_target(
        self,
        mask_preds: Union[Tensor, LazyLogits],
        sampling_results: list[SamplingResult],
        batch_gt_instances: InstanceList,
        rcnn_train_cfg: ConfigDict,
    ) -> dict:
        """Compute the losses of the mask head and the edge loss on the same targets.

        Args:
            mask_preds (Tensor | LazyLogits): Logits, (N, C, H, W): N positive RoIs, C classes (1 if class-agnostic).
            sampling_results (list[:obj:`SamplingResult`]): Sampled RoIs of each image.
            batch_gt_instances (list[:obj:`InstanceData`]): Ground truth of each image, with ``masks``.
            rcnn_train_cfg (ConfigDict): ``train_cfg`` of the RoI head; ``mask_size`` must be (H, W).

        Returns:
            dict: ``loss_mask``, a dict with ``loss_mask`` and ``loss_edge`` (without the latter if it is off), and
            ``mask_targets``, (N, H, W). For N = 0 the keys are the same and the losses are 0.
        """
        if isinstance(mask_preds, LazyLogits) and self._labels_only_pick_channels():
            mask_preds = mask_preds.of_class(torch.cat([res.pos_gt_labels for res in sampling_results]))
            # Their only channel is channel 0.
            sampling_results = [copy.copy(res) for res in sampling_results]
            for res in sampling_results:
                res.pos_gt_labels = torch.zeros_like(res.pos_gt_labels)
        results = super().loss_and_target(  # type: ignore[misc]
            mask_preds, sampling_results, batch_gt_instances, rcnn_train_cfg
        )
        if self.loss_edge is not None:
            labels = torch.cat([res.pos_gt_labels for res in sampling_results])
            if self.class_agnostic:  # type: ignore[attr-defined]
                labels = torch.zeros_like(labels)
            results['loss_mask']['loss_edge'] = self.loss_edge(mask_preds, results['mask_targets'], labels)
        return results

    def _labels_only_pick_channels(self) -> bool:
        # A head with an own loss_and_target may use them for more.
        is_mmdets = super().loss_and_target.__func__ is FCNMaskHead.loss_and_target  # type: ignore[misc]
        losses = (self.loss_mask, self.loss_edge)  # type: ignore[attr-defined]
        return is_mmdets and all(type(loss) in CLASS_BLIND_LOSSES for loss in losses)
