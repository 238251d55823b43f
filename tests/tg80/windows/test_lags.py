"""Lags as frames, starts of scored windows, and the lags that training draws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tg80.shards.frames import numbered
from tg80.errors import UserError
from tg80.windows.lags import LagSampling, frames_of_lags, lag_frames, spaced_lags
from tg80.windows.starts import scored_starts, start_frames


@given(n_frames=st.integers(1, 2000), horizon=st.integers(1, 400), most=st.integers(1, 20))
def test_starts_fit_lie_apart_and_are_as_many_as_fit(n_frames, horizon, most):
    starts = start_frames(n_frames, horizon, most)
    if horizon > n_frames - 1:
        assert starts.size == 0
        return
    assert 1 <= starts.size <= most
    assert starts[0] == 0
    assert starts[-1] + horizon <= n_frames - 1
    assert np.all(np.diff(starts) > horizon)
    one_more = starts.size * (horizon + 1) + horizon  # last frame if one more were packed in
    assert starts.size == most or one_more > n_frames - 1


def test_a_horizon_longer_than_its_block_is_refused():
    block = numbered(n_frames=100)
    assert scored_starts(block, 990.0, "val_time").tolist() == [0]
    with pytest.raises(UserError, match=r"horizon 1000 fs is longer than the val_time block"):
        scored_starts(block, 1000.0, "val_time")


@given(
    lags=st.lists(st.floats(0.1, 5000), min_size=1, max_size=10, unique=True).map(sorted),
    frame_fs=st.sampled_from([0.5, 1.0, 2.0, 10.0]),
)
def test_lags_are_rounded_half_up_to_different_frames(lags, frame_fs):
    frames, real = lag_frames(lags, frame_fs)
    kept = frames[~np.isnan(real)]
    wanted = {max(1, int(np.floor(lag / frame_fs + 0.5 + 1e-9))) for lag in lags}
    assert kept.tolist() == sorted(wanted)
    np.testing.assert_allclose(real[: kept.size], kept * frame_fs)
    assert np.isnan(real[kept.size :]).all()


def test_lag_rounding_at_ties_and_below_one_frame():
    frames, real = lag_frames([1.0, 4.0, 25.0, 26.0, 35.0], 10.0)
    assert frames.tolist() == [1, 3, 4, 0, 0]
    np.testing.assert_array_equal(real, [10.0, 30.0, 40.0, np.nan, np.nan])


@pytest.mark.parametrize("lags", [[], [0.0, 10.0], [20.0, 10.0], [10.0, 10.0], [-5.0]])
def test_bad_lags_are_refused(lags):
    with pytest.raises(UserError, match="positive and increasing"):
        lag_frames(lags, 10.0)


@given(
    lags=st.lists(st.floats(1, 3000), min_size=3, max_size=3),
    frames_fs=st.lists(st.sampled_from([0.5, 1.0, 7.0, 10.0]), min_size=4, max_size=4),
)
def test_lags_of_a_batch_are_those_of_its_windows(lags, frames_fs):
    table = np.cumsum(np.array([np.roll(lags, i) for i in range(4)]), axis=1)
    frames, real = frames_of_lags(table, np.array(frames_fs)[:, None])
    for row, frame_fs in enumerate(frames_fs):
        alone = lag_frames(table[row], frame_fs)
        np.testing.assert_array_equal(frames[row], alone[0])
        np.testing.assert_array_equal(real[row], alone[1])


def test_spacing_of_lags():
    assert spaced_lags(960.0).tolist() == [120, 240, 360, 480, 600, 720, 840, 960]
    lags = spaced_lags(800.0, 3, "log-uniform")
    np.testing.assert_allclose(lags, [8, 80, 800])
    assert spaced_lags(800.0, 1, "log-uniform").tolist() == [800]
    table = spaced_lags(np.array([80.0, 5.0]), 2, "log-uniform", np.array([20.0, 20.0]))
    np.testing.assert_allclose(table, [[20, 80], [5, 5]])
    with pytest.raises(UserError, match="unknown spacing 'even' of lags"):
        spaced_lags(800.0, 3, "even")
    for horizon in (-1.0, 0.0, float("nan"), np.array([8.0, -1.0])):
        with pytest.raises(UserError, match="the horizon must be more than 0 fs"):
            spaced_lags(horizon)
    with pytest.raises(UserError, match="shortest lag must be more than 0 fs"):
        spaced_lags(80.0, 3, "log-uniform", 0.0)
    with pytest.raises(UserError, match="0 lags: give 1 or more"):
        spaced_lags(80.0, 0)


@pytest.mark.parametrize("spacing", ["uniform", "log-uniform"])
def test_drawn_lags_fill_their_range_and_stay_in_their_block(spacing):
    lags = LagSampling((30.0, 60.0), fixed_fraction=0.25, longest_fs=400.0, spacing=spacing)
    uniforms = np.random.default_rng(0).random((4000, 2))
    length = np.where(np.arange(4000) % 2, 100.0, 1000.0)
    drawn = lags.draw(uniforms, np.full(4000, 2.0), length)
    fixed = uniforms[:, 0] < 0.25
    assert (drawn[fixed] == [30, 60]).all() and abs(fixed.mean() - 0.25) < 0.03
    horizon = drawn[~fixed, -1]
    limit = np.minimum(length, 400.0)[~fixed]
    assert (horizon <= limit).all() and (horizon >= 8).all()
    # Log-uniform: half of the horizons lie below the geometric mean of the ends.
    assert abs((horizon < np.sqrt(8 * limit)).mean() - 0.5) < 0.03
    first = drawn[~fixed, 0]
    np.testing.assert_allclose(first, horizon / 2 if spacing == "uniform" else 8.0)


def test_a_block_shorter_than_the_shortest_horizon_gives_its_length():
    drawn = LagSampling((2.0, 4.0), 0.0).draw(np.full((1, 2), 0.9), np.ones(1), np.full(1, 5.0))
    assert drawn.tolist() == [[2.5, 5.0]]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"fixed_lags_fs": (20.0, 10.0)}, "positive and increasing"),
        ({"fixed_lags_fs": ()}, "positive and increasing"),
        ({"spacing": "even"}, "unknown spacing 'even'"),
        ({"fixed_fraction": 2}, "share from 0 to 1, not 2"),
        ({"fixed_fraction": float("nan")}, "share from 0 to 1, not nan"),
        ({"longest_fs": -2.0}, "longest_fs must be more than 0 fs, not -2"),
    ],
)
def test_bad_sampling_is_refused(wrong, reason):
    with pytest.raises(UserError, match=reason):
        LagSampling(**({"fixed_lags_fs": (10.0,)} | wrong))
