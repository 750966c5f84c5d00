import pytest
import torch

from mmdet_edge.analysis.timing import Ratio, describe_machine, peak_memory, time_in_turn, time_ratio


def test_runs_in_turn_and_leaves_out_the_first(monkeypatch):
    calls = []
    clock = iter(range(100))
    monkeypatch.setattr('mmdet_edge.analysis.timing.time.perf_counter', lambda: float(next(clock)))
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


def test_describes_the_machine():
    assert f'torch {torch.__version__}' in describe_machine()
