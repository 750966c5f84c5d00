"""Metrics, registered in MMDetection's ``METRICS``, and the quality of the mask branch."""

from .coco_boundary_metric import CocoBoundaryMetric

__all__ = ['CocoBoundaryMetric']
