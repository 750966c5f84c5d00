import math

import numpy as np
import pytest

from mmdet_edge.analysis import choose_baseline, compare

from .conftest import train_line, write_log


def rise(step):
    """A curve that keeps rising, with no straight part."""
    return 1 - math.exp(-step / 150)


def plus(curve, offset):
    return lambda step: curve(step) + offset


def line(slope):
    return lambda step: slope * step


def result_of(comparison, variant, metric='coco/segm_mAP'):
    (found,) = [r for r in comparison.results if (r.variant, r.metric) == (variant, metric)]
    return found


def test_twice_as_fast_is_two(make_run):
    # Evaluated where the baseline's own points lie on the faster curve, so that nothing depends on interpolation.
    runs = {
        'base': [make_run('base', seed, segm=plus(rise, 0.01 * seed)) for seed in range(3)],
        'edge': [make_run('edge', seed, segm=plus(lambda s: rise(2 * s), 0.01 * seed)) for seed in range(3)],
    }
    comparison = compare(runs)
    base, edge = result_of(comparison, 'base'), result_of(comparison, 'edge')
    assert base.reached_at == 400
    assert (base.speedup, base.time_speedup) == (1.0, 1.0)
    assert edge.reached_at == pytest.approx(200)
    assert edge.speedup == pytest.approx(2.0)
    assert edge.time_speedup == pytest.approx(2.0)
    assert edge.seconds == pytest.approx(200)
    assert edge.target == pytest.approx(rise(400) + 0.01)
    assert edge.verdict == 'better'
    assert not comparison.left_out and not comparison.notes


def test_twice_as_fast_in_iterations_of_twice_the_time_is_one_in_time(make_run):
    runs = {
        'base': [make_run('base', 0, segm=rise, time=0.5)],
        'edge': [make_run('edge', 0, segm=lambda s: rise(2 * s), time=1.0)],
    }
    edge = result_of(compare(runs), 'edge')
    assert edge.speedup == pytest.approx(2.0)
    assert edge.time_speedup == pytest.approx(1.0)


def test_a_training_loss_is_smoothed_and_lower_is_better(make_run):
    def noisy(slope, seed):
        noise = np.random.default_rng(seed).normal(0, 0.01, 401)
        return lambda step: 3 - slope * step + noise[step]

    runs = {
        'base': [make_run('base', seed, loss_mask=noisy(0.002, seed)) for seed in range(3)],
        'edge': [make_run('edge', seed, loss_mask=noisy(0.004, seed + 9)) for seed in range(3)],
    }
    comparison = compare(runs)
    edge = result_of(comparison, 'edge', 'loss_mask')
    assert edge.speedup == pytest.approx(2.0, rel=0.02)
    assert edge.verdict == 'better'
    assert edge.difference.mean == pytest.approx(-0.8, abs=0.02)
    assert edge.difference.percent == pytest.approx(-0.8 / 2.2 * 100, abs=1)
    # Without noise the smoothing changes nothing at all.
    exact = {
        name: [make_run(name, 0, loss_mask=lambda s, k=slope: 3 - k * s, folder=f'exact_{name}')]
        for name, slope in (('base', 0.002), ('edge', 0.004))
    }
    assert result_of(compare(exact), 'edge', 'loss_mask').speedup == pytest.approx(2.0)


def test_interpolates_between_evaluations(make_run):
    runs = {
        'base': [make_run('base', 0, segm=lambda s: s / 1000)],
        'edge': [make_run('edge', 0, segm=lambda s: s / 640)],
    }
    edge = result_of(compare(runs), 'edge')
    assert edge.reached_at == pytest.approx(256)
    assert edge.speedup == pytest.approx(400 / 256)


def test_not_reached_and_reached_at_the_first_value(make_run):
    runs = {
        'base': [make_run('base', 0, segm=rise)],
        'edge-slow': [make_run('edge-slow', 0, segm=lambda s: rise(s) / 2)],
        'edge-fast': [make_run('edge-fast', 0, segm=lambda s: 1 + rise(s))],
    }
    comparison = compare(runs)
    slow, fast = result_of(comparison, 'edge-slow'), result_of(comparison, 'edge-fast')
    assert (slow.target, slow.reached_at, slow.seconds, slow.speedup, slow.time_speedup) == (
        rise(400),
        None,
        None,
        None,
        None,
    )
    assert (fast.reached_at, fast.at_first, fast.speedup) == (100, True, 4.0)


def test_a_baseline_evaluated_once_gives_no_ratio(make_run):
    runs = {name: [make_run(name, 0, segm=rise, evaluate_every=400)] for name in ('base', 'edge')}
    for result in compare(runs).results:
        assert (result.reached_at, result.at_first, result.speedup, result.time_speedup) == (400, True, None, None)


def test_values_by_hand(make_run):
    base, edge = (0.3, 0.4, 0.5), (0.31, 0.42, 0.56)
    runs = {
        'base': [make_run('base', seed, segm=line(base[seed] / 400)) for seed in range(3)],
        'edge': [make_run('edge', seed, segm=line(edge[seed] / 400)) for seed in range(3)],
    }
    result = result_of(compare(runs), 'edge')
    assert result.iteration == 400
    assert result.values == pytest.approx(dict(enumerate(edge)))
    assert result.mean == pytest.approx(0.43)
    assert result.spread == pytest.approx(np.std(edge, ddof=1))
    # Differences 0.01, 0.02, 0.06: mean 0.03, variance 0.0007.
    half = 4.302652729696142 * math.sqrt(0.0007 / 3)
    assert result.difference.interval == pytest.approx((0.03 - half, 0.03 + half))
    assert result.difference.percent == pytest.approx(7.5)


def test_one_seed_has_neither_spread_nor_interval(make_run):
    comparison = compare({name: [make_run(name, 0, segm=rise)] for name in ('base', 'edge')})
    result = result_of(comparison, 'edge')
    assert result.spread is None
    assert result.difference.interval is None
    assert result.verdict == ''
    assert comparison.curves['coco/segm_mAP']['edge'].spread is None


def test_an_interrupted_seed_is_left_out_and_named(make_run):
    runs = {
        'base': [make_run('base', seed, segm=rise) for seed in range(3)],
        'edge': [make_run('edge', seed, segm=rise, end=400 if seed else 250) for seed in range(3)],
    }
    comparison = compare(runs)
    (left,) = comparison.left_out
    assert (left.variant, left.work_dir, left.metrics) == ('edge', runs['edge'][0], ())
    assert left.reason == 'ended at iteration 250, the longest seed at 400: interrupted, or another schedule'
    assert list(comparison.runs['edge']) == [1, 2]
    assert result_of(comparison, 'edge').difference.pairs == 2
    (note,) = comparison.notes
    assert note.startswith('edge: not the seeds of the baseline.')


def test_the_complete_run_counts_though_most_were_interrupted(make_run):
    runs = {'base': [make_run('base', seed, segm=rise, end=400 if seed else 800) for seed in range(3)]}
    comparison = compare(runs)
    assert list(comparison.runs['base']) == [0]
    assert [item.reason for item in comparison.left_out] == 2 * [
        'ended at iteration 400, the longest seed at 800: interrupted, or another schedule'
    ]


def test_variants_of_different_length_are_compared_at_equal_iterations(make_run):
    runs = {
        'base': [make_run('base', 0, segm=lambda s: s / 1000, end=800)],
        'edge': [make_run('edge', 0, segm=lambda s: s / 500, end=400)],
    }
    comparison = compare(runs)
    base = result_of(comparison, 'base')
    assert (base.iteration, base.values[0], base.target, base.reached_at) == (400, 0.4, 0.4, 400)
    (note,) = comparison.notes
    assert 'different lengths (last iteration: base 800, edge 400)' in note


def test_an_interrupted_and_resumed_run_is_complete(make_run, tmp_path):
    whole = make_run('base', 0, segm=rise)
    resumed = tmp_path / 'edge_0'
    evaluation = [{'coco/segm_mAP': rise(step), 'step': 0} for step in (100, 200, 300, 400)]
    lines = [train_line(step, time=1.0) for step in range(10, 401, 10)]
    first = [*lines[:10], evaluation[0], *lines[10:20], evaluation[1], *lines[20:25]]
    second = [*lines[20:30], evaluation[2], *lines[30:], evaluation[3]]
    write_log(resumed, first, '20260101_000000')
    write_log(resumed, second, '20260102_000000')
    (resumed / 'edge.py').write_text('randomness = dict(seed=0)')
    comparison = compare({'base': [whole], 'edge': [resumed]})
    edge = result_of(comparison, 'edge')
    assert not comparison.left_out
    assert (edge.difference.mean, edge.speedup, edge.time_speedup) == (0.0, 1.0, 1.0)


def test_a_seed_without_evaluation_is_left_out_of_that_metric(make_run):
    def loss(step):
        return 3 - step / 200

    runs = {
        'base': [make_run('base', seed, segm=rise, loss_mask=loss) for seed in range(2)],
        'edge': [make_run('edge', seed, segm=rise if seed else None, loss_mask=loss) for seed in range(2)],
    }
    comparison = compare(runs)
    (left,) = comparison.left_out
    assert (left.variant, left.reason, left.metrics) == ('edge', 'no value', ('coco/segm_mAP',))
    assert list(result_of(comparison, 'edge').values) == [1]
    assert list(result_of(comparison, 'edge', 'loss_mask').values) == [0, 1]


def test_a_baseline_without_evaluation_gives_no_target(make_run):
    runs = {
        'base': [make_run('base', 0, loss_mask=lambda s: 3 - s / 200)],
        'edge': [make_run('edge', 0, segm=rise, loss_mask=lambda s: 3 - s / 200)],
    }
    edge = result_of(compare(runs), 'edge')
    assert (edge.difference, edge.target, edge.reached_at, edge.speedup) == (None, None, None, None)


def test_a_run_that_stopped_before_its_last_evaluation(make_run):
    runs = {
        'base': [make_run('base', seed, segm=rise) for seed in range(3)],
        'edge': [make_run('edge', seed, segm=rise, evaluate_every=400 if seed else 300) for seed in range(3)],
    }
    comparison = compare(runs)
    (left,) = comparison.left_out
    assert left.reason == 'last usable value at iteration 300, of the longest seed at 400'
    assert left.metrics == ('coco/segm_mAP',)


def test_evaluations_that_end_at_different_iterations(make_run):
    runs = {
        'base': [make_run('base', 0, segm=lambda s: s / 1000)],
        'edge': [make_run('edge', 0, segm=lambda s: s / 500, evaluate_every=150)],
    }
    comparison = compare(runs)
    assert comparison.notes == [
        'coco/segm_mAP is compared at iteration 300, the last that all have: base has later values.'
    ]
    assert result_of(comparison, 'base').values == pytest.approx({0: 0.3})


def test_divergence_is_named(make_run):
    runs = {
        'base': [make_run('base', seed, segm=rise) for seed in range(2)],
        'edge': [make_run('edge', 0, segm=rise)],
    }
    work_dir = runs['edge'][0].with_name('edge_1')
    write_log(work_dir, [train_line(10), {**train_line(20), 'loss': math.nan}])
    (work_dir / 'edge.py').write_text('randomness = dict(seed=1)')
    comparison = compare({**runs, 'edge': [*runs['edge'], work_dir]})
    assert [item.reason for item in comparison.left_out] == ['diverged: the loss is not finite from iteration 20 on']


def test_a_variant_without_usable_runs(make_run, tmp_path):
    base, edge = make_run('base', 0, segm=rise), tmp_path / 'edge_0'
    write_log(edge, [{'coco/segm_mAP': 0.1, 'step': 0}])
    comparison = compare({'base': [base], 'edge': [edge]})
    assert [item.reason for item in comparison.left_out] == ['no training iteration was logged']
    assert list(comparison.runs) == ['base']
    with pytest.raises(ValueError, match="baseline 'edge' has no usable run .*no training iteration was logged"):
        compare({'base': [base], 'edge': [edge]}, 'edge')


def test_the_same_seed_twice(make_run):
    runs = {'base': [make_run('base', 0, segm=rise), make_run('base', 0, segm=rise, folder='again')]}
    (left,) = compare(runs).left_out
    assert left.work_dir == runs['base'][1]
    assert left.reason.startswith('seed 0 again, after ')


def test_runs_without_a_seed_are_numbered(make_run):
    runs = [make_run('base', i, segm=rise, config_seed=i == 1) for i in range(3)]
    comparison = compare({'base': runs})
    assert {seed: run.work_dir for seed, run in comparison.runs['base'].items()} == {0: runs[0], 1: runs[1], 2: runs[2]}
    assert comparison.notes == ['base: 2 runs have no seed in their config: numbered, and paired, in the order given.']


def test_different_seeds_are_not_compared(make_run):
    runs = {'base': [make_run('base', 0, segm=rise)], 'edge': [make_run('edge', 1, segm=rise)]}
    assert result_of(compare(runs), 'edge').difference is None


def test_metrics(make_run):
    more = {
        'coco/segm_mAP_75': rise,
        'coco/segm_mAP_s': rise,
        'coco/boundary_mAP': rise,
        'coco/bbox_mAP_50': rise,
        'mask_branch/BCE': lambda s: 1 - rise(s),
    }
    runs = {'base': [make_run('base', 0, segm=rise, loss_mask=lambda s: 1 - rise(s), **more)]}
    # 'coco/bbox_mAP' is -1 everywhere.
    assert list(compare(runs).curves) == [
        'coco/segm_mAP',
        'coco/segm_mAP_75',
        'coco/boundary_mAP',
        'coco/bbox_mAP_50',
        'mask_branch/BCE',
        'loss_mask',
    ]
    assert not compare(runs).left_out
    assert list(compare(runs, metrics=['coco/segm_mAP_s']).curves) == ['coco/segm_mAP_s']
    with pytest.raises(ValueError, match="no run has logged 'coco/segm'; there are: .*coco/segm_mAP"):
        compare(runs, metrics=['coco/segm'])
    with pytest.raises(ValueError, match='no run has logged a usable value'):
        compare(runs, metrics=['coco/bbox_mAP'])


CONFIG = """
val_dataloader = dict(batch_size=1, dataset=dict(ann_file='val.json', pipeline=[dict(type='Resize', scale=(96, 96))]))
val_evaluator = [dict(type='CocoBoundaryMetric', ann_file='val.json', boundary_dilation_ratio=0.02, metric=['segm'])]
train_dataloader = dict(batch_size=2, num_workers=2)
train_cfg = dict(max_iters=400, val_interval=100)
param_scheduler = [dict(type='LinearLR', end=50), dict(type='MultiStepLR', milestones=[300])]
optim_wrapper = dict(optimizer=dict(type='SGD', lr=-0.02 + 0.04))
model = dict(loss_edge=None)
"""


@pytest.mark.parametrize(
    ('old', 'new', 'note'),
    [
        ("dataset=dict(ann_file='val", "dataset=dict(ann_file='test", 'val_dataloader.dataset.ann_file is test.json, '),
        ('scale=(96, 96)', 'scale=(64, 64)', 'val_dataloader.dataset.pipeline.0.scale is [64, 64], there [96, 96]'),
        ('ratio=0.02', 'ratio=0.005', 'val_evaluator.0.boundary_dilation_ratio is 0.005, there 0.02'),
        (', boundary_dilation_ratio=0.02', '', 'val_evaluator.0.boundary_dilation_ratio is not set, there 0.02'),
        ('batch_size=2', 'batch_size=16', 'train_dataloader.batch_size is 16, there 2'),
        ('milestones=[300]', 'milestones=[100, 200]', 'param_scheduler.1.milestones is [100, 200], there [300]'),
        ('max_iters=400', 'max_iters=800', 'train_cfg.max_iters is 800, there 400'),
        ('-0.02 + 0.04', '0.1', 'optim_wrapper.optimizer.lr is 0.1, there -0.02 + 0.04'),
        ('loss_edge=None', 'loss_edge=dict()', None),
        ("metric=['segm']", "metric=['bbox', 'segm']", None),
        ('num_workers=2', 'num_workers=0', None),
        ('val_interval=100', 'val_interval=50', None),
        ('dict(batch_size=1', 'dict(batch_size=2', None),
    ],
)
def test_runs_that_differ_in_more_than_the_model(make_run, old, new, note):
    assert old in CONFIG
    runs = {
        'base': [make_run('base', seed, segm=rise, config=CONFIG) for seed in range(2)],
        'edge': [make_run('edge', seed, segm=rise, config=CONFIG.replace(old, new)) for seed in range(2)],
    }
    notes = compare(runs).notes
    start = f'edge differs from {runs["base"][0]} in more than the model: '
    assert len(notes) == (note is not None)
    assert all(found.startswith(start + note) for found in notes)


def test_seeds_of_the_baseline_that_differ_among_themselves(make_run):
    other = CONFIG.replace('batch_size=2', 'batch_size=4').replace('max_iters=400', 'max_iters=500')
    runs = {'base': [make_run('base', seed, segm=rise, config=other if seed else CONFIG) for seed in range(2)]}
    (note,) = compare(runs).notes
    assert note == (
        f'base differs from {runs["base"][0]} in more than the model: train_cfg.max_iters is 500, there 400; '
        'train_dataloader.batch_size is 4, there 2'
    )


def test_a_config_that_cannot_be_read_is_not_compared(make_run):
    runs = {name: [make_run(name, 0, segm=rise, config=CONFIG)] for name in ('base', 'edge')}
    (runs['edge'][0] / 'edge.py').write_text('randomness = dict(')
    (note,) = compare(runs).notes
    assert note.startswith('edge: 1 runs have no seed')


def test_the_number_of_ranks_counts_too(make_run):
    runs = {name: [make_run(name, 0, segm=rise, config=CONFIG)] for name in ('base', 'edge')}

    def log(name, number):
        (start,) = runs[name][0].glob('2*')
        (start / 'x.log').write_text(f'    GPU number: {number}\n')

    log('base', 8)
    # Nothing is known of the other.
    assert compare(runs).notes == []
    log('edge', 8)
    assert compare(runs).notes == []
    log('edge', 1)
    (note,) = compare(runs).notes
    assert note.endswith('in more than the model: number of ranks is 1, there 8')


def test_baseline():
    assert choose_baseline(['a_edge', 'a', 'a_Edge-x']) == 'a'
    assert choose_baseline(['a_edge', 'a'], 'a_edge') == 'a_edge'
    for names in (['a', 'b', 'edge'], ['edge']):
        with pytest.raises(ValueError, match=f'choose with --baseline among: {", ".join(names)}'):
            choose_baseline(names)
    with pytest.raises(ValueError, match="no variant is called 'c'; there are: a, b"):
        choose_baseline(['a', 'b'], 'c')
