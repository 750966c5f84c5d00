"""Long tests: `make soak`, or `make soak ITERATIONS=100 KILLS=7` for a quick trial."""

import os
import subprocess
import sys

import pytest

from ...test_tools.conftest import CONFIGS, ROOT, evaluate_alone_and_in, run_python

pytestmark = pytest.mark.soak

EDGE = CONFIGS / 'mask-rcnn_r18_fpn_edge_1xb4-300i_shapes.py'
KILLS = int(os.environ.get('KILLS', 36))
ITERATIONS = int(os.environ.get('ITERATIONS', 2000))
WORK_DIR = ROOT / 'work_dirs' / 'make_soak'


def run_benchmark(name, *args):
    """Run a benchmark; what it prints is its progress."""
    command = [sys.executable, '-m', f'benchmarks.reliability.{name}', *args]
    subprocess.run([str(part) for part in command], cwd=ROOT, check=True)


@pytest.mark.parametrize('workers', [0, 2])
def test_a_run_that_is_killed_and_resumed_equals_an_undisturbed_one(workers):
    run_benchmark(
        'kill_and_resume', '--kills', KILLS, '--workers', workers, '--work-dir', WORK_DIR / f'killed_{workers}_workers'
    )


def test_evaluation_of_four_processes_equals_one(shapes, tmp_path):
    options = ['--cfg-options', f'data_root={shapes}', 'default_hooks.checkpoint.interval=4']
    short = ['train_cfg.max_iters=4', 'train_cfg.val_interval=4']
    run_python('train.py', EDGE, '--work-dir', tmp_path / 'run', *options, *short)
    evaluate_alone_and_in(4, EDGE, tmp_path / 'run' / 'iter_4.pth', tmp_path, *options)


def test_a_long_run_does_not_grow():
    run_benchmark('soak', '--iterations', ITERATIONS, '--work-dir', WORK_DIR / 'soak')
