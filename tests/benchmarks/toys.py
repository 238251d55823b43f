"""Small molecules in memory that vibrate harmonically: trajectories without shards or dynamics."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from benchmarks.data import BenchmarkData, cut
from benchmarks.tasks import TaskSpec
from tg80.splits import load_split
from tg80.trajectories import Trajectory

# Names of each part of fold 2 of tg80-v1; their atoms here are made up.
TRAIN = ("1-butanol", "acetonitrile", "chlorobenzene", "ethylene")
VAL = ("1-pentanol", "chloroform")
TEST_ID, TEST_OOD = ("formaldehyde", "butylamine"), ("urea", "acetic-acid")
NAMES = (*TRAIN, *VAL, *TEST_ID, *TEST_OOD)
FRAME_FS = 10.0
TASK = TaskSpec(
    id="toy-v1",
    level="gfn2-xtb",
    lags_fs=(30.0, 60.0, 90.0),
    curve_lags_fs=(10.0,),
    description="toy",
)
N_FRAMES = 121
TINY_ATOM = {
    "model": {"n_blocks": 1, "width": 16, "n_heads": 2, "feedforward_width": 16},
    "training": {"windows_per_trajectory": 4, "batch_size": 4, "validations": 2},
}
TINY_EGNN = {
    "model": {"n_layers": 1, "width": 8, "time_width": 4},
    "training": {"windows_per_trajectory": 4, "batch_size": 4, "validations": 2},
}
# Trained on the mini set that ships along in a second or two.
SMALL_ATOM = {
    "model": {"n_blocks": 2, "width": 32, "n_heads": 2, "feedforward_width": 32},
    "training": {
        "windows_per_trajectory": 4, "batch_size": 8, "validations": 1, "loss_atoms": "all",
    },
}  # fmt: skip


def toy_trajectory(name: str, seed: int = 0, n_frames: int = N_FRAMES) -> Trajectory:
    """Every atom swings about its place with a period of its own; sizes differ by name."""
    rng = np.random.default_rng([seed, sum(map(ord, name))])
    n_atoms = 5 + sum(map(ord, name)) % 4
    numbers = np.array([6, 8, 7, 6, *[1] * (n_atoms - 4)])
    rest = rng.normal(size=(n_atoms, 3)) * 1.5
    rate = rng.uniform(0.01, 0.03, size=(n_atoms, 3))
    phase = rng.uniform(0, 2 * np.pi, size=(n_atoms, 3))
    time = (np.arange(n_frames) * FRAME_FS)[:, None, None]
    positions = rest + 0.1 * np.sin(rate * time + phase)
    velocities = 0.1 * rate * np.cos(rate * time + phase)
    return Trajectory(
        name, 0, positions.astype("f4"), velocities.astype("f4"), numbers, rest, FRAME_FS
    )


def toy_trajectories(names: Sequence[str] = NAMES) -> list[Trajectory]:
    return [toy_trajectory(name) for name in names]


def toy_data(
    trajectories: Sequence[Trajectory] | None = None, task: TaskSpec = TASK
) -> BenchmarkData:
    """Fold 2 of the toys."""
    return cut(trajectories or toy_trajectories(), task, 2, load_split("tg80-v1"), "manifest")


def permuted(trajectory: Trajectory, order: np.ndarray) -> Trajectory:
    """The same molecule with its atoms in another order."""
    relaxed = trajectory.relaxed_positions
    return replace(
        trajectory,
        positions=trajectory.positions[:, order],
        velocities=trajectory.velocities[:, order],
        atomic_numbers=trajectory.atomic_numbers[order],
        relaxed_positions=None if relaxed is None else relaxed[order],
    )
