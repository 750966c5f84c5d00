"""python -m benchmarks.convergence, each call in a process of its own, on RoI features made of noise."""

import contextlib
import json
import multiprocessing
import os
import re
import runpy
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks.convergence import __main__ as main_module
from benchmarks.convergence import save_roi_features

from ...test_tools.conftest import ROOT, lines_with

TOOL = 'benchmarks.convergence'
LONG = 1_000_000

# Forked from a process that has the libraries loaded, which takes as long as all the rest.
SERVER = multiprocessing.get_context('forkserver')
SERVER.set_forkserver_preload(['benchmarks.convergence.launcher', 'benchmarks.convergence.report'])


def _run_tool(args, log):
    """Be the tool; called in the new process."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    # One thread each: on a busy machine, several that wait for each other are slower by an order of magnitude.
    os.sched_getaffinity = lambda _: {0}
    sys.argv = [TOOL, *args]
    sys.path.insert(0, str(ROOT))
    # Imported by the tests, too, at which runpy would warn.
    sys.modules.pop(f'{TOOL}.__main__', None)
    runpy.run_module(TOOL, run_name='__main__')


class Call:
    """The tool, started."""

    count = 0

    def __init__(self, *args):
        Call.count += 1
        self.log = Path(args[args.index('--work-dir') + 1]).parent / f'call{Call.count}.log'
        self.process = SERVER.Process(target=_run_tool, args=([str(a) for a in args], str(self.log)))
        self.process.start()

    def end(self, code=0):
        self.process.join(120)
        output = self.log.read_text()
        assert self.process.exitcode == code, output[-5000:]
        return output


def write_spec(folder, budgets=(3,), seeds=(0, 1), edge_weight=1.0, edge_classes=2, settings=('baseline', 'edge')):
    """Write a spec with two very small mask heads."""
    head = dict(num_convs=1, in_channels=4, conv_out_channels=4, num_classes=2)
    edge = dict(head, type='EdgeAgreementMaskHead', num_classes=edge_classes, loss_edge=dict(loss_weight=edge_weight))
    # Without a warm-up, so that they can be short.
    options = {'param_scheduler': []}
    fields = dict(
        protocol='mask-branch',
        config='mask_rcnn_edge/mask-rcnn_r18_fpn_1xb4-300i_shapes.py',
        baseline='baseline',
        metrics=['mask_branch/mIoU', 'mask_branch/BCE'],
        features=dict(num_train=8, num_val=4, jitter=0.1, batch_size=2),
        settings={
            'baseline': dict(cfg_options={**options, 'model.roi_head.mask_head': head}),
            'edge': dict(cfg_options={**options, 'model.roi_head.mask_head': edge}),
        },
        runs=[dict(settings=list(settings), seeds=list(seeds), budgets=list(budgets))],
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / 'tiny.py'
    path.write_text('\n'.join(f'{key} = {value!r}' for key, value in fields.items()))
    return path


def write_features(work_dir):
    """Write what a detector would give."""
    generator = torch.Generator().manual_seed(0)
    for part, number in (('train', 8), ('val', 4)):
        targets = torch.rand(number, 28, 28, generator=generator) > 0.5
        labels = torch.arange(number) % 2
        save_roi_features(
            work_dir / 'features' / part, torch.randn(number, 4, 14, 14, generator=generator), targets, labels
        )


def read_results(work_dir):
    return [json.loads(line) for line in (work_dir / 'results.jsonl').read_text().splitlines()]


def starts(work_dir):
    """The starts of runs, by folder."""
    return sorted(str(p.parent.relative_to(work_dir)) for p in work_dir.glob('runs/**/vis_data'))


@pytest.fixture(scope='module')
def finished_once(tmp_path_factory):
    """A benchmark that was run to its end, and what it printed."""
    folder = tmp_path_factory.mktemp('finished')
    write_features(folder / 'bench')
    output = Call(write_spec(folder), '--work-dir', folder / 'bench', '--jobs', '2').end()
    return folder, output


@pytest.fixture
def finished(finished_once, tmp_path):
    """A copy of that, to be resumed."""
    shutil.copytree(finished_once[0], tmp_path, dirs_exist_ok=True)
    return tmp_path


def call(folder, *args, code=0):
    return Call(folder / 'tiny.py', '--work-dir', folder / 'bench', *args).end(code)


def test_from_start_to_end(finished_once):
    folder, output = finished_once
    results = read_results(folder / 'bench')
    assert sorted((r['setting'], r['seed']) for r in results) == [(s, i) for s in ('baseline', 'edge') for i in (0, 1)]
    for result in results:
        assert list(result) == [
            *('spec', 'protocol', 'setting', 'budget', 'learning_rate', 'seed', 'metrics'),
            *('seconds', 'finished', 'versions', 'commit', 'config_sha256'),
        ]
        assert (result['spec'], result['protocol']) == ('tiny', 'mask-branch')
        assert (result['budget'], result['learning_rate']) == (3, None)
        assert result['seconds'] > 0 and {'python', 'device', 'mmdet_edge', 'torch'} <= set(result['versions'])
        assert 0 < result['metrics']['mask_branch/mIoU'] < 1 and result['metrics']['mask_branch/BCE'] > 0
        # Only these: no losses, times or learning rates.
        assert all(key.startswith('mask_branch/') for key in result['metrics'])
    assert len({r['config_sha256'] for r in results}) == 4
    # Seeds and settings give different runs.
    assert len({r['metrics']['mask_branch/BCE'] for r in results}) == 4
    pattern = r'(baseline|edge), 3 iterations, seed [01]: mask_branch/mIoU 0\.\d{4} \(\d+ s; '
    assert len(lines_with(output, pattern)) == 4
    assert f'report: {folder}/bench/report/report.md' in output.replace('\n', '')
    report = (folder / 'bench/report/report.md').read_text()
    assert '## 3 iterations' in report and lines_with(report, r"^\| edge \| config's \| 2 \| 0\.\d{4} ± ")
    assert len(starts(folder / 'bench')) == 4
    log = (folder / 'bench/runs/3/edge/seed1/console.log').read_text()
    assert 'Iter(train) [3/3]' in log and 'loss_edge' in log


def test_second_call_starts_nothing(finished):
    before = (finished / 'bench/results.jsonl').read_text(), starts(finished / 'bench')
    (finished / 'bench/report/report.md').unlink()
    output = call(finished)
    assert ((finished / 'bench/results.jsonl').read_text(), starts(finished / 'bench')) == before
    assert (finished / 'bench/report/report.md').is_file() and not lines_with(output, 'runs left')


def test_changed_option_reruns_its_setting(finished):
    before = read_results(finished / 'bench')
    write_spec(finished, edge_weight=5.0)
    assert call(finished, '--check').endswith(f'2 runs are missing in {finished}/bench/results.jsonl\n')
    output = call(finished)
    assert lines_with(output, 'edge, 3 iterations, seed 0:')
    assert not lines_with(output, 'baseline, 3 iterations, seed 0:')
    results = read_results(finished / 'bench')
    assert results[:4] == before and [(r['setting'], r['seed']) for r in results[4:]] == [('edge', 0), ('edge', 1)]
    # The last line of a run counts, and nothing is left of the one before.
    assert "| edge | config's | 2 |" in (finished / 'bench/report/report.md').read_text()
    assert len(starts(finished / 'bench')) == 4


def test_broken_last_line(finished):
    path = finished / 'bench/results.jsonl'
    lines = path.read_text().splitlines(keepends=True)
    lost = json.loads(lines[-1])
    path.write_text(''.join(lines)[:-30])
    before = path.read_text()
    # --check and --report do not repair it: another call may be writing that line.
    assert call(finished, '--check').startswith('1 runs are missing') and path.read_text() == before
    call(finished, '--report')
    assert path.read_text() == before
    call(finished)
    results = read_results(finished / 'bench')
    assert [json.dumps(r) + '\n' for r in results[:3]] == lines[:3] and len(results) == 4
    # Trained again, with the same result.
    for key in ('setting', 'seed', 'config_sha256'):
        assert results[3][key] == lost[key]
    assert results[3]['metrics'] == pytest.approx(lost['metrics'], rel=1e-3)


def test_check_and_report_start_nothing(tmp_path):
    write_spec(tmp_path)
    write_features(tmp_path / 'bench')
    assert call(tmp_path, '--check').endswith(f'4 runs are missing in {tmp_path}/bench/results.jsonl\n')
    message = f'error: there are no results yet: {tmp_path}/bench/results.jsonl does not exist'
    assert call(tmp_path, '--report', code=1).splitlines()[-1] == message
    assert [p.name for p in (tmp_path / 'bench').iterdir()] == ['features']


def test_check_reports_that_more_runs_follow(tmp_path):
    path = write_spec(tmp_path, budgets=(2,), seeds=(0,), settings=('baseline',))
    fixed = "dict(settings=['baseline'], budgets=[2], seeds=[0], learning_rates=[0.1, 0.2])"
    tuned = "dict(settings=['edge'], budgets=[2], seeds=[0], learning_rates='tuned')"
    path.write_text(f'{path.read_text()}\nruns = [{fixed}, {tuned}]\n')
    write_features(tmp_path / 'bench')
    assert '2 runs are missing' in (output := call(tmp_path, '--check'))
    assert output.endswith('and more once the learning rate of the baseline is tuned\n')


def test_report_against_another_setting(finished):
    """The table is printed, and its baseline is the one asked for."""
    output = call(finished, '--report', '--baseline', 'edge')
    rows = {line.split('│')[1].strip(): line for line in output.splitlines() if line.startswith('│')}
    assert list(rows) == ['edge', 'baseline'] and 'baseline' in rows['edge']
    assert '%' in rows['baseline'] and '%' not in rows['edge']
    assert "error: no run has the setting 'nothing'" in call(finished, '--report', '--baseline', 'nothing', code=1)


def test_mistakes_are_reported_in_one_line(tmp_path):
    path = write_spec(tmp_path, settings=('baseline', 'egde'))
    options = ('--work-dir', tmp_path / 'bench')
    output = Call(path, *options).end(1)
    assert output.splitlines()[-1] == "error: tiny: unknown setting 'egde'; there are: baseline, edge"
    write_spec(tmp_path)
    assert call(tmp_path, '--jobs', '0', code=1).splitlines()[-1] == (
        'error: there must be at least 1 training run at a time, got 0'
    )
    # No features, and no data to make them of.
    message = f'error: data root not found: {tmp_path}/nowhere/ (train_dataloader of the config).'
    assert message in call(tmp_path, '--data-root', f'{tmp_path}/nowhere', '--check', code=1)
    assert not (tmp_path / 'bench').exists()


def test_a_run_that_fails(finished):
    """Not even the result of its predecessor, which is in the same folder, may be taken for its own."""
    before = read_results(finished / 'bench')
    # Labels are 0 and 1.
    write_spec(finished, edge_classes=1, seeds=(0, 1, 2))
    output = call(finished, '--jobs', '2', code=1)
    pattern = r'^error: edge, 3 iterations, seed ([01]) failed \(exit code 1\); the end of (.*):$'
    (seed, log) = re.search(pattern, output, re.MULTILINE).groups()
    assert log == f'{finished}/bench/runs/3/edge/seed{seed}/console.log'
    assert 'out of bounds' in output.splitlines()[-1] and 'out of bounds' in Path(log).read_text()
    results = read_results(finished / 'bench')
    assert results[:4] == before and all(r['setting'] == 'baseline' for r in results[4:])
    # Corrected, it resumes.
    write_spec(finished, seeds=(0, 1, 2))
    call(finished, '--jobs', '2')
    results = read_results(finished / 'bench')
    assert sorted((r['setting'], r['seed']) for r in results[4:]) == [('baseline', 2), ('edge', 2)]


def children(pid):
    return [int(child) for child in Path(f'/proc/{pid}/task/{pid}/children').read_text().split()]


def wait_for(condition, seconds=60):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end
        time.sleep(0.05)


def test_a_call_that_is_ended_resumes_and_bars_a_second_one(finished):
    before = read_results(finished / 'bench')
    write_spec(finished, budgets=(3, LONG))
    first = Call(finished / 'tiny.py', '--work-dir', finished / 'bench', '--jobs', '2')
    runs = []
    try:
        wait_for(lambda: len(list((finished / 'bench').glob(f'runs/{LONG}/*/seed0/*/vis_data/scalars.json'))) == 2)
        runs = children(first.process.pid)
        assert len(runs) == 2

        output = call(finished, code=1)
        assert output.splitlines()[-1] == f'error: {finished}/bench: another call of this benchmark is running there'
        assert children(first.process.pid) == runs

        os.kill(first.process.pid, signal.SIGTERM)
        first.end(143)
        assert not [pid for pid in runs if Path(f'/proc/{pid}').exists()]
    except BaseException:
        for pid in (first.process.pid, *runs):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        raise
    assert read_results(finished / 'bench') == before

    # The same command resumes, here with fewer iterations.
    write_spec(finished, budgets=(3, 4))
    call(finished, '--jobs', '2')
    results = read_results(finished / 'bench')
    assert results[:4] == before and [r['budget'] for r in results[4:]] == [4] * 4
    report = (finished / 'bench/report/report.md').read_text()
    assert '## 4 iterations' in report and '## Speed-up' in report
    assert (finished / 'bench/report/convergence.png').is_file()


LOADERS = {
    f'{split}_dataloader.{option}': value
    for split in ('train', 'val')
    for option, value in (('num_workers', 0), ('persistent_workers', False))
}


CHEAP = {
    'train_dataloader.batch_size': 1,
    'model.train_cfg.rpn_proposal.max_per_img': 20,
    'model.train_cfg.rcnn.sampler.num': 16,
    'model.test_cfg.rpn.max_per_img': 20,
    'model.test_cfg.rcnn.max_per_img': 5,
}


def options(**more):
    values = {'param_scheduler': '[]', **LOADERS, **CHEAP, **more}
    return ['--cfg-options', *(f'{key}={value}' for key, value in values.items())]


@pytest.mark.slow
def test_full_training(shapes_folder, tmp_path):
    """Everything is trained; with another option from scratch, not from the checkpoint that is there."""

    def write(lr):
        path = tmp_path / 'tiny.py'
        path.write_text(
            'protocol = "full"\nconfig = "mask_rcnn_edge/mask-rcnn_r18_fpn_1xb4-300i_shapes.py"\n'
            f'settings = dict(baseline=dict(cfg_options={{"optim_wrapper.optimizer.lr": {lr}}}))\n'
            'baseline = "baseline"\nmetrics = ["mask_branch/mIoU", "mask_branch/BCE"]\n'
            'runs = [dict(settings=["baseline"], seeds=[0], budgets=[2])]\n'
        )

    for number, rate in enumerate((0.001, 0.002), start=1):
        write(rate)
        call(tmp_path, '--data-root', shapes_folder, *options())
        results = read_results(tmp_path / 'bench')
        assert len(results) == number and results[-1]['protocol'] == 'full'
        assert {'mask_branch/mIoU', 'mask_branch/image_boundary_IoU_1px'} <= set(results[-1]['metrics'])
        (log,) = (tmp_path / 'bench').glob('runs/2/baseline/seed0/*/vis_data/scalars.json')
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert [(line['step'], line['lr']) for line in lines if 'loss' in line] == [(2, rate)]
        assert (tmp_path / 'bench/runs/2/baseline/seed0/iter_2.pth').is_file()
    first, second = results
    assert first['config_sha256'] != second['config_sha256'] and first['metrics'] != second['metrics']


@pytest.mark.slow
def test_features_come_from_a_detector(shapes_folder, tmp_path):
    path = write_spec(tmp_path, budgets=(2,), seeds=(0,))
    # As many channels as the detector has, and classes.
    path.write_text(
        path.read_text().replace("'in_channels': 4", "'in_channels': 64").replace(": 2, 'type'", ": 6, 'type'")
    )
    path.write_text(path.read_text().replace("'num_classes': 2", "'num_classes': 6"))
    more = ['--data-root', shapes_folder, *options(**{'train_cfg.max_iters': 1, 'default_hooks.logger.interval': 1})]
    output = call(tmp_path, *more)
    assert lines_with(output, 'training the detector') and lines_with(output, 'caching its RoI features')
    assert (tmp_path / 'bench/detector/iter_1.pth').is_file() and len(read_results(tmp_path / 'bench')) == 2
    # Nobody would read an evaluation of it.
    assert 'Iter(val)' not in (tmp_path / 'bench/detector/train.log').read_text()
    labels = tmp_path / 'bench/features/val/labels.npy'
    made = labels.stat().st_mtime_ns

    # Used again, as long as nothing of the detector changes.
    text = path.read_text()
    path.write_text(text.replace("['baseline', 'edge']", "['baseline']").replace("'seeds': [0]", "'seeds': [0, 1]"))
    output = call(tmp_path, *more)
    assert not lines_with(output, 'detector') and labels.stat().st_mtime_ns == made
    assert len(read_results(tmp_path / 'bench')) == 3
    path.write_text(text.replace("'num_val': 4", "'num_val': 3"))
    assert 'features was made with another config or number of RoIs' in call(tmp_path, *more, code=1)


def test_an_interrupt_ends_with_one_line(monkeypatch):
    def interrupt(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, 'argv', [TOOL, 'spec.py'])
    monkeypatch.setattr(signal, 'signal', lambda *_: None)
    monkeypatch.setattr(main_module, 'run', interrupt)
    with pytest.raises(SystemExit, match='^interrupted: call the same command again to resume$'):
        main_module.main()
