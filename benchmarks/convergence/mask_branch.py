"""A mask head alone, on cached RoI features."""

from typing import Any
from unittest.mock import patch

import torch
from mmdet.registry import MODELS
from mmdet.utils import ConfigType
from mmengine.model import BaseModel
from mmengine.structures import InstanceData
from torch import Tensor


@MODELS.register_module()
class MaskBranch(BaseModel):
    """Trains a mask head on the items of :class:`RoIFeatureDataset`, with the head's own losses.

    Args:
        mask_head (dict): Config of an FCN-like mask head.

    Note:
        The head computes in bfloat16 (autocast), which is faster on CPUs with AVX512-BF16; weights and losses are
        float32. Shape letters as in roi_feature_dataset.py.
    """

    def __init__(self, mask_head: ConfigType) -> None:
        super().__init__()
        self.mask_head = MODELS.build(mask_head)

    def forward(
        self, features: Tensor, targets: Tensor, labels: Tensor, mode: str = 'tensor'
    ) -> dict[str, Tensor] | list[dict[str, Tensor]] | Tensor:
        """Compute the logits, and the losses or predictions from them.

        Args:
            features (Tensor): Shape (N, C, h, w).
            targets (Tensor): Shape (N, H, W).
            labels (Tensor): Shape (N,), integer.
            mode (str): 'loss', 'predict' or 'tensor'. Defaults to 'tensor'.

        Returns:
            dict | list[dict] | Tensor: The head's losses; or ``prob`` and ``target``, each (H, W), of every RoI; or the
            logits, (N, classes, H, W).
        """
        with torch.autocast(features.device.type, torch.bfloat16):
            logits = self.mask_head(features)
        logits = logits.float()
        if mode == 'loss':
            sampled: Any = [InstanceData(pos_gt_labels=labels)]
            # The only thing that the head would need images for.
            with patch.object(self.mask_head, 'get_targets', lambda **_: targets):
                return self.mask_head.loss_and_target(logits, sampled, batch_gt_instances=None, rcnn_train_cfg=None)[
                    'loss_mask'
                ]
        if mode == 'predict':
            channels = torch.zeros_like(labels) if self.mask_head.class_agnostic else labels
            probs = logits[torch.arange(len(labels), device=labels.device), channels].sigmoid()
            return [dict(prob=prob, target=target) for prob, target in zip(probs.cpu(), targets.cpu())]
        return logits
