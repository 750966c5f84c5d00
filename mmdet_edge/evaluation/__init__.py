"""Metrics, registered in MMDetection's ``METRICS``, and the quality of the mask branch."""

from .coco_boundary_metric import CocoBoundaryMetric
from .mask_branch import evaluate_mask_branch

__all__ = ['CocoBoundaryMetric', 'evaluate_mask_branch']
