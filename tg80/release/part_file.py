"""Files on their way into a folder: `NAME.part` until every byte is there and right, then `NAME`.

Beside it, `NAME.part.json` keeps where the bytes came from, so that a later process can ask the
same server for the rest of the same content. Both may be lost or left over at any instant: the
checksum of the whole file decides before it gets its name.
"""

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tg80.errors import CorruptFile, Tg80Error, UserError
from tg80.files import file_sha256, write_atomically
from tg80.release.manifest import Manifest, PublishedFile
from tg80.release.sources import CHUNK_BYTES

PART = ".part"
NOTES = ".part.json"
WRONG = ".wrong"
_OWN_SUFFIXES = (PART, NOTES, WRONG)
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_LONGEST_NAME = 200


def check_names(manifest: Manifest, source: str) -> None:
    """Refuses what is valid in a manifest and still no good in somebody's folder or terminal.

    Raises:
        CorruptFile: a file's name is hidden, reserved on some system or by us, or too long; or the
            name of the set, a molecule or a level is not printable.
    """
    texts = {manifest.name, *(text for s in manifest.shards for text in (s.molecule, s.level))}
    for text in sorted(texts):
        if not text.isprintable() or '"' in text:
            raise CorruptFile(f"{source}: {text!r} is no name to show")
    for entry in (*manifest.shards, *manifest.files):
        for name in entry.path.split("/"):
            if (
                name.startswith(".")
                or name.endswith((".", *_OWN_SUFFIXES))
                or _DEVICE.fullmatch(name)
                or len(name) > _LONGEST_NAME
            ):
                raise CorruptFile(f"{source}: {entry.path!r} is no name to store a file under")


def place(folder: Path, path: str) -> Path:
    """Where a file of the manifest goes.

    Raises:
        UserError: a link, or something that is no file, is in the way.
    """
    target = folder.joinpath(*path.split("/"))
    root = os.path.realpath(folder)
    for each in (target, *(Path(f"{target}{suffix}") for suffix in _OWN_SUFFIXES)):
        real = os.path.realpath(each)
        if os.path.commonpath([root, real]) != root:
            raise UserError(f"{each}: leads out of {folder} by a link; choose another --to")
        if each.exists() and not each.is_file():
            raise UserError(f"{each}: is no file; move it away, or choose another --to")
    for parent in target.relative_to(folder).parents:
        if (folder / parent).exists() and not (folder / parent).is_dir():
            raise UserError(
                f"{folder / parent}: is no folder; move it away, or choose another --to"
            )
    return target


def is_right(path: Path, entry: PublishedFile) -> bool:
    """Whether the file is there with the size and the checksum of the manifest."""
    try:
        return path.stat().st_size == entry.n_bytes and file_sha256(path) == entry.sha256
    except FileNotFoundError:
        return False


def set_aside(target: Path, entry: PublishedFile) -> None:
    """Take a wrong file from under its name: a short one to go on from, another as NAME.wrong."""
    if not target.exists():
        return
    part, facts = Path(f"{target}{PART}"), target.lstat()
    # What has another name as well is not ours to write on.
    only_here = stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1
    cut_short = only_here and facts.st_size < entry.n_bytes and not part.exists()
    os.replace(target, part if cut_short else f"{target}{WRONG}")


def store(target: Path, content: bytes) -> None:
    """Write a small file whose content is known to be right."""
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, content)
    for suffix in _OWN_SUFFIXES:
        Path(f"{target}{suffix}").unlink(missing_ok=True)


class PartFile:
    """The bytes of one file that are here so far; a context manager.

    Args:
        target: final name.
        entry: what the manifest says of it.
        on_bytes: told of every change of `n_bytes`.

    Attributes:
        n_bytes: stored so far.
        n_received: of them and of those thrown away, how many `append` brought.
    """

    def __init__(self, target: Path, entry: PublishedFile, on_bytes: Callable[[int], None]) -> None:
        self._target = target
        self._entry = entry
        self._on_bytes = on_bytes
        self._path = Path(f"{target}{PART}")
        self._notes = Path(f"{target}{NOTES}")
        self.n_bytes = self.n_received = 0

    def __enter__(self) -> "PartFile":
        self._target.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT
        for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_BINARY", "O_NONBLOCK"):
            flags |= getattr(os, name, 0)
        with suppress(FileNotFoundError):
            if self._path.lstat().st_nlink > 1:  # what has another name as well is not ours
                self._path.unlink()
        self._stream = os.fdopen(os.open(self._path, flags, 0o666), "r+b", buffering=0)
        if not stat.S_ISREG(os.fstat(self._stream.fileno()).st_mode):
            self._stream.close()
            raise UserError(f"{self._path}: is no file; move it away")
        self._hash = hashlib.sha256()
        while chunk := self._stream.read(CHUNK_BYTES):
            self._count(chunk)
        if self.n_bytes > self._entry.n_bytes:
            self.reset()
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._stream.close()
        if self.n_bytes == 0 and isinstance(error, Tg80Error):
            self._remove()

    def _count(self, chunk: bytes | memoryview) -> None:
        self._hash.update(chunk)
        self.n_bytes += len(chunk)
        self._on_bytes(len(chunk))

    def append(self, chunk: bytes) -> None:
        """Store the next bytes.

        Raises:
            OSError: the disk is full or broken.
        """
        rest = memoryview(chunk)
        while rest:
            n_written = self._stream.write(rest) or 0
            self._count(rest[:n_written])
            self.n_received += n_written
            rest = rest[n_written:]

    def reset(self) -> None:
        """Throws away what is there."""
        self._stream.seek(0)
        self._stream.truncate()
        self._hash = hashlib.sha256()
        self._on_bytes(-self.n_bytes)
        self.n_bytes = 0
        self._notes.unlink(missing_ok=True)

    def sha256(self) -> str:
        """Of what is there."""
        return self._hash.hexdigest()

    def note(self, source: str, tag: str | None) -> None:
        """Keep what to hand the source to go on later."""
        if tag is None or tag == self.tag(source):
            return
        # Half a note, or none, only means that the server is not asked whether the content changed.
        with suppress(OSError, Tg80Error):
            write_atomically(self._notes, json.dumps({"source": source, "tag": tag}).encode())

    def tag(self, source: str) -> str | None:
        """What `note` kept, if it was for this source and can stand in a header."""
        with suppress(OSError, ValueError):
            notes = json.loads(self._notes.read_bytes()[:4096])
            if isinstance(notes, dict) and notes.get("source") == source:
                tag = notes.get("tag")
                if isinstance(tag, str) and re.fullmatch(r"[\x20-\x7e]+", tag):
                    return tag
        return None

    def finish(self) -> None:
        """Give the file its name; its bytes are on the disk before."""
        os.fsync(self._stream.fileno())
        self._stream.close()
        os.replace(self._path, self._target)
        self._remove()
        Path(f"{self._target}{WRONG}").unlink(missing_ok=True)

    def _remove(self) -> None:
        self._path.unlink(missing_ok=True)
        self._notes.unlink(missing_ok=True)
