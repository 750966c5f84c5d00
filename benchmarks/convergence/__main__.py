"""How many iterations does a setting save? Trains the settings of a spec with several seeds and compares them.

Runs what has no result yet, several training runs at a time; interrupted, it resumes when called again. The results are
JSON lines, one for each run; tables and figures are made from them at the end, or alone with --report.
"""

import argparse
import signal
import sys
from pathlib import Path

from mmengine.config import DictAction

from mmdet_edge.errors import one_line_errors

from .launcher import Launcher
from .measures import Study
from .report import make_table, write_report
from .results import read_results
from .spec import read_spec


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog='python -m benchmarks.convergence',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('spec', type=Path, help='a file of benchmarks/convergence/specs')
    parser.add_argument('--work-dir', type=Path, help='for the training runs (default: work_dirs/benchmarks/SPEC)')
    parser.add_argument('--results', type=Path, help='JSON lines (default: results.jsonl in the work dir)')
    parser.add_argument('--jobs', type=int, default=1, help='training runs at a time (default: 1)')
    parser.add_argument('--data-root', help='folder of the data (default: that of the configs)')
    parser.add_argument('--pretrained', help='file to start the backbone from (default: the URL in the configs)')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='options for all runs')
    parser.add_argument('--baseline', help='setting to compare the others with (default: that of the spec)')
    parser.add_argument('--check', action='store_true', help='check spec, configs and data, and start nothing')
    parser.add_argument('--report', action='store_true', help='make tables and figures, and start nothing')
    return parser.parse_args()


def run(args: argparse.Namespace) -> None:
    """Run what is missing and report.

    Args:
        args (argparse.Namespace): The command line.
    """
    work_dir = args.work_dir or Path('work_dirs/benchmarks', args.spec.stem)
    results = args.results or work_dir / 'results.jsonl'
    spec = read_spec(args.spec)
    launcher = Launcher(spec, results, work_dir, args.jobs, args.data_root, args.cfg_options, args.pretrained)
    if args.check:
        missing, complete = launcher.check()
        waiting = '' if complete else ', and more once the learning rate of the baseline is tuned'
        print(f'{len(missing)} runs are missing in {results}{waiting}')
        return
    if not args.report:
        launcher.run()
    baseline, read = args.baseline or spec.baseline, read_results(results)
    path = write_report(Study(read, baseline, spec.metrics, spec.tuning_metric), work_dir / 'report')
    # The terminal shows the first two metrics, the report all.
    shown = Study(read, baseline, spec.metrics[:2], spec.tuning_metric)
    for budget in shown.budgets:
        launcher.console.print(make_table(shown, budget))
    print(f'report: {path}')


@one_line_errors
def main() -> None:
    """Run and report; an interrupt ends with one line."""
    args = parse_args()
    # SIGTERM ends what is running too, as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        run(args)
    except KeyboardInterrupt:
        sys.exit('interrupted: call the same command again to resume')


if __name__ == '__main__':
    main()
