"""The main job, in processes of their own: train, resume, test, distribute, and what goes wrong."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmdet.apis import inference_detector, init_detector
from mmengine.config import Config

from mmdet_edge.analysis import read_run

from .conftest import CONFIGS, ROOT, evaluate_alone_and_in, free_port, lines_with, metrics, run, run_python, scalars

BASELINE = CONFIGS / 'mask-rcnn_r18_fpn_1xb4-300i_shapes.py'
EDGE = CONFIGS / 'mask-rcnn_r18_fpn_edge_1xb4-300i_shapes.py'


EVAL_MASK_BRANCH = ROOT / 'tools' / 'analysis_tools' / 'eval_mask_branch.py'
# Half of auto_scale_lr.base_batch_size.
BATCH_OF_2 = {'train_dataloader.batch_size': 2}


def options(data, steps, **more):
    settings = {
        'data_root': data,
        'train_cfg.max_iters': steps,
        'train_cfg.val_interval': steps,
        'default_hooks.logger.interval': 1,
        'default_hooks.checkpoint.interval': steps,
        'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False,
        'val_dataloader.num_workers': 0,
        'val_dataloader.persistent_workers': False,
        'test_dataloader.num_workers': 0,
        'test_dataloader.persistent_workers': False,
        **more,
    }
    return ['--cfg-options', *(f'{k}={v}' for k, v in settings.items())]


@pytest.fixture(scope='module')
def trained(shapes, tmp_path_factory):
    """A run of two steps; its output and work dir."""
    work_dir = tmp_path_factory.mktemp('run')
    output = run_python('train.py', EDGE, '--work-dir', work_dir, '--auto-scale-lr', *options(shapes, 2, **BATCH_OF_2))
    return output, work_dir


def test_training_logs_the_edge_loss(trained):
    output, work_dir = trained
    (line,) = lines_with(output, 'Edge loss is on')
    assert 'EdgeLoss(filters=sobel, exponent=2, smoothing=off' in line
    steps = [line for line in scalars(work_dir) if 'loss' in line]
    assert len(steps) == 2
    for step in steps:
        assert step['loss_edge'] > 0
        parts = sum(v for k, v in step.items() if k.startswith('loss_'))
        assert step['loss'] == pytest.approx(parts, rel=1e-5)
    # Warm-up starts at a hundredth of 0.02, and the batch is half of what that is for.
    assert steps[0]['lr'] == pytest.approx(0.02 / 100 / 2)
    assert {'coco/segm_mAP', 'coco/boundary_mAP', 'mask_branch/mIoU'} <= set(scalars(work_dir)[-1])


def test_resume(trained, shapes, tmp_path):
    work_dir = tmp_path / 'run'
    shutil.copytree(trained[1], work_dir)
    output = run_python('train.py', EDGE, '--work-dir', work_dir, '--resume', *options(shapes, 3))
    assert lines_with(output, 'resumed .*iter: 2')
    run_ = read_run(work_dir)
    assert run_.curve('loss_edge')[0] == [1, 2, 3]
    assert (work_dir / 'iter_3.pth').is_file()


def test_checkpoint_is_plain_mask_rcnns(trained, shapes):
    checkpoint = str(trained[1] / 'iter_2.pth')
    image = str(shapes / 'val' / '000000.png')
    results = []
    for config in (EDGE, BASELINE):
        cfg = Config.fromfile(config)
        cfg.model.test_cfg.rcnn.score_thr = 0.0
        model = init_detector(cfg, checkpoint, device='cpu')
        model.load_state_dict(torch.load(checkpoint)['state_dict'], strict=True)
        results.append(inference_detector(model, image).pred_instances)
    assert len(results[0]) > 0
    for key in ('bboxes', 'scores', 'labels', 'masks'):
        assert torch.equal(results[0][key], results[1][key])


def test_mask_branch_is_what_the_hook_saw(trained, shapes, tmp_path):
    out = tmp_path / 'values.json'
    run_python(EVAL_MASK_BRANCH, EDGE, trained[1] / 'iter_2.pth', '--out', out, *options(shapes, 2))
    values = json.loads(out.read_text())
    assert values.pop('num_instances') > 4 and 0 < values['mIoU'] < 1
    logged = scalars(trained[1])[-1]
    assert {k: logged[f'mask_branch/{k}'] for k in values} == pytest.approx(values, rel=1e-6)


def test_test_writes_metrics_predictions_and_images(trained, shapes, tmp_path):
    out = tmp_path / 'predictions.pkl'
    run_python(
        'test.py', EDGE, trained[1] / 'iter_2.pth', '--work-dir', tmp_path, '--out', out,
        '--show-dir', 'shown', *options(shapes, 2),
    )  # fmt: skip
    final = {k: v for k, v in scalars(trained[1])[-1].items() if k.startswith('coco/')}
    assert metrics(tmp_path) == final and {'coco/segm_mAP_75', 'coco/bbox_mAP'} <= set(final)
    predictions = pickle.loads(out.read_bytes())
    assert len(predictions) == 5 and 'masks' in predictions[0]['pred_instances']
    assert len(list(tmp_path.glob('*/shown/*.png'))) == 5


def test_test_time_augmentation_of_boxes(trained, shapes, tmp_path):
    more = {
        'model.roi_head.mask_head': None,
        'model.roi_head.mask_roi_extractor': None,
        'test_evaluator.metric': 'bbox',
    }
    run_python(
        'test.py', EDGE, trained[1] / 'iter_2.pth', '--work-dir', tmp_path, '--tta', *options(shapes, 2, **more)
    )  # fmt: skip
    assert set(metrics(tmp_path)) >= {'coco/bbox_mAP'}


@pytest.fixture(scope='module')
def half_empty(shapes, tmp_path_factory):
    """The data set with every other training image without an object: those of the first of two processes."""
    folder = tmp_path_factory.mktemp('data') / 'half_empty'
    shutil.copytree(shapes, folder)
    content = json.loads((folder / 'train.json').read_text())
    content['annotations'] = [a for a in content['annotations'] if a['image_id'] % 2 == 1]
    (folder / 'train.json').write_text(json.dumps(content))
    return folder


@pytest.mark.slow
def test_two_processes_one_without_objects(half_empty, tmp_path):
    more = {
        'train_dataloader.dataset.filter_cfg': None,
        'train_dataloader.sampler.shuffle': False,
        'train_dataloader.batch_size': 2,
    }
    output = run(
        'bash', ROOT / 'tools' / 'dist_train.sh', EDGE, 2, '--work-dir', tmp_path / 'run',
        *options(half_empty, 3, **more), PORT=free_port(),
    )  # fmt: skip
    assert len(lines_with(output, 'Edge loss is on')) == 1
    # Rank 0 logs: it has no object, yet the same keys.
    steps = [line for line in scalars(tmp_path / 'run') if 'loss' in line]
    assert len(steps) == 3 and all(s['loss_edge'] == s['loss_mask'] == 0 < s['loss_rpn_cls'] for s in steps)
    # The mask head learned from the objects of the second: its bias started at 0.
    weights = torch.load(tmp_path / 'run' / 'iter_3.pth')['state_dict']
    assert all(v.isfinite().all() for v in weights.values())
    assert weights['roi_head.mask_head.conv_logits.bias'].abs().min() > 0

    arguments = (EDGE, tmp_path / 'run' / 'iter_3.pth')
    evaluate_alone_and_in(2, *arguments, tmp_path, *options(half_empty, 3))

    launch = ('torchrun', '--nproc_per_node=2', f'--master_port={free_port()}', EVAL_MASK_BRANCH, *arguments)
    run(*launch, '--launcher', 'pytorch', '--out', tmp_path / 'two.json', *options(half_empty, 3))
    run_python(EVAL_MASK_BRANCH, *arguments, '--out', tmp_path / 'one.json', *options(half_empty, 3))
    two, one = (json.loads((tmp_path / f'{n}.json').read_text()) for n in ('two', 'one'))
    assert two == pytest.approx(one, rel=1e-6)


@pytest.mark.parametrize(
    ('tool', 'args', 'message'),
    [
        ('train.py', ['nowhere.py'], 'config file not found: nowhere.py'),
        ('test.py', [EDGE, '/nowhere/x.pth'], 'checkpoint not found: /nowhere/x.pth'),
    ],
)
def test_a_users_mistake_is_one_line(tool, args, message, tmp_path):
    """In a process of its own; test_preflight has the other mistakes."""
    output = run_python(tool, *args, '--work-dir', tmp_path / 'run', code=1)
    assert 'Traceback' not in output
    (line,) = lines_with(output, '^error: ')
    assert message in line
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('script', [['dist_train.sh', EDGE, 2], ['dist_test.sh', EDGE, 'x.pth', 2]])
def test_a_mistake_in_a_distributed_job_is_one_line(script, tmp_path):
    command = ['bash', ROOT / 'tools' / script[0], *script[1:], '--work-dir', tmp_path / 'run']
    output = run(*command, '--cfg-options', 'data_root=/nowhere', code=1, PORT=free_port())
    # OneDL's mmdet prints lines of its own.
    (line,) = [line for line in output.splitlines() if 'OneDL' not in line]
    assert line.startswith('error: ') and 'not found' in line


@pytest.mark.slow
def test_only_damaged_checkpoints_end_a_distributed_job_with_one_line(shapes, tmp_path):
    (tmp_path / 'iter_1.pth').write_bytes(b'')
    command = ['bash', ROOT / 'tools' / 'dist_train.sh', EDGE, 2, '--work-dir', tmp_path, '--resume']
    output = run(*command, *options(shapes, 2), code=1, PORT=free_port())
    (line,) = lines_with(output, '^error: ')
    assert 'cannot resume, no checkpoint can be read' in line and output.count('CheckpointError') == 0


# Says, as the last thing that it does, which threads there are.
WITH_THREADS_AT_EXIT = """
import atexit, runpy, sys
from pathlib import Path
atexit.register(lambda: print('at exit:', *(p.read_text().strip() for p in Path('/proc/self/task').glob('*/comm'))))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path('/proc/self/task').exists(), reason='reads the names of threads from /proc')
def test_gloo_has_ended_when_the_interpreter_does(shapes, tmp_path):
    """Its threads can abort a process that has done its work."""
    rank = dict(RANK='0', LOCAL_RANK='0', WORLD_SIZE='1', MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port())
    command = [sys.executable, '-c', WITH_THREADS_AT_EXIT, ROOT / 'tools' / 'train.py', EDGE, '--launcher', 'pytorch']
    output = run(*command, '--work-dir', tmp_path, *options(shapes, 1), **rank)
    (line,) = lines_with(output, '^at exit: ')
    assert (tmp_path / 'iter_1.pth').exists() and 'gloo' not in line


def test_check_starts_nothing(shapes, tmp_path):
    arguments = (EDGE, '--check', '--work-dir', tmp_path / 'run')
    output = run_python('train.py', *arguments, '--cfg-options', f'data_root={shapes}')
    # OneDL's mmdet prints lines of its own.
    assert [line for line in output.splitlines() if 'OneDL' not in line] == []
    assert not (tmp_path / 'run').exists()


def test_slurm_scripts_start_what_they_say(tmp_path):
    fake = tmp_path / 'srun'
    fake.write_text('#!/bin/sh\nfor a; do echo "$a"; done\n')
    fake.chmod(0o755)
    path = f'{tmp_path}:/usr/bin:/bin'
    for name, fourth in (('train', 'dir with space'), ('test', 'x.pth')):
        script = ROOT / 'tools' / f'slurm_{name}.sh'
        done = subprocess.run(
            ['bash', str(script), 'part', 'job', 'config.py', fourth, '--cfg-options', 'a="b c"'],
            env={**os.environ, 'PATH': path, 'GPUS': '16', 'SRUN_ARGS': '--time 1 --mem 2'},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        words = done.stdout.splitlines()
        assert words[:2] == ['-p', 'part'] and '--ntasks=16' in words
        assert words[words.index('--time') : words.index('python')] == ['--time', '1', '--mem', '2']
        given = words[words.index('python') :]
        assert given[2] == str(ROOT / 'tools' / f'{name}.py')
        assert given[3] == 'config.py' and fourth in given
        assert given[-4:] == ['--launcher', 'slurm', '--cfg-options', 'a="b c"']
