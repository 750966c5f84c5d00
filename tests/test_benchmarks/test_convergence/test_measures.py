"""What is compared: tuned learning rates, ends of equal budgets, and iterations needed."""

import math

import numpy as np
import pytest
from scipy import stats

from benchmarks.convergence.measures import Study, iterations_needed, tuned_results
from mmdet_edge.errors import UserError

from .conftest import BCE, IOU, curve, run


def study(results, baseline='base', metrics=(IOU, BCE), tuning_metric=IOU):
    return Study(results, baseline, metrics, tuning_metric)


def tuned_rate(results, budget=10, metric=IOU):
    rates = {result.key.learning_rate for result in tuned_results(results, 'edge', budget, metric)}
    assert len(rates) <= 1
    return rates.pop() if rates else 'no run'


def speed_up(results, budget, metric=IOU):
    return study(results).speed_up('edge', budget, metric)


def rates(**values):
    """Runs from rate_1=(value of seed 0, of seed 1, ...)."""
    return [
        run('edge', 10, seed, value, rate=float(name[1:]) / 100)
        for name, seeds in values.items()
        for seed, value in enumerate(seeds)
    ]


@pytest.mark.parametrize(
    ('results', 'metric', 'best'),
    [
        # The mean counts: 0.6, 0.65, 0.5.
        (rates(r1=(0.8, 0.4), r2=(0.6, 0.7), r4=(0.5, 0.5)), IOU, 0.02),
        (rates(r1=(0.8, 0.4), r2=(0.6, 0.7), r4=(0.5, 0.5)), BCE, 0.02),
        # One lucky seed does not beat two, unless the two have a run that diverged.
        (rates(r1=(0.9,), r2=(0.6, 0.7)), IOU, 0.02),
        (rates(r1=(0.5,), r2=(0.9, None)), IOU, 0.01),
        (rates(r1=(0.5,), r2=(0.9, 0.8, None)), IOU, 0.01),
        # At all rates some diverged: the one with most values, then the best mean.
        (rates(r1=(0.9, None, None), r2=(0.6, 0.7, None), r4=(None, 0.8, 0.6)), IOU, 0.04),
        (rates(r1=(None,), r2=(None, 0.1)), IOU, 0.02),
        (rates(r1=(0.5,), r2=(0.5,)), IOU, 0.01),
    ],
)
def test_tuned_learning_rate_is_the_best_of_those_that_do_not_diverge(results, metric, best):
    assert tuned_rate(results, metric=metric) == best


@pytest.mark.parametrize('metric, best', [(BCE, 0.2), (IOU, 0.1)])
def test_lower_is_better_when_tuning(metric, best):
    results = [run('edge', 10, 0, 0.5, rate=0.1, **{BCE: 0.7}), run('edge', 10, 0, 0.5, rate=0.2, **{BCE: 0.3})]
    assert tuned_rate(results, metric=metric) == best


@pytest.mark.parametrize('budget, best', [(10, 0.2), (20, 0.1), (None, None), (30, 'no run')])
def test_each_budget_is_tuned_on_its_own_and_none_is_the_rate_of_the_config(budget, best):
    results = [
        *(run('edge', 10, 0, iou, rate) for rate, iou in ((0.1, 0.3), (0.2, 0.4))),
        *(run('edge', 20, 0, iou, rate) for rate, iou in ((0.1, 0.6), (0.2, 0.5))),
        *(run('edge', None, 0, iou, rate) for rate, iou in ((None, 0.8), (0.2, 0.7))),
        run('base', 30, 0, 0.9),
    ]
    assert tuned_rate(results, budget) == best


def test_end_values_are_those_of_the_tuned_rate():
    results = [
        run('edge', 10, 0, 0.5, rate=0.1, **{BCE: 0.9}),
        run('edge', 10, 1, 0.6, rate=0.1, **{BCE: 0.9}),
        run('edge', 10, 0, 0.3, rate=0.2, **{BCE: 0.1}),
        run('edge', 10, 1, None, rate=0.3),
        run('base', 10, 0, 0.9),
    ]
    assert study(results).end_values('edge', 10, IOU) == {0: 0.5, 1: 0.6}
    assert study(results).end_values('edge', 20, IOU) == {}
    # Two seeds go before one, whatever the metric; with one seed each the tuning metric decides.
    assert study(results, tuning_metric=BCE).end_values('edge', 10, IOU) == {0: 0.5, 1: 0.6}
    few = results[:1] + results[2:3]
    assert study(few, 'edge', tuning_metric=BCE).end_values('edge', 10, IOU) == {0: 0.3}


@pytest.mark.parametrize(
    'values, target, expected',
    [
        ((0.1, 0.5, 0.7, 0.9), 0.5, 20),
        # Halfway from 20 to 40 in log(iterations).
        ((0.1, 0.5, 0.7, 0.9), 0.6, 20 * math.sqrt(2)),
        # The last crossing counts, a fifth of the way from 40 to 80; the first one, before 20, was luck.
        ((0.1, 0.6, 0.4, 0.9), 0.5, 40 * 2**0.2),
        ((0.1, 0.6, 0.9, 0.4), 0.5, None),
        # From the smallest budget on.
        ((0.6, 0.7, 0.8, 0.9), 0.5, 10),
        # Nothing can be interpolated from a run that diverged.
        ((0.1, 0.6, math.nan, 0.9), 0.5, 80),
        ((math.nan, 0.6, 0.7, 0.9), 0.5, 20),
        ((0.1, 0.6, 0.7, math.nan), 0.5, None),
    ],
)
@pytest.mark.parametrize('lower', [False, True])
def test_iterations_needed_by_hand(values, target, expected, lower):
    sign = -1 if lower else 1
    curve = {budget: sign * value for budget, value in zip((10, 20, 40, 80), values)}
    found = iterations_needed(curve, sign * target, lower)
    assert found == (expected and pytest.approx(expected))


def test_speed_up_by_hand():
    results = [
        *curve('base', 0, (0.2, 0.3, 0.5, 0.6)),
        *curve('base', 1, (0.2, 0.3, 0.6, 0.7)),
        *curve('edge', 0, (0.1, 0.5, 0.7, 0.9)),
        *curve('edge', 1, (0.1, 0.5, 0.7, 0.9)),
        # Without a partner: the baseline has no seed 2, this setting no seed 3.
        *curve('edge', 2, (0.1, 0.1, 0.1, 0.1)),
        *curve('base', 3, (0.9, 0.9, 0.9, 0.9)),
    ]
    # Seed 0 needs 20 iterations for 0.5, seed 1 20 * sqrt(2) for 0.6.
    # Logs of the ratios: ln 2 and ln 2 / 2; standard error (ln 2 / 2) / sqrt(2) / sqrt(2); t(0.975; 1) = 12.7062.
    found = speed_up(results, 40)
    assert found.mean == pytest.approx(2**0.75)
    half = 12.706204736432095 * 0.25
    assert found.interval == pytest.approx((2 ** (0.75 - half), 2 ** (0.75 + half)))
    assert (found.seeds, found.missed, found.is_lower_bound) == (2, 0, False)
    # BCE is 1 - IoU here: the same iterations, from above.
    assert speed_up(results, 40, BCE).mean == pytest.approx(found.mean)
    assert speed_up(results, 40, BCE).interval == pytest.approx(found.interval)


def test_needing_more_iterations_is_below_one():
    results = [run('base', 20, 0, 0.7), *curve('edge', 0, (0.1, 0.3, 0.7, 0.9))]
    assert speed_up(results, 20).mean == pytest.approx(0.5)
    assert speed_up(results, 20).interval is None


def test_a_target_reached_in_the_smallest_budget_gives_a_lower_bound():
    results = [
        *(run('base', 40, seed, 0.5) for seed in range(2)),
        *curve('edge', 0, (0.6, 0.7, 0.8, 0.9)),
        *curve('edge', 1, (0.4, 0.5, 0.8, 0.9)),
    ]
    # At least 4, and 2: their geometric mean is at least 8 ** 0.5. The 4 may be more, so that there is no interval.
    found = speed_up(results, 40)
    assert found.mean == pytest.approx(8**0.5)
    assert (found.interval, found.seeds, found.is_lower_bound) == (None, 2, True)


def test_one_seed_that_misses_the_target_leaves_no_ratio():
    results = [
        *(run('base', 40, seed, 0.5) for seed in range(2)),
        *curve('edge', 0, (0.1, 0.6, 0.7, 0.8)),
        *curve('edge', 1, (0.1, 0.2, 0.3, 0.4)),
    ]
    found = speed_up(results, 40)
    assert (found.mean, found.missed, found.seeds) == (None, 1, 2)
    assert speed_up(results[:-4], 40).seeds == 1


def test_a_run_that_diverged_does_not_reach_the_target():
    base = run('base', 80, 0, 0.5)
    assert speed_up([base, *curve('edge', 0, (0.1, 0.6, 0.7, None))], 80).missed == 1
    found = speed_up([base, *curve('edge', 0, (None, 0.6, 0.7, 0.9))], 80)
    assert found.mean == pytest.approx(4) and not found.is_lower_bound
    # A budget that was not tried says nothing, and neither does the config's own schedule.
    tried = [r for r in curve('edge', 0, (0.1, 0.3, 0.2, 0.5)) if r.key.budget != 40]
    assert speed_up([base, *tried, run('edge', None, 0, 0.1)], 80).mean == pytest.approx(1)
    # Without a target there is nothing to compare.
    assert speed_up([run('base', 80, 0, None), *tried], 80) is None


def test_the_speed_up_uses_the_tuned_rates():
    results = [
        run('base', 40, 0, 0.5, rate=0.1),
        run('base', 40, 0, 0.2, rate=0.9),
        *curve('edge', 0, (0.1, 0.5, 0.7, 0.9)),
        run('edge', 80, 0, 0.0, rate=0.9),
        run('edge', 10, 0, 0.05, rate=0.9),
    ]
    assert speed_up(results, 40).mean == pytest.approx(2)


def test_equal_iterations_compares_what_has_a_run_at_the_budget(results):
    rows = {row.setting: row for row in study(results).equal_iterations(40)}
    # The baseline first, the others as in the file; 'longer' has no run at this budget.
    assert list(rows) == ['base', 'edge', 'mixed', 'one|[b]', 'lost']
    assert rows['base'].differences == {IOU: None, BCE: None}
    edge = rows['edge']
    assert (edge.learning_rate, edge.seeds, edge.diverged) == (0.2, 3, 0)
    assert edge.values[IOU] == {0: 0.42, 1: 0.53, 2: 0.64}
    # 0.02, 0.03 and 0.04 better than 0.5 on average.
    percent = edge.differences[IOU]
    expected = stats.ttest_1samp([4, 6, 8], 0).confidence_interval(0.95)
    assert percent.mean == pytest.approx(6)
    assert percent.interval == pytest.approx((expected.low, expected.high))
    assert percent.sign == 1 and edge.differences[BCE].sign == -1
    assert rows['mixed'].differences[IOU].pairs == 3
    # Of seed 1 only.
    assert rows['one|[b]'].differences[IOU].mean == pytest.approx(-10)
    assert (rows['lost'].seeds, rows['lost'].diverged) == (1, 2)
    (base, longer) = study(results).equal_iterations(80)
    assert (base.learning_rate, base.values) == (None, {IOU: {}, BCE: {}}) and longer.differences[IOU] is None


def test_own_schedule_comes_last_and_counts_as_no_budget(results):
    results = [
        *curve('two', 0, (0.1, 0.2), (40, 20)),
        run('base', None, 0, 0.1),
        *curve('base', 0, (0.1, 0.2), (40, 20)),
        *curve('a', 0, (0.1, 0.2)),
        run('one', 40, 0, 0.1),
        run('one', None, 0, 0.1),
    ]
    assert study(results).budgets == [20, 40, None]
    assert study(results).lengthened == ['a', 'two']
    curves = study(results).curves(IOU)
    assert list(curves) == ['base', 'a', 'two'] and curves['base'] == {20: [0.2], 40: [0.1]}


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(baseline='egde'), "no run has the setting 'egde'; there are: edge, base, mixed, "),
        (dict(metrics=[IOU, 'mIoU']), f"no run has the metric 'mIoU'; there are: {BCE}, {IOU}$"),
        (dict(tuning_metric='mIoU'), f"no run has the metric 'mIoU'; there are: {BCE}, {IOU}$"),
        (dict(results=[]), "no run has the setting 'base'; there are: none"),
    ],
)
def test_unknown_names_are_an_error(results, changes, message):
    with pytest.raises(UserError, match=message):
        study(**{'results': results, **changes})


def test_an_unknown_budget_is_an_error(results):
    with pytest.raises(UserError, match='no run has the budget 41; there are: 40, 80'):
        study(results).equal_iterations(41)


def test_interval_of_the_speed_up_is_students(results):
    ends = {0: 0.31, 1: 0.43, 2: 0.38, 3: 0.52}
    results = [
        *(run('base', 40, seed, value) for seed, value in ends.items()),
        *(r for seed in ends for r in curve('edge', seed, (0.1, 0.3, 0.5, 0.7))),
    ]
    # 0.2 for each doubling of the budget, from 0.1 at 10 on.
    logs = np.log([40 / (10 * 2 ** ((value - 0.1) / 0.2)) for value in ends.values()])
    half = stats.t.ppf(0.975, 3) * logs.std(ddof=1) / 2
    found = speed_up(results, 40)
    assert found.mean == pytest.approx(stats.gmean(np.exp(logs)))
    assert np.log(found.interval) == pytest.approx([logs.mean() - half, logs.mean() + half])
