"""Trajectories as learning needs them: positions and velocities, cut into time blocks."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tg80.mapped import map_arrays, mapped_arrays
from tg80.shard import Shard

# Times are stored as float64 multiples of the time step: a hundredth of a frame is rounding.
_FRAME_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Trajectory:
    """One trajectory, or a time block of one: in memory, or mapped from a file.

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
        first, stop = block_frames(begin_fs, end_fs, self.frame_fs)
        return replace(
            self,
            positions=self.positions[first:stop],
            velocities=self.velocities[first:stop],
            first_frame=self.first_frame + first,
        )

    def heavy_atoms(self) -> Trajectory:
        """The trajectory without its hydrogens."""
        heavy = self.atomic_numbers > 1
        n_heavy = int(heavy.sum())
        # Our shards list heavy atoms first, and a slice of a mapped array stays in its file.
        chosen = slice(n_heavy) if heavy[:n_heavy].all() else heavy
        relaxed = self.relaxed_positions
        return replace(
            self,
            positions=self.positions[:, chosen],
            velocities=self.velocities[:, chosen],
            atomic_numbers=self.atomic_numbers[chosen],
            relaxed_positions=None if relaxed is None else relaxed[chosen],
        )

    def start_id(self, frame: int) -> str:
        """Name of the window that starts at `frame` of this block, unique in a dataset."""
        return f"{self.name}-r{self.replica}@{self.first_frame + frame}"


def block_frames(begin_fs: float, end_fs: float, frame_fs: float) -> tuple[int, int]:
    """First frame with begin_fs <= time, and the frame after the last with time <= end_fs."""
    first = int(np.ceil(begin_fs / frame_fs - _FRAME_TOLERANCE))
    last = int(np.floor(end_fs / frame_fs + _FRAME_TOLERANCE))
    return first, last + 1


def read_trajectory(source: str | Path | Shard, cache: Path | None = None) -> Trajectory:
    """Read what windows need of one shard.

    Args:
        source: the shard, or its path.
        cache: None: read into memory. A folder: an uncompressed copy is written there once, and
            mapped: frames are read as they are used, and the operating system keeps the last ones.

    Raises:
        tg80.errors.CorruptFile: the shard cannot be read.
        tg80.errors.Tg80Error: the copy cannot be written.
    """
    with source if isinstance(source, Shard) else Shard(source) as shard:
        if cache is None:
            positions, velocities = _arrays(shard)
        else:
            positions, velocities = _mapped(shard, cache)
        return Trajectory(
            name=shard.metadata.name,
            replica=shard.metadata.replica,
            positions=positions,
            velocities=velocities,
            atomic_numbers=np.asarray(shard.atomic_numbers, dtype=np.int64),
            relaxed_positions=np.asarray(shard.static("relaxed_positions"), dtype=np.float64),
            frame_fs=float(shard.frame_fs),
        )


def _arrays(shard: Shard) -> list[np.ndarray]:
    return [np.asarray(shard.read(key), dtype="f4") for key in ("positions", "velocities")]


def _mapped(shard: Shard, cache: Path) -> list[np.ndarray]:
    facts, metadata = shard.path.stat(), shard.metadata
    # Another file under the same name gets another copy.
    identity = f"{facts.st_size} {facts.st_mtime_ns} {metadata.checksum()}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    path = cache / f"{metadata.name}-r{metadata.replica}-{digest}.f4"
    shapes = [(shard.n_frames, shard.n_atoms, 3)] * 2
    found = mapped_arrays(path, shapes)
    if found is None:
        cache.mkdir(parents=True, exist_ok=True)
        map_arrays(path, _arrays(shard))
        found = mapped_arrays(path, shapes)
    assert found is not None
    return found
