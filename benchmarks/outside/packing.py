"""One archive to send: the filled template, the card to read, and checksums."""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.outside.parsing import Submission
from benchmarks.outside.safe_hdf5 import MOST_BYTES, check_file
from tg80.errors import UserError
from tg80.files import write_atomically

FILE, CARD, SUMS = "submission.h5", "card.json", "SHA256SUMS"
_MEMBERS = (FILE, CARD, SUMS)
_STAMP = (1980, 1, 1, 0, 0, 0)  # The same submission gives the same archive.


def pack(submission: Submission, archive: Path) -> None:
    """Write the archive of a checked submission."""
    header = submission.template.header
    card = {
        "template": submission.template.id,
        **{key: header[key] for key in ("task", "track", "fold")},
        "parts": submission.template.parts,
        "n_entries": len(submission.template),
        "n_failed": int(submission.failed.sum()),
        **submission.card.model_dump(),
    }
    content = {
        FILE: submission.path.read_bytes(),
        CARD: (json.dumps(card, indent=1) + "\n").encode(),
    }
    content[SUMS] = "".join(
        f"{hashlib.sha256(text).hexdigest()}  {name}\n" for name, text in content.items()
    ).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name in _MEMBERS:
            facts = zipfile.ZipInfo(name, _STAMP)
            facts.external_attr = 0o644 << 16
            file.writestr(facts, content[name], zipfile.ZIP_DEFLATED)
    write_atomically(archive, buffer.getvalue())


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """The filled template: the file itself, or what an archive holds, for the time of the block.

    Names in the archive are compared, never used as paths; no more is unpacked than a submission
    can be large.

    Raises:
        UserError: not an archive of `atom-bench submit`, or a damaged one.
    """
    check_file(path, path)
    if not zipfile.is_zipfile(path):
        yield path
        return
    try:
        content = _members(path)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError) as error:
        raise UserError(f"{path}: a damaged archive ({error}); copy it again") from error
    with tempfile.TemporaryDirectory() as folder:
        inside = Path(folder) / FILE
        inside.write_bytes(content[FILE])
        yield inside


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
    wanted = "".join(
        f"{hashlib.sha256(content[name]).hexdigest()}  {name}\n" for name in (FILE, CARD)
    )
    if content[SUMS].decode(errors="replace") != wanted:
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
