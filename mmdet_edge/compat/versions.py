"""Checks the versions of the stack. An error names the version that is needed and how to install it.

Import this module before mmengine, mmcv and mmdet: their own errors name no remedy.
"""

import importlib.util
import os
import re
import sys
from importlib import import_module
from unittest import mock

MINIMUM = {
    'torch': ('2.1', 'the hooks of torch 2.0 lack an option'),
    'mmengine': ('0.10.7', 'with 0.10.0 a resumed training run was another one than an undisturbed one'),
    'mmcv': ('2.0.1', 'mmcv 2.0.0 cannot build a convolution whose type is a class, and mmcv 1 belongs to mmdet 2'),
    'mmdet': ('3.3.0', 'older ones are not tested with this package, and mmdet 2 has other heads'),
}
"""Module -> the lowest version with which the tests were run, and the reason."""


def check_stack() -> None:
    """Check the versions of Python, torch, mmengine, mmcv and mmdet; import mmdet, also where it refuses mmcv 2.2.

    Raises:
        ImportError: If one is not installed or too old. The message is one line.
    """
    if sys.version_info < (3, 10):  # noqa: UP036  # for installations without pip's check
        raise ImportError(f'mmdet_edge needs Python 3.10 or newer, got {sys.version.split()[0]} ({sys.executable})')
    missing = [name for name in ('mmdet', 'mmcv', 'mmengine') if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f'mmdet_edge needs MMDetection, MMCV and MMEngine; {", ".join(missing)} cannot be found by '
            f"{sys.executable}. In a clone of mmdet_edge: pip install '.[openmmlab]' (OpenMMLab's own), or "
            "pip install '.[onedl]' (OneDL's forks); or activate the environment that has them"
        )
    for name in ('torch', 'mmengine', 'mmcv'):
        _check(name)
    _import_mmdet()
    _check('mmdet')


def _check(name: str) -> None:
    """Check the version of one module."""
    module, (minimum, reason) = import_module(name), MINIMUM[name]
    # Compare release numbers only: 2.14.1+cu130 and pre-releases count as their release.
    got = _numbers(module.__version__)
    if got < _numbers(minimum):
        raise ImportError(
            f'mmdet_edge needs {name} >= {minimum}, got {module.__version__} in {os.path.dirname(str(module.__file__))}'
            f': {reason}; docs/compatibility.md has the versions that work together'
        )


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r'\d+', version.split('+')[0])[:3]]


def _import_mmdet() -> None:
    """Import mmdet, also with mmcv 2.2 or newer.

    mmdet 3.3.0 refuses mmcv 2.2.0 by an assertion (mmdetection issues 12312 and 11668) but works with it. If the
    assertion fails, this function imports mmdet again while mmcv reports version 2.1.0.
    """
    try:
        import_module('mmdet')
    except AssertionError:
        with mock.patch('mmcv.__version__', '2.1.0'):
            import_module('mmdet')


check_stack()
