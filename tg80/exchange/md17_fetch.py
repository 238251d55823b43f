"""Fetches files of public sets from where their authors keep them.

Nobody publishes checksums of these files. What can be checked is: that the whole file came, and
that it holds the molecule it should. Its SHA-256 is written beside it at the first fetch, so that a
later change does not go unnoticed.
"""

import shutil
import tarfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from tg80.errors import CorruptFile, RunFailed, Tg80Error
from tg80.exchange.md17 import read_public
from tg80.exchange.md17_sets import PublicMolecule, PublicSet, get_public_set
from tg80.files import (
    checksum_path,
    make_folder,
    verify,
    write_atomically,
    writing_atomically,
)
from tg80.release.sources import Interrupted, Patience, open_source

ARCHIVE = "rmd17.tar.bz2"


def fetch_public(
    set_id: str,
    molecule: str,
    folder: Path | str,
    *,
    address: str | None = None,
    patience: Patience | None = None,
    on_bytes: Callable[[int], None] = lambda n_bytes: None,
) -> Path:
    """Fetch one file of a public set, unless it is already in the folder.

    rMD17 comes as one archive of all molecules, which stays in the folder for the next one.

    Args:
        set_id: name of a set in `tg80.exchange.md17_sets`.
        molecule: name of one of its molecules.
        folder: where to put it; created if missing.
        address: a mirror: folder of the files, or the archive; None for the authors' own.
        patience: how long and how often to try; None for the default.
        on_bytes: called with the number of bytes received since the last call.

    Returns:
        The path of the npz file; `FILE.sha256` lies beside it.

    Raises:
        UserError: no such set or molecule; `folder` is a file; a file there is no such molecule.
        Tg80Error: the server refuses, breaks off again and again, or can't be reached.
        CorruptFile: what came is not that molecule; or the file changed since it was fetched.
    """
    public = get_public_set(set_id)
    known = public.molecule(molecule)
    folder = Path(folder)
    make_folder(folder, "--fetch")
    path = folder / known.file
    is_new = not path.is_file()
    if is_new:
        _fetch(public, known, path, address or public.address, patience or Patience(), on_bytes)
    try:
        _check(public, known, path)
    except Tg80Error as error:
        if not is_new:
            raise
        path.unlink()
        raise CorruptFile(str(error)) from None  # what came, not what the user has
    return path


def _fetch(
    public: PublicSet, known: PublicMolecule, path: Path, address: str, patience: Patience, on_bytes
) -> None:
    if not public.archive:
        _download(f"{address}/{known.file}", path, patience, on_bytes)
        return
    archive = path.with_name(ARCHIVE)
    if not archive.is_file():
        _download(address, archive, patience, on_bytes)
    _unpack(archive, path)


def _check(public: PublicSet, known: PublicMolecule, path: Path) -> None:
    sha256 = verify(path, advice="remove both to fetch it again")
    beside = checksum_path(path)
    if beside.is_file():
        return
    read_public(path, set_id=public.id, molecule=known.name)
    write_atomically(beside, f"{sha256}  {path.name}\n".encode())


def _download(url: str, path: Path, patience: Patience, on_bytes: Callable[[int], None]) -> None:
    folder, _, name = url.rpartition("/")
    source = open_source(folder, patience)
    for attempt in range(1, source.patience.attempts + 1):
        try:
            with source.open(name) as body, writing_atomically(path) as stream:
                n_bytes = 0
                for chunk in body.chunks:
                    stream.write(chunk)
                    n_bytes += len(chunk)
                    on_bytes(len(chunk))
                if body.n_total is not None and n_bytes != body.n_total:
                    raise Interrupted(f"{n_bytes} of {body.n_total} bytes came")
            return
        except Interrupted as error:
            if attempt == source.patience.attempts:
                raise RunFailed(f"{url}: {error}, {attempt} times; try again later") from None
            time.sleep(error.retry_after_s or source.patience.backoff_s * 2 ** (attempt - 1))


def _unpack(archive: Path, path: Path) -> None:
    """The one member of a tar archive that has the file's name, wherever in it."""
    try:
        with tarfile.open(archive, "r:*") as members:
            for member in members:
                if member.isfile() and PurePosixPath(member.name).name == path.name:
                    content = members.extractfile(member)
                    assert content is not None
                    with writing_atomically(path) as stream:
                        shutil.copyfileobj(content, stream)
                    return
    except (tarfile.TarError, EOFError, zlib.error, ValueError, OSError) as error:
        raise CorruptFile(f"{archive}: cut short or no archive: {error}; remove it") from None
    raise CorruptFile(f"{archive}: has no {path.name} in it; remove it")
