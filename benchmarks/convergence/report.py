"""Tables and the figure of a benchmark."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter
from rich.table import Table
from rich.text import Text

from mmdet_edge.analysis.figures import COLORS, LINE_STYLES
from mmdet_edge.analysis.statistics import Difference, lower_is_better
from mmdet_edge.engine.atomic_local_backend import AtomicLocalBackend
from mmdet_edge.errors import UserError

from .measures import EqualIterationsRow, SpeedUp, Study

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
"""Fills a cell for which there is no run."""


class _Cell(NamedTuple):
    """A cell of a table, and 'better' or 'worse' if its interval says so."""

    text: str
    verdict: str = ''


def _title(metric: str) -> str:
    return METRIC_TITLES.get(metric, metric)


def _equal_iterations_cells(study: Study, budget: int | None) -> tuple[list[str], list[list[_Cell]]]:
    """Return heading and rows of the table of :meth:`Study.equal_iterations`."""
    heading = ['setting', 'learning rate', 'seeds']
    for metric in study.metrics:
        note = ' (lower is better)' if lower_is_better(metric) else ''
        heading += [f'{_title(metric)}{note}', 'difference [95 % interval]']
    return heading, [_row_cells(row, row.setting == study.baseline) for row in study.equal_iterations(budget)]


def _row_cells(row: EqualIterationsRow, is_baseline: bool) -> list[_Cell]:
    has_run = row.seeds + row.diverged > 0
    rate = "config's" if row.learning_rate is None else f'{row.learning_rate:g}'
    seeds = f'{row.seeds} ({row.diverged} diverged)' if row.diverged else str(row.seeds)
    cells = [_Cell(row.setting), _Cell(rate if has_run else NOTHING), _Cell(seeds if has_run else NOTHING)]
    for metric, values in row.values.items():
        cells.append(_value_cell(list(values.values()), row.seeds))
        difference = _difference_cell(metric, row.differences[metric], len(values))
        cells.append(_Cell('baseline') if is_baseline else difference)
    return cells


def _value_cell(values: Sequence[float], seeds: int) -> _Cell:
    if not values:
        return _Cell(NOTHING)
    spread = f' ± {np.std(values, ddof=1):.4f}' if len(values) > 1 else ''
    number = f' (n = {len(values)})' if len(values) != seeds else ''
    return _Cell(f'{np.mean(values):.4f}{spread}{number}')


def _difference_cell(metric: str, difference: Difference | None, number: int) -> _Cell:
    if difference is None:
        return _Cell(NOTHING)
    interval = '(n = 1)' if difference.interval is None else '[{:+.2f}, {:+.2f}]'.format(*difference.interval)
    pairs = f' ({difference.pairs} pairs)' if 1 < difference.pairs < number else ''
    sign = -difference.sign if lower_is_better(metric) else difference.sign
    return _Cell(f'{difference.mean:+.2f} % {interval}{pairs}', {0: '', 1: 'better', -1: 'worse'}[sign])


def _speed_up_cell(speed_up: SpeedUp | None) -> _Cell:
    if speed_up is None:
        return _Cell(NOTHING)
    if speed_up.mean is None:
        return _Cell(f'not reached by {speed_up.missed} of {speed_up.seeds}')
    mean = f'{"≥ " if speed_up.is_lower_bound else ""}{speed_up.mean:.2f}'
    if speed_up.interval is None:
        return _Cell(f'{mean} (n = 1)' if speed_up.seeds == 1 else mean)
    low, high = speed_up.interval
    return _Cell(f'{mean} [{low:.2f}, {high:.2f}]', 'better' if low > 1 else 'worse' if high < 1 else '')


def make_table(study: Study, budget: int | None) -> Table:
    """Make the table of :meth:`Study.equal_iterations` for the terminal.

    Args:
        study (Study): What is compared.
        budget (int | None): At which budget.

    Returns:
        Table: To be printed by rich; differences whose interval excludes 0 are green if better and red if worse.

    Raises:
        UserError: If no run has the budget.
    """
    length = "the config's own schedule" if budget is None else f'{budget} iterations'
    title = f'End of {length}; learning rates tuned by {_title(study.tuning_metric)}'
    table = Table(title=Text(title), title_justify='left')
    heading, rows = _equal_iterations_cells(study, budget)
    for i, column in enumerate(heading):
        table.add_column(Text(column), justify='right' if i else 'left', overflow='fold')
    colors = {'better': 'green', 'worse': 'red', '': ''}
    for cells in rows:
        table.add_row(*(Text(cell.text, style=colors[cell.verdict]) for cell in cells))
    return table


def _to_markdown(heading: Sequence[str], rows: Sequence[Sequence[_Cell]]) -> str:
    """Write a table, what has a verdict in bold; all columns but the first are aligned to the right."""
    texts = [[f'**{cell.text}**' if cell.verdict else cell.text for cell in row] for row in rows]
    lines = ['| ' + ' | '.join(text.replace('|', r'\|') for text in row) + ' |' for row in (heading, *texts)]
    rule = '|---' + '|---:' * (len(heading) - 1) + '|'
    return '\n'.join([lines[0], rule, *lines[1:]]) + '\n'


def equal_iterations_markdown(study: Study, budget: int | None) -> str:
    """Write the table of :meth:`Study.equal_iterations` as Markdown.

    Args:
        study (Study): What is compared.
        budget (int | None): At which budget.

    Returns:
        str: The table; differences whose interval excludes 0 are bold.

    Raises:
        UserError: If no run has the budget.
    """
    return _to_markdown(*_equal_iterations_cells(study, budget))


def speed_up_markdown(study: Study) -> str:
    """Write the speed-ups of the settings over the baseline, in iterations, as Markdown.

    Args:
        study (Study): What is compared.

    Returns:
        str: A row for each setting with several budgets and each budget of the baseline, see :meth:`Study.speed_up`;
        ratios whose interval excludes 1 are bold.
    """
    budgets = [budget for budget in study.budgets if budget is not None]
    rows = [
        [_Cell(name), _Cell(str(b)), *(_speed_up_cell(study.speed_up(name, b, metric)) for metric in study.metrics)]
        for name in study.lengthened
        for b in budgets
    ]
    return _to_markdown(['setting', "baseline's iterations", *map(_title, study.metrics)], rows)


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
    axes.set_xlabel('training iterations')
    axes.grid(alpha=0.3)
    axes.set_xscale('log')
    axes.xaxis.set_major_locator(FixedLocator(sorted({budget for curve in curves.values() for budget in curve})))
    axes.xaxis.set_major_formatter(StrMethodFormatter('{x:g}'))
    axes.xaxis.set_minor_locator(NullLocator())


def draw_study(study: Study, path: str | Path) -> None:
    """Draw the ends of training runs over their budgets, one panel for each metric.

    Mean over the seeds as a line, standard deviation as a band, each point at its tuned learning rate, for the baseline
    (in dark grey) and the settings with several budgets. Runs of the config's own schedule are left out.

    Args:
        study (Study): What is compared.
        path (str | Path): File to write; its ending decides the format.

    Raises:
        UserError: If there is nothing to draw for a metric.
    """
    panels = {metric: study.curves(metric) for metric in study.metrics}
    names = [name for name in (study.baseline, *study.lengthened) if any(name in curves for curves in panels.values())]
    for metric, curves in panels.items():
        if not curves:
            raise UserError(f'no setting with several budgets has a value of {metric}')
    styles: dict[str, dict[str, Any]] = {
        name: dict(color=COLORS[i % len(COLORS)], linestyle=LINE_STYLES[i // len(COLORS) % len(LINE_STYLES)])
        for i, name in enumerate([study.baseline, *study.lengthened])
    }
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    longest = max(map(len, names))
    # As many names side by side as fit.
    legend_columns = max(1, min(len(names), 40 * columns // (longest + 6)))
    height = 3.25 * rows + 0.22 * math.ceil(len(names) / legend_columns) + 0.1
    figure = Figure(figsize=(max(4.2 * columns, 0.09 * longest + 0.8), height))
    figure.set_layout_engine('constrained', w_pad=0.08, h_pad=0.06)
    for i, (metric, curves) in enumerate(panels.items(), start=1):
        _draw_panel(figure.add_subplot(rows, columns, i), metric, curves, styles)
    handles = [Line2D([], [], label=name, marker='o', markersize=3.5, **styles[name]) for name in names]
    figure.legend(handles=handles, loc='outside upper left', ncols=legend_columns, frameon=False, borderaxespad=0)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def write_report(study: Study, folder: str | Path) -> Path:
    """Write all tables as Markdown, and the figure of the settings that were trained at several budgets.

    Args:
        study (Study): What is compared.
        folder (str | Path): Receives report.md and convergence.png.

    Returns:
        Path: report.md.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    parts = ['# Convergence\n']
    for budget in study.budgets:
        title = "The configs' own schedule" if budget is None else f'{budget} iterations'
        parts.append(f'## {title}\n\n{equal_iterations_markdown(study, budget)}')
    if study.lengthened:
        draw_study(study, folder / 'convergence.png')
        table = speed_up_markdown(study)
        parts.append(f'## Speed-up in iterations\n\n{table}\n![Ends over budgets](convergence.png)\n')
    path = folder / 'report.md'
    AtomicLocalBackend().put_text('\n'.join(parts), path)
    return path
