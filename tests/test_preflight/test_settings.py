import ast
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.dataset import InfiniteSampler
from mmengine.registry import init_default_scope
from mmengine.runner import EpochBasedTrainLoop
from mmengine.utils import get_installed_path

from mmdet_edge.errors import UserError
from mmdet_edge.preflight import settings
from mmdet_edge.preflight.settings import (
    OLD_SECTIONS,
    check_loops,
    check_metrics,
    check_names,
    check_sections,
    check_visualizer,
    sections,
)

from ..test_reliability.conftest import ROOT


@pytest.mark.parametrize('folder', ['mmdet', 'ours'])
def test_no_variable_of_a_config_is_taken_for_a_misspelt_section(folder):
    configs = Path(get_installed_path('mmdet'), '.mim', 'configs') if folder == 'mmdet' else ROOT / 'configs'
    names = {
        target.id
        for path in configs.rglob('*.py')
        for statement in ast.parse(path.read_text()).body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    names |= {'mode', 'val_dataset', 'seed', 'model_cfg', 'teacher_model', 'load_pipeline', 'val_evaluator_2'}
    assert {'model', 'train_dataloader'} < names and len(names) > dict(mmdet=200, ours=10)[folder]
    check_names(names, sections(), f'{folder} has', cutoff=0.85)


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmdet')


OPTIMIZER = dict(type='SGD', lr=0.02)


@pytest.mark.parametrize('key', OLD_SECTIONS)
def test_a_section_of_mmdet_2_is_told_with_its_new_name(key):
    value = dict(type='SGD', lr=0.5)
    with pytest.raises(UserError, match=f'^the config has {key}, a section of mmdet 2 .*: it is') as raised:
        check_sections(Config({key: value}), ())
    assert f'{raised.value}'.endswith(f'{OLD_SECTIONS[key]} now')
    # As --cfg-options optimizer.lr=0.5 would make it.
    with pytest.raises(UserError, match=f'the config has {key}'):
        cfg = Config(dict(optim_wrapper=dict(optimizer=OPTIMIZER)))
        cfg.merge_from_dict({f'{key}.lr': 0.5})
        check_sections(cfg, ())


def test_a_variable_of_the_config_is_no_section_of_mmdet_2():
    train = dict(train_dataloader=dict(x=[1]), optim_wrapper=dict(optimizer=OPTIMIZER), train_cfg=dict(max_epochs=12))
    check_sections(Config(dict(train, optimizer=OPTIMIZER, total_epochs=12, data=[1])), ())


@pytest.mark.parametrize('split', ['val', 'test'])
@pytest.mark.parametrize('missing', ['dataloader', 'cfg', 'evaluator'])
def test_half_of_an_evaluation_cannot_be_switched_off(split, missing):
    parts = {f'{split}_{name}': dict(x=1) for name in ('dataloader', 'cfg', 'evaluator')}
    check_sections(Config(parts), ())
    check_sections(Config(dict.fromkeys(parts)), ())
    with pytest.raises(UserError, match=f'^the config has no {split}_{missing}: the runner takes all of {split}_data'):
        check_sections(Config({**parts, f'{split}_{missing}': None}), ())
    others = {key: None for key in parts if key != f'{split}_{missing}'}
    with pytest.raises(UserError, match=f'^the config has no {" and no ".join(others)}: the runner takes all of'):
        check_sections(Config({**parts, **others}), ())


def test_a_backend_that_is_not_installed_is_told(monkeypatch):
    cfg = Config(dict(visualizer=dict(vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')])))
    monkeypatch.setattr(settings.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(UserError, match='TensorboardVisBackend needs tensorboard: pip install tensorboard'):
        check_visualizer(cfg)
    monkeypatch.setattr(settings.importlib.util, 'find_spec', lambda name: name)
    check_visualizer(cfg)


def loops(split, loop, sampler, **sections):
    return Config({f'{split}_cfg': loop, f'{split}_dataloader': dict(sampler=sampler), **sections})


ENDLESS = [dict(type='InfiniteSampler'), dict(type='GroupMultiSourceSampler'), dict(type=InfiniteSampler)]


@pytest.mark.parametrize('sampler', ENDLESS)
@pytest.mark.parametrize(
    ('split', 'loop'),
    [
        ('train', dict(type='EpochBasedTrainLoop', max_epochs=1)),
        ('train', dict(type=EpochBasedTrainLoop, max_epochs=1)),
        ('train', dict(max_epochs=1)),
        ('val', dict(type='ValLoop')),
        ('test', dict()),
    ],
)
def test_epochs_that_never_end_are_told(split, loop, sampler):
    with pytest.raises(
        UserError, match=f'^{split}_dataloader: the epochs of .*Sampler never end, and {split}_cfg runs'
    ):
        check_loops(loops(split, loop, sampler), (split,))
    check_loops(loops(split, loop, dict(type='DefaultSampler')), (split,))


@pytest.mark.parametrize('loop', [dict(type='IterBasedTrainLoop'), dict(by_epoch=False)])
def test_a_loop_over_iterations_takes_any_sampler(loop):
    for sampler in (*ENDLESS, dict(type='DefaultSampler'), None):
        check_loops(loops('train', loop, sampler), ('train',))


def test_a_schedule_must_count_what_the_loop_counts():
    loop = dict(type='IterBasedTrainLoop')
    fits = [dict(type='LinearLR', by_epoch=False), dict(type='MultiStepLR', convert_to_iter_based=True)]
    check_loops(loops('train', loop, None, param_scheduler=fits), ('train',))
    check_loops(loops('train', dict(max_epochs=1), None, param_scheduler=dict(type='MultiStepLR')), ('train',))
    for scheduler in (dict(type='MultiStepLR'), [*fits, dict(type='MultiStepLR', by_epoch=True)]):
        with pytest.raises(
            UserError, match='^param_scheduler: MultiStepLR counts epochs, and IterBasedTrainLoop has no'
        ):
            check_loops(loops('train', loop, None, param_scheduler=scheduler), ('train',))


def metrics(metric=('bbox', 'segm'), custom_hooks=(), save_best=None, **evaluator):
    hook = dict(type='CheckpointHook', save_best=save_best)
    evaluator = dict(dict(type='CocoBoundaryMetric', metric=list(metric)), **evaluator)
    return Config(dict(val_evaluator=evaluator, default_hooks=dict(checkpoint=hook), custom_hooks=list(custom_hooks)))


EARLY = dict(type='EarlyStoppingHook')


@pytest.mark.parametrize(
    'cfg',
    [
        metrics(save_best='coco/segm_mAP'),
        metrics(save_best='auto'),
        metrics(save_best=['coco/bbox_mAP_50', 'coco/segm_mAP_75']),
        metrics(save_best='mine/segm_mAP', prefix='mine'),
        metrics(metric=['boundary'], save_best='coco/boundary_mAP_s'),
        metrics(metric=['proposal'], save_best='coco/AR@1000'),
        metrics(metric=['proposal_fast'], proposal_nums=(7,), save_best='coco/AR@7'),
        metrics(metric_items=['AR@100'], save_best='coco/segm_AR@100'),
        metrics(classwise=True, save_best='coco/cat_precision'),
        metrics(custom_hooks=[dict(type='MaskBranchEvalHook')], save_best='mask_branch/mIoU'),
        metrics(custom_hooks=[dict(EARLY, monitor='coco/bbox_mAP')]),
        metrics(type='MyMetric', save_best='anything'),
    ],
)
def test_metrics_that_there_are(cfg):
    check_metrics(cfg)


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (metrics(save_best='segm_mAP'), "save_best='segm_mAP': .* it has coco/bbox_mAP, .*coco/segm_mAP_l$"),
        (metrics(save_best='coco/boundary_mAP'), "save_best='coco/boundary_mAP': the validation has no such metric"),
        (metrics(metric=['bbox'], save_best=['auto', 'coco/segm_mAP']), "save_best='coco/segm_mAP'"),
        (metrics(save_best='mask_branch/mIoU'), "save_best='mask_branch/mIoU'"),
        (metrics(save_best='coco/segm_mAP', metric_items=['mAP_50']), 'it has coco/bbox_mAP_50, coco/segm_mAP_50$'),
        (metrics(save_best='coco/segm_mAP', format_only=True), 'it has none at all'),
        (metrics(custom_hooks=[dict(EARLY, monitor='coco/mAP')]), "EarlyStoppingHook.monitor='coco/mAP'"),
    ],
)
def test_a_metric_that_does_not_exist_is_told_with_those_that_do(cfg, message):
    with pytest.raises(UserError, match=message):
        check_metrics(cfg)
