"""Hooks of a training."""

from .edge_visualization_hook import EdgeVisualizationHook
from .mask_branch_eval_hook import MaskBranchEvalHook
from .staged_unfreeze_hook import StagedUnfreezeHook

__all__ = ['EdgeVisualizationHook', 'MaskBranchEvalHook', 'StagedUnfreezeHook']
