"""The results of a benchmark: one JSON line for each finished training run."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdet_edge.errors import UserError


@dataclass(frozen=True)
class RunKey:
    """Names a training run of a benchmark.

    Args:
        setting (str): Name of the setting.
        budget (int | None): Training iterations, over which the learning rate is annealed; None for the schedule of
            the config.
        learning_rate (float | None): None for that of the config.
        seed (int): Seed of the weights and of the order of the data.
    """

    setting: str
    budget: int | None
    learning_rate: float | None
    seed: int

    @property
    def folder(self) -> Path:
        """Work dir of the run, relative to that of the benchmark: runs/BUDGET/SETTING/SEED."""
        budget = 'own-schedule' if self.budget is None else str(self.budget)
        rate = '' if self.learning_rate is None else f'_lr{self.learning_rate:g}'
        return Path('runs', budget, f'{self.setting}{rate}', f'seed{self.seed}')

    def __str__(self) -> str:
        """Return the run for people to read."""
        rate = '' if self.learning_rate is None else f', lr {self.learning_rate:g}'
        budget = '' if self.budget is None else f', {self.budget} iterations'
        return f'{self.setting}{budget}{rate}, seed {self.seed}'


@dataclass(frozen=True)
class RunResult:
    """A finished training run.

    Args:
        key (RunKey): Which run.
        metrics (dict[str, float]): Evaluation at the end; empty if the run diverged.
        seconds (float): Duration.
        config_sha256 (str | None): Identity of the run's config, see :func:`.spec.config_hash`; None if unknown.
    """

    key: RunKey
    metrics: dict[str, float]
    seconds: float
    config_sha256: str | None = None


def read_results(path: str | Path) -> list[RunResult]:
    """Read the results of a benchmark.

    Meaningless values are dropped as if not evaluated: those that are not finite, and the -1 that COCO gives where
    there are no such objects.

    Args:
        path (str | Path): JSON lines. A broken last line is skipped: the benchmark was killed while it wrote it.

    Returns:
        list[RunResult]: In the order of the file; of a run that is there several times the last line counts.

    Raises:
        UserError: If there is no such file, another line is damaged, or a line lacks a field.
    """
    if not Path(path).is_file():
        raise UserError(f'there are no results yet: {path} does not exist')
    lines = [(i, line) for i, line in enumerate(Path(path).read_text().splitlines(), start=1) if line.strip()]
    results: dict[RunKey, RunResult] = {}
    for number, line in lines:
        try:
            result = to_result(json.loads(line))
        except json.JSONDecodeError as error:
            if number == lines[-1][0]:
                break
            raise UserError(f'{path}, line {number}: not JSON ({error})') from None
        except UserError as error:
            raise UserError(f'{path}, line {number}: {error}') from None
        results[result.key] = result
    return list(results.values())


def to_result(record: Any) -> RunResult:
    """Read one line of the file.

    Args:
        record (dict): The fields of :class:`RunKey` and :class:`RunResult`; others are ignored.

    Returns:
        RunResult: Without meaningless metrics.

    Raises:
        UserError: If a field is missing or has the wrong type.
    """
    if not isinstance(record, dict):
        raise UserError(f'must be an object, got {record!r}')
    names = ('setting', 'budget', 'learning_rate', 'seed', 'metrics', 'seconds')
    if lacking := [name for name in names if name not in record]:
        raise UserError(f'lacks {", ".join(lacking)}')
    *key, metrics, seconds = (record[name] for name in names)
    run = RunKey(*key)
    if run.budget is not None and not (isinstance(run.budget, int) and run.budget > 0):
        raise UserError(f'budget must be null or a positive integer, got {run.budget!r}')
    if not isinstance(metrics, dict) or not all(isinstance(value, (int, float)) for value in metrics.values()):
        raise UserError(f'metrics must be an object of numbers, got {metrics!r}')
    metrics = {name: float(value) for name, value in metrics.items() if _is_meaningful(name, value)}
    return RunResult(run, metrics, seconds, record.get('config_sha256'))


def _is_meaningful(metric: str, value: float) -> bool:
    return math.isfinite(value) and not (metric.startswith('coco/') and value == -1)
