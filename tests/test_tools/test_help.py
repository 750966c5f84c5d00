"""``--help`` prints the help and starts nothing."""

import runpy
import sys

import pytest

from .conftest import ROOT

TOOLS = sorted(
    path.relative_to(ROOT).as_posix() for path in (ROOT / 'tools').rglob('*.py') if '__main__' in path.read_text()
)
BENCHMARKS = sorted(
    '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__main__')
    for path in (ROOT / 'benchmarks').rglob('*.py')
    if '__main__' in path.read_text()
)


@pytest.mark.parametrize('tool', TOOLS + BENCHMARKS)
def test_help(tool, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', [tool, '--help'])
    with pytest.raises(SystemExit) as ended:
        if tool.endswith('.py'):
            # A script looks for its neighbours in its own folder.
            monkeypatch.syspath_prepend(str((ROOT / tool).parent))
            runpy.run_path(str(ROOT / tool), run_name='__main__')
        else:
            runpy.run_module(tool, run_name='__main__')
    assert ended.value.code in (0, None)
    assert 'usage: ' in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
