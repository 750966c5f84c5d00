"""Patches that let recent PyTorch load mmengine's checkpoints, and let mmengine load them safely."""

import functools
import os
import pickle
import re
from collections.abc import Callable
from typing import Any

import mmengine.runner.checkpoint
import numpy as np
import torch
from mmengine.hooks import CheckpointHook
from mmengine.logging import HistoryBuffer
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader
from mmengine.utils import digit_version

# mmengine logs numbers. Scalars and arrays of a checkpoint may be numbers too, no objects and no structures.
NUMERIC_DTYPES = {np.dtype(code).str[1:] for code in '?bBhHiIlLqQefdg'}
STATISTICS = ('min', 'max', 'mean', 'current')


class _Dtype:
    """Replaces ``numpy.dtype`` while a checkpoint is unpickled, and accepts numbers only.

    numpy's own ``__setstate__`` trusts the flags and fields of a file. With them it takes bytes of an array for the
    addresses of objects.
    """

    def __init__(self, code: Any, align: bool = False, copy: bool = False) -> None:
        if code not in NUMERIC_DTYPES:
            raise pickle.UnpicklingError(f'a checkpoint may hold arrays of numbers only, got dtype {code!r}')
        self.numpy = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        """Set the byte order; a dtype of numbers has no other state."""
        if not isinstance(state, tuple) or (*state[:1], *state[2:]) != (3, None, None, None, -1, -1, 0):
            raise pickle.UnpicklingError(f'a checkpoint may not change the dtype {self.numpy}: {state!r}')
        self.numpy = self.numpy.newbyteorder(state[1])


class _Array(np.ndarray):
    """Replaces ``numpy.ndarray`` while a checkpoint is unpickled; holds numbers, copied from the file."""

    def __new__(cls) -> '_Array':
        # numpy's own takes a buffer and strides, which can map an array onto foreign memory; this one takes none.
        return super().__new__(cls, 0, np.uint8)

    def __setstate__(self, state: Any) -> None:
        version, shape, dtype, is_fortran, data = state
        if self.size:
            # numpy would free the memory, which a tensor may share by now.
            raise pickle.UnpicklingError('a checkpoint may fill an array once')
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
            raise pickle.UnpicklingError('a checkpoint may hold arrays of numbers only')
        super().__setstate__((version, shape, dtype.numpy, is_fortran, data))

    def __reduce__(self) -> Any:
        """Pickle as a plain ndarray."""
        return np.asarray(self).__reduce__()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return np.asarray(self).__reduce_ex__(protocol)


class _HistoryBuffer(HistoryBuffer):
    """Replaces mmengine's ``HistoryBuffer`` while a checkpoint is unpickled, until its state has been checked.

    mmengine's own converts any object to an array, also one that names an address in memory as its data, and adds any
    callable of the file to the statistics of all buffers.
    """

    def __new__(cls) -> '_HistoryBuffer':
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        state = dict(state)
        arrays = [state.pop(f'_{name}_history', None) for name in ('log', 'count')]
        statistics = {name: getattr(HistoryBuffer, name) for name in STATISTICS}
        max_length = state.pop('max_length', None)
        if (
            not all(isinstance(array, _Array) and array.ndim == 1 for array in arrays)
            or type(max_length) is not int
            or any(statistics.get(name) is not method for name, method in state.pop('statistics_methods', {}).items())
            or state
        ):
            raise pickle.UnpicklingError('a checkpoint may not hold a log history of anything but numbers')
        # The state is checked: become mmengine's class.
        self.__class__ = HistoryBuffer
        self.__setstate__(
            dict(
                _log_history=np.array(arrays[0]),
                _count_history=np.array(arrays[1]),
                max_length=max_length,
                statistics_methods=statistics,
            )
        )


def _reconstruct(array_class: Any, shape: Any, code: Any) -> _Array:
    """Replace the function with which numpy creates an empty array; its state follows in the file."""
    return _Array()


def _scalar(dtype: _Dtype, data: bytes) -> np.generic:
    """Replace the function with which numpy creates a scalar."""
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes) or len(data) != dtype.numpy.itemsize:
        raise pickle.UnpicklingError('a checkpoint may hold scalars that are numbers only')
    return np.frombuffer(data, dtype.numpy)[0]


def _statistic_of_history_buffer(owner: Any, name: str) -> Callable:
    """Replace ``getattr``: return statistics of HistoryBuffer only."""
    if owner is _HistoryBuffer and name in STATISTICS:
        return getattr(HistoryBuffer, name)
    raise pickle.UnpicklingError(f'a checkpoint may not reach for {name!r} of {owner!r}')


def allow_mmengine_checkpoints() -> None:
    """Let ``torch.load`` with ``weights_only`` read the checkpoints of mmengine, trusted or not.

    From torch 2.6 on, ``torch.load`` refuses all names that are not on a list of safe globals. mmengine 0.10 writes its
    log history (``HistoryBuffer``: numpy arrays, and methods pickled as a call of ``getattr``) into every checkpoint,
    and loads it with torch's defaults (mmengine issue 1655, pull request 1650): testing and resuming fail. This
    function adds these names only to the list, each with a replacement that checks its arguments, because the classes
    of numpy and mmengine are not safe with untrusted arguments. ``weights_only`` stays on, and torch refuses all other
    names.

    For URLs (``https://``, ``torchvision://``, ...) this function switches ``weights_only`` on: torch's download
    function, which mmengine calls, has it off by default. OneDL's mmengine allows the very classes that are replaced
    here, and loads a refused checkpoint again without ``weights_only``: its function is replaced as a whole.
    """
    if digit_version(torch.__version__) < digit_version('2.6'):
        return
    replacements: dict[str, Any] = {
        'mmengine.logging.history_buffer.HistoryBuffer': _HistoryBuffer,
        'builtins.getattr': _statistic_of_history_buffer,
        'numpy.ndarray': _Array,
        'numpy.dtype': _Dtype,
    }
    # numpy 1 and numpy 2 write different module names; a checkpoint may come from either.
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
        replacements.update({f'{module}._reconstruct': _reconstruct, f'{module}.scalar': _scalar})
    torch.serialization.add_safe_globals([(replacement, name) for name, replacement in replacements.items()])
    checkpoint = mmengine.runner.checkpoint
    checkpoint.load_url = functools.partial(checkpoint.load_url, weights_only=True)
    if hasattr(checkpoint, '_safe_torch_load'):
        checkpoint._safe_torch_load = functools.partial(torch.load, weights_only=True)


def sanitise_checkpoints() -> None:
    """Remove from checkpoints what mmengine would execute or delete files by.

    - ``Runner.resume`` runs ``meta['config']`` as Python, to compare the number of GPUs. mmengine never writes that
      key; checkpoints of mmdet 2 have it, and cannot be resumed anyway. Loading a checkpoint drops the text.
    - After a resume, ``CheckpointHook`` removes the outdated checkpoints that the checkpoint names and, once there is a
      better one, the file or folder that it names as the best. The hook now drops paths of best checkpoints that are
      not a ``best_*.pth`` directly in the output folder of this run, and numbers of outdated ones that are not
      integers. The best checkpoint of another run, from which this one was resumed, therefore stays.
    """
    load = CheckpointLoader.load_checkpoint

    @functools.wraps(load)
    def load_checkpoint(
        cls: type, filename: str, map_location: Any = None, logger: Any | None = 'current'
    ) -> dict[str, Any]:
        checkpoint = load(filename, map_location, logger)
        meta = checkpoint.get('meta') if isinstance(checkpoint, dict) else None
        if isinstance(meta, dict):
            meta.pop('config', None)
        return checkpoint

    CheckpointLoader.load_checkpoint = classmethod(load_checkpoint)
    prepare = CheckpointHook.before_train

    @functools.wraps(prepare)
    def before_train(self: CheckpointHook, runner: Runner) -> None:
        info = runner.message_hub.runtime_info
        if not all(type(step) is int for step in info.get('keep_ckpt_ids', [])):
            del info['keep_ckpt_ids']
        prepare(self, runner)
        if hasattr(self, 'best_ckpt_path'):
            self.best_ckpt_path = _own_best(self.out_dir, self.best_ckpt_path)
        for key, path in getattr(self, 'best_ckpt_path_dict', {}).items():
            self.best_ckpt_path_dict[key] = _own_best(self.out_dir, path)

    CheckpointHook.before_train = before_train


def _own_best(folder: str, path: Any) -> str | None:
    """Return the path if it is a best checkpoint directly in the folder, else None."""
    of_path, name = os.path.split(os.path.abspath(str(path)))
    return path if of_path == os.path.abspath(folder) and re.fullmatch(r'best_.*\.pth', name) else None
