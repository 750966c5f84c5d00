"""Whoever asks for help gets help, and nothing is started."""

import runpy
import sys

import pytest

from .conftest import ROOT

TOOLS = sorted(
    path.relative_to(ROOT).as_posix() for path in (ROOT / 'tools').rglob('*.py') if '__main__' in path.read_text()
)


@pytest.mark.parametrize('tool', TOOLS)
def test_help(tool, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', [tool, '--help'])
    # The folder of a script is where it looks for its neighbours.
    monkeypatch.syspath_prepend(str((ROOT / tool).parent))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / tool), run_name='__main__')
    assert ended.value.code in (0, None)
    assert 'usage: ' in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
