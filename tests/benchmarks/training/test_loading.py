"""What a training is given: lags, windows of each process and micro-batch, noise."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from benchmarks.tasks.tasks import TASKS, get_task
from benchmarks.training.batches import (
    DrawnLags,
    StepLoader,
    first_frames,
    longest_trained_lag_fs,
    steps_per_epoch,
    training_lags,
)
from benchmarks.training.trainer import TrainingSettings
from tests.support import toys
from tg80.errors import UserError
from tg80.windows.lags import LagSampling
from tg80.windows.windows import TrainingWindows

BLOCKS = [t.block(0.0, 700.0) for t in toys.toy_trajectories(toys.TRAIN)]
N_DRAWS = 20_000


def windows(lags=None, per_trajectory=7, seed=3):
    return TrainingWindows(
        BLOCKS, lags or LagSampling(toys.TASK.lags_fs), seed=seed,
        windows_per_trajectory=per_trajectory,
    )  # fmt: skip


def settings(**values):
    return TrainingSettings(**{"processes": 1} | values)


def draws(lags, frame_fs=10.0, length_fs=700.0):
    """Lags (N_DRAWS, P) of equal blocks."""
    uniforms = np.random.default_rng(0).random((N_DRAWS, 2))
    return lags.draw(uniforms, np.full(N_DRAWS, frame_fs), np.full(N_DRAWS, length_fs))


@pytest.mark.parametrize("frame_fs", [1.0, 10.0])
def test_multi_task_horizons_are_log_uniform_from_8_fs_or_a_frame_to_the_block(frame_fs):
    task = get_task("tg80-multitask")
    blocks = [replace(toys.toy_trajectory("urea", n_frames=4001), frame_fs=frame_fs)]
    lags = training_lags(task, TrainingSettings(), blocks)
    assert lags.fixed_fraction == 0 and lags.longest_fs is None
    horizons = draws(lags, frame_fs, blocks[0].length_fs)[:, -1]
    low, high = max(8.0, frame_fs), blocks[0].length_fs
    assert horizons.min() >= low and horizons.max() <= high * (1 + 1e-12)
    place = np.log(horizons / low) / np.log(high / low)
    # Uniform on [0, 1]: every tenth holds a tenth of the draws, to 5 standard deviations.
    counts, _ = np.histogram(place, bins=10, range=(0, 1 + 1e-9))
    assert abs(counts / N_DRAWS - 0.1).max() < 5 * np.sqrt(0.09 / N_DRAWS)


def test_the_tasks_lags_are_fixed_where_there_is_one_horizon():
    assert not any(task.multi_task for name, task in TASKS.items() if "mini" in name)

    def fraction(**given):
        return training_lags(toys.TASK, TrainingSettings(**given), BLOCKS).fixed_fraction

    assert fraction() == 0.2 and fraction(fixed_lag_fraction=0.3) == 0.3


def test_horizons_are_drawn_to_that_of_the_task_or_of_many_tasks_to_the_block():
    """The blocks are longer than the horizon."""
    given = TrainingSettings(fixed_lag_fraction=0.0)
    one = training_lags(toys.TASK, given, BLOCKS)
    many = training_lags(toys.TASK.model_copy(update={"multi_task": True}), given, BLOCKS)
    assert longest_trained_lag_fs(windows(one)) == toys.TASK.horizon_fs
    assert draws(one)[:, -1].max() <= toys.TASK.horizon_fs < draws(many)[:, -1].max()
    assert longest_trained_lag_fs(windows(many)) == 700.0


def test_a_longest_horizon_leaves_longer_ones_to_extrapolation():
    lags = training_lags(
        toys.TASK, TrainingSettings(fixed_lag_fraction=0.0, longest_horizon_fs=200.0), BLOCKS
    )
    assert draws(lags)[:, -1].max() <= 200.0
    assert longest_trained_lag_fs(windows(lags)) == 200.0
    both = training_lags(toys.TASK, TrainingSettings(longest_horizon_fs=50.0), BLOCKS)
    assert longest_trained_lag_fs(windows(both)) == toys.TASK.horizon_fs
    assert longest_trained_lag_fs(windows(DrawnLags(toys.TASK.lags_fs, 0.5))) == 700.0


@pytest.mark.parametrize(("n_lags", "low", "high"), [(5, 5, 5), ((2, 6), 2, 6), ((1, 1), 1, 1)])
def test_the_number_of_lags_is_fixed_or_drawn(n_lags, low, high):
    given = TrainingSettings(n_lags=n_lags, fixed_lag_fraction=0.25)
    lags = training_lags(toys.TASK, given, BLOCKS)
    drawn = draws(lags)
    fixed = (drawn[:, 0] == 30.0) & (drawn[:, 1] == 60.0)
    assert abs(fixed.mean() - 0.25) < 0.02
    rest = drawn[~fixed]
    numbers = 1 + (np.diff(rest, axis=1) > 0).sum(1)
    shares = np.bincount(numbers, minlength=high + 1)[low:] / len(rest)
    assert numbers.min() == low and numbers.max() == high
    assert abs(shares - 1 / (high - low + 1)).max() < 0.02
    # The first of P lags is a P-th of the horizon.
    np.testing.assert_allclose(rest[:, 0] * numbers, rest[:, -1])


def test_windows_have_as_many_lags_as_were_drawn():
    given = settings(n_lags=(1, 9), fixed_lag_fraction=0.0, batch_size=64)
    lags = training_lags(toys.TASK, given, BLOCKS)
    (micro_batch,) = next(iter(StepLoader(windows(lags, 100), given)))
    n_lags = (~micro_batch.windows.lags_fs.isnan()).sum(1)
    assert n_lags.min() == 1 and n_lags.max() > 5
    assert micro_batch.windows.targets.shape[1] == n_lags.max()


def test_a_window_keeps_some_of_its_lags_in_order_each_as_often():
    whole, few = (
        [
            micro_batch
            for micro_batches in islice(StepLoader(windows(), settings(lags_per_window=n)), 40)
            for micro_batch in micro_batches
        ]
        for n in (None, 3)
    )
    kept = np.zeros(len(toys.TASK.lags_fs))
    for all_lags, some in zip(whole, few, strict=True):
        assert all_lags.windows.start_id == some.windows.start_id
        assert some.windows.lags_fs.shape[1] == 3
        for i, lags in enumerate(some.windows.lags_fs):
            known = all_lags.windows.lags_fs[i]
            columns = [int((known == lag).nonzero()) for lag in lags if not lag.isnan()]
            assert columns == sorted(set(columns)) and len(columns) == min(
                3, (~known.isnan()).sum()
            )
            assert torch.equal(
                some.windows.targets[i, : len(columns)], all_lags.windows.targets[i, columns]
            )
            kept[columns] += 1
        assert some.noise.targets.shape == some.windows.targets.shape
    assert kept.min() > 0.7 * kept.mean()


def test_few_frames_are_the_first_and_shorten_the_horizons():
    few = first_frames(BLOCKS, 5)
    assert [t.n_frames for t in few] == [5] * len(BLOCKS)
    np.testing.assert_array_equal(few[0].positions, BLOCKS[0].positions[:5])
    lags = training_lags(toys.TASK, TrainingSettings(train_frames=5), few)
    assert draws(lags, length_fs=few[0].length_fs)[:, -1].max() <= few[0].length_fs
    TrainingWindows(few, lags, seed=0)  # Not refused for the task's horizon.
    enough = training_lags(toys.TASK, TrainingSettings(train_frames=10), first_frames(BLOCKS, 10))
    assert enough.fixed_lags_fs == toys.TASK.lags_fs
    with pytest.raises(UserError, match=r"500 frames are asked for, but the train block of 1-but"):
        first_frames(BLOCKS, 500)


def numbers_of(loader, n_steps):
    return [list(step) for step in islice(loader.steps(), n_steps)]


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize(("batch_size", "accumulate"), [(12, 1), (5, 1), (3, 4)])
def test_processes_and_micro_batches_share_every_global_batch(world, batch_size, accumulate):
    data = windows()  # 28 windows
    given = settings(batch_size=batch_size, accumulate=accumulate, processes=world)
    whole = settings(batch_size=batch_size * accumulate * world)
    n_steps = 3 * steps_per_epoch(data, given)
    expected = numbers_of(StepLoader(data, whole), n_steps)
    shares = [numbers_of(StepLoader(data, given, rank=r), n_steps) for r in range(world)]
    for step, (batch,) in enumerate(expected):
        micro_batches = [micro_batch for share in shares for micro_batch in share[step]]
        assert sorted(number for micro_batch in micro_batches for number in micro_batch) == sorted(
            batch
        )
        assert max(map(len, micro_batches)) <= batch_size
        assert all(len(share[step]) <= accumulate for share in shares)
        sizes = [sum(map(len, share[step])) for share in shares]
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_goes_on_where_it_is_told_to(workers):
    given = settings(batch_size=5)
    whole = list(islice(StepLoader(windows(), given), 14))
    ahead = settings(batch_size=5, workers=workers)
    rest = list(islice(StepLoader(windows(), ahead, first_step=8), 6))
    for (mine,), (theirs,) in zip(rest, whole[8:], strict=True):
        assert mine.windows.start_id == theirs.windows.start_id
        assert torch.equal(mine.windows.targets, theirs.windows.targets)
        assert torch.equal(mine.noise.targets, theirs.noise.targets)
        assert (mine.worker_seconds > 0) == (workers > 0) and theirs.worker_seconds == 0


def samples(micro_batches):
    """Targets and noise, without padding, of each window that counts."""
    found = {}
    for micro_batch in micro_batches:
        batch, noise = micro_batch.windows, micro_batch.noise
        for i, name in enumerate(batch.start_id if micro_batch.counts else ()):
            n, p = int((batch.atomic_numbers[i] > 0).sum()), int((~batch.lags_fs[i].isnan()).sum())
            # Two windows may start at one frame, but they are turned differently.
            found[name, float(batch.positions[i, 0, 0])] = torch.cat(
                [
                    batch.targets[i, :p, :n].flatten(),
                    noise.positions[i, :n].flatten(),
                    noise.velocities[i, :n].flatten(),
                    noise.targets[i, :p, :n].flatten(),
                ]
            )
            assert not noise.positions[i, n:].any() and not noise.targets[i, p:].any()
    return found


def test_the_noise_of_a_window_is_its_own_however_it_is_batched():
    lags = DrawnLags(toys.TASK.lags_fs, 0.5, n_lags=(1, 6))
    whole = samples(next(iter(StepLoader(windows(lags), settings(batch_size=28)))))
    assert len(whole) == 28
    found = {}
    for rank in range(3):
        given = settings(batch_size=4, accumulate=3, processes=3)
        found |= samples(next(iter(StepLoader(windows(lags), given, rank=rank))))
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[key], whole[key]) for key in whole)


def test_noise_is_normal_and_new_in_every_epoch_and_for_every_seed():
    def noise(step, seed=3):
        given = settings(batch_size=28)
        data = windows(LagSampling(toys.TASK.lags_fs, fixed_fraction=1.0), seed=seed)
        ((micro_batch,),) = islice(StepLoader(data, given, first_step=step), 1)
        n_atoms = (micro_batch.windows.atomic_numbers > 0).sum(1)
        n = int(n_atoms.min())
        return micro_batch.noise.targets[:, :, :n]

    first = noise(0)
    assert abs(first.mean()) < 0.06 and abs(first.std() - 1) < 0.06
    flat = torch.cat([first.flatten(), noise(1).flatten(), noise(0, seed=4).flatten()])
    assert flat.unique().numel() > 0.999 * flat.numel()


def test_a_process_without_windows_goes_through_the_motions():
    given = settings(batch_size=9, processes=3)  # 28 windows: 27, then one
    for rank, count in ((0, True), (1, False), (2, False)):
        _, (micro_batch,) = islice(StepLoader(windows(), given, rank=rank), 2)
        assert micro_batch.counts is count and len(micro_batch.windows.start_id) == 1
