"""Patches that let the versions of the stack work together, safely. Importing this package applies them.

Each patch acts only where it is needed and names the upstream issue that it works around; once that is fixed, it can be
removed.
"""

# First: the others import mmengine and mmcv.
from . import versions  # noqa: F401
from .checkpoints import allow_mmengine_checkpoints, sanitise_checkpoints
from .logger_hook import write_metrics_once
from .ops import serve_mmcv_ops
from .yaml import use_safe_yaml

serve_mmcv_ops()
allow_mmengine_checkpoints()
sanitise_checkpoints()
use_safe_yaml()
write_metrics_once()

__all__ = [
    'allow_mmengine_checkpoints',
    'sanitise_checkpoints',
    'serve_mmcv_ops',
    'use_safe_yaml',
    'write_metrics_once',
]
