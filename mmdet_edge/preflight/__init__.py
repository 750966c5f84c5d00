"""What is checked before a training run or a test starts."""

from .checks import check

__all__ = ['check']
