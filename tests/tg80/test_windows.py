import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tg80.errors import UserError
from tg80.lags import LagSampling, lag_frames, scored_starts, start_frames
from tg80.trajectories import Trajectory, read_trajectory
from tg80.windows import (
    EpochOrder,
    TrainingWindows,
    collate,
    cut_window,
    uniform_rotations,
)


def trajectory(n_frames=101, n_atoms=3, frame_fs=10.0, name="water"):
    """Positions hold the frame number, so that a window tells where it was cut."""
    positions = np.zeros((n_frames, n_atoms, 3), "f4") + np.arange(n_frames)[:, None, None]
    numbers = np.array([8] + [1] * (n_atoms - 1))
    return Trajectory(name, 0, positions, -positions, numbers, positions[0], frame_fs)


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
    block = trajectory(n_frames=100)
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


def test_blocks_hold_the_frames_within_their_edges():
    whole = trajectory(n_frames=1201)
    assert whole.length_fs == 12000
    block = whole.block(0.79 * 12000, 12000)
    assert (block.first_frame, block.n_frames) == (948, 253)
    assert block.positions[0, 0, 0] == 948
    assert block.start_id(2) == "water-r0@950"
    assert whole.block(0.0, 7200.0).n_frames == 721
    assert whole.block(7201.0, 7299.0).n_frames == 9


def test_a_window_holds_what_it_says():
    window = cut_window(trajectory(), 7, [10.0, 12.0, 30.0])
    assert window.positions[0, 0] == 7
    assert window.velocities[0, 0] == -7
    assert window.targets[:, 0, 0].tolist() == [8.0, 10.0, 0.0]
    np.testing.assert_array_equal(window.lags_fs, [10.0, 30.0, np.nan])


def test_a_turned_window_keeps_lengths_and_turns_as_one():
    rng = np.random.default_rng(0)
    source = trajectory(n_atoms=4)
    source = Trajectory(
        "x", 0, rng.normal(size=(50, 4, 3)).astype("f4"), rng.normal(size=(50, 4, 3)).astype("f4"),
        source.atomic_numbers, source.relaxed_positions, 10.0,
    )  # fmt: skip
    turn = uniform_rotations(rng, 1)[0]
    plain, turned = cut_window(source, 3, [50.0]), cut_window(source, 3, [50.0], turn)
    for key in ("positions", "velocities", "targets"):
        np.testing.assert_allclose(
            getattr(turned, key), np.einsum("ij,...j->...i", turn, getattr(plain, key)), atol=1e-5
        )


def test_collate_pads_atoms_and_lags_with_nothing():
    batch = collate(
        [cut_window(trajectory(n_atoms=2), 1, [10.0]), cut_window(trajectory(), 2, [10.0, 20.0])]
    )
    assert batch.positions.shape == (2, 3, 3)
    assert batch.targets.shape == (2, 2, 3, 3)
    assert batch.atomic_numbers.tolist() == [[8, 1, 0], [8, 1, 1]]
    assert batch.positions[0, 2].abs().sum() == 0
    assert torch.isnan(batch.lags_fs).tolist() == [[False, True], [False, False]]
    assert batch.targets[0, 1].abs().sum() == 0
    assert batch.start_id == ("water-r0@1", "water-r0@2")


def test_training_windows_stay_in_the_block_and_depend_on_seed_epoch_index():
    lags = LagSampling((100.0, 200.0), fixed_fraction=0.3)
    block = trajectory().block(0, 600)
    make = lambda seed: TrainingWindows(  # noqa: E731
        [block, block], lags, seed=seed, windows_per_trajectory=200, rotate=False
    )
    windows = make(1)
    assert len(windows) == 400
    horizons = set()
    for index in range(len(windows)):
        window = windows[index]
        start = window.positions[0, 0]
        last = np.nanmax(window.lags_fs)
        horizons.add(float(last))
        valid = ~np.isnan(window.lags_fs)
        np.testing.assert_allclose(window.targets[valid, 0, 0], start + window.lags_fs[valid] / 10)
        assert start + last / 10 <= 60
    assert min(horizons) == 10 and max(horizons) > 300
    first = [windows[i].start_id for i in range(20)]
    assert first == [make(1)[i].start_id for i in range(20)]
    assert first != [make(2)[i].start_id for i in range(20)]
    windows.set_epoch(1)
    assert first != [windows[i].start_id for i in range(20)]


def test_training_windows_need_a_block_of_the_horizon():
    with pytest.raises(UserError, match="train block"):
        TrainingWindows([trajectory(5)], LagSampling((100.0,)), seed=0)
    with pytest.raises(UserError, match="no training trajectory"):
        TrainingWindows([], LagSampling((100.0,)), seed=0)


@settings(max_examples=25)
@given(size=st.integers(1, 50), batch=st.integers(1, 8), skip=st.integers(0, 10))
def test_a_resumed_epoch_goes_on_in_the_same_order(size, batch, skip):
    sizes = np.random.default_rng(size).integers(3, 20, size).tolist()
    whole = list(EpochOrder(sizes, batch, seed=3, epoch=2))
    assert len(whole) == -(-size // batch)
    assert sorted(i for indices in whole for i in indices) == list(range(size))
    assert list(EpochOrder(sizes, batch, seed=3, epoch=2, skip=skip)) == whole[skip:]


def test_rotations_are_proper_and_uniform():
    rotations = uniform_rotations(np.random.default_rng(0), 20_000)
    squares = rotations @ rotations.swapaxes(1, 2)
    np.testing.assert_allclose(squares, np.broadcast_to(np.eye(3), squares.shape), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(rotations), 1.0)
    # Haar measure: entries have mean 0 and variance 1/3, the trace mean 0 and variance 1, and the
    # angle the density (1 - cos a) / pi, so that <cos a> = -1/2.
    assert np.abs(rotations.mean(0)).max() < 0.02
    assert np.abs(rotations.var(0) - 1 / 3).max() < 0.02
    cosine = (np.trace(rotations, axis1=1, axis2=2) - 1) / 2
    assert abs(cosine.mean() + 0.5) < 0.02


def test_a_shard_is_read_whole(ethanol_shard):
    found = read_trajectory(ethanol_shard)
    assert (found.name, found.n_frames, found.n_atoms, found.frame_fs) == ("ethanol", 400, 9, 1.0)
    assert found.relaxed_positions.shape == (9, 3)
    assert found.heavy_atoms().n_atoms == 3
    assert found.heavy_atoms().relaxed_positions.shape == (3, 3)


def test_batches_hold_molecules_of_like_size():
    sizes = [5, 20] * 64
    batches = list(EpochOrder(sizes, 16, seed=0, epoch=0))
    assert sum(len({sizes[i] for i in batch}) == 1 for batch in batches) >= len(batches) - 1
    assert batches != list(EpochOrder(sizes, 16, seed=0, epoch=1))
