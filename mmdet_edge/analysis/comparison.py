"""Comparing variants over seeds, at equal iterations and at equal quality.

Shape letters: S seeds of a variant, T iterations of a curve.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .config_differences import describe_differences
from .runs import Run, find_work_dirs, read_run, read_seed
from .statistics import Difference, is_usable, iterations_to_target, lower_is_better, paired_difference, smooth

DEFAULT_METRICS = (
    r'coco/segm_mAP(_50|_75)?',
    r'coco/boundary_mAP(_50|_75)?',
    r'coco/bbox_mAP(_50|_75)?',
    r'coco/.*mAP(_50|_75)?',
    r'mask_branch/.*',
    r'(s\d\.)?loss_mask',
)
"""Patterns of the metrics that are compared by default, in the order in which they are shown."""


@dataclass(frozen=True)
class LeftOut:
    """A run that was not used, at all or for some metrics.

    Args:
        variant (str): Its variant.
        work_dir (Path): Its work dir.
        reason (str): Why.
        metrics (tuple[str, ...]): For which metrics; empty for all.
    """

    variant: str
    work_dir: Path
    reason: str
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True)
class Curve:
    """A metric over iterations, of the seeds of one variant, on iterations that they share.

    Args:
        seeds (tuple[int, ...]): (S,).
        iterations (np.ndarray): Increasing, (T,).
        values (np.ndarray): As logged, linearly interpolated where a seed has no value at an iteration, (S, T).
    """

    seeds: tuple[int, ...]
    iterations: np.ndarray
    values: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Smoothed mean over the seeds, (T,)."""
        return smooth(self.values).mean(axis=0)

    @property
    def spread(self) -> np.ndarray | None:
        """Standard deviation over the seeds of the smoothed curves, (T,); None for one seed."""
        return smooth(self.values).std(axis=0, ddof=1) if len(self.seeds) > 1 else None

    def until(self, end: float) -> 'Curve':
        """Return the curve up to an iteration, the value there interpolated if necessary."""
        if self.iterations[-1] <= end:
            return self
        grid = np.append(self.iterations[self.iterations < end], end)
        return replace(
            self, iterations=grid, values=np.stack([np.interp(grid, self.iterations, v) for v in self.values])
        )


@dataclass(frozen=True)
class Result:
    """The comparison of one metric of one variant.

    Args:
        metric (str): Key of the log.
        variant (str): Name of the variant.
        iteration (int): Iteration at which the variants are compared.
        values (dict[int, float]): Seed -> value at that iteration.
        difference (Difference | None): To the baseline; None if there is no seed in common, or no baseline value.
        target (float | None): The baseline's smoothed mean at that iteration; None if the baseline has none.
        reached_at (float | None): Iteration at which the smoothed mean first reaches the target; None if it does not.
        at_first (bool): Whether that is the first iteration of the curve, so that the target was reached there or
            before.
        seconds (float | None): Time of training until then; None if it does not reach it, or if no time was logged.
        speedup (float | None): The baseline's ``reached_at`` divided by this one, a lower bound if ``at_first``. None
            if either has none, or if the baseline's is its first iteration and bounds nothing.
        time_speedup (float | None): The same of ``seconds``.
    """

    metric: str
    variant: str
    iteration: int
    values: dict[int, float]
    difference: Difference | None
    target: float | None
    reached_at: float | None = None
    at_first: bool = False
    seconds: float | None = None
    speedup: float | None = None
    time_speedup: float | None = None

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return float(np.mean(list(self.values.values())))

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds; None for one seed."""
        return float(np.std(list(self.values.values()), ddof=1)) if len(self.values) > 1 else None

    @property
    def verdict(self) -> str:
        """'better' or 'worse' if the confidence interval of the difference lies on that side of 0, else ''."""
        sign = self.difference.sign if self.difference else 0
        return {0: '', 1: 'better', -1: 'worse'}[-sign if lower_is_better(self.metric) else sign]


@dataclass(frozen=True)
class Comparison:
    """Variants compared with a baseline.

    Args:
        baseline (str): Name of the baseline.
        runs (dict[str, dict[int, Run]]): Variant -> seed -> run, of the runs that were used.
        results (list[Result]): By metric, then by variant, the baseline first.
        curves (dict[str, dict[str, Curve]]): Metric -> variant -> curve up to the iteration of the comparison.
        left_out (list[LeftOut]): What was not used, and why.
        notes (list[str]): What a reader must know about the runs that were used.
    """

    baseline: str
    runs: dict[str, dict[int, Run]]
    results: list[Result]
    curves: dict[str, dict[str, Curve]]
    left_out: list[LeftOut]
    notes: list[str]


def choose_baseline(variants: Iterable[str], baseline: str | None = None) -> str:
    """Return the variant that the others are compared with.

    Args:
        variants (Iterable[str]): Names of all variants.
        baseline (str, optional): The user's choice. Defaults to None: the only variant without 'edge' in its name.

    Raises:
        ValueError: If the choice is unknown, or if there is none and the names do not decide.
    """
    variants = list(variants)
    names = ', '.join(variants)
    if baseline is not None:
        if baseline not in variants:
            raise ValueError(f'no variant is called {baseline!r}; there are: {names}')
        return baseline
    plain = [name for name in variants if 'edge' not in name.lower()]
    if len(plain) != 1:
        raise ValueError(f'{len(plain)} variants have no "edge" in their name: choose with --baseline among: {names}')
    return plain[0]


def compare(
    runs: Mapping[str, Sequence[Path]], baseline: str | None = None, metrics: Sequence[str] | None = None
) -> Comparison:
    """Compare variants with a baseline, paired by seed.

    All are compared at the last iteration that every variant has. Runs that ended at another iteration than the other
    seeds of their variant, that diverged or that lack a metric are left out and listed, never averaged.

    Args:
        runs (Mapping[str, Sequence[Path]]): Variant -> work dirs, one per seed, or folders of work dirs.
        baseline (str, optional): Name of a variant. Defaults to None: the only one without 'edge' in its name.
        metrics (Sequence[str], optional): Keys of the log. Defaults to None: :data:`DEFAULT_METRICS`, as far as logged.

    Returns:
        Comparison: Results, curves and what was left out.

    Raises:
        FileNotFoundError: If a folder does not exist or has no training log.
        ValueError: If the baseline or a metric is unknown, or if the baseline has no usable run.
    """
    baseline = choose_baseline(runs, baseline)
    # The baseline first, everywhere.
    read = {name: _read_seeds(name, runs[name]) for name in [baseline, *(name for name in runs if name != baseline)]}
    if not read[baseline].runs:
        reasons = '; '.join(f'{work_dir}: {reason}' for _, work_dir, reason in read[baseline].left_out)
        raise ValueError(f'the baseline {baseline!r} has no usable run ({reasons})')
    used = {name: found.runs for name, found in read.items() if found.runs}
    left_out: dict[Unused, tuple[str, ...]] = {item: () for found in read.values() for item in found.left_out}
    notes = [*(note for found in read.values() for note in found.notes), *_describe_runs(baseline, used)]

    results: list[Result] = []
    curves: dict[str, dict[str, Curve]] = {}
    for metric in _choose_metrics((run for seeds in used.values() for run in seeds.values()), metrics):
        found, lacking = _read_curves(metric, used)
        if not found:
            continue  # Such as the AP of objects of which the data has none: no run lacks anything.
        ends = {name: int(curve.iterations[-1]) for name, curve in found.items()}
        end = min(ends.values())
        shortest = min(run.final_iteration for seeds in used.values() for run in seeds.values())
        if end < shortest and (longer := ', '.join(name for name in found if ends[name] > end)):
            notes.append(f'{metric} is compared at iteration {end}, the last that all have: {longer} has later values.')
        for item in lacking:
            left_out[item] = (*left_out.get(item, ()), metric)
        curves[metric] = {name: curve.until(end) for name, curve in found.items()}
        results += _compare_curves(metric, baseline, curves[metric], used)
    if not results:
        raise ValueError('no run has logged a usable value of the metrics')
    listed = [LeftOut(*item, for_metrics) for item, for_metrics in left_out.items()]
    return Comparison(baseline, used, results, curves, listed, notes)


Unused = tuple[str, Path, str]
"""Variant and work dir of a run that is left out, and the reason."""


class _Seeds(NamedTuple):
    """The runs of a variant: seed -> run, those that cannot be used, and what to know about the others."""

    runs: dict[int, Run]
    left_out: list[Unused]
    notes: list[str]


def _read_seeds(name: str, folders: Sequence[Path]) -> _Seeds:
    """Read the runs of a variant."""
    runs: dict[int, Run] = {}
    unknown: list[Run] = []
    reasons: list[tuple[Run, str]] = []
    for work_dir in (inner for folder in folders for inner in find_work_dirs(folder)):
        try:
            run = read_run(work_dir)
        except FileNotFoundError:
            run = Run(work_dir, [])
        seed = read_seed(work_dir)
        if not run.final_iteration:
            reasons.append((run, 'no training iteration was logged'))
        elif run.diverged_at() is not None:
            reasons.append((run, f'diverged: the loss is not finite from iteration {run.diverged_at()} on'))
        elif seed is None:
            unknown.append(run)
        elif seed in runs:
            first = runs[seed].work_dir
            reasons.append((run, f'seed {seed} again, after {first}: another variant needs another name, NAME=DIR'))
        else:
            runs[seed] = run
    notes = []
    if unknown:
        free = [seed for seed in range(len(runs) + len(unknown)) if seed not in runs]
        runs.update(zip(free, unknown))
        notes = [f'{name}: {len(unknown)} runs have no seed in their config: numbered, and paired, in the order given.']
    # Of the seeds of a variant the longest are complete: an interrupted run is shorter, however many there are.
    end = max((run.final_iteration for run in runs.values()), default=0)
    for run in runs.values():
        if (last := run.final_iteration) != end:
            reasons.append(
                (run, f'ended at iteration {last}, the longest seed at {end}: interrupted, or another schedule')
            )
    complete = {seed: run for seed, run in sorted(runs.items()) if run.final_iteration == end}
    return _Seeds(complete, [(name, run.work_dir, reason) for run, reason in reasons], notes)


def _describe_runs(baseline: str, runs: dict[str, dict[int, Run]]) -> list[str]:
    """Return what a reader must know about the runs before their values."""
    notes = []
    ends = {name: max(run.final_iteration for run in seeds.values()) for name, seeds in runs.items()}
    if len(set(ends.values())) > 1:
        listed = ', '.join(f'{name} {end}' for name, end in ends.items())
        notes.append(
            f'The variants have different lengths (last iteration: {listed}). All are compared at the last iteration '
            'that they share, where the longer ones had not finished their learning rate schedule.'
        )
    if unlike := [name for name, seeds in runs.items() if set(seeds) != set(runs[baseline])]:
        notes.append(
            f'{", ".join(unlike)}: not the seeds of the baseline. Only the difference is paired; the value at the end '
            'and the time to target are means over all seeds that each has.'
        )
    return notes + describe_differences({name: list(seeds.values()) for name, seeds in runs.items()})


def _choose_metrics(runs: Iterable[Run], metrics: Sequence[str] | None) -> list[str]:
    """Return the metrics to compare, or raise if one was never logged."""
    logged = sorted({key for run in runs for line in run.scalars for key in line})
    if metrics is None:
        found = [key for pattern in DEFAULT_METRICS for key in logged if re.fullmatch(pattern, key)]
        return list(dict.fromkeys(found))
    for metric in metrics:
        if metric not in logged:
            raise ValueError(f'no run has logged {metric!r}; there are: {", ".join(logged)}')
    return list(metrics)


def _read_curves(metric: str, runs: dict[str, dict[int, Run]]) -> tuple[dict[str, Curve], list[Unused]]:
    """Bring a metric of the seeds of each variant onto one grid; return the seeds that lack it too."""
    curves: dict[str, Curve] = {}
    lacking: list[Unused] = []
    for name, seeds in runs.items():
        points = {}
        for seed, run in seeds.items():
            # Of several values at one iteration the last counts.
            pairs = {at: value for at, value in zip(*run.curve(metric)) if is_usable(metric, value)}
            points[seed] = (list(pairs), list(pairs.values()))
        end = max((iterations[-1] for iterations, _ in points.values() if iterations), default=0)
        kept = {seed: curve for seed, curve in points.items() if curve[0] and curve[0][-1] == end}
        for seed in set(points) - set(kept):
            last = points[seed][0]
            reason = f'last usable value at iteration {last[-1]}, of the longest seed at {end}' if last else 'no value'
            lacking.append((name, seeds[seed].work_dir, reason))
        if kept:
            begin = max(iterations[0] for iterations, _ in kept.values())
            grid = np.array(sorted({at for iterations, _ in kept.values() for at in iterations if at >= begin}))
            curves[name] = Curve(tuple(kept), grid, np.stack([np.interp(grid, *curve) for curve in kept.values()]))
    return curves, lacking


def _compare_curves(
    metric: str, baseline: str, curves: dict[str, Curve], runs: dict[str, dict[int, Run]]
) -> list[Result]:
    """Compare one metric of all variants at the end of their curves, which is the same."""
    target = float(curves[baseline].mean[-1]) if baseline in curves else None
    # An evaluation counts as it is; a training curve, whose values are of mini-batches, is smoothed.
    ends = {
        name: dict(zip(curve.seeds, (curve.values if '/' in metric else smooth(curve.values))[:, -1].tolist()))
        for name, curve in curves.items()
    }
    results: list[Result] = []
    for name, curve in curves.items():
        difference = paired_difference(ends[name], ends.get(baseline, {})) if name != baseline else None
        result = Result(metric, name, int(curve.iterations[-1]), ends[name], difference, target)
        if target is not None:
            result = _time_to_target(result, target, curve, [runs[name][seed] for seed in curve.seeds])
        # The baseline is the first, and compared with itself.
        results.append(_with_speedups(result, (results or [result])[0]))
    return results


def _time_to_target(result: Result, target: float, curve: Curve, runs: Sequence[Run]) -> Result:
    """Fill in when the smoothed mean reaches the target."""
    reached_at = iterations_to_target(curve.iterations, curve.mean, target, lower_is_better(result.metric))
    if reached_at is None:
        return result
    times = [run.seconds_per_iteration for run in runs]
    seconds = None if None in times else reached_at * float(np.mean([time for time in times if time is not None]))
    return replace(result, reached_at=reached_at, at_first=reached_at == curve.iterations[0], seconds=seconds)


def _with_speedups(result: Result, baseline: Result) -> Result:
    """Fill in how much earlier than the baseline that is."""
    if result.reached_at is None or baseline.reached_at is None or baseline.at_first:
        return result
    time_speedup = baseline.seconds / result.seconds if baseline.seconds and result.seconds else None
    return replace(result, speedup=baseline.reached_at / result.reached_at, time_speedup=time_speedup)
