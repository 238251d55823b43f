"""One archive to send: the filled template, its card as JSON, and checksums."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.submissions.card import UNTOLD
from benchmarks.submissions.parsing import Submission, read_apart, read_submission
from benchmarks.submissions.safe_hdf5 import MOST_BYTES, check_file, errors_of
from tg80.errors import Tg80Error, UserError
from tg80.files import write_atomically

FILE, CARD, SUMS = "submission.h5", "card.json", "SHA256SUMS"
_MEMBERS = (FILE, CARD, SUMS)
_STAMP = (1980, 1, 1, 0, 0, 0)  # The same submission gives the same archive.


@dataclass(frozen=True)
class Unpacked:
    """Where the filled template is, and the card that came with it in an archive."""

    file: Path
    card: bytes | None = None


def card_of(submission: Submission) -> dict[str, Any]:
    """Summarise a submission, to be read without HDF5."""
    header = submission.template.header
    return {
        "template": submission.template.id,
        "task": header.task,
        "track": header.track,
        "fold": header.fold,
        "parts": submission.template.parts,
        "n_entries": len(submission.template),
        "n_failed": int(submission.failed.sum()),
        **submission.card.model_dump(),
    }


def check_card(card: bytes, submission: Submission) -> None:
    """Refuse a card that tells of another submission than the file it came with.

    Raises:
        UserError: it is none, or says something else.
    """
    try:
        told = json.loads(card)
        if not isinstance(told, dict):
            raise ValueError
    except (ValueError, RecursionError):
        raise UserError(
            f"{submission.shown}: {CARD} is not a JSON object; pack with `atom-bench submit`"
        ) from None
    wanted = card_of(submission)
    for key in {**wanted, **told}:
        # What cards gained later is not told by older ones.
        mine, theirs = wanted.get(key), told.get(key, UNTOLD.get(key))
        if mine != theirs or key not in wanted:
            raise UserError(
                f"{submission.shown}: {str(key)[:40]!r} is {str(theirs)[:60]!r} in {CARD} and "
                f"{str(mine)[:60]!r} in {FILE}; pack with `atom-bench submit`"
            )


def pack(submission: Submission, archive: Path) -> None:
    """Write the archive of a checked submission."""
    card = card_of(submission)
    content = {
        FILE: submission.path.read_bytes(),
        CARD: (json.dumps(card, indent=1) + "\n").encode(),
    }
    content[SUMS] = _checksums(content)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name in _MEMBERS:
            facts = zipfile.ZipInfo(name, _STAMP)
            facts.external_attr = 0o644 << 16
            file.writestr(facts, content[name], zipfile.ZIP_DEFLATED)
    write_atomically(archive, buffer.getvalue())


def _checksums(content: dict[str, bytes]) -> bytes:
    """The lines of `sha256sum` for the file and its card."""
    return "".join(
        f"{hashlib.sha256(content[name]).hexdigest()}  {name}\n" for name in (FILE, CARD)
    ).encode()


@contextmanager
def opened(path: Path, *, as_is: bool = False) -> Iterator[Submission]:
    """Open the submission in a file or archive, for the time of the block.

    Args:
        path: the file or archive, from a stranger.
        as_is: take positions that look like another unit or frame.

    Raises:
        UserError: anything is wrong with it.
    """
    with unpacked(path) as inside:
        read_apart(inside.file, path)
        submission = read_submission(inside.file, as_is=as_is, shown=path)
        if inside.card is not None:
            check_card(inside.card, submission)
        yield submission


@contextmanager
def unpacked(path: Path) -> Iterator[Unpacked]:
    """Find the filled template: the file itself, or what an archive holds, for the block's time.

    Names in the archive are compared, never used as paths; no more is unpacked than a submission
    can be large.

    Raises:
        UserError: not an archive of `atom-bench submit`, or a damaged one.
        Tg80Error: there is no place to unpack it.
    """
    check_file(path, path)
    if not zipfile.is_zipfile(path):
        yield Unpacked(path)
        return
    try:
        with errors_of(path):
            content = _members(path)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError) as error:
        raise UserError(f"{path}: a damaged archive ({error}); copy it again") from error
    with _temporary_folder() as folder:
        inside = Path(folder) / FILE
        write_atomically(inside, content[FILE])
        yield Unpacked(inside, content[CARD])


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory()
    except OSError as error:
        raise Tg80Error(
            f"{os.environ.get('TMPDIR', '/tmp')}: no folder can be made to unpack the archive in "
            f"({error.strerror or error}); free space, or set TMPDIR to another place"
        ) from None


def _members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        names = [member.filename for member in archive.infolist()]
        if sorted(names) != sorted(_MEMBERS):
            strange = sorted(set(names) - set(_MEMBERS)) or names
            raise UserError(
                f"an archive of {', '.join(_MEMBERS)} is wanted, this one holds "
                f"{str(strange[:3])[:200]}; pack with `atom-bench submit`"
            )
        content = {name: _unpack(archive, name) for name in _MEMBERS}
    if content[SUMS] != _checksums(content):
        raise UserError(f"contents are not what {SUMS} says; the archive is damaged or changed")
    return content


def _unpack(archive: zipfile.ZipFile, name: str) -> bytes:
    most = MOST_BYTES if name == FILE else 1 << 20
    facts = archive.getinfo(name)
    if facts.flag_bits & 1:
        raise UserError(f"{name} is encrypted; pack with `atom-bench submit`")
    with archive.open(facts) as stream:
        content = stream.read(most + 1)  # Whatever size is declared.
    if len(content) > most:
        raise UserError(f"{name} unpacks to more than {most} bytes; no submission is as large")
    return content
