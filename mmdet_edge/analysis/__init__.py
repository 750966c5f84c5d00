"""Reading runs, comparing them and drawing figures of them."""

from .comparison import Comparison, LeftOut, Result, choose_baseline, compare
from .comparison_figure import draw_comparison
from .figures import draw_curves
from .report import make_table, warnings_of, write_report
from .runs import Run, find_work_dirs, group_runs, read_config, read_run, read_seed, read_variant
from .statistics import Difference, iterations_to_target, lower_is_better, paired_difference, smooth

__all__ = [
    'Comparison',
    'Difference',
    'LeftOut',
    'Result',
    'Run',
    'choose_baseline',
    'compare',
    'draw_comparison',
    'draw_curves',
    'find_work_dirs',
    'group_runs',
    'iterations_to_target',
    'lower_is_better',
    'make_table',
    'paired_difference',
    'read_config',
    'read_run',
    'read_seed',
    'read_variant',
    'smooth',
    'warnings_of',
    'write_report',
]
