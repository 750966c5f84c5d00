"""Which setting is best on data that it was not chosen on? Tables over the results of several mask-branch specs.

First, for each data set, what each setting reaches and its difference to the baseline. Then each data set is left out
once: the candidate with the largest mean gain of boundary IoU (``--by mask``: mask IoU) on the others is chosen,
among those that lose nothing of the other IoU on any of them, and its gain on the data set left out is printed.
Learning rates are tuned, see measures.py; intervals are paired by seed, 95 %.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mmdet_edge.analysis.statistics import Difference
from mmdet_edge.errors import one_line_errors

from .measures import EqualIterationsRow, Study
from .results import RunResult, read_results

GAIN, GUARD = 'mask_branch/boundary_IoU_1px', 'mask_branch/mIoU'
SHOWN = {
    GUARD: 'mask IoU',
    GAIN: 'boundary IoU (1 px)',
    'mask_branch/IoU_75': 'fraction above 0.75',
    'mask_branch/IoU_85': 'fraction above 0.85',
    'mask_branch/BCE': 'BCE',
}


def compare(
    results: Sequence[RunResult], baseline: str, budget: int, settings: Sequence[str] = ()
) -> list[EqualIterationsRow]:
    """Compare settings with the baseline, which comes first; by default all that have runs at the budget."""
    rows = {row.setting: row for row in Study(results, baseline, list(SHOWN), GUARD).equal_iterations(budget)}
    return [rows[name] for name in dict.fromkeys([baseline, *(settings or rows)]) if name in rows]


def gain(row: EqualIterationsRow, metric: str) -> float:
    """Return the relative difference from the baseline in percent; nan if there is none."""
    difference = row.differences[metric]
    return float('nan') if difference is None else difference.mean


def choose(gains: Mapping[str, Mapping[str, tuple[float, float]]], left_out: str, by: int = 0) -> str:
    """Return the candidate that wins without one data set.

    Args:
        gains (dict[str, dict[str, tuple[float, float]]]): Data set -> candidate -> gain of :data:`GAIN` and of
            :data:`GUARD`. Every data set has every candidate.
        left_out (str): Data set that is ignored.
        by (int): Index of the gain that decides; the other one must not fall. Defaults to 0.

    Returns:
        str: The one with the largest mean gain, among the candidates that lose nothing of the other IoU on any data
        set, or among all if there are none.
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


def make_table(rows: Sequence[EqualIterationsRow]) -> str:
    """Return absolute values and relative differences as Markdown."""
    lines = [
        '| setting | learning rate | seeds | ' + ' | '.join(SHOWN.values()) + ' |',
        '|---' + '|---:' * (2 + len(SHOWN)) + '|',
    ]
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


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('results', nargs='+', type=Path, help='JSON lines of mask-branch specs, one for each data set')
    parser.add_argument('--budget', type=int, required=True, help='iterations')
    parser.add_argument('--baseline', default='baseline', help='default: baseline')
    parser.add_argument('--settings', nargs='+', help='which, in which order (default: all)')
    parser.add_argument(
        '--candidates', nargs='+', help='settings to choose a default from, each data set left out once'
    )
    parser.add_argument('--by', choices=['boundary', 'mask'], default='boundary', help='which IoU (default: boundary)')
    return parser.parse_args()


def print_choices(gains: Mapping[str, Mapping[str, tuple[float, float]]], candidates: Sequence[str], by: int) -> None:
    """Leave out each data set once and print what is chosen without it.

    Args:
        gains (dict[str, dict[str, tuple[float, float]]]): As in :func:`choose`.
        candidates (Sequence[str]): The settings to choose from.
        by (int): As in :func:`choose`.
    """
    # Only what every data set has can win.
    shared = [name for name in candidates if all(name in values for values in gains.values())]
    if missing := [name for name in candidates if name not in shared]:
        print(f'\nnot on all data sets, left out: {", ".join(missing)}')
    gains = {name: {c: values[c] for c in shared} for name, values in gains.items()}
    print('\n| left out | chosen on the others | boundary IoU there | mask IoU there |\n|---|---|---:|---:|')
    for name, values in gains.items():
        winner = choose(gains, name, by)
        print(f'| {name} | {winner} | {values[winner][0]:+.1f} % | {values[winner][1]:+.1f} % |')


@one_line_errors
def main() -> None:
    """Print the tables."""
    args = parse_args()
    gains = {}
    for path in args.results:
        results = read_results(path)
        print(f'\n{path.stem}, {args.budget} iterations:\n')
        print(make_table(compare(results, args.baseline, args.budget, args.settings or ())))
        rows = compare(results, args.baseline, args.budget, args.candidates or ())[1:]
        gains[path.stem] = {row.setting: (gain(row, GAIN), gain(row, GUARD)) for row in rows}
    if args.candidates:
        print_choices(gains, args.candidates, int(args.by == 'mask'))


if __name__ == '__main__':
    main()
