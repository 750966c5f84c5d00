"""Which setting holds on data that it was not chosen on? Tables over several results of convergence.py.

First, data set by data set, what each setting reaches and how far that is from the baseline. Then the choice that
leaves one data set out, for each: the candidate with the largest mean gain of boundary IoU (or, --by mask, of mask
IoU) on the others, among those that lose nothing of the other measure on any of them, and what it gains on the one left
out. A learning rate is the best of those that were tried with the most seeds; intervals are paired by seed, 95 %.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mmdet_edge.analysis.convergence import ConvergenceRun, EqualStepsRow, equal_steps_rows, read_convergence
from mmdet_edge.analysis.statistics import Difference

GAIN, GUARD = 'mask_branch/boundary_IoU_1px', 'mask_branch/mIoU'
SHOWN = {
    GUARD: 'mask IoU',
    GAIN: 'boundary IoU (1 px)',
    'mask_branch/IoU_75': 'share above 0.75',
    'mask_branch/IoU_85': 'share above 0.85',
    'mask_branch/BCE': 'BCE',
}


def rows_of(runs: Sequence[ConvergenceRun], baseline: str, budget: int, settings: Sequence[str]) -> list[EqualStepsRow]:
    """Compare the settings that have runs at this budget with the baseline."""
    there = {run.setting for run in runs if run.budget == budget}
    return equal_steps_rows(runs, baseline, budget, list(SHOWN), GUARD, [name for name in settings if name in there])


def gain(row: EqualStepsRow, metric: str) -> float:
    """Return the relative difference from the baseline in percent; nan if there is none."""
    difference = row.differences[metric]
    return float('nan') if difference is None else difference.mean


def choose(gains: Mapping[str, Mapping[str, tuple[float, float]]], left_out: str, by: int = 0) -> str:
    """Return the candidate that wins without one data set.

    Args:
        gains (dict[str, dict[str, tuple[float, float]]]): Data set -> candidate -> gain of :data:`GAIN` and of
            :data:`GUARD`. Every data set has every candidate.
        left_out (str): Data set that is not looked at.
        by (int): Which of the two gains decides; the other one must not fall. Defaults to 0.

    Returns:
        str: Largest mean gain among the candidates whose other measure falls nowhere; among all, if there are none.
    """
    seen = [values for name, values in gains.items() if name != left_out]
    safe = [name for name in seen[0] if all(values[name][1 - by] >= 0 for values in seen)]
    return max(safe or seen[0], key=lambda name: float(np.mean([values[name][by] for values in seen])))


def describe(difference: Difference) -> str:
    """Return a difference in percent with its interval; bold if that excludes 0."""
    if difference.interval is None:
        return f'{difference.mean:+.1f} %'
    text = '{:+.1f} % [{:+.1f}, {:+.1f}]'.format(difference.mean, *difference.interval)
    return f'**{text}**' if difference.sign else text


def make_table(rows: Sequence[EqualStepsRow]) -> str:
    """Return absolute values and relative differences as Markdown."""
    lines = ['| setting | learning rate | seeds | ' + ' | '.join(SHOWN.values()) + ' |', '|---|---:|---:' + '|---:' * 5]
    lines[1] += '|'
    for i, row in enumerate(rows):
        cells = []
        for metric in SHOWN:
            values, difference = row.values[metric], row.differences[metric]
            text = f'{np.mean(list(values.values())):.4f}' if values else 'diverged'
            if i and difference is not None:
                text += f' ({describe(difference)})'
            cells.append(text)
        lines.append(f'| {row.setting} | {row.learning_rate:g} | {row.seeds} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('results', nargs='+', type=Path, help='JSON lines of mask-branch specs, one a data set')
    parser.add_argument('--budget', type=int, required=True, help='iterations')
    parser.add_argument('--baseline', default='baseline', help='default: baseline')
    parser.add_argument('--settings', nargs='+', help='which, in which order (default: all)')
    parser.add_argument(
        '--candidates', nargs='+', help='settings to choose a default from, each data set left out once'
    )
    parser.add_argument('--by', choices=['boundary', 'mask'], default='boundary', help='which IoU (default: boundary)')
    args = parser.parse_args()
    try:
        data = {path.stem: read_convergence(path) for path in args.results}
        gains = {}
        for name, runs in data.items():
            settings = args.settings or list(dict.fromkeys(run.setting for run in runs))
            print(f'\n{name}, {args.budget} iterations:\n')
            print(make_table(rows_of(runs, args.baseline, args.budget, settings)))
            if args.candidates:
                rows = rows_of(runs, args.baseline, args.budget, args.candidates)[1:]
                gains[name] = {row.setting: (gain(row, GAIN), gain(row, GUARD)) for row in rows}
    except (OSError, ValueError) as error:
        sys.exit(f'error: {error}')
    if not args.candidates:
        return
    # Only what every data set has can win.
    shared = [name for name in args.candidates if all(name in values for values in gains.values())]
    if missing := [name for name in args.candidates if name not in shared]:
        print(f'\nnot on all data sets, left out: {", ".join(missing)}')
    gains = {name: {c: values[c] for c in shared} for name, values in gains.items()}
    print('\n| left out | chosen on the others | boundary IoU there | mask IoU there |\n|---|---|---:|---:|')
    for name, values in gains.items():
        winner = choose(gains, name, int(args.by == 'mask'))
        print(f'| {name} | {winner} | {values[winner][0]:+.1f} % | {values[winner][1]:+.1f} % |')


if __name__ == '__main__':
    main()
