"""The single-task protocol, as published and leak-free, on generated files."""

import re

import numpy as np
import pytest

from tests.support.public_files import sgdml_arrays, vibrating, write
from tg80.errors import UserError
from tg80.exchange.md17 import read_public
from tg80.exchange.single_task import single_task
from tg80.splits.split import time_blocks
from tg80.windows.windows import collate, cut_window


@pytest.fixture(scope="module")
def long_file(tmp_path_factory):
    """45,000 frames of ethanol: enough for both protocols."""
    path = tmp_path_factory.mktemp("public") / "md17_ethanol.npz"
    return write(path, sgdml_arrays(vibrating(45_000)))


def published_draw(n_frames, margin=10_000, horizon=3000):
    """The draw of the public code, written down once more, step by step."""
    x = np.arange(n_frames)[:-1]
    start, end = margin, x.shape[0] - margin - horizon + 1
    n = x[start:end].shape[0]
    np.random.seed(100)
    taken = np.zeros(n, dtype=bool)
    drawn = []
    for share in (0.1, 0.05, 0.05):
        chosen = np.random.choice(np.where(~taken)[0], size=int(share * n), replace=False)
        taken[chosen] = True
        drawn.append(chosen + start)
    return drawn[0][:500], drawn[1][:2000], drawn[2][:2000]


def test_as_published_starts_are_those_of_the_published_runs(tmp_path):
    n_frames = 64_000  # at this length 5 % of the frames are more than the 2000 used
    path = write(tmp_path / "md17_ethanol.npz", sgdml_arrays(vibrating(n_frames)))
    task = single_task(read_public(path), "as-published")
    for part, expected in zip(
        ("train", "val_time", "test_time"), published_draw(n_frames), strict=True
    ):
        np.testing.assert_array_equal(task.starts[part], expected)
    assert task.lags_fs.tolist() == [187.5 * i for i in range(1, 9)]
    x = vibrating(n_frames)[:, :3]
    np.testing.assert_allclose(
        task.trajectory.velocities, (x[1:] - x[:-1]) / 0.5, rtol=1e-4, atol=1e-7
    )
    assert task.random_rotations is False
    assert any("test windows overlap training windows" in remark for remark in task.remarks)
    assert any("velocities from the frame after" in remark for remark in task.remarks)


def test_leak_free_parts_share_no_frame(long_file):
    data = read_public(long_file)
    task = single_task(data, "leak-free")
    assert {part: len(set(s)) for part, s in task.starts.items()} == {
        "train": 500,
        "val_time": 2000,
        "test_time": 2000,
    }
    # A window reads from one frame before its start (velocity) to 3000 frames after it.
    spans = {part: (s.min() - 1, s.max() + 3000) for part, s in task.starts.items()}
    assert spans["train"][1] < spans["val_time"][0] < spans["val_time"][1] < spans["test_time"][0]
    assert spans["test_time"][1] < task.trajectory.n_frames
    for part, (begin, end) in time_blocks(task.trajectory.length_fs).items():
        assert begin <= 0.5 * task.starts[part].min()
        assert 0.5 * (task.starts[part].max() + 3000) <= end
    assert task.random_rotations is True and task.remarks == ()


def test_leak_free_velocities_use_no_future_frame(long_file, tmp_path):
    data = read_public(long_file)
    task = single_task(data, "leak-free")
    x = data.positions[:, :3]
    np.testing.assert_allclose(
        task.trajectory.velocities, (x[1:] - x[:-1]) / 0.5, rtol=1e-4, atol=1e-7
    )
    np.testing.assert_array_equal(task.trajectory.positions, x[1:].astype("f4"))
    start = task.starts["test_time"][7]
    changed = data.positions.copy()
    changed[start + 2 :] += 0.01  # frame `start` of the trajectory is frame start + 1 of the file
    path = write(tmp_path / "md17_ethanol.npz", sgdml_arrays(changed))
    again = single_task(read_public(path), "leak-free")
    np.testing.assert_array_equal(
        again.trajectory.velocities[start], task.trajectory.velocities[start]
    )
    published = single_task(read_public(path), "as-published").trajectory.velocities
    before = single_task(data, "as-published").trajectory.velocities
    assert not np.array_equal(published[start + 1], before[start + 1])


@pytest.mark.parametrize("protocol", ["as-published", "leak-free"])
def test_windows_are_cut_from_the_starts(long_file, protocol):
    data = read_public(long_file)
    task = single_task(data, protocol)
    starts = task.starts["test_time"][:3]
    batch = collate([cut_window(task.trajectory, s, task.lags_fs) for s in starts])
    assert batch.targets.shape == (3, 8, 3, 3)
    np.testing.assert_array_equal(batch.lags_fs[0], task.lags_fs.astype("f4"))
    frames = np.array([task.trajectory.first_frame + s for s in starts])
    lags = np.arange(375, 3001, 375)
    expected = data.positions[frames[:, None] + lags][:, :, :3]
    np.testing.assert_array_equal(batch.targets, expected.astype("f4"))
    assert batch.molecule == ("ethanol",) * 3
    whole = single_task(data, protocol, heavy=False).trajectory
    assert whole.n_atoms == 9 and whole.relaxed_positions is None


@pytest.mark.parametrize("protocol", ["as-published", "leak-free"])
def test_too_short_data_are_refused_with_the_length_it_takes(tmp_path, protocol):
    path = write(tmp_path / "md17_ethanol.npz", sgdml_arrays(vibrating(20_000)))
    with pytest.raises(UserError, match=f"too few for the {protocol} single-task") as raised:
        single_task(read_public(path), protocol)
    assert "\n" not in str(raised.value) and "500/2000/2000 starts" in str(raised.value)
    least = int(re.search(r"it takes about (\d+)", str(raised.value))[1])
    path = write(tmp_path / "md17_ethanol.npz", sgdml_arrays(vibrating(least + 3)))
    assert len(single_task(read_public(path), protocol).starts["val_time"]) == 2000
    path = write(tmp_path / "md17_ethanol.npz", sgdml_arrays(vibrating(least - 40)))
    with pytest.raises(UserError, match="too few"):
        single_task(read_public(path), protocol)


def test_settings_of_the_protocol_are_checked(long_file):
    data = read_public(long_file)
    with pytest.raises(UserError, match="no protocol 'random'"):
        single_task(data, "random")
    with pytest.raises(UserError, match="a horizon of 3001 frames has no 8 uniform lags"):
        single_task(data, "leak-free", horizon_frames=3001)
