"""Ctrl-C ends a tool with one line."""

import os
import signal
import subprocess
import sys
import time

import pytest

from .conftest import CONFIGS, ROOT

EDGE = CONFIGS / 'mask-rcnn_r18_fpn_edge_1xb4-300i_shapes.py'


@pytest.mark.slow
def test_interrupting_a_training_run_prints_how_to_resume(shapes, tmp_path):
    process = subprocess.Popen(
        [sys.executable, ROOT / 'tools' / 'train.py', EDGE, '--work-dir', tmp_path, '--cfg-options',
         f'data_root={shapes}', 'default_hooks.logger.interval=1', 'train_dataloader.num_workers=1',
         'train_dataloader.persistent_workers=True'],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        # A shell lets what it starts in the background ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.time() + 300
    while not any('loss_edge' in log.read_text() for log in tmp_path.glob('*/*.log')):
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.5)
    # As a terminal does: to the workers too.
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    lines = [line for line in errors.splitlines() if line]
    assert lines[-1] == (
        f'interrupted: the same command with --resume continues from the latest checkpoint in {tmp_path}'
    )
    assert 'Traceback' not in errors
