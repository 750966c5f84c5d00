"""What recent PyTorch needs to run mmengine 0.10.

Each piece acts only where it is needed and names the upstream issue that it answers; once mmengine has fixed that,
the piece can go.
"""

import importlib
import pickle
from typing import Any, Callable

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.utils import digit_version


def _statistic_of_history_buffer(owner: Any, name: str) -> Callable:
    """Stand in for ``getattr`` while a checkpoint is unpickled: serves HistoryBuffer's statistics only."""
    if owner is HistoryBuffer and name in ('min', 'max', 'mean', 'current'):
        return getattr(HistoryBuffer, name)
    raise pickle.UnpicklingError(f'a checkpoint may not reach for {name!r} of {owner!r}')


def allow_mmengine_checkpoints() -> None:
    """Let ``torch.load`` with ``weights_only`` read the checkpoints of mmengine.

    From torch 2.6 on, ``torch.load`` refuses whatever is not on a list of safe globals. mmengine 0.10 writes its log
    history (``HistoryBuffer``: numpy arrays, and methods pickled as a call of ``getattr``) into every checkpoint, and
    loads it without saying otherwise (mmengine issue 1655, pull request 1650), so that testing and resuming fail.
    Here just these types join the list. ``weights_only`` stays on, and everything else is still refused.
    """
    if digit_version(torch.__version__) < digit_version('2.6'):
        return
    # numpy 1 and numpy 2 write different module names; a checkpoint may come from either.
    multiarray = importlib.import_module('numpy._core.multiarray' if hasattr(np, '_core') else 'numpy.core.multiarray')
    numpy_globals = [
        (function, f'{module}.{function.__name__}')
        for function in (multiarray.scalar, multiarray._reconstruct)
        for module in ('numpy.core.multiarray', 'numpy._core.multiarray')
    ]
    dtypes = sorted({type(np.dtype(code)) for code in '?bBhHiIlLqQefdg'}, key=str)
    torch.serialization.add_safe_globals(
        [
            HistoryBuffer,
            (_statistic_of_history_buffer, 'builtins.getattr'),
            np.ndarray,
            np.dtype,
            *dtypes,
            *numpy_globals,
        ]
    )
