"""Running what a benchmark is missing, several training runs at a time."""

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import mmcv
import mmdet
import mmengine
import numpy as np
import torch
from mmengine.config import Config
from mmengine.utils import import_modules_from_strings
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mmdet_edge.analysis.runs import read_run
from mmdet_edge.config.edits import override_data_root
from mmdet_edge.engine.atomic_local_backend import AtomicLocalBackend
from mmdet_edge.errors import UserError
from mmdet_edge.preflight import check
from mmdet_edge.version import __version__

from . import processes
from .results import RunKey, RunResult, read_results, to_result
from .run_config import make_detector_config, make_run_config, place_features, place_pretrained
from .spec import Spec, config_hash

ROOT = Path(__file__).parents[2]
STAMP = 'config.sha256'


@dataclass
class Job:
    """A training run in progress; ``slot`` is its place among those in progress, and its GPU."""

    key: RunKey
    process: Any
    slot: int
    started: float


class Launcher:
    """Runs the training runs of a benchmark that have no result yet.

    Args:
        spec (Spec): The benchmark.
        results (Path): JSON lines, one for each finished run; appended to.
        work_dir (Path): Receives the work dirs of the runs, and the cached RoI features.
        jobs (int): Number of training runs at a time. With GPUs each has its own.
        data_root (str, optional): Where the data is. Defaults to None: where the configs say.
        cfg_options (dict, optional): Options for all runs, such as ``model.backbone.init_cfg=None``. They count as part
            of the settings: results with others are not reused. Defaults to None.
        pretrained (str, optional): File to start the backbone from, instead of the URL in the config, for a machine
            without network. Results still count as those of the config, and name the file's hash. Defaults to None.

    Raises:
        UserError: If ``jobs`` is less than 1, or ``pretrained`` is no file.
    """

    def __init__(
        self,
        spec: Spec,
        results: Path,
        work_dir: Path,
        jobs: int,
        data_root: str | None = None,
        cfg_options: dict | None = None,
        pretrained: str | None = None,
    ) -> None:
        if jobs < 1:
            raise UserError(f'there must be at least 1 training run at a time, got {jobs}')
        if pretrained and not Path(pretrained).is_file():
            raise UserError(f'weights not found: {pretrained}')
        self.spec, self.results, self.work_dir, self.jobs = spec, results, work_dir, jobs
        self.data_root, self.cfg_options, self.pretrained = data_root, cfg_options or {}, pretrained
        self.console = Console() if Console().is_terminal else Console(width=160)
        self.configs: dict[RunKey, tuple[Config, str]] = {}
        self.done: dict[RunKey, RunResult] = {}
        self.running: list[Job] = []
        self.spent = self.iterations = 0.0

    def run(self) -> None:
        """Run what is missing, to the end of the spec.

        Raises:
            UserError: If a config does not fit its budget, data or weights are missing, a training run failed (the
                message names its log; the others are stopped, and what was finished stays), or another call is running
                in the same work dir.
        """
        columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with self._lock():
            self._remove_broken_line()
            self.done = self._read_done()
            if self.spec.protocol == 'mask-branch' and self._missing() and not self._has_features():
                self._make_features()
            with Progress(*columns, console=self.console, transient=True) as progress, self._terminating():
                bar = progress.add_task(self.spec.name, total=None)
                while missing := self._missing():
                    self._start_waiting(missing)
                    names = '; '.join(str(job.key) for job in self.running)
                    total = len(self._keys()[0])
                    progress.update(bar, description=names, total=total, completed=total - len(missing))
                    self._finish_ended()

    def check(self) -> tuple[list[RunKey], bool]:
        """Check configs and data of every run that is known; start nothing.

        Returns:
            tuple[list[RunKey], bool]: The runs that are missing, and whether these are all (see :meth:`Spec.keys`).

        Raises:
            UserError: If data or pretrained weights are missing, a config does not fit its budget, or the cached RoI
                features do not fit the spec.
        """
        self.done = self._read_done()
        if self.spec.protocol == 'mask-branch' and not self._has_features():
            self._detector_config()
        keys, complete = self._keys()
        for key in keys:
            self._check(self._place(key))
        return self._missing(), complete

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Keep other calls out of the work dir."""
        self.work_dir.mkdir(parents=True, exist_ok=True)
        with (self.work_dir / 'lock').open('w') as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f'{self.work_dir}: another call of this benchmark is running there') from None
            yield

    @contextlib.contextmanager
    def _terminating(self) -> Iterator[None]:
        """End what is still running when the launcher ends."""
        try:
            yield
        finally:
            for job in self.running:
                processes.terminate(job.process)

    def _remove_broken_line(self) -> None:
        """Remove the last line of the results if an earlier call was killed while it wrote it."""
        if self.results.exists() and not (text := self.results.read_text()).endswith('\n'):
            AtomicLocalBackend().put_text(text[: text.rfind('\n') + 1], self.results)

    def _read_done(self) -> dict[RunKey, RunResult]:
        """Return the results that were made with the configs of today."""
        results = read_results(self.results) if self.results.exists() else []
        return {result.key: result for result in results if self._is_current(result)}

    def _is_current(self, result: RunResult) -> bool:
        try:
            return result.key.setting in self.spec.settings and result.config_sha256 == self._config(result.key)[1]
        except UserError:
            # Of a budget that no longer fits the schedule.
            return False

    def _keys(self) -> tuple[list[RunKey], bool]:
        """Return the runs that are known, and whether these are all."""
        return self.spec.keys(list(self.done.values()))

    def _missing(self) -> list[RunKey]:
        """Return the runs without a result that was made with the config of today."""
        keys, _ = self._keys()
        for key in keys:
            # A config that does not fit its budget fails now, not when its turn comes.
            self._config(key)
        return [key for key in keys if key not in self.done]

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
            cfg.val_evaluator.scores_file = str(Path(cfg.work_dir, 'scores.npz'))
        else:
            self._place_files(cfg)
        # Resumes from the latest checkpoint, if an earlier call was interrupted.
        cfg.resume = True
        return cfg

    def _place_files(self, cfg: Config) -> None:
        """Put data and pretrained weights of this machine into the config of a detector."""
        if self.data_root:
            override_data_root(cfg, cfg.data_root, self.data_root)
        if self.pretrained:
            place_pretrained(cfg, self.pretrained)

    def _check(self, cfg: Config) -> None:
        if self.spec.protocol == 'full':
            # A setting may name a module of its own, which Config would import from a file only.
            try:
                import_modules_from_strings(**(cfg.get('custom_imports') or dict(imports=[])))
            except ImportError as error:
                raise UserError(str(error)) from error
            check(cfg, ('train', 'val'))

    def _start_waiting(self, missing: list[RunKey]) -> None:
        """Start as many of the missing runs as there are places for."""
        waiting = [key for key in missing if key not in {job.key for job in self.running}]
        slots = sorted(set(range(self.jobs)) - {job.slot for job in self.running})
        for key, slot in zip(waiting, slots):
            self.running.append(self._start(key, slot))

    def _start(self, key: RunKey, slot: int) -> Job:
        """Start a training run."""
        cfg = self._place(key)
        self._check(cfg)
        self._clear(Path(cfg.work_dir), key)
        # Written before the run starts: with several GPUs, this file is what is started.
        path = Path(cfg.work_dir, f'{key.setting}.py')
        path.parent.mkdir(parents=True, exist_ok=True)
        cfg.dump(path)
        path.with_name(STAMP).write_text(self._config(key)[1])
        options = dict(log=path.with_name('console.log'), slot=slot, threads=_threads(self.jobs), gpus=self.spec.gpus)
        return Job(key, processes.start(processes.train, path, self.spec.gpus, **options), slot, time.time())

    def _clear(self, folder: Path, key: RunKey) -> None:
        """Delete the work dir of a changed config, or of a run that ended without an evaluation."""
        stamp = folder / STAMP
        cfg, sha = self._config(key)
        loop = cfg.train_cfg
        end = f'iter_{loop.max_iters}.pth' if 'max_iters' in loop else f'epoch_{loop.get("max_epochs")}.pth'
        is_other = not stamp.exists() or stamp.read_text() != sha
        # Killed between its last checkpoint and the end of its last evaluation: resumed, it would not evaluate.
        if is_other or ((folder / end).exists() and self._read_metrics(folder) is None):
            shutil.rmtree(folder, ignore_errors=True)

    def _finish_ended(self) -> None:
        """Wait until a training run has ended, and append its result."""
        wait([job.process.sentinel for job in self.running])
        ended = [job for job in self.running if not job.process.is_alive()]
        self.running = [job for job in self.running if job not in ended]
        # Failed ones last: the results of the others are kept.
        for job in sorted(ended, key=lambda job: self._read_metrics(self.work_dir / job.key.folder) is None):
            self._finish(job)

    def _finish(self, job: Job) -> None:
        """Append the result of a training run that has ended."""
        job.process.join()
        folder = self.work_dir / job.key.folder
        seconds = time.time() - job.started
        _, sha = self._config(job.key)
        metrics = self._read_metrics(folder)
        if metrics is None:
            raise UserError(
                f'{job.key} failed (exit code {job.process.exitcode}); the end of {_tail(folder / "console.log")}'
            )
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
        if self.pretrained:
            line['pretrained_sha256'] = hashlib.sha256(Path(self.pretrained).read_bytes()).hexdigest()[:16]
        self.results.parent.mkdir(parents=True, exist_ok=True)
        with self.results.open('a') as file:
            file.write(json.dumps(line) + '\n')
        self.done[job.key] = to_result(line)
        self._print_result(job.key, metrics, seconds)

    def _print_result(self, key: RunKey, metrics: dict[str, float], seconds: float) -> None:
        """Print a result and the time left."""
        self.spent += seconds
        self.iterations += key.budget or 1
        value = metrics.get(self.spec.tuning_metric)
        text = 'diverged' if value is None else f'{self.spec.tuning_metric} {value:.4f}'
        left = self._missing()
        eta = self.spent / self.iterations * sum(key.budget or 1 for key in left) / self.jobs
        self.console.print(
            f'{key}: {text} ({seconds:.0f} s; {len(left)} runs left, about {eta / 60:.0f} min)', highlight=False
        )

    def _read_metrics(self, folder: Path) -> dict[str, float] | None:
        """Return the values of the last evaluation of a run; {} if it diverged, None if it did not reach its end."""
        try:
            run = read_run(folder)
        except FileNotFoundError:
            return None
        if run.diverged_at() is not None:
            return {}
        end = run.final_iteration
        last = {key: value for line in run.scalars if line['step'] == end for key, value in line.items()}
        metrics = {k: v for k, v in last.items() if '/' in k}
        if metrics and not any(name.startswith('coco/') for name in metrics):
            # CocoMetric reports nothing where nothing is detected, as by a detector whose training has collapsed.
            metrics.update({name: 0.0 for name in self.spec.metrics if name.startswith('coco/')})
        return metrics if set(self.spec.metrics) <= set(metrics) else None

    def _has_features(self) -> bool:
        """Return whether the RoI features exist; raise UserError if they are not those of the spec."""
        stamp = self.work_dir / 'features' / STAMP
        # Features without a stamp were put there by the user.
        if stamp.exists() and stamp.read_text() != self._features_hash():
            raise UserError(
                f'{stamp.parent} was made with another config or number of RoIs, and so were the results: use another '
                f'work dir, or remove it and {self.results}'
            )
        return (self.work_dir / 'features/val/labels.npy').exists()

    def _features_hash(self) -> str:
        """Return the identity of the RoI features of the spec."""
        cfg = make_detector_config(self.spec, self.cfg_options)
        cfg.roi_features = {name: self.spec.features[name] for name in ('num_train', 'num_val', 'jitter')}
        return config_hash(cfg)

    def _detector_config(self) -> Config:
        """Return the config of the detector with the paths of this machine, its data checked."""
        cfg = make_detector_config(self.spec, self.cfg_options)
        self._place_files(cfg)
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
            # Do not resume from the weights of another detector.
            shutil.rmtree(path.parent)
        path.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(sha)
        cfg.dump(path)
        features = self.work_dir / 'features'
        self._run_stage('training the detector', path.with_name('train.log'), processes.train_detector, path)
        self._run_stage(
            'caching its RoI features',
            path.with_name('cache.log'),
            processes.cache_features,
            path,
            features,
            self.spec.features,
        )
        (features / STAMP).write_text(self._features_hash())

    def _run_stage(self, name: str, log: Path, target: Callable, *args: Any) -> None:
        """Run a function in a child, which is also given where to report its progress, and show the time left."""
        self.console.print(f'{name} (log: {log})', highlight=False)
        done, printed = processes.PROCESSES.Value('d', 0.0), 0.0
        process = processes.start(target, *args, done, log=log, slot=0, threads=_threads(1))
        columns = (TextColumn('{task.description}'), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        started, is_terminal = time.time(), self.console.is_terminal
        try:
            with Progress(*columns, console=self.console, transient=True, disable=not is_terminal) as progress:
                bar = progress.add_task(name, total=1.0)
                while process.is_alive():
                    process.join(timeout=0.5)
                    progress.update(bar, completed=done.value)
                    if not is_terminal and done.value >= printed + 0.1:
                        # A file has no bar, but a line for every tenth.
                        printed = done.value
                        left = (time.time() - started) * (1 / printed - 1)
                        self.console.print(f'{name}: {printed:.0%}, about {left:.0f} s left', highlight=False)
        finally:
            processes.terminate(process)
        if process.exitcode:
            raise UserError(f'{name} failed; the end of {_tail(log)}')


def _threads(jobs: int) -> int:
    """Return the number of CPU threads for each of several processes."""
    return max(1, len(os.sched_getaffinity(0)) // jobs)


def _tail(log: Path) -> str:
    """Return the path of a log and its last lines."""
    return f'{log}:\n' + '\n'.join(log.read_text(errors='replace').splitlines()[-15:])


def _versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    packages = dict(mmdet_edge=__version__, torch=torch.__version__, numpy=np.__version__)
    packages.update({package.__name__: package.__version__ for package in (mmdet, mmcv, mmengine)})
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return dict(python=platform.python_version(), device=device, **packages)


def _commit() -> str | None:
    """Return the commit of this checkout, with '+' if files differ from it; None outside of one."""
    if not (ROOT / '.git').exists():
        return None
    git = ['git', '-C', str(ROOT)]
    found = subprocess.run([*git, 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True, check=False)
    if found.returncode:
        return None
    status = [*git, 'status', '--porcelain', '-uno']
    changed = subprocess.run(status, capture_output=True, text=True, check=False).stdout.strip()
    return found.stdout.strip() + ('+' if changed else '')
