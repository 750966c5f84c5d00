"""What the launcher takes for done, what it clears away, and how it ends what it started."""

import hashlib
import json
import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.convergence import launcher as module
from benchmarks.convergence.launcher import STAMP, Launcher
from benchmarks.convergence.report import ConvergenceRun
from benchmarks.convergence.spec import RunKey, Spec

from .conftest import SHAPES

MIOU = 'mask_branch/mIoU'
KEY = RunKey('baseline', 60, 0.1, 0)


def make(tmp_path, protocol='full', runs=(), **settings):
    spec = Spec(
        name='test',
        protocol=protocol,
        config=SHAPES,
        settings=dict(baseline={}, **settings),
        runs=runs,
        baseline='baseline',
        metrics=[MIOU],
        features=dict(num_train=10, num_val=5, jitter=0.1, batch_size=2) if protocol == 'mask-branch' else {},
    )
    return Launcher(spec, tmp_path / 'results.jsonl', tmp_path, jobs=1)


def write_results(launcher, *lines):
    """Write results: (key, value) or (key, value, hash)."""
    with launcher.results.open('a') as file:
        for key, value, *sha in lines:
            record = dict(setting=key.setting, budget=key.budget, learning_rate=key.learning_rate, seed=key.seed)
            record.update(metrics={MIOU: value}, seconds=1, config_sha256=sha[0] if sha else launcher._config(key)[1])
            file.write(json.dumps(record) + '\n')


def test_at_least_one_job(tmp_path):
    with pytest.raises(ValueError, match='at least 1 training at a time, got 0'):
        Launcher(make(tmp_path).spec, tmp_path / 'results.jsonl', tmp_path, jobs=0)


def test_done_is_what_todays_config_made(tmp_path):
    keys = [RunKey('baseline', 60, rate, 0) for rate in (0.1, 0.2)]
    runs = [dict(settings=['baseline'], seeds=[0], budgets=[60], learning_rates=[0.1, 0.2])]
    launcher = make(tmp_path, 'mask-branch', runs)
    assert launcher._done() == [] and launcher._missing() == keys
    gone, short = RunKey('gone', 60, None, 0), RunKey('baseline', 20, None, 0)
    write_results(launcher, (keys[0], 0.5), (keys[1], 0.6, 'other'), (gone, 0.7, 'x'), (short, 0.8, 'x'))
    assert launcher._done() == [ConvergenceRun('baseline', 60, 0.1, 0, {MIOU: 0.5}, 1)]
    assert launcher._missing() == keys[1:]
    # The last line of a run counts.
    write_results(launcher, (keys[1], 0.6), (keys[0], 0.4, 'older'))
    assert launcher._missing() == keys[:1]


def test_half_a_line_is_removed_without_a_risk_to_the_others(tmp_path, monkeypatch):
    launcher = make(tmp_path)
    launcher.results.write_text('one\ntwo\nthr')
    monkeypatch.setattr(launcher, '_run', lambda: None)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, 'fsync', interrupt)
        launcher.run()
    assert launcher.results.read_text() == 'one\ntwo\nthr'
    launcher.run()
    assert launcher.results.read_text() == 'one\ntwo\n'


def interrupt(*args):
    raise KeyboardInterrupt


def test_results_of_another_config_do_not_tune(tmp_path):
    runs = [
        dict(settings=['baseline'], seeds=[0], budgets=[60], learning_rates=[0.1, 0.2]),
        dict(settings=['edge'], seeds=[0], budgets=[60], learning_rates='tuned'),
    ]
    launcher = make(tmp_path, 'mask-branch', runs, edge={})
    keys = [RunKey('baseline', 60, rate, 0) for rate in (0.1, 0.2)]
    write_results(launcher, (keys[0], 0.9, 'other'), (keys[1], 0.6))
    assert launcher._missing() == keys[:1]
    write_results(launcher, (keys[0], 0.5))
    assert launcher._missing() == [RunKey('edge', 60, 0.2, 0)]


def test_impossible_budget_is_told_before_anything_is_started(tmp_path):
    launcher = make(tmp_path, runs=[dict(settings=['baseline'], seeds=[0], budgets=[60, 20])])
    with pytest.raises(ValueError, match='a budget of 20 iterations is too short'):
        launcher.run()
    assert not (tmp_path / 'runs').exists()


def test_a_training_is_as_safe_as_with_the_tool(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(module, 'build_runner', lambda cfg: started.append(cfg) or SimpleNamespace(train=lambda: None))
    for protocol, hook in (('full', 'AtomicCheckpointHook'), ('mask-branch', None)):
        make(tmp_path, protocol)._place(KEY).dump(tmp_path / 'run.py')
        module._train(tmp_path / 'run.py', gpus=1)
        hooks = started.pop().default_hooks
        # Mask heads alone take seconds, and save nothing.
        assert (hooks.checkpoint and hooks.checkpoint.type) == hook
        assert ('random_state' in hooks) == bool(hook)


def write_log(folder, *lines):
    path = folder / '20200101_000000/vis_data/scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines))


END = dict(loss=1.0, lr=0.1, step=60), {MIOU: 0.5, 'time': 1.0, 'step': 0}


@pytest.mark.parametrize(
    'stamp, checkpoint, lines, stays',
    [
        ('same', 'iter_30.pth', END[:1], True),
        ('other', 'iter_30.pth', END[:1], False),
        (None, 'iter_30.pth', END[:1], False),
        # At its end: resumed, it would never be evaluated.
        ('same', 'iter_60.pth', END[:1], False),
        ('same', 'iter_60.pth', END, True),
    ],
)
def test_what_is_left_of_an_earlier_call(tmp_path, stamp, checkpoint, lines, stays):
    launcher, folder = make(tmp_path), tmp_path / 'run'
    write_log(folder, *lines)
    (folder / checkpoint).touch()
    if stamp:
        (folder / STAMP).write_text(launcher._config(KEY)[1] if stamp == 'same' else stamp)
    launcher._clear(folder, KEY)
    assert folder.exists() == stays
    launcher._clear(tmp_path / 'not there', KEY)


@pytest.mark.parametrize(
    'lines, expected',
    [
        (END, {MIOU: 0.5}),
        (END[:1], None),
        ((dict(loss=float('nan'), step=50), dict(loss=float('nan'), step=60)), {}),
        # The evaluation of an earlier step is not that of the end.
        ((*END, dict(loss=1.0, step=70)), None),
        ((END[0], {'mask_branch/BCE': 0.5, 'step': 0}), None),
    ],
    ids=['evaluated', 'killed', 'diverged', 'earlier', 'other metric'],
)
def test_metrics_of_a_run(tmp_path, lines, expected):
    write_log(tmp_path / 'run', *lines)
    assert make(tmp_path)._read_metrics(tmp_path / 'run') == expected


def test_metrics_of_a_run_that_logged_nothing(tmp_path):
    assert make(tmp_path)._read_metrics(tmp_path) is None


def _start_another(path):
    process = subprocess.Popen(['sleep', '60'])
    Path(path).write_text(str(process.pid))
    process.wait()


def test_what_a_child_started_is_ended_with_it(tmp_path):
    """As torchrun and the workers of data loaders are."""
    process = make(tmp_path)._fork(_start_another, tmp_path / 'pid', log=tmp_path / 'log', slot=0)
    end = time.time() + 30
    try:
        while not ((tmp_path / 'pid').exists() and (tmp_path / 'pid').read_text()):
            assert time.time() < end
            time.sleep(0.02)
        pid = int((tmp_path / 'pid').read_text())
        assert os.getpgid(pid) == os.getpgid(process.pid) == process.pid != os.getpgid(0)
    finally:
        module._terminate(process)
    assert not process.is_alive()
    while Path(f'/proc/{pid}/stat').exists() and Path(f'/proc/{pid}/stat').read_text().split()[2] != 'Z':
        assert time.time() < end
        time.sleep(0.02)
    # One that has ended already.
    module._terminate(process)


def _tell_environment(path):
    names = ('CUDA_VISIBLE_DEVICES', 'PORT')
    Path(path).write_text(json.dumps([os.environ.get(name) for name in names]))
    os.write(1, b'told')


@pytest.mark.parametrize(
    'visible, count, slot, gpus, expected',
    [
        (None, 4, 1, 1, '1'),
        (None, 4, 1, 2, '2,3'),
        ('5,7', 2, 1, 1, '7'),
        # More trainings than GPUs: they share them.
        ('5,7', 2, 2, 1, '5'),
        (None, 1, 3, 1, '0'),
        (None, 0, 1, 1, None),
    ],
)
def test_each_training_sees_its_own_gpus(tmp_path, monkeypatch, visible, count, slot, gpus, expected):
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    monkeypatch.delenv('PORT', raising=False)
    if visible:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
    monkeypatch.setattr(module.torch.cuda, 'is_available', lambda: count > 0)
    monkeypatch.setattr(module.torch.cuda, 'device_count', lambda: count)
    with module._devices(slot, gpus):
        assert os.environ.get('CUDA_VISIBLE_DEVICES') == expected
        if gpus == 1:
            process = make(tmp_path)._fork(_tell_environment, tmp_path / 'told', log=tmp_path / 'log', slot=slot)
            process.join()
    assert os.environ.get('CUDA_VISIBLE_DEVICES') == visible
    if gpus == 1:
        # torchrun of each slot has a port of its own.
        assert json.loads((tmp_path / 'told').read_text())[1] == str(29500 + slot)
        assert (tmp_path / 'log').read_text() == 'told'


PHOTOGRAPHS = 'mask_rcnn_edge/mask-rcnn_mobilenet-v2_fpn_1xb4-300i_animals.py'


@pytest.mark.parametrize('protocol', ['full', 'mask-branch'])
def test_a_file_of_pretrained_weights_is_not_part_of_the_setting(tmp_path, protocol):
    spec = replace(make(tmp_path, protocol).spec, config=PHOTOGRAPHS)
    file = tmp_path / 'weights.pth'
    file.write_bytes(b'weights')
    plain, placed = (Launcher(spec, tmp_path / 'r.jsonl', tmp_path, 1, pretrained=f) for f in (None, str(file)))
    assert plain._config(KEY)[1] == placed._config(KEY)[1]
    if protocol == 'mask-branch':
        assert plain._features_hash() == placed._features_hash()
        placed._place(KEY)
    else:
        assert plain._place(KEY).model.backbone.init_cfg.checkpoint == 'open-mmlab://mmdet/mobilenet_v2'
        assert placed._place(KEY).model.backbone.init_cfg.checkpoint == str(file)


def test_the_detector_starts_from_the_file(tmp_path, monkeypatch):
    for check in ('check_data', 'check_pretrained'):
        monkeypatch.setattr(module, check, lambda *args: None)
    scheduler = make(tmp_path, 'mask-branch')
    scheduler.spec, scheduler.pretrained = replace(scheduler.spec, config=PHOTOGRAPHS), 'weights.pth'
    cfg = scheduler._detector_config()
    assert cfg.model.backbone.init_cfg.checkpoint == 'weights.pth'
    assert cfg.train_cfg.val_begin > cfg.train_cfg.max_iters


def test_a_file_without_a_place(tmp_path):
    (tmp_path / 'weights.pth').write_bytes(b'')
    spec = make(tmp_path).spec
    with pytest.raises(ValueError, match=r'weights.pth has no place: the backbone ResNet has no pretrained weights'):
        Launcher(spec, tmp_path / 'r.jsonl', tmp_path, 1, pretrained=str(tmp_path / 'weights.pth'))._place(KEY)
    with pytest.raises(FileNotFoundError):
        Launcher(spec, tmp_path / 'r.jsonl', tmp_path, 1, pretrained=str(tmp_path / 'absent.pth'))


def test_a_result_tells_its_pretrained_weights(tmp_path, monkeypatch):
    (tmp_path / 'weights.pth').write_bytes(b'weights')
    monkeypatch.setattr(Launcher, '_read_metrics', lambda *_: {MIOU: 0.5})
    for name in (None, 'weights.pth'):
        scheduler = Launcher(
            make(tmp_path).spec, tmp_path / 'r.jsonl', tmp_path, 1, pretrained=name and str(tmp_path / name)
        )
        scheduler._finish(module.Job(KEY, SimpleNamespace(join=lambda: None), 0, time.time()), [])
    without, line = map(json.loads, (tmp_path / 'r.jsonl').read_text().splitlines())
    assert 'pretrained_sha256' not in without
    assert line['pretrained_sha256'] == hashlib.sha256(b'weights').hexdigest()[:16]
