"""Smoothing, paired differences and time to target of training runs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.signal import savgol_filter
from scipy.stats import sem
from scipy.stats import t as student_t

SMOOTHING = 0.1
"""Width of the smoothing window, as a fraction of the points of a curve."""


@dataclass(frozen=True)
class Difference:
    """The mean difference of two variants, paired by seed.

    Args:
        mean (float): Mean over the pairs of (variant - baseline).
        pairs (int): Number of seeds that both have.
        interval (tuple[float, float] | None): Confidence interval of the mean; None for one pair, which has none.
        percent (float | None): ``mean`` relative to the baseline's mean over the same seeds; None if that is 0.
    """

    mean: float
    pairs: int
    interval: tuple[float, float] | None
    percent: float | None

    @property
    def sign(self) -> int:
        """1 or -1 if the interval lies on that side of 0; 0 if it has 0 in it, or if there is none."""
        if self.interval is None:
            return 0
        low, high = self.interval
        return int(low > 0) - int(high < 0)


def lower_is_better(metric: str) -> bool:
    """Return whether a metric improves downwards, judged by its key in the log.

    True for losses and costs ('loss', 'bce', 'time' or 'memory' in the name), False for the rest, such as AP and IoU.
    """
    return any(word in metric.lower() for word in ('loss', 'bce', 'time', 'memory'))


def is_usable(metric: str, value: float) -> bool:
    """Return whether a value means something: COCO's evaluation gives -1 where there are no such objects."""
    return math.isfinite(value) and not ('/' in metric and value == -1)


def smooth(values: np.ndarray) -> np.ndarray:
    """Smooth curves by fitting a line in a sliding window (Savitzky-Golay, first degree).

    The window has a tenth of the points: curves of less than 20 points stay as they are. Unlike a running mean it
    keeps straight lines up to their ends and does not lag behind, so that it shifts no time to target. ``values`` are
    evenly spaced in the last dimension, (..., T); the result has the same shape, float64.
    """
    values = np.asarray(values, dtype=np.float64)
    window = 2 * int(SMOOTHING * values.shape[-1] / 2) + 1
    return savgol_filter(values, window, polyorder=1) if window > 1 else values


def paired_difference(
    values: Mapping[int, float], baseline: Mapping[int, float], confidence: float = 0.95
) -> Difference | None:
    """Compare two variants by the seeds that they share.

    Args:
        values (Mapping[int, float]): Seed -> value of the variant.
        baseline (Mapping[int, float]): Seed -> value of the baseline.
        confidence (float): Confidence of the interval, from the t distribution. Defaults to 0.95.

    Returns:
        Difference | None: None if they share no seed.

    Example:
        >>> paired_difference({0: 3.0, 1: 5.0}, {0: 2.0, 1: 2.0}).mean
        2.0
    """
    seeds = sorted(set(values) & set(baseline))
    if not seeds:
        return None
    differences = np.array([values[seed] - baseline[seed] for seed in seeds])
    mean = float(differences.mean())
    interval = None
    if len(seeds) > 1:
        # Not ttest_rel, which warns of equal differences.
        low, high = mean + sem(differences) * np.array(student_t.interval(confidence, len(seeds) - 1))
        interval = (float(low), float(high))
    reference = float(np.mean([baseline[seed] for seed in seeds]))
    return Difference(mean, len(seeds), interval, 100 * mean / abs(reference) if reference else None)


def iterations_to_target(
    iterations: np.ndarray, values: np.ndarray, target: float, lower_is_better: bool = False
) -> float | None:
    """Return the first iteration at which a curve reaches a target.

    Args:
        iterations (np.ndarray): Increasing, (T,).
        values (np.ndarray): The curve at these iterations, (T,).
        target (float): The value to reach; meeting it is enough.
        lower_is_better (bool): Whether the curve comes from above. Defaults to False.

    Returns:
        float | None: Where the curve, interpolated linearly between logged iterations, first meets the target. The
        first logged iteration if it does so from the start, None if it never does.

    Example:
        >>> iterations_to_target(np.array([10, 20]), np.array([0.0, 1.0]), 0.5)
        15.0
    """
    reached = values <= target if lower_is_better else values >= target
    if not reached.any():
        return None
    i = int(reached.argmax())
    if i == 0:
        return float(iterations[0])
    fraction = (target - values[i - 1]) / (values[i] - values[i - 1])
    return float(iterations[i - 1] + fraction * (iterations[i] - iterations[i - 1]))
