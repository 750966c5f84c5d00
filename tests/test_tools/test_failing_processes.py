"""A distributed training of which one process fails; most of the faults are for `make soak`."""

import os
import signal
import subprocess
import time
from itertools import product

import pytest

from .conftest import CONFIGS, ROOT, free_port

EDGE = CONFIGS / 'mask-rcnn_r18_fpn_edge_1xb4-300i_shapes.py'


def train_on(processes, work_dir, shapes, *cfg_options):
    """Start a distributed training that does not end by itself; wait for its first steps."""
    command = ['bash', ROOT / 'tools' / 'dist_train.sh', EDGE, processes, '--work-dir', work_dir, '--cfg-options']
    command += [f'data_root={shapes}', 'train_cfg.val_interval=10000', 'default_hooks.checkpoint.interval=2']
    command += ['train_cfg.max_iters=10000', 'train_dataloader.batch_size=1', *cfg_options]
    process = subprocess.Popen(
        [str(part) for part in command],
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PORT': free_port()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while not (work_dir / 'last_checkpoint').exists():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.5)
    return process


def processes_of(work_dir):
    """Return the processes that have a work dir on their command line: pid, pid of the parent, command."""
    listed = subprocess.run(['ps', '-ww', '-eo', 'pid=,ppid=,args='], stdout=subprocess.PIPE, text=True)
    rows = [line.split(None, 2) for line in listed.stdout.splitlines() if str(work_dir) in line]
    return [(int(pid), int(parent), args) for pid, parent, args in rows]


def last_rank(work_dir):
    """Return the process of the last rank."""
    rows = processes_of(work_dir)
    (launcher,) = (pid for pid, _, args in rows if 'torch.distributed.run' in args)
    return max(pid for pid, parent, _ in rows if parent == launcher)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('fault', 'processes'),
    [
        ('a rank dies', 2),
        *(
            pytest.param(*case, marks=pytest.mark.soak)
            for case in (('a rank dies', 4), *product(('a rank hangs', 'SIGTERM'), (2, 4)))
        ),
    ],
)
def test_a_failure_ends_all_processes(processes, fault, shapes, tmp_path):
    process = train_on(processes, tmp_path / 'run', shapes, 'env_cfg.dist_cfg.timeout=20')
    if fault == 'SIGTERM':
        # To what the user started.
        process.terminate()
    else:
        os.kill(last_rank(tmp_path), signal.SIGKILL if fault == 'a rank dies' else signal.SIGSTOP)
    started = time.time()
    try:
        # Returns when all that write to the pipe have ended.
        output = process.communicate(timeout=180)[0]
    finally:
        left = processes_of(tmp_path)
        for pid, _, _ in left:
            os.kill(pid, signal.SIGKILL)
    seconds = time.time() - started
    assert not left
    print(f'{processes} processes, {fault}: all ended after {seconds:.1f} s')
    assert process.returncode != 0
    assert seconds < 60 + 30 * (fault == 'a rank hangs')
    if fault == 'a rank dies':
        assert 'Signal 9 (SIGKILL)' in output
    elif fault == 'a rank hangs':
        assert 'Timed out waiting 20000ms' in output
