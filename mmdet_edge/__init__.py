"""Edge Agreement Head for MMDetection: sharper masks in fewer iterations, free at inference.

Importing the package registers its modules in MMDetection's registries; in a config that is the line
``custom_imports = dict(imports=['mmdet_edge'], allow_failed_imports=False)``.
"""

# First: whatever imports mmcv.ops, as mmdet's models do, needs the operators that compat may have to serve.
from . import compat  # noqa: F401
from .config.edge import apply_edge_agreement
from .engine.hooks import (
    AtomicCheckpointHook,
    EdgeVisualizationHook,
    MaskBranchEvalHook,
    RandomStateHook,
    StagedUnfreezeHook,
)
from .evaluation import CocoBoundaryMetric
from .models import (
    EdgeAgreementDynamicMaskHead,
    EdgeAgreementHTCMaskHead,
    EdgeAgreementMaskHead,
    EdgeAgreementSCNetMaskHead,
    EdgeLoss,
    EdgeWeightedCrossEntropyLoss,
    SumMaskLoss,
    edge_loss,
)
from .paths import get_config_path
from .version import __version__

__all__ = [
    'AtomicCheckpointHook',
    'CocoBoundaryMetric',
    'EdgeAgreementDynamicMaskHead',
    'EdgeAgreementHTCMaskHead',
    'EdgeAgreementMaskHead',
    'EdgeAgreementSCNetMaskHead',
    'EdgeLoss',
    'EdgeVisualizationHook',
    'EdgeWeightedCrossEntropyLoss',
    'MaskBranchEvalHook',
    'RandomStateHook',
    'StagedUnfreezeHook',
    'SumMaskLoss',
    '__version__',
    'apply_edge_agreement',
    'edge_loss',
    'get_config_path',
]
