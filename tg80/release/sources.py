"""Where published data come from: a web server or a folder, opened at any byte of any file.

A source only opens files and says what went wrong; trying again is `tg80.release.fetching`'s part.
Nothing a server says is believed: sizes and checksums come from the manifest.
"""

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

from tg80.errors import Tg80Error, UserError
from tg80.release.settings import read_settings, settings_path

CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class Patience:
    """How long to wait for a source, and how often to come back.

    Attributes:
        connect_s: for a connection.
        stall_s: for the next bytes; a slow server that goes on sending is never given up.
        attempts: in a row that brought nothing new, before a file is given up.
        copies: times a file is fetched whole when its content is wrong.
        backoff_s: wait before the second attempt; doubles from one to the next.
        longest_wait_s: longest wait; a server that asks for more is given up.
    """

    connect_s: float = 15.0
    stall_s: float = 60.0
    attempts: int = 5
    copies: int = 3
    backoff_s: float = 1.0
    longest_wait_s: float = 120.0


class Refused(Tg80Error):
    """The source does not give the file, and asking again would not help."""


class Missing(Refused):
    """The source has no such file."""


class Interrupted(Exception):
    """What may pass: a broken connection, a busy server, silence.

    Attributes:
        retry_after_s: how long the server asks to be left alone, if it does.
    """

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class WrongContent(Exception):
    """The bytes are not those of the manifest.

    Attributes:
        spoilt: whether what has been stored so far is to be thrown away.
    """

    def __init__(self, reason: str, spoilt: bool = True) -> None:
        super().__init__(reason)
        self.spoilt = spoilt


@dataclass(frozen=True)
class Body:
    """An opened file.

    Attributes:
        offset: place in the file of the first byte that comes; 0 if the source can't start later.
        n_total: size of the whole file as the source states it, if it does.
        tag: what to hand back to go on later in the same content (strong ETag or Last-Modified).
        chunks: the bytes; raises `Interrupted`.
    """

    offset: int
    n_total: int | None
    tag: str | None
    chunks: Iterator[bytes]


class Source(Protocol):
    """A place with published files. `name` is fit to be printed: it holds no password."""

    name: str
    patience: Patience

    def label(self, path: str) -> str:
        """The full address of a file, for messages."""
        ...

    def open(
        self, path: str, offset: int = 0, tag: str | None = None
    ) -> AbstractContextManager[Body]:
        """The file from byte `offset` on, or from 0.

        Raises:
            Refused, Interrupted, WrongContent: see there.
        """
        ...


class FolderSource:
    """A folder on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = str(folder)
        # A disk gives the same again a second later; but what was broken off may need a new start.
        self.patience = Patience(attempts=1, copies=2, backoff_s=0)

    def label(self, path: str) -> str:
        return str(self.folder / path)

    @contextmanager
    def open(self, path: str, offset: int = 0, tag: str | None = None) -> Iterator[Body]:
        target = self.folder / path
        if not target.is_file():
            raise Missing(f"{target}: no such file")
        with _named_read_errors(target):
            descriptor = os.open(target, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as stream:
            stream.seek(offset)
            n_total = os.fstat(descriptor).st_size
            yield Body(offset, n_total, None, _chunks(stream, target))


def _chunks(stream: BinaryIO, target: Path) -> Iterator[bytes]:
    with _named_read_errors(target):
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk


@contextmanager
def _named_read_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Refused(f"{target}: cannot be read: {error.strerror}") from None


def chosen_source(option: str | None) -> str:
    """The address to download from: the option, else `TG80_SOURCE`, else the settings file.

    Raises:
        UserError: none of them is set.
    """
    if option:
        return option
    if from_environment := os.environ.get("TG80_SOURCE"):
        return from_environment
    if from_file := read_settings().source:
        return _beside_the_settings(from_file)
    raise UserError(
        "no source: no public mirror is configured; give --source URL_OR_FOLDER, set TG80_SOURCE, "
        f'or write source = "URL_OR_FOLDER" into {settings_path()}'
    )


def open_source(address: str, patience: Patience) -> Source:
    """The source behind a URL (`http`, `https`, `file`) or a path.

    Raises:
        UserError: it is none of these, or there is no such folder.
    """
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", address)
    scheme = match[1].lower() if match else ""
    if scheme in ("http", "https"):
        from tg80.release.web_source import WebSource  # takes a moment to import

        return WebSource(address, patience)
    if scheme not in ("", "file"):
        raise UserError(f"source {address}: {scheme} is not read; give http, https or a folder")
    folder = _file_url(address) if scheme == "file" else Path(address).expanduser()
    if not folder.is_dir():
        raise UserError(f"source {address}: no such folder")
    return FolderSource(folder)


def _file_url(address: str) -> Path:
    parts = urlsplit(address)
    if parts.netloc not in ("", "localhost"):
        raise UserError(f"source {address}: a file URL has no host; write file:///PATH")
    return Path(url2pathname(parts.path))


def _beside_the_settings(address: str) -> str:
    """A relative folder in the settings file is relative to that file."""
    if "://" in address:
        return address
    return str(settings_path().parent / Path(address).expanduser())
