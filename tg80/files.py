"""Writing a file so that a crash or a full disk never leaves half of it; checksums beside files."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from tg80.errors import Tg80Error


def write_atomically(path: Path | str, content: bytes) -> None:
    """Write a file so that at any instant the old or the new content lies under its name.

    Raises:
        Tg80Error: the disk is full or the folder cannot be written; nothing is left behind.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        reason = error.strerror or error
        raise Tg80Error(
            f"{path}: cannot be written: {reason}; free space or check rights"
        ) from None


def remove_temporary_files(folder: Path) -> None:
    """Removes what a killed process left behind; no other process may be writing there."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: Path | str) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def checksum_path(path: Path | str) -> Path:
    """The checksum file beside a shard: `NAME.h5md.sha256`, one line as `sha256sum` writes it."""
    return Path(f"{path}.sha256")
