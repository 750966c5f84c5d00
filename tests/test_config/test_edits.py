"""Edits of parsed configs for the options of the command lines."""

import pytest
from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS, DefaultScope
from mmengine.utils import get_installed_path

from mmdet_edge import AtomicCheckpointHook, CocoBoundaryMetric, get_config_path
from mmdet_edge.config import edits
from mmdet_edge.errors import UserError

NUCLEI = get_config_path('mask_rcnn_edge/mask-rcnn_r18_fpn_edge_1xb4-300i_nuclei.py')
COCO = get_config_path('mask_rcnn_edge/mask-rcnn_r50_fpn_edge_1x_coco.py')


@pytest.mark.parametrize('config', [NUCLEI, COCO])
@pytest.mark.parametrize('slash', ['', '/'])
def test_data_root_moves_everything(config, slash):
    cfg = Config.fromfile(config)
    edits.override_data_root(cfg, cfg.data_root, f'elsewhere{slash}')
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
        cfg = Config.fromfile(config)
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
    cfg = Config.fromfile(COCO)
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
        with DefaultScope.overwrite_default_scope('mmengine'):
            assert type(HOOKS.build(cfg.default_hooks.checkpoint)) is AtomicCheckpointHook
            assert HOOKS.build(cfg.default_hooks.random_state)
    for checkpoint in (None, dict(type='MyCheckpointHook')):
        cfg = Config(dict(default_hooks=dict(checkpoint=checkpoint)))
        edits.use_safe_checkpoints(cfg)
        assert cfg.to_dict() == dict(default_hooks=dict(checkpoint=checkpoint))


@pytest.mark.parametrize('evaluator', ['one', 'several', 'own type'])
def test_predictions_are_written_by_one_more_metric(evaluator):
    metric = dict(type='CocoMetric', metric='segm')
    given = {'one': metric, 'several': [metric], 'own type': dict(type='MyEvaluator', metrics=[metric])}[evaluator]
    cfg = Config(dict(test_evaluator=given))
    edits.use_dump(cfg, 'x.pkl')
    expected = [metric, dict(type='mmdet.DumpDetResults', out_file_path='x.pkl')]
    assert cfg.test_evaluator == (dict(given, metrics=expected) if evaluator == 'own type' else expected)
