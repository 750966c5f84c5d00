import importlib.util
import subprocess
import sys

import mmdet
import pytest

from mmdet_edge.compat import versions


@pytest.mark.parametrize('missing', [['mmdet', 'mmcv', 'mmengine'], ['mmdet', 'mmcv'], ['mmcv']])
def test_what_is_missing_is_named_with_the_extra_that_installs_it(missing, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name in missing else find_spec(name))
    with pytest.raises(ImportError) as raised:
        versions.check_stack()
    message = str(raised.value)
    assert f'{", ".join(missing)} cannot be found by {sys.executable}' in message and '\n' not in message
    assert "pip install '.[openmmlab]'" in message and "pip install '.[onedl]'" in message


@pytest.mark.parametrize(
    ('name', 'version', 'works'),
    [
        ('mmcv', '1.7.2', False),
        ('mmcv', '2.0.0', False),
        ('mmcv', '2.0.1', True),
        ('mmdet', '2.28.2', False),
        ('mmdet', '3.2.0', False),
        ('mmdet', '3.10.0', True),
        ('mmengine', '0.10.6', False),
        ('mmengine', '0.10.12', True),
        ('torch', '2.0.1+cu118', False),
        ('torch', '2.1.0a0+git1234567', True),
        ('torch', '2.14.1+cpu', True),
    ],
)
def test_what_is_too_old_is_refused(name, version, works, monkeypatch):
    monkeypatch.setattr(sys.modules[name], '__version__', version)
    if works:
        versions.check_stack()
        return
    with pytest.raises(ImportError, match=f'^mmdet_edge needs {name} >= .*, got {version.split("+")[0]}.* in /.*: .'):
        versions.check_stack()


def test_old_python_is_refused(monkeypatch):
    monkeypatch.setattr(sys, 'version_info', (3, 9, 18))
    with pytest.raises(ImportError, match='^mmdet_edge needs Python 3.10 or newer, got '):
        versions.check_stack()


def run(code):
    return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_mmdet_takes_mmcv_2_2_after_this_package():
    newer = "import mmcv; mmcv.__version__ = '2.2.0'; "
    done = run(f'{newer}import mmdet_edge, mmdet; print(mmcv.__version__, mmdet.__version__)')
    assert done.stdout.split()[-2:] == ['2.2.0', mmdet.__version__], done.stderr
    if hasattr(mmdet, 'mmcv_maximum_version'):
        # When this no longer holds, mmdet has changed and the piece can go. OneDL's has no such check.
        assert 'MMCV==2.2.0 is used but incompatible' in run(f'{newer}import mmdet').stderr


def test_only_the_import_of_mmdet_sees_another_version(monkeypatch):
    import mmcv

    seen = []

    def refuse_newer(name):
        seen.append(mmcv.__version__)
        assert mmcv.__version__ < '2.2', 'MMCV is used but incompatible'

    monkeypatch.setattr(mmcv, '__version__', '2.2.0')
    monkeypatch.setattr(versions, 'import_module', refuse_newer)
    versions._import_mmdet()
    assert seen == ['2.2.0', '2.1.0'] and mmcv.__version__ == '2.2.0'
