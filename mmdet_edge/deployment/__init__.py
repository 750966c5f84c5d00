"""Exports that do not need this package: plain MMDetection, ONNX."""

from .mask_branch_onnx import export_mask_branch
from .plain_mmdet import export_plain_mmdet, to_plain_checkpoint, to_plain_config

__all__ = ['export_mask_branch', 'export_plain_mmdet', 'to_plain_checkpoint', 'to_plain_config']
