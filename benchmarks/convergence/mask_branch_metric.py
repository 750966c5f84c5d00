"""The measures of the mask branch, as a metric."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric

from mmdet_edge.evaluation.mask_branch import score_mask


@METRICS.register_module()
class MaskBranchMetric(BaseMetric):
    """Means over the RoIs of what :class:`MaskBranch` predicts.

    The names and definitions are those of :func:`mmdet_edge.evaluation.evaluate_mask_branch` at the size of the head's
    masks: 'mask_branch/mIoU', 'mask_branch/boundary_IoU_1px', ...
    """

    default_prefix = 'mask_branch'

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Score each RoI of a batch."""
        self.results += [score_mask(sample['prob'], sample['target']) for sample in data_samples]

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Return the means over all RoIs."""
        return {name: float(np.mean([scores[name] for scores in results])) for name in results[0]}
