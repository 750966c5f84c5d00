"""Reading runs and drawing what they show."""

from .figures import draw_comparison
from .runs import Run, read_run

__all__ = ['Run', 'draw_comparison', 'read_run']
