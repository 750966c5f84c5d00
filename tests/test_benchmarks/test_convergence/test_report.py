"""Tables and figure of a benchmark."""

import io
import math
import re

import numpy as np
import pytest
from mmcv import imread
from rich.console import Console
from scipy import stats

from benchmarks.convergence.measures import Study
from benchmarks.convergence.report import (
    draw_study,
    equal_iterations_markdown,
    make_table,
    speed_up_markdown,
    write_report,
)
from mmdet_edge.errors import UserError

from .conftest import BCE, IOU, curve, run


def study(results, baseline='base', metrics=(IOU, BCE)):
    return Study(results, baseline, metrics, tuning_metric=IOU)


def test_markdown_table_of_equal_iterations(results):
    text = equal_iterations_markdown(study(results), 40)
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
    ]
    assert text.endswith('|\n')


@pytest.mark.parametrize(
    'budget, row',
    [(10, '| edge | 0.1 | 1 | 0.5000 | \u2013 |'), (40, '| base | \u2013 | \u2013 | \u2013 | baseline |')],
)
def test_a_baseline_without_runs_or_of_zero_leaves_no_difference(budget, row):
    results = [run('base', 10, 0, 0.0), run('edge', 10, 0, 0.5), run('base', 20, 0, 0.4), run('other', 40, 0, 0.4)]
    assert row in equal_iterations_markdown(study(results, metrics=[IOU]), budget)


def test_a_metric_that_only_some_seeds_have():
    results = [run('base', 10, seed, 0.5) for seed in range(2)]
    results += [run('edge', 10, 0, 0.5, **{'coco/segm_mAP': 0.2}), run('edge', 10, 1, 0.5)]
    text = equal_iterations_markdown(study(results, metrics=['coco/segm_mAP', IOU]), 10)
    assert '| edge | 0.1 | 2 | 0.2000 (n = 1) | \u2013 | 0.5000 ± 0.0000 |' in text
    assert '| setting | learning rate | seeds | mask AP |' in text


def printed(table):
    console = Console(width=180, file=io.StringIO(), force_terminal=True, color_system='standard')
    console.print(table)
    return console.file.getvalue()


def test_terminal_shows_better_in_green_and_worse_in_red(results):
    text = printed(make_table(study(results), 40))
    assert 'End of 40 iterations; learning rates tuned by mask IoU' in text and 'one|[b]' in text
    # Less BCE is better, too.
    assert text.count('\x1b[32m') == 2 and '\x1b[31m' not in text
    only_two = [result for result in results if result.key.setting in ('base', 'edge')]
    worse = printed(make_table(study(only_two, 'edge'), 40))
    assert worse.count('\x1b[31m') == 2 and '\x1b[32m' not in worse


def test_markdown_table_of_speed_ups():
    results = [
        *(run('base', 20, seed, iou) for seed, iou in enumerate((0.3, 0.31, 0.32))),
        *(run('base', 40, seed, iou) for seed, iou in enumerate((0.5, 0.51, 0.52))),
        *(r for seed in range(3) for r in curve('fast', seed, (0.1, 0.5, 0.7, 0.9))),
        *(r for seed in range(3) for r in curve('slow', seed, (0.1, 0.2, 0.3, 0.51))),
        *curve('at|once', 0, (0.6, 0.7, 0.8, 0.9)),
        *curve('single', 0, (0.1, 0.3, 0.4, 0.5)),
        *curve('stranger', 7, (0.1, 0.3, 0.4, 0.5)),
        # Only one budget.
        run('short', 20, 0, 0.5),
    ]
    fast = [math.log(2), *(math.log(2) * (1 - fraction) for fraction in (0.05, 0.1))]
    low, high = np.exp(stats.ttest_1samp(fast, 0).confidence_interval(0.95))
    fast_cell = f'**{stats.gmean(np.exp(fast)):.2f} [{low:.2f}, {high:.2f}]**'
    lines = speed_up_markdown(study(results)).splitlines()
    assert lines[:2] == ["| setting | baseline's iterations | mask IoU | mask BCE |", '|---|---:|---:|---:|']
    assert f'| fast | 40 | {fast_cell} | {fast_cell} |' in lines
    assert '| slow | 40 | not reached by 1 of 3 | not reached by 1 of 3 |' in lines
    assert [line for line in lines if re.match(r'\| slow \| 20 \| \*\*0\.4\d \[0\.4\d, 0\.5\d\]\*\* ', line)]
    assert r'| at\|once | 40 | ≥ 4.00 (n = 1) | ≥ 4.00 (n = 1) |' in lines
    assert '| single | 20 | 1.00 (n = 1) | 1.00 (n = 1) |' in lines
    assert '| stranger | 20 | \u2013 | \u2013 |' in lines
    assert len(lines) == 2 + 2 * 5


def colors_of(figure):
    return {
        name: int((np.abs(figure.astype(int) - color).max(-1) < 8).sum())
        for name, color in dict(base=(0x33, 0x33, 0x33), edge=(0xD5, 0x5E, 0x00), other=(0x00, 0x72, 0xB2)).items()
    }


def draw(path, *args):
    draw_study(study(*args), path)
    return imread(str(path), channel_order='rgb')


def test_figure_has_a_panel_for_each_metric_and_a_line_for_each_setting(tmp_path):
    rng = np.random.default_rng(0)
    metrics = [IOU, BCE, 'coco/segm_mAP', 'coco/boundary_mAP']
    results = [run('base', None, 0, 0.9)]
    for name, lead in (('base', 0.0), ('edge', 0.1)):
        for budget in (30, 60, 120, 240):
            for seed in range(3 if name == 'base' else 1):
                iou = 0.1 * math.log(budget) + lead + rng.normal(0, 0.01)
                results.append(run(name, budget, seed, iou, **dict.fromkeys(metrics[2:], iou / 2)))
    figure = draw(tmp_path / 'new/figure.png', results, 'base', metrics)
    # Two rows of two panels.
    assert 780 < figure.shape[1] < 900 and 600 < figure.shape[0] < 800
    drawn = colors_of(figure)
    assert drawn['base'] > 300 and drawn['edge'] > 300 and drawn['other'] == 0
    alone = [result for result in results if result.key.setting == 'edge']
    one = draw(tmp_path / 'one.png', alone, 'edge', [IOU])
    assert 380 < one.shape[1] < 460 and colors_of(one)['edge'] == 0


def test_settings_without_several_budgets_are_not_drawn(tmp_path):
    results = [*curve('base', 0, (0.1, 0.2, 0.3, 0.4)), run('edge', None, 0, 0.5), run('lost', 10, 0, None)]
    assert colors_of(draw(tmp_path / 'a.png', results, 'base', [IOU]))['edge'] == 0
    with pytest.raises(UserError, match=f'no setting with several budgets has a value of {IOU}'):
        draw(tmp_path / 'b.png', results[-2:], 'edge', [IOU])
    assert not (tmp_path / 'b.png').exists()


def test_report_has_a_table_for_each_budget_of_the_baseline(results, tmp_path):
    results = [*results, run('base', None, 0, 0.9), run('edge', 20, 0, 0.3)]
    path = write_report(study(results), tmp_path / 'new')
    text = path.read_text()
    assert re.findall('^## (.*)$', text, re.MULTILINE) == [
        '40 iterations', "The configs' own schedule", 'Speed-up in iterations'
    ]  # fmt: skip
    assert equal_iterations_markdown(study(results), 40) in text and (path.parent / 'convergence.png').is_file()
