"""Trajectories as learning needs them: positions and velocities in memory, cut into time blocks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tg80.shard import Shard

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
