"""What is compared: the ends of training runs of several budgets.

The learning rate falls to 0 within each budget of training iterations, so that every budget is a training run of its
own. Only the ends are compared: in the middle of a longer run the learning rate still holds the values down.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import stats

from mmdet_edge.analysis.statistics import Difference, lower_is_better, paired_difference
from mmdet_edge.errors import UserError

from .results import RunResult


@dataclass(frozen=True)
class EqualIterationsRow:
    """One setting at one budget.

    Args:
        setting (str): Its name.
        learning_rate (float | None): Its tuned one; None for the config's own, and if there is no run.
        seeds (int): Number of runs at that rate that have the tuning metric.
        diverged (int): Number of runs at that rate that do not.
        values (dict[str, dict[int, float]]): Metric -> seed -> value.
        differences (dict[str, Difference | None]): Metric -> difference to the baseline in percent of the baseline's
            mean over the same seeds, which the interval takes as exact. None if there is no seed in common, if that
            mean is 0, and for the baseline.
    """

    setting: str
    learning_rate: float | None
    seeds: int
    diverged: int
    values: dict[str, dict[int, float]]
    differences: dict[str, Difference | None]


@dataclass(frozen=True)
class SpeedUp:
    """Speed-up of a setting: iterations of the baseline divided by its own, at the same quality.

    Args:
        seeds (int): Number of seeds that are compared.
        missed (int): Number of these that do not reach the target. Their ratio is unknown, and a mean of the others
            would flatter: there is none then.
        mean (float | None): Geometric mean over the seeds: 2 is half the iterations, below 1 is more of them.
        interval (tuple[float, float] | None): 95 % confidence interval. None for one seed, which has none, and for a
            lower bound: ratios that are cut off vary too little.
        is_lower_bound (bool): Whether a seed reached the target in the smallest budget already.
    """

    seeds: int
    missed: int
    mean: float | None = None
    interval: tuple[float, float] | None = None
    is_lower_bound: bool = False


def check_known(what: str, names: Iterable[Any], known: Iterable[Any]) -> None:
    """Check that results have what is asked for: a misspelt name would look like an empty result.

    Args:
        what (str): Kind of the names, for the message.
        names (Iterable): What is asked for.
        known (Iterable): What there is.

    Raises:
        UserError: If a name is not known.
    """
    known = list(known)
    for name in names:
        if name not in known:
            raise UserError(f'no run has the {what} {name!r}; there are: {", ".join(map(str, known)) or "none"}')


def tuned_results(results: Sequence[RunResult], setting: str, budget: int | None, metric: str) -> list[RunResult]:
    """Return the results of a setting at its tuned learning rate.

    Rates at which no run lacks the metric, that is, none diverged, go before the others. Of these, the ones with the
    most seeds compete, since the best of many single runs is lucky. The best mean over the seeds wins; of equal ones,
    the first in the file.

    Args:
        results (Sequence[RunResult]): Of all settings.
        setting (str): Which to tune.
        budget (int | None): Each budget is tuned on its own.
        metric (str): What to tune by.

    Returns:
        list[RunResult]: All of one learning rate; empty if the setting has no run at this budget.
    """
    rates: dict[float | None, list[RunResult]] = {}
    for result in results:
        if (result.key.setting, result.key.budget) == (setting, budget):
            rates.setdefault(result.key.learning_rate, []).append(result)
    sign = -1 if lower_is_better(metric) else 1

    def rank(group: list[RunResult]) -> tuple[bool, int, float]:
        values = [result.metrics[metric] for result in group if metric in result.metrics]
        return len(values) == len(group), len(values), sign * float(np.mean(values)) if values else 0.0

    return max(rates.values(), key=rank, default=[])


def difference_in_percent(values: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """Compare two settings by the seeds that they share.

    Args:
        values (Mapping[int, float]): Seed -> value.
        baseline (Mapping[int, float]): Seed -> value.

    Returns:
        Difference | None: In percent of the baseline's mean over these seeds; None if that is 0, or without a seed.
    """
    shared = [baseline[seed] for seed in values if seed in baseline]
    mean = abs(float(np.mean(shared))) if shared else 0.0
    if not mean:
        return None
    first, second = ({seed: 100 * value / mean for seed, value in side.items()} for side in (values, baseline))
    return paired_difference(first, second)


def iterations_needed(values: Mapping[int, float], target: float, lower: bool) -> float | None:
    """Return the number of iterations after which a seed reaches a target and stays there.

    The target counts as reached at the smallest budget from which every larger budget also reaches it: single seeds are
    noisy, and the first budget that reaches it would count the lucky ones. Between two budgets the value is a straight
    line over the logarithm of the budget.

    Args:
        values (Mapping[int, float]): Budget -> value, NaN if the run diverged.
        target (float): The value to reach; meeting it is enough.
        lower (bool): Whether lower is better.

    Returns:
        float | None: The smallest budget if all reach the target; None if the largest misses it.

    Example:
        >>> iterations_needed({10: 0.2, 40: 0.4}, target=0.3, lower=False)
        20.0
    """
    budgets = sorted(values)
    # Stated so that NaN misses.
    missing = [i for i, b in enumerate(budgets) if not (values[b] <= target if lower else values[b] >= target)]
    if not missing:
        return float(budgets[0])
    last = missing[-1]
    if last == len(budgets) - 1:
        return None
    before, after = budgets[last], budgets[last + 1]
    if math.isnan(values[before]):
        return float(after)
    fraction = (target - values[before]) / (values[after] - values[before])
    return before * (after / before) ** fraction


@dataclass(frozen=True)
class Study:
    """Results of a benchmark, and what is compared in them.

    Args:
        results (Sequence[RunResult]): Of all settings.
        baseline (str): The setting that the others are compared with.
        metrics (Sequence[str]): What is compared.
        tuning_metric (str): What the learning rate of each setting is tuned by, at each budget.

    Raises:
        UserError: If no run has the baseline or a metric.
    """

    results: Sequence[RunResult]
    baseline: str
    metrics: Sequence[str]
    tuning_metric: str

    def __post_init__(self) -> None:
        """Check the names."""
        check_known('setting', [self.baseline], self._budgets)
        known = sorted({metric for result in self.results for metric in result.metrics})
        check_known('metric', [*self.metrics, self.tuning_metric], known)

    @cached_property
    def _budgets(self) -> dict[str, list[int | None]]:
        """Setting -> its budgets in increasing order, the config's own schedule last; settings as in the file."""
        found: dict[str, set[int | None]] = {}
        for result in self.results:
            found.setdefault(result.key.setting, set()).add(result.key.budget)
        return {name: sorted(budgets, key=lambda b: math.inf if b is None else b) for name, budgets in found.items()}

    @property
    def budgets(self) -> list[int | None]:
        """Budgets of the baseline in increasing order; None, the config's own schedule, comes last."""
        return self._budgets[self.baseline]

    @property
    def lengthened(self) -> list[str]:
        """Settings with several budgets, without the baseline; sorted, to have the same colors on all data sets."""
        several = (name for name, budgets in self._budgets.items() if len(set(budgets) - {None}) > 1)
        return sorted(set(several) - {self.baseline})

    def tuned(self, setting: str, budget: int | None) -> list[RunResult]:
        """Return the results of a setting at its tuned learning rate, see :func:`tuned_results`."""
        return tuned_results(self.results, setting, budget, self.tuning_metric)

    def end_values(self, setting: str, budget: int | None, metric: str) -> dict[int, float]:
        """Return what a setting reached at its tuned learning rate.

        Args:
            setting (str): Which one.
            budget (int | None): At which budget.
            metric (str): Which value.

        Returns:
            dict[int, float]: Seed -> value, without runs that diverged; empty if there is none.
        """
        tuned = self.tuned(setting, budget)
        return {result.key.seed: result.metrics[metric] for result in tuned if metric in result.metrics}

    def equal_iterations(self, budget: int | None) -> list[EqualIterationsRow]:
        """Compare the settings with the baseline at the end of equally long training runs.

        Args:
            budget (int | None): At which budget.

        Returns:
            list[EqualIterationsRow]: Of the settings that have a run at this budget, the baseline first.

        Raises:
            UserError: If no run has the budget.
        """
        check_known('budget', [budget], dict.fromkeys(result.key.budget for result in self.results))
        names = [name for name, budgets in self._budgets.items() if budget in budgets]
        rows: list[EqualIterationsRow] = []
        for name in dict.fromkeys([self.baseline, *names]):
            tuned = self.tuned(name, budget)
            values = {metric: self.end_values(name, budget, metric) for metric in self.metrics}
            differences = {
                metric: difference_in_percent(found, rows[0].values[metric]) if rows else None
                for metric, found in values.items()
            }
            seeds = sum(self.tuning_metric in result.metrics for result in tuned)
            rate = tuned[0].key.learning_rate if tuned else None
            rows.append(EqualIterationsRow(name, rate, seeds, len(tuned) - seeds, values, differences))
        return rows

    def speed_up(self, setting: str, budget: int, metric: str) -> SpeedUp | None:
        """Compare the iterations that a setting needs with a budget of the baseline, at equal quality.

        Each seed has its own target, the baseline's end value with that seed; :func:`iterations_needed` says when the
        setting reaches it. A run that diverged does not reach it. A seed that reaches it in the smallest budget already
        counts with that budget. All learning rates are tuned.

        Args:
            setting (str): What to compare.
            budget (int): Of the baseline.
            metric (str): The value to reach.

        Returns:
            SpeedUp | None: None if there is no seed to compare.
        """
        targets = self.end_values(self.baseline, budget, metric)
        values: dict[int, dict[int, float]] = {}
        for length in self._budgets[setting]:
            for result in self.tuned(setting, length) if length is not None else ():
                values.setdefault(result.key.seed, {})[length] = result.metrics.get(metric, math.nan)
        lower = lower_is_better(metric)
        seeds = sorted(set(values) & set(targets))
        needed = [iterations_needed(values[seed], targets[seed], lower) for seed in seeds]
        reached = [iterations for iterations in needed if iterations is not None]
        if not seeds or len(reached) < len(seeds):
            return SpeedUp(len(seeds), len(seeds) - len(reached)) if seeds else None
        logs = np.log(budget / np.array(reached))
        is_lower_bound = any(n == min(values[seed]) for seed, n in zip(seeds, reached))
        interval = None
        if len(logs) > 1 and not is_lower_bound:
            low, high = stats.ttest_1samp(logs, 0).confidence_interval(0.95)
            interval = (math.exp(low), math.exp(high))
        return SpeedUp(len(seeds), 0, math.exp(logs.mean()), interval, is_lower_bound)

    def curves(self, metric: str) -> dict[str, dict[int, list[float]]]:
        """Return what is drawn of a metric: setting -> budget -> values of the seeds, without what is empty.

        Args:
            metric (str): One of ``metrics``.

        Returns:
            dict[str, dict[int, list[float]]]: The baseline first, then :attr:`lengthened`.
        """
        curves: dict[str, dict[int, list[float]]] = {}
        for name in (self.baseline, *self.lengthened):
            for budget in self._budgets[name]:
                if budget is not None and (values := self.end_values(name, budget, metric)):
                    curves.setdefault(name, {})[budget] = list(values.values())
        return curves
