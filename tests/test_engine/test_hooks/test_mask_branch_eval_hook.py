import json
from types import SimpleNamespace

import pytest
import torch
from mmdet.registry import DATASETS, HOOKS, MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, EMAHook, LoggerHook
from mmengine.logging import MessageHub, MMLogger
from mmengine.runner.priority import get_priority

from mmdet_edge import MaskBranchEvalHook, get_config_path
from mmdet_edge.datasets import make_shapes_dataset
from mmdet_edge.engine.hooks import mask_branch_eval_hook
from mmdet_edge.evaluation.mask_branch import NoInstancesError


@pytest.fixture
def runner(tmp_path):
    """What the hook needs of a runner."""
    register_all_modules()
    make_shapes_dataset(str(tmp_path / 'shapes'), num_train=1, num_val=2, size=64)
    cfg = Config.fromfile(get_config_path('mask_rcnn_edge/mask-rcnn_r18_fpn_edge_1xb4-300i_shapes.py'))
    dataset = DATASETS.build(dict(cfg.val_dataloader.dataset, data_root=str(tmp_path / 'shapes')))
    loader = torch.utils.data.DataLoader(dataset, collate_fn=pseudo_collate)
    hub = MessageHub.get_instance('test_mask_branch_eval_hook')
    return SimpleNamespace(
        model=MODELS.build(cfg.model),
        val_loop=object(),
        val_dataloader=loader,
        message_hub=hub,
        cfg=cfg,
        hooks=[],
        logger=MMLogger.get_current_instance(),
    )


def test_adds_its_values_to_the_metrics_and_the_log(runner):
    hook = HOOKS.build(dict(type='MaskBranchEvalHook'))
    hook.before_train(runner)
    metrics = {'coco/segm_mAP': 0.5}
    hook.after_val_epoch(runner, metrics)
    assert metrics['coco/segm_mAP'] == 0.5 and 0 <= metrics['mask_branch/mIoU'] <= 1
    assert runner.message_hub.get_scalar('val/mask_branch/mIoU').current() == metrics['mask_branch/mIoU']


@pytest.mark.parametrize(
    ('watching', 'added'),
    [
        ([CheckpointHook(save_best='coco/segm_mAP', rule='greater')], False),
        ([CheckpointHook(save_best='auto')], False),
        ([CheckpointHook(save_best=['mask_branch/mIoU', 'coco/segm_mAP'], rule='greater')], False),
        ([CheckpointHook(save_best='mask_branch/mIoU', rule='greater')], True),
        ([CheckpointHook(), LoggerHook()], True),
        ([CheckpointHook(), EarlyStoppingHook('coco/segm_mAP', rule='greater')], False),
        ([CheckpointHook(), EarlyStoppingHook('mask_branch/mIoU', rule='greater')], True),
    ],
    ids=['mask AP', 'auto', 'both', 'mask branch', 'none', 'stop by mask AP', 'stop by mask branch'],
)
def test_while_no_box_is_predicted_hooks_that_watch_other_metrics_skip(runner, watching, added):
    runner.hooks = watching
    # What CocoMetric returns without any prediction.
    metrics = {}
    MaskBranchEvalHook().after_val_epoch(runner, metrics)
    assert ('mask_branch/mIoU' in metrics) is added
    assert 0 <= runner.message_hub.get_scalar('val/mask_branch/mIoU').current() <= 1
    if not added:
        # It would look for its own key otherwise, or choose ours.
        expected = getattr(watching[0], 'key_indicators', None)
        watching[0].after_val_epoch(runner, metrics)
        assert getattr(watching[0], 'key_indicators', None) == expected


def test_a_validation_set_without_objects_does_not_end_the_training_run(runner, tmp_path, monkeypatch):
    content = json.loads((tmp_path / 'shapes' / 'val.json').read_text())
    (tmp_path / 'shapes' / 'empty.json').write_text(json.dumps({**content, 'annotations': []}))
    dataset = dict(runner.cfg.val_dataloader.dataset, data_root=str(tmp_path / 'shapes'), ann_file='empty.json')
    runner.val_dataloader = torch.utils.data.DataLoader(DATASETS.build(dataset), collate_fn=pseudo_collate)
    warnings = []
    monkeypatch.setattr(runner.logger, 'warning', warnings.append)
    hook = MaskBranchEvalHook()
    hook.before_train(runner)
    metrics = {'coco/segm_mAP': -1.0}
    hook.after_val_epoch(runner, metrics)
    assert metrics == {'coco/segm_mAP': -1.0}
    assert warnings == ['MaskBranchEvalHook: the validation set has no instance to evaluate the mask branch with']
    # Without a value there is no best checkpoint.
    runner.hooks = [CheckpointHook(save_best='mask_branch/mIoU', rule='greater')]
    with pytest.raises(NoInstancesError, match='the validation set has no instance'):
        hook.after_val_epoch(runner, metrics)


def test_runs_before_the_hooks_that_use_its_values_or_swap_the_weights():
    priority = get_priority(MaskBranchEvalHook.priority)
    for other in (EMAHook, LoggerHook, CheckpointHook):
        assert priority < get_priority(other.priority)


def test_a_model_or_data_without_masks_is_reported_before_the_training_run(runner):
    hook = MaskBranchEvalHook()
    del runner.cfg.val_dataloader.dataset.pipeline[2]
    assert 'LoadAnnotations' not in str(runner.cfg.val_dataloader.dataset.pipeline)
    pipeline = DATASETS.build(dict(runner.cfg.val_dataloader.dataset, lazy_init=True)).pipeline
    runner.val_dataloader.dataset.pipeline, complete = pipeline, runner.val_dataloader.dataset.pipeline
    with pytest.raises(ValueError, match='the data samples have none.*LoadAnnotations'):
        hook.before_train(runner)
    runner.val_dataloader.dataset.pipeline = complete
    runner.cfg.model.roi_head.update(mask_head=None, mask_roi_extractor=None)
    runner.model = MODELS.build(runner.cfg.model)
    with pytest.raises(ValueError, match='no RoI head with a mask branch'):
        hook.before_train(runner)


def test_without_validation_there_is_nothing_to_check():
    MaskBranchEvalHook().before_train(SimpleNamespace(model=torch.nn.Identity(), val_loop=None))


def test_a_wrapped_model(runner, monkeypatch):
    seen = []
    monkeypatch.setattr(mask_branch_eval_hook, 'is_model_wrapper', lambda model: hasattr(model, 'module'))
    monkeypatch.setattr(mask_branch_eval_hook, 'check_mask_branch', lambda model, sample: seen.append(model))
    inner, runner.model = runner.model, SimpleNamespace(module=runner.model)
    MaskBranchEvalHook().before_train(runner)
    assert seen == [inner]
