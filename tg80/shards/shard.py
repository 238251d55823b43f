"""One trajectory on disk: an H5MD 1.1 file, written in one go and read lazily.

Arrays pass through here in the units of the code (eV, A, fs) and lie on disk in the units of
`tg80.shards.fields`. A shard is built in memory and written by `tg80.files.write_atomically`: a
full disk or a kill leaves either the old file or the new one, never half of one.

References:
    P. de Buyl, P. H. Colberg, F. Hoefling, H5MD, doi:10.1016/j.cpc.2014.01.018
"""

import hashlib
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from operator import mul
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tg80.errors import CorruptFile
from tg80.files import find_files, unreadable, write_with_checksum
from tg80.shards.fields import (
    ALL_FIELDS,
    AXIS_FIELDS,
    FIELDS,
    FRAME_FIELDS,
    LEARNED_FIELDS,
    OBSERVABLES,
    PARAMETERS,
    STATIC_FIELDS,
    TRAJECTORY,
    Field,
    evaluated_frames,
)
from tg80.shards.metadata import ShardMetadata, metadata_from_attributes
from tg80.shards.packing import pack_chunk
from tg80.untrusted.hdf5 import check_values, first_line, open_hdf5

SUFFIX = ".h5md"
CHUNK_FRAMES = 1024
_BUFFER_GROWTH = 1 << 24  # bytes by which the file in memory grows


def to_disk(field: Field, values: np.ndarray) -> np.ndarray:
    """Values in the units of the code as they lie on disk."""
    scaled = values if field.scale == 1.0 else np.asarray(values, dtype="f8") / field.scale
    if field.step is not None:
        scaled = np.round(np.asarray(scaled, dtype="f8") / field.step) * field.step
    disk = np.ascontiguousarray(scaled, dtype=field.dtype)
    return disk if field.mantissa_bits is None else _keep_bits(disk, field.mantissa_bits)


def _keep_bits(values: np.ndarray, n_bits: int) -> np.ndarray:
    """float32 values rounded to `n_bits` of the 23 of their mantissa; not finite ones stay."""
    n_dropped = 23 - n_bits
    bits = values.view(np.uint32)
    half, mask = np.uint32(1 << (n_dropped - 1)), np.uint32(0xFFFFFFFF << n_dropped & 0xFFFFFFFF)
    rounded = ((bits + half) & mask).view(np.float32)
    return np.where(np.isfinite(values), rounded, values)


def stored_resolution(field: Field, values: np.ndarray) -> np.ndarray:
    """How far apart the values are that could have been stored in the place of these.

    Args:
        field: a float32 field with equal units on disk and as read.
        values: as read, float32.

    Returns:
        Of the shape of `values`, float64.
    """
    of_float32 = np.spacing(np.abs(values)).astype(np.float64)
    if not np.array_equal(to_disk(field, values), values):
        return of_float32  # a shard from before fields were rounded
    kept = 2.0 ** (23 - (field.mantissa_bits or 23))
    return np.maximum(of_float32 * kept, field.step or 0.0)


def to_memory(field: Field, values: np.ndarray) -> np.ndarray:
    """Values on disk in the units of the code, in the field's dtype."""
    if field.scale == 1.0:
        return np.asarray(values, dtype=field.dtype)
    return (np.asarray(values, dtype="f8") * field.scale).astype(field.dtype)


def expected_shape(field: Field, n_frames: int, n_atoms: int) -> tuple[int, ...]:
    """A field's shape with its symbols filled in."""
    sizes = {"n_frames": n_frames, "n_atoms": n_atoms, "3 n_atoms": 3 * n_atoms}
    return tuple(sizes[size] if isinstance(size, str) else size for size in field.shape)


def write_shard(
    path: Path | str, arrays: Mapping[str, np.ndarray], metadata: ShardMetadata
) -> None:
    """Write one shard and its checksum beside it.

    Args:
        path: the shard, `NAME-rK.h5md`.
        arrays: every field by name in the units of the code, with `step` and `time` (fs); those of
            `LEARNED_FIELDS` may be missing.
        metadata: everything static but arrays.

    Raises:
        ValueError: an array has the wrong shape, or `metadata.n_frames` is not their number.
        Tg80Error: the file cannot be written; nothing half-written is left.
    """
    path = Path(path)
    n_frames, n_atoms = np.shape(arrays["positions"])[:2]
    if n_frames != metadata.n_frames:
        raise ValueError(f"{path}: {n_frames} frames, but the metadata says {metadata.n_frames}")
    disk = {}
    learned = [field for field in LEARNED_FIELDS if field.name in arrays]
    for field in (*ALL_FIELDS, *learned):
        disk[field.name] = to_disk(field, np.asarray(arrays[field.name]))
        if disk[field.name].shape != expected_shape(field, n_frames, n_atoms):
            raise ValueError(f"{path}: {field.name} has shape {disk[field.name].shape}")
    write_with_checksum(path, _build_image(disk, metadata))


def _build_image(disk: Mapping[str, np.ndarray], metadata: ShardMetadata) -> bytes:
    """The bytes of the HDF5 file; the 1.10 layout checksums its own structure."""
    with h5py.File(
        "shard", "w", driver="core", backing_store=False, block_size=_BUFFER_GROWTH,
        libver=("v110", "v110"),
    ) as file:  # fmt: skip
        _write_header(file, metadata)
        step, time = (_write_dataset(file, field, disk[field.name]) for field in AXIS_FIELDS)
        for field in (*FRAME_FIELDS, *(f for f in LEARNED_FIELDS if f.name in disk)):
            _write_dataset(file, field, disk[field.name])
            if f"{field.path}/step" not in file:
                file[f"{field.path}/step"] = step
                file[f"{field.path}/time"] = time
        for field in STATIC_FIELDS:
            _write_dataset(file, field, disk[field.name])
        file.flush()
        return file.id.get_file_image()


def _write_header(file: h5py.File, metadata: ShardMetadata) -> None:
    root = file.create_group("h5md")
    root.attrs["version"] = np.array([1, 1], dtype="i4")
    root.create_group("author").attrs["name"] = metadata.author
    creator = root.create_group("creator")
    creator.attrs["name"] = "tg80"
    creator.attrs["version"] = version("tg80")
    root.create_group("modules/units").attrs["version"] = np.array([1, 0], dtype="i4")
    box = file.create_group(f"{TRAJECTORY}/box")
    box.attrs["dimension"] = 3
    box.attrs.create("boundary", ["none"] * 3, dtype=h5py.string_dtype())
    file.create_group(OBSERVABLES)
    group = file.create_group(PARAMETERS)
    for name, value in metadata.to_attributes().items():
        group.attrs[name] = value


def _write_dataset(file: h5py.File, field: Field, values: np.ndarray) -> h5py.Dataset:
    chunks = chunk_shape(field, values.shape)
    dataset = file.create_dataset(
        field.dataset_path, shape=values.shape, dtype=field.dtype, chunks=chunks,
        compression="gzip", compression_opts=9, shuffle=True, fletcher32=True, track_times=False,
    )  # fmt: skip
    n_chunks = (-(-size // chunk) for size, chunk in zip(values.shape, chunks, strict=True))
    for corner in np.ndindex(*n_chunks):
        start = tuple(map(mul, corner, chunks))
        part = values[tuple(slice(a, a + n) for a, n in zip(start, chunks, strict=True))]
        chunk = np.zeros(chunks, dtype=field.dtype)
        chunk[tuple(map(slice, part.shape))] = part
        dataset.id.write_direct_chunk(start, pack_chunk(chunk))
    if field.disk_unit is not None:
        dataset.attrs["unit"] = field.disk_unit
    return dataset


def chunk_shape(field: Field, shape: tuple[int, ...]) -> tuple[int, ...]:
    """What is compressed together: one atom's way through many frames, or a whole static field."""
    if not field.per_frame:
        return shape
    n_frames = min(CHUNK_FRAMES, shape[0])
    return (n_frames, 1, 3) if field.shape[1:] == ("n_atoms", 3) else (n_frames, *shape[1:])


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Turn what h5py raises on damaged files into one line that names the file."""
    try:
        yield
    except (OSError, KeyError, RuntimeError, TypeError, ValueError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno:
            raise unreadable(path, error) from None
        reason = first_line(error)
        raise CorruptFile(f"{path}: cut short, altered or no TG80 shard: {reason}") from None


class Shard:
    """Lazy reader of one shard; opens the file when first asked, and again in another process.

    Raises:
        UserError: there is no such file.
        CorruptFile: the file is cut short, altered, or no shard; raised on first access.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._open: h5py.File | None = None
        self._opened_by = 0
        self._checked: set[str] = set()
        self._metadata: ShardMetadata | None = None

    def __enter__(self) -> "Shard":
        _ = self.file
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": None}

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    @property
    def file(self) -> h5py.File:
        """The open HDF5 file."""
        if self._opened_by != os.getpid():
            self.close()  # a forked handle shares its place in the file with the parent's
        if self._open is None:
            with named_errors(self.path):
                self._open, self._opened_by = open_hdf5(self.path), os.getpid()
        return self._open

    @property
    def metadata(self) -> ShardMetadata:
        if self._metadata is None:
            with named_errors(self.path):
                attributes = dict(self.file[PARAMETERS].attrs)
            self._metadata = metadata_from_attributes(attributes, self.path)
        return self._metadata

    @property
    def frame_fields(self) -> tuple[str, ...]:
        """Names of the per-frame fields that this shard holds, with `step` and `time`."""
        names = [field.name for field in LEARNED_FIELDS if field.path in self.file]
        return (*(field.name for field in (*FRAME_FIELDS, *AXIS_FIELDS)), *names)

    @property
    def n_frames(self) -> int:
        return self._dataset("positions").shape[0]

    @property
    def n_atoms(self) -> int:
        return self._dataset("positions").shape[1]

    @property
    def frame_fs(self) -> float:
        """Spacing of the stored frames, fs."""
        return self.metadata.store_every_fs

    @property
    def times_fs(self) -> np.ndarray:
        """(n_frames,) fs since frame 0."""
        return self.read("time")

    @property
    def evaluated(self) -> np.ndarray:
        """(n_frames,) bool, where the level was evaluated; elsewhere its quantities are missing."""
        names = [name for name in ("time", "evaluated") if name in self.frame_fields]
        return evaluated_frames({name: self.read(name) for name in names})

    @property
    def atomic_numbers(self) -> np.ndarray:
        return self.static("atomic_numbers")

    @property
    def masses(self) -> np.ndarray:
        """(n_atoms,) u."""
        return self.static("masses")

    def content_sha256(self) -> str:
        """SHA-256, hexadecimal, of all that follows from recipe and software.

        These are all arrays as they are stored, and the metadata but for the CPU time that the
        trajectory took and the machine it ran on. Two runs of one recipe agree in it, and differ
        in the checksum of the file by what they cost.
        """
        statistics = {k: v for k, v in self.metadata.statistics.items() if k != "cpu_seconds"}
        stated = self.metadata.model_copy(update={"statistics": statistics, "platform": {}})
        digest = hashlib.sha256(stated.checksum().encode())
        with named_errors(self.path):
            for name in sorted(name for name, field in FIELDS.items() if field.path in self.file):
                digest.update(name.encode())
                digest.update(np.ascontiguousarray(self._values(name)[()]).tobytes())
        return digest.hexdigest()

    def read(
        self,
        field_name: str,
        start: int | None = None,
        stop: int | None = None,
        step: int | None = None,
    ) -> np.ndarray:
        """Frames [start:stop:step] of a per-frame field (or `step`, `time`), units of the code."""
        with named_errors(self.path):
            return to_memory(FIELDS[field_name], self._values(field_name)[start:stop:step])

    def static(self, name: str) -> np.ndarray:
        """A static field, in the units of the code."""
        with named_errors(self.path):
            return to_memory(FIELDS[name], self._values(name)[()])

    def _values(self, name: str) -> h5py.Dataset:
        """A dataset to read from, gone through once."""
        dataset = self._dataset(name)
        if name not in self._checked:
            shape = expected_shape(FIELDS[name], self.n_frames, self.n_atoms)
            if dataset.shape != shape:
                raise ValueError(f"{name} has shape {dataset.shape}, not {shape}")
            check_values(dataset)
            self._checked.add(name)
        return dataset

    def _dataset(self, name: str) -> h5py.Dataset:
        with named_errors(self.path):
            path, n_axes = FIELDS[name].dataset_path, len(FIELDS[name].shape)
            dataset = self.file[path]
            if not isinstance(dataset, h5py.Dataset) or dataset.ndim != n_axes:
                raise ValueError(f"{path} is no data set of {n_axes} axes")
            return dataset


def find_shards(path: Path | str, *, must_be_files: bool = True) -> list[Path]:
    """The shard at `path`, or the shards in that folder, sorted.

    A folder that holds none itself is a tree, such as a published version with a folder for each
    level: then all shards below it. Hidden folders and those of unfinished work are left out.

    Args:
        path: a shard or a folder.
        must_be_files: as for `find_files`.

    Raises:
        UserError: there is no such path, or the tree holds no shard.
    """
    return find_files(path, (SUFFIX,), must_be_files=must_be_files)
