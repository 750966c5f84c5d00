"""The command line."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / 'tools' / 'analysis_tools' / 'compare_runs.py'


@pytest.fixture
def run_here(monkeypatch):
    """Run the tool in this process, which has imported torch already."""

    def run(*args):
        monkeypatch.setattr(sys, 'argv', [str(TOOL), *map(str, args)])
        runpy.run_path(str(TOOL), run_name='__main__')

    return run


@pytest.fixture
def base_and_edge(make_run):
    def make(name, seed, speed):
        return make_run(
            name, seed, segm=lambda s: speed * s / 1000 + 0.01 * seed, loss_mask=lambda s: 3 - speed * s / 500
        )

    return [
        make(name, seed, speed)
        for name, speed in (('mask-rcnn_base', 1), ('mask-rcnn_edge_base', 2))
        for seed in range(2)
    ]


def test_groups_compares_and_writes(base_and_edge, tmp_path):
    out = tmp_path / 'out'
    command = [sys.executable, TOOL, *base_and_edge, '--out', out]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    printed = done.stdout
    assert '1 variant compared with mask-rcnn_base' in printed
    lines = [line for line in printed.splitlines() if 'mask-rcnn_edge_base' in line and '2.0' in line]
    assert len(lines) == 2  # coco/segm_mAP and loss_mask
    assert printed.rstrip().endswith(f'report: {out / "comparison.md"}')
    report = (out / 'comparison.md').read_text()
    assert f'--out {out}' in report
    assert 'compare_runs.py' in report


def test_names_and_metrics(base_and_edge, tmp_path, run_here, capsys):
    first, _, third, _ = base_and_edge
    args = [f'one={first}', f'two={third}', '--baseline', 'two', '--metrics', 'loss_mask', '--out', tmp_path / 'out']
    run_here(*args)
    printed = capsys.readouterr().out
    assert '1 variant compared with two' in printed
    assert 'coco/segm_mAP' not in printed
    assert '(n = 1)' in printed


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['{tmp}/nothing'], 'error: no such folder: {tmp}/nothing'),
        (['{tmp}/empty'], 'error: {tmp}/empty is not the work dir of a training run, nor a folder of work dirs'),
        (['{run}', '--baseline', 'x'], "error: no variant is called 'x'; there are: mask-rcnn_base"),
        (['a={run}', 'b={run}'], 'error: 2 variants have no "edge" in their name: choose with --baseline among: a, b'),
        (['{run}', '--metrics', 'x'], "error: no run has logged 'x'; there are: "),
        (['{run}', '--out', '{tmp}/file'], 'error: '),
    ],
)
def test_mistakes_end_in_one_line(base_and_edge, tmp_path, run_here, capsys, args, message):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'file').write_text('not a folder')
    out = tmp_path / 'out'
    known = dict(tmp=tmp_path, run=base_and_edge[0])
    # Python prints a string as the exit code to stderr, and exits with 1.
    with pytest.raises(SystemExit) as stopped:
        run_here('--out', out, *(arg.format(**known) for arg in args))
    assert stopped.value.code.startswith(message.format(**known))
    assert len(stopped.value.code.splitlines()) == 1
    assert capsys.readouterr().out == ''
    assert not out.exists()
