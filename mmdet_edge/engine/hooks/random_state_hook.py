"""Random number generators that continue where they were when a training run resumes."""

import itertools
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmdet.registry import HOOKS
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner

KEY = 'random_state'


def get_random_state() -> dict[str, Any]:
    """Return the states of the random number generators of Python, NumPy and PyTorch (CPU)."""
    state: Any = np.random.get_state()
    # Not an array, so that safe readers of checkpoints need no exception for it.
    name, keys, *rest = state
    return dict(python=random.getstate(), numpy=(name, keys.tolist(), *rest), torch=torch.get_rng_state())


def set_random_state(state: dict[str, Any]) -> None:
    """Set the random number generators to what :func:`get_random_state` returned."""
    random.setstate(state['python'])
    np.random.set_state(state['numpy'])
    torch.set_rng_state(state['torch'].cpu())


@HOOKS.register_module()
class RandomStateHook(Hook):
    """Saves the states of the random number generators in each checkpoint, and restores them on resume.

    mmengine does not; after a resume the samplers of proposals and RoIs start over with the numbers of the seed. With
    this hook, and a seed in the config (``randomness=dict(seed=...)``), a training run on one CPU that was interrupted
    ends with the same weights, bit for bit, as one that was not.

    An evaluation does not advance the generators: an interrupted one leaves no trace.

    Note:
        Only in a job of one process: a checkpoint has the state of rank 0. Not for GPUs, whose own generators are not
        saved, and whose sums are not exact anyway.
    """

    # As late as the hook that saves checkpoints: all other hooks have drawn their numbers.
    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self._resumed: dict[str, Any] | None = None
        self._before_val: dict[str, Any] | None = None

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the state of the training run to the checkpoint, also during an evaluation."""
        checkpoint[KEY] = self._before_val or get_random_state()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the state until training starts."""
        self._resumed = checkpoint.get(KEY)

    def before_train_epoch(self, runner: Runner) -> None:
        """Restore the state, at the first epoch after a resume."""
        state, self._resumed = self._resumed, None
        if state is None or runner.iter == 0 or get_world_size() > 1:
            return
        loop = runner.train_loop
        if hasattr(loop, 'dataloader_iterator') and hasattr(loop.dataloader_iterator, 'skip_iter'):
            # OneDL's mmengine skips the batches of the iterations before without loading them.
            _restore_after_skip(loop.dataloader_iterator, state)
        elif hasattr(loop, 'dataloader_iterator'):
            # OpenMMLab's loads them.
            loop.dataloader_iterator = _restore_after(loop.dataloader_iterator, runner.iter, state)
        else:
            set_random_state(state)

    def before_val(self, runner: Runner) -> None:
        """Keep the state of the training run."""
        self._before_val = get_random_state()

    def after_val(self, runner: Runner) -> None:
        """Restore the state of the training run."""
        if self._before_val is not None:
            set_random_state(self._before_val)
        self._before_val = None


def _restore_after(batches: Iterator, num_batches: int, state: dict[str, Any]) -> Iterator:
    """Yield batches; restore the random state after the first ``num_batches``."""
    yield from itertools.islice(batches, num_batches)
    set_random_state(state)
    yield from batches


def _restore_after_skip(batches: Any, state: dict[str, Any]) -> None:
    """Let an iterator of OneDL's mmengine restore the random state after it has skipped batches."""
    skip = batches.skip_iter

    def skip_and_restore(num_batches: int) -> None:
        skip(num_batches)
        # A new iterator of the data loader draws a random number; here it would be made with the next batch.
        batches._ensure_iterator()
        set_random_state(state)

    batches.skip_iter = skip_and_restore
