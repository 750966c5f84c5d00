"""Checkpoints that stay intact when a training run is killed."""

import errno
import os
import re
from pathlib import Path
from typing import Any

from mmdet.registry import HOOKS
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import CheckpointLoader, Runner

from ..atomic_local_backend import UNFINISHED, AtomicLocalBackend

DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, or there is none to resume from; the message is one line for the user."""


class _RemoveLater(AtomicLocalBackend):
    """Keeps outdated checkpoints until the new one is written; CheckpointHook removes them before."""

    def __init__(self) -> None:
        self.outdated: list[str] = []

    def remove(self, filepath: Any) -> None:
        self.outdated.append(str(filepath))


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """Saves checkpoints so that a training run killed at any moment can resume from an intact one.

    Differs from ``CheckpointHook``, whose arguments it takes, by

    - writing a checkpoint completely or not at all; ``CheckpointHook`` writes in place;
    - removing outdated checkpoints (``max_keep_ckpts``, ``save_best``) after the new one is written, not before;
    - checking, before a run resumes, that the latest checkpoint can be read: if not, ``last_checkpoint`` is set to the
      one before, and the log says so. If all are damaged, the run stops instead of starting from scratch;
    - a clear error if the disk is full.

    tools/train.py uses it wherever a config says ``CheckpointHook``. Folders that are not on a local disk
    (``out_dir='s3://...'``, or ``backend_args``) are treated as by ``CheckpointHook``.

    Args:
        interval (int): See ``CheckpointHook``. Defaults to -1.
        **kwargs: The other arguments of ``CheckpointHook``.

    Example:
        In a config, for MMDetection's own tools/train.py::

            custom_imports = dict(imports=['mmdet_edge'], allow_failed_imports=False)
            default_hooks = dict(checkpoint=dict(type='AtomicCheckpointHook'))
    """

    def __init__(self, interval: int = -1, **kwargs: Any) -> None:
        super().__init__(interval, **kwargs)
        self._local = not (kwargs.get('backend_args') or self.file_client_args) and '://' not in str(self.out_dir or '')
        if self._local:
            self.backend_args = dict(backend='atomic_local')

    def before_run(self, runner: Runner) -> None:
        """Make sure that a run that resumes finds an intact checkpoint.

        Raises:
            CheckpointError: If there are checkpoints, but none can be read.
        """
        if not (self._local and runner.cfg.get('resume')):
            return
        # Rank 0 decides for all.
        error: list[str | None] = [None]
        if is_main_process():
            path = runner.cfg.get('load_from')
            if not path:
                error = [self._find_intact(runner)]
            elif Path(path).is_file() and (why := _why_unreadable(path)):
                advice = 'Name another one, or none for the latest intact one in the work dir'
                error = [f'cannot resume from {path}: {why}. {advice}']
        broadcast_object_list(error)
        if error[0]:
            raise CheckpointError(error[0])

    def _find_intact(self, runner: Runner) -> str | None:
        """Let ``last_checkpoint`` of the work dir name an intact checkpoint; return an error if all are damaged."""
        pointer = Path(runner.work_dir, 'last_checkpoint')
        latest = pointer.read_text().strip() if pointer.exists() else ''
        folder = Path(self.out_dir, Path(runner.work_dir).name) if self.out_dir else Path(runner.work_dir)
        damaged: list[str] = []
        for path in dict.fromkeys([*([latest] if latest else []), *self._checkpoints(folder)]):
            why = _why_unreadable(path)
            if why is None:
                if damaged:
                    runner.logger.warning(f'{"; ".join(damaged)}: resuming from the one before, {path}')
                if path != latest:
                    AtomicLocalBackend().put_text(path, pointer)
                return None
            damaged.append(f'{path} is damaged ({why})')
        if not damaged:
            return None
        return (
            f'cannot resume, no checkpoint can be read: {"; ".join(damaged)}. To start from scratch, leave out '
            '--resume or use another work dir'
        )

    def _checkpoints(self, folder: Path) -> list[str]:
        """Return the checkpoints in a folder, the latest first."""
        before, after = (re.escape(part) for part in self.filename_tmpl.split('{}'))
        matches = [re.fullmatch(f'{before}([0-9]+){after}', path.name) for path in folder.glob('*')]
        found = sorted(((int(match[1]), match[0]) for match in matches if match), reverse=True)
        return [str(folder / name) for _, name in found]

    def before_train(self, runner: Runner) -> None:
        """Prepare, and remove the unfinished files of a run that was killed."""
        super().before_train(runner)
        if runner.iter >= runner.max_iters:
            runner.logger.warning(
                'The checkpoint is that of the last iteration: nothing is left to train. If the last evaluation was '
                'interrupted, evaluate it with tools/test.py.'
            )
        if not self._local:
            return
        self.file_backend = _RemoveLater()
        if is_main_process():
            for path in Path(self.out_dir).glob(f'.*{UNFINISHED}'):
                path.unlink()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
        """Save the best checkpoint."""
        super().after_val_epoch(runner, metrics)
        self._remove_outdated()

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        try:
            super()._save_checkpoint_with_step(runner, step, meta)
        except OSError as error:
            if not (self._local and error.errno in DISK_IS_FULL):
                raise
            raise CheckpointError(
                f'no space to save {error.filename or self.last_ckpt} ({error.strerror}). Nothing half-written is '
                'left, and earlier checkpoints are intact: free space and resume with --resume'
            ) from error
        self._remove_outdated()

    def _remove_outdated(self) -> None:
        if not isinstance(self.file_backend, _RemoveLater):
            return
        kept = {self.last_ckpt, getattr(self, 'best_ckpt_path', None)}
        kept.update(getattr(self, 'best_ckpt_path_dict', {}).values())
        while self.file_backend.outdated:
            path = self.file_backend.outdated.pop()
            if path not in kept:
                os.remove(path)


def _why_unreadable(path: str) -> str | None:
    """Return why a run cannot resume from a file; None if it can, or for a folder, which the strategy reads."""
    if Path(path).is_dir():
        return None
    try:
        checkpoint = CheckpointLoader.load_checkpoint(path, map_location='cpu', logger='silent')
    except FileNotFoundError:
        return 'the file is missing'
    # A damaged file can raise any exception.
    except Exception as error:
        return ' '.join(f'{type(error).__name__}: {error}'.split('. ')[0].split())[:200]
    if not isinstance(checkpoint, dict) or not {'meta', 'state_dict', 'message_hub'} <= set(checkpoint):
        return 'it is not the checkpoint of a training run'
    return None
