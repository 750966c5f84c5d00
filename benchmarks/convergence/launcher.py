"""Running what a benchmark is missing, several trainings at a time."""

import contextlib
import fcntl
import json
import multiprocessing
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Optional

import mmcv
import mmdet
import mmengine
import numpy as np
import torch
from mmengine.config import Config
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mmdet_edge.analysis.runs import read_run
from mmdet_edge.config.edits import override_data_root, use_safe_checkpoints
from mmdet_edge.engine.atomic_local_backend import AtomicLocalBackend
from mmdet_edge.engine.launch import build_runner
from mmdet_edge.preflight import check
from mmdet_edge.version import __version__

from .report import ConvergenceRun, read_convergence
from .roi_feature_cache import cache_roi_features
from .run_config import make_detector_config, make_run_config, place_features
from .spec import RunKey, Spec, config_hash

KEY_FIELDS = [f.name for f in fields(RunKey)]
ROOT = Path(__file__).parents[2]
DIST_TRAIN = ROOT / 'tools' / 'dist_train.sh'
STAMP = 'config.sha256'

# A forked child has the libraries loaded already; loading them takes as long as a short training of a mask head. But it
# cannot use CUDA, which its parent has initialised.
PROCESSES: Any = multiprocessing.get_context('spawn' if torch.cuda.is_available() else 'fork')


@dataclass
class Job:
    """A training that is running; ``slot`` is its place among those that run, and its GPU."""

    key: RunKey
    process: Any
    slot: int
    started: float


class Launcher:
    """Runs the trainings of a benchmark that have no result yet.

    Args:
        spec (Spec): The benchmark.
        results (Path): JSON lines, one a finished run; appended to.
        work_dir (Path): Receives the work dirs of the runs, and the cached RoI features.
        jobs (int): Trainings at a time. With GPUs each has its own.
        data_root (str, optional): Where the data is. Defaults to None: where the configs say.
        cfg_options (dict, optional): Options for all runs, such as ``model.backbone.init_cfg=None``. They count as part
            of the settings: results with others are not reused. Defaults to None.

    Raises:
        ValueError: If there is no job at a time.
    """

    def __init__(
        self,
        spec: Spec,
        results: Path,
        work_dir: Path,
        jobs: int,
        data_root: Optional[str] = None,
        cfg_options: Optional[dict] = None,
    ) -> None:
        if jobs < 1:
            raise ValueError(f'there must be at least 1 training at a time, got {jobs}')
        self.spec, self.results, self.work_dir, self.jobs = spec, results, work_dir, jobs
        self.data_root, self.cfg_options = data_root, cfg_options or {}
        self.console = Console() if Console().is_terminal else Console(width=160)
        self.configs: dict[RunKey, tuple[Config, str]] = {}
        self.spent = self.steps = 0.0

    def run(self) -> None:
        """Run what is missing, to the end of the spec.

        Raises:
            RuntimeError: If a training failed; the message names its log. The others are stopped; what was finished
                stays.
            BlockingIOError: If another call is running in the same work dir.
        """
        self.work_dir.mkdir(parents=True, exist_ok=True)
        with (self.work_dir / 'lock').open('w') as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BlockingIOError(f'{self.work_dir}: another call of this benchmark is running there') from None
            if self.results.exists() and not (text := self.results.read_text()).endswith('\n'):
                # An earlier call was killed while it wrote the last line.
                AtomicLocalBackend().put_text(text[: text.rfind('\n') + 1], self.results)
            self._run()

    def _run(self) -> None:
        columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        running: list[Job] = []
        with Progress(*columns, console=self.console, transient=True) as progress:
            bar = progress.add_task(self.spec.name, total=None)
            try:
                while missing := self._missing():
                    waiting = [key for key in missing if key not in {job.key for job in running}]
                    while waiting and len(running) < self.jobs:
                        slot = min(set(range(self.jobs)) - {job.slot for job in running})
                        running.append(self._start(waiting.pop(0), slot))
                    total = len(self.spec.keys(self._done())[0])
                    names = '; '.join(str(job.key) for job in running)
                    progress.update(bar, description=names, total=total, completed=total - len(missing))
                    wait([job.process.sentinel for job in running])
                    failed: list[RuntimeError] = []
                    for job in [job for job in running if not job.process.is_alive()]:
                        running.remove(job)
                        missing.remove(job.key)
                        try:
                            self._finish(job, missing)
                        except RuntimeError as error:
                            # Others may have ended well at the same time.
                            failed.append(error)
                    if failed:
                        raise failed[0]
            finally:
                for job in running:
                    _terminate(job.process)

    def check(self) -> tuple[list[RunKey], bool]:
        """Check configs and data of every run that is known; start nothing.

        Returns:
            tuple[list[RunKey], bool]: The runs that are missing, and whether these are all (see :meth:`Spec.keys`).

        Raises:
            SystemExit: If data or pretrained weights are missing.
            ValueError: If a config does not fit its budget, or the cached RoI features do not fit the spec.
        """
        if self.spec.protocol == 'mask-branch' and not self._has_features():
            self._detector_config()
        keys, complete = self.spec.keys(self._done())
        for key in keys:
            self._check(self._place(key))
        return self._missing(), complete

    def _done(self) -> list[ConvergenceRun]:
        """Return the results that were made with the configs of today."""
        if not self.results.exists():
            return []
        hashes: dict[RunKey, Optional[str]] = {}
        for text in self.results.read_text().splitlines():
            # A broken last line is one that another call is writing, or was killed at; the rest is checked below.
            with contextlib.suppress(json.JSONDecodeError):
                line = json.loads(text)
                hashes[RunKey(*(line.get(name) for name in KEY_FIELDS))] = line.get('config_sha256')
        return [run for run in read_convergence(self.results) if self._is_current(_key_of(run), hashes)]

    def _is_current(self, key: RunKey, hashes: dict[RunKey, Optional[str]]) -> bool:
        try:
            return key.setting in self.spec.settings and hashes.get(key) == self._config(key)[1]
        except ValueError:
            # Of a budget that no longer fits the schedule.
            return False

    def _missing(self) -> list[RunKey]:
        """Return the runs without a result that was made with the config of today."""
        done = self._done()
        finished = {_key_of(run) for run in done}
        keys, _ = self.spec.keys(done)
        for key in keys:
            # A config that does not fit its budget fails now, not when its turn comes.
            self._config(key)
        return [key for key in keys if key not in finished]

    def _config(self, key: RunKey) -> tuple[Config, str]:
        """Return the config of a run and its hash."""
        if key not in self.configs:
            cfg = make_run_config(self.spec, key, self.cfg_options)
            self.configs[key] = cfg, config_hash(cfg)
        return self.configs[key]

    def _place(self, key: RunKey) -> Config:
        """Return the config of a run with the paths of this machine."""
        cfg = Config(self._config(key)[0].to_dict())
        cfg.work_dir = str(self.work_dir / key.folder)
        if self.spec.protocol == 'mask-branch':
            place_features(cfg, self.work_dir / 'features')
        elif self.data_root:
            override_data_root(cfg, cfg.data_root, self.data_root)
        # Goes on at the latest checkpoint, if an earlier call was interrupted.
        cfg.resume = True
        return cfg

    def _check(self, cfg: Config) -> None:
        if self.spec.protocol == 'full':
            check(cfg, ('train', 'val'))

    def _start(self, key: RunKey, slot: int) -> Job:
        """Start a training, after what it needs has been made."""
        if self.spec.protocol == 'mask-branch' and not self._has_features():
            self._make_features()
        cfg = self._place(key)
        self._check(cfg)
        self._clear(Path(cfg.work_dir), key)
        # The config stands in the work dir before the training does: with several GPUs, it is what is started.
        path = Path(cfg.work_dir, f'{key.setting}.py')
        path.parent.mkdir(parents=True, exist_ok=True)
        cfg.dump(path)
        path.with_name(STAMP).write_text(self._config(key)[1])
        process = self._fork(_train, path, self.spec.gpus, log=path.with_name('console.log'), slot=slot)
        return Job(key, process, slot, time.time())

    def _clear(self, folder: Path, key: RunKey) -> None:
        """Remove what an earlier call left that is of no use: of another config, or evaluated no more if resumed."""
        stamp = folder / STAMP
        cfg, sha = self._config(key)
        loop = cfg.train_cfg
        end = f'iter_{loop.max_iters}.pth' if 'max_iters' in loop else f'epoch_{loop.get("max_epochs")}.pth'
        is_other = not stamp.exists() or stamp.read_text() != sha
        # Killed between its last checkpoint and the end of its last evaluation.
        if is_other or ((folder / end).exists() and self._read_metrics(folder) is None):
            shutil.rmtree(folder, ignore_errors=True)

    def _fork(self, target: Callable, *args: Any, log: Path, slot: int, jobs: Optional[int] = None) -> Any:
        """Start a function in a process of its own, what it prints going to a file."""
        threads = max(1, len(os.sched_getaffinity(0)) // (jobs or self.jobs))
        process = PROCESSES.Process(target=_run_in_child, args=(target, args, log, slot, threads))
        with warnings.catch_warnings(), _devices(slot, self.spec.gpus if target is _train else 1):
            # The parent runs one thread besides: it draws the progress bar and holds no lock that a child would need.
            warnings.filterwarnings('ignore', message='.*use of fork', category=DeprecationWarning)
            process.start()
        return process

    def _finish(self, job: Job, left: list[RunKey]) -> None:
        """Append the result of a training that has ended."""
        job.process.join()
        folder = self.work_dir / job.key.folder
        seconds = time.time() - job.started
        _, sha = self._config(job.key)
        metrics = self._read_metrics(folder)
        if metrics is None:
            log = folder / 'console.log'
            tail = '\n'.join(log.read_text(errors='replace').splitlines()[-15:])
            raise RuntimeError(f'{job.key} failed (exit code {job.process.exitcode}); the end of {log}:\n{tail}')
        line = {
            'spec': self.spec.name,
            'protocol': self.spec.protocol,
            **asdict(job.key),
            'metrics': metrics,
            'seconds': round(seconds, 1),
            'finished': time.strftime('%Y-%m-%dT%H:%M:%S'),
            'versions': _versions(),
            'commit': _commit(),
            'config_sha256': sha,
        }
        self.results.parent.mkdir(parents=True, exist_ok=True)
        with self.results.open('a') as file:
            file.write(json.dumps(line) + '\n')
        self.spent += seconds
        self.steps += job.key.budget or 1
        value = metrics.get(self.spec.tuning_metric)
        text = 'diverged' if value is None else f'{self.spec.tuning_metric} {value:.4f}'
        eta = self.spent / self.steps * sum(key.budget or 1 for key in left) / self.jobs
        self.console.print(
            f'{job.key}: {text} ({seconds:.0f} s; {len(left)} runs left, about {eta / 60:.0f} min)', highlight=False
        )

    def _read_metrics(self, folder: Path) -> Optional[dict[str, float]]:
        """Return the values of the last evaluation of a run; {} if it diverged, None if it did not get to its end."""
        try:
            run = read_run(folder)
        except FileNotFoundError:
            return None
        if run.diverged_at() is not None:
            return {}
        last = {key: value for line in run.scalars if line['step'] == run.final_step for key, value in line.items()}
        metrics = {k: v for k, v in last.items() if '/' in k}
        return metrics if set(self.spec.metrics) <= set(metrics) else None

    def _has_features(self) -> bool:
        """Tell whether the RoI features are there; raise ValueError if they are others than the spec says."""
        stamp = self.work_dir / 'features' / STAMP
        # Features without a stamp were put there by the user.
        if stamp.exists() and stamp.read_text() != self._features_hash():
            raise ValueError(
                f'{stamp.parent} was made with another config or number of RoIs, and so were the results: take another '
                f'work dir, or remove it and {self.results}'
            )
        return (self.work_dir / 'features/val/labels.npy').exists()

    def _features_hash(self) -> str:
        """Return what tells apart the RoI features of two specs."""
        cfg = make_detector_config(self.spec, self.cfg_options)
        cfg.roi_features = {name: self.spec.features[name] for name in ('num_train', 'num_val', 'jitter')}
        return config_hash(cfg)

    def _detector_config(self) -> Config:
        """Return the config of the detector with the paths of this machine, its data checked."""
        cfg = make_detector_config(self.spec, self.cfg_options)
        if self.data_root:
            override_data_root(cfg, cfg.data_root, self.data_root)
        cfg.work_dir = str(self.work_dir / 'detector')
        cfg.resume = True
        check(cfg, ('train', 'val'))
        return cfg

    def _make_features(self) -> None:
        """Train the detector and cache its RoI features."""
        cfg = self._detector_config()
        path = Path(cfg.work_dir, 'detector.py')
        stamp, sha = path.with_name(STAMP), config_hash(make_detector_config(self.spec, self.cfg_options))
        if stamp.exists() and stamp.read_text() != sha:
            # Not to go on with the weights of another detector.
            shutil.rmtree(path.parent)
        path.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(sha)
        cfg.dump(path)
        for name, target, args in (
            ('training the detector', _train, (path, 1)),
            ('caching its RoI features', _cache, (path, self.work_dir / 'features', self.spec.features)),
        ):
            log = path.with_name(f'{target.__name__}.log')
            self.console.print(f'{name} (log: {log})', highlight=False)
            process = self._fork(target, *args, log=log, slot=0, jobs=1)
            try:
                process.join()
            finally:
                _terminate(process)
            if process.exitcode:
                tail = '\n'.join(log.read_text(errors='replace').splitlines()[-15:])
                raise RuntimeError(f'{name} failed; the end of {log}:\n{tail}')
        (self.work_dir / 'features' / STAMP).write_text(self._features_hash())


def _key_of(run: ConvergenceRun) -> RunKey:
    return RunKey(run.setting, run.budget, run.learning_rate, run.seed)


@contextlib.contextmanager
def _devices(slot: int, gpus: int) -> Iterator[None]:
    """Let a process that is started meanwhile see its own GPUs only; with fewer than needed, they are shared."""
    before = os.environ.get('CUDA_VISIBLE_DEVICES')
    names = [str(i) for i in range(torch.cuda.device_count())] if before is None else before.split(',')
    if not torch.cuda.is_available():
        yield
        return
    os.environ['CUDA_VISIBLE_DEVICES'] = ','.join(
        dict.fromkeys(names[(slot * gpus + i) % len(names)] for i in range(gpus))
    )
    try:
        yield
    finally:
        os.environ.pop('CUDA_VISIBLE_DEVICES')
        if before is not None:
            os.environ['CUDA_VISIBLE_DEVICES'] = before


def _terminate(process: Any) -> None:
    """End a child and what it has started, and wait for it."""
    if process.is_alive():
        try:
            os.killpg(process.pid, signal.SIGTERM)
        except ProcessLookupError:
            # It has not come to making its group yet.
            process.terminate()
    process.join()


def _run_in_child(target: Callable, args: tuple, log: Path, slot: int, threads: int) -> None:
    """Run in a process of its own."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # A group of its own, so that its data loaders, or torchrun and its processes, are ended with it.
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    torch.set_num_threads(threads)
    os.environ['OMP_NUM_THREADS'] = str(threads)
    # Of torchrun, one for each that runs.
    os.environ['PORT'] = str(int(os.environ.get('PORT', 29500)) + slot)
    target(*args)


def _train(config: Path, gpus: int) -> None:
    """Train a config as tools/train.py does."""
    if gpus == 1:
        cfg = Config.fromfile(config)
        use_safe_checkpoints(cfg)
        build_runner(cfg).train()
    else:
        # Not by exec, which would close the pipe whose end tells the parent that the training has ended.
        sys.exit(subprocess.call(['bash', str(DIST_TRAIN), str(config), str(gpus), '--resume']))


def _cache(config: Path, folder: Path, features: dict[str, float]) -> None:
    """Cache the RoI features of a detector that was trained."""
    checkpoint = config.with_name('last_checkpoint').read_text().strip()
    num_train, num_val = int(features['num_train']), int(features['num_val'])
    cache_roi_features(Config.fromfile(config), checkpoint, folder, num_train, num_val, features['jitter'])


def _versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    packages = dict(mmdet_edge=__version__, torch=torch.__version__, numpy=np.__version__)
    packages.update({package.__name__: package.__version__ for package in (mmdet, mmcv, mmengine)})
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return dict(python=platform.python_version(), device=device, **packages)


def _commit() -> Optional[str]:
    """Return the commit of this checkout, with '+' if files differ from it; None outside of one."""
    if not (ROOT / '.git').exists():
        return None
    git = ['git', '-C', str(ROOT)]
    found = subprocess.run([*git, 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True, check=False)
    if found.returncode:
        return None
    changed = subprocess.run(
        [*git, 'status', '--porcelain', '-uno'], capture_output=True, text=True, check=False
    ).stdout
    return found.stdout.strip() + ('+' if changed.strip() else '')
