"""Time and memory of functions that do the same work, measured so that they can be compared."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.utils.dl_utils import collect_env
from scipy.stats import bootstrap
from torch.profiler import ProfilerActivity, profile


@dataclass(frozen=True)
class Ratio:
    """How many times longer a function takes than another.

    Args:
        median (float): Median of the ratios of the paired runs.
        low (float): Lower end of the 95 % bootstrap interval of the median.
        high (float): Upper end.
    """

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return median and interval."""
        return f'{self.median:.3g} [{self.low:.3g}, {self.high:.3g}]'


def time_in_turn(functions: Mapping[str, Callable[[], Any]], repeats: int, device: str = 'cpu') -> dict[str, list]:
    """Run functions in turn, so that all of them see the same machine.

    Not by ``torch.utils.benchmark.Timer``, which runs each function at least twice more before each measured run.

    Args:
        functions (Mapping[str, Callable]): Name -> what to measure. Each is run once before, unmeasured.
        repeats (int): Number of measured runs of each.
        device (str): Where they run. On a CUDA device the time is that between two events around the function.
            Defaults to 'cpu'.

    Returns:
        dict[str, list]: Name -> seconds of each run.
    """
    on_gpu = torch.device(device).type == 'cuda'
    seconds: dict[str, list] = {name: [] for name in functions}
    for turn in range(repeats + 1):
        for name, function in functions.items():
            elapsed = _cuda_seconds(function, device) if on_gpu else _cpu_seconds(function)
            if turn:
                seconds[name].append(elapsed)
    return seconds


def _cpu_seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _cuda_seconds(function: Callable[[], Any], device: str) -> float:
    with torch.cuda.device(device):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        # The work before it must not count.
        torch.cuda.synchronize()
        start.record()
        function()
        end.record()
        end.synchronize()
    return start.elapsed_time(end) / 1000


def time_ratio(seconds: list, baseline: list) -> Ratio:
    """Compare paired runs.

    Args:
        seconds (list[float]): Of each run.
        baseline (list[float]): Of the run beside it.

    Returns:
        Ratio: Median of ``seconds / baseline`` with its 95 % interval, from 2000 bootstrap samples; of a single run the
        interval is that ratio.

    Example:
        >>> time_ratio([1.0, 2.0, 3.0], [2.0, 4.0, 6.0])
        Ratio(median=0.5, low=0.5, high=0.5)
    """
    ratios = np.array(seconds) / np.array(baseline)
    low = high = median = float(np.median(ratios))
    if len(ratios) > 1:
        samples = bootstrap((ratios,), np.median, n_resamples=2000, method='percentile', random_state=0)
        low, high = map(float, samples.confidence_interval)
    return Ratio(median, low, high)


def peak_memory(function: Callable[[], Any], device: str = 'cpu') -> int:
    """Measure how much memory torch allocates at most for a function, beyond what is allocated before.

    Args:
        function (Callable): What to measure. It should free nothing that was there before.
        device (str): Where it runs. On a CPU the allocations are those that torch's profiler sees. Defaults to 'cpu'.

    Returns:
        int: Bytes.
    """
    if torch.device(device).type == 'cuda':
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        function()
    allocated = [event.nbytes() for event in trace.profiler.kineto_results.events() if event.name() == '[memory]']
    return int(np.cumsum([0, *allocated]).max())


def describe_machine(device: str = 'cpu') -> str:
    """Return hardware and versions in one line, for a table's title or a JSON file."""
    env = collect_env()
    name = torch.cuda.get_device_name(device) if torch.device(device).type == 'cuda' else cpu_name()
    return (
        f'{name}, {torch.get_num_threads()} CPU threads, torch {torch.__version__}, Python {env["Python"].split()[0]}'
    )


def cpu_name() -> str:
    """Return the processor's name, or 'CPU' where the system does not report it."""
    try:
        with open('/proc/cpuinfo') as info:
            return next(line.split(':')[1].strip() for line in info if line.startswith('model name'))
    except (OSError, StopIteration):
        return 'CPU'
