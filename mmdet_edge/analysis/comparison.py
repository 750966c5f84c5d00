"""Comparing settings over seeds, at equal steps and at equal quality.

Shape letters: S seeds of a setting, T steps of a curve.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional

import numpy as np

from .runs import Run, find_work_dirs, read_run, read_seed
from .statistics import Difference, lower_is_better, paired_difference, smooth, steps_to_target

DEFAULT_METRICS = (
    r'coco/segm_mAP(_50|_75)?',
    r'coco/boundary_mAP(_50|_75)?',
    r'coco/bbox_mAP(_50|_75)?',
    r'coco/.*mAP(_50|_75)?',
    r'mask_branch/.*',
    r'(s\d\.)?loss_mask',
)
"""Patterns of the metrics that are compared unless told otherwise, in the order in which they are shown."""


@dataclass(frozen=True)
class LeftOut:
    """A run that was not used, at all or for some metrics.

    Args:
        setting (str): Its setting.
        work_dir (Path): Its work dir.
        reason (str): Why.
        metrics (tuple[str, ...]): For which metrics; empty for all.
    """

    setting: str
    work_dir: Path
    reason: str
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True)
class Curve:
    """A metric over steps, of the seeds of one setting, on steps that they share.

    Args:
        seeds (tuple[int, ...]): (S,).
        steps (np.ndarray): Increasing, (T,).
        values (np.ndarray): As logged, linearly interpolated where a seed has no value at a step, (S, T).
    """

    seeds: tuple[int, ...]
    steps: np.ndarray
    values: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Smoothed mean over the seeds, (T,)."""
        return smooth(self.values).mean(axis=0)

    @property
    def spread(self) -> Optional[np.ndarray]:
        """Standard deviation over the seeds of the smoothed curves, (T,); None for one seed."""
        return smooth(self.values).std(axis=0, ddof=1) if len(self.seeds) > 1 else None

    def until(self, end: float) -> 'Curve':
        """Return the curve up to a step, the value there interpolated if need be."""
        if self.steps[-1] <= end:
            return self
        steps = np.append(self.steps[self.steps < end], end)
        return replace(self, steps=steps, values=np.stack([np.interp(steps, self.steps, v) for v in self.values]))


@dataclass(frozen=True)
class Result:
    """What a comparison says about one metric of one setting.

    Args:
        metric (str): Key of the log.
        setting (str): Name of the setting.
        step (int): Step at which the settings are compared.
        values (dict[int, float]): Seed -> value at that step.
        difference (Difference | None): To the baseline; None if there is no seed in common, or no baseline value.
        target (float | None): The baseline's smoothed mean at that step; None if the baseline has none.
        steps (float | None): Step at which the smoothed mean first reaches the target; None if it does not.
        at_first (bool): Whether that is the first step of the curve, so that the target was reached there or before.
        seconds (float | None): Time of training up to there; None if it does not, or if no time was logged.
        step_ratio (float | None): The baseline's ``steps`` by these, a lower bound if ``at_first``. None if either has
            none, or if the baseline's own is its first one and bounds nothing.
        time_ratio (float | None): The same of ``seconds``.
    """

    metric: str
    setting: str
    step: int
    values: dict[int, float]
    difference: Optional[Difference]
    target: Optional[float]
    steps: Optional[float] = None
    at_first: bool = False
    seconds: Optional[float] = None
    step_ratio: Optional[float] = None
    time_ratio: Optional[float] = None

    @property
    def reached(self) -> Optional[bool]:
        """Whether the smoothed mean reaches the target; None if there is no target."""
        return None if self.target is None else self.steps is not None

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return float(np.mean(list(self.values.values())))

    @property
    def spread(self) -> Optional[float]:
        """Standard deviation over the seeds; None for one seed."""
        return float(np.std(list(self.values.values()), ddof=1)) if len(self.values) > 1 else None

    @property
    def verdict(self) -> str:
        """'better' or 'worse' if the confidence interval of the difference lies on that side of 0, else ''."""
        sign = self.difference.sign if self.difference else 0
        return {0: '', 1: 'better', -1: 'worse'}[-sign if lower_is_better(self.metric) else sign]


@dataclass(frozen=True)
class Comparison:
    """Settings compared with a baseline.

    Args:
        baseline (str): Name of the baseline.
        runs (dict[str, dict[int, Run]]): Setting -> seed -> run, of the runs that were used.
        results (list[Result]): By metric, then by setting, the baseline first.
        curves (dict[str, dict[str, Curve]]): Metric -> setting -> curve up to the step of the comparison.
        left_out (list[LeftOut]): What was not used, and why.
        notes (list[str]): What a reader must know about what was used.
    """

    baseline: str
    runs: dict[str, dict[int, Run]]
    results: list[Result]
    curves: dict[str, dict[str, Curve]]
    left_out: list[LeftOut]
    notes: list[str]


def choose_baseline(settings: Iterable[str], baseline: Optional[str] = None) -> str:
    """Return the setting that the others are compared with.

    Args:
        settings (Iterable[str]): Names of all settings.
        baseline (str, optional): The user's choice. Defaults to None: the only setting without 'edge' in its name.

    Returns:
        str: One of ``settings``.

    Raises:
        ValueError: If the choice is unknown, or if there is none and the names do not tell.
    """
    settings = list(settings)
    names = ', '.join(settings)
    if baseline is not None:
        if baseline not in settings:
            raise ValueError(f'no setting is called {baseline!r}; there are: {names}')
        return baseline
    plain = [name for name in settings if 'edge' not in name.lower()]
    if len(plain) != 1:
        raise ValueError(f'{len(plain)} settings have no "edge" in their name: choose with --baseline among: {names}')
    return plain[0]


def compare(
    runs: Mapping[str, Sequence[Path]], baseline: Optional[str] = None, metrics: Optional[Sequence[str]] = None
) -> Comparison:
    """Compare settings with a baseline, paired by seed.

    All is compared at the last step that every setting has. Runs that ended at another step than the other seeds of
    their setting, that diverged or that lack a metric are left out and listed, never averaged.

    Args:
        runs (Mapping[str, Sequence[Path]]): Setting -> work dirs, one per seed, or folders of work dirs.
        baseline (str, optional): Name of a setting. Defaults to None: the only one without 'edge' in its name.
        metrics (Sequence[str], optional): Keys of the log. Defaults to None: :data:`DEFAULT_METRICS`, as far as logged.

    Returns:
        Comparison: Results, curves and what was left out.

    Raises:
        FileNotFoundError: If a folder does not exist or has no training log.
        ValueError: If the baseline or a metric is unknown, or if the baseline has no usable run.
    """
    baseline = choose_baseline(runs, baseline)
    left_out: list[LeftOut] = []
    notes: list[str] = []
    # The baseline first, everywhere.
    names = [baseline, *(name for name in runs if name != baseline)]
    used = {name: _read_seeds(name, runs[name], left_out, notes) for name in names}
    if not used[baseline]:
        reasons = '; '.join(f'{item.work_dir}: {item.reason}' for item in left_out if item.setting == baseline)
        raise ValueError(f'the baseline {baseline!r} has no usable run ({reasons})')
    used = {name: seeds for name, seeds in used.items() if seeds}
    ends = {name: max(run.final_step for run in seeds.values()) for name, seeds in used.items()}
    if len(set(ends.values())) > 1:
        listed = ', '.join(f'{name} {end}' for name, end in ends.items())
        notes.append(
            f'The settings have different lengths (last step: {listed}). All are compared at the last step that they '
            'share, where the longer ones had not finished their learning rate schedule.'
        )
    if unlike := [name for name, seeds in used.items() if set(seeds) != set(used[baseline])]:
        notes.append(
            f'{", ".join(unlike)}: not the seeds of the baseline. Only the difference is paired; the value at the end '
            'and the time to target are means over all seeds that each has.'
        )

    results: list[Result] = []
    curves: dict[str, dict[str, Curve]] = {}
    for metric in _choose_metrics((run for seeds in used.values() for run in seeds.values()), metrics):
        curves[metric] = _read_curves(metric, used, left_out, notes)
        results += _compare_curves(metric, baseline, curves[metric], used)
    curves = {metric: found for metric, found in curves.items() if found}
    if not results:
        raise ValueError('no run has logged a usable value of the metrics')
    return Comparison(baseline, used, results, curves, _merge(left_out), notes)


def _read_seeds(name: str, folders: Sequence[Path], left_out: list[LeftOut], notes: list[str]) -> dict[int, Run]:
    """Read the runs of a setting; add what cannot be used to ``left_out``."""

    def leave_out(run: Run, reason: str) -> None:
        left_out.append(LeftOut(name, run.work_dir, reason))

    runs: dict[int, Run] = {}
    unknown: list[Run] = []
    for work_dir in (inner for folder in folders for inner in find_work_dirs(folder)):
        try:
            run = read_run(work_dir)
        except FileNotFoundError:
            run = Run(work_dir, [])
        seed = read_seed(work_dir)
        if not run.final_step:
            leave_out(run, 'no training step was logged')
        elif run.diverged_at() is not None:
            leave_out(run, f'diverged: the loss is not finite from step {run.diverged_at()} on')
        elif seed is None:
            unknown.append(run)
        elif seed in runs:
            leave_out(
                run, f'seed {seed} again, after {runs[seed].work_dir}: another setting needs another name, NAME=DIR'
            )
        else:
            runs[seed] = run
    if unknown:
        free = (seed for seed in range(len(runs) + len(unknown)) if seed not in runs)
        runs.update(dict(zip(list(free), unknown)))
        notes.append(
            f'{name}: {len(unknown)} runs have no seed in their config: numbered, and paired, in the order given.'
        )
    # Of the seeds of a setting the longest are complete: an interrupted run is shorter, however many there are.
    end = max((run.final_step for run in runs.values()), default=0)
    for run in runs.values():
        if run.final_step != end:
            leave_out(
                run, f'ended at step {run.final_step}, the longest seed at {end}: interrupted, or another schedule'
            )
    return {seed: run for seed, run in sorted(runs.items()) if run.final_step == end}


def _choose_metrics(runs: Iterable[Run], metrics: Optional[Sequence[str]]) -> list[str]:
    """Return the metrics to compare, or raise if one was never logged."""
    logged = sorted({key for run in runs for line in run.scalars for key in line})
    if metrics is None:
        found = [key for pattern in DEFAULT_METRICS for key in logged if re.fullmatch(pattern, key)]
        return list(dict.fromkeys(found))
    for metric in metrics:
        if metric not in logged:
            raise ValueError(f'no run has logged {metric!r}; there are: {", ".join(logged)}')
    return list(metrics)


def _usable(metric: str, value: float) -> bool:
    """Whether a value says something: COCO evaluations give -1 where there are no such objects."""
    return math.isfinite(value) and not ('/' in metric and value == -1)


def _read_curves(
    metric: str, runs: dict[str, dict[int, Run]], left_out: list[LeftOut], notes: list[str]
) -> dict[str, Curve]:
    """Read a metric of all settings, up to the last step that all have; add what is odd to the lists."""
    lacking: list[LeftOut] = []
    read = {name: _read_curve(metric, name, seeds, lacking) for name, seeds in runs.items()}
    curves = {name: curve for name, curve in read.items() if curve is not None}
    if not curves:
        return {}  # Such as the AP of objects of which the data has none: no run lacks anything.
    left_out += lacking
    end = int(min(curve.steps[-1] for curve in curves.values()))
    shortest = min(run.final_step for seeds in runs.values() for run in seeds.values())
    if end < shortest and (longer := [name for name, curve in curves.items() if curve.steps[-1] > end]):
        notes.append(
            f'{metric} is compared at step {end}, the last that all have: {", ".join(longer)} has later values.'
        )
    return {name: curve.until(end) for name, curve in curves.items()}


def _read_curve(metric: str, name: str, runs: dict[int, Run], left_out: list[LeftOut]) -> Optional[Curve]:
    """Bring a metric of the seeds of a setting onto one grid; add the seeds that lack it to ``left_out``."""
    points = {}
    for seed, run in runs.items():
        # Of several values at one step the last counts.
        pairs = {step: value for step, value in zip(*run.curve(metric)) if _usable(metric, value)}
        points[seed] = (list(pairs), list(pairs.values()))
    end = max((steps[-1] for steps, _ in points.values() if steps), default=0)
    for seed, (steps, _) in points.items():
        if not steps:
            left_out.append(LeftOut(name, runs[seed].work_dir, 'no value', (metric,)))
        elif steps[-1] != end:
            reason = f'last usable value at step {steps[-1]}, of the longest seed at {end}'
            left_out.append(LeftOut(name, runs[seed].work_dir, reason, (metric,)))
    kept = {seed: curve for seed, curve in points.items() if curve[0] and curve[0][-1] == end}
    if not kept:
        return None
    begin = max(steps[0] for steps, _ in kept.values())
    grid = np.array(sorted({step for steps, _ in kept.values() for step in steps if step >= begin}))
    return Curve(tuple(kept), grid, np.stack([np.interp(grid, *curve) for curve in kept.values()]))


def _merge(left_out: list[LeftOut]) -> list[LeftOut]:
    """Make one entry of those that differ in the metric only."""
    merged: dict[tuple[str, Path, str], LeftOut] = {}
    for item in left_out:
        key = (item.setting, item.work_dir, item.reason)
        merged[key] = replace(item, metrics=merged[key].metrics + item.metrics) if key in merged else item
    return list(merged.values())


def _compare_curves(
    metric: str, baseline: str, curves: dict[str, Curve], runs: dict[str, dict[int, Run]]
) -> list[Result]:
    """Compare one metric of all settings at the end of the baseline's curve, where all end."""
    target = float(curves[baseline].mean[-1]) if baseline in curves else None
    values = {name: _end_values(metric, curve) for name, curve in curves.items()}
    results: list[Result] = []
    for name, curve in curves.items():
        difference = paired_difference(values[name], values.get(baseline, {})) if name != baseline else None
        result = Result(metric, name, int(curve.steps[-1]), values[name], difference, target)
        if target is not None:
            result = _time_to_target(result, curve, [runs[name][seed] for seed in curve.seeds])
        # The baseline is the first, and compared with itself.
        results.append(_with_ratios(result, (results or [result])[0]))
    return results


def _time_to_target(result: Result, curve: Curve, runs: Sequence[Run]) -> Result:
    """Fill in when the smoothed mean reaches the target."""
    steps = steps_to_target(curve.steps, curve.mean, result.target or 0.0, lower_is_better(result.metric))
    if steps is None:
        return result
    return replace(result, steps=steps, at_first=steps == curve.steps[0], seconds=_seconds_at(steps, runs))


def _with_ratios(result: Result, baseline: Result) -> Result:
    """Fill in how much earlier than the baseline that is."""
    if result.steps is None or baseline.steps is None or baseline.at_first:
        return result
    time_ratio = baseline.seconds / result.seconds if baseline.seconds and result.seconds else None
    return replace(result, step_ratio=baseline.steps / result.steps, time_ratio=time_ratio)


def _end_values(metric: str, curve: Curve) -> dict[int, float]:
    """Seed -> value at the end: of an evaluation as it is, of a training curve (a mini-batch) smoothed."""
    values = curve.values if '/' in metric else smooth(curve.values)
    return dict(zip(curve.seeds, values[:, -1].tolist()))


def _seconds_at(step: float, runs: Sequence[Run]) -> Optional[float]:
    """Return the mean time of training up to a step; None if a run has logged no time."""
    per_step = [run.seconds_per_step for run in runs]
    return None if None in per_step else step * float(np.mean([s for s in per_step if s is not None]))
