"""Files of a data set: found in a tree, written whole or not at all, with checksums beside them."""

import codecs
import errno
import hashlib
import io
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from tg80.errors import CorruptFile, Tg80Error, UserError

UNFINISHED = "work"
"""The folder in which a run keeps the parts of what is not finished."""


def write_atomically(path: Path | str, content: bytes) -> None:
    """Write a file so that at any instant the old or the new content lies under its name.

    Raises:
        Tg80Error: the disk is full or the folder cannot be written; nothing is left behind.
    """
    with writing_atomically(path) as stream:
        stream.write(content)


_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def writing_atomically(path: Path | str) -> Iterator[BinaryIO]:
    """A stream whose content takes the file's name when the block ends, and never if it fails.

    Raises:
        Tg80Error: the disk is full or the folder cannot be written; nothing is left behind.
    """
    path = Path(path)
    check_inside(path.parent)
    # A name that nobody can put a link at before; the link that lies at `path` is replaced itself.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(os.open(temporary, _NEW, 0o666), "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        reason = error.strerror or error
        raise Tg80Error(
            f"{path}: cannot be written: {reason}; free space or check rights"
        ) from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove_temporary_files(folder: Path) -> None:
    """Remove what a killed process left behind; no other process may be writing there."""
    for path in folder.glob(".*.tmp"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a crash."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path | str, option: str | None = None) -> None:
    """Make a folder to write in, and those above it.

    Args:
        path: the folder; it may exist.
        option: the option that gave it, as for `check_folder`; None for one below such a folder.

    Raises:
        UserError: it cannot be made, or a link leads out of the folder that the user named.
    """
    if option:
        check_folder(path, option)
    check_inside(Path(path))
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        named, reason = f"{option} {path}" if option else path, error.strerror or error
        raise UserError(f"{named}: cannot be made ({reason}); choose another") from None


_roots: set[str] = set()  # folders that the user named to write in


def check_inside(folder: Path) -> None:
    """Refuses a folder below one that the user named if a link between them leads elsewhere."""
    place = os.path.abspath(folder)
    for root in _roots:
        if os.path.commonpath([root, place]) != root:
            continue
        real = os.path.realpath(root)
        if os.path.commonpath([real, os.path.realpath(place)]) != real:
            raise UserError(f"{folder}: leads out of {root} by a link; remove it or choose another")


def check_folder(path: Path | str, option: str) -> None:
    """Refuses a folder that can't be, before any work is done.

    From now on nothing is written through a link below it that leads out of it.

    Args:
        path: the folder; it need not exist.
        option: the option that gave it, for the message.

    Raises:
        UserError: a file is in its place, or in that of a folder above it.
    """
    _roots.add(os.path.abspath(path))
    for place in (Path(path), *Path(path).parents):
        if place.is_dir():
            return
        if os.path.lexists(place):
            raise UserError(f"{place}: is not a folder; choose another {option}")


MOST_TEXT_BYTES = 16 << 20
"""No text that is read (list, recipe, record, split, manifest) is larger."""

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_MISTAKES = {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP,
    errno.ENAMETOOLONG, errno.ENXIO,
}  # fmt: skip


def unreadable(path: Path | str, error: Exception) -> Tg80Error:
    """The error to raise where the system refuses an input: the user's mistake, or a failure."""
    number = error.errno if isinstance(error, OSError) else None
    reason = os.strerror(number) if number else error  # h5py's errors have a text of their own
    mistaken = not isinstance(error, OSError) or number in _MISTAKES
    return (UserError if mistaken else Tg80Error)(f"{path}: cannot be read: {reason}")


def check_regular(path: Path | str, wanted: str = "a file") -> os.stat_result:
    """What the system knows of an input, which is not opened: a pipe or device would be waited for.

    Args:
        path: what the user named.
        wanted: the kind of file that is wanted, for the message.

    Raises:
        UserError: there is no such file, or it is a folder, pipe, socket or device.
    """
    try:
        facts = os.stat(path)
    except FileNotFoundError:
        what = "is a link to what is not there" if os.path.lexists(path) else "no such file"
        raise UserError(f"{path}: {what}; give {wanted}") from None
    except (OSError, ValueError) as error:  # ValueError: no name of a file
        raise unreadable(path, error) from None
    kind = _KINDS.get(stat.S_IFMT(facts.st_mode))
    if kind:
        raise UserError(f"{path}: is {kind}; give {wanted}")
    return facts


def read_bytes(path: Path | str, wanted: str = "a file", most: int = MOST_TEXT_BYTES) -> bytes:
    """The content of a regular file that is an input.

    Args:
        path: what the user named.
        wanted: the kind of file that is wanted, for the message.
        most: bytes; no file of the kind has more.

    Raises:
        UserError: it is not a regular file, too large, or not accessible.
        Tg80Error: the system fails.
    """
    check_regular(path, wanted)
    try:
        # Should a pipe have taken its place meanwhile, it is not waited for.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as stream:
            content = stream.read(most + 1)
    except OSError as error:
        raise unreadable(path, error) from None
    if len(content) > most:
        raise UserError(f"{path}: more than {most >> 20} MiB; give {wanted}")
    return content


def read_text(path: Path | str, wanted: str = "a text file") -> str:
    """The content of a text file that is an input, UTF-8 with or without byte order mark.

    Raises:
        UserError: as `read_bytes`, or it is no UTF-8.
        Tg80Error: the system fails.
    """
    try:
        return read_bytes(path, wanted).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text in UTF-8; give {wanted}") from None


# What no text holds, whatever its encoding.
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")


def read_lines(path: Path | str, what: str, most: int = MOST_TEXT_BYTES) -> list[str]:
    """The lines of a text file in UTF-8, UTF-16 with a byte order mark, or Latin-1.

    Args:
        path: the file; `-` for standard input.
        what: the kind of file that is wanted, for the messages.
        most: bytes.

    Raises:
        UserError: it is not a regular file, no text, or larger than any that is meant.
    """
    if str(path) == "-":
        path = "<stdin>"
        try:
            content = sys.stdin.buffer.read(most + 1)
        except (OSError, ValueError) as error:
            raise unreadable(path, error) from None
        if len(content) > most:
            raise UserError(f"{path}: more than {most >> 20} MiB; give {what}")
    else:
        content = read_bytes(path, what, most)
    utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if utf_16 else "utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    if _CONTROL.search(text):
        raise UserError(f"{path}: not a text file; give {what}")
    # Not str.splitlines: it ends a line at characters that Latin-1 comments hold as well.
    return [line.rstrip("\n") for line in io.StringIO(text, newline=None)]


def file_sha256(path: Path | str) -> str:
    """SHA-256 of a file, hexadecimal.

    Raises:
        UserError: it is not a regular file.
    """
    check_regular(path)
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def checksum_path(path: Path | str) -> Path:
    """The checksum file beside a shard: `NAME.h5md.sha256`, one line as `sha256sum` writes it."""
    return Path(f"{path}.sha256")


def write_with_checksum(path: Path, content: bytes) -> None:
    """Write a file and the checksum file beside it; a crash never leaves a wrong checksum.

    Raises:
        Tg80Error: as `write_atomically`.
    """
    beside = checksum_path(path)
    with writing_atomically(path) as stream:
        stream.write(content)
        stream.flush()
        with suppress(OSError):
            beside.unlink(missing_ok=True)
    write_atomically(beside, f"{hashlib.sha256(content).hexdigest()}  {path.name}\n".encode())


def verify(path: Path, *, required: bool = False, advice: str = "get both again") -> str:
    """Compare a file with the checksum file beside it.

    Args:
        path: the file.
        required: refuse a file that has no checksum file.
        advice: what to do about a file that is refused.

    Returns:
        The SHA-256 of the file, hexadecimal.

    Raises:
        UserError: there is no such file.
        CorruptFile: it does not match, or the checksum file is another file's, none or missing.
    """
    sha256, beside = file_sha256(path), checksum_path(path)
    if not os.path.lexists(beside):
        if required:
            raise CorruptFile(f"{path}: its checksum file {beside.name} is missing; {advice}")
        return sha256
    words = read_bytes(beside, "a checksum file").decode(errors="replace").split()
    if len(words) != 2 or len(words[0]) != 64 or words[1] != path.name:
        raise CorruptFile(f"{path}: {beside.name} is not a checksum file of this file; {advice}")
    if words[0] != sha256:
        raise CorruptFile(f"{path}: does not match {beside.name}: cut short or altered; {advice}")
    return sha256


def data_folders(folder: Path) -> Iterator[Path]:
    """A folder and all below it, sorted; hidden ones and those of unfinished work left out.

    Raises:
        OSError: a folder cannot be read; passed over, a set would look whole.
    """
    for path, names, _ in os.walk(folder, onerror=_raise):
        names[:] = sorted(n for n in names if not n.startswith(".") and n != UNFINISHED)
        yield Path(path)


def _raise(error: OSError) -> None:
    raise error


def find_files(
    path: Path | str, suffixes: tuple[str, ...], *, must_be_files: bool = True
) -> list[Path]:
    """The file at `path`, or the files of a folder whose names end so, sorted.

    A folder that holds none itself is a tree: then all files below it are found.

    Args:
        path: a file or a folder.
        suffixes: ends of the names.
        must_be_files: refuse a folder in which something of such a name is not a file that can be
            read, e.g. a link to what is not there: passed over, a set on a disk that is not there
            would look whole. If not, who reads the files tells each.

    Raises:
        UserError: there is no such path, no such file in the tree, or as said.
    """
    path = Path(path)
    if not path.is_dir():
        if not os.path.lexists(path):
            raise UserError(f"{path}: no such file or folder")
        check_regular(path, f"a {' or '.join(suffixes)} file or a folder of them")
        return [path]
    found = _files_in(path, suffixes)
    if not found:
        found = sorted(f for folder in data_folders(path) for f in _files_in(folder, suffixes))
    if not found:
        raise UserError(f"{path}: no {' or '.join(suffixes)} file in this folder or below it")
    for entry in found if must_be_files else ():
        check_regular(entry, "a file, or remove it")
    return found


def _files_in(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    return sorted(
        entry
        for entry in folder.iterdir()
        if entry.name.endswith(suffixes) and not entry.name.startswith(".")
    )
