"""Small molecules in memory that vibrate harmonically: trajectories without shards or dynamics."""

import importlib.util
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest

from benchmarks.models import MODELS
from benchmarks.tasks.data import BenchmarkData, cut
from benchmarks.tasks.tasks import TaskSpec
from tg80.constants import ACCELERATION, masses_of
from tg80.dataset import Dataset
from tg80.splits.split import load_split
from tg80.windows.trajectories import FrameLabels, Trajectory

# Names of each part of fold 2 of tg80-v1; their atoms here are made up.
TRAIN = ("1-butanol", "acetonitrile", "chlorobenzene", "ethylene")
VAL = ("1-pentanol", "chloroform")
TEST_ID, TEST_OOD = ("formaldehyde", "butylamine"), ("urea", "acetic-acid")
NAMES = (*TRAIN, *VAL, *TEST_ID, *TEST_OOD)
FRAME_FS = 10.0
SPLIT = load_split("tg80-v1")
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
# Long steps: nothing in the toys moves fast.
TINY_MACE = {
    "model": {"n_channels": 4, "max_ell": 1, "correlation": 1, "radial_widths": [4]},
    "training": {"windows_per_trajectory": 4, "batch_size": 4, "validations": 2},
    "rollout": {"time_step_fs": 5.0},
}
# Trained on the mini set that ships along in a second or two.
SMALL_ATOM = {
    "model": {"n_blocks": 2, "width": 32, "n_heads": 2, "feedforward_width": 32},
    "training": {
        "windows_per_trajectory": 4, "batch_size": 8, "validations": 1, "loss_atoms": "all",
    },
}  # fmt: skip

NEEDS_MACE = (
    pytest.mark.mace,
    pytest.mark.skipif(
        importlib.util.find_spec("mace") is None,
        reason="mace is not installed: pip install -c constraints.txt '.[mace]'",
    ),
)
MODEL_PARAMS = [pytest.param(name, marks=NEEDS_MACE if name == "mace" else ()) for name in MODELS]


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
    forces = -masses_of(numbers)[:, None] * rate**2 * (positions - rest) / ACCELERATION
    energies = -0.5 * (forces * (positions - rest)).sum((1, 2))
    return Trajectory(
        name, 0, positions.astype("f4"), velocities.astype("f4"), numbers, rest, FRAME_FS,
        hessian=spring_hessian(rest),
        labels=FrameLabels(partial(_labels, energies, forces.astype("f4")), 0, n_frames),
    )  # fmt: skip


def _labels(
    energies: np.ndarray, forces: np.ndarray, first: int, stop: int
) -> tuple[np.ndarray, np.ndarray]:
    return energies[first:stop], forces[first:stop]


def spring_hessian(rest: np.ndarray, stiffness: float = 5.0) -> np.ndarray:
    """Hessian (3N, 3N) eV/A^2 of slack springs between all pairs of atoms."""
    n_atoms = len(rest)
    blocks = np.zeros((n_atoms, n_atoms, 3, 3))
    for i in range(n_atoms):
        for j in range(i):
            axis = (rest[i] - rest[j]) / np.linalg.norm(rest[i] - rest[j])
            block = stiffness * np.outer(axis, axis)
            blocks[i, i] += block
            blocks[j, j] += block
            blocks[i, j] -= block
            blocks[j, i] -= block
    return blocks.transpose(0, 2, 1, 3).reshape(3 * n_atoms, 3 * n_atoms)


def toy_trajectories(names: Sequence[str] = NAMES) -> list[Trajectory]:
    return [toy_trajectory(name) for name in names]


class ToyDataset(Dataset):
    """Trajectories in memory, with the frozen split."""

    def __init__(self, trajectories: Sequence[Trajectory]) -> None:
        self.trajectories: Any = {(t.name, t.replica): t for t in trajectories}
        self.split = SPLIT.restrict(t.name for t in trajectories)

    def trajectory(self, name: str, replica: int | None = None) -> Trajectory:
        return self.trajectories[name, replica or 0]


def toy_data(
    trajectories: Sequence[Trajectory] | None = None, task: TaskSpec = TASK
) -> BenchmarkData:
    """Fold 2 of the toys."""
    data = ToyDataset(trajectories or toy_trajectories())
    return cut(data, task, 2, manifest="manifest", split_sha256=SPLIT.sha256, bonds={})


def permuted(trajectory: Trajectory, order: np.ndarray) -> Trajectory:
    """The same molecule with its atoms in another order."""
    return trajectory.reordered(order)
