"""Untrusted checkpoints that would run code, or read foreign memory, if a plain unpickler loaded them.

The code is harmless: it makes a marker file, and the tests assert that there is none.
"""

import collections
import functools
import importlib
import io
import marshal
import operator
import os
import pickle
import runpy
import subprocess
import tarfile
import zipfile

import numpy as np
import torch
from torch._tensor import _rebuild_from_type_v2


class Call:
    """Pickled as the call of a function, which may itself be what another call returns; then as ``__setstate__``."""

    def __init__(self, function, *args, state=None):
        self.function, self.args, self.state = function, args, state

    def __call__(self):
        """Only what can be called may be pickled as a function."""

    def __reduce__(self):
        return (self.function, self.args) if self.state is None else (self.function, self.args, self.state)


class Name:
    """Pickled as the name of a function or class, which need not exist here."""

    def __init__(self, module, name):
        self.module, self.name = module, name

    def __call__(self):
        """Only what can be called may be pickled as a function."""


class Pickler(pickle._Pickler):
    """Knows :class:`Name`."""

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Name):
            self.write(pickle.GLOBAL + f'{obj.module}\n{obj.name}\n'.encode())
        else:
            super().save(obj, save_persistent_id)


def pickled(content, protocol=2):
    buffer = io.BytesIO()
    Pickler(buffer, protocol).dump(content)
    return buffer.getvalue()


def checkpoint(content):
    """Put something where mmengine keeps its log history."""
    return dict(meta=dict(epoch=0, iter=1), state_dict={}, message_hub=dict(log_scalars=content))


def write_zip(data, path):
    """Write a checkpoint in today's format, a zip archive."""
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('archive/data.pkl', data)
        archive.writestr('archive/version', b'3\n')
        archive.writestr('archive/byteorder', b'little')


def write_tar(data, path):
    """Write a checkpoint in the format of torch before 0.1."""
    with tarfile.open(path, 'w', format=tarfile.PAX_FORMAT) as archive:
        nothing = pickle.dumps(0, protocol=2)
        info = pickle.dumps(dict(protocol_version=1000, little_endian=True), protocol=2)
        storages = nothing + pickle.dumps([], protocol=2)
        for name, content in (('sys_info', info), ('storages', storages), ('tensors', nothing), ('pickle', data)):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def touch(marker):
    """Make the marker, as a program."""
    return f'open({str(marker)!r}, "w").close()'


def code_calls(marker):
    """Name -> a call that makes the marker when it is unpickled with trust."""
    shell, python = f'touch {marker}', touch(marker)
    os_module = Call(importlib.import_module, 'os')
    inner = io.BytesIO()
    torch.save(Call(os.system, shell), inner)
    script = marker.with_suffix('.py')
    script.write_text(python)
    code = marshal.dumps(compile(python, 'x', 'exec'))
    return {
        'os.system': Call(os.system, shell),
        'eval': Call(eval, python),
        'exec': Call(exec, python),
        'subprocess.Popen': Call(subprocess.check_call, ['touch', str(marker)]),
        'getattr': Call(Call(getattr, os_module, 'system'), shell),
        'getattr_chain': Call(
            Call(getattr, Call(getattr, Call(importlib.import_module, 'shutil'), 'os'), 'system'), shell
        ),
        '__import__': Call(Call(getattr, Call(__import__, 'os'), 'system'), shell),
        'nested': dict(a=[(collections.OrderedDict(b={'c': [Call(os.system, shell)]}),)]),
        'as_a_key': {(1, Call(os.system, shell)): 0},
        'object_array': np.array([Call(os.system, shell), 1], dtype=object),
        'partial': Call(functools.partial(os.system, shell)),
        'attrgetter': Call(Call(operator.attrgetter('system'), os_module), shell),
        'methodcaller': Call(operator.methodcaller('system', shell), os_module),
        'defaultdict': Call(operator.getitem, collections.defaultdict(functools.partial(os.system, shell)), 0),
        'run_path': Call(runpy.run_path, str(script)),
        'pickle.loads': Call(pickle.loads, pickle.dumps(Call(os.system, shell))),
        'torch_storage': Call(torch.storage._load_from_bytes, inner.getvalue()),
        'torch_rebuild': Call(_rebuild_from_type_v2, exec, type(None), (python,), {}),
        'code_object': Call(Call(Name('types', 'FunctionType'), Call(marshal.loads, code), {})),
        'setstate': Call(collections.Counter, state=dict(a=Call(os.system, shell))),
    }


def write_code_checkpoints(folder, marker):
    """Write one checkpoint for each call in today's format, and some in others.

    Returns:
        dict[str, Path]: Name -> file.
    """
    files = {name: folder / f'{name}.pth' for name in code_calls(marker)}
    for name, call in code_calls(marker).items():
        write_zip(pickled(checkpoint(call)), files[name])
    system = checkpoint(Call(os.system, f'touch {marker}'))
    for name in ('plain_pickle', 'protocol_4', 'torch_legacy', 'tar'):
        files[name] = folder / f'{name}.pth'
    files['plain_pickle'].write_bytes(pickled(system))
    write_zip(pickle.dumps(system, protocol=4), files['protocol_4'])
    torch.save(system, files['torch_legacy'], _use_new_zipfile_serialization=False)
    write_tar(pickled(system), files['tar'])
    return files


NDARRAY, DTYPE = Name('numpy', 'ndarray'), Name('numpy', 'dtype')
RECONSTRUCT, SCALAR = (Name('numpy.core.multiarray', name) for name in ('_reconstruct', 'scalar'))
HISTORY = Name('mmengine.logging.history_buffer', 'HistoryBuffer')


def array(dtype, data, shape=(1,)):
    """An array as numpy pickles it, of whatever dtype."""
    return Call(RECONSTRUCT, NDARRAY, (0,), b'b', state=(1, shape, dtype, False, data))


def numbers(values=(1.0, 2.0)):
    dtype = Call(DTYPE, 'f8', False, True, state=(3, '<', None, None, None, -1, -1, 0))
    return array(dtype, np.array(values).tobytes(), (len(values),))


def history(**state):
    """A log history as mmengine pickles it."""
    honest = dict(_log_history=numbers(), _count_history=numbers(), max_length=10, statistics_methods={})
    return Call(HISTORY, state={**honest, **state})


class Elsewhere(collections.OrderedDict):
    """Pickled as an OrderedDict with an array interface that names an address in memory."""

    def __reduce__(self):
        interface = dict(data=(4096, True), shape=(1 << 20,), typestr='|u1', version=3)
        return collections.OrderedDict, (), dict(__array_interface__=interface)


def memory_tricks():
    """Name -> what misuses the names that mmengine's checkpoints need; most crash the process where it passes."""
    flags = Call(DTYPE, 'f8', False, True, state=(3, '<', None, None, None, -1, -1, 63))
    field = dict(a=(Call(DTYPE, 'f8', False, True), 0))
    fields = Call(DTYPE, 'f8', False, True, state=(3, '<', None, ('a',), field, 8, 8, 0))
    objects = Call(DTYPE, 'O', False, True, state=(3, '|', None, None, None, -1, -1, 63))
    return {
        'dtype_flags': array(flags, b'A' * 8),
        'dtype_fields': array(fields, b'A' * 8),
        'dtype_rebuilt': Call(_rebuild_from_type_v2, DTYPE, Name('numpy.dtypes', 'Float64DType'), ('f8', False, True),
                              (3, '<', None, None, None, -1, -1, 63)),
        'dtype_of_objects': array(objects, [1]),
        'dtype_of_structures': Call(DTYPE, [('a', 'O')]),
        'dtype_of_text': Call(DTYPE, 'f8,O'),
        'object_scalar': Call(SCALAR, objects, 1),
        'scalar_too_long': Call(SCALAR, Call(DTYPE, 'f8', False, True), b'A' * 16),
        'array_over_a_buffer': Call(NDARRAY, (1,), 'O', bytearray(8)),
        'array_of_elsewhere': Call(HISTORY, Elsewhere(), Elsewhere()),
        'array_too_long': array(Call(DTYPE, 'f8', False, True), b'A' * 8, (1000,)),
        'history_elsewhere': history(_log_history=Elsewhere()),
        'history_of_a_list': history(_count_history=[1.0]),
        'history_statistic': history(statistics_methods=dict(mean=Name('torch', 'Size'))),
        'history_statistic_swapped': history(statistics_methods=dict(mean=Call(getattr, HISTORY, 'max'))),
        'history_attribute': history(_set_default_statistics=Name('torch', 'Size')),
        'getattr_init': Call(getattr, HISTORY, '__init__'),
        'getattr_globals': Call(getattr, Call(getattr, HISTORY, 'mean'), '__globals__'),
        'getattr_register': Call(getattr, HISTORY, 'register_statistics'),
        'getattr_ndarray': Call(getattr, NDARRAY, 'tofile'),
    }  # fmt: skip
