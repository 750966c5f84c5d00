"""What the stack needs to work together, safely. Importing this package does it.

Each piece acts only where it is needed and names the upstream issue that it answers; once that is fixed, the piece can
go.
"""

# First: the others import mmengine and mmcv.
from . import versions  # noqa: F401
from .checkpoints import allow_mmengine_checkpoints, disarm_checkpoints
from .ops import serve_mmcv_ops
from .yaml import disarm_yaml

serve_mmcv_ops()
allow_mmengine_checkpoints()
disarm_checkpoints()
disarm_yaml()

__all__ = ['allow_mmengine_checkpoints', 'disarm_checkpoints', 'disarm_yaml', 'serve_mmcv_ops']
