"""Reading runs, comparing them and drawing what they show."""

from .comparison import Comparison, LeftOut, Result, choose_baseline, compare
from .convergence import (
    ConvergenceRun,
    EqualStepsRow,
    StepRatio,
    convergence_markdown,
    draw_convergence,
    end_values,
    equal_steps_rows,
    make_convergence_table,
    read_convergence,
    step_ratio,
    step_ratio_markdown,
    tuned_learning_rate,
)
from .figures import draw_comparison, draw_curves
from .report import make_table, warnings_of, write_report
from .runs import Run, find_work_dirs, group_runs, read_run, read_seed, read_setting
from .statistics import Difference, lower_is_better, paired_difference, smooth, steps_to_target

__all__ = [
    'Comparison',
    'ConvergenceRun',
    'Difference',
    'EqualStepsRow',
    'LeftOut',
    'Result',
    'Run',
    'StepRatio',
    'choose_baseline',
    'compare',
    'convergence_markdown',
    'draw_comparison',
    'draw_convergence',
    'draw_curves',
    'end_values',
    'equal_steps_rows',
    'find_work_dirs',
    'group_runs',
    'lower_is_better',
    'make_convergence_table',
    'make_table',
    'paired_difference',
    'read_convergence',
    'read_run',
    'read_seed',
    'read_setting',
    'smooth',
    'step_ratio',
    'step_ratio_markdown',
    'steps_to_target',
    'tuned_learning_rate',
    'warnings_of',
    'write_report',
]
