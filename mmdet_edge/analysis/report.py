"""Writing a comparison down: rich table, Markdown, CSV, figures and a self-contained HTML page."""

import csv
import io
import platform
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import Optional

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from rich.markup import escape as escape_markup
from rich.table import Table

from mmdet_edge.engine.atomic_local_backend import AtomicLocalBackend
from mmdet_edge.version import __version__

from .comparison import Comparison, LeftOut, Result
from .figures import draw_curves
from .runs import read_versions
from .statistics import lower_is_better

COLUMNS = (
    'setting',
    'at the end',
    'difference [95 % interval]',
    'in %',
    'steps to target',
    'ratio, steps',
    'ratio, time',
)
"""Of the table, in all its forms."""

HOW_TO_READ = (
    '**at the end**: mean over the seeds ± standard deviation, at the step that the line above names and that all '
    'settings have. Evaluations are as logged; training curves (no "/" in the name) are smoothed, as one log line '
    'sees a few images only.',
    '**difference**: setting minus baseline, paired by seed, with the 95 % confidence interval of the mean from the t '
    'distribution. "better" or "worse" stands where the interval excludes 0. One pair has no interval (n = 1), and '
    'proves nothing. Of 20 intervals one is expected to miss: look at the whole table, not at its best line.',
    '**steps to target**: the first step at which the smoothed mean of the setting reaches the final value of the '
    "baseline's smoothed mean (the target, dotted in the figure), interpolated linearly between logged steps. The "
    'baseline is treated alike: it reaches its own target at its last step, or earlier if its curve got there before. '
    '"≤" stands where the first logged value is at the target already, "not reached" where none is.',
    "**ratio, steps / time**: the baseline's steps (steps times the median time of a step) to the target by those of "
    'the setting: 2.00 is twice as fast, below 1 is slower. No ratio where the baseline has one value only. The ratio '
    'of time holds if all ran on the same machine with nothing beside them.',
    'Smoothing fits a line in a sliding window of a tenth of the points; curves of less than 20 points stay as logged. '
    'The band in the figure is ± one standard deviation over the seeds; one seed has none.',
)
"""One paragraph each; ``**`` as in Markdown."""

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light; }
body { background: #fff; color: #222; font: 15px/1.5 system-ui, sans-serif; max-width: 1240px; margin: 2em auto;
  padding: 0 1.5em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3em .8em; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th { border-bottom: 2px solid #888; } th:first-child, td:first-child { text-align: left; }
tr.metric td { background: #f2f2f2; font-weight: 600; padding-top: .6em; }
.left td, .left th { text-align: left; white-space: normal; }
.better { color: #00634a; font-weight: 600; } .worse { color: #a33f00; font-weight: 600; }
.warning { background: #fff6dd; border-left: 4px solid #e69f00; padding: .3em 1em; margin: .5em 0; }
code, pre { background: #f2f2f2; padding: .1em .3em; overflow-wrap: anywhere; white-space: pre-wrap; }
svg { max-width: 100%; height: auto; }
</style>
</head>
<body>
<h1>$title</h1>
<p>$summary</p>
$warnings
<h2>Results</h2>
<div class="scroll">$results</div>
<h2>Curves</h2>
<figure role="img" aria-label="$figure_label" style="margin: 0">$figure</figure>
<h2>How to read this</h2>
<ul>$how_to_read</ul>
<h2>What is behind it</h2>
<div class="scroll">$runs</div>
$command
<p>$behind</p>
</body>
</html>
""")


@dataclass(frozen=True)
class _Line:
    """One line of the table: a setting's cells, or what is said of a metric above its settings."""

    cells: tuple[str, ...]
    verdict: str = ''
    is_heading: bool = False


def _lines(comparison: Comparison) -> Iterator[_Line]:
    """Return the lines of the table, the same in all its forms."""
    metric = ''
    for result in comparison.results:
        if result.metric != metric:
            metric = result.metric
            direction = f'{"lower" if lower_is_better(metric) else "higher"} is better'
            target = 'no target' if result.target is None else f'target {result.target:.4f}'
            yield _Line((metric, f'at step {result.step}', direction, '', target), is_heading=True)
        yield _Line(_cells(result, result.setting == comparison.baseline), result.verdict)


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
    steps = '-' if result.target is None else 'not reached'
    at_least = ''
    if result.steps is not None:
        steps = f'{"≤ " if result.at_first else ""}{result.steps:.0f}'
        at_least = '≥ ' if result.at_first else ''
    ratios = ['-' if r is None else f'{at_least}{r:.2f}' for r in (result.step_ratio, result.time_ratio)]
    return (result.setting, f'{result.mean:.4f}{spread} (n = {n})', difference, percent, steps, *ratios)


def _summary(comparison: Comparison) -> str:
    others = len(comparison.runs) - 1
    seeds = ', '.join(f'{name}: {len(runs)}' for name, runs in comparison.runs.items())
    return f'{others} setting{"s" * (others != 1)} compared with {comparison.baseline}. Runs used: {seeds}.'


def _describe(item: LeftOut) -> str:
    """Return one line about a run that was left out."""
    where = f' (for {", ".join(item.metrics)})' if item.metrics else ''
    return f'{item.setting}: {item.work_dir}{where}: {item.reason}'


def _run_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """Return one row per run that was used, headings first."""
    rows: list[tuple[str, ...]] = [('setting', 'seed', 'work dir', 'last step', 'seconds a step', 'versions')]
    for name, runs in comparison.runs.items():
        for seed, run in runs.items():
            versions = ', '.join(' '.join(item) for item in read_versions(run.work_dir).items())
            per_step = '-' if run.seconds_per_step is None else f'{run.seconds_per_step:.3f}'
            rows.append((name, str(seed), str(run.work_dir), str(run.final_step), per_step, versions or '-'))
    return rows


def _behind() -> str:
    packages = ', '.join(f'{name} {version(name)}' for name in ('mmdet', 'mmengine', 'numpy', 'scipy'))
    return f'Compared with mmdet_edge {__version__}, {packages}, Python {platform.python_version()}.'


def make_table(comparison: Comparison) -> Table:
    """Make the table for the terminal.

    Args:
        comparison (Comparison): What to show.

    Returns:
        Table: To be printed by rich, 130 characters wide or more.
    """
    table = Table(title=escape_markup(_summary(comparison)), title_justify='left')
    for i, column in enumerate(COLUMNS):
        table.add_column(column, justify='right' if i else 'left', overflow='fold')
    colours = {'better': 'green', 'worse': 'red', '': None}
    for line in _lines(comparison):
        if line.is_heading:
            table.add_section()
            table.add_row(*map(escape_markup, line.cells), style='bold')
        else:
            table.add_row(*map(escape_markup, line.cells), style=colours[line.verdict])
    return table


def warnings_of(comparison: Comparison) -> list[str]:
    """Return what a reader must know before the numbers: notes, and what was left out.

    Args:
        comparison (Comparison): What was compared.

    Returns:
        list[str]: One line each; empty if there is nothing.
    """
    return [*comparison.notes, *(f'left out: {_describe(item)}' for item in comparison.left_out)]


def _padded(cells: Sequence[str]) -> list[str]:
    """Fill up a line of the table."""
    return [*cells, *[''] * (len(COLUMNS) - len(cells))]


def _to_markdown_row(cells: Sequence[str]) -> str:
    escaped = [cell.replace('|', r'\|') for cell in cells]
    return f'| {" | ".join(escaped)} |'


def to_markdown(comparison: Comparison, figure: Optional[str] = None, command: Optional[str] = None) -> str:
    """Write a comparison as Markdown.

    Args:
        comparison (Comparison): What to write.
        figure (str, optional): Path of the figure to show. Defaults to None: no figure.
        command (str, optional): Command line that made it. Defaults to None.

    Returns:
        str: The document.
    """
    heading, *runs = _run_rows(comparison)
    warnings = [f'- {text}' for text in warnings_of(comparison)] or ['Nothing was left out.']
    table = [_to_markdown_row(COLUMNS), '|---|' + '---:|' * (len(COLUMNS) - 1)]
    for line in _lines(comparison):
        cells = [f'**{cell}**' if cell else '' for cell in line.cells] if line.is_heading else line.cells
        table.append(_to_markdown_row(_padded(cells)))
    blocks = [
        '# Comparison of runs',
        _summary(comparison),
        '\n'.join(warnings),
        '\n'.join(table),
        *([f'![mean and band per setting over steps]({figure})'] if figure else []),
        '## How to read this',
        '\n'.join(f'- {text}' for text in HOW_TO_READ),
        '## What is behind it',
        '\n'.join([_to_markdown_row(heading), '|---' * len(heading) + '|', *map(_to_markdown_row, runs)]),
        *([f'Made by: `{command}`'] if command else []),
        _behind(),
    ]
    return '\n\n'.join(blocks) + '\n'


def to_csv(comparison: Comparison) -> str:
    """Write the results as CSV, one line per metric and setting, numbers unrounded, empty where there is none.

    Args:
        comparison (Comparison): What to write.

    Returns:
        str: The table with a line of headings; ``seeds`` and ``values`` hold lists separated by spaces.
    """
    text = io.StringIO()
    rows = [_csv_row(result, comparison.baseline) for result in comparison.results]
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _csv_row(result: Result, baseline: str) -> dict[str, object]:
    difference = result.difference
    low, high = (difference.interval if difference else None) or (None, None)
    return {
        'metric': result.metric,
        'setting': result.setting,
        'baseline': baseline,
        'step': result.step,
        'n': len(result.values),
        'mean': result.mean,
        'sd': result.spread,
        'pairs': difference.pairs if difference else None,
        'difference': difference.mean if difference else None,
        'ci95_low': low,
        'ci95_high': high,
        'percent': difference.percent if difference else None,
        'target': result.target,
        'target_reached': {True: 'yes', False: 'no', None: None}[result.reached],
        'steps_to_target': result.steps,
        'at_first_step': {True: 'yes', False: 'no'}[result.at_first] if result.reached else None,
        'seconds_to_target': result.seconds,
        'step_ratio': result.step_ratio,
        'time_ratio': result.time_ratio,
        'seeds': ' '.join(map(str, result.values)),
        'values': ' '.join(map(repr, result.values.values())),
    }


def _html_table(rows: Sequence[Sequence[str]], css_class: str = '') -> str:
    heading, *body = [[escape(cell) for cell in row] for row in rows]
    lines = [f'<tr>{"".join(f"<td>{cell}</td>" for cell in row)}</tr>' for row in body]
    head = f'<thead><tr>{"".join(f"<th>{cell}</th>" for cell in heading)}</tr></thead>'
    return f'<table class="{css_class}">{head}<tbody>{"".join(lines)}</tbody></table>'


def _html_results(comparison: Comparison) -> str:
    lines = []
    for line in _lines(comparison):
        cells = [escape(cell) for cell in _padded(line.cells)]
        if line.verdict:
            cells[2] = f'<span class="{line.verdict}">{cells[2]}</span>'
        opening = '<tr class="metric">' if line.is_heading else '<tr>'
        lines.append(f'{opening}{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>')
    head = ''.join(f'<th>{escape(column)}</th>' for column in COLUMNS)
    return f'<table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'


def to_html(comparison: Comparison, figure_svg: str, command: Optional[str] = None) -> str:
    """Write a comparison as one HTML page that needs no other file and no network.

    Args:
        comparison (Comparison): What to write.
        figure_svg (str): The figure as matplotlib writes it.
        command (str, optional): Command line that made it. Defaults to None.

    Returns:
        str: The page.
    """
    # What only a file of its own needs: prologue and name spaces, which look like links.
    figure = re.sub(r' xmlns(:\w+)?="[^"]*"', '', figure_svg[figure_svg.index('<svg') :])
    found = warnings_of(comparison)
    paragraphs = [re.sub(r'\*\*(.*?)\*\*', r'<b>\1</b>', escape(text, quote=False)) for text in HOW_TO_READ]
    return PAGE.substitute(
        title=escape(f'Comparison with {comparison.baseline}'),
        summary=escape(_summary(comparison)),
        warnings=''.join(f'<p class="warning">{escape(text)}</p>\n' for text in found)
        or '<p>Nothing was left out.</p>',
        results=_html_results(comparison),
        figure_label=escape(f'Mean and band per setting over steps: {", ".join(comparison.curves)}'),
        figure=figure,
        how_to_read='\n'.join(f'<li>{text}</li>' for text in paragraphs),
        runs=_html_table(_run_rows(comparison), 'left'),
        command=f'<p>Made by: <code>{escape(command)}</code></p>' if command else '',
        behind=escape(_behind()),
    )


def _save(figure: Figure, ending: str) -> bytes:
    """Return the file of a figure; of the same data the same bytes."""
    metadata = dict.fromkeys(('Date', 'Creator', 'Format', 'Type')) if ending == 'svg' else {}
    with io.BytesIO() as file, matplotlib.rc_context({'svg.hashsalt': 'mmdet_edge'}):
        figure.savefig(file, format=ending, dpi=100, metadata=metadata)
        return file.getvalue()


def write_report(comparison: Comparison, out_dir: Path, command: Optional[str] = None) -> Path:
    """Write a comparison as Markdown, CSV, figures and page; files of an earlier one are replaced.

    Args:
        comparison (Comparison): What to write.
        out_dir (Path): Folder for comparison.html, comparison.md, comparison.csv, curves.png and curves.svg.
        command (str, optional): Command line that made it, for the record. Defaults to None.

    Returns:
        Path: The page.

    Raises:
        OSError: If the folder cannot be written.
    """
    figure = draw_curves(comparison)
    png, svg = _save(figure, 'png'), _save(figure, 'svg')
    plt.close(figure)
    # All is made before anything is written.
    files = {
        'curves.png': png,
        'curves.svg': svg,
        'comparison.csv': to_csv(comparison).encode(),
        'comparison.md': to_markdown(comparison, 'curves.png', command).encode(),
        'comparison.html': to_html(comparison, svg.decode(), command).encode(),
    }
    for name, content in files.items():
        AtomicLocalBackend().put(content, Path(out_dir, name))
    return Path(out_dir, 'comparison.html')
