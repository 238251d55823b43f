"""Error bars that mean what they say, on series whose truth is known."""

import math

import numpy as np
import pytest

from tg80.shards.quality import block_mean, drift_with_error


def correlated_noise(rng, n_frames, memory):
    """Unit-variance noise that forgets itself over `memory` frames."""
    kept = math.exp(-1 / memory)
    kicks = rng.normal(size=n_frames) * math.sqrt(1 - kept**2)
    series = np.empty(n_frames)
    series[0] = rng.normal()
    for i in range(1, n_frames):
        series[i] = kept * series[i - 1] + kicks[i]
    return series


def test_a_straight_line_has_its_slope_and_no_error():
    times = np.arange(0.0, 1000.0, 1.0)
    slope, error = drift_with_error(times, 3.0 + 0.25 * times / 1000)
    assert slope == pytest.approx(0.25, rel=1e-12)
    assert error < 1e-10


def test_a_vibration_on_top_changes_the_slope_by_less_than_its_error_bar():
    times = np.arange(0.0, 5000.0, 1.0)
    values = 0.1 * times / 1000 + 0.3 * np.sin(2 * np.pi * times / 37.0)
    slope, error = drift_with_error(times, values)
    assert abs(slope - 0.1) < 2 * error < 0.05


@pytest.mark.parametrize("length", [600, 3000])
def test_two_errors_hold_95_percent_of_the_slopes(length):
    rng = np.random.default_rng(0)
    times = np.arange(float(length))
    held = 0
    for _ in range(200):
        slope, error = drift_with_error(
            times, 0.7 * times / 1000 + correlated_noise(rng, length, 5)
        )
        held += abs(slope - 0.7) < 2 * error
    assert 0.89 < held / 200 <= 1.0  # 95 % +- three times the binomial spread, and blocks correlate


def test_too_short_a_series_has_an_unknown_error():
    assert drift_with_error(np.arange(399.0), np.arange(399.0))[1] == math.inf
    assert drift_with_error(np.array([0.0]), np.array([1.0])) == (0.0, math.inf)
    assert block_mean(np.ones(9)) == (1.0, math.inf)


def test_block_mean_of_correlated_noise():
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        mean, error = block_mean(5 + correlated_noise(rng, 2000, 20))
        held += abs(mean - 5) < 2 * error
    assert 0.89 < held / 200 <= 1.0
