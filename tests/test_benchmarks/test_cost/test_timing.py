from itertools import count

import pytest
import torch

from benchmarks.cost.timing import Ratio, describe_machine, peak_memory, time_in_turn, time_ratio


def test_runs_in_turn_and_leaves_out_the_first(monkeypatch):
    calls = []
    clock = iter(range(100))
    monkeypatch.setattr('benchmarks.cost.timing.time.perf_counter', lambda: float(next(clock)))
    seconds = time_in_turn({'a': lambda: calls.append('a'), 'b': lambda: calls.append('b')}, repeats=3)
    assert calls == list('abababab')
    assert seconds == {'a': [1.0] * 3, 'b': [1.0] * 3}


def test_ratio_by_hand():
    ratio = time_ratio([2.0, 3.0, 40.0], [1.0, 1.0, 10.0])
    assert ratio.median == 3
    # The median of a sample of three can be any of the three.
    assert 2 <= ratio.low <= 3 <= ratio.high <= 4
    assert str(Ratio(1.0, 0.5, 2.0)) == '1 [0.5, 2]'


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
    """What would be asked of a GPU, in order; a function takes 250 ms there and 300 bytes beside the 100 before."""
    calls, numbers = [], count()

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing
            self.number = next(numbers)

        def record(self):
            calls.append(f'record {self.number}')

        def synchronize(self):
            calls.append(f'wait for {self.number}')

        def elapsed_time(self, end):
            calls.append(f'from {self.number} to {end.number}')
            return 250.0

    def call(name, value=None):
        def called(device):
            assert device == 'cuda:1'
            calls.append(name)
            return value

        return called

    monkeypatch.setattr(torch.cuda, 'Event', Event)
    answers = dict(synchronize=None, reset_peak_memory_stats=None, memory_allocated=100, max_memory_allocated=400)
    for name, value in answers.items():
        monkeypatch.setattr(torch.cuda, name, call(name, value))
    return calls


def test_time_on_a_gpu(cuda):
    assert time_in_turn({'a': lambda: cuda.append('a')}, repeats=1, device='cuda:1') == {'a': [0.25]}
    turn = ['synchronize', 'record 0', 'a', 'record 1', 'wait for 1', 'from 0 to 1']
    # The first, unmeasured, and the second.
    assert cuda == turn + [word.replace('1', '3').replace('0', '2') for word in turn]


def test_peak_memory_on_a_gpu(cuda):
    assert peak_memory(lambda: cuda.append('function'), 'cuda:1') == 300
    assert cuda == [
        'synchronize', 'reset_peak_memory_stats', 'memory_allocated', 'function', 'synchronize', 'max_memory_allocated',
    ]  # fmt: skip


def test_describes_the_machine():
    assert f'torch {torch.__version__}' in describe_machine()
