"""A mask head that was tried and is not part of the package: for the specs only."""

from typing import Any
from unittest.mock import patch

import torch
from mmdet.registry import MODELS
from torch import Tensor

from mmdet_edge.models import EdgeAgreementMaskHead
from mmdet_edge.models.mask_heads.class_selected_conv import LazyLogits
from mmdet_edge.models.mask_heads.edge_agreement_mixin import _ScaleGradient


@MODELS.register_module()
class TwoScalesMaskHead(EdgeAgreementMaskHead):
    """An edge head whose two losses pass different fractions of their gradients on to the RoI features.

    Its own parameters get both gradients as a whole. The head runs twice, once for each loss.

    Args:
        mask_grad_scale (float): Fraction of the gradient of ``loss_mask`` that reaches the RoI features.
        edge_grad_scale (float): The same for ``loss_edge``.
        **kwargs: As in :class:`EdgeAgreementMaskHead`.
    """

    def __init__(self, mask_grad_scale: float, edge_grad_scale: float, **kwargs: Any) -> None:
        super().__init__(feature_grad_scale=1.0, **kwargs)
        self.grad_scales = mask_grad_scale, edge_grad_scale
        self.features: Tensor | None = None

    def forward(self, x: Tensor) -> Any:
        """Compute the logits for ``loss_mask``, (N, C, H, W), and keep the RoI features for ``loss_edge``."""
        if not self.training:
            return super().forward(x)
        self.features = x
        return super().forward(_ScaleGradient.apply(x, self.grad_scales[0]))

    def loss_and_target(self, mask_preds: Any, sampling_results: Any, *args: Any, **kwargs: Any) -> dict:
        """Compute ``loss_mask`` on these logits, and ``loss_edge`` on those of a second run; see the base class."""
        with patch.object(self, 'loss_edge', None):
            results = super().loss_and_target(mask_preds, sampling_results, *args, **kwargs)
        labels = torch.cat([res.pos_gt_labels for res in sampling_results])
        logits = super().forward(_ScaleGradient.apply(self.features, self.grad_scales[1]))
        self.features = None
        if isinstance(logits, LazyLogits):
            logits, labels = logits.of_class(labels), labels * 0
        assert self.loss_edge is not None
        results['loss_mask']['loss_edge'] = self.loss_edge(logits, results['mask_targets'], labels)
        return results
