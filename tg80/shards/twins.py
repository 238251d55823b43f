"""Twin trajectories: reruns from one stored state, and the predictability floor they give.

K twins start from the same stored frame, each a little displaced. How far they part is how well
any model could predict the future of a state known that well: the floor of the error. One HDF5 file
holds the twins of one shard, `NAME-rK-twins.h5`, with its SHA-256 beside it. It is not a shard: no
split, validation or window ever sees it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
from pydantic import BaseModel, ConfigDict
from pydantic import Field as Setting

from tg80.constants import EV_PER_KJ_PER_MOL
from tg80.errors import CorruptFile, UserError
from tg80.files import find_files, verify, write_with_checksum
from tg80.shards.fields import Field
from tg80.shards.metadata import (
    CHECKSUM_ATTRIBUTE,
    FileMetadata,
    checked_metadata,
)
from tg80.shards.shard import named_errors, to_disk, to_memory
from tg80.untrusted.hdf5 import check_values, open_hdf5

SUFFIX = "-twins.h5"
_GROUP = "twins"
_METADATA = "metadata"

# fmt: off
TWIN_FIELDS: tuple[Field, ...] = (
    Field("positions", f"{_GROUP}/position", ("n_starts", "n_twins", "n_frames", "n_atoms", 3),
          "f4", "Angstrom", "A", 1.0, "nuclear positions of every twin"),
    Field("times_fs", f"{_GROUP}/time", ("n_frames",), "f8", "fs", "fs", 1.0,
          "time since the start"),
    Field("start_frames", f"{_GROUP}/start_frame", ("n_starts",), "i8", None, None, 1.0,
          "frame of the shard that the twins start from"),
    Field("start_velocities", f"{_GROUP}/start_velocity", ("n_starts", "n_twins", "n_atoms", 3),
          "f4", "Angstrom fs-1", "A/fs", 1.0, "velocities that the twins start with"),
    Field("start_energies", f"{_GROUP}/start_energy", ("n_starts", "n_twins"), "f8", "kJ mol-1",
          "eV", EV_PER_KJ_PER_MOL, "total energy that the twins start with"),
    Field("atomic_numbers", f"{_GROUP}/species", ("n_atoms",), "i4", None, None, 1.0,
          "atomic numbers, in the order of the shard"),
)
# fmt: on


class TwinSettings(BaseModel):
    """What twins are: everything that a file of twins depends on but the shard.

    Attributes:
        perturbation_angstrom: standard deviation of the displacement of each coordinate; 0 moves
            positions and velocities within the rounding of the stored frame only.
        noise: every twin has thermostat noise of its own; otherwise all share one stream.
        resample_hydrogens: every twin has hydrogen velocities of its own, drawn at the temperature.
        n_starts: start states a shard. n_twins: twins a start state.
        length_fs: how long each twin is. store_every_fs: distance of its stored frames.
        seed: master seed of the displacements.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    perturbation_angstrom: float = Setting(1e-3, ge=0, le=0.5)
    noise: bool = False
    resample_hydrogens: bool = False
    n_starts: int = Setting(2, ge=1, le=16)
    n_twins: int = Setting(4, ge=2, le=1000)
    length_fs: float = Setting(gt=0)
    store_every_fs: float = Setting(10.0, gt=0)
    seed: int = Setting(0, ge=0, lt=2**63)

    def sha256(self) -> str:
        """Hash of all settings."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


class TwinMetadata(FileMetadata):
    """All that is not an array in a file of twins.

    `source` and `source_sha256` name the shard; level, recipe and time step are the shard's own,
    because twins are made exactly as it was made. `starts_in` is the time block of the starts.
    """

    source: str
    source_sha256: str
    settings: TwinSettings
    starts_in: str
    frame_fs: float = Setting(gt=0)


@dataclass(frozen=True)
class Twins:
    """The twins of one shard, in the units of the code.

    Attributes:
        metadata: everything that is not an array.
        positions: (n_starts, n_twins, n_frames, n_atoms, 3) float32 A; frame 0 is the start.
        times_fs: (n_frames,) fs since the start.
        start_frames: (n_starts,) frames of the shard, counted from its first one.
        start_velocities: (n_starts, n_twins, n_atoms, 3) float32 A/fs.
        start_energies: (n_starts, n_twins) total energy, eV.
        atomic_numbers: (n_atoms,).
    """

    metadata: TwinMetadata
    positions: np.ndarray
    times_fs: np.ndarray
    start_frames: np.ndarray
    start_velocities: np.ndarray
    start_energies: np.ndarray
    atomic_numbers: np.ndarray

    @property
    def n_starts(self) -> int:
        return self.positions.shape[0]

    @property
    def n_twins(self) -> int:
        return self.positions.shape[1]

    @property
    def start_ids(self) -> tuple[str, ...]:
        """Names of the windows that begin where the twins do, as `tg80.windows.windows` does."""
        stem = f"{self.metadata.name}-r{self.metadata.replica}"
        return tuple(f"{stem}@{frame}" for frame in self.start_frames)


def floor(
    twins: Twins, score: Literal["heavy", "all"] = "heavy", lags_fs: Sequence[float] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The predictability floor: mean squared error of the best predictor of a state known so well.

    The unbiased within-group variance of the twins (K - 1 in the denominator), mean over scored
    atoms and three coordinates, so that it compares with S2S at the same lag. For K = 2 that is
    half the mean squared difference.

    Args:
        twins: the twins of one shard.
        score: which atoms are scored; "heavy" leaves the hydrogens out.
        lags_fs: times since the start, which must be stored; None for all but 0.

    Returns:
        lags (n_lags,) fs and floor (n_starts, n_lags) A^2.

    Raises:
        UserError: a lag that is not stored, or no atom to score.
    """
    times, positions = _scored(twins, score, lags_fs)
    return times[1:], positions[:, :, 1:].var(axis=1, ddof=1).mean(axis=(-2, -1))


def persistence(
    twins: Twins, score: Literal["heavy", "all"] = "heavy", lags_fs: Sequence[float] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """What predicting the start state for all times errs by, to set the floor against.

    Args and returns as of `floor`; the mean over the twins of each start.
    """
    times, positions = _scored(twins, score, lags_fs)
    moved = positions[:, :, 1:] - positions[:, :, :1]
    return times[1:], (moved**2).mean(axis=(1, 3, 4))


def _scored(
    twins: Twins, score: str, lags_fs: Sequence[float] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Times (1 + n_lags,) from 0, and float64 positions of the scored atoms at them."""
    times = twins.times_fs
    if lags_fs is None:
        frames = np.arange(len(times))
    else:
        frames = np.array([0, *(_stored_frame(times, lag, twins) for lag in lags_fs)], dtype=int)
    scored = twins.atomic_numbers > (1 if score == "heavy" else 0)
    if not scored.any():
        raise UserError(f"{twins.metadata.source}: no heavy atom to score; score all atoms")
    return times[frames], twins.positions[:, :, frames][..., scored, :].astype(np.float64)


def _stored_frame(times: np.ndarray, lag_fs: float, twins: Twins) -> int:
    frame = int(np.abs(times - lag_fs).argmin())
    if abs(times[frame] - lag_fs) > 1e-6 * max(1.0, abs(lag_fs)):
        every, length = twins.metadata.settings.store_every_fs, twins.metadata.settings.length_fs
        raise UserError(
            f"{twins.metadata.source}: its twins are stored every {every:g} fs up to {length:g} fs,"
            f" not at {lag_fs:g} fs; choose stored lags or make other twins"
        )
    return frame


def find_twins(folder: Path | str) -> list[Path]:
    """The files of twins in a folder, sorted by name.

    Raises:
        UserError: there is no such folder, or it holds no twins.
    """
    return find_files(folder, (SUFFIX,))


def shipped_twins(name: str) -> Path:
    """Folder of the twins that ship with the package for a shipped data set, such as `mini-xtb`.

    Raises:
        UserError: none ship for it.
    """
    folder = Path(str(resources.files("tg80"))) / "data" / "twins" / name
    if not folder.is_dir():
        raise UserError(f"no twins ship for {name}; make them with `tg80 twin`")
    return folder


def write_twins(path: Path | str, twins: Twins) -> None:
    """Write a file of twins, then its checksum beside it, each atomically.

    Raises:
        ValueError: an array has the wrong shape.
        Tg80Error: the file cannot be written; nothing half-written is left.
    """
    path = Path(path)
    disk = {f.name: to_disk(f, np.asarray(getattr(twins, f.name))) for f in TWIN_FIELDS}
    _check_shapes(disk, path, ValueError)
    with h5py.File(
        "twins", "w", driver="core", backing_store=False, libver=("v110", "v110")
    ) as file:
        for field in TWIN_FIELDS:
            values = disk[field.name]
            # One chunk a twin: what is read at once is compressed at once.
            chunks = (1, 1, *values.shape[2:]) if field.name == "positions" else values.shape
            dataset = file.create_dataset(
                field.path, data=values, chunks=chunks, compression="gzip", compression_opts=4,
                shuffle=True, fletcher32=True, track_times=False,
            )  # fmt: skip
            if field.disk_unit is not None:
                dataset.attrs["unit"] = field.disk_unit
        file[_GROUP].attrs[_METADATA] = twins.metadata.canonical_json()
        file[_GROUP].attrs[CHECKSUM_ATTRIBUTE] = twins.metadata.checksum()
        file.flush()
        image = file.id.get_file_image()
    write_with_checksum(path, image)


def read_twins(path: Path | str) -> Twins:
    """The twins in a file, after its checksum was compared.

    Raises:
        UserError: there is no such file.
        CorruptFile: it is not what its checksum says, cut short, altered, or no file of twins.
    """
    path = Path(path)
    with named_errors(path):
        verify(path, required=True, advice="make it again")
        with open_hdf5(path) as file:
            attributes = dict(file[_GROUP].attrs)
            for field in TWIN_FIELDS:
                check_values(file[field.path])
            disk = {f.name: np.asarray(file[f.path]) for f in TWIN_FIELDS}
        content, checksum = (
            json.loads(str(attributes[_METADATA])),
            attributes.get(CHECKSUM_ATTRIBUTE),
        )
        metadata = checked_metadata(TwinMetadata, content, checksum, path)
        _check_shapes(disk, path, CorruptFile)
        arrays = {f.name: to_memory(f, disk[f.name]) for f in TWIN_FIELDS}
    return Twins(metadata=metadata, **arrays)


def _check_shapes(disk: dict[str, np.ndarray], path: Path, error: type[Exception]) -> None:
    """The symbols in the fields' shapes must mean one number each throughout the file."""
    sizes: dict[str, int] = {}
    for field in TWIN_FIELDS:
        shape = disk[field.name].shape
        fits = len(shape) == len(field.shape) and all(
            sizes.setdefault(size, n) == n if isinstance(size, str) else size == n
            for size, n in zip(field.shape, shape, strict=True)
        )
        if not fits:
            raise error(f"{path}: {field.name} has shape {shape}")
