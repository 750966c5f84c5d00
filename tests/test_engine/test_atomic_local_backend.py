import stat

import pytest
from mmengine.fileio import get_file_backend

from mmdet_edge.engine.atomic_local_backend import AtomicLocalBackend


@pytest.fixture
def backend():
    return get_file_backend(backend_args=dict(backend='atomic_local'))


def test_writes_as_mmengine_does(backend, tmp_path):
    assert isinstance(backend, AtomicLocalBackend)
    path = tmp_path / 'new' / 'file'
    backend.put(b'first', path)
    backend.put_text('zweite für alle', str(path))
    assert path.read_text() == backend.get_text(path) == 'zweite für alle'
    assert [p.name for p in path.parent.iterdir()] == ['file']
    plain = tmp_path / 'plain'
    plain.write_bytes(b'')
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


@pytest.mark.parametrize('call', ['fsync', 'replace'])
def test_a_failure_leaves_what_was_there(backend, tmp_path, monkeypatch, call):
    path = tmp_path / 'file'
    backend.put(b'before', path)

    def fail(*args):
        raise OSError('broken')

    monkeypatch.setattr(f'os.{call}', fail)
    with pytest.raises(OSError, match='broken'):
        backend.put(b'after', path)
    assert path.read_bytes() == b'before' and len(list(tmp_path.iterdir())) == 1


def test_the_data_is_on_the_disk_before_it_takes_the_name(backend, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr('os.fsync', lambda descriptor: calls.append('fsync'))
    replace = AtomicLocalBackend.put.__globals__['os'].replace
    monkeypatch.setattr('os.replace', lambda *names: (calls.append('replace'), replace(*names)))
    backend.put(b'data', tmp_path / 'file')
    assert calls == ['fsync', 'replace', 'fsync']
