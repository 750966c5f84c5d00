"""The convergence benchmark: training runs of several settings, seeds and budgets, from one spec.

``mmdet_edge`` does not import it: the configs of mask-branch runs name it in their ``custom_imports``.
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
