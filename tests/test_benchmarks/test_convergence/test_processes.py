"""How child processes are started and ended, and what they do."""

import json
import os
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.config import Config

from benchmarks.convergence import processes
from benchmarks.convergence.results import RunKey
from benchmarks.convergence.run_config import make_detector_config

from .test_launcher import make

KEY = RunKey('baseline', 60, 0.1, 0)


@pytest.fixture
def started(monkeypatch):
    """The configs that were trained."""
    configs = []

    def build_runner(cfg):
        return SimpleNamespace(train=lambda: configs.append(cfg), register_hook=lambda hook: None)

    monkeypatch.setattr(processes, 'build_runner', build_runner)
    return configs


@pytest.mark.parametrize('protocol, hook', [('full', 'AtomicCheckpointHook'), ('mask-branch', None)])
def test_a_run_is_as_safe_as_with_the_tool(tmp_path, started, protocol, hook):
    make(tmp_path, protocol)._place(KEY).dump(tmp_path / 'run.py')
    processes.train(tmp_path / 'run.py', gpus=1)
    hooks = started.pop().default_hooks
    # Mask heads alone take seconds, and save nothing.
    assert (hooks.checkpoint and hooks.checkpoint.type) == hook
    assert ('random_state' in hooks) == bool(hook)


def test_the_detector_is_trained_without_evaluations_and_reports_its_progress(tmp_path, started):
    make_detector_config(make(tmp_path, 'mask-branch').spec, {}).dump(tmp_path / 'detector.py')
    processes.train_detector(tmp_path / 'detector.py', done=None)
    (cfg,) = started
    assert cfg.val_dataloader is cfg.val_evaluator is cfg.val_cfg is None and cfg.custom_hooks == []
    assert cfg.default_hooks.checkpoint.type == 'AtomicCheckpointHook'
    # Caching reads the file, and validation RoIs are cached too.
    assert Config.fromfile(tmp_path / 'detector.py').val_dataloader.dataset

    done = SimpleNamespace(value=0.0)
    hook = processes.ProgressHook(done)
    hook.after_train_iter(SimpleNamespace(iter=2, max_iters=12), 2)
    assert done.value == 0.25


def _start_another(path):
    process = subprocess.Popen(['sleep', '60'])
    Path(path).write_text(str(process.pid))
    process.wait()


def test_what_a_child_started_is_ended_with_it(tmp_path):
    """As torchrun and dataloader workers are."""
    process = processes.start(_start_another, tmp_path / 'pid', log=tmp_path / 'log', slot=0, threads=1)
    end = time.time() + 30
    try:
        while not ((tmp_path / 'pid').exists() and (tmp_path / 'pid').read_text()):
            assert time.time() < end
            time.sleep(0.02)
        pid = int((tmp_path / 'pid').read_text())
        assert os.getpgid(pid) == os.getpgid(process.pid) == process.pid != os.getpgid(0)
    finally:
        processes.terminate(process)
    assert not process.is_alive()
    while Path(f'/proc/{pid}/stat').exists() and Path(f'/proc/{pid}/stat').read_text().split()[2] != 'Z':
        assert time.time() < end
        time.sleep(0.02)
    # One that has ended already.
    processes.terminate(process)


def _write_environment(path):
    names = ('CUDA_VISIBLE_DEVICES', 'PORT')
    Path(path).write_text(json.dumps([os.environ.get(name) for name in names]))
    os.write(1, b'said')


@pytest.mark.parametrize(
    'visible, count, slot, gpus, expected',
    [
        (None, 4, 1, 1, '1'),
        (None, 4, 1, 2, '2,3'),
        ('5,7', 2, 1, 1, '7'),
        # More runs than GPUs: they share them.
        ('5,7', 2, 2, 1, '5'),
        (None, 1, 3, 1, '0'),
        (None, 0, 1, 1, None),
    ],
)
def test_each_run_sees_its_own_gpus(tmp_path, monkeypatch, visible, count, slot, gpus, expected):
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    monkeypatch.delenv('PORT', raising=False)
    if visible:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
    monkeypatch.setattr(processes.torch.cuda, 'is_available', lambda: count > 0)
    monkeypatch.setattr(processes.torch.cuda, 'device_count', lambda: count)
    with processes._visible_gpus(slot, gpus):
        assert os.environ.get('CUDA_VISIBLE_DEVICES') == expected
        if gpus == 1:
            process = processes.start(
                _write_environment, tmp_path / 'written', log=tmp_path / 'log', slot=slot, threads=1
            )
            process.join()
    assert os.environ.get('CUDA_VISIBLE_DEVICES') == visible
    if gpus == 1:
        # torchrun of each slot has a port of its own.
        assert json.loads((tmp_path / 'written').read_text())[1] == str(29500 + slot)
        assert (tmp_path / 'log').read_text() == 'said'
