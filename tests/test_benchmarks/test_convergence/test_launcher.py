"""Which results count, what is deleted, and what is shown of the stages before the runs."""

import hashlib
import io
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from benchmarks.convergence import launcher as module
from benchmarks.convergence.launcher import STAMP, Job, Launcher
from benchmarks.convergence.results import RunKey, RunResult
from benchmarks.convergence.spec import Spec
from mmdet_edge.errors import UserError

from .conftest import SHAPES

MIOU = 'mask_branch/mIoU'
KEY = RunKey('baseline', 60, 0.1, 0)


def make(tmp_path, protocol='full', runs=(), pretrained=None, **settings):
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
    return Launcher(spec, tmp_path / 'results.jsonl', tmp_path, jobs=1, pretrained=pretrained)


def missing(launcher):
    """What is missing, after the results were read."""
    launcher.done = launcher._read_done()
    return launcher._missing()


def write_results(launcher, *lines):
    """Write results: (key, value) or (key, value, hash)."""
    with launcher.results.open('a') as file:
        for key, value, *sha in lines:
            record = dict(setting=key.setting, budget=key.budget, learning_rate=key.learning_rate, seed=key.seed)
            record.update(metrics={MIOU: value}, seconds=1, config_sha256=sha[0] if sha else launcher._config(key)[1])
            file.write(json.dumps(record) + '\n')


def test_there_must_be_at_least_one_job(tmp_path):
    with pytest.raises(UserError, match='at least 1 training run at a time, got 0'):
        Launcher(make(tmp_path).spec, tmp_path / 'results.jsonl', tmp_path, jobs=0)


def test_only_results_of_todays_config_count(tmp_path):
    keys = [RunKey('baseline', 60, rate, 0) for rate in (0.1, 0.2)]
    runs = [dict(settings=['baseline'], seeds=[0], budgets=[60], learning_rates=[0.1, 0.2])]
    launcher = make(tmp_path, 'mask-branch', runs)
    assert missing(launcher) == keys and launcher.done == {}
    gone, short = RunKey('gone', 60, None, 0), RunKey('baseline', 20, None, 0)
    write_results(launcher, (keys[0], 0.5), (keys[1], 0.6, 'other'), (gone, 0.7, 'x'), (short, 0.8, 'x'))
    assert missing(launcher) == keys[1:]
    assert launcher.done == {keys[0]: RunResult(keys[0], {MIOU: 0.5}, 1, launcher._config(keys[0])[1])}
    # The last line of a run counts.
    write_results(launcher, (keys[1], 0.6), (keys[0], 0.4, 'older'))
    assert missing(launcher) == keys[:1]


def test_the_modules_of_a_setting_are_imported_before_it_is_checked(tmp_path, monkeypatch):
    (tmp_path / 'imported_by_a_setting.py').write_text('')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'imported_by_a_setting', raising=False)
    options = {'custom_imports.imports': ['mmdet_edge', 'imported_by_a_setting']}
    runs = [dict(settings=['baseline', 'own'], seeds=[0], budgets=[60])]
    launcher = make(tmp_path, runs=runs, own=dict(cfg_options=options))
    monkeypatch.setattr(module, 'check', lambda cfg, _: seen.append('imported_by_a_setting' in sys.modules))
    seen = []
    launcher.check()
    assert seen == [False, True]


def test_a_module_of_a_setting_that_is_not_there(tmp_path):
    options = {'custom_imports.imports': ['mmdet_edge', 'nowhere_at_all']}
    runs = [dict(settings=['own'], seeds=[0], budgets=[60])]
    with pytest.raises(UserError, match='Failed to import nowhere_at_all'):
        make(tmp_path, runs=runs, own=dict(cfg_options=options)).check()


def test_half_a_line_is_removed_without_a_risk_to_the_others(tmp_path, monkeypatch):
    launcher = make(tmp_path)
    launcher.results.write_text('one\ntwo\nthr')
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, 'fsync', interrupt)
        launcher._remove_broken_line()
    assert launcher.results.read_text() == 'one\ntwo\nthr'
    launcher._remove_broken_line()
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
    assert missing(launcher) == keys[:1]
    write_results(launcher, (keys[0], 0.5))
    assert missing(launcher) == [RunKey('edge', 60, 0.2, 0)]


def test_an_impossible_budget_is_reported_before_anything_starts(tmp_path):
    launcher = make(tmp_path, runs=[dict(settings=['baseline'], seeds=[0], budgets=[60, 20])])
    with pytest.raises(UserError, match='a budget of 20 iterations is too short'):
        launcher.run()
    assert not (tmp_path / 'runs').exists()


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
def test_a_work_dir_that_cannot_be_resumed_is_deleted(tmp_path, stamp, checkpoint, lines, stays):
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
def test_metrics_are_those_of_the_end(tmp_path, lines, expected):
    write_log(tmp_path / 'run', *lines)
    assert make(tmp_path)._read_metrics(tmp_path / 'run') == expected


def test_a_detector_that_detects_nothing_has_an_ap_of_0(tmp_path):
    write_log(tmp_path / 'run', *END)
    launcher = make(tmp_path)
    launcher.spec = replace(launcher.spec, metrics=['coco/segm_mAP', MIOU])
    assert launcher._read_metrics(tmp_path / 'run') == {'coco/segm_mAP': 0.0, MIOU: 0.5}


def test_a_run_that_logged_nothing_has_no_metrics(tmp_path):
    assert make(tmp_path)._read_metrics(tmp_path) is None


def finish(launcher, *jobs):
    """Finish runs that have ended, each a key and the metrics that are found."""
    launcher.running = [
        Job(
            key,
            SimpleNamespace(join=lambda: None, is_alive=lambda: False, exitcode=1, sentinel=None),
            slot,
            time.time(),
        )
        for slot, (key, _) in enumerate(jobs)
    ]
    found = {launcher.work_dir / key.folder: metrics for key, metrics in jobs}
    launcher._read_metrics = found.get
    launcher._finish_ended()


def test_a_failed_run_does_not_lose_the_results_of_others(tmp_path, monkeypatch):
    monkeypatch.setattr(module, 'wait', lambda sentinels: None)
    launcher, failed, other = make(tmp_path), RunKey('baseline', 60, 0.2, 0), RunKey('baseline', 60, 0.3, 0)
    log = tmp_path / failed.folder / 'console.log'
    log.parent.mkdir(parents=True)
    log.write_text('first\nKeyError: 1\n')
    with pytest.raises(UserError, match=rf'^{failed} failed \(exit code 1\); the end of {log}:\nfirst\nKeyError: 1$'):
        finish(launcher, (failed, None), (KEY, {MIOU: 0.5}), (other, {}))
    assert list(launcher.done) == [KEY, other] and launcher.running == []
    lines = [json.loads(line) for line in launcher.results.read_text().splitlines()]
    assert [(line['learning_rate'], line['metrics']) for line in lines] == [(0.1, {MIOU: 0.5}), (0.3, {})]
    assert 'pretrained_sha256' not in lines[0]


PRETRAINED = {'model.backbone.init_cfg': dict(_delete_=True, type='Pretrained', checkpoint='open-mmlab://resnet18')}


@pytest.mark.parametrize('protocol', ['full', 'mask-branch'])
def test_a_file_of_pretrained_weights_is_not_part_of_the_config(tmp_path, monkeypatch, protocol):
    monkeypatch.setattr(module, 'check', lambda *args: None)
    file = tmp_path / 'weights.pth'
    file.write_bytes(b'weights')
    plain, placed = (make(tmp_path, protocol, pretrained=name) for name in (None, str(file)))
    for launcher in (plain, placed):
        launcher.cfg_options = PRETRAINED
    assert plain._config(KEY)[1] == placed._config(KEY)[1]
    make_config = Launcher._detector_config if protocol == 'mask-branch' else lambda launcher: launcher._place(KEY)
    starts = [make_config(launcher).model.backbone.init_cfg.checkpoint for launcher in (plain, placed)]
    assert starts == ['open-mmlab://resnet18', str(file)]


def test_a_result_names_its_pretrained_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(module, 'wait', lambda sentinels: None)
    (tmp_path / 'weights.pth').write_bytes(b'weights')
    launcher = make(tmp_path, pretrained=str(tmp_path / 'weights.pth'))
    finish(launcher, (KEY, {MIOU: 0.5}))
    line = json.loads(launcher.results.read_text())
    assert line['pretrained_sha256'] == hashlib.sha256(b'weights').hexdigest()[:16]


def test_pretrained_weights_that_cannot_be_used_are_named(tmp_path):
    with pytest.raises(UserError, match=r'weights not found: .*absent\.pth'):
        make(tmp_path, pretrained=str(tmp_path / 'absent.pth'))
    (tmp_path / 'weights.pth').touch()
    with pytest.raises(UserError, match=r'--pretrained .*weights\.pth: the backbone ResNet has no pretrained weights'):
        make(tmp_path, pretrained=str(tmp_path / 'weights.pth'))._place(KEY)


def fail(text, done):
    # What is printed goes to pytest, not to the log.
    os.write(2, text)
    raise SystemExit(1)


def half_done(folder, done):
    """A stage that waits until its progress was printed."""
    done.value = 0.4
    while not Path(folder, 'continue').exists():
        time.sleep(0.02)


@pytest.fixture
def console(tmp_path):
    """A console that is not a terminal, and lets the stage end as soon as it has shown progress."""

    class Output(io.StringIO):
        def write(self, text):
            if '40%' in text:
                (tmp_path / 'continue').touch()
            return super().write(text)

    return Console(file=Output(), width=160)


def test_a_stage_shows_its_progress_and_the_time_left(tmp_path, console):
    launcher = make(tmp_path, 'mask-branch')
    launcher.console = console
    launcher._run_stage('training the detector', tmp_path / 'train.log', half_done, tmp_path)
    first, second = console.file.getvalue().splitlines()
    assert first == f'training the detector (log: {tmp_path}/train.log)'
    assert second.startswith('training the detector: 40%, about ') and second.endswith(' s left')


def test_a_stage_that_fails_names_its_log(tmp_path, console):
    launcher = make(tmp_path, 'mask-branch')
    launcher.console = console
    with pytest.raises(UserError, match=r'^caching failed; the end of .*cache\.log:\nKeyError: 1$'):
        launcher._run_stage('caching', tmp_path / 'cache.log', fail, b'KeyError: 1\n')
