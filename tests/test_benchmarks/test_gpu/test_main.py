"""The command for a GPU: what it makes of tasks that pass, fail or take too long, with short tasks on a CPU."""

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu.stages import ROOT, Task, checks, commands, python, what_it_costs, what_it_gains

# Starts a process of its own, as torchrun does.
SLEEP = 'import subprocess, sys; subprocess.run([sys.executable, "-c", "import time; time.sleep(60)"])'


def code(text, seconds=60, **kwargs):
    return Task('task', python('-c', text), seconds, **kwargs)


@pytest.mark.parametrize(
    ('task', 'limit', 'status'),
    [
        (code('print("done")'), 60, 'passed'),
        (code('raise SystemExit(3)'), 60, 'failed'),
        (code(SLEEP, seconds=5), 60, 'timed out'),
        (code(SLEEP), 5, 'timed out'),
        (code(SLEEP, seconds=5, may_time_out=True), 60, 'passed'),
        (code('print("done")'), 4, 'no time left'),
        # For the tasks after it.
        (code('print("done")', leave=56), 60, 'no time left'),
    ],
)
def test_a_task_ends_within_its_limit(task, limit, status, tmp_path):
    start = time.monotonic()
    log = tmp_path / 'log.txt'
    record = gpu.run(task, limit, log)
    assert record['status'] == status
    assert time.monotonic() - start < 30
    assert (log.is_file() and 'done\n' in log.read_text()) == (status == 'passed' and not task.may_time_out)


def test_what_a_task_measured_is_kept(tmp_path):
    result = tmp_path / 'result.json'
    task = code(f'open({str(result)!r}, "w").write("[1, 2]")', result=result)
    assert gpu.run(task, 60, tmp_path / 'log.txt')['result'] == [1, 2]


def test_a_failure_stops_neither_the_stage_nor_the_results_before_it(tmp_path):
    kept = tmp_path / 'elsewhere' / 'lines.jsonl'
    kept.parent.mkdir()
    kept.write_text('{}\n')
    out = tmp_path / 'out'
    out.mkdir()
    results = dict(machine='a machine', commit='abc', stages={})
    tasks = [code('raise SystemExit(1)'), code('print("done")', keep=(kept,))]
    gpu.run_stage('works', [tasks, [code('print("beside")')]], time.monotonic() + 60, out, results)
    written = json.loads((out / 'results.json').read_text())
    assert sorted(record['status'] for record in written['stages']['works']) == ['failed', 'passed', 'passed']
    assert 'beside\n' in (out / 'log.txt').read_text()
    assert (out / 'lines.jsonl').read_text() == '{}\n'
    console = Console(file=io.StringIO(), width=160)
    console.print(gpu.make_summary(written))
    assert 'failed' in console.file.getvalue() and 'a machine, abc' in console.file.getvalue()


def test_the_summary_names_what_was_measured():
    ratio = dict(median=1.0, low=0.99, high=1.01)
    assert (
        gpu.figures(dict(time_ratio=ratio, memory_ratio=0.25))
        == 'edge / plain: time 1.000 [0.990, 1.010], memory 0.250'
    )
    row = dict(rois=256, exponent=2.0, edge_to_bce=dict(median=1.5, low=1.4, high=1.6))
    assert gpu.figures(dict(rows=[row])) == 'p = 2: edge / BCE 1.50 [1.40, 1.60]'
    assert gpu.figures({}) == ''


@pytest.mark.parametrize('device', ['cpu', 'cuda'])
@pytest.mark.parametrize('data', [None, Path('/data')])
def test_every_command_names_files_and_modules_that_exist(device, data, tmp_path):
    tasks = [
        *checks(device, 9),
        *commands(device, tmp_path, 9),
        *what_it_costs(device, tmp_path, 9),
        *what_it_gains(device, tmp_path, 9, data),
    ]
    for task in tasks:
        for word in task.command[1:]:
            if word.startswith(('tools/', 'tests/', 'configs/')):
                assert (ROOT / word).exists(), word
            if word.startswith('benchmarks.'):
                module = ROOT / word.replace('.', '/')
                assert module.with_suffix('.py').is_file() or (module / '__main__.py').is_file(), word
    assert ('train --amp' in {task.name for task in tasks}) == (device == 'cuda')


def test_without_a_gpu_one_line_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(sys, 'argv', ['gpu', str(tmp_path / 'out')])
    with pytest.raises(
        SystemExit, match='error: --device cuda: torch .* sees no GPU; DEVICE=cpu rehearses without one'
    ):
        gpu.main()
    assert os.listdir(tmp_path) == []


@pytest.mark.soak
def test_a_rehearsal_on_a_cpu_passes(tmp_path):
    """What a GPU is to run, with small sizes: the first two stages."""
    out = tmp_path / 'out'
    command = ['benchmarks/gpu/run.sh', '--minutes', '20', '--stage', 'works', '--stage', 'costs', str(out)]
    env = {**os.environ, 'DEVICE': 'cpu', 'PYTHON': sys.executable, 'CUDA_VISIBLE_DEVICES': ''}
    subprocess.run(command, cwd=ROOT, env=env, check=True)
    stages = json.loads((out / 'results.json').read_text())['stages']
    assert [len(records) for records in stages.values()] == [7, 5]
    assert all(record.get('result') for record in stages['costs'])
