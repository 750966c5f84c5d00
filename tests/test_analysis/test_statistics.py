import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdet_edge.analysis import iterations_to_target, lower_is_better, paired_difference, smooth


def test_direction():
    assert lower_is_better('loss_mask')
    assert lower_is_better('mask_branch/BCE')
    assert lower_is_better('mask_branch/bce')
    assert not lower_is_better('coco/segm_mAP')
    assert not lower_is_better('mask_branch/mIoU')


def test_paired_difference_by_hand():
    # Seed 3 has no partner. Differences 1, 2, 6: mean 3, variance (4 + 1 + 9) / 2 = 7, t(0.975; 2) = 4.302653.
    found = paired_difference({0: 11.0, 1: 12.0, 2: 16.0, 3: 99.0}, {2: 10.0, 1: 10.0, 0: 10.0, 7: 0.0})
    half = 4.302652729696142 * math.sqrt(7 / 3)
    assert found.mean == pytest.approx(3)
    assert found.pairs == 3
    assert found.interval == pytest.approx((3 - half, 3 + half))
    assert found.percent == pytest.approx(30)
    assert found.sign == 0


def test_pairing_takes_the_spread_between_seeds_out():
    found = paired_difference({0: 1.1, 1: 5.1, 2: 9.12}, {0: 1.0, 1: 5.0, 2: 9.0})
    assert found.sign == 1
    assert paired_difference({0: 1.0, 1: 5.0, 2: 9.0}, {0: 1.1, 1: 5.1, 2: 9.12}).sign == -1


def test_equal_differences_have_an_interval_without_width():
    assert paired_difference({0: 1.5, 1: 2.5}, {0: 1.0, 1: 2.0}).interval == (0.5, 0.5)
    assert paired_difference({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}).sign == 0


def test_one_pair_has_no_interval():
    found = paired_difference({0: 2.0, 1: 3.0}, {1: 2.0})
    assert (found.mean, found.pairs, found.interval, found.percent, found.sign) == (1.0, 1, None, 50.0, 0)


def test_no_pair_and_no_reference():
    assert paired_difference({0: 2.0}, {1: 2.0}) is None
    assert paired_difference({0: 2.0}, {0: 0.0}).percent is None


def test_a_negative_reference_keeps_the_sign():
    assert paired_difference({0: -1.0}, {0: -2.0}).percent == pytest.approx(50)


@pytest.mark.parametrize(
    ('target', 'iteration'),
    [(0.0, 10.0), (-1.0, 10.0), (0.5, 15.0), (1.0, 20.0), (1.5, 25.0), (2.0, 30.0), (2.1, None)],
)
def test_iterations_to_target(target, iteration):
    iterations, values = np.array([10, 20, 30, 40]), np.array([0.0, 1.0, 2.0, 1.5])
    assert iterations_to_target(iterations, values, target) == iteration
    assert iterations_to_target(iterations, -values, -target, lower_is_better=True) == iteration


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=40))
def test_a_curve_reaches_its_own_end(values):
    iterations = np.arange(1, len(values) + 1)
    for lower in (False, True):
        found = iterations_to_target(iterations, np.array(values), values[-1], lower)
        assert found is not None and 1 <= found <= len(values)


@given(st.integers(20, 300), st.floats(-5, 5), st.floats(-5, 5))
def test_smoothing_leaves_straight_lines_alone(points, slope, offset):
    line = offset + slope * np.arange(points)
    np.testing.assert_allclose(smooth(line), line, atol=1e-9)


def test_smoothing_takes_noise_out():
    noise = np.random.default_rng(0).normal(size=(3, 400))
    assert smooth(noise).shape == (3, 400)
    assert smooth(noise).std() < 0.3
    few = np.array([1.0, 5.0, 2.0] * 6)
    np.testing.assert_array_equal(smooth(few), few)
