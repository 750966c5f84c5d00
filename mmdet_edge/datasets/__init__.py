"""The synthetic data set of the demo."""

from .shapes import SHAPES, make_shapes_dataset

__all__ = ['SHAPES', 'make_shapes_dataset']
