from ..test_reliability.conftest import call, checkpoint, error_of, shapes, weights

__all__ = ['call', 'checkpoint', 'error_of', 'shapes', 'weights']
