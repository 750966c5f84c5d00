"""A checkpoint is data: what it holds beside numbers and text is refused, and nothing in it is run."""

import pickle

import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader

import mmdet_edge  # noqa: F401  (applies compat)

from . import hostile

pytestmark = pytest.mark.skipif(torch.__version__ < '2.6', reason='torch < 2.6 runs the code of a checkpoint')

REFUSED = (pickle.UnpicklingError, RuntimeError, TypeError, ValueError)


@pytest.fixture(scope='module')
def code_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp('hostile')
    return hostile.write_code_checkpoints(folder, folder / 'marker'), folder / 'marker'


def load(path):
    return CheckpointLoader.load_checkpoint(str(path), 'cpu', logger=None)


def test_the_corpus_would_run(code_files, monkeypatch):
    """Each file does make the marker where weights_only is off: the refusals below are not for another reason."""
    files, marker = code_files
    assert len(files) >= 20
    for name, path in files.items():
        assert not marker.exists()
        try:
            if name == 'plain_pickle':
                pickle.loads(path.read_bytes())
            else:
                torch.load(path, weights_only=False)
        except Exception as error:  # What some of them return does not fit into a checkpoint.
            print(name, error)
        assert marker.exists(), name
        marker.unlink()


def test_code_is_refused(code_files):
    files, marker = code_files
    for name, path in files.items():
        with pytest.raises(REFUSED):
            load(path)
        assert not marker.exists(), name


@pytest.mark.parametrize('name', hostile.memory_tricks())
def test_misuse_of_what_mmengine_needs_is_refused(name, tmp_path):
    hostile.write_zip(hostile.pickled(hostile.checkpoint(hostile.memory_tricks()[name])), tmp_path / 'x.pth')
    statistics = dict(HistoryBuffer()._statistics_methods)
    with pytest.raises(REFUSED):
        load(tmp_path / 'x.pth')
    assert HistoryBuffer._statistics_methods == statistics


def test_the_honest_form_of_the_tricks_loads(tmp_path):
    hostile.write_zip(hostile.pickled(hostile.checkpoint(dict(loss=hostile.history()))), tmp_path / 'x.pth')
    history = load(tmp_path / 'x.pth')['message_hub']['log_scalars']['loss']
    assert type(history) is HistoryBuffer and history.data[0].tolist() == [1, 2]
