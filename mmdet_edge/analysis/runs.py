"""Reading the work dirs of training runs."""

import ast
import itertools
import json
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union


@dataclass(frozen=True)
class Run:
    """What a training run logged.

    Args:
        work_dir (Path): The work dir of mmengine's Runner.
        scalars (list[dict]): One dict per log line, with ``step``, in the order of the steps.
    """

    work_dir: Path
    scalars: list[dict[str, Any]]

    def curve(self, key: str) -> tuple[list[int], list[float]]:
        """Return the steps at which a value was logged, and the values.

        Args:
            key (str): Such as 'loss_mask' or 'coco/segm_mAP'.

        Returns:
            tuple[list[int], list[float]]: Steps and values; both empty if it was never logged.
        """
        lines = [line for line in self.scalars if key in line]
        return [line['step'] for line in lines], [line[key] for line in lines]

    @property
    def final_step(self) -> int:
        """The last training step that was logged; 0 if there is none."""
        return max((line['step'] for line in self.scalars if 'loss' in line), default=0)

    @property
    def seconds_per_step(self) -> Optional[float]:
        """Median of the logged time of a training step in seconds; None if no time was logged.

        The median, since mmengine counts what happens between two steps (an evaluation, a checkpoint) as the time of
        the next step.
        """
        times = [line['time'] for line in self.scalars if 'loss' in line and 'time' in line]
        return statistics.median(times) if times else None

    def diverged_at(self) -> Optional[int]:
        """Return the step from which on the loss is not finite up to the end; None if it ends finite."""
        steps, losses = self.curve('loss')
        bad = list(itertools.takewhile(lambda i: not math.isfinite(losses[i]), reversed(range(len(losses)))))
        return steps[bad[-1]] if bad else None


def read_run(work_dir: Union[str, Path]) -> Run:
    """Read the scalars of a run, which may have been interrupted and resumed.

    Args:
        work_dir (str | Path): The work dir of mmengine's Runner, with ``*/vis_data/scalars.json``.

    Returns:
        Run: What was logged. Steps that were repeated after a resume count once, as the last start logged them.

    Raises:
        FileNotFoundError: If there is no log in ``work_dir``.
        ValueError: If a log is damaged elsewhere than in its last line.
    """
    logs = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
    if not logs:
        raise FileNotFoundError(f'{work_dir} has no */vis_data/scalars.json: not the work dir of a training run')
    scalars: list[dict[str, Any]] = []
    for log in logs:
        lines = _read_log(log)
        # A log without training is an evaluation on its own: it belongs to no step of this run.
        start = next((line['step'] for line in lines if 'loss' in line), None)
        if start is not None:
            kept = [line for line in scalars if line['step'] < start]
            scalars = kept + [line for line in lines if line['step'] >= start or not kept]
    return Run(Path(work_dir), scalars)


def _training_logs(work_dir: Path) -> list[Path]:
    """Return the logs of the starts of a training, in order, without those of tests."""
    logs = sorted(work_dir.glob('*/vis_data/scalars.json'))
    return [log for log in logs if any('loss' in line for line in _read_log(log))]


def _read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of one log, the step of an evaluation replaced by that of the last training line.

    mmengine counts evaluations in epochs by default, which for training by iterations is always 0.
    """
    texts = [text for text in path.read_text().splitlines() if text.strip()]
    lines: list[dict[str, Any]] = []
    step = 0
    for number, text in enumerate(texts, start=1):
        try:
            line = json.loads(text)
        except json.JSONDecodeError as error:
            if number == len(texts):
                break  # The run was killed while it wrote this line.
            raise ValueError(f'{path}, line {number}: not JSON ({error})') from None
        if 'loss' in line:
            step = line['step']
        line['step'] = step
        lines.append(line)
    return lines


def find_work_dirs(folder: Union[str, Path]) -> list[Path]:
    """Find the work dirs that a user means by a folder.

    Args:
        folder (str | Path): A work dir, or a folder of work dirs (one per seed).

    Returns:
        list[Path]: ``folder`` itself if it has a training log, else its subfolders that mmengine has written to, sorted
        by name, with or without a training log. At least one has a log.

    Raises:
        FileNotFoundError: If there is no such folder, or no training log in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f'no such folder: {folder}')
    if _has_log(folder):
        return [folder]
    inner = sorted((f for f in folder.iterdir() if any(f.glob('*/vis_data'))), key=_natural_order)
    if not any(_has_log(f) for f in inner):
        raise FileNotFoundError(
            f'{folder} is not the work dir of a training run, nor a folder of work dirs: no */vis_data/scalars.json'
        )
    return inner


def _has_log(folder: Path) -> bool:
    return any(folder.glob('*/vis_data/scalars.json'))


def _natural_order(path: Path) -> list[Any]:
    """Sort key that puts seed10 behind seed9."""
    return [int(part) if part.isdigit() else part for part in re.split(r'(\d+)', path.name)]


def read_setting(work_dir: Union[str, Path]) -> str:
    """Return the name of the setting that a work dir belongs to.

    Args:
        work_dir (str | Path): The work dir of mmengine's Runner, which dumps the config there under its own name.

    Returns:
        str: Stem of that config file; the name of the folder if there is none, or more than one.
    """
    configs = list(Path(work_dir).glob('*.py'))
    return configs[0].stem if len(configs) == 1 else Path(work_dir).resolve().name


def read_seed(work_dir: Union[str, Path]) -> Optional[int]:
    """Return the seed of a run: ``randomness.seed`` of the config that mmengine dumped.

    The file is parsed, not run: a config may import what is not installed here.

    Args:
        work_dir (str | Path): The work dir of mmengine's Runner.

    Returns:
        int | None: The seed, as the latest start had it; None if the config sets none or cannot be read.
    """
    work_dir = Path(work_dir)
    # A test in the same work dir leaves a config too.
    dumped = [log.with_name('config.py') for log in reversed(_training_logs(work_dir))]
    for path in [*dumped, *sorted(work_dir.glob('*.py'))]:
        try:
            statements = ast.parse(path.read_text()).body
        except (OSError, SyntaxError, ValueError):
            continue
        for statement in statements:
            if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == 'randomness':
                return _seed_of(statement.value)
    return None


def _seed_of(node: ast.expr) -> Optional[int]:
    """Return the integer under 'seed' in ``dict(seed=1)`` or ``{'seed': 1}``."""
    items: list[tuple[Optional[str], ast.expr]] = []
    if isinstance(node, ast.Call):
        items = [(keyword.arg, keyword.value) for keyword in node.keywords]
    elif isinstance(node, ast.Dict):
        items = [(str(k.value), v) for k, v in zip(node.keys, node.values) if isinstance(k, ast.Constant)]
    value = dict(items).get('seed')
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, int) else None


def read_versions(work_dir: Union[str, Path]) -> dict[str, str]:
    """Return the versions that the latest start of a run wrote into its text log.

    Args:
        work_dir (str | Path): The work dir of mmengine's Runner.

    Returns:
        dict[str, str]: Of Python, PyTorch and MMEngine, as far as found.
    """
    logs = [log for start in _training_logs(Path(work_dir)) for log in start.parents[1].glob('*.log')]
    if not logs:
        return {}
    with logs[-1].open(errors='replace') as file:
        head = file.read(20_000)
    return dict(re.findall(r'^ +(Python|PyTorch|MMEngine): (\S+)', head, flags=re.MULTILINE))


def group_runs(runs: Sequence[str]) -> dict[str, list[Path]]:
    """Group what a user named on the command line into settings.

    Args:
        runs (Sequence[str]): Each ``DIR``, whose setting is the name of its config, or ``NAME=DIR``. DIR is a work dir
            or a folder of work dirs.

    Returns:
        dict[str, list[Path]]: Setting -> its work dirs, one per seed, both in the order given.

    Raises:
        FileNotFoundError: If a DIR does not exist or has no training log.
        ValueError: If a NAME is empty.
    """
    settings: dict[str, list[Path]] = {}
    for text in runs:
        name, equals, folder = text.partition('=')
        # A path may have an equals sign too.
        if not equals or Path(text).is_dir():
            name, folder = '', text
        elif not name:
            raise ValueError(f'{text!r}: expected NAME=DIR, got no name')
        for work_dir in find_work_dirs(folder):
            settings.setdefault(name or read_setting(work_dir), []).append(work_dir)
    return settings
