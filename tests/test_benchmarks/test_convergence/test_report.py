import io
import json
import math
import re

import numpy as np
import pytest
from mmcv import imread
from rich.console import Console
from scipy import stats

from benchmarks.convergence.report import (
    ConvergenceRun,
    convergence_markdown,
    draw_convergence,
    end_values,
    equal_steps_rows,
    make_convergence_table,
    read_convergence,
    step_ratio,
    step_ratio_markdown,
    tuned_learning_rate,
)

IOU, BCE = 'mask_branch/mIoU', 'mask_branch/BCE'


def run(setting, budget, seed, iou=None, rate=0.1, **more):
    metrics = {} if iou is None else {IOU: iou, BCE: 1 - iou, **more}
    return ConvergenceRun(setting, budget, rate, seed, metrics, 1.0)


def curve(setting, seed, values, budgets=(10, 20, 40, 80)):
    return [run(setting, budget, seed, value) for budget, value in zip(budgets, values)]


def ratio(runs, budget, metric=IOU, setting='edge'):
    return step_ratio(runs, setting, 'base', budget, metric, IOU)


def record(**changes):
    line = dict(
        spec='shapes_mask-branch',
        protocol='mask-branch',
        setting='edge',
        budget=120,
        learning_rate=0.05,
        seed=0,
        metrics={IOU: 0.83},
        seconds=31.2,
        finished='2026-01-01T00:00:00',
        versions={},
        commit='abc',
    )
    return {**line, **changes}


def write(path, *records):
    path.write_text(''.join(r if isinstance(r, str) else json.dumps(r) + '\n' for r in records))
    return path


def test_read(tmp_path):
    path = write(
        tmp_path / 'a.jsonl',
        record(),
        record(setting='base', budget=None, learning_rate=None, seed=3, metrics={}),
        '\n',
        record(seed=1),
        record(metrics={IOU: 1}, seconds=2),
        '{"setting": "ed',
    )
    assert read_convergence(path) == [
        ConvergenceRun('edge', 120, 0.05, 0, {IOU: 1.0}, 2),
        ConvergenceRun('base', None, None, 3, {}, 31.2),
        ConvergenceRun('edge', 120, 0.05, 1, {IOU: 0.83}, 31.2),
    ]
    assert read_convergence(write(tmp_path / 'empty.jsonl')) == []


def test_values_that_say_nothing_are_dropped(tmp_path):
    metrics = {IOU: math.nan, BCE: math.inf, 'coco/segm_mAP': -1.0, 'coco/bbox_mAP': 0.0}
    (found,) = read_convergence(write(tmp_path / 'a.jsonl', record(metrics=metrics)))
    assert found.metrics == {'coco/bbox_mAP': 0.0}


def without(key):
    return {k: v for k, v in record().items() if k != key}


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ('{"setting": "ed\n', 'not JSON'),
        ('12\n', 'must be an object, got 12'),
        (without('seed'), 'lacks seed$'),
        (without('metrics'), 'lacks metrics$'),
        (record(budget=0), 'budget must be null or a positive integer, got 0'),
        (record(budget='1x'), "budget must be null or a positive integer, got '1x'"),
        (record(metrics=None), 'metrics must be an object of numbers, got None'),
        (record(metrics={IOU: None}), 'metrics must be an object of numbers'),
    ],
)
def test_damaged_lines_are_named(tmp_path, line, message):
    path = write(tmp_path / 'a.jsonl', record(), '\n', line, record())
    with pytest.raises(ValueError, match=rf'a\.jsonl, line 3: {message}'):
        read_convergence(path)


def test_a_last_line_that_is_whole_but_wrong_is_an_error(tmp_path):
    with pytest.raises(ValueError, match='line 2: lacks budget'):
        read_convergence(write(tmp_path / 'a.jsonl', record(), without('budget')))


def rates(**values):
    """Runs from rate_1=(value of seed 0, of seed 1, ...)."""
    return [
        run('edge', 10, seed, value, rate=float(name[1:]) / 100)
        for name, seeds in values.items()
        for seed, value in enumerate(seeds)
    ]


@pytest.mark.parametrize(
    ('runs', 'metric', 'best'),
    [
        # The mean counts: 0.6, 0.65, 0.5.
        (rates(r1=(0.8, 0.4), r2=(0.6, 0.7), r4=(0.5, 0.5)), IOU, 0.02),
        (rates(r1=(0.8, 0.4), r2=(0.6, 0.7), r4=(0.5, 0.5)), BCE, 0.02),
        # One lucky seed does not beat two, unless the two have a run that diverged.
        (rates(r1=(0.9,), r2=(0.6, 0.7)), IOU, 0.02),
        (rates(r1=(0.5,), r2=(0.9, None)), IOU, 0.01),
        (rates(r1=(0.5,), r2=(0.9, 0.8, None)), IOU, 0.01),
        # All have some: the one with most values, then the best mean.
        (rates(r1=(0.9, None, None), r2=(0.6, 0.7, None), r4=(None, 0.8, 0.6)), IOU, 0.04),
        (rates(r1=(None,), r2=(None, 0.1)), IOU, 0.02),
        (rates(r1=(0.5,), r2=(0.5,)), IOU, 0.01),
    ],
)
def test_tuned_learning_rate(runs, metric, best):
    assert tuned_learning_rate(runs, 'edge', 10, metric) == best


def test_lower_is_better_when_tuning():
    runs = [run('edge', 10, 0, 0.5, rate=0.1, **{BCE: 0.7}), run('edge', 10, 0, 0.5, rate=0.2, **{BCE: 0.3})]
    assert tuned_learning_rate(runs, 'edge', 10, BCE) == 0.2
    assert tuned_learning_rate(runs, 'edge', 10, IOU) == 0.1


def test_each_budget_is_tuned_on_its_own_and_none_is_the_rate_of_the_config():
    runs = [
        *(run('edge', 10, 0, iou, rate) for rate, iou in ((0.1, 0.3), (0.2, 0.4))),
        *(run('edge', 20, 0, iou, rate) for rate, iou in ((0.1, 0.6), (0.2, 0.5))),
        *(run('edge', None, 0, iou, rate) for rate, iou in ((None, 0.8), (0.2, 0.7))),
        run('base', 30, 0, 0.9),
    ]
    assert [tuned_learning_rate(runs, 'edge', budget, IOU) for budget in (10, 20, None, 30)] == [0.2, 0.1, None, None]
    assert end_values(runs, 'edge', None, IOU) == {0: 0.8}
    assert end_values(runs, 'edge', 30, IOU) == {}


def test_end_values():
    runs = [
        run('edge', 10, 0, 0.5, rate=0.1, **{BCE: 0.9}),
        run('edge', 10, 1, 0.6, rate=0.1, **{BCE: 0.9}),
        run('edge', 10, 0, 0.3, rate=0.2, **{BCE: 0.1}),
        run('edge', 10, 1, None, rate=0.3),
        run('base', 10, 0, 0.9),
    ]
    assert end_values(runs, 'edge', 10, IOU) == {0: 0.5, 1: 0.6}
    assert end_values(runs, 'edge', 10, IOU, learning_rate=0.2) == {0: 0.3}
    assert end_values(runs, 'edge', 10, IOU, learning_rate=0.3) == {}
    assert end_values(runs, 'edge', 10, IOU, learning_rate=0.4) == {}
    # Two seeds before one, whatever the metric; with one seed each the tuning metric decides.
    assert end_values(runs, 'edge', 10, IOU, tuning_metric=BCE) == {0: 0.5, 1: 0.6}
    assert end_values(runs[:1] + runs[2:3], 'edge', 10, IOU, tuning_metric=BCE) == {0: 0.3}


def test_step_ratio_by_hand():
    runs = [
        *curve('base', 0, (0.2, 0.3, 0.5, 0.6)),
        *curve('base', 1, (0.2, 0.3, 0.6, 0.7)),
        *curve('edge', 0, (0.1, 0.5, 0.7, 0.9)),
        *curve('edge', 1, (0.1, 0.5, 0.7, 0.9)),
        # Without a partner: the baseline has no seed 2, this setting no seed 3.
        *curve('edge', 2, (0.1, 0.1, 0.1, 0.1)),
        *curve('base', 3, (0.9, 0.9, 0.9, 0.9)),
    ]
    # Seed 0 is at 0.5 in 20 steps, seed 1 at 0.6 in 20 * sqrt(2), which is halfway from 20 to 40 in log(steps).
    # Logs of the ratios: ln 2 and ln 2 / 2; standard error (ln 2 / 2) / sqrt(2) / sqrt(2); t(0.975; 1) = 12.7062.
    found = ratio(runs, 40)
    assert found.mean == pytest.approx(2**0.75)
    half = 12.706204736432095 * 0.25
    assert found.interval == pytest.approx((2 ** (0.75 - half), 2 ** (0.75 + half)))
    assert (found.pairs, found.is_lower_bound) == (2, False)
    # BCE is 1 - IoU here: the same steps, from above.
    assert ratio(runs, 40, BCE).mean == pytest.approx(found.mean)
    assert ratio(runs, 40, BCE).interval == pytest.approx(found.interval)


def test_interval_agrees_with_scipy():
    ends = {0: 0.31, 1: 0.43, 2: 0.38, 3: 0.52}
    runs = [
        *(run('base', 40, seed, value) for seed, value in ends.items()),
        *(r for seed in ends for r in curve('edge', seed, (0.1, 0.3, 0.5, 0.7))),
    ]
    # 0.1 for each doubling of the budget, from 0.1 at 10 on: log2(steps / 10) = (value - 0.1) / 0.2.
    logs = [math.log(40 / (10 * 2 ** ((value - 0.1) / 0.2))) for value in ends.values()]
    expected = stats.ttest_1samp(logs, 0).confidence_interval(0.95)
    found = ratio(runs, 40)
    assert found.mean == pytest.approx(stats.gmean(np.exp(logs)))
    assert found.interval == pytest.approx((math.exp(expected.low), math.exp(expected.high)))


def test_the_last_crossing_counts():
    runs = [run('base', 80, 0, 0.5), *curve('edge', 0, (0.1, 0.6, 0.4, 0.9))]
    # A fifth of the way from 40 to 80 in log(steps); the first crossing, before 20, was luck.
    found = ratio(runs, 80)
    assert found.mean == pytest.approx(80 / (40 * 2**0.2))
    assert (found.interval, found.pairs, found.is_lower_bound) == (None, 1, False)
    assert ratio([run('base', 80, 0, 0.5), *curve('edge', 0, (0.1, 0.6, 0.9, 0.4))], 80) is None


def test_needing_more_steps_is_below_one():
    runs = [run('base', 20, 0, 0.7), *curve('edge', 0, (0.1, 0.3, 0.7, 0.9))]
    assert ratio(runs, 20).mean == pytest.approx(0.5)


def test_a_target_reached_in_the_smallest_budget_gives_a_lower_bound():
    runs = [
        *(run('base', 40, seed, 0.5) for seed in range(2)),
        *curve('edge', 0, (0.6, 0.7, 0.8, 0.9)),
        *curve('edge', 1, (0.4, 0.5, 0.8, 0.9)),
    ]
    # At least 4, and 2: their geometric mean is at least 8 ** 0.5. The 4 may be more, so that there is no interval.
    found = ratio(runs, 40)
    assert found.mean == pytest.approx(8**0.5)
    assert (found.interval, found.pairs, found.is_lower_bound) == (None, 2, True)


def test_one_seed_that_does_not_get_there_leaves_no_ratio():
    runs = [
        *(run('base', 40, seed, 0.5) for seed in range(2)),
        *curve('edge', 0, (0.1, 0.6, 0.7, 0.8)),
        *curve('edge', 1, (0.1, 0.2, 0.3, 0.4)),
    ]
    assert ratio(runs, 40) is None
    assert ratio(runs[:-4], 40).pairs == 1


def test_a_run_that_diverged_is_not_at_the_target():
    base = run('base', 80, 0, 0.5)
    # Between a run that diverged and one at the target nothing can be interpolated: the latter counts.
    assert ratio([base, *curve('edge', 0, (0.1, 0.6, None, 0.9))], 80).mean == pytest.approx(1)
    assert ratio([base, *curve('edge', 0, (None, 0.6, 0.7, 0.9))], 80).mean == pytest.approx(4)
    assert not ratio([base, *curve('edge', 0, (None, 0.6, 0.7, 0.9))], 80).is_lower_bound
    assert ratio([base, *curve('edge', 0, (0.1, 0.6, 0.7, None))], 80) is None
    # A budget that was not tried says nothing, and neither does the config's own schedule.
    tried = [r for r in curve('edge', 0, (0.1, 0.3, 0.2, 0.5)) if r.budget != 40]
    assert ratio([base, *tried, run('edge', None, 0, 0.1)], 80).mean == pytest.approx(1)
    # Without a target there is nothing to compare.
    assert ratio([run('base', 80, 0, None), *tried], 80) is None


def test_the_ratio_uses_the_tuned_rates():
    runs = [
        run('base', 40, 0, 0.5, rate=0.1),
        run('base', 40, 0, 0.2, rate=0.9),
        *curve('edge', 0, (0.1, 0.5, 0.7, 0.9)),
        run('edge', 80, 0, 0.0, rate=0.9),
        run('edge', 10, 0, 0.05, rate=0.9),
    ]
    assert ratio(runs, 40).mean == pytest.approx(2)


@pytest.fixture
def runs():
    """A setting that is better, one that is not clearly so, one with a single seed, one that diverged, one without."""
    better = {0: 0.42, 1: 0.53, 2: 0.64}
    return [
        *(run('edge', 40, seed, iou, rate=0.2) for seed, iou in better.items()),
        *(run('base', 40, seed, iou) for seed, iou in {0: 0.4, 1: 0.5, 2: 0.6}.items()),
        *(run('edge', 40, seed, iou - 0.1, rate=0.1) for seed, iou in better.items()),
        *(run('mixed', 40, seed, iou) for seed, iou in {0: 0.5, 1: 0.4, 2: 0.6, 3: 0.7}.items()),
        run('one|[b]', 40, 1, 0.45, rate=None),
        run('lost', 40, 0, None),
        run('lost', 40, 1, 0.4),
        run('lost', 40, 2, None),
        run('longer', 80, 0, 0.9),
    ]


def test_equal_steps_rows(runs):
    rows = {row.setting: row for row in equal_steps_rows(runs, 'base', 40, [IOU, BCE], IOU)}
    assert list(rows) == ['base', 'edge', 'mixed', 'one|[b]', 'lost', 'longer']
    assert rows['base'].differences == {IOU: None, BCE: None}
    edge = rows['edge']
    assert (edge.learning_rate, edge.seeds, edge.diverged) == (0.2, 3, 0)
    assert edge.values[IOU] == {0: 0.42, 1: 0.53, 2: 0.64}
    # 0.02, 0.03 and 0.04 better than 0.5 in the mean.
    percent = edge.differences[IOU]
    expected = stats.ttest_1samp([4, 6, 8], 0).confidence_interval(0.95)
    assert percent.mean == pytest.approx(6)
    assert percent.interval == pytest.approx((expected.low, expected.high))
    assert percent.sign == 1 and edge.differences[BCE].sign == -1
    assert rows['mixed'].differences[IOU].pairs == 3
    # Of seed 1 only.
    assert rows['one|[b]'].differences[IOU].mean == pytest.approx(-10)
    assert (rows['lost'].seeds, rows['lost'].diverged) == (1, 2)
    assert (rows['longer'].learning_rate, rows['longer'].values) == (None, {IOU: {}, BCE: {}})


def test_markdown(runs):
    text = convergence_markdown(runs, 'base', 40, [IOU, BCE], IOU)
    assert text.splitlines() == [
        '| setting | learning rate | seeds | mask IoU | difference [95 % interval] | mask BCE (lower is better) '
        '| difference [95 % interval] |',
        '|---|---:|---:|---:|---:|---:|---:|',
        '| base | 0.1 | 3 | 0.5000 ± 0.1000 | baseline | 0.5000 ± 0.1000 | baseline |',
        '| edge | 0.2 | 3 | 0.5300 ± 0.1100 | **+6.00 % [+1.03, +10.97]** | 0.4700 ± 0.1100 '
        '| **-6.00 % [-10.97, -1.03]** |',
        '| mixed | 0.1 | 4 | 0.5500 ± 0.1291 | +0.00 % [-49.68, +49.68] (3 pairs) | 0.4500 ± 0.1291 '
        '| +0.00 % [-49.68, +49.68] (3 pairs) |',
        r"| one\|[b] | config's | 1 | 0.4500 | -10.00 % (n = 1) | 0.5500 | +10.00 % (n = 1) |",
        '| lost | 0.1 | 1 (2 diverged) | 0.4000 | -20.00 % (n = 1) | 0.6000 | +20.00 % (n = 1) |',
        '| longer | \u2013 | \u2013 | \u2013 | \u2013 | \u2013 | \u2013 |',
    ]
    assert text.endswith('|\n')


def test_settings_choose_and_order(runs):
    text = convergence_markdown(runs, 'base', 40, [IOU], IOU, settings=['mixed', 'base', 'edge'])
    assert re.findall(r'^\| (\w+) \|', text, flags=re.MULTILINE) == ['setting', 'base', 'mixed', 'edge']


def test_a_baseline_without_runs_or_of_zero_leaves_no_difference():
    runs = [run('base', 10, 0, 0.0), run('edge', 10, 0, 0.5), run('base', 20, 0, 0.4), run('other', 40, 0, 0.4)]
    assert '| edge | 0.1 | 1 | 0.5000 | \u2013 |' in convergence_markdown(runs, 'base', 10, [IOU], IOU)
    assert '| other | 0.1 | 1 | 0.4000 | \u2013 |' in convergence_markdown(runs, 'base', 40, [IOU], IOU)


def test_a_metric_that_only_some_seeds_have():
    runs = [run('base', 10, seed, 0.5) for seed in range(2)]
    runs += [run('edge', 10, 0, 0.5, **{'coco/segm_mAP': 0.2}), run('edge', 10, 1, 0.5)]
    text = convergence_markdown(runs, 'base', 10, ['coco/segm_mAP', 'mask_branch/mIoU'], IOU)
    assert '| edge | 0.1 | 2 | 0.2000 (n = 1) | \u2013 | 0.5000 ± 0.0000 |' in text
    assert '| setting | learning rate | seeds | mask AP |' in text


def test_rich_table(runs):
    console = Console(width=180, file=io.StringIO(), force_terminal=True, color_system='standard')
    console.print(make_convergence_table(runs, 'base', 40, [IOU, BCE], IOU))
    text = console.file.getvalue()
    assert 'End of 40 steps; learning rates tuned by mask IoU' in text
    assert 'one|[b]' in text
    # Less BCE is better, too.
    assert text.count('\x1b[32m') == 2 and '\x1b[31m' not in text
    worse = Console(width=180, file=io.StringIO(), force_terminal=True, color_system='standard')
    worse.print(make_convergence_table(runs, 'edge', 40, [IOU, BCE], IOU, settings=['base']))
    assert worse.file.getvalue().count('\x1b[31m') == 2 and '\x1b[32m' not in worse.file.getvalue()


def test_step_ratio_markdown(runs):
    budgets = (10, 20, 40, 80)
    runs = [
        *(run('base', 20, seed, iou) for seed, iou in enumerate((0.3, 0.31, 0.32))),
        *(run('base', 40, seed, iou) for seed, iou in enumerate((0.5, 0.51, 0.52))),
        *(r for seed in range(3) for r in curve('fast', seed, (0.1, 0.5, 0.7, 0.9), budgets)),
        *(r for seed in range(3) for r in curve('slow', seed, (0.1, 0.2, 0.3, 0.51), budgets)),
        *curve('at|once', 0, (0.6, 0.7, 0.8, 0.9), budgets),
        *curve('single', 0, (0.1, 0.3, 0.4, 0.5), budgets),
        *curve('stranger', 7, (0.1, 0.3, 0.4, 0.5), budgets),
    ]
    text = step_ratio_markdown(runs, 'base', [20, 40], [IOU, BCE], IOU)
    fast = [math.log(2), *(math.log(2) * (1 - share) for share in (0.05, 0.1))]
    low, high = np.exp(stats.ttest_1samp(fast, 0).confidence_interval(0.95))
    fast_cell = f'**{stats.gmean(np.exp(fast)):.2f} [{low:.2f}, {high:.2f}]**'
    lines = text.splitlines()
    assert lines[0] == "| setting | baseline's steps | mask IoU | mask BCE |"
    assert lines[1] == '|---|---:|---:|---:|'
    assert f'| fast | 40 | {fast_cell} | {fast_cell} |' in lines
    assert '| slow | 40 | not reached by 1 of 3 | not reached by 1 of 3 |' in lines
    assert re.fullmatch(r'\| slow \| 20 \| \*\*0\.4\d \[0\.4\d, 0\.5\d\]\*\* .*', lines[4])
    assert r'| at\|once | 40 | ≥ 4.00 (n = 1) | ≥ 4.00 (n = 1) |' in lines
    assert '| single | 20 | 1.00 (n = 1) | 1.00 (n = 1) |' in lines
    assert '| stranger | 20 | \u2013 | \u2013 |' in lines
    assert len(lines) == 2 + 2 * 5
    chosen = step_ratio_markdown(runs, 'base', [40], [IOU], IOU, settings=['single', 'fast']).splitlines()
    assert [line.split(' | ')[0] for line in chosen[2:]] == ['| single', '| fast']


@pytest.mark.parametrize(
    'call',
    [
        lambda runs, **k: tuned_learning_rate(runs, k.get('setting', 'edge'), 40, k.get('metric', IOU)),
        lambda runs, **k: end_values(runs, k.get('setting', 'edge'), 40, k.get('metric', IOU)),
        lambda runs, **k: end_values(runs, k.get('setting', 'edge'), 40, IOU, tuning_metric=k.get('metric', IOU)),
        lambda runs, **k: ratio(runs, 40, k.get('metric', IOU), k.get('setting', 'edge')),
        lambda runs, **k: convergence_markdown(runs, k.get('setting', 'base'), 40, [k.get('metric', IOU)], IOU),
        lambda runs, **k: make_convergence_table(
            runs, 'base', 40, [k.get('metric', IOU)], IOU, [k.get('setting', 'edge')]
        ),
        lambda runs, **k: step_ratio_markdown(
            runs, 'base', [40], [IOU], k.get('metric', IOU), [k.get('setting', 'edge')]
        ),
        lambda runs, **k: draw_convergence(runs, k.get('setting', 'base'), None, [k.get('metric', IOU)], IOU, 'no'),
    ],
)
def test_unknown_names(runs, call):
    with pytest.raises(ValueError, match="no run has the setting 'egde'; there are: edge, base, mixed, "):
        call(runs, setting='egde')
    with pytest.raises(ValueError, match=f"no run has the metric 'mIoU'; there are: {BCE}, {IOU}$"):
        call(runs, metric='mIoU')


def test_unknown_budgets(runs):
    for call in (
        lambda: convergence_markdown(runs, 'base', 41, [IOU], IOU),
        lambda: step_ratio_markdown(runs, 'base', [40, 41], [IOU], IOU),
        lambda: ratio(runs, 41),
    ):
        with pytest.raises(ValueError, match='no run has the budget 41; there are: 40, 80'):
            call()
    with pytest.raises(ValueError, match="no run has the setting 'base'; there are: none"):
        convergence_markdown([], 'base', 40, [IOU], IOU)


def colours_of(picture):
    return {
        name: int((np.abs(picture.astype(int) - colour).max(-1) < 8).sum())
        for name, colour in dict(base=(0x33, 0x33, 0x33), edge=(0xD5, 0x5E, 0x00), other=(0x00, 0x72, 0xB2)).items()
    }


def test_figure(tmp_path):
    rng = np.random.default_rng(0)
    metrics = [IOU, BCE, 'coco/segm_mAP', 'coco/boundary_mAP']
    runs = [run('base', None, 0, 0.9)]
    for name, lead in (('base', 0.0), ('edge', 0.1)):
        for budget in (30, 60, 120, 240):
            for seed in range(3 if name == 'base' else 1):
                iou = 0.1 * math.log(budget) + lead + rng.normal(0, 0.01)
                runs.append(run(name, budget, seed, iou, **dict.fromkeys(metrics[2:], iou / 2)))
    path = tmp_path / 'new' / 'figure.png'
    draw_convergence(runs, 'base', ['edge'], metrics, IOU, path)
    picture = imread(str(path), channel_order='rgb')
    # Two rows of two panels.
    assert 780 < picture.shape[1] < 900 and 600 < picture.shape[0] < 800
    drawn = colours_of(picture)
    assert drawn['base'] > 300 and drawn['edge'] > 300 and drawn['other'] == 0
    draw_convergence(runs, 'edge', [], [IOU], IOU, path)
    one = imread(str(path), channel_order='rgb')
    assert 380 < one.shape[1] < 460 and colours_of(one)['edge'] == 0


def test_settings_without_a_budget_are_not_drawn(tmp_path):
    runs = [*curve('base', 0, (0.1, 0.2, 0.3, 0.4)), run('edge', None, 0, 0.5), run('lost', 10, 0, None)]
    draw_convergence(runs, 'base', None, [IOU], IOU, tmp_path / 'a.png')
    assert colours_of(imread(str(tmp_path / 'a.png'), channel_order='rgb'))['edge'] == 0
    with pytest.raises(ValueError, match=f'none of edge has a value of {IOU} at a budget'):
        draw_convergence(runs, 'edge', [], [IOU], IOU, tmp_path / 'b.png')
    assert not (tmp_path / 'b.png').exists()
