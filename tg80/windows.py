"""Windows for learning and scoring: a start state and the states P lags later.

Trajectories are read into memory once. Lags count from the start state and are rounded to stored
frames; the lag that was really used travels with the window, so that no model is asked for one
time and scored at another. What a training window looks like depends on (seed, epoch, index)
alone: a resumed run sees the same data in the same order, with any number of loader workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from tg80.errors import UserError

if TYPE_CHECKING:
    from tg80.shard import Shard

MAX_STARTS = 16
# Times are stored as float64 multiples of the time step: a hundredth of a frame is rounding.
_FRAME_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Trajectory:
    """One trajectory, or a time block of one, in memory.

    Attributes:
        name: molecule id. `replica`: number of the trajectory of that molecule.
        positions: (n_frames, n_atoms, 3) float32 A; velocities: likewise, A/fs.
        atomic_numbers: (n_atoms,). relaxed_positions: (n_atoms, 3) A, the molecule relaxed with
            GFN2-xTB; None where that is not known (public sets).
        frame_fs: time between stored frames.
        first_frame: number of the first frame here, counted in the whole trajectory.
    """

    name: str
    replica: int
    positions: np.ndarray
    velocities: np.ndarray
    atomic_numbers: np.ndarray
    relaxed_positions: np.ndarray | None
    frame_fs: float
    first_frame: int = 0

    @property
    def n_frames(self) -> int:
        return len(self.positions)

    @property
    def n_atoms(self) -> int:
        return len(self.atomic_numbers)

    @property
    def length_fs(self) -> float:
        """Time from the first to the last frame."""
        return (self.n_frames - 1) * self.frame_fs

    def block(self, begin_fs: float, end_fs: float) -> Trajectory:
        """The frames with begin_fs <= time <= end_fs, times counted from the first frame."""
        first = int(np.ceil(begin_fs / self.frame_fs - _FRAME_TOLERANCE))
        last = int(np.floor(end_fs / self.frame_fs + _FRAME_TOLERANCE))
        return replace(
            self,
            positions=self.positions[first : last + 1],
            velocities=self.velocities[first : last + 1],
            first_frame=self.first_frame + first,
        )

    def heavy_atoms(self) -> Trajectory:
        """The trajectory without its hydrogens."""
        heavy = self.atomic_numbers > 1
        relaxed = self.relaxed_positions
        return replace(
            self,
            positions=self.positions[:, heavy],
            velocities=self.velocities[:, heavy],
            atomic_numbers=self.atomic_numbers[heavy],
            relaxed_positions=None if relaxed is None else relaxed[heavy],
        )

    def start_id(self, frame: int) -> str:
        """Name of the window that starts at `frame` of this block, unique in a dataset."""
        return f"{self.name}-r{self.replica}@{self.first_frame + frame}"


def read_trajectory(path: str | Path) -> Trajectory:
    """Read what windows need of one shard into memory.

    Raises:
        tg80.errors.CorruptFile: the shard cannot be read.
    """
    from tg80.shard import Shard

    with Shard(path) as shard:
        return _in_memory(shard)


def _in_memory(shard: Shard) -> Trajectory:
    return Trajectory(
        name=shard.metadata.name,
        replica=shard.metadata.replica,
        positions=np.asarray(shard.read("positions"), dtype=np.float32),
        velocities=np.asarray(shard.read("velocities"), dtype=np.float32),
        atomic_numbers=np.asarray(shard.atomic_numbers, dtype=np.int64),
        relaxed_positions=np.asarray(shard.static("relaxed_positions"), dtype=np.float64),
        frame_fs=float(shard.frame_fs),
    )


def lag_frames(
    lags_fs: Sequence[float] | np.ndarray, frame_fs: float
) -> tuple[np.ndarray, np.ndarray]:
    """Lags as stored frames, and the lags these frames really are.

    Rounded half up, at least one frame; a lag that falls on a frame already taken is dropped and
    the end padded.

    Args:
        lags_fs: (P,) fs, counted from the start state, increasing.
        frame_fs: time between stored frames.

    Returns:
        frames: (P,) int, 0 where padded. real_lags_fs: (P,) fs, NaN where padded.

    Raises:
        UserError: no lag, or lags that are not positive and increasing.
    """
    lags = np.asarray(lags_fs, dtype=float)
    if lags.size == 0 or not np.all(lags > 0) or not np.all(np.diff(lags) > 0):
        raise UserError(f"lags must be positive and increasing, not {list(lags_fs)}")
    # 1e-9: a quotient such as 2.4999999999 for 2.5 is a tie and goes up like one.
    kept = np.unique(np.maximum(1, np.floor(lags / frame_fs + 0.5 + 1e-9).astype(np.int64)))
    frames = np.zeros(lags.size, dtype=np.int64)
    frames[: kept.size] = kept
    real = np.full(lags.size, np.nan)
    real[: kept.size] = kept * frame_fs
    return frames, real


def start_frames(n_frames: int, horizon_frames: int, max_starts: int = MAX_STARTS) -> np.ndarray:
    """Starts of scored windows in a block: as many as fit more than a horizon apart, at most 16.

    They are spread evenly from the first frame to the last one whose window ends in the block.

    Args:
        n_frames: frames of the block. horizon_frames: the longest lag, in frames.

    Returns:
        (n_starts,) increasing; empty if the horizon is longer than the block.
    """
    slack = n_frames - 1 - horizon_frames
    if slack < 0:
        return np.zeros(0, dtype=np.int64)
    count = min(max_starts, slack // (horizon_frames + 1) + 1)
    if count == 1:
        return np.zeros(1, dtype=np.int64)
    return np.arange(count, dtype=np.int64) * slack // (count - 1)


def scored_starts(
    trajectory: Trajectory, horizon_fs: float, part: str, max_starts: int = MAX_STARTS
) -> np.ndarray:
    """`start_frames` of one trajectory or block.

    Raises:
        UserError: the horizon is longer than the block; it is never shortened silently.
    """
    frames, _ = lag_frames([horizon_fs], trajectory.frame_fs)
    starts = start_frames(trajectory.n_frames, int(frames[0]), max_starts)
    if starts.size == 0:
        raise UserError(
            f"horizon {horizon_fs:g} fs is longer than the {part} block of {trajectory.name} "
            f"({max(trajectory.length_fs, 0):g} fs); choose a shorter horizon or longer data"
        )
    return starts


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


@dataclass(frozen=True)
class LagSampling:
    """Which lags training windows have.

    With probability `fixed_fraction` the fixed lags, else `n_lags` uniform lags to a horizon drawn
    log-uniformly from max(8 fs, one stored frame) to `longest_fs` (the block's length if None).
    """

    fixed_lags_fs: tuple[float, ...]
    fixed_fraction: float = 0.5
    longest_fs: float | None = None

    def draw(self, rng: np.random.Generator, frame_fs: float, length_fs: float) -> np.ndarray:
        """Lags (n_lags,) in fs for one window of a block `length_fs` long."""
        fixed = np.asarray(self.fixed_lags_fs, dtype=float)
        if rng.random() < self.fixed_fraction:
            return fixed
        shortest = max(8.0, frame_fs)
        longest = min(self.longest_fs or length_fs, length_fs)
        horizon = np.exp(rng.uniform(np.log(shortest), np.log(max(longest, shortest))))
        return horizon * np.arange(1, fixed.size + 1) / fixed.size


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
