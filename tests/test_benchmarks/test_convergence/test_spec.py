"""Specs of benchmarks: reading, checking, which runs they ask for, and the identity of a run."""

from pathlib import Path

import pytest
from mmdet.registry import HOOKS, MODELS
from mmdet.utils import register_all_modules

from benchmarks.convergence.launcher import Launcher
from benchmarks.convergence.results import RunKey, RunResult
from benchmarks.convergence.run_config import make_run_config
from benchmarks.convergence.spec import Spec, config_hash, read_spec
from mmdet_edge import get_config_path
from mmdet_edge.errors import UserError
from mmdet_edge.models.mask_heads.edge_agreement_mixin import DEFAULT_LOSS_EDGE

from .conftest import SHAPES

register_all_modules()

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / 'benchmarks').glob('*/specs/*.py'))
EDGE = 'mask_rcnn_edge/mask-rcnn_r18_fpn_edge_1xb4-300i_shapes.py'
MIOU = 'mask_branch/mIoU'
FIELDS = dict(
    protocol='mask-branch',
    config=SHAPES,
    settings=dict(baseline={}, edge=dict(config=EDGE), heavy=dict(cfg_options={'optim_wrapper.optimizer.lr': 0.1})),
    runs=[dict(settings=['baseline', 'edge'], seeds=[0, 1], budgets=[60])],
    baseline='baseline',
    metrics=[MIOU, 'mask_branch/BCE'],
    features=dict(num_train=10, num_val=5, jitter=0.1, batch_size=2),
)


def spec(**changes):
    return Spec(name='test', **{**FIELDS, **changes})


def result(setting='baseline', budget=60, rate=0.02, seed=0, value=0.5):
    return RunResult(RunKey(setting, budget, rate, seed), {} if value is None else {MIOU: value}, 1.0)


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_specs_of_the_repository_can_be_run(path):
    read = read_spec(path)
    assert read.name == path.stem and read.tuning_metric == read.metrics[0]
    for setting in read.settings.values():
        assert Path(get_config_path(setting.get('config', read.config))).is_file()
    keys, complete = read.keys([])
    waits = any(block.get('learning_rates') == 'tuned' for block in read.runs)
    assert keys and complete != waits
    # Once what is known is finished, nothing waits.
    metrics = dict.fromkeys(read.metrics, 0.5)
    all_keys, complete = read.keys([RunResult(key, metrics, 1.0) for key in keys])
    assert complete and all_keys[: len(keys)] == keys and (len(all_keys) > len(keys)) == waits


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_settings_of_the_repository(path, tried_edge_losses, peer_mask_losses):
    """Each setting fits its budgets and has no option that its mask head does not take."""
    read = read_spec(path)
    budgets = {name: set() for name in read.settings}
    for block in read.runs:
        for name in block['settings']:
            budgets[name] |= set(block.get('budgets', [None]))
    texts = []
    for name, lengths in budgets.items():
        for budget in lengths or {None}:
            cfg = make_run_config(read, RunKey(name, budget, None, 0), {})
        head = cfg.model.get('roi_head', cfg.model).get('mask_head') or cfg.model.bbox_head
        hooks = cfg.get('custom_hooks', [])
        for hook in hooks:
            HOOKS.build(hook)
        texts.append(f'{MODELS.build(head)}{head}{hooks}')
    # No two are the same by mistake.
    assert len(set(texts)) == len(texts)


def test_the_repository_has_specs():
    assert len(FILES) >= 2


def test_a_spec_is_read_and_its_fields_are_checked(tmp_path):
    text = '\n'.join(f'{key} = {value!r}' for key, value in FIELDS.items())
    path = tmp_path / 'mine.py'
    path.write_text(text + '\n_helper = 3\n')
    assert read_spec(path) == Spec(name='mine', **FIELDS)
    path.write_text(text + '\ngpu = 2\nseed = 1\n')
    with pytest.raises(UserError, match=r"mine\.py: unknown fields \['gpu', 'seed'\]; known are .*'gpus'"):
        read_spec(path)
    path.write_text('\n'.join(line for line in text.splitlines() if line.split()[0] not in ('baseline', 'runs')))
    with pytest.raises(UserError, match=r"mine\.py: fields missing: \['baseline', 'runs'\]"):
        read_spec(path)
    # These two have defaults.
    path.write_text(text.replace('mask-branch', 'full').replace('features = ', '_features = '))
    assert read_spec(path).gpus == 1 and read_spec(path).features == {}


@pytest.mark.parametrize('content, message', [(None, 'other.py'), ('settings = (', 'never closed')])
def test_a_spec_that_cannot_be_read_is_named(tmp_path, content, message):
    if content:
        (tmp_path / 'other.py').write_text(content)
    with pytest.raises(UserError, match=rf'other\.py is no spec that can be read: .*{message}'):
        read_spec(tmp_path / 'other.py')


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(protocol='masks'), r"test: protocol must be one of \('mask-branch', 'full'\), got 'masks'"),
        (dict(features={}), r"features must have \['batch_size', 'jitter', 'num_train', 'num_val'\], got \[\]"),
        (dict(features=dict(num_train=1, num_val=1, batch=1)), r"got \['batch', 'num_train', 'num_val'\]"),
        (dict(gpus=2), 'test: a mask-branch run takes one GPU, got gpus=2'),
        (dict(baseline='base'), "test: the baseline 'base' is not among the settings"),
        (
            dict(settings=dict(baseline=dict(options={}, conf=1))),
            r"setting 'baseline' has unknown keys \['conf', 'options'\]",
        ),
        (dict(runs=[dict(settings=[], seeds=[], steps=[1])]), r"a block of runs has unknown keys \['steps'\]"),
        (
            dict(runs=[dict(settings=['baseline'])]),
            r"a block of runs needs settings and seeds, got \['settings'\]",
        ),
        (
            dict(runs=[dict(settings=['baseline', 'egde'], seeds=[0])]),
            "unknown setting 'egde'; there are: baseline, edge, heavy",
        ),
        (
            dict(runs=[dict(settings=['baseline'], seeds=[0], learning_rates='tune')]),
            "learning_rates must be a list or 'tuned', got 'tune'",
        ),
    ],
)
def test_a_mistake_in_a_spec_is_named(changes, message):
    with pytest.raises(UserError, match=message):
        spec(**changes)


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(config=SHAPES.replace('r18', 'r19')), "test: setting 'baseline': .*nearest is"),
        (
            dict(settings=dict(baseline={}, other=dict(config='mask_rcnn_edge/other.py'))),
            "test: setting 'other': .*no config",
        ),
    ],
)
def test_a_config_that_does_not_exist_is_named(changes, message):
    with pytest.raises(UserError, match=message):
        spec(**changes)


def test_full_runs_may_take_several_gpus_and_no_features():
    assert spec(protocol='full', features={}, gpus=8).gpus == 8


def test_keys_in_order_each_once():
    runs = [
        dict(settings=['baseline', 'edge'], seeds=[0, 1], budgets=[60, 120], learning_rates=[0.1, 0.2]),
        # Asked for already, but for the last one.
        dict(settings=['edge', 'heavy'], seeds=[1], budgets=[60], learning_rates=[0.2]),
        # The configs' own schedule and rate.
        dict(settings=['heavy'], seeds=[3]),
    ]
    keys, complete = spec(runs=runs).keys([])
    assert complete
    first = [
        RunKey(setting, budget, rate, seed)
        for seed in (0, 1)
        for budget in (60, 120)
        for rate in (0.1, 0.2)
        for setting in ('baseline', 'edge')
    ]
    assert keys == [*first, RunKey('heavy', 60, 0.2, 1), RunKey('heavy', None, None, 3)]


def test_tuned_waits_for_the_baseline_at_that_budget():
    runs = [
        dict(settings=['edge', 'baseline'], seeds=[0], budgets=[60, 120], learning_rates='tuned'),
        dict(settings=['baseline'], seeds=[0], budgets=[60, 120], learning_rates=[0.02, 0.1, 0.5]),
    ]
    tuned = spec(runs=runs)
    fixed = [RunKey('baseline', budget, rate, 0) for budget in (60, 120) for rate in (0.02, 0.1, 0.5)]
    assert tuned.keys([]) == (fixed, False)
    done = [result(rate=0.02, value=0.6), result(rate=0.1, value=0.7)]
    assert tuned.keys(done) == (fixed, False)
    # A run that diverged is finished too. Of other settings, seeds and budgets nothing counts.
    done += [result(rate=0.5, value=None), result(budget=120, rate=0.02, value=0.9), result('edge', rate=0.5, value=1)]
    keys, complete = tuned.keys(done)
    # Of the two that are to be run at the tuned rate, the baseline was.
    assert keys == [*fixed, RunKey('edge', 60, 0.1, 0)] and not complete
    done += [result(budget=120, rate=0.1, value=0.5), result(budget=120, rate=0.5, value=0.8)]
    assert tuned.keys(done) == ([*fixed, RunKey('edge', 60, 0.1, 0), RunKey('edge', 120, 0.02, 0)], True)


def test_tuned_by_the_first_metric():
    runs = [
        dict(settings=['baseline'], seeds=[0], budgets=[60], learning_rates=[0.02, 0.1]),
        dict(settings=['edge'], seeds=[0], budgets=[60], learning_rates='tuned'),
    ]
    done = [
        RunResult(RunKey('baseline', 60, 0.02, 0), {MIOU: 0.6, 'mask_branch/BCE': 0.5}, 1.0),
        RunResult(RunKey('baseline', 60, 0.1, 0), {MIOU: 0.5, 'mask_branch/BCE': 0.4}, 1.0),
    ]
    assert spec(runs=runs).keys(done)[0][-1] == RunKey('edge', 60, 0.02, 0)
    by_bce = spec(runs=runs, metrics=['mask_branch/BCE', MIOU])
    assert by_bce.keys(done)[0][-1] == RunKey('edge', 60, 0.1, 0)


def test_tuned_without_anything_to_tune_by():
    runs = [dict(settings=['edge'], seeds=[0], budgets=[60], learning_rates='tuned')]
    with pytest.raises(UserError, match="test: no runs of 'baseline' to tune the learning rate at 60"):
        spec(runs=runs).keys([])


@pytest.mark.parametrize('protocol', ['mask-branch', 'full'])
def test_hash_is_of_the_config_whatever_the_place(tmp_path, protocol):
    def hash_of(setting='baseline', budget=60, rate=0.1, seed=0, place='a', cfg_options=None, **changes):
        changes = {'runs': [], **changes}
        launcher = Launcher(
            spec(protocol=protocol, **changes),
            tmp_path / place / 'results.jsonl',
            tmp_path / place,
            jobs=1,
            data_root=str(tmp_path / place / 'data'),
            cfg_options=cfg_options,
        )
        key = RunKey(setting, budget, rate, seed)
        before = launcher._config(key)[1]
        placed = launcher._place(key)
        assert str(tmp_path / place) in placed.work_dir and str(tmp_path / place) in str(placed.val_dataloader.dataset)
        # The paths went into a copy.
        assert config_hash(launcher._config(key)[0]) == before
        return before

    reference = hash_of()
    assert len(reference) == 16 and int(reference, 16) >= 0
    assert hash_of(place='b') == reference
    assert hash_of(runs=[dict(settings=['edge'], seeds=[9])]) == reference
    others = [
        hash_of(seed=1),
        hash_of(budget=None),
        hash_of(rate=None),
        hash_of('edge'),
        hash_of(settings=dict(baseline=dict(cfg_options={'optim_wrapper.clip_grad.max_norm': 3}))),
        hash_of(cfg_options={'model.roi_head.mask_head.num_convs': 3}),
    ]
    if protocol == 'mask-branch':
        others += [hash_of(features={**FIELDS['features'], name: 4}) for name in FIELDS['features']]
    assert len({reference, *others}) == 1 + len(others)
    # The rate of the key replaces that of the setting; without one they differ.
    assert hash_of('heavy', rate=0.1) == reference
    assert hash_of('heavy', rate=None) == reference


@pytest.mark.parametrize('path', sorted((ROOT / 'docs/evidence').glob('*.jsonl')), ids=lambda path: path.stem)
def test_committed_results_count_as_done(path, tmp_path):
    launcher = Launcher(read_spec(ROOT / f'benchmarks/convergence/specs/{path.stem}.py'), path, tmp_path, jobs=1)
    assert len(launcher._read_done()) == len(path.read_text().splitlines())


def changed(**sections):
    cfg = make_run_config(spec(), RunKey('edge', 60, 0.02, 0), {})
    cfg.merge_from_dict(sections)
    return config_hash(cfg)


def test_hash_is_of_what_trains():
    reference = changed()
    assert changed(custom_imports=dict(imports=['elsewhere'])) == reference
    assert changed(log_level='DEBUG', default_hooks=dict(logger=dict(interval=3))) == reference
    assert changed(custom_hooks=[dict(type='EdgeVisualizationHook')]) == reference
    assert changed(custom_hooks=[dict(type='EMAHook')]) != reference
    assert changed(custom_hooks=[dict(type='EMAHook', momentum=0.1)]) != changed(custom_hooks=[dict(type='EMAHook')])


@pytest.mark.parametrize(
    'section', [dict(optim_wrapper=dict(clip_grad=None)), dict(load_from='weights.pth'), dict(train_cfg=dict(x=1))]
)
def test_hash_changes_with_each_section_that_decides_a_result(section):
    assert changed(**section) != changed()


def test_hash_depends_on_the_default_of_the_edge_loss(monkeypatch):
    """A later default must not pass for the one that a result was made with."""
    reference = changed()
    monkeypatch.setitem(DEFAULT_LOSS_EDGE, 'exponent', 1.0)
    assert changed() != reference
    written_out = dict(type='EdgeAgreementMaskHead', loss_edge=dict(type='EdgeLoss', exponent=2.0, loss_weight=3.0))
    cfg_options = {'model.roi_head.mask_head': written_out}
    key = RunKey('edge', 60, 0.02, 0)
    assert (
        config_hash(make_run_config(spec(settings=dict(baseline={}, edge=dict(cfg_options=cfg_options))), key, {}))
        == reference
    )


@pytest.mark.parametrize('protocol', ['full', 'mask-branch'])
def test_hash_depends_on_the_scale_of_the_gradient_where_it_has_an_effect(protocol):
    def hash_of(**head):
        cfg_options = {'model.roi_head.mask_head': dict(type='EdgeAgreementMaskHead', **head)}
        settings = dict(baseline={}, edge=dict(cfg_options=cfg_options))
        features = FIELDS['features'] if protocol == 'mask-branch' else {}
        fields = dict(protocol=protocol, settings=settings, features=features)
        return config_hash(make_run_config(spec(**fields), RunKey('edge', 60, 0.02, 0), {}))

    assert hash_of() == hash_of(feature_grad_scale=0.25)
    # Cached features get no gradient, and without an edge loss nothing is scaled.
    assert (hash_of() == hash_of(feature_grad_scale=1.0)) == (protocol == 'mask-branch')
    assert hash_of(loss_edge=None) == hash_of(loss_edge=None, feature_grad_scale=1.0)
