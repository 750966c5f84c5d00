"""Compare training runs with a baseline, over seeds, at equal iterations and at equal quality.

Prints a table and writes Markdown, CSV and figures. A RUN is the work dir of a training run, or a folder of work dirs,
one per seed. Its variant is the name of its config, or NAME if given as NAME=DIR.
"""

import argparse
import shlex
import sys
from pathlib import Path

from rich.console import Console

from mmdet_edge.analysis import compare, group_runs, make_table, warnings_of, write_report


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('runs', nargs='+', metavar='RUN', help='DIR or NAME=DIR')
    parser.add_argument('--baseline', help='name of a variant (default: the only one without "edge" in its name)')
    parser.add_argument('--metrics', nargs='+', help='keys of the log (default: AP, mask branch and mask loss)')
    parser.add_argument(
        '--out', type=Path, default='comparison/runs', help='folder to write to (default: comparison/runs)'
    )
    return parser.parse_args()


def main() -> None:
    """Compare, print and write."""
    args = parse_args()
    try:
        comparison = compare(group_runs(args.runs), args.baseline, args.metrics)
        report = write_report(comparison, args.out, shlex.join(['python', *sys.argv]))
    except (OSError, ValueError) as error:
        sys.exit(f'error: {error}')
    console = Console()
    if not console.is_terminal:
        # A file or a pipe has no width.
        console = Console(width=160)
    console.print(make_table(comparison))
    for text in warnings_of(comparison):
        console.print(text, style='yellow', markup=False, highlight=False)
    console.print(f'report: {report}', markup=False, highlight=False, soft_wrap=True)


if __name__ == '__main__':
    main()
