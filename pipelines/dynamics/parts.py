"""Part files: the frames of one segment, immutable once written.

A part holds the dtype and unit of the shard that it goes into (`tg80.shards.fields`), so that a
trajectory in several parts gives the same shard as one in a single part.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tg80.errors import CorruptFile
from tg80.files import write_atomically
from tg80.shards.fields import (
    AXIS_FIELDS,
    FRAME_FIELDS,
    LEARNED_FIELDS,
    Field,
    evaluated_frames,
)
from tg80.shards.shard import expected_shape, to_disk, to_memory
from tg80.untrusted.npz import pack_npz, read_npz

PART_FIELDS: tuple[Field, ...] = (*FRAME_FIELDS, *AXIS_FIELDS)
WORK = "work"


def work_folder(folder: Path, name: str) -> Path:
    """Where the unfinished work on one molecule lies."""
    return folder / WORK / name


def write_part(path: Path, arrays: Mapping[str, np.ndarray]) -> str:
    """Write one segment's frames, in a file that survives a crash once this returns.

    Args:
        path: the part file (NumPy's `.npz` layout, no pickles).
        arrays: every field of `PART_FIELDS` by name in the units of the code; those of
            `LEARNED_FIELDS` where the integrator has them.

    Returns:
        The SHA-256 of the file, hexadecimal.

    Raises:
        ValueError: a field is missing, unknown or of the wrong shape.
        Tg80Error: the file cannot be written.
    """
    fields = _fields_of(arrays)
    names = {field.name for field in fields}
    if arrays.keys() != names:
        raise ValueError(f"part {path}: missing or unknown {sorted(names ^ arrays.keys())}")
    n_frames, n_atoms = np.shape(arrays["positions"])[:2]
    disk: dict[str, np.ndarray] = {}
    for field in fields:
        shape = np.shape(arrays[field.name])
        if shape != expected_shape(field, n_frames, n_atoms):
            raise ValueError(f"part {path}: {field.name} has shape {shape}")
        disk[field.name] = to_disk(field, np.asarray(arrays[field.name]))
    content = pack_npz(disk)
    write_atomically(path, content)
    return hashlib.sha256(content).hexdigest()


def read_part(path: Path, sha256: str | None = None) -> dict[str, np.ndarray]:
    """Read a part file: the fields given to `write_part`, in the units of the code.

    Raises:
        CorruptFile: the file is missing, cut short, altered, or not what `sha256` says.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CorruptFile(f"{path}: part file cannot be read: {error.strerror}") from None
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise CorruptFile(f"{path}: part file does not match its checksum")
    try:
        disk = read_npz(content)
    except ValueError:
        raise CorruptFile(f"{path}: part file is cut short or altered") from None
    if missing := {field.name for field in PART_FIELDS} - disk.keys():
        raise CorruptFile(f"{path}: part file lacks {', '.join(sorted(missing))}")
    return {field.name: to_memory(field, disk[field.name]) for field in _fields_of(disk)}


def _fields_of(arrays: Mapping[str, np.ndarray]) -> tuple[Field, ...]:
    return (*PART_FIELDS, *(field for field in LEARNED_FIELDS if field.name in arrays))


def read_parts(parts: Sequence[tuple[Path, str]]) -> dict[str, np.ndarray]:
    """Read consecutive part files, each with its SHA-256, as one series of frames.

    Raises:
        CorruptFile: a part is not what its checksum says, or the parts are not in order.
    """
    read = [read_part(path, sha256) for path, sha256 in parts]
    if any("evaluated" in part for part in read):  # the first ones may be of an older version
        read = [{"evaluated": evaluated_frames(part).astype("u1")} | part for part in read]
    fields = _fields_of(read[0])
    frames = {f.name: np.concatenate([part[f.name] for part in read]) for f in fields}
    if np.any(np.diff(frames["step"]) <= 0):
        folder = parts[0][0].parent
        raise CorruptFile(f"{folder}: the part files overlap or are out of order")
    return frames
