"""Windows, batches of them, and the loader that gives the same data however it is run."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tg80.shards.frames import numbered
from tg80.errors import UserError
from tg80.windows.lags import LagSampling
from tg80.windows.rotations import rotations_of, uniform_rotations
from tg80.windows.trajectories import Trajectory, read_trajectory
from tg80.windows.windows import TrainingWindows, cut_windows, epoch_order, window_loader

LAGS = LagSampling((100.0, 200.0), fixed_fraction=0.3)


def test_a_window_holds_what_it_says():
    batch = cut_windows([numbered()], [7], [10.0, 12.0, 30.0])
    assert batch.positions[0, 0, 0] == 7
    assert batch.velocities[0, 0, 0] == -7
    assert batch.targets[0, :, 0, 0].tolist() == [8.0, 10.0, 0.0]
    np.testing.assert_array_equal(batch.lags_fs[0], [10.0, 30.0, np.nan])


def test_a_turned_window_keeps_lengths_and_turns_as_one():
    rng = np.random.default_rng(0)
    source = numbered(n_atoms=4)
    source = Trajectory(
        "x", 0, rng.normal(size=(50, 4, 3)).astype("f4"), rng.normal(size=(50, 4, 3)).astype("f4"),
        source.atomic_numbers, source.relaxed_positions, 10.0,
    )  # fmt: skip
    turn = uniform_rotations(rng, 1)
    plain, turned = (cut_windows([source], [3], [50.0], by) for by in (None, turn))
    for key in ("positions", "velocities", "targets"):
        wanted = np.einsum("ij,...j->...i", turn[0], getattr(plain, key))
        np.testing.assert_allclose(getattr(turned, key), wanted, atol=1e-5)


def test_windows_are_padded_with_nothing():
    blocks = [numbered(n_atoms=2, frame_fs=20.0), numbered()]
    batch = cut_windows(blocks, [1, 2], [10.0, 20.0])
    assert batch.positions.shape == (2, 3, 3)
    assert batch.targets.shape == (2, 2, 3, 3)
    assert batch.atomic_numbers.tolist() == [[8, 1, 0], [8, 1, 1]]
    assert batch.positions[0, 2].abs().sum() == 0
    assert torch.isnan(batch.lags_fs).tolist() == [[False, True], [False, False]]
    assert batch.targets[0, 1].abs().sum() == 0
    assert batch.start_id == ("water-r0@1", "water-r0@2")


def training_windows(seed=1, rotate=True, n=20, lags=LAGS) -> TrainingWindows:
    """Three molecules of different sizes, one of them stored at another interval."""
    rng = np.random.default_rng(0)
    blocks = []
    for i, frame_fs in enumerate((10.0, 10.0, 4.0)):
        block = numbered(n_frames=90, n_atoms=2 + i, frame_fs=frame_fs, name=f"m{i}")
        noise = rng.normal(size=block.positions.shape).astype("f4")
        blocks.append(replace(block, positions=noise, velocities=noise[::-1].copy()))
    return TrainingWindows(blocks, lags, seed=seed, windows_per_trajectory=n, rotate=rotate)


def test_training_windows_stay_in_the_block_and_hold_what_they_say():
    block = numbered().block(0, 600)
    windows = TrainingWindows(
        [block, block], LAGS, seed=1, windows_per_trajectory=200, rotate=False
    )
    assert len(windows) == 400
    horizons, starts = set(), set()
    for number in range(len(windows)):
        window = windows.__getitems__([number])
        start = window.positions[0, 0, 0].item()
        lags_fs, targets = window.lags_fs[0].numpy(), window.targets[0].numpy()
        last = np.nanmax(lags_fs)
        horizons.add(float(last))
        starts.add(float(start))
        valid = ~np.isnan(lags_fs)
        np.testing.assert_allclose(targets[valid, 0, 0], start + lags_fs[valid] / 10)
        assert (targets[~valid] == 0).all()
        assert window.velocities[0, 0, 0] == -start
        assert start + last / 10 <= 60
    assert min(horizons) == 10 and max(horizons) > 300
    assert min(starts) == 0 and max(starts) > 50


def test_windows_depend_on_seed_epoch_and_index_alone():
    numbers = range(20)
    windows, same, other = training_windows(), training_windows(), training_windows(seed=2)

    def of(found, epoch=0):
        return found.__getitems__([epoch * len(found) + i for i in numbers]).start_id

    later = of(windows, epoch=3)
    first = of(windows)
    assert first == of(same)
    assert of(windows, epoch=3) == later != first
    assert of(other) != first


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 239), min_size=1, max_size=12), st.booleans())
def test_a_batch_is_its_items_one_by_one(numbers, rotate):
    """Numbers of four epochs, in any order; each item as `cut_windows` cuts it."""
    windows = training_windows(rotate=rotate)
    batch = windows.__getitems__(numbers)
    blocks = {block.name: block for block in windows.trajectories}
    for row, number in enumerate(numbers):
        block = blocks[batch.molecule[row]]
        start = int(batch.start_id[row].split("@")[1])
        lags = batch.lags_fs[row][~torch.isnan(batch.lags_fs[row])].double().numpy()
        turn = rotations_of(windows._draws(number // 60)[1][number % 60][None])
        wanted = cut_windows([block], [start], lags, turn if rotate else None)
        alone = windows.__getitems__([number])
        for key in ("positions", "velocities"):
            found = getattr(batch, key)[row, : block.n_atoms]
            torch.testing.assert_close(found, getattr(wanted, key)[0], atol=1e-6, rtol=0)
            torch.testing.assert_close(found, getattr(alone, key)[0], atol=0, rtol=0)
        targets = batch.targets[row, : len(lags), : block.n_atoms]
        torch.testing.assert_close(targets, wanted.targets[0], atol=0, rtol=0)
        assert batch.start_id[row] == alone.start_id[0] == wanted.start_id[0]
    assert bool((batch.positions[batch.atomic_numbers == 0] == 0).all())


def test_training_windows_need_a_block_of_the_horizon():
    with pytest.raises(UserError, match="train block"):
        TrainingWindows([numbered(5)], LagSampling((100.0,)), seed=0)
    with pytest.raises(UserError, match="no training trajectory"):
        TrainingWindows([], LagSampling((100.0,)), seed=0)


@settings(max_examples=25)
@given(size=st.integers(1, 50), batch=st.integers(1, 8))
def test_an_epoch_holds_every_window_once(size, batch):
    sizes = np.random.default_rng(size).integers(3, 20, size).tolist()
    whole = epoch_order(sizes, batch, seed=3, epoch=2)
    assert len(whole) == -(-size // batch)
    assert sorted(i for indices in whole for i in indices) == list(range(size))


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


def test_batches_hold_molecules_of_like_size():
    sizes = [5, 20] * 64
    batches = epoch_order(sizes, 16, seed=0, epoch=0)
    assert sum(len({sizes[i] for i in batch}) == 1 for batch in batches) >= len(batches) - 1
    assert batches != epoch_order(sizes, 16, seed=0, epoch=1)


# The loader


def loaded(windows, **settings):
    return list(window_loader(windows, 8, **settings))


def assert_same(one, other):
    assert [b.start_id for b in one] == [b.start_id for b in other]
    for a, b in zip(one, other, strict=True):
        for key in ("positions", "velocities", "atomic_numbers", "lags_fs", "targets"):
            torch.testing.assert_close(
                getattr(a, key), getattr(b, key), atol=0, rtol=0, equal_nan=True
            )


def test_an_epoch_holds_every_window_once_and_mixes_molecules():
    windows = training_windows()
    loader = window_loader(windows, 8, epochs=2)
    batches = list(loader)
    assert len(batches) == len(loader) == 16
    for half in (batches[:8], batches[8:]):
        counts = [name for batch in half for name in batch.molecule]
        assert {name: counts.count(name) for name in ("m0", "m1", "m2")} == {
            "m0": 20, "m1": 20, "m2": 20,
        }  # fmt: skip
    assert any(len(set(batch.molecule)) > 1 for batch in batches)
    assert [b.start_id for b in batches[:8]] != [b.start_id for b in batches[8:]]


def test_a_loader_goes_on_where_another_stopped():
    whole = loaded(training_windows(), epochs=3)
    assert_same(loaded(training_windows(), epochs=2, first_epoch=1, skip=3), whole[11:])
    endless = window_loader(training_windows(), 8, epochs=None, first_epoch=2)
    assert_same([batch for batch, _ in zip(endless, range(8), strict=False)], whole[16:])
    torch.manual_seed(0)
    wanted = torch.rand(1)
    torch.manual_seed(0)
    loaded(training_windows())
    assert torch.rand(1) == wanted  # the loader draws nothing from the global stream


@pytest.mark.parametrize(
    "wrong", [{"batch_size": 0}, {"workers": -1}, {"epochs": -1}, {"first_epoch": -1}, {"skip": -1}]
)
def test_a_loader_refuses_numbers_that_can_t_be(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(UserError, match=f"{name} must be [01] or more, not {value}"):
        window_loader(training_windows(), **wrong)


def test_windows_refuse_numbers_that_can_t_be():
    blocks = training_windows().trajectories
    with pytest.raises(UserError, match="windows_per_trajectory must be 1 or more, not 0"):
        TrainingWindows(blocks, LagSampling((2.0,)), seed=0, windows_per_trajectory=0)
    with pytest.raises(UserError, match="seed must be 0 or more, not -1"):
        TrainingWindows(blocks, LagSampling((2.0,)), seed=-1)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    from tests.support import factories

    folder = tmp_path_factory.mktemp("shards")
    return factories.make_dataset(folder, ["methanol", "formaldehyde"], n_frames=120)


@pytest.mark.parametrize(
    ("method", "kept"), [("fork", "memory"), ("fork", "mapped"), ("spawn", "mapped")]
)
def test_two_workers_give_what_none_gives(method, kept, shards, tmp_path):
    cache = tmp_path if kept == "mapped" else None
    lags = LagSampling((10.0, 20.0))
    make = lambda cache: TrainingWindows(  # noqa: E731
        [read_trajectory(path, cache).block(0, 70) for path in shards], lags, seed=3
    )
    plain = list(window_loader(make(None), 16, epochs=2))
    given = list(window_loader(make(cache), 16, epochs=2, workers=2, start_method=method))
    assert_same(given, plain)
