"""How many steps does a setting save? Trains the settings of a spec with several seeds and compares them.

Runs what has no result yet, several trainings at a time; interrupted, it goes on where it was. The results are JSON
lines, one a training; tables and figures are made from them at the end, or alone with --report.
"""

import argparse
import signal
import sys
from pathlib import Path

from mmengine.config import DictAction

from .launcher import Launcher
from .report import make_convergence_table, read_convergence, write_convergence_report
from .spec import read_spec


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog='python -m benchmarks.convergence',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('spec', type=Path, help='a file of benchmarks/convergence/specs')
    parser.add_argument('--work-dir', type=Path, help='for the trainings (default: work_dirs/benchmarks/SPEC)')
    parser.add_argument('--results', type=Path, help='JSON lines (default: results.jsonl in the work dir)')
    parser.add_argument('--jobs', type=int, default=1, help='trainings at a time (default: 1)')
    parser.add_argument('--data-root', help='folder of the data (default: that of the configs)')
    parser.add_argument('--pretrained', help='file to start the backbone from (default: the address in the configs)')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='options for all runs')
    parser.add_argument('--baseline', help='setting to compare the others with (default: that of the spec)')
    parser.add_argument('--check', action='store_true', help='check spec, configs and data, and start nothing')
    parser.add_argument('--report', action='store_true', help='make tables and figures, and start nothing')
    return parser.parse_args()


def main() -> None:
    """Run and report."""
    args = parse_args()
    # As Ctrl-C does: what is running is stopped too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    work_dir = args.work_dir or Path('work_dirs/benchmarks', args.spec.stem)
    results = args.results or work_dir / 'results.jsonl'
    try:
        spec = read_spec(args.spec)
        launcher = Launcher(spec, results, work_dir, args.jobs, args.data_root, args.cfg_options, args.pretrained)
        if args.check:
            missing, complete = launcher.check()
            waiting = '' if complete else ', and more once the learning rate of the baseline is tuned'
            print(f'{len(missing)} runs are missing in {results}{waiting}')
            return
        if not args.report:
            launcher.run()
        runs, baseline = read_convergence(results), args.baseline or spec.baseline
        report = write_convergence_report(runs, baseline, spec.metrics, spec.tuning_metric, work_dir / 'report')
        budgets = dict.fromkeys(run.budget for run in runs if run.setting == baseline)
        for budget in budgets:
            # What fits on a screen; the report has all.
            settings = list(dict.fromkeys(run.setting for run in runs if run.budget == budget))
            shown = (spec.metrics[:2], spec.tuning_metric, settings)
            launcher.console.print(make_convergence_table(runs, baseline, budget, *shown))
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        sys.exit(f'error: {error}')
    except KeyboardInterrupt:
        sys.exit('interrupted: the same command goes on where it was')
    print(f'report: {report}')


if __name__ == '__main__':
    main()
