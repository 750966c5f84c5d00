"""A metric that scores the masks of the mask branch alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric
from torch import Tensor

from mmdet_edge.evaluation.mask_branch import score_mask


def score_stripes(prob: Tensor) -> dict[str, float]:
    """Score how far a mask has stripes: a pattern that repeats every two pixels, along rows or columns.

    Args:
        prob (Tensor): Predicted probabilities, or a mask of 0 and 1, (h, w), both even.

    Returns:
        dict[str, float]: 'nyquist', the fraction of the energy, without the mean, at half the sampling frequency; and
        'stripes', the fraction of pixels of the mask (at 0.5) that differ from both neighbours in their row or column.
    """
    height, width = prob.shape
    energy = np.abs(np.fft.fft2(prob.numpy())) ** 2
    total = energy.sum() - energy[0, 0]
    half = energy[height // 2].sum() + energy[:, width // 2].sum() - energy[height // 2, width // 2]
    mask = prob.numpy() >= 0.5
    alone = np.zeros_like(mask)
    rows, columns = mask[1:] != mask[:-1], mask[:, 1:] != mask[:, :-1]
    alone[1:-1] |= rows[1:] & rows[:-1]
    alone[:, 1:-1] |= columns[:, 1:] & columns[:, :-1]
    return dict(nyquist=float(half / total) if total > 1e-9 else 0.0, stripes=float(alone.mean()))


@METRICS.register_module()
class MaskBranchMetric(BaseMetric):
    """Scores the masks that :class:`MaskBranch` predicts, as means over the RoIs.

    Metrics are those of :func:`mmdet_edge.evaluation.evaluate_mask_branch` at the size of the head's masks
    ('mask_branch/mIoU', 'mask_branch/boundary_IoU_1px', ...) and those of :func:`score_stripes`.

    Args:
        scores_file (str, optional): An .npz file to write the scores of each RoI to, in the order of the data, and its
            probabilities as ``prob``, (N, h, w), 0 to 255. Defaults to None.
    """

    default_prefix = 'mask_branch'

    def __init__(self, scores_file: str | None = None) -> None:
        super().__init__()
        self.scores_file = scores_file

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Score each RoI of a batch."""
        for sample in data_samples:
            prob = sample['prob']
            scores = {**score_mask(prob, sample['target']), **score_stripes(prob)}
            self.results.append((scores, (255 * prob).round().byte().numpy()))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Return the means over all RoIs."""
        scores, probs = zip(*results)
        values = {name: np.array([one[name] for one in scores]) for name in scores[0]}
        if self.scores_file:
            Path(self.scores_file).parent.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(self.scores_file, **values, prob=np.stack(probs))
        return {name: float(value.mean()) for name, value in values.items()}
