"""Hooks of a training run."""

from .atomic_checkpoint_hook import AtomicCheckpointHook
from .edge_visualization_hook import EdgeVisualizationHook
from .mask_branch_eval_hook import MaskBranchEvalHook
from .random_state_hook import RandomStateHook
from .staged_unfreeze_hook import StagedUnfreezeHook

__all__ = [
    'AtomicCheckpointHook',
    'EdgeVisualizationHook',
    'MaskBranchEvalHook',
    'RandomStateHook',
    'StagedUnfreezeHook',
]
