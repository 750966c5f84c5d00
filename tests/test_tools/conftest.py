import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mmdet_edge.datasets import make_shapes_dataset

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / 'configs' / 'mask_rcnn_edge'


@pytest.fixture(scope='session')
def shapes(tmp_path_factory):
    """A very small generated data set."""
    folder = tmp_path_factory.mktemp('data') / 'shapes'
    make_shapes_dataset(str(folder), num_train=8, num_val=4, size=96)
    return folder


def run(*command, code=0, **environment):
    """Run a tool as a user would; return what it printed."""
    path = f'{Path(sys.executable).parent}:{os.environ["PATH"]}'
    done = subprocess.run(
        [str(c) for c in command],
        env={**os.environ, 'PATH': path, 'OMP_NUM_THREADS': '1', **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert done.returncode == code, done.stdout[-5000:]
    return done.stdout


def run_python(tool, *args, **options):
    return run(sys.executable, ROOT / 'tools' / tool, *args, **options)


def scalars(work_dir):
    """All lines that a run logged, of all its starts."""
    logs = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
    return [json.loads(line) for log in logs for line in log.read_text().splitlines()]


def metrics(work_dir):
    """The metrics that a test wrote."""
    (path,) = Path(work_dir).glob('*/*.json')
    return {k: v for k, v in json.loads(path.read_text()).items() if k.startswith('coco/')}


def free_port():
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        return str(server.getsockname()[1])


def lines_with(text, pattern):
    return [line for line in text.splitlines() if re.search(pattern, line)]
