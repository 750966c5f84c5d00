"""Ends of trainings of several lengths: which setting is better in equal steps, and which gets there in fewer.

The learning rate falls to 0 within each budget of training iterations, so that every budget is a training of its own.
Only their ends are compared: in the middle of a longer training the learning rate still holds the values down.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, Optional, Union

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter
from rich.table import Table
from rich.text import Text

from mmdet_edge.analysis.figures import COLORS, LINE_STYLES
from mmdet_edge.analysis.statistics import Difference, lower_is_better, paired_difference
from mmdet_edge.engine.atomic_local_backend import AtomicLocalBackend

METRIC_TITLES = {
    'mask_branch/mIoU': 'mask IoU',
    'mask_branch/boundary_IoU_1px': 'boundary IoU (1 px)',
    'mask_branch/boundary_IoU_2px': 'boundary IoU (2 px)',
    'mask_branch/image_boundary_IoU_1px': 'boundary IoU in the image (1 px)',
    'mask_branch/image_boundary_IoU_2px': 'boundary IoU in the image (2 px)',
    'mask_branch/IoU_85': 'IoU > 0.85',
    'mask_branch/BCE': 'mask BCE',
    'coco/segm_mAP': 'mask AP',
    'coco/segm_mAP_50': 'mask AP50',
    'coco/segm_mAP_75': 'mask AP75',
    'coco/boundary_mAP': 'boundary AP',
    'coco/boundary_mAP_50': 'boundary AP50',
    'coco/boundary_mAP_75': 'boundary AP75',
    'coco/bbox_mAP': 'box AP',
    'coco/bbox_mAP_50': 'box AP50',
    'coco/bbox_mAP_75': 'box AP75',
}
"""What tables and figures call a metric; others go by their key."""

NOTHING = '\u2013'
"""Stands in a cell for which there is no run."""


@dataclass(frozen=True)
class ConvergenceRun:
    """A finished training.

    Args:
        setting (str): What was trained.
        budget (int | None): Number of training iterations; None for the config's own schedule.
        learning_rate (float | None): None for the config's own.
        seed (int): Seed of the training.
        metrics (dict[str, float]): Evaluation at the end; empty if the training diverged.
        seconds (float): What it took.
    """

    setting: str
    budget: Optional[int]
    learning_rate: Optional[float]
    seed: int
    metrics: dict[str, float]
    seconds: float


@dataclass(frozen=True)
class StepRatio:
    """How many times fewer steps than the baseline a setting needs.

    Args:
        mean (float): Geometric mean over the seeds: 2 is half the steps, below 1 is more of them.
        interval (tuple[float, float] | None): 95 % confidence interval. None for one pair, which has none, and for a
            lower bound: ratios that are cut off vary too little.
        pairs (int): Number of seeds.
        is_lower_bound (bool): Whether a seed was at the target in the smallest budget already.
    """

    mean: float
    interval: Optional[tuple[float, float]]
    pairs: int
    is_lower_bound: bool


@dataclass(frozen=True)
class EqualStepsRow:
    """One setting at one budget.

    Args:
        setting (str): Its name.
        learning_rate (float | None): Its tuned one; None for the config's own, and if there is no run.
        seeds (int): Number of runs at that rate that have the tuning metric.
        diverged (int): Number of runs at that rate that do not.
        values (dict[str, dict[int, float]]): Metric -> seed -> value.
        differences (dict[str, Difference | None]): Metric -> difference to the baseline in percent of the baseline's
            mean over the same seeds, which the interval takes as exact. None if there is no seed in common, if that
            mean is 0, and for the baseline.
    """

    setting: str
    learning_rate: Optional[float]
    seeds: int
    diverged: int
    values: dict[str, dict[int, float]]
    differences: dict[str, Optional[Difference]]


class _Cell(NamedTuple):
    """A cell of a table, and 'better' or 'worse' if its interval says so."""

    text: str
    verdict: str = ''


def read_convergence(path: Union[str, Path]) -> list[ConvergenceRun]:
    """Read the results of a benchmark, one JSON line a finished run.

    Values that say nothing are dropped as if not evaluated: those that are not finite, and the -1 that COCO gives where
    there are no such objects.

    Args:
        path (str | Path): The file. A broken last line is skipped: the benchmark was killed while it wrote it.

    Returns:
        list[ConvergenceRun]: In the order of the file; of a run that is there several times the last line counts.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If another line is damaged, or if a line lacks what is needed.
    """
    lines = [(i, line) for i, line in enumerate(Path(path).read_text().splitlines(), start=1) if line.strip()]
    runs: dict[tuple[Any, ...], ConvergenceRun] = {}
    for number, line in lines:
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == lines[-1][0]:
                break
            raise ValueError(f'{path}, line {number}: not JSON ({error})') from None
        try:
            run = _to_run(record)
        except ValueError as error:
            raise ValueError(f'{path}, line {number}: {error}') from None
        runs[run.setting, run.budget, run.learning_rate, run.seed] = run
    return list(runs.values())


def _to_run(record: Any) -> ConvergenceRun:
    """Check a line of the file; raise ValueError if it cannot be used."""
    if not isinstance(record, dict):
        raise ValueError(f'must be an object, got {record!r}')
    keys = [field.name for field in fields(ConvergenceRun)]
    if lacking := [key for key in keys if key not in record]:
        raise ValueError(f'lacks {", ".join(lacking)}')
    run = ConvergenceRun(**{key: record[key] for key in keys})
    if run.budget is not None and not (isinstance(run.budget, int) and run.budget > 0):
        raise ValueError(f'budget must be null or a positive integer, got {run.budget!r}')
    if not isinstance(run.metrics, dict) or not all(isinstance(v, (int, float)) for v in run.metrics.values()):
        raise ValueError(f'metrics must be an object of numbers, got {run.metrics!r}')
    metrics = {key: float(value) for key, value in run.metrics.items() if _usable(key, value)}
    return ConvergenceRun(**{**vars(run), 'metrics': metrics})


def _usable(metric: str, value: float) -> bool:
    return math.isfinite(value) and not (metric.startswith('coco/') and value == -1)


def _check(
    runs: Sequence[ConvergenceRun],
    settings: Sequence[str] = (),
    metrics: Sequence[str] = (),
    budgets: Sequence[Optional[int]] = (),
) -> None:
    """Raise ValueError for what no run has: a misspelt name would look like an empty result."""
    known_metrics = sorted({metric for run in runs for metric in run.metrics})
    known_budgets = dict.fromkeys(run.budget for run in runs)
    for what, wanted, known in (
        ('setting', settings, _settings_of(runs)),
        ('metric', metrics, known_metrics),
        ('budget', budgets, known_budgets),
    ):
        for name in wanted:
            if name not in known:
                raise ValueError(f'no run has the {what} {name!r}; there are: {", ".join(map(str, known)) or "none"}')


def _settings_of(runs: Sequence[ConvergenceRun]) -> list[str]:
    return list(dict.fromkeys(run.setting for run in runs))


def _with_baseline_first(runs: Sequence[ConvergenceRun], baseline: str, settings: Optional[Sequence[str]]) -> list[str]:
    others = _settings_of(runs) if settings is None else settings
    return list(dict.fromkeys([baseline, *others]))


def _tuned_runs(
    runs: Sequence[ConvergenceRun], setting: str, budget: Optional[int], metric: str
) -> list[ConvergenceRun]:
    """Return the runs at the tuned learning rate, empty if there is none at any; see :func:`tuned_learning_rate`."""
    rates: dict[Optional[float], list[ConvergenceRun]] = {}
    for run in runs:
        if (run.setting, run.budget) == (setting, budget):
            rates.setdefault(run.learning_rate, []).append(run)
    sign = -1 if lower_is_better(metric) else 1

    def rank(group: list[ConvergenceRun]) -> tuple[bool, int, float]:
        values = [run.metrics[metric] for run in group if metric in run.metrics]
        return len(values) == len(group), len(values), sign * float(np.mean(values)) if values else 0.0

    return max(rates.values(), key=rank, default=[])


def tuned_learning_rate(
    runs: Sequence[ConvergenceRun], setting: str, budget: Optional[int], metric: str
) -> Optional[float]:
    """Return the learning rate at which a setting does best.

    Rates at which no run lacks the metric, that is none diverged, go before the others. Of these, the ones with the
    most seeds compete, since the best of many single runs is lucky; the best mean over the seeds wins, the first in the
    file if equal.

    Args:
        runs (Sequence[ConvergenceRun]): Of all settings.
        setting (str): Which to tune.
        budget (int | None): Each budget is tuned on its own.
        metric (str): What to tune by.

    Returns:
        float | None: None if that is the config's own rate, or if the setting has no run at this budget.

    Raises:
        ValueError: If no run has the setting or the metric.
    """
    _check(runs, [setting], [metric])
    tuned = _tuned_runs(runs, setting, budget, metric)
    return tuned[0].learning_rate if tuned else None


def end_values(
    runs: Sequence[ConvergenceRun],
    setting: str,
    budget: Optional[int],
    metric: str,
    learning_rate: Optional[float] = None,
    tuning_metric: Optional[str] = None,
) -> dict[int, float]:
    """Return what a setting reached at the end of its trainings.

    Args:
        runs (Sequence[ConvergenceRun]): Of all settings.
        setting (str): Which one.
        budget (int | None): At which length.
        metric (str): Which value.
        learning_rate (float, optional): At which rate. Defaults to None: the tuned one.
        tuning_metric (str, optional): What to tune by. Defaults to None: ``metric``.

    Returns:
        dict[int, float]: Seed -> value; empty if there is no such run. Runs that diverged are left out.

    Raises:
        ValueError: If no run has the setting or a metric.
    """
    tuning_metric = metric if tuning_metric is None else tuning_metric
    _check(runs, [setting], [metric, tuning_metric])
    if learning_rate is None:
        chosen = _tuned_runs(runs, setting, budget, tuning_metric)
    else:
        wanted = (setting, budget, learning_rate)
        chosen = [run for run in runs if (run.setting, run.budget, run.learning_rate) == wanted]
    return {run.seed: run.metrics[metric] for run in chosen if metric in run.metrics}


def _steps_needed(values: Mapping[int, float], target: float, lower: bool) -> Optional[tuple[float, bool]]:
    """Return from how many steps on a seed is at a target to stay, and whether that is its smallest budget.

    Args:
        values (Mapping[int, float]): Budget -> value, NaN if the run diverged.
        target (float): The value to reach; meeting it is enough.
        lower (bool): Whether lower is better.

    Returns:
        tuple[float, bool] | None: None if the largest budget misses the target.
    """
    budgets = sorted(values)
    # Stated so that NaN misses.
    missing = [i for i, b in enumerate(budgets) if not (values[b] <= target if lower else values[b] >= target)]
    if not missing:
        return float(budgets[0]), True
    last = missing[-1]
    if last == len(budgets) - 1:
        return None
    before, after = budgets[last], budgets[last + 1]
    if math.isnan(values[before]):
        return float(after), False
    share = (target - values[before]) / (values[after] - values[before])
    return before * (after / before) ** share, False


def _steps_by_seed(
    runs: Sequence[ConvergenceRun], setting: str, baseline: str, budget: int, metric: str, tuning_metric: str
) -> dict[int, Optional[tuple[float, bool]]]:
    """Return what :func:`_steps_needed` says of each seed that has a target and was trained."""
    targets = end_values(runs, baseline, budget, metric, tuning_metric=tuning_metric)
    values: dict[int, dict[int, float]] = {}
    for length in {run.budget for run in runs if run.setting == setting and run.budget is not None}:
        for run in _tuned_runs(runs, setting, length, tuning_metric):
            values.setdefault(run.seed, {})[length] = run.metrics.get(metric, math.nan)
    lower = lower_is_better(metric)
    return {seed: _steps_needed(values[seed], targets[seed], lower) for seed in sorted(set(values) & set(targets))}


def _to_ratio(budget: int, steps: Mapping[int, Optional[tuple[float, bool]]]) -> Optional[StepRatio]:
    """Average over the seeds; None if there is none, or if one does not reach the target."""
    found = {seed: needed for seed, needed in steps.items() if needed is not None}
    logs = {seed: math.log(budget / needed) for seed, (needed, _) in found.items()}
    difference = paired_difference(logs, dict.fromkeys(logs, 0.0))
    if difference is None or len(found) < len(steps):
        return None
    is_lower_bound = any(at_smallest for _, at_smallest in found.values())
    interval = None
    if difference.interval is not None and not is_lower_bound:
        interval = (math.exp(difference.interval[0]), math.exp(difference.interval[1]))
    return StepRatio(math.exp(difference.mean), interval, difference.pairs, is_lower_bound)


def step_ratio(
    runs: Sequence[ConvergenceRun], setting: str, baseline: str, budget: int, metric: str, tuning_metric: str
) -> Optional[StepRatio]:
    """Compare the steps in which a setting gets to where a budget takes the baseline.

    Each seed has its own target, the baseline's end value with that seed. The setting's end values over its budgets,
    straight lines over the logarithm of the budget in between, tell when it is there: from the budget on from which
    also all larger ones are. Single seeds are noisy, and the first budget at the target would count the lucky ones;
    this choice is the conservative one. A run that diverged is not at the target. The learning rate of the baseline and
    of the setting at each of its budgets is tuned.

    Args:
        runs (Sequence[ConvergenceRun]): Of all settings.
        setting (str): What to compare.
        baseline (str): With what.
        budget (int): Of the baseline.
        metric (str): The value to reach.
        tuning_metric (str): What the learning rates are tuned by.

    Returns:
        StepRatio | None: None if a seed does not reach its target to stay, as its ratio is unknown and leaving it out
        would flatter; also None if there is no seed to compare. A seed at the target in the smallest budget already
        counts with that budget.

    Raises:
        ValueError: If no run has the setting, the baseline, the budget or a metric.
    """
    _check(runs, [setting, baseline], [metric, tuning_metric], [budget])
    return _to_ratio(budget, _steps_by_seed(runs, setting, baseline, budget, metric, tuning_metric))


def _difference_in_percent(values: Mapping[int, float], baseline: Mapping[int, float]) -> Optional[Difference]:
    shared = [baseline[seed] for seed in values if seed in baseline]
    mean = abs(float(np.mean(shared))) if shared else 0.0
    if not mean:
        return None
    return paired_difference(
        {seed: 100 * value / mean for seed, value in values.items()},
        {seed: 100 * value / mean for seed, value in baseline.items()},
    )


def equal_steps_rows(
    runs: Sequence[ConvergenceRun],
    baseline: str,
    budget: Optional[int],
    metrics: Sequence[str],
    tuning_metric: str,
    settings: Optional[Sequence[str]] = None,
) -> list[EqualStepsRow]:
    """Compare settings with a baseline at the end of equally long trainings, each at its tuned learning rate.

    Args:
        runs (Sequence[ConvergenceRun]): Of all settings.
        baseline (str): With what to compare.
        budget (int | None): At which length.
        metrics (Sequence[str]): What to compare.
        tuning_metric (str): What the learning rates are tuned by.
        settings (Sequence[str], optional): Which settings, in which order. Defaults to None: all, as in the file.

    Returns:
        list[EqualStepsRow]: The baseline first.

    Raises:
        ValueError: If no run has the baseline, a setting, the budget or a metric.
    """
    names = _with_baseline_first(runs, baseline, settings)
    _check(runs, names, [*metrics, tuning_metric], [budget])
    rows: list[EqualStepsRow] = []
    for name in names:
        tuned = _tuned_runs(runs, name, budget, tuning_metric)
        values = {m: {run.seed: run.metrics[m] for run in tuned if m in run.metrics} for m in metrics}
        differences = {m: _difference_in_percent(values[m], rows[0].values[m]) if rows else None for m in metrics}
        seeds = sum(tuning_metric in run.metrics for run in tuned)
        rate = tuned[0].learning_rate if tuned else None
        rows.append(EqualStepsRow(name, rate, seeds, len(tuned) - seeds, values, differences))
    return rows


def _title(metric: str) -> str:
    return METRIC_TITLES.get(metric, metric)


def _equal_steps_heading(metrics: Sequence[str]) -> list[str]:
    heading = ['setting', 'learning rate', 'seeds']
    for metric in metrics:
        note = ' (lower is better)' if lower_is_better(metric) else ''
        heading += [f'{_title(metric)}{note}', 'difference [95 % interval]']
    return heading


def _equal_steps_cells(row: EqualStepsRow, is_baseline: bool) -> list[_Cell]:
    has_run = row.seeds + row.diverged > 0
    rate = "config's" if row.learning_rate is None else f'{row.learning_rate:g}'
    seeds = f'{row.seeds} ({row.diverged} diverged)' if row.diverged else str(row.seeds)
    cells = [_Cell(row.setting), _Cell(rate if has_run else NOTHING), _Cell(seeds if has_run else NOTHING)]
    for metric, values in row.values.items():
        cells.append(_value_cell(list(values.values()), row.seeds))
        found = _difference_cell(metric, row.differences[metric], len(values))
        cells.append(_Cell('baseline') if is_baseline else found)
    return cells


def _value_cell(values: Sequence[float], seeds: int) -> _Cell:
    if not values:
        return _Cell(NOTHING)
    spread = f' ± {np.std(values, ddof=1):.4f}' if len(values) > 1 else ''
    number = f' (n = {len(values)})' if len(values) != seeds else ''
    return _Cell(f'{np.mean(values):.4f}{spread}{number}')


def _difference_cell(metric: str, difference: Optional[Difference], number: int) -> _Cell:
    if difference is None:
        return _Cell(NOTHING)
    interval = '(n = 1)' if difference.interval is None else '[{:+.2f}, {:+.2f}]'.format(*difference.interval)
    pairs = f' ({difference.pairs} pairs)' if 1 < difference.pairs < number else ''
    sign = -difference.sign if lower_is_better(metric) else difference.sign
    return _Cell(f'{difference.mean:+.2f} % {interval}{pairs}', {0: '', 1: 'better', -1: 'worse'}[sign])


def make_convergence_table(
    runs: Sequence[ConvergenceRun],
    baseline: str,
    budget: Optional[int],
    metrics: Sequence[str],
    tuning_metric: str,
    settings: Optional[Sequence[str]] = None,
) -> Table:
    """Make the table of :func:`equal_steps_rows` for the terminal.

    Args:
        runs (Sequence[ConvergenceRun]): Of all settings.
        baseline (str): With what to compare.
        budget (int | None): At which length.
        metrics (Sequence[str]): What to compare.
        tuning_metric (str): What the learning rates are tuned by.
        settings (Sequence[str], optional): Which settings, in which order. Defaults to None: all, as in the file.

    Returns:
        Table: To be printed by rich; differences whose interval excludes 0 are green if better and red if worse.

    Raises:
        ValueError: If no run has the baseline, a setting, the budget or a metric.
    """
    length = "the config's own schedule" if budget is None else f'{budget} steps'
    title = f'End of {length}; learning rates tuned by {_title(tuning_metric)}'
    table = Table(title=Text(title), title_justify='left')
    for i, column in enumerate(_equal_steps_heading(metrics)):
        table.add_column(Text(column), justify='right' if i else 'left', overflow='fold')
    colours = {'better': 'green', 'worse': 'red', '': ''}
    for row in equal_steps_rows(runs, baseline, budget, metrics, tuning_metric, settings):
        cells = _equal_steps_cells(row, row.setting == baseline)
        table.add_row(*(Text(cell.text, style=colours[cell.verdict]) for cell in cells))
    return table


def _to_markdown(heading: Sequence[str], rows: Sequence[Sequence[_Cell]], text_columns: int = 1) -> str:
    """Write a table, what has a verdict in bold; columns after the first ``text_columns`` are aligned to the right."""
    texts = [[f'**{cell.text}**' if cell.verdict else cell.text for cell in row] for row in rows]
    lines = ['| ' + ' | '.join(text.replace('|', r'\|') for text in row) + ' |' for row in (heading, *texts)]
    rule = '|---' * text_columns + '|---:' * (len(heading) - text_columns) + '|'
    return '\n'.join([lines[0], rule, *lines[1:]]) + '\n'


def convergence_markdown(
    runs: Sequence[ConvergenceRun],
    baseline: str,
    budget: Optional[int],
    metrics: Sequence[str],
    tuning_metric: str,
    settings: Optional[Sequence[str]] = None,
) -> str:
    """Write the table of :func:`equal_steps_rows` as Markdown.

    Args:
        runs (Sequence[ConvergenceRun]): Of all settings.
        baseline (str): With what to compare.
        budget (int | None): At which length.
        metrics (Sequence[str]): What to compare.
        tuning_metric (str): What the learning rates are tuned by.
        settings (Sequence[str], optional): Which settings, in which order. Defaults to None: all, as in the file.

    Returns:
        str: The table; differences whose interval excludes 0 are bold.

    Raises:
        ValueError: If no run has the baseline, a setting, the budget or a metric.
    """
    rows = equal_steps_rows(runs, baseline, budget, metrics, tuning_metric, settings)
    return _to_markdown(_equal_steps_heading(metrics), [_equal_steps_cells(r, r.setting == baseline) for r in rows])


def step_ratio_markdown(
    runs: Sequence[ConvergenceRun],
    baseline: str,
    budgets: Sequence[int],
    metrics: Sequence[str],
    tuning_metric: str,
    settings: Optional[Sequence[str]] = None,
) -> str:
    """Write as Markdown how many times fewer steps than the baseline the settings need, see :func:`step_ratio`.

    Args:
        runs (Sequence[ConvergenceRun]): Of all settings.
        baseline (str): With what to compare.
        budgets (Sequence[int]): Lengths of the baseline's training.
        metrics (Sequence[str]): The values to reach.
        tuning_metric (str): What the learning rates are tuned by.
        settings (Sequence[str], optional): Which settings, in which order. Defaults to None: all, as in the file.

    Returns:
        str: The table, a row for each setting and budget; ratios whose interval excludes 1 are bold.

    Raises:
        ValueError: If no run has the baseline, a setting, a budget or a metric.
    """
    names = _with_baseline_first(runs, baseline, settings)
    _check(runs, names, [*metrics, tuning_metric], budgets)
    rows = []
    for name in names[1:]:
        for budget in budgets:
            found = [_steps_by_seed(runs, name, baseline, budget, metric, tuning_metric) for metric in metrics]
            rows.append([_Cell(name), _Cell(str(budget)), *(_ratio_cell(budget, steps) for steps in found)])
    return _to_markdown(['setting', "baseline's steps", *map(_title, metrics)], rows)


def _ratio_cell(budget: int, steps: Mapping[int, Optional[tuple[float, bool]]]) -> _Cell:
    if not steps:
        return _Cell(NOTHING)
    ratio = _to_ratio(budget, steps)
    if ratio is None:
        return _Cell(f'not reached by {list(steps.values()).count(None)} of {len(steps)}')
    mean = f'{"≥ " if ratio.is_lower_bound else ""}{ratio.mean:.2f}'
    if ratio.interval is None:
        return _Cell(f'{mean} (n = 1)' if ratio.pairs == 1 else mean)
    low, high = ratio.interval
    return _Cell(f'{mean} [{low:.2f}, {high:.2f}]', 'better' if low > 1 else 'worse' if high < 1 else '')


def _draw_panel(
    axes: Axes, metric: str, curves: Mapping[str, Mapping[int, list[float]]], styles: Mapping[str, dict[str, Any]]
) -> None:
    """Draw the settings over their budgets; ``curves`` has setting -> budget -> values of the seeds."""
    for name, curve in curves.items():
        budgets = sorted(curve)
        means = np.array([np.mean(curve[budget]) for budget in budgets])
        axes.plot(budgets, means, **styles[name], marker='o', markersize=3.5, linewidth=1.6)
        # One seed has no spread: the band has no width there.
        spreads = np.array([np.std(v, ddof=1) if len(v) > 1 else 0.0 for v in (curve[b] for b in budgets)])
        axes.fill_between(budgets, means - spreads, means + spreads, color=styles[name]['color'], alpha=0.18, lw=0)
    axes.set_title(f'{_title(metric)}\n({"lower" if lower_is_better(metric) else "higher"} is better)', fontsize=10)
    axes.set_xlabel('steps of training')
    axes.grid(alpha=0.3)
    axes.set_xscale('log')
    axes.xaxis.set_major_locator(FixedLocator(sorted({budget for curve in curves.values() for budget in curve})))
    axes.xaxis.set_major_formatter(StrMethodFormatter('{x:g}'))
    axes.xaxis.set_minor_locator(NullLocator())


def draw_convergence(
    runs: Sequence[ConvergenceRun],
    baseline: str,
    settings: Optional[Sequence[str]],
    metrics: Sequence[str],
    tuning_metric: str,
    path: Union[str, Path],
) -> None:
    """Draw the ends of trainings over their lengths, one panel a metric.

    Mean over the seeds as a line, standard deviation as a band, each point at its tuned learning rate. Runs of the
    config's own schedule are left out.

    Args:
        runs (Sequence[ConvergenceRun]): Of all settings.
        baseline (str): Drawn in dark grey.
        settings (Sequence[str], optional): Which others, in which order; None for all, as in the file.
        metrics (Sequence[str]): What to draw.
        tuning_metric (str): What the learning rates are tuned by.
        path (str | Path): File to write; its ending decides the format.

    Raises:
        ValueError: If no run has the baseline, a setting or a metric, or if there is nothing to draw for a metric.
    """
    names = _with_baseline_first(runs, baseline, settings)
    _check(runs, names, [*metrics, tuning_metric])
    panels = {metric: _curves(runs, names, metric, tuning_metric) for metric in metrics}
    for metric, curves in panels.items():
        if not curves:
            raise ValueError(f'none of {", ".join(names)} has a value of {metric} at a budget')
    styles: dict[str, dict[str, Any]] = {
        name: dict(color=COLORS[i % len(COLORS)], linestyle=LINE_STYLES[i // len(COLORS) % len(LINE_STYLES)])
        for i, name in enumerate(names)
    }
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    drawn = [name for name in names if any(name in curves for curves in panels.values())]
    longest = max(map(len, drawn))
    # As many names side by side as fit.
    legend_columns = max(1, min(len(drawn), 40 * columns // (longest + 6)))
    height = 3.25 * rows + 0.22 * math.ceil(len(drawn) / legend_columns) + 0.1
    figure = Figure(figsize=(max(4.2 * columns, 0.09 * longest + 0.8), height))
    figure.set_layout_engine('constrained', w_pad=0.08, h_pad=0.06)
    for i, (metric, curves) in enumerate(panels.items(), start=1):
        _draw_panel(figure.add_subplot(rows, columns, i), metric, curves, styles)
    handles = [Line2D([], [], label=name, marker='o', markersize=3.5, **styles[name]) for name in drawn]
    figure.legend(handles=handles, loc='outside upper left', ncols=legend_columns, frameon=False, borderaxespad=0)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def _curves(
    runs: Sequence[ConvergenceRun], names: Sequence[str], metric: str, tuning_metric: str
) -> dict[str, dict[int, list[float]]]:
    """Return setting -> budget -> values of the seeds, without what is empty."""
    budgets = sorted({run.budget for run in runs if run.budget is not None})
    curves: dict[str, dict[int, list[float]]] = {}
    for name in names:
        for budget in budgets:
            if values := end_values(runs, name, budget, metric, tuning_metric=tuning_metric):
                curves.setdefault(name, {})[budget] = list(values.values())
    return curves


def write_convergence_report(
    runs: Sequence[ConvergenceRun], baseline: str, metrics: Sequence[str], tuning_metric: str, folder: Union[str, Path]
) -> Path:
    """Write all tables as Markdown, and the figure of the settings that were trained at several budgets.

    Args:
        runs (Sequence[ConvergenceRun]): Of all settings.
        baseline (str): With what to compare.
        metrics (Sequence[str]): What to compare.
        tuning_metric (str): What the learning rates are tuned by.
        folder (str | Path): Receives report.md and convergence.png.

    Returns:
        Path: report.md.

    Raises:
        ValueError: If no run has the baseline or a metric.
    """
    _check(runs, [baseline], [*metrics, tuning_metric])
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lengths = {name: {run.budget for run in runs if run.setting == name} for name in _settings_of(runs)}
    budgets = sorted({b for b in lengths.get(baseline, ()) if b is not None})
    parts = ['# Convergence\n']
    for budget in [*budgets, *({None} & lengths.get(baseline, set()))]:
        names = [name for name in lengths if budget in lengths[name]]
        title = "The configs' own schedule" if budget is None else f'{budget} steps'
        table = convergence_markdown(runs, baseline, budget, metrics, tuning_metric, names)
        parts.append(f'## {title}\n\n{table}')
    # Sorted: a setting has the same colour on another data set.
    several = sorted(name for name in lengths if name != baseline and len(lengths[name] - {None}) > 1)
    if several:
        table = step_ratio_markdown(runs, baseline, budgets, metrics, tuning_metric, several)
        draw_convergence(runs, baseline, several, metrics, tuning_metric, folder / 'convergence.png')
        parts.append(f'## How many times fewer steps\n\n{table}\n![Ends over lengths](convergence.png)\n')
    path = folder / 'report.md'
    AtomicLocalBackend().put_text('\n'.join(parts), path)
    return path
