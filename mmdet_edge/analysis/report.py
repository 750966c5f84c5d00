"""Writing a comparison: table for the terminal, Markdown, CSV and figures."""

import csv
import io
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib
import mmdet
import mmengine
import numpy
import scipy
from rich.markup import escape
from rich.table import Table

from mmdet_edge.engine.atomic_local_backend import AtomicLocalBackend
from mmdet_edge.version import __version__

from .comparison import Comparison, Result
from .figures import draw_curves
from .runs import read_environment
from .statistics import lower_is_better

COLUMNS = (
    'variant',
    'at the end',
    'difference [95 % interval]',
    'in %',
    'iterations to target',
    'speed-up, iterations',
    'speed-up, time',
)
"""Of the table, in all its forms."""

HOW_TO_READ = (
    '**at the end**: mean over the seeds ± standard deviation, at the iteration that the line above names and that all '
    'variants have. Evaluations are as logged; training curves (no "/" in the name) are smoothed, as one log line '
    'covers few images.',
    '**difference**: variant minus baseline, paired by seed, with the 95 % confidence interval of the mean from the t '
    'distribution. "better" or "worse" is written where the interval excludes 0. One pair has no interval (n = 1), and '
    'proves nothing. Of 20 intervals one is expected to miss: look at the whole table, not at its best line.',
    '**iterations to target**: the first iteration at which the smoothed mean of the variant reaches the final value '
    "of the baseline's smoothed mean (the target, dotted in the figure), interpolated linearly between logged "
    'iterations. The baseline is treated alike: it reaches its own target at its last iteration, or earlier if its '
    'curve was there before. "≤" means that the first logged value is at the target already, "not reached" that none '
    'is.',
    "**speed-up, iterations / time**: the baseline's iterations (iterations times the median time of an iteration) to "
    'the target divided by those of the variant: 2.00 is twice as fast, below 1 is slower. No speed-up where the '
    'baseline has one value only. The speed-up in time holds if all ran on the same machine with nothing beside them.',
    'Smoothing fits a line in a sliding window of a tenth of the points; curves of less than 20 points stay as logged. '
    'The band in the figure is ± one standard deviation over the seeds; one seed has none.',
)
"""One paragraph each, in Markdown."""


def _lines(comparison: Comparison) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the lines of the table, the same in all its forms, each with 'heading', 'better', 'worse' or ''."""
    metric = ''
    for result in comparison.results:
        if result.metric != metric:
            metric = result.metric
            direction = f'{"lower" if lower_is_better(metric) else "higher"} is better'
            target = 'no target' if result.target is None else f'target {result.target:.4f}'
            yield (metric, f'at iteration {result.iteration}', direction, '', target, '', ''), 'heading'
        yield _cells(result, result.variant == comparison.baseline), result.verdict


def _cells(result: Result, is_baseline: bool) -> tuple[str, ...]:
    n = len(result.values)
    spread = '' if result.spread is None else f' ± {result.spread:.4f}'
    difference, percent = 'baseline' if is_baseline else 'no seed in common', '-'
    if result.target is None:
        difference = 'no baseline'
    if (found := result.difference) is not None:
        interval = '(n = 1)' if found.interval is None else '[{:+.4f}, {:+.4f}]'.format(*found.interval)
        pairs = f' ({found.pairs} pairs)' if 1 < found.pairs < n else ''
        difference = f'{found.mean:+.4f} {interval}{pairs} {result.verdict}'.strip()
        percent = '-' if found.percent is None else f'{found.percent:+.1f}'
    reached_at = '-' if result.target is None else 'not reached'
    at_least = ''
    if result.reached_at is not None:
        reached_at = f'{"≤ " if result.at_first else ""}{result.reached_at:.0f}'
        at_least = '≥ ' if result.at_first else ''
    speedups = ['-' if s is None else f'{at_least}{s:.2f}' for s in (result.speedup, result.time_speedup)]
    return (result.variant, f'{result.mean:.4f}{spread} (n = {n})', difference, percent, reached_at, *speedups)


def _summary(comparison: Comparison) -> str:
    others = len(comparison.runs) - 1
    seeds = ', '.join(f'{name}: {len(runs)}' for name, runs in comparison.runs.items())
    return f'{others} variant{"s" * (others != 1)} compared with {comparison.baseline}. Runs used: {seeds}.'


def make_table(comparison: Comparison) -> Table:
    """Make the table of a comparison for the terminal, to be printed by rich, 130 characters wide or more."""
    table = Table(title=escape(_summary(comparison)), title_justify='left')
    for i, column in enumerate(COLUMNS):
        table.add_column(column, justify='right' if i else 'left', overflow='fold')
    for cells, kind in _lines(comparison):
        if kind == 'heading':
            table.add_section()
        table.add_row(*map(escape, cells), style={'heading': 'bold', 'better': 'green', 'worse': 'red', '': None}[kind])
    return table


def warnings_of(comparison: Comparison) -> list[str]:
    """Return the lines to print above a comparison: its notes, and each run that was left out with the reason."""
    lines = list(comparison.notes)
    for item in comparison.left_out:
        where = f' (for {", ".join(item.metrics)})' if item.metrics else ''
        lines.append(f'left out: {item.variant}: {item.work_dir}{where}: {item.reason}')
    return lines


def markdown_table(heading: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    """Write a table as Markdown, its first ``text_columns`` aligned to the left, the others to the right."""
    lines = ['| ' + ' | '.join(cell.replace('|', r'\|') for cell in row) + ' |' for row in (heading, *rows)]
    rule = '|---' * text_columns + '|---:' * (len(heading) - text_columns) + '|'
    return '\n'.join([lines[0], rule, *lines[1:]])


def to_markdown(comparison: Comparison, figure: str | None = None, command: str | None = None) -> str:
    """Write a comparison as Markdown, with the path of a figure to show and the command line that made it, if given."""
    rows = [
        [f'**{cell}**' if cell and kind == 'heading' else cell for cell in cells] for cells, kind in _lines(comparison)
    ]
    runs = []
    for name, seeds in comparison.runs.items():
        for seed, run in seeds.items():
            environment = ', '.join(' '.join(item) for item in read_environment(run.work_dir).items())
            time = '-' if run.seconds_per_iteration is None else f'{run.seconds_per_iteration:.3f}'
            runs.append((name, str(seed), str(run.work_dir), str(run.final_iteration), time, environment or '-'))
    columns = ('variant', 'seed', 'work dir', 'last iteration', 'seconds per iteration', 'environment')
    # Not by distribution: OneDL's have other names.
    packages = ', '.join(f'{package.__name__} {package.__version__}' for package in (mmdet, mmengine, numpy, scipy))
    blocks = [
        '# Comparison of runs',
        _summary(comparison),
        '\n'.join([f'- {text}' for text in warnings_of(comparison)] or ['Nothing was left out.']),
        markdown_table(COLUMNS, rows),
        *([f'![mean and band per variant over iterations]({figure})'] if figure else []),
        '## How to read this',
        '\n'.join(f'- {text}' for text in HOW_TO_READ),
        '## Runs',
        markdown_table(columns, runs, text_columns=len(columns)),
        *([f'Made by: `{command}`'] if command else []),
        f'Compared with mmdet_edge {__version__}, {packages}, Python {platform.python_version()}.',
    ]
    return '\n\n'.join(blocks) + '\n'


def to_csv(comparison: Comparison) -> str:
    """Write the results as CSV, one line per metric and variant, numbers unrounded, empty where there is none.

    The headings are the fields of :class:`Result` and :class:`Difference`; the lists in ``seeds`` and ``values`` have
    spaces between their items.
    """
    rows = []
    for result in comparison.results:
        row = {**vars(result), 'n': len(result.values), 'mean': result.mean, 'sd': result.spread}
        found = vars(result.difference) if result.difference else {}
        low, high = found.get('interval') or (None, None)
        row.update(difference=found.get('mean'), pairs=found.get('pairs'), percent=found.get('percent'))
        row.update(ci95_low=low, ci95_high=high, baseline=comparison.baseline)
        row.update(seeds=' '.join(map(str, result.values)), values=' '.join(map(repr, result.values.values())))
        rows.append(row)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_report(comparison: Comparison, out_dir: Path, command: str | None = None) -> Path:
    """Write a comparison as Markdown, CSV and figures; files of an earlier one are replaced.

    Args:
        comparison (Comparison): What to write.
        out_dir (Path): Folder for comparison.md, comparison.csv, curves.png and curves.svg.
        command (str, optional): Command line that made it, for the record. Defaults to None.

    Returns:
        Path: comparison.md.

    Raises:
        OSError: If the folder cannot be written.
    """
    figure = draw_curves(comparison)
    # All is made before anything is written.
    files = {
        'comparison.csv': to_csv(comparison).encode(),
        'comparison.md': to_markdown(comparison, 'curves.png', command).encode(),
    }
    # Of the same data the same bytes.
    undated = dict.fromkeys(('Date', 'Creator', 'Format', 'Type'))
    for ending, metadata in (('png', {}), ('svg', undated)):
        with io.BytesIO() as file, matplotlib.rc_context({'svg.hashsalt': 'mmdet_edge'}):
            figure.savefig(file, format=ending, dpi=100, metadata=metadata)
            files[f'curves.{ending}'] = file.getvalue()
    for name, content in files.items():
        AtomicLocalBackend().put(content, Path(out_dir, name))
    return Path(out_dir, 'comparison.md')
