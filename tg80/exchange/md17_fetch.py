"""Fetches files of public sets from where their authors keep them.

Nobody publishes checksums of these files. What can be checked is that the whole file came and that
it holds the right molecule. Its SHA-256 is written beside it at the first fetch, so that a later
change does not go unnoticed.
"""

import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from tg80.errors import CorruptFile, Tg80Error
from tg80.exchange.md17 import read_public
from tg80.exchange.md17_sets import get_public_set
from tg80.files import (
    checksum_path,
    make_folder,
    verify,
    write_atomically,
    writing_atomically,
)
from tg80.release.sources import Attempts, Interrupted, Patience, Watcher, open_source

ARCHIVE = "rmd17.tar.bz2"


def fetch_public(
    set_id: str,
    molecule: str,
    folder: Path | str,
    *,
    address: str | None = None,
    patience: Patience = Patience(),
    watcher: Watcher | None = None,
) -> Path:
    """Fetch one file of a public set, unless it is already in the folder.

    rMD17 comes as one archive of all molecules, which stays in the folder for the next one.

    Args:
        set_id: Name of a set in `tg80.exchange.md17_sets`.
        molecule: Name of one of its molecules.
        folder: Where to put it; created if missing.
        address: A mirror: folder of the files, or the archive; None for the authors' own.
        patience: How long and how often to try.
        watcher: Follows the transfer.

    Returns:
        The path of the npz file; `FILE.sha256` lies beside it.

    Raises:
        UserError: There is no such set or molecule, `folder` is a file, or a file there is not
            this molecule.
        Tg80Error: The server refuses, breaks off again and again, or cannot be reached.
        CorruptFile: What came is not that molecule, or the file changed since it was fetched.
    """
    public = get_public_set(set_id)
    known = public.molecule(molecule)
    watcher = watcher or Watcher()
    folder, address = Path(folder), address or public.address
    make_folder(folder, "--fetch")
    path = folder / known.file
    is_new = not path.is_file()
    if is_new and public.archive:
        archive = folder / ARCHIVE
        if not archive.is_file():
            _download(address, archive, patience, watcher)
        _unpack(archive, path)
    elif is_new:
        _download(f"{address}/{known.file}", path, patience, watcher)
    try:
        sha256, beside = verify(path, advice="remove both to fetch it again"), checksum_path(path)
        if not beside.is_file():
            read_public(path, set_id=set_id, molecule=molecule)
            write_atomically(beside, f"{sha256}  {path.name}\n".encode())
    except Tg80Error as error:
        if not is_new:
            raise
        path.unlink()
        raise CorruptFile(str(error)) from None  # what came, not what the user has
    return path


def _download(url: str, path: Path, patience: Patience, watcher: Watcher) -> None:
    folder, _, name = url.rpartition("/")
    source = open_source(folder, patience)
    attempts = Attempts(source, name, watcher)
    while True:
        try:
            with source.open(name) as body, writing_atomically(path) as stream:
                n_bytes = 0
                for chunk in body.chunks:
                    stream.write(chunk)
                    n_bytes += len(chunk)
                    watcher.advance(len(chunk))
                if body.n_total not in (None, n_bytes):
                    raise Interrupted(f"{n_bytes} of {body.n_total} bytes came")
            return
        except Interrupted as error:
            attempts.wait_after(error)


def _unpack(archive: Path, path: Path) -> None:
    """Write the one member of a tar archive that has the file's name, wherever in it."""
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
