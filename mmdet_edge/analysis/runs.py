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
from typing import Any


@dataclass(frozen=True)
class Run:
    """The log of a training run.

    Args:
        work_dir (Path): The work dir of mmengine's Runner.
        scalars (list[dict]): One dict per log line, in the order of the iterations; ``step`` is the iteration.
    """

    work_dir: Path
    scalars: list[dict[str, Any]]

    def curve(self, key: str) -> tuple[list[int], list[float]]:
        """Return the iterations at which a key, such as 'coco/segm_mAP', was logged, and the values; empty if never."""
        lines = [line for line in self.scalars if key in line]
        return [line['step'] for line in lines], [line[key] for line in lines]

    @property
    def final_iteration(self) -> int:
        """The last training iteration that was logged; 0 if there is none."""
        return max((line['step'] for line in self.scalars if 'loss' in line), default=0)

    @property
    def seconds_per_iteration(self) -> float | None:
        """Median of the logged time of a training iteration in seconds; None if no time was logged.

        The median, since mmengine adds an evaluation or a checkpoint to the time of the next iteration.
        """
        times = [line['time'] for line in self.scalars if 'loss' in line and 'time' in line]
        return statistics.median(times) if times else None

    def diverged_at(self) -> int | None:
        """Return the iteration from which the loss is not finite up to the end; None if it ends finite."""
        iterations, losses = self.curve('loss')
        bad = list(itertools.takewhile(lambda i: not math.isfinite(losses[i]), reversed(range(len(losses)))))
        return iterations[bad[-1]] if bad else None


def read_run(work_dir: str | Path) -> Run:
    """Read the scalars of a run, which may have been interrupted and resumed.

    Args:
        work_dir (str | Path): The work dir of mmengine's Runner, with ``*/vis_data/scalars.json``.

    Returns:
        Run: Iterations that were repeated after a resume count once, as the last start logged them.

    Raises:
        FileNotFoundError: If there is no log in ``work_dir``.
        ValueError: If a log is damaged elsewhere than in its last line.
    """
    work_dir = Path(work_dir)
    if not _has_log(work_dir):
        raise FileNotFoundError(f'{work_dir} has no */vis_data/scalars.json: not the work dir of a training run')
    scalars: list[dict[str, Any]] = []
    for lines in _training_logs(work_dir).values():
        start = next(line['step'] for line in lines if 'loss' in line)
        kept = [line for line in scalars if line['step'] < start]
        scalars = kept + [line for line in lines if line['step'] >= start or not kept]
    return Run(work_dir, scalars)


def _training_logs(work_dir: Path) -> dict[Path, list[dict[str, Any]]]:
    """Return the logs of the starts of a run and their lines, in order, without those of tests."""
    logs = {log: _read_log(log) for log in sorted(work_dir.glob('*/vis_data/scalars.json'))}
    return {log: lines for log, lines in logs.items() if any('loss' in line for line in lines)}


def _read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of one log, the step of an evaluation replaced by that of the last training line.

    mmengine counts evaluations in epochs by default, which is always 0 for training by iterations.
    """
    texts = [text for text in path.read_text().splitlines() if text.strip()]
    lines: list[dict[str, Any]] = []
    iteration = 0
    for number, text in enumerate(texts, start=1):
        try:
            line = json.loads(text)
        except json.JSONDecodeError as error:
            if number == len(texts):
                break  # The run was killed while it wrote this line.
            raise ValueError(f'{path}, line {number}: not JSON ({error})') from None
        if 'loss' in line:
            iteration = line['step']
        lines.append({**line, 'step': iteration})
    return lines


def find_work_dirs(folder: str | Path) -> list[Path]:
    """Find the work dirs in a folder.

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
    # By numbers inside the names too: seed10 behind seed9.
    parts = {f: re.split(r'(\d+)', f.name) for f in folder.iterdir() if any(f.glob('*/vis_data'))}
    inner = sorted(parts, key=lambda f: [int(part) if part.isdigit() else part for part in parts[f]])
    if not any(_has_log(f) for f in inner):
        raise FileNotFoundError(
            f'{folder} is not the work dir of a training run, nor a folder of work dirs: no */vis_data/scalars.json'
        )
    return inner


def _has_log(folder: Path) -> bool:
    return any(folder.glob('*/vis_data/scalars.json'))


def read_variant(work_dir: str | Path) -> str:
    """Return the name of the variant that a work dir belongs to.

    That is the stem of the config that mmengine's Runner dumps there under its own name, or the name of the folder if
    there is none, or more than one.
    """
    configs = list(Path(work_dir).glob('*.py'))
    return configs[0].stem if len(configs) == 1 else Path(work_dir).resolve().name


def read_config(work_dir: str | Path) -> dict[str, Any]:
    """Return the config that mmengine dumped at the latest start of a run, in its work dir.

    The file is parsed, not run: a config may import what is not installed here. Sections are in builtin types, and what
    is no literal is source text; the result is empty if no config can be read.
    """
    work_dir = Path(work_dir)
    # A test in the same work dir leaves a config too.
    dumped = [log.with_name('config.py') for log in reversed(_training_logs(work_dir))]
    for path in [*dumped, *sorted(work_dir.glob('*.py'))]:
        try:
            statements = ast.parse(path.read_text()).body
        except (OSError, SyntaxError, ValueError):
            continue
        return {ast.unparse(s.targets[0]): _literal(s.value) for s in statements if isinstance(s, ast.Assign)}
    return {}


def _literal(node: ast.expr) -> Any:
    """Return the value of an expression, in which ``dict(...)`` is a literal too."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict':
        return {keyword.arg: _literal(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Dict):
        return {_literal(key): _literal(value) for key, value in zip(node.keys, node.values) if key is not None}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_literal(item) for item in node.elts]
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def read_seed(work_dir: str | Path) -> int | None:
    """Return the seed of a run: ``randomness.seed`` of its config; None if there is none."""
    randomness = read_config(work_dir).get('randomness')
    seed = randomness.get('seed') if isinstance(randomness, dict) else None
    return seed if isinstance(seed, int) else None


def read_environment(work_dir: str | Path) -> dict[str, str]:
    """Return what the latest start of a run wrote into its text log about its environment.

    These are the versions of Python, PyTorch and MMEngine, and GPU number (of ranks), as far as found.
    """
    logs = [log for start in _training_logs(Path(work_dir)) for log in sorted(start.parents[1].glob('*.log'))]
    if not logs:
        return {}
    with logs[-1].open(errors='replace') as file:
        head = file.read(20_000)
    return dict(re.findall(r'^ +(Python|PyTorch|MMEngine|GPU number): (\S+)', head, flags=re.MULTILINE))


def group_runs(runs: Sequence[str]) -> dict[str, list[Path]]:
    """Group the runs that a command line names into variants.

    Args:
        runs (Sequence[str]): Each ``DIR``, whose variant is the name of its config, or ``NAME=DIR``. DIR is a work dir
            or a folder of work dirs.

    Returns:
        dict[str, list[Path]]: Variant -> its work dirs, one per seed, both in the order given.

    Raises:
        FileNotFoundError: If a DIR does not exist or has no training log.
        ValueError: If a NAME is empty.
    """
    variants: dict[str, list[Path]] = {}
    for text in runs:
        name, equals, folder = text.partition('=')
        # A path may have an equals sign too.
        if not equals or Path(text).is_dir():
            name, folder = '', text
        elif not name:
            raise ValueError(f'{text!r}: expected NAME=DIR, got no name')
        for work_dir in find_work_dirs(folder):
            variants.setdefault(name or read_variant(work_dir), []).append(work_dir)
    return variants
