import argparse
import inspect
import multiprocessing
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmdet_edge import get_config_path
from mmdet_edge.engine import launch
from mmdet_edge.errors import UserError

NUCLEI = get_config_path('mask_rcnn_edge/mask-rcnn_r18_fpn_edge_1xb4-300i_nuclei.py')
COCO = get_config_path('mask_rcnn_edge/mask-rcnn_r50_fpn_edge_1x_coco.py')


def load(config, *args, **options):
    return launch.edit_config(launch.read_config(config), *args, **options)


FORK = multiprocessing.get_context('fork')


def test_config_and_work_dir():
    cfg = load(NUCLEI)
    assert cfg.work_dir == 'work_dirs/mask-rcnn_r18_fpn_edge_1xb4-300i_nuclei'
    cfg = load(NUCLEI, work_dir='x', cfg_options={'optim_wrapper.optimizer.lr': 1})
    assert (cfg.work_dir, cfg.optim_wrapper.optimizer.lr) == ('x', 1)


def test_config_of_an_installed_package():
    cfg = load('mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py')
    assert cfg.work_dir == 'work_dirs/mask-rcnn_swin-t-p4-w7_fpn_1x_coco'
    assert cfg.model.backbone.type == 'SwinTransformer'
    with pytest.raises(
        UserError, match='config file not found: .*did you mean .*/swin/mask-rcnn_swin-t-p4-w7_fpn_1x_c'
    ):
        load('mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1xx_coco.py')
    with pytest.raises(UserError, match="there is no installed package 'mmdett'; expected mmdet::FOLDER/CONFIG.py"):
        load('mmdett::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py')


@pytest.mark.parametrize(
    ('stages', 'work_dir', 'types'),
    [
        ('all', 'htc_r50_fpn_1x_coco_edge', ['EdgeAgreementHTCMaskHead'] * 3),
        ('last', 'htc_r50_fpn_1x_coco_edge-last', ['HTCMaskHead', 'HTCMaskHead', 'EdgeAgreementHTCMaskHead']),
        ([0, 2], 'htc_r50_fpn_1x_coco_edge-0-2', ['EdgeAgreementHTCMaskHead', 'HTCMaskHead'] * 2),
    ],
)
def test_edge_for_any_config(stages, work_dir, types):
    options = {'model.roi_head.mask_head.2.loss_edge.loss_weight': 2}
    cfg = load('mmdet::htc/htc_r50_fpn_1x_coco.py', options, edge_stages=stages)
    heads = cfg.model.roi_head.mask_head
    assert [head.type for head in heads] == types[:3]
    assert heads[2].loss_edge == dict(loss_weight=2)
    assert cfg.custom_imports.imports == ['mmdet_edge']
    # Not the work dir of the baseline: --resume would load its checkpoint.
    assert cfg.work_dir == f'work_dirs/{work_dir}'
    assert load(COCO, work_dir='x', edge_stages='all').work_dir == 'x'


@pytest.mark.parametrize(
    ('config', 'stages', 'message'),
    [
        (
            'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
            'all',
            'got one of type FasterRCNN without any mask_head',
        ),
        ('mmdet::htc/htc_r50_fpn_1x_coco.py', [3], 'must be from 0 to 2'),
        (COCO, 'last', "stages must be 'all'"),
    ],
)
def test_edge_where_it_cannot_be(config, stages, message):
    with pytest.raises(UserError, match=f'^--edge: .*{message}'):
        load(config, edge_stages=stages)


def start_a_child(pipe):
    launch.end_children_with_this_process()
    child = FORK.Process(target=time.sleep, args=(60,))
    child.start()
    pipe.send(child.pid)
    time.sleep(60)


DISCONNECTED = """
import os, sys
from mmdet_edge.engine import launch
launch.end_children_with_this_process()
if not os.fork():
    for error in (ConnectionResetError('the parent has ended'), ValueError('another')):
        sys.excepthook(type(error), error, None)
    os._exit(0)
os.wait()
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='only Linux lets children end with their parent')
def test_a_worker_does_not_report_that_its_parent_was_interrupted():
    """While it received a tensor: the thread of a worker that sends it would print a traceback after the last line."""
    ended = subprocess.run([sys.executable, '-Wignore', '-c', DISCONNECTED], stderr=subprocess.PIPE, text=True)
    assert (ended.returncode, ended.stderr) == (0, 'ValueError: another\n')


@pytest.mark.skipif(sys.platform != 'linux', reason='only Linux lets children end with their parent')
def test_children_end_with_a_process_that_is_killed():
    receiver, sender = FORK.Pipe(duplex=False)
    parent = FORK.Process(target=start_a_child, args=(sender,))
    parent.start()
    child = Path('/proc', str(receiver.recv()))
    assert child.exists()
    parent.kill()
    parent.join()
    started = time.time()
    # Gone, or a zombie that nobody has fetched.
    while child.exists() and 'State:\tZ' not in (child / 'status').read_text():
        assert time.time() < started + 10
        time.sleep(0.05)


def test_missing_base(tmp_path):
    (tmp_path / 'mine.py').write_text("_base_ = './nowhere.py'")
    with pytest.raises(UserError, match='mine.py inherits from a file that does not exist: .*nowhere.py'):
        load(tmp_path / 'mine.py')


def test_missing_config_names_the_nearest():
    with pytest.raises(UserError, match='config file not found: .*did you mean .*edge_1x_coco.py'):
        load(COCO.replace('1x', '1xx'))
    with pytest.raises(UserError, match='config file not found: nowhere/x.py'):
        load('nowhere/x.py')


def test_old_setuptools_is_needed(monkeypatch):
    if 'pkg_resources' not in inspect.getsource(launch.is_installed):
        pytest.skip('this mmengine needs no pkg_resources')
    # An import of it fails.
    monkeypatch.setitem(sys.modules, 'pkg_resources', None)
    with pytest.raises(UserError, match="pip install 'setuptools<81'"):
        load(NUCLEI)


@pytest.mark.parametrize('launcher', ['pytorch', 'slurm'])
def test_distributed_on_cpu_needs_torchrun(launcher, monkeypatch):
    monkeypatch.delenv('RANK', raising=False)
    monkeypatch.setattr(launch, 'get_device', lambda: 'cpu')
    with pytest.raises(UserError, match=f'use tools/dist_train.sh.*--launcher {launcher}'):
        load(NUCLEI, launcher=launcher)


def test_distributed_on_gpus_is_left_to_mmengine(monkeypatch):
    monkeypatch.setattr(launch, 'get_device', lambda: 'cuda')
    cfg = load(NUCLEI, launcher='pytorch')
    assert cfg.launcher == 'pytorch' and 'model_wrapper_cfg' not in cfg


@pytest.mark.parametrize(
    ('launcher', 'rank', 'checked', 'checks'),
    [
        ('none', None, False, True),
        ('none', '3', False, True),
        ('pytorch', '0', False, True),
        ('pytorch', '1', False, False),
        ('slurm', '8', False, False),
        ('pytorch', '0', True, False),
    ],
)
def test_a_job_is_checked_once(launcher, rank, checked, checks, monkeypatch):
    for name in ('RANK', 'OMPI_COMM_WORLD_RANK', 'SLURM_PROCID'):
        monkeypatch.delenv(name, raising=False)
    if rank is not None:
        monkeypatch.setenv('SLURM_PROCID' if launcher == 'slurm' else 'RANK', rank)
    assert launch.checks_here(argparse.Namespace(launcher=launcher, checked=checked)) is checks
