"""Reading runs, comparing them and drawing what they show."""

from .comparison import Comparison, LeftOut, Result, choose_baseline, compare
from .figures import draw_comparison, draw_curves
from .report import make_table, warnings_of, write_report
from .runs import Run, find_work_dirs, group_runs, read_run, read_seed, read_setting
from .statistics import Difference, lower_is_better, paired_difference, smooth, steps_to_target

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
    'lower_is_better',
    'make_table',
    'paired_difference',
    'read_run',
    'read_seed',
    'read_setting',
    'smooth',
    'steps_to_target',
    'warnings_of',
    'write_report',
]
