"""Child processes of the launcher: each has GPUs, threads, a port and a log of its own."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmdet_edge.config.edits import use_safe_checkpoints
from mmdet_edge.engine.launch import build_runner

from .roi_feature_cache import cache_roi_features
from .run_config import without_evaluation

DIST_TRAIN = Path(__file__).parents[2] / 'tools' / 'dist_train.sh'

# A forked child has the libraries loaded already; loading them takes as long as a short run of a mask head. But it
# cannot use CUDA, which its parent has initialized.
PROCESSES: Any = multiprocessing.get_context('spawn' if torch.cuda.is_available() else 'fork')


def start(target: Callable, *args: Any, log: Path, slot: int, threads: int, gpus: int = 1) -> Any:
    """Start a function in a process group of its own.

    Args:
        target (Callable): A function of a module.
        *args: Its arguments.
        log (Path): File to which its output is appended.
        slot (int): Its place among the processes that run at the same time; decides its GPUs and its port.
        threads (int): Number of its CPU threads.
        gpus (int): Number of its GPUs. Defaults to 1.

    Returns:
        multiprocessing.Process: Started; to be ended with :func:`terminate`.
    """
    process = PROCESSES.Process(target=_run_in_child, args=(target, args, log, slot, threads))
    with warnings.catch_warnings(), _visible_gpus(slot, gpus):
        # The parent has one more thread, which draws the progress bar and holds no lock that a child would need.
        warnings.filterwarnings('ignore', message='.*use of fork', category=DeprecationWarning)
        process.start()
    return process


def terminate(process: Any) -> None:
    """End a child and what it has started, and wait for it.

    Args:
        process (multiprocessing.Process): Of :func:`start`; may have ended already.
    """
    if process.is_alive():
        try:
            os.killpg(process.pid, signal.SIGTERM)
        except ProcessLookupError:
            # It has not made its group yet.
            process.terminate()
    process.join()


@contextlib.contextmanager
def _visible_gpus(slot: int, gpus: int) -> Iterator[None]:
    """Let a process that is started meanwhile see its own GPUs only; with fewer than needed, they are shared."""
    if not torch.cuda.is_available():
        yield
        return
    before = os.environ.get('CUDA_VISIBLE_DEVICES')
    names = [str(i) for i in range(torch.cuda.device_count())] if before is None else before.split(',')
    own = dict.fromkeys(names[(slot * gpus + i) % len(names)] for i in range(gpus))
    os.environ['CUDA_VISIBLE_DEVICES'] = ','.join(own)
    try:
        yield
    finally:
        os.environ.pop('CUDA_VISIBLE_DEVICES')
        if before is not None:
            os.environ['CUDA_VISIBLE_DEVICES'] = before


def _run_in_child(target: Callable, args: tuple, log: Path, slot: int, threads: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # A group of its own, so that its dataloader workers, or torchrun and its processes, are ended with it.
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    torch.set_num_threads(threads)
    os.environ['OMP_NUM_THREADS'] = str(threads)
    # One torchrun port for each concurrent run.
    os.environ['PORT'] = str(int(os.environ.get('PORT', 29500)) + slot)
    target(*args)


def train(config: Path, gpus: int) -> None:
    """Train a config as tools/train.py does.

    Args:
        config (Path): File of the config, complete.
        gpus (int): With more than 1, tools/dist_train.sh trains it.
    """
    if gpus == 1:
        cfg = Config.fromfile(config)
        use_safe_checkpoints(cfg)
        build_runner(cfg).train()
    else:
        # Not by exec, which would close the pipe by which the parent notices that the run has ended.
        sys.exit(subprocess.call(['bash', str(DIST_TRAIN), str(config), str(gpus), '--resume']))


class ProgressHook(Hook):
    """Reports the progress of a training run to another process.

    Args:
        done (multiprocessing.Value): Receives the fraction of the iterations that are done, in [0, 1].
    """

    def __init__(self, done: Any) -> None:
        self.done = done

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Report the progress."""
        self.done.value = (runner.iter + 1) / runner.max_iters


def train_detector(config: Path, done: Any) -> None:
    """Train the detector whose RoI features are cached; its evaluations would be read by nobody.

    Args:
        config (Path): File of the config, complete.
        done (multiprocessing.Value): Receives the progress.
    """
    cfg = without_evaluation(Config.fromfile(config))
    use_safe_checkpoints(cfg)
    runner = build_runner(cfg)
    runner.register_hook(ProgressHook(done))
    runner.train()


def cache_features(config: Path, folder: Path, features: dict[str, float], done: Any) -> None:
    """Cache the RoI features of a trained detector.

    Args:
        config (Path): File of its config, in its work dir.
        folder (Path): Receives the features.
        features (dict[str, float]): Of the spec.
        done (multiprocessing.Value): Receives the progress.
    """
    checkpoint = config.with_name('last_checkpoint').read_text().strip()
    num_train, num_val = int(features['num_train']), int(features['num_val'])

    def report(fraction: float) -> None:
        done.value = fraction

    cache_roi_features(Config.fromfile(config), checkpoint, folder, num_train, num_val, features['jitter'], report)
