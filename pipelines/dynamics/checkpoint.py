"""Checkpoints: small files that commit a segment, written so that a crash can't harm them.

A checkpoint holds float64 arrays and a JSON header, behind the sha256 of both. It names the part
files it commits with their checksums. Nothing is ever unpickled.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from tg80.errors import CorruptFile
from tg80.files import write_atomically
from tg80.untrusted.npz import pack_npz, read_npz, split_header

KEEP = 2
_PATTERN = "checkpoint-*.npz"
_DIGEST = 64


def write_arrays(path: Path, arrays: dict[str, np.ndarray], header: dict[str, Any]) -> None:
    """Write arrays and a JSON header with their checksum in front, atomically."""
    body = pack_npz(arrays, header)
    write_atomically(path, hashlib.sha256(body).hexdigest().encode() + body)


def read_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `write_arrays` wrote.

    Raises:
        CorruptFile: the file is cut short or altered.
    """
    data = path.read_bytes()
    digest, body = data[:_DIGEST], data[_DIGEST:]
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise CorruptFile(f"{path}: cut short or altered (its checksum does not match)")
    try:
        found, header = split_header(read_npz(body))
    except ValueError:
        raise CorruptFile(f"{path}: is not a checkpoint, although its checksum matches") from None
    # Older checkpoints put "array:" before each name.
    return {name.removeprefix("array:"): values for name, values in found.items()}, header


def checkpoint_paths(folder: Path) -> list[Path]:
    """The checkpoints of a stage, newest first."""
    return sorted(folder.glob(_PATTERN), reverse=True)


def write_checkpoint(
    folder: Path, segment: int, arrays: dict[str, np.ndarray], header: dict[str, Any]
) -> None:
    """Commit segment number `segment` and forget all but the last checkpoints."""
    write_arrays(folder / f"checkpoint-{segment:06d}.npz", arrays, header)
    for old in checkpoint_paths(folder)[KEEP:]:
        old.unlink()


def latest_checkpoint(
    folder: Path,
) -> tuple[dict[str, np.ndarray], dict[str, Any], list[str]] | None:
    """The newest checkpoint that is whole, or None if there is none yet.

    A damaged one is set aside as `*.corrupt` and the one before it is used: at most one segment
    is done again, with the same result.

    Returns:
        arrays, header, and a line about each damaged file that was set aside.

    Raises:
        CorruptFile: every checkpoint in the folder is damaged.
    """
    warnings: list[str] = []
    for path in checkpoint_paths(folder):
        try:
            arrays, header = read_arrays(path)
        except CorruptFile as error:
            os.replace(path, path.with_name(path.name + ".corrupt"))
            warnings.append(f"{error}; set aside, the checkpoint before it is used")
            continue
        return arrays, header, warnings
    if warnings or any(folder.glob(_PATTERN + ".corrupt")):
        raise CorruptFile(
            f"{folder}: no whole checkpoint is left; move this folder away to start this part of "
            "the trajectory again"
        )
    return None
