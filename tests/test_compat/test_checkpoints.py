import contextlib
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner.checkpoint import CheckpointLoader

from mmdet_edge.compat import allow_mmengine_checkpoints

DATA = Path(__file__).parents[1] / 'data'
NEEDS_ALLOW_LIST = pytest.mark.skipif(
    torch.__version__ < '2.6', reason='torch < 2.6 does not refuse anything by default'
)


@pytest.fixture
def checkpoint(tmp_path):
    """What mmengine's Runner writes: weights, log history, numpy scalars, random state."""
    hub = MessageHub.get_instance('test_compat')
    for value in (1.0, 2.0):
        hub.update_scalar('train/loss', value)
        hub.update_scalar('train/lr', np.float32(value))
    hub.update_info('iter', 7)
    path = tmp_path / 'iter_7.pth'
    torch.save(
        dict(
            meta=dict(seed=np.int64(3), best=np.float64(0.5), anchors=np.arange(4, dtype=np.int32)),
            state_dict=dict(weight=torch.ones(2)),
            message_hub=hub.state_dict(),
        ),
        path,
    )
    return path


@contextlib.contextmanager
def without_compat():
    allowed = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        yield
    finally:
        torch.serialization.add_safe_globals(allowed)


def check(content):
    history = content['message_hub']['log_scalars']['train/loss']
    assert isinstance(history, HistoryBuffer)
    assert history.mean() == 1.5 and history.statistics('max') == 2.0
    assert content['meta']['best'] == 0.5 and content['meta']['anchors'].tolist() == [0, 1, 2, 3]
    assert content['state_dict']['weight'].sum() == 2


def test_own_checkpoints_load(checkpoint):
    check(torch.load(checkpoint))


@NEEDS_ALLOW_LIST
def test_own_checkpoints_load_with_weights_only(checkpoint):
    check(torch.load(checkpoint, weights_only=True))


def test_checkpoints_of_numpy_1_load(checkpoint, tmp_path):
    # mmdet's published checkpoints name numpy.core, numpy 2 writes numpy._core.
    old = tmp_path / 'numpy1.pth'
    with zipfile.ZipFile(checkpoint) as source, zipfile.ZipFile(old, 'w') as target:
        for item in source.infolist():
            data = source.read(item)
            if item.filename.endswith('data.pkl'):
                assert b'numpy' in data
                data = data.replace(b'numpy._core.', b'numpy.core.')
                assert b'numpy._core' not in data
            target.writestr(item, data)
    check(torch.load(old))


def test_nothing_is_touched_where_nothing_is_needed(monkeypatch):
    # torch 2.1 has no add_safe_globals at all.
    monkeypatch.delattr(torch.serialization, 'add_safe_globals', raising=False)
    monkeypatch.setattr(torch, '__version__', '2.5.1+cu121')
    allow_mmengine_checkpoints()
    monkeypatch.setattr(torch, '__version__', '2.10.0')
    with pytest.raises(AttributeError, match='add_safe_globals'):
        allow_mmengine_checkpoints()


@pytest.mark.parametrize('line', ['openmmlab', 'onedl'])
def test_checkpoints_of_both_lines_load(line):
    check(CheckpointLoader.load_checkpoint(str(DATA / f'checkpoint_{line}.pth'), 'cpu', logger='silent'))


@NEEDS_ALLOW_LIST
def test_weights_alone_need_no_compat(checkpoint, tmp_path):
    # What the converter keeps, loaded by torch alone.
    content = torch.load(checkpoint)
    meta = dict(dataset_meta=dict(classes=('a', 'b'), palette=[(1, 2, 3)]))
    torch.save(dict(meta=meta, state_dict=content['state_dict']), tmp_path / 'weights.pth')
    with without_compat():
        assert torch.load(tmp_path / 'weights.pth', weights_only=True)['state_dict']['weight'].sum() == 2


class Foreign:
    def __reduce__(self):
        return os.system, ('true',)


class Reach:
    """getattr on something that a checkpoint has no business with."""

    def __init__(self, owner, name):
        self.owner, self.name = owner, name

    def __reduce__(self):
        return getattr, (self.owner, self.name)


@NEEDS_ALLOW_LIST
@pytest.mark.parametrize(
    'item',
    [
        Foreign(),
        Reach(HistoryBuffer, '__init__'),
        Reach(np.ndarray, 'tofile'),
        Reach(HistoryBuffer, 'register_statistics'),
    ],
    ids=['os.system', 'HistoryBuffer.__init__', 'ndarray.tofile', 'register_statistics'],
)
def test_a_foreign_callable_is_refused(item, tmp_path):
    path = tmp_path / 'foreign.pth'
    torch.save(dict(state_dict={}, meta=item), path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path)


@NEEDS_ALLOW_LIST
def test_without_compat_it_would_fail(checkpoint):
    # When this no longer holds, torch or mmengine has changed and compat.py can go.
    with without_compat(), pytest.raises(pickle.UnpicklingError):
        torch.load(checkpoint)
