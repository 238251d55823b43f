"""The single-task protocol, as published and leak-free, on generated files."""

import re

import numpy as np
import pytest

from benchmarks.tasks.public import as_published, leak_free
from tests.support.public_files import rmd17_arrays, sgdml_arrays, vibrating, write
from tg80.errors import UserError
from tg80.exchange.md17 import read_public
from tg80.splits.split import time_blocks


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
    task = as_published(read_public(path))
    for part, expected in zip(
        ("train", "val_time", "test_time"), published_draw(n_frames), strict=True
    ):
        np.testing.assert_array_equal(task.frames[part], expected)
    x = vibrating(n_frames)
    np.testing.assert_allclose(
        task.trajectory.velocities, (x[1:] - x[:-1]) / 0.5, rtol=1e-4, atol=1e-7
    )


def test_leak_free_parts_share_no_frame(long_file):
    data = read_public(long_file)
    task = leak_free(data)
    assert {part: len(set(s)) for part, s in task.frames.items()} == {
        "train": 500,
        "val_time": 2000,
        "test_time": 2000,
    }
    # A window reads from one frame before its start (velocity) to 3000 frames after it.
    spans = {part: (s.min() - 1, s.max() + 3000) for part, s in task.frames.items()}
    assert spans["train"][1] < spans["val_time"][0] < spans["val_time"][1] < spans["test_time"][0]
    assert spans["test_time"][1] < task.trajectory.n_frames
    for part, (begin, end) in time_blocks(task.trajectory.length_fs).items():
        assert begin <= 0.5 * task.frames[part].min()
        assert 0.5 * (task.frames[part].max() + 3000) <= end


def test_leak_free_velocities_use_no_future_frame(long_file, tmp_path):
    data = read_public(long_file)
    task = leak_free(data)
    x = data.positions
    np.testing.assert_allclose(
        task.trajectory.velocities, (x[1:] - x[:-1]) / 0.5, rtol=1e-4, atol=1e-7
    )
    np.testing.assert_array_equal(task.trajectory.positions, x[1:].astype("f4"))
    start = task.frames["test_time"][7]
    changed = data.positions.copy()
    changed[start + 2 :] += 0.01  # frame `start` of the trajectory is frame start + 1 of the file
    path = write(tmp_path / "md17_ethanol.npz", sgdml_arrays(changed))
    again = leak_free(read_public(path))
    np.testing.assert_array_equal(
        again.trajectory.velocities[start], task.trajectory.velocities[start]
    )
    published = as_published(read_public(path)).trajectory.velocities
    before = as_published(data).trajectory.velocities
    assert not np.array_equal(published[start + 1], before[start + 1])


@pytest.mark.parametrize("make", [as_published, leak_free])
def test_too_short_data_are_refused_with_the_length_it_takes(tmp_path, make):
    protocol = make.__name__.replace("_", "-")
    path = write(tmp_path / "md17_ethanol.npz", sgdml_arrays(vibrating(20_000)))
    with pytest.raises(UserError, match=f"too few for the {protocol} single-task") as raised:
        make(read_public(path))
    assert "\n" not in str(raised.value) and "500/2000/2000 starts" in str(raised.value)
    least = int(re.search(r"it takes about (\d+)", str(raised.value))[1])
    path = write(tmp_path / "md17_ethanol.npz", sgdml_arrays(vibrating(least + 3)))
    assert len(make(read_public(path)).frames["val_time"]) == 2000
    path = write(tmp_path / "md17_ethanol.npz", sgdml_arrays(vibrating(least - 40)))
    with pytest.raises(UserError, match="too few"):
        make(read_public(path))


def test_the_longest_segment_of_rmd17_is_used(tmp_path):
    positions = vibrating(400)
    kept = np.delete(np.arange(400), [7, 100, 101, 102, 399])
    chosen = np.random.default_rng(1).permutation(kept)
    data = read_public(write(tmp_path / "rmd17_ethanol.npz", rmd17_arrays(positions, chosen)))
    task = leak_free(data, dict.fromkeys(("train", "val_time", "test_time"), 5), horizon=8)
    # The first frame of the segment has no frame before it, so no velocity.
    assert task.trajectory.first_frame == 100
    np.testing.assert_array_equal(task.trajectory.positions, positions[104:399].astype("f4"))
    with pytest.raises(UserError, match="took the file order of rMD17 for time"):
        as_published(data)


def test_scattered_frames_of_rmd17_are_refused(tmp_path):
    chosen = np.random.default_rng(1).permutation(np.arange(0, 400, 2))
    path = write(tmp_path / "rmd17_ethanol.npz", rmd17_arrays(vibrating(400), chosen))
    with pytest.raises(UserError, match="0 consecutive frames are too few for the leak-free"):
        leak_free(read_public(path))
