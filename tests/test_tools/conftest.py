import contextlib
import json
import os
import pickle
import random
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
    """A very small generated data set; neither two processes nor four can share the images to evaluate evenly."""
    folder = tmp_path_factory.mktemp('data') / 'shapes'
    make_shapes_dataset(str(folder), num_train=8, num_val=5, size=96)
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
    """Run a file of tools/, or a module of benchmarks."""
    if str(tool).endswith('.py'):
        return run(sys.executable, ROOT / 'tools' / tool, *args, **options)
    return run(sys.executable, '-m', tool, *args, PYTHONPATH=f'{ROOT}:{os.environ.get("PYTHONPATH", "")}', **options)


def scalars(work_dir):
    """All lines that a run logged, of all its starts."""
    logs = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
    return [json.loads(line) for log in logs for line in log.read_text().splitlines()]


def metrics(work_dir):
    """The metrics that a test wrote."""
    (path,) = Path(work_dir).glob('*/*.json')
    return {k: v for k, v in json.loads(path.read_text()).items() if k.startswith('coco/')}


def predictions(path):
    """What a test wrote with --out: image -> boxes, scores, labels and masks."""
    samples = pickle.loads(Path(path).read_bytes())
    found = {
        sample['img_id']: {k: v if isinstance(v, list) else v.tolist() for k, v in sample['pred_instances'].items()}
        for sample in samples
    }
    assert len(found) == len(samples)
    return found


def evaluate_alone_and_in(processes, config, checkpoint, folder, *options):
    """Test a checkpoint in one process and in several: the same predictions of each image, the same metrics."""
    # Whatever was trained for steps only sees an object everywhere, and hits few.
    options = [*options, 'model.test_cfg.rcnn.score_thr=0', 'test_evaluator.iou_thrs=[0.1]']
    for name, command in (
        ('one', [sys.executable, ROOT / 'tools' / 'test.py', config, checkpoint]),
        ('many', ['bash', ROOT / 'tools' / 'dist_test.sh', config, checkpoint, processes]),
    ):
        out = ['--work-dir', folder / name, '--out', folder / f'{name}.pkl']
        run(*command, *out, *options, PORT=free_port())
    one, many = (predictions(folder / f'{name}.pkl') for name in ('one', 'many'))
    assert sorted(one) == sorted(many) == list(range(5))
    for image, instances in one.items():
        assert set(instances) == {'bboxes', 'scores', 'labels', 'masks'} and len(instances['scores']) > 10
        assert many[image] == instances
    assert metrics(folder / 'one') == metrics(folder / 'many')
    for kind in ('bbox', 'segm', 'boundary'):
        assert metrics(folder / 'one')[f'coco/{kind}_mAP'] > 0


def free_port():
    """A port that stays free until torchrun listens: outside of the range of ports that the system assigns itself."""
    while True:
        port = random.SystemRandom().randrange(10000, 32768)
        with socket.socket() as server, contextlib.suppress(OSError):
            server.bind(('127.0.0.1', port))
            return str(port)


def lines_with(text, pattern):
    return [line for line in text.splitlines() if re.search(pattern, line)]
