"""The config of a run: what it keeps of the detector's, and how a budget changes it."""

import copy
import functools

import pytest
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config

from benchmarks.convergence.results import RunKey
from benchmarks.convergence.run_config import make_detector_config, make_run_config, place_features, set_budget
from benchmarks.convergence.spec import Spec, config_hash
from mmdet_edge import get_config_path
from mmdet_edge.errors import UserError

from .conftest import SHAPES

EPOCHS = 'mask_rcnn_edge/mask-rcnn_r50_fpn_edge_1x_coco.py'
HEAD = 'model.roi_head.mask_head'
DICE = dict(_delete_=True, type='SumMaskLoss', losses=[dict(type='DiceLoss', activate=False)])


def spec(protocol='full', config=SHAPES, **settings):
    return Spec(
        name='test',
        protocol=protocol,
        config=config,
        settings=dict(baseline={}, **settings),
        runs=[],
        baseline='baseline',
        metrics=['mask_branch/mIoU'],
        features=dict(num_train=10, num_val=5, jitter=0.1, batch_size=7) if protocol == 'mask-branch' else {},
    )


@functools.lru_cache
def parse(config):
    return Config.fromfile(get_config_path(config))


def read(config=SHAPES):
    return copy.deepcopy(parse(config))


@pytest.mark.parametrize('budget', [31, 60, 3000])
def test_budget_scales_what_ends_with_the_schedule(budget):
    cfg = read()
    set_budget(cfg, budget)
    warm_up, poly = cfg.param_scheduler
    assert (warm_up.begin, warm_up.end) == (0, 30) and (poly.begin, poly.end) == (30, budget)
    assert cfg.train_cfg.max_iters == cfg.train_cfg.val_interval == cfg.default_hooks.checkpoint.interval == budget


def test_budget_keeps_what_ends_before():
    cfg = read()
    cfg.param_scheduler = [dict(type='MultiStepLR', milestones=[40, 50], begin=0, end=300)]
    set_budget(cfg, 50)
    assert cfg.param_scheduler[0] == dict(type='MultiStepLR', milestones=[40, 50], begin=0, end=50)


@pytest.mark.parametrize('budget', [1, 29, 30])
def test_budget_within_the_warm_up(budget):
    with pytest.raises(UserError, match=rf"a budget of {budget} iterations is too short for \{{'type': '\w+LR'"):
        set_budget(read(), budget)


def test_budget_before_a_milestone():
    cfg = read()
    cfg.param_scheduler = [dict(type='MultiStepLR', milestones=[40, 50], begin=0, end=300)]
    with pytest.raises(UserError, match='a budget of 49 iterations is too short for .*MultiStepLR'):
        set_budget(cfg, 49)


def test_budget_of_a_config_that_trains_by_epochs():
    with pytest.raises(UserError, match='needs a config that trains by iterations, got .*max_epochs'):
        set_budget(read(EPOCHS), 100)


def test_budget_is_the_only_evaluation_and_something_is_logged():
    cfg = read()
    cfg.param_scheduler = []
    cfg.train_cfg.dynamic_intervals = [(200, 5)]
    set_budget(cfg, 4)
    assert 'dynamic_intervals' not in cfg.train_cfg and cfg.default_hooks.logger.interval == 4
    set_budget(cfg, 400)
    assert cfg.default_hooks.logger.interval == 4
    cfg = read()
    set_budget(cfg, 400)
    assert cfg.default_hooks.logger.interval == 10
    # As with default_hooks of mmengine's own.
    del cfg.default_hooks['logger'], cfg.default_hooks['checkpoint']
    set_budget(cfg, 100)
    assert list(cfg.default_hooks) == [name for name in read().default_hooks if name not in ('logger', 'checkpoint')]


def test_full_run_is_the_config_with_the_runs_own_values():
    options = {'optim_wrapper.clip_grad.max_norm': 3, 'model.backbone.depth': 34}
    full = spec(other=dict(cfg_options={'model.backbone.depth': 50, 'optim_wrapper.optimizer.lr': 7}))
    cfg = make_run_config(full, RunKey('other', 60, 0.5, 4), options)
    expected = read()
    expected.optim_wrapper.clip_grad.max_norm = 3
    # A setting overrides the options for all runs, and the run's rate overrides that of the setting.
    expected.model.backbone.depth = 50
    expected.optim_wrapper.optimizer.lr = 0.5
    expected.randomness = dict(seed=4)
    set_budget(expected, 60)
    assert cfg.to_dict() == expected.to_dict()


def test_own_rate_and_schedule():
    own = make_run_config(spec(), RunKey('baseline', None, None, 0), {})
    assert own.to_dict() == read().to_dict()
    # Also of a config that trains by epochs.
    epochs = make_run_config(spec(config=EPOCHS), RunKey('baseline', None, None, 2), {})
    expected = read(EPOCHS)
    expected.randomness = dict(seed=2)
    # The defaults of the edge head are written out.
    expected.model.roi_head.mask_head.loss_edge = dict(type='EdgeLoss', exponent=2.0, loss_weight=3.0)
    expected.model.roi_head.mask_head.feature_grad_scale = 0.25
    assert epochs.to_dict() == expected.to_dict()


@pytest.mark.parametrize(
    ('head', 'scale'),
    [
        (dict(type='EdgeAgreementMaskHead'), 0.25),
        (dict(type='EdgeAgreementMaskHead', feature_grad_scale=1.0), 1),
        (dict(type='EdgeAgreementDynamicMaskHead'), 1),
    ],
)
@pytest.mark.parametrize('protocol', ['full', 'mask-branch'])
def test_the_run_has_the_scale_of_the_gradient_that_the_setting_says(head, scale, protocol):
    cfg = make_run_config(spec(protocol, edge=dict(cfg_options={HEAD: head})), RunKey('edge', 60, 0.1, 0), {})
    head = (cfg.model.get('roi_head') or cfg.model).mask_head
    assert head.feature_grad_scale == scale


def test_a_setting_with_a_config_of_its_own():
    edge = 'mask_rcnn_edge/mask-rcnn_r18_fpn_edge_1xb4-300i_shapes.py'
    cfg = make_run_config(spec(edge=dict(config=edge)), RunKey('edge', 60, None, 0), {})
    assert cfg.model.roi_head.mask_head.type == 'EdgeAgreementMaskHead'


def test_options_for_all_runs_survive_those_of_a_setting():
    edge = dict(type='EdgeAgreementMaskHead', loss_edge=dict(exponent=1))
    cfg = make_run_config(
        spec(edge=dict(cfg_options={HEAD: edge})), RunKey('edge', 60, None, 0), {f'{HEAD}.num_convs': 2}
    )
    head = cfg.model.roi_head.mask_head
    assert (head.num_convs, head.type, head.loss_edge) == (2, 'EdgeAgreementMaskHead', dict(exponent=1))


@pytest.mark.parametrize(
    'cfg_options',
    [
        {HEAD: dict(loss_mask=DICE)},
        {f'{HEAD}.loss_mask': DICE},
        dict(model=dict(roi_head=dict(mask_head=dict(loss_mask=DICE)))),
    ],
    ids=['dotted', 'all dotted', 'nested'],
)
def test_every_seed_gets_the_same_options(cfg_options):
    """Merging takes the _delete_ out of what is merged; the next seed needs it too."""
    cfg_options = copy.deepcopy(cfg_options)
    dice = spec(dice=dict(cfg_options=cfg_options))
    before = copy.deepcopy(cfg_options)
    heads = [make_run_config(dice, RunKey('dice', 60, None, seed), {}).model.roi_head.mask_head for seed in (0, 1)]
    assert cfg_options == before
    for head in heads:
        assert head.loss_mask.to_dict() == dict(type='SumMaskLoss', losses=[dict(type='DiceLoss', activate=False)])
    options = copy.deepcopy(cfg_options)
    for _ in range(2):
        assert set(make_detector_config(dice, options).model.roi_head.mask_head.loss_mask) == {'type', 'losses'}


def test_mask_branch_config_keeps_head_optimizer_and_schedule():
    register_all_modules()
    hooks = [dict(type='MaskBranchEvalHook'), dict(type='EdgeVisualizationHook'), dict(type='EMAHook')]
    branch = spec('mask-branch', other=dict(cfg_options={f'{HEAD}.num_convs': 2, 'custom_hooks': hooks}))
    cfg = make_run_config(branch, RunKey('other', 60, 0.5, 4), {'optim_wrapper.clip_grad.max_norm': 3})
    full = make_run_config(spec(other=branch.settings['other']), RunKey('other', 60, 0.5, 4), {})
    assert cfg.model == dict(type='MaskBranch', mask_head=full.model.roi_head.mask_head)
    assert cfg.model.mask_head.num_convs == 2
    assert cfg.optim_wrapper.optimizer == dict(type='SGD', lr=0.5, momentum=0.9, weight_decay=0.0001)
    assert cfg.optim_wrapper.clip_grad.max_norm == 3
    assert cfg.param_scheduler == full.param_scheduler and cfg.param_scheduler[1].end == 60
    assert cfg.train_cfg == full.train_cfg and cfg.randomness == dict(seed=4)
    assert cfg.train_dataloader.dataset == cfg.val_dataloader.dataset == dict(type='RoIFeatureDataset')
    assert cfg.train_dataloader.batch_size == 7
    assert cfg.custom_imports.imports == ['mmdet_edge', 'benchmarks.convergence']
    assert cfg.roi_features == dict(config=SHAPES, num_train=10, num_val=5, jitter=0.1, batch_size=7)
    # What is made for detectors stays away.
    assert cfg.custom_hooks == [dict(type='EMAHook')] and 'data_root' not in cfg
    model = MODELS.build(cfg.model)
    assert len(model.mask_head.convs) == 2


@pytest.mark.parametrize('imports, expected', [('mmdet_edge', ['mmdet_edge']), (['a', 'b'], ['a', 'b']), (None, [])])
def test_mask_branch_config_keeps_the_imports(imports, expected):
    options = dict(custom_imports=dict(_delete_=True, imports=imports or []))
    cfg = make_run_config(
        spec('mask-branch', other=dict(cfg_options=options)), RunKey('other', 60, None, 0), cfg_options={}
    )
    assert cfg.custom_imports.imports == [*expected, 'benchmarks.convergence']


@pytest.mark.parametrize('budget, interval', [(31, 10), (4, 4)])
def test_mask_branch_run_logs_its_training(budget, interval):
    options = dict(param_scheduler=[])
    cfg = make_run_config(
        spec('mask-branch', other=dict(cfg_options=options)), RunKey('other', budget, None, 0), cfg_options={}
    )
    assert cfg.default_hooks.logger.interval == interval


def test_mask_branch_by_epochs():
    with pytest.raises(UserError, match='mask heads alone are trained by iterations, got .*max_epochs'):
        make_run_config(spec('mask-branch', EPOCHS), RunKey('baseline', None, None, 0), {})


def test_features_are_placed(tmp_path):
    branch = spec('mask-branch')
    key = RunKey('baseline', 60, None, 0)
    cfg = make_run_config(branch, key, {})
    place_features(cfg, tmp_path / 'features')
    assert cfg.train_dataloader.dataset.data_root == str(tmp_path / 'features/train')
    assert cfg.val_dataloader.dataset.data_root == str(tmp_path / 'features/val')
    # Neither has a later config of the same run.
    assert config_hash(cfg) != config_hash(make_run_config(branch, key, {}))
    assert str(tmp_path) not in make_run_config(branch, key, {}).pretty_text


@pytest.mark.parametrize('options', [{'train_cfg.max_iters.x': 1}, {'param_scheduler.x': 1}])
def test_options_that_do_not_fit_the_config_are_named(options):
    with pytest.raises(UserError, match='options .* do not fit the config'):
        make_detector_config(spec(), options)


def test_detector_is_the_baseline_unchanged():
    cfg = make_detector_config(spec('mask-branch'), {'train_cfg.max_iters': 5})
    expected = read()
    expected.train_cfg.max_iters = 5
    assert cfg.to_dict() == expected.to_dict()
    # The next one is not changed by that.
    assert make_detector_config(spec('mask-branch'), {}).to_dict() == read().to_dict()
