"""Time and memory, measured so that functions can be compared."""

from contextlib import nullcontext
from functools import partial

import pytest
import torch

from benchmarks.cost import timing
from benchmarks.cost.timing import Ratio, describe_machine, peak_memory, time_in_turn, time_ratio


def test_runs_in_turn_and_leaves_out_the_first(monkeypatch):
    calls = []
    clock = iter(range(100))
    monkeypatch.setattr(timing.time, 'perf_counter', lambda: float(next(clock)))
    seconds = time_in_turn({'a': lambda: calls.append('a'), 'b': lambda: calls.append('b')}, repeats=3)
    assert calls == list('abababab')
    assert seconds == {'a': [1.0] * 3, 'b': [1.0] * 3}


def test_ratio_is_the_median_with_its_interval():
    ratio = time_ratio([2.0, 3.0, 40.0], [1.0, 1.0, 10.0])
    assert ratio.median == 3
    # The median of a sample of three can be any of the three.
    assert 2 <= ratio.low <= 3 <= ratio.high <= 4
    assert str(Ratio(1.0, 0.5, 2.0)) == '1 [0.5, 2]'
    # There is nothing to draw samples from.
    assert time_ratio([3.0], [2.0]) == Ratio(1.5, 1.5, 1.5)


def test_peak_memory_by_hand():
    def two_at_once():
        kept = torch.zeros(1000, dtype=torch.float32)
        for _ in range(3):
            torch.ones(2000, dtype=torch.float32)
        return kept

    # 4000 bytes kept, 8000 at a time beside them.
    assert peak_memory(two_at_once) == pytest.approx(12000, abs=200)


@pytest.fixture
def cuda(monkeypatch):
    """What is asked of a GPU, in order; a function needs 300 bytes there beside the 100 before."""
    calls = []

    def call(name, value=None):
        def called(device):
            assert device == 'cuda:1'
            calls.append(name)
            return value

        return called

    answers = dict(synchronize=None, reset_peak_memory_stats=None, memory_allocated=100, max_memory_allocated=400)
    for name, value in answers.items():
        monkeypatch.setattr(torch.cuda, name, call(name, value))
    return calls


class Event:
    """A CUDA event for a machine without a GPU: its time is the number of calls before it."""

    def __init__(self, calls, enable_timing):
        assert enable_timing
        self.calls = calls

    def record(self):
        self.time = len(self.calls)
        self.calls.append('record')

    def synchronize(self):
        self.calls.append('wait')

    def elapsed_time(self, end):
        return 1000.0 * (end.time - self.time)


def test_a_gpu_is_timed_between_two_events(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, 'device', lambda device: calls.append(device) or nullcontext())
    monkeypatch.setattr(torch.cuda, 'synchronize', lambda: calls.append('synchronize'))
    monkeypatch.setattr(torch.cuda, 'Event', partial(Event, calls))
    # The first event itself, and the function.
    assert time_in_turn({'a': lambda: calls.append('a')}, repeats=1, device='cuda:1') == {'a': [2.0]}
    assert calls == 2 * ['cuda:1', 'synchronize', 'record', 'a', 'record', 'wait']


def test_peak_memory_on_a_gpu(cuda):
    assert peak_memory(lambda: cuda.append('function'), 'cuda:1') == 300
    assert cuda == [
        'synchronize', 'reset_peak_memory_stats', 'memory_allocated', 'function', 'synchronize', 'max_memory_allocated',
    ]  # fmt: skip


def test_the_description_of_the_machine_names_the_version():
    assert f'torch {torch.__version__}' in describe_machine()
