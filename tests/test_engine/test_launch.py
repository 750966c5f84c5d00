import argparse
import inspect
import multiprocessing
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS, init_default_scope
from mmengine.utils import get_installed_path

from mmdet_edge import AtomicCheckpointHook, CocoBoundaryMetric, get_config_path
from mmdet_edge.config import edits
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


@pytest.mark.parametrize('config', [NUCLEI, COCO])
@pytest.mark.parametrize('slash', ['', '/'])
def test_data_root_moves_everything(config, slash):
    cfg = load(config, cfg_options=dict(data_root=f'elsewhere{slash}'))
    assert cfg.train_dataloader.dataset.data_root == cfg.data_root == 'elsewhere/'
    for split in ('val', 'test'):
        assert cfg[f'{split}_dataloader'].dataset.data_root == 'elsewhere/'
        assert cfg[f'{split}_evaluator'].ann_file.startswith('elsewhere/')
    assert 'data/coco' not in cfg.dump() and 'data/nuclei' not in cfg.dump()


def test_data_root_is_a_folder_not_a_prefix():
    cfg = Config(dict(data_root='data/coco/', a='data/coco/x.json', b='data/coco_other/x.json', c=['data/coco'], d=1))
    edits.override_data_root(cfg, cfg.data_root, 'there')
    assert cfg.to_dict() == dict(data_root='there/', a='there/x.json', b='data/coco_other/x.json', c=['there'], d=1)
    with pytest.raises(UserError, match='no data_root to replace'):
        edits.override_data_root(Config(dict(data_root='', type='MaskRCNN')), '', 'there')


def test_boundary_metric_for_any_config():
    baseline = get_installed_path('mmdet') + '/.mim/configs/mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
    for config in (baseline, COCO):
        cfg = load(config)
        edits.use_boundary_metric(cfg, ('val', 'test'))
        for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
            assert (evaluator.type, evaluator.metric) == ('CocoBoundaryMetric', ['bbox', 'segm', 'boundary'])
        assert cfg.custom_imports.imports == ['mmdet_edge']
        assert isinstance(METRICS.build(dict(cfg.val_evaluator, ann_file=None)), CocoBoundaryMetric)
    for given in (dict(imports='mine', allow_failed_imports=True), None):
        cfg = Config(dict(val_evaluator=dict(type='CocoMetric', metric='segm'), custom_imports=given))
        edits.use_boundary_metric(cfg, ('val',))
        assert cfg.custom_imports.imports == (['mine', 'mmdet_edge'] if given else ['mmdet_edge'])
        assert cfg.custom_imports.allow_failed_imports is bool(given)
    for given in ('mmdet.CocoMetric', CocoMetric):
        cfg = Config(dict(val_evaluator=dict(type=given, metric=['segm'])))
        edits.use_boundary_metric(cfg, ('val',))
        assert cfg.val_evaluator == dict(type='mmdet.CocoBoundaryMetric', metric=['segm', 'boundary'])


@pytest.mark.parametrize(('split', 'other'), [('val', 'test'), ('test', 'val')])
def test_boundary_metric_needs_mask_ap_in_the_split_that_runs(split, other):
    masks = dict(type='CocoMetric', metric=['bbox', 'segm'])
    for evaluator in (dict(type='CocoMetric', metric='bbox'), dict(type='DumpDetResults'), None, []):
        cfg = Config({f'{split}_evaluator': evaluator, f'{other}_evaluator': masks})
        with pytest.raises(UserError, match=f"^--boundary: {split}_evaluator has no CocoMetric with metric 'segm'$"):
            edits.use_boundary_metric(cfg, (split,))
        edits.use_boundary_metric(cfg, (other,))
        assert cfg[f'{other}_evaluator'].metric == ['bbox', 'segm', 'boundary']


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


def test_resume(tmp_path):
    cfg = Config(dict(work_dir=str(tmp_path), load_from='pretrained.pth'))
    # No checkpoint yet: a first start.
    edits.use_resume(cfg, 'auto')
    assert 'resume' not in cfg and cfg.load_from == 'pretrained.pth'
    (tmp_path / 'iter_2.pth').touch()
    edits.use_resume(cfg, 'auto')
    assert cfg.resume and cfg.load_from is None
    edits.use_resume(cfg, 'given.pth')
    assert cfg.resume and cfg.load_from == 'given.pth'


def test_safe_checkpoints():
    cfg = load(COCO)
    plain = dict(cfg.default_hooks.checkpoint)
    edits.use_safe_checkpoints(cfg)
    assert cfg.default_hooks.checkpoint == dict(plain, type='AtomicCheckpointHook')
    assert cfg.default_hooks.random_state == dict(type='RandomStateHook')
    cfg = Config({})
    edits.use_safe_checkpoints(cfg)
    assert cfg.default_hooks.checkpoint == dict(type='mmdet.AtomicCheckpointHook', interval=1)
    assert cfg.custom_imports.imports == ['mmdet_edge']
    for given in ('mmengine.CheckpointHook', CheckpointHook):
        cfg = Config(dict(default_hooks=dict(checkpoint=dict(type=given, interval=2))))
        edits.use_safe_checkpoints(cfg)
        assert cfg.default_hooks.checkpoint == dict(type='mmdet.AtomicCheckpointHook', interval=2)
        # What a pure Python config, without any scope, is built in.
        init_default_scope('mmengine')
        assert type(HOOKS.build(cfg.default_hooks.checkpoint)) is AtomicCheckpointHook
        assert HOOKS.build(cfg.default_hooks.random_state)
    for checkpoint in (None, dict(type='MyCheckpointHook')):
        cfg = Config(dict(default_hooks=dict(checkpoint=checkpoint)))
        edits.use_safe_checkpoints(cfg)
        assert cfg.to_dict() == dict(default_hooks=dict(checkpoint=checkpoint))


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


@pytest.mark.parametrize('evaluator', ['one', 'several', 'own type'])
def test_predictions_are_written_by_one_more_metric(evaluator):
    metric = dict(type='CocoMetric', metric='segm')
    given = {'one': metric, 'several': [metric], 'own type': dict(type='MyEvaluator', metrics=[metric])}[evaluator]
    cfg = Config(dict(test_evaluator=given))
    edits.use_dump(cfg, 'x.pkl')
    expected = [metric, dict(type='mmdet.DumpDetResults', out_file_path='x.pkl')]
    assert cfg.test_evaluator == (dict(given, metrics=expected) if evaluator == 'own type' else expected)
