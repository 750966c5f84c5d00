"""Does a long training grow or slow down? Trains the demo's edge config and watches memory, open files and time.

With evaluations and checkpoints, 20 in all. Memory and files are those of the process and of those that load its data;
allocated is what the process has asked malloc for and not freed, without what malloc keeps; time is processor time of
the process, since a wall clock tells what else the machine does. Each is fitted by a line (Theil and Sen), without the
first fifth of the steps: it grows if the 95 % interval of the slope lies above 0 and the line rises, over all steps, by
more than 2 % (time: 5 %). The number of open files may not rise at all. Caches fill up first, over some 300 steps:
with fewer than 2000, values are reported and not judged.

Reads /proc, and asks glibc: Linux only. Writes report.json and soak.png to the work dir; exits with 1 if something
grows.
"""

import argparse
import ctypes
import json
import os
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from scipy.stats import theilslopes

from mmdet_edge import get_config_path
from mmdet_edge.config.edits import use_safe_checkpoints
from mmdet_edge.datasets import make_shapes_dataset
from mmdet_edge.engine.atomic_local_backend import AtomicLocalBackend
from mmdet_edge.engine.launch import build_runner, edit_config, read_config

CONFIG = get_config_path('mask_rcnn_edge/mask-rcnn_r18_fpn_edge_1xb4-300i_shapes.py')
WINDOWS = 20
JUDGED = 2000
TOLERANCES = {'memory': 0.02, 'allocated': 0.02, 'time': 0.05}
WATCHED = {'memory': 'MB', 'allocated': 'MB', 'files': 'open files', 'time': 'processor seconds a step'}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--steps', type=int, default=2000, help='at least 100 (default: 2000)')
    parser.add_argument('--size', type=int, default=160, help='of the images, in pixels (default: 160, as in the demo)')
    parser.add_argument('--work-dir', type=Path, default='work_dirs/soak', help='removed before (default: %(default)s)')
    args = parser.parse_args()
    if args.steps < 5 * WINDOWS:
        parser.error(f'--steps: at least {5 * WINDOWS}, got {args.steps}')
    return args


def processes() -> list[Path]:
    """Return the folders in /proc of this process and its children."""
    children = Path(f'/proc/self/task/{os.getpid()}/children').read_text().split()
    return [Path('/proc/self'), *(Path('/proc', pid) for pid in children)]


def memory() -> float:
    """Return the resident memory in MB; what processes share counts in parts."""
    rollups = ((process / 'smaps_rollup').read_text() for process in processes())
    return sum(int(line.split()[1]) for text in rollups for line in text.splitlines() if line.startswith('Pss:')) / 1024


class MallocInfo(ctypes.Structure):
    """What ``mallinfo2`` of glibc 2.33 and newer returns."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *('arena', 'ordblks', 'smblks', 'hblks', 'hblkhd'),
            *('usmblks', 'fsmblks', 'uordblks', 'fordblks', 'keepcost'),
        )
    )


def allocated() -> float:
    """Return what this process has allocated and not freed, in MB."""
    mallinfo2 = ctypes.CDLL('libc.so.6').mallinfo2
    mallinfo2.restype = MallocInfo
    info = mallinfo2()
    return (info.uordblks + info.hblkhd) / 2**20


def open_files() -> int:
    """Return the number of open files, pipes and sockets."""
    return sum(len(list((process / 'fd').iterdir())) for process in processes())


class SoakHook(Hook):
    """Watches a training; one row each time it has made a number of steps.

    Args:
        window (int): That number.
    """

    # After what saves checkpoints.
    priority = 'LOWEST'

    def __init__(self, window: int) -> None:
        self.window = window
        self.rows: list[dict[str, float]] = []
        self.seconds: list[float] = []
        self.started = time.time()
        self.step_started = 0.0

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Start the clock: evaluations are not part of a step."""
        self.step_started = time.process_time()

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Stop it; add a row if it is time to."""
        self.seconds.append(time.process_time() - self.step_started)
        step = runner.iter + 1
        if step % self.window:
            return
        # Half of the steps write logs or checkpoints at most: the median is that of steps that do not.
        row = dict(
            step=step,
            memory=memory(),
            allocated=allocated(),
            files=open_files(),
            time=statistics.median(self.seconds),
        )
        self.seconds = []
        self.rows.append(row)
        left = (time.time() - self.started) / step * (runner.max_iters - step)
        print(
            f'step {step}/{runner.max_iters}: {row["memory"]:.0f} MB, {row["allocated"]:.0f} MB allocated, '
            f'{row["files"]} open files, {row["time"]:.3f} processor seconds a step; about {left / 60:.0f} min left',
            flush=True,
        )


def judge(rows: list[dict[str, float]]) -> dict[str, dict[str, Any]]:
    """Fit a line to each value.

    Args:
        rows (list[dict]): Steps and values.

    Returns:
        dict[str, dict]: Of each value: its median, the relative growth over all steps with its 95 % interval, and
        whether it grows.
    """
    rows = rows[WINDOWS // 5 :]
    steps = [row['step'] for row in rows]
    verdict = {}
    for name in WATCHED:
        values = [row[name] for row in rows]
        median = statistics.median(values)
        slope, _, low, high = (value * steps[-1] / median for value in theilslopes(values, steps))
        if name == 'files':
            grows = max(values[len(values) // 2 :]) > max(values[: len(values) // 2])
        else:
            grows = bool(low > 0 and slope > TOLERANCES[name])
        verdict[name] = dict(median=median, growth=slope, interval=[low, high], grows=grows)
    return verdict


def draw(rows: list[dict[str, float]], verdict: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw the values over the steps."""
    figure, all_axes = plt.subplots(1, len(WATCHED), figsize=(14, 3), layout='constrained')
    for axes, (name, unit) in zip(all_axes, WATCHED.items()):
        axes.plot([row['step'] for row in rows], [row[name] for row in rows], 'o-', color='#0072b2')
        low, high = verdict[name]['interval']
        axes.set_title(f'growth {verdict[name]["growth"]:+.1%} [{low:+.1%}, {high:+.1%}]', fontsize=10)
        axes.set_xlabel('step')
        axes.set_ylabel(f'{name}: {unit}' if unit == 'MB' else unit)
        axes.set_ylim(0, 1.3 * max(row[name] for row in rows))
    figure.savefig(path, dpi=100)


def main() -> None:
    """Train, watch and judge."""
    args = parse_args()
    # Several threads burn processor time while they wait for each other, the more the more others use the machine.
    torch.set_num_threads(1)
    shutil.rmtree(args.work_dir, ignore_errors=True)
    make_shapes_dataset(str(args.work_dir / 'data'), num_train=100, num_val=10, size=args.size)
    window = args.steps // WINDOWS
    options = {
        'data_root': str(args.work_dir / 'data'),
        'train_cfg.max_iters': args.steps,
        'train_cfg.val_interval': window,
        'default_hooks.checkpoint.interval': window,
        'train_dataloader.dataset.pipeline.2.scale': (args.size, args.size),
        'val_dataloader.dataset.pipeline.1.scale': (args.size, args.size),
        'custom_hooks.1.interval': window,
        'param_scheduler.1.end': args.steps,
        'log_level': 'WARNING',
    }
    cfg = edit_config(read_config(CONFIG), options, str(args.work_dir / 'run'))
    use_safe_checkpoints(cfg)
    runner = build_runner(cfg)
    hook = SoakHook(window)
    runner.register_hook(hook)
    runner.train()

    verdict = judge(hook.rows)
    report = dict(steps=args.steps, size=args.size, torch=torch.__version__, verdict=verdict, rows=hook.rows)
    AtomicLocalBackend().put_text(json.dumps(report, indent=1), args.work_dir / 'report.json')
    draw(hook.rows, verdict, args.work_dir / 'soak.png')
    for checkpoint in (args.work_dir / 'run').glob('*.pth'):
        checkpoint.unlink()
    for name, found in verdict.items():
        low, high = found['interval']
        print(
            f'{name}: {found["median"]:.4g} {WATCHED[name]}, growth over {args.steps} steps {found["growth"]:+.2%} '
            f'[{low:+.2%}, {high:+.2%}]{", GROWS" if found["grows"] else ""}'
        )
    if args.steps < JUDGED:
        print(f'fewer than {JUDGED} steps: not judged')
    elif any(found['grows'] for found in verdict.values()):
        sys.exit(1)


if __name__ == '__main__':
    main()
