"""The benchmark of convergence: many trainings of several settings, from one spec.

Not imported by ``mmdet_edge``: the configs that need it name it in their ``custom_imports``.
"""

from .mask_branch import MaskBranch
from .mask_branch_metric import MaskBranchMetric
from .roi_feature_cache import cache_roi_features
from .roi_feature_dataset import RoIFeatureDataset, save_roi_features

__all__ = [
    'MaskBranch',
    'MaskBranchMetric',
    'RoIFeatureDataset',
    'cache_roi_features',
    'save_roi_features',
]
