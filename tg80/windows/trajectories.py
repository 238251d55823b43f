"""Trajectories as learning needs them: positions and velocities, cut into time blocks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from tg80.errors import Tg80Error
from tg80.files import write_atomically
from tg80.shards.shard import Shard

# Times are stored as float64 multiples of the time step: a hundredth of a frame is rounding.
_FRAME_TOLERANCE = 1e-2
_DTYPE = np.dtype("<f4")  # of arrays mapped from a file


@dataclass(frozen=True)
class FrameLabels:
    """Energies and forces of consecutive frames, left in their file until they are asked for.

    Attributes:
        source: (first, stop) -> energies (n,) eV and forces (n, n_atoms, 3) eV/A of those frames.
        first: the first of these frames in the file.
        stop: the frame after the last.
        order: of the atoms, None for the file's.
    """

    source: Callable[[int, int], tuple[np.ndarray, np.ndarray]]
    first: int
    stop: int
    order: np.ndarray | None = None

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Energies (n,) float64 eV and forces (n, n_atoms, 3) float32 eV/A; NaN where not known.

        Raises:
            tg80.errors.CorruptFile: the shard cannot be read.
        """
        energies, forces = self.source(self.first, self.stop)
        return energies, forces if self.order is None else forces[:, self.order]

    def frames(self, first: int, stop: int) -> FrameLabels:
        """Return those of frames [first:stop] of these."""
        return replace(self, first=self.first + first, stop=min(self.first + stop, self.stop))


@dataclass(frozen=True)
class Trajectory:
    """One trajectory, or a time block of one: in memory, or mapped from a file.

    Attributes:
        name: molecule id.
        replica: number of the trajectory of that molecule.
        positions: (n_frames, n_atoms, 3) float32 A.
        velocities: (n_frames, n_atoms, 3) float32 A/fs.
        atomic_numbers: (n_atoms,).
        relaxed_positions: (n_atoms, 3) A, the molecule relaxed with GFN2-xTB; None where that is
            not known (public sets).
        frame_fs: time between stored frames.
        first_frame: number of the first frame here, counted in the whole trajectory.
        hessian: (3 n_atoms, 3 n_atoms) eV/A^2 at relaxed_positions, of GFN2-xTB too; None likewise.
        labels: energies and forces of the frames; None where they are not known, or are not those
            of these atoms alone.
    """

    name: str
    replica: int
    positions: np.ndarray
    velocities: np.ndarray
    atomic_numbers: np.ndarray
    relaxed_positions: np.ndarray | None
    frame_fs: float
    first_frame: int = 0
    hessian: np.ndarray | None = None
    labels: FrameLabels | None = None

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
        """Return the frames with begin_fs <= time <= end_fs, times counted from the first frame."""
        return self.frames(*block_frames(begin_fs, end_fs, self.frame_fs))

    def frames(self, first: int, stop: int) -> Trajectory:
        """Return frames [first:stop]."""
        return replace(
            self,
            positions=self.positions[first:stop],
            velocities=self.velocities[first:stop],
            first_frame=self.first_frame + first,
            labels=None if self.labels is None else self.labels.frames(first, stop),
        )

    def reordered(self, order: np.ndarray) -> Trajectory:
        """Return the trajectory with its atoms in another order."""
        labels, hessian = self.labels, self.hessian
        if labels is not None:
            labels = replace(labels, order=order if labels.order is None else labels.order[order])
        hessian = None if hessian is None else reordered_hessian(hessian, order)
        return self._with_atoms(order, hessian, labels)

    def heavy_atoms(self) -> Trajectory:
        """Leave out the hydrogens, which follow without inertia in the Hessian."""
        heavy = self.atomic_numbers > 1
        n_heavy = int(heavy.sum())
        # Our shards list heavy atoms first, and a slice of a mapped array stays in its file.
        chosen = slice(n_heavy) if heavy[:n_heavy].all() else heavy
        hessian = None if self.hessian is None else condensed_hessian(self.hessian, heavy)
        return self._with_atoms(chosen, hessian, None)

    def _with_atoms(
        self, chosen: np.ndarray | slice, hessian: np.ndarray | None, labels: FrameLabels | None
    ) -> Trajectory:
        relaxed = self.relaxed_positions
        return replace(
            self,
            positions=self.positions[:, chosen],
            velocities=self.velocities[:, chosen],
            atomic_numbers=self.atomic_numbers[chosen],
            relaxed_positions=None if relaxed is None else relaxed[chosen],
            hessian=hessian,
            labels=labels,
        )

    def start_id(self, frame: int) -> str:
        """Name the window that starts at `frame` of this block, unique in a dataset."""
        return f"{self.name}-r{self.replica}@{self.first_frame + frame}"


def block_frames(begin_fs: float, end_fs: float, frame_fs: float) -> tuple[int, int]:
    """Find the first frame with begin_fs <= time, and the one after the last <= end_fs."""
    first = int(np.ceil(begin_fs / frame_fs - _FRAME_TOLERANCE))
    last = int(np.floor(end_fs / frame_fs + _FRAME_TOLERANCE))
    return first, last + 1


def reordered_hessian(hessian: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Reorder the atoms of a Hessian (3 n_atoms, 3 n_atoms)."""
    coordinates = (3 * np.asarray(order)[:, None] + np.arange(3)).ravel()
    return hessian[np.ix_(coordinates, coordinates)]


def condensed_hessian(hessian: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Compute the Hessian of the kept atoms while the others rest where their force is zero.

    Args:
        hessian: (3 n_atoms, 3 n_atoms).
        kept: (n_atoms,) bool.

    Returns:
        The Schur complement, (3 n_kept, 3 n_kept). Shifts and rotations stay without force.
    """
    mine, others = np.repeat(kept, 3), np.repeat(~kept, 3)
    coupling = hessian[np.ix_(mine, others)]
    # Hydrogens on a line of kept atoms can turn about it freely: that motion has no inverse.
    inverse = np.linalg.pinv(hessian[np.ix_(others, others)], rcond=1e-4, hermitian=True)
    return hessian[np.ix_(mine, mine)] - coupling @ inverse @ coupling.T


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
        positions, velocities = _arrays(shard) if cache is None else _mapped(shard, cache)
        return Trajectory(
            name=shard.metadata.name,
            replica=shard.metadata.replica,
            positions=positions,
            velocities=velocities,
            atomic_numbers=np.asarray(shard.atomic_numbers, dtype=np.int64),
            relaxed_positions=np.asarray(shard.static("relaxed_positions"), dtype=np.float64),
            frame_fs=float(shard.frame_fs),
            hessian=np.asarray(shard.static("hessian"), dtype=np.float64),
            labels=FrameLabels(partial(_read_labels, shard.path), 0, shard.n_frames),
        )


def _read_labels(path: Path, first: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    with Shard(path) as shard:
        energies = np.asarray(shard.read("potential_energy", first, stop), dtype=np.float64)
        return energies, np.asarray(shard.read("forces", first, stop), dtype=np.float32)


def _arrays(shard: Shard) -> list[np.ndarray]:
    return [np.asarray(shard.read(key), dtype=_DTYPE) for key in ("positions", "velocities")]


def _mapped(shard: Shard, cache: Path) -> list[np.ndarray]:
    """Positions and velocities mapped from an uncompressed copy, which is made if there is none."""
    file, metadata = shard.path.stat(), shard.metadata
    # Another file under the same name gets another copy.
    identity = f"{file.st_size} {file.st_mtime_ns} {metadata.checksum()}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    path = cache / f"{metadata.name}-r{metadata.replica}-{digest}.f4"
    shape = (shard.n_frames, shard.n_atoms, 3)
    size = int(np.prod(shape))
    try:
        if not path.exists() or path.stat().st_size != 2 * size * _DTYPE.itemsize:
            cache.mkdir(parents=True, exist_ok=True)
            write_atomically(path, b"".join(array.tobytes() for array in _arrays(shard)))
        return [_view(str(path), first, shape) for first in (0, size)]
    except OSError as error:
        raise Tg80Error(f"{path}: cannot be written or mapped: {error.strerror or error}") from None


class MappedArray(np.memmap):
    """An array mapped from a file; pickled, it is its place in the file, not its values.

    So a loader's worker that is started afresh maps the same file instead of getting a copy.
    """

    def __reduce__(self) -> Any:
        mapping = getattr(self, "_mmap", None)
        if mapping is None:  # what arithmetic made of one lies in memory
            return np.asarray(self).__reduce__()
        first = self.ctypes.data - np.frombuffer(mapping, dtype="u1").ctypes.data
        return _view, (str(self.filename), first // _DTYPE.itemsize, self.shape, self.strides)


def _view(
    path: str, first: int, shape: tuple[int, ...], strides: tuple[int, ...] | None = None
) -> np.ndarray:
    whole = MappedArray(path, dtype=_DTYPE, mode="r")
    return as_strided(whole[first:], shape, strides, subok=True, writeable=False)
