"""Does a long training run grow or slow down? Trains the demo's edge config and watches memory, open files and time.

The run has 20 evaluations and checkpoints. Memory and open files are those of the process and its dataloader workers;
"allocated" is what the process has requested from malloc and not freed, without what malloc caches; time is processor
time of the process, since a wall clock also measures the other work of the machine. A line is fitted to each value
(Theil and Sen), without the first fifth of the iterations. A value grows if the 95 % interval of the slope is above 0
and the line rises by more than 2 % (time: 5 %) over all iterations. The number of open files must not rise at all.
Caches fill up during the first 300 iterations or so: with fewer than 2000, values are reported and not judged.

Reads /proc, and asks glibc: Linux only. Writes report.json and soak.png to the work dir; exits with 1 if a value grows.
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
from mmdet_edge.errors import one_line_errors

CONFIG = get_config_path('mask_rcnn_edge/mask-rcnn_r18_fpn_edge_1xb4-300i_shapes.py')
WINDOWS = 20
JUDGED = 2000
TOLERANCES = {'memory': 0.02, 'allocated': 0.02, 'time': 0.05}
WATCHED = {'memory': 'MB', 'allocated': 'MB', 'files': 'open files', 'time': 'processor seconds an iteration'}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--iterations', type=int, default=2000, help='at least 100 (default: 2000)')
    parser.add_argument(
        '--size', type=int, default=160, help='size of the images in pixels (default: 160, as in the demo)'
    )
    parser.add_argument('--work-dir', type=Path, default='work_dirs/soak', help='removed before (default: %(default)s)')
    args = parser.parse_args()
    if args.iterations < 5 * WINDOWS:
        parser.error(f'--iterations must be at least {5 * WINDOWS}, got {args.iterations}')
    return args


def processes() -> list[Path]:
    """Return the folders in /proc of this process and its children."""
    children = Path(f'/proc/self/task/{os.getpid()}/children').read_text().split()
    return [Path('/proc/self'), *(Path('/proc', pid) for pid in children)]


def memory() -> float:
    """Return the resident memory in MB; each process counts its part of what they share."""
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
    """Watches a training run and keeps one row of values for each window of iterations.

    Args:
        window (int): Iterations of a window.
    """

    # After the hook that saves checkpoints.
    priority = 'LOWEST'

    def __init__(self, window: int) -> None:
        self.window = window
        self.rows: list[dict[str, float]] = []
        self.seconds: list[float] = []
        self.started = time.time()
        self.iteration_started = 0.0

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Start the clock: evaluations are not part of an iteration."""
        self.iteration_started = time.process_time()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Stop the clock; add a row at the end of a window."""
        self.seconds.append(time.process_time() - self.iteration_started)
        done = runner.iter + 1
        if done % self.window:
            return
        # At most half of the iterations write logs or checkpoints: the median is that of the others.
        row = dict(
            step=done,
            memory=memory(),
            allocated=allocated(),
            files=open_files(),
            time=statistics.median(self.seconds),
        )
        self.seconds = []
        self.rows.append(row)
        left = (time.time() - self.started) / done * (runner.max_iters - done)
        print(
            f'iteration {done}/{runner.max_iters}: {row["memory"]:.0f} MB, {row["allocated"]:.0f} MB allocated, '
            f'{row["files"]} open files, {row["time"]:.3f} processor seconds an iteration; about {left / 60:.0f} min '
            'left',
            flush=True,
        )


def judge(rows: list[dict[str, float]]) -> dict[str, dict[str, Any]]:
    """Fit a line to each value.

    Args:
        rows (list[dict]): Iterations and values.

    Returns:
        dict[str, dict]: For each value its median, the relative growth over all iterations with its 95 % interval, and
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
    """Draw the values over the iterations."""
    figure, all_axes = plt.subplots(1, len(WATCHED), figsize=(14, 3), layout='constrained')
    for axes, (name, unit) in zip(all_axes, WATCHED.items()):
        axes.plot([row['step'] for row in rows], [row[name] for row in rows], 'o-', color='#0072b2')
        low, high = verdict[name]['interval']
        axes.set_title(f'growth {verdict[name]["growth"]:+.1%} [{low:+.1%}, {high:+.1%}]', fontsize=10)
        axes.set_xlabel('iteration')
        axes.set_ylabel(f'{name}: {unit}' if unit == 'MB' else unit)
        axes.set_ylim(0, 1.3 * max(row[name] for row in rows))
    figure.savefig(path, dpi=100)


def train(iterations: int, size: int, work_dir: Path) -> list[dict[str, float]]:
    """Train on generated images and return what was watched.

    Args:
        iterations (int): Training iterations.
        size (int): Height and width of the images.
        work_dir (Path): Receives data, logs and checkpoints; what is there is removed.

    Returns:
        list[dict]: The rows of :class:`SoakHook`.
    """
    shutil.rmtree(work_dir, ignore_errors=True)
    make_shapes_dataset(str(work_dir / 'data'), num_train=100, num_val=10, size=size)
    window = iterations // WINDOWS
    options = {
        'data_root': str(work_dir / 'data'),
        'train_cfg.max_iters': iterations,
        'train_cfg.val_interval': window,
        'default_hooks.checkpoint.interval': window,
        'train_dataloader.dataset.pipeline.2.scale': (size, size),
        'val_dataloader.dataset.pipeline.1.scale': (size, size),
        'custom_hooks.1.interval': window,
        'param_scheduler.1.end': iterations,
        'log_level': 'WARNING',
    }
    cfg = edit_config(read_config(CONFIG), options, str(work_dir / 'run'))
    use_safe_checkpoints(cfg)
    runner = build_runner(cfg)
    hook = SoakHook(window)
    runner.register_hook(hook)
    runner.train()
    for checkpoint in (work_dir / 'run').glob('*.pth'):
        checkpoint.unlink()
    return hook.rows


@one_line_errors
def main() -> None:
    """Train, watch and judge."""
    args = parse_args()
    # Threads that wait for each other burn processor time, the more so on a busy machine.
    torch.set_num_threads(1)
    rows = train(args.iterations, args.size, args.work_dir)
    verdict = judge(rows)
    report = dict(iterations=args.iterations, size=args.size, torch=torch.__version__, verdict=verdict, rows=rows)
    AtomicLocalBackend().put_text(json.dumps(report, indent=1), args.work_dir / 'report.json')
    draw(rows, verdict, args.work_dir / 'soak.png')
    for name, found in verdict.items():
        low, high = found['interval']
        print(
            f'{name}: {found["median"]:.4g} {WATCHED[name]}, growth over {args.iterations} iterations '
            f'{found["growth"]:+.2%} [{low:+.2%}, {high:+.2%}]{", GROWS" if found["grows"] else ""}'
        )
    if args.iterations < JUDGED:
        print(f'fewer than {JUDGED} iterations: not judged')
    elif any(found['grows'] for found in verdict.values()):
        sys.exit(1)


if __name__ == '__main__':
    main()
