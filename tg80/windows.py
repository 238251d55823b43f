"""Windows for learning and scoring: a start state and the states P lags later.

What a training window looks like depends on (seed, epoch, index) alone: a resumed run sees the same
data in the same order, with any number of loader workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from tg80.errors import UserError
from tg80.lags import LagSampling, lag_frames, scored_starts
from tg80.trajectories import Trajectory


def uniform_rotations(rng: np.random.Generator, count: int) -> np.ndarray:
    """Proper rotations uniform over SO(3) (Haar measure), shape (count, 3, 3).

    References:
        A normalised 4-dimensional Gaussian is a uniform unit quaternion: Muller (1959),
        doi:10.1145/377939.377946.
    """
    q = rng.standard_normal((count, 4))
    w, x, y, z = (q / np.linalg.norm(q, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), -1, 0)


@dataclass(frozen=True)
class Window:
    """A start state and its targets; arrays as in `WindowBatch` without the batch axis."""

    positions: np.ndarray
    velocities: np.ndarray
    atomic_numbers: np.ndarray
    lags_fs: np.ndarray
    targets: np.ndarray
    molecule: str
    start_id: str


@dataclass(frozen=True)
class WindowBatch:
    """Windows of molecules of any size, padded with zeros.

    Attributes:
        positions: (B, N, 3) A; velocities: (B, N, 3) A/fs; atomic_numbers: (B, N), 0 = padding.
        lags_fs: (B, P) fs, NaN = padding; targets: (B, P, N, 3) A, 0 where padded.
        molecule, start_id: B names.
    """

    positions: torch.Tensor
    velocities: torch.Tensor
    atomic_numbers: torch.Tensor
    lags_fs: torch.Tensor
    targets: torch.Tensor
    molecule: tuple[str, ...]
    start_id: tuple[str, ...]


def cut_window(
    trajectory: Trajectory,
    start: int,
    lags_fs: Sequence[float] | np.ndarray,
    rotation: np.ndarray | None = None,
) -> Window:
    """The window of `trajectory` that begins at frame `start`, turned by `rotation` (3, 3)."""
    frames, real = lag_frames(lags_fs, trajectory.frame_fs)
    positions = trajectory.positions[start]
    velocities = trajectory.velocities[start]
    targets = trajectory.positions[start + frames]
    if rotation is not None:
        turn = rotation.T.astype(np.float32)
        positions, velocities, targets = positions @ turn, velocities @ turn, targets @ turn
    targets = np.where(np.isnan(real)[:, None, None], np.float32(0), targets)
    return Window(
        positions, velocities, trajectory.atomic_numbers, real, targets,
        trajectory.name, trajectory.start_id(start),
    )  # fmt: skip


def collate(windows: Sequence[Window]) -> WindowBatch:
    """Stack windows into a batch, atoms and lags padded to the largest."""
    n_atoms = max(len(w.atomic_numbers) for w in windows)
    n_lags = max(len(w.lags_fs) for w in windows)
    size = len(windows)
    positions = np.zeros((size, n_atoms, 3), dtype=np.float32)
    velocities = np.zeros_like(positions)
    numbers = np.zeros((size, n_atoms), dtype=np.int64)
    lags = np.full((size, n_lags), np.nan, dtype=np.float32)
    targets = np.zeros((size, n_lags, n_atoms, 3), dtype=np.float32)
    for i, window in enumerate(windows):
        n, p = len(window.atomic_numbers), len(window.lags_fs)
        positions[i, :n] = window.positions
        velocities[i, :n] = window.velocities
        numbers[i, :n] = window.atomic_numbers
        lags[i, :p] = window.lags_fs
        targets[i, :p, :n] = window.targets
    return WindowBatch(
        positions=torch.from_numpy(positions),
        velocities=torch.from_numpy(velocities),
        atomic_numbers=torch.from_numpy(numbers),
        lags_fs=torch.from_numpy(lags),
        targets=torch.from_numpy(targets),
        molecule=tuple(w.molecule for w in windows),
        start_id=tuple(w.start_id for w in windows),
    )


class TrainingWindows(Dataset):
    """Random windows of training blocks, every molecule equally often.

    Item `index` of an epoch is a function of (seed, epoch, index): its start and lags are drawn
    anew every epoch, and so is the uniform rotation it is turned by.

    Args:
        trajectories: the training blocks; nothing outside them can be drawn.
        lags: which lags to draw.
        windows_per_trajectory: items an epoch holds of each trajectory.
        rotate: turn every window by a fresh uniform rotation.

    Raises:
        UserError: a block is shorter than the fixed horizon.
    """

    def __init__(
        self,
        trajectories: Sequence[Trajectory],
        lags: LagSampling,
        *,
        seed: int,
        windows_per_trajectory: int = 64,
        rotate: bool = True,
    ) -> None:
        if not trajectories:
            raise UserError("no training trajectory: the data and the fold have none in common")
        for trajectory in trajectories:
            scored_starts(trajectory, max(lags.fixed_lags_fs), "train")
        self.trajectories = list(trajectories)
        self.lags = lags
        self.seed = seed
        self.windows_per_trajectory = windows_per_trajectory
        self.rotate = rotate
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose windows are drawn."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.trajectories) * self.windows_per_trajectory

    def sizes(self) -> list[int]:
        """Number of atoms of each window."""
        return [t.n_atoms for t in self.trajectories for _ in range(self.windows_per_trajectory)]

    def __getitem__(self, index: int) -> Window:
        rng = np.random.default_rng([self.seed, self.epoch, index])
        trajectory = self.trajectories[index // self.windows_per_trajectory]
        lags_fs = self.lags.draw(rng, trajectory.frame_fs, trajectory.length_fs)
        frames, _ = lag_frames(lags_fs, trajectory.frame_fs)
        start = int(rng.integers(trajectory.n_frames - int(frames.max())))
        rotation = uniform_rotations(rng, 1)[0] if self.rotate else None
        return cut_window(trajectory, start, lags_fs, rotation)


class EpochOrder(Sampler[list[int]]):
    """Batches of an epoch in an order that depends on (seed, epoch) alone.

    Windows of like size are put together, within chunks of `CHUNK_BATCHES` random batches: little
    padding is computed, and a batch still mixes molecules.

    Args:
        sizes: (n_windows,) number of atoms of each window.
        skip: batches left out at the front: where a resumed run goes on.
    """

    CHUNK_BATCHES = 8

    def __init__(
        self, sizes: Sequence[int], batch_size: int, *, seed: int, epoch: int, skip: int = 0
    ) -> None:
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(len(sizes))
        chunk = self.CHUNK_BATCHES * batch_size
        batches = []
        for first in range(0, len(order), chunk):
            part = order[first : first + chunk]
            part = part[np.argsort(np.asarray(sizes)[part], kind="stable")].tolist()
            batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
        self.batches = [batches[i] for i in rng.permutation(len(batches))][skip:]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)
