"""Where published data come from: a web server or a folder, opened at any byte of any file.

Nothing a server says is believed: sizes and checksums come from the manifest. `requests` brings
connections, proxies (`http_proxy`, `https_proxy`, `no_proxy`) and certificates; redirects are
followed here, so that each address is checked before it is requested.
"""

import hashlib
import http.client
import io
import os
import random
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Protocol
from urllib.parse import SplitResult, urljoin, urlsplit
from urllib.request import url2pathname

import requests
import urllib3
from urllib3.util.retry import Retry

from tg80.errors import CorruptFile, Tg80Error, UserError

CHUNK_BYTES = 1 << 16
# A server that always breaks off after a few bytes must not keep us for ever.
PROGRESS_BYTES = 1 << 20
MAX_REDIRECTS = 10
_REDIRECTS = (301, 302, 303, 307, 308)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


@dataclass(frozen=True)
class Patience:
    """How long to wait for a source, and how often to try again.

    Attributes:
        connect_s: For a connection.
        stall_s: For the next bytes; a slow server that goes on sending is never given up.
        attempts: In a row that brought nothing new, before a file is given up.
        copies: Times a file is fetched whole when its content is wrong.
        backoff_s: Wait before the second attempt; doubles from one to the next.
        longest_wait_s: Longest wait; a server that asks for more is given up.
    """

    connect_s: float = 15.0
    stall_s: float = 60.0
    attempts: int = 5
    copies: int = 3
    backoff_s: float = 1.0
    longest_wait_s: float = 120.0


class Watcher:
    """Follows a transfer, called by several threads; this one shows nothing.

    Attributes:
        stop: Set to end the transfer; what has arrived stays.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()

    def begin(self, stage: str, n_bytes: int | None) -> None:
        """A stage that handles `n_bytes` begins; None if nobody knows how many."""

    def advance(self, n_bytes: int) -> None:
        """So many bytes more; fewer than 0 if some had to be thrown away."""

    def say(self, line: str) -> None:
        """Something the user may want to know."""


class Refused(Tg80Error):
    """The source does not give the file, and asking again would not help."""


class Missing(Refused):
    """The source has no such file."""


class SourceFails(Tg80Error):
    """The source went on failing for longer than our patience."""


class Stopped(Exception):
    """`Watcher.stop` was set."""


class Interrupted(Exception):
    """What may pass: a broken connection, a busy server, silence.

    Attributes:
        retry_after_s: How long the server asks to be left alone, if it does.
    """

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class WrongContent(Exception):
    """The bytes are not those of the manifest.

    Attributes:
        spoilt: Whether the bytes stored so far are to be thrown away.
    """

    def __init__(self, reason: str, spoilt: bool = True) -> None:
        super().__init__(reason)
        self.spoilt = spoilt


@dataclass(frozen=True)
class Body:
    """An opened file.

    Attributes:
        offset: Place in the file of the first byte that comes; 0 if the source can't start later.
        n_total: Size of the whole file as the source states it, if it does.
        chunks: The bytes; raises `Interrupted`.
    """

    offset: int
    n_total: int | None
    chunks: Iterator[bytes]


class Source(Protocol):
    """A place with published files.

    Attributes:
        name: The address without a password, for messages.
        patience: How long and how often to try.
    """

    name: str
    patience: Patience

    def label(self, path: str) -> str:
        """The full address of a file, for messages."""
        ...

    def open(self, path: str, offset: int = 0) -> AbstractContextManager[Body]:
        """The file from byte `offset` on, or from 0.

        Raises:
            Refused, Interrupted, WrongContent: See there.
        """
        ...


def open_source(address: str | None, patience: Patience) -> Source:
    """The source behind a URL (`http`, `https`, `file`) or a path; None for `TG80_SOURCE`.

    Raises:
        UserError: It is none of these, there is no such folder, or no source is named at all.
    """
    address = address or os.environ.get("TG80_SOURCE")
    if not address:
        raise UserError(
            "no source: no public mirror is configured; give --source URL_OR_FOLDER or set "
            "TG80_SOURCE"
        )
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", address)
    scheme = match[1].lower() if match else ""
    if scheme in ("http", "https"):
        return WebSource(address, patience)
    if scheme not in ("", "file"):
        raise UserError(f"source {address}: give http, https or a folder, not {scheme}")
    folder = Path(address).expanduser()
    if scheme:
        parts = urlsplit(address)
        if parts.netloc not in ("", "localhost"):
            raise UserError(f"source {address}: a file URL has no host; write file:///PATH")
        folder = Path(url2pathname(parts.path))
    if not folder.is_dir():
        raise UserError(f"source {address}: no such folder")
    return FolderSource(folder)


class FolderSource:
    """A folder on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = str(folder)
        # A disk gives the same again a second later; but an interrupted copy may need a new start.
        self.patience = Patience(attempts=1, copies=2, backoff_s=0)

    def label(self, path: str) -> str:
        return str(self.folder / path)

    @contextmanager
    def open(self, path: str, offset: int = 0) -> Iterator[Body]:
        target = self.folder / path
        if not target.is_file():
            raise Missing(f"{target}: no such file")
        with _named_read_errors(target):
            stream = io.FileIO(target)
        with stream:
            stream.seek(offset)
            yield Body(offset, os.fstat(stream.fileno()).st_size, _blocks(stream, target))


def _blocks(stream: io.FileIO, target: Path) -> Iterator[bytes]:
    with _named_read_errors(target):
        while block := stream.read(CHUNK_BYTES):
            yield block


@contextmanager
def _named_read_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Refused(f"{target}: cannot be read: {error.strerror}") from None


def web_address(text: str) -> SplitResult | None:
    """The parts of an http or https address that a request could be made of; None of another."""
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port  # it fails on a port that is not a number
    except ValueError:
        return None
    plain = all(character.isprintable() and not character.isspace() for character in text)
    return parts if plain and parts.scheme in ("http", "https") and host else None


class WebSource:
    """A folder of a web server.

    Args:
        address: http or https, without query; a user and password in it are used, never shown.
        patience: How long and how often to try.

    Raises:
        UserError: It is no such address.
    """

    def __init__(self, address: str, patience: Patience) -> None:
        self.name = re.sub(r"(?<=://)[^/]*@", "", address)
        parts = web_address(address)
        if parts is None or parts.query or parts.fragment:
            raise UserError(
                f"source {self.name}: give the plain address of a folder, such as "
                "https://example.org/tg80"
            )
        self.patience = patience
        self._base = address.rstrip("/") + "/"
        self._local = threading.local()

    def label(self, path: str) -> str:
        return f"{self.name.rstrip('/')}/{path}"

    @contextmanager
    def open(self, path: str, offset: int = 0) -> Iterator[Body]:
        # Compressed on the way, the bytes would not be those of the file, nor would ranges.
        headers = {"Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        with closing(self._get(path, headers)) as response:
            yield self._body(response, path, offset)

    def _get(self, path: str, headers: dict[str, str]) -> requests.Response:
        """The answer after all redirects, its body not read yet."""
        url = self._base + path
        for _ in range(MAX_REDIRECTS + 1):
            response = self._request(url, path, headers)
            location = response.headers.get("Location")
            if response.status_code not in _REDIRECTS or location is None:
                return response
            response.close()
            try:
                target = urljoin(url, location)
                schemes = (urlsplit(url).scheme.lower(), urlsplit(target).scheme.lower())
            except ValueError:
                target, schemes = "", (urlsplit(url).scheme, "an invalid address")
            if schemes not in (("http", "http"), ("http", "https"), ("https", "https")):
                raise Refused(
                    f"{self.label(path)}: redirects from {schemes[0]} to {schemes[1] or '?'}, "
                    "which is not followed"
                )
            url = target
        raise Refused(f"{self.label(path)}: redirects more than {MAX_REDIRECTS} times")

    def _request(self, url: str, path: str, headers: dict[str, str]) -> requests.Response:
        if not hasattr(self._local, "session"):  # one a thread: they are not safe to share
            self._local.session = requests.Session()
            self._local.session.headers["User-Agent"] = f"tg80/{version('tg80')}"
        timeout = (self.patience.connect_s, self.patience.stall_s)
        try:
            return self._local.session.get(
                url, headers=headers, timeout=timeout, stream=True, allow_redirects=False
            )
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
            # A ValueError is an address that no request can be made of, e.g. a redirect to http://[
            in_transit = isinstance(error, requests.RequestException)
            if isinstance(error, ValueError) or not in_transit or _certificate_error(error):
                raise Refused(f"{self.label(path)}: {_reason(error)}") from None
            raise Interrupted(_reason(error)) from None

    def _body(self, response: requests.Response, path: str, offset: int) -> Body:
        status = response.status_code
        encoding = response.headers.get("Content-Encoding", "").strip().lower()
        encoded = encoding not in ("", "identity")
        if status == 200:
            length = response.headers.get("Content-Length", "")
            known = not encoded and re.fullmatch(r"[0-9]{1,18}", length)
            return Body(0, int(length) if known else None, _chunks(response, encoded))
        if status == 206 and offset and not encoded:
            n_total = _check_range(response, offset)
            return Body(offset, n_total, _chunks(response, False))
        if status in (206, 416) and offset:
            raise WrongContent(f"the source has nothing from byte {offset} on")
        # The standard's own words: those of the server could hold anything.
        answer = f"HTTP {status} {http.client.responses.get(status, '')}".strip()
        if status in (404, 410):
            raise Missing(f"{self.label(path)}: {answer}")
        if status in (408, 425, 429) or status >= 500:
            raise Interrupted(answer, _retry_after_s(response))
        raise Refused(f"{self.label(path)}: {answer}")


def _check_range(response: requests.Response, offset: int) -> int | None:
    """Size of the whole file after a 206; the part must be the one asked for."""
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    if match is None or int(match[1]) != offset:
        raise WrongContent(f"the source does not send the bytes from {offset} on that it announces")
    return None if match[3] == "*" else int(match[3])


def _chunks(response: requests.Response, encoded: bool) -> Iterator[bytes]:
    try:
        # Not read(): it keeps back what has come until the chunk is full, and loses it on silence.
        while chunk := response.raw.read1(CHUNK_BYTES, decode_content=encoded):
            yield chunk
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise Interrupted(_reason(error)) from None


def _retry_after_s(response: requests.Response) -> float | None:
    """Seconds of the Retry-After header, a number or a date; None without a valid one."""
    try:
        # Of a number no more digits than a date has characters: enough for every wait.
        return Retry().parse_retry_after(response.headers.get("Retry-After", "").strip()[:29])
    except (urllib3.exceptions.HTTPError, ValueError, OverflowError):
        return None


def _reason(error: Exception) -> str:
    """A few words for people, from the innermost cause that has some."""
    if certificate := _certificate_error(error):
        return f"its certificate is not accepted: {certificate.verify_message}"
    via = "the proxy: " if isinstance(error, requests.exceptions.ProxyError) else ""
    causes = list(_causes(error))
    for cause in reversed(causes):
        if isinstance(cause, OSError) and cause.strerror:
            return via + cause.strerror.lower()
    timeouts = (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError, TimeoutError)
    if any(isinstance(cause, timeouts) for cause in causes):
        return via + "timed out"
    if isinstance(error, ValueError):
        return f"no request can be made of this address ({type(error).__name__})"
    return via + "the connection broke off"


def _certificate_error(error: Exception) -> ssl.SSLCertVerificationError | None:
    kind = ssl.SSLCertVerificationError
    return next((cause for cause in _causes(error) if isinstance(cause, kind)), None)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


class Attempts:
    """Decides after each failure whether and when to try a file again."""

    def __init__(self, source: Source, path: str, watcher: Watcher) -> None:
        self._label, self._patience, self._watcher = source.label(path), source.patience, watcher
        self._n_failed = self._n_wrong = self._farthest = 0

    def wait_after(self, error: Interrupted | WrongContent, n_bytes: int = 0) -> None:
        """Wait until the next attempt is due.

        Args:
            error: How the last one ended.
            n_bytes: How far it got.

        Raises:
            CorruptFile, SourceFails: There should be no next one.
            Stopped: By the watcher.
        """
        wait_s = 0.0
        if isinstance(error, WrongContent):
            self._n_wrong += 1
            n_tries, limit, failure = self._n_wrong, self._patience.copies, CorruptFile
        else:
            if n_bytes >= self._farthest + PROGRESS_BYTES:
                self._n_failed = 0
                self._farthest = n_bytes
            self._n_failed += 1
            n_tries, limit, failure = self._n_failed, self._patience.attempts, SourceFails
            wait_s = error.retry_after_s or 0.0
        if n_tries >= limit:
            tried = f"tried {n_tries} times" if n_tries > 1 else "not tried again"
            raise failure(f"{self._label}: {error} ({tried})")
        longest_s = self._patience.longest_wait_s
        if wait_s > longest_s:
            raise failure(
                f"{self._label}: {error}, to be asked again after {wait_s:.0f} s; run the command "
                "again then"
            )
        # Jitter: many clients of one server that fell over shall not come back all at once.
        delay_s = self._patience.backoff_s * 2 ** (n_tries - 1) * random.uniform(0.5, 1.5)
        delay_s = max(min(delay_s, longest_s), wait_s)
        self._watcher.say(
            f"{self._label}: {error}; attempt {n_tries + 1} of {limit} in {delay_s:.1f} s"
        )
        if self._watcher.stop.wait(delay_s):
            raise Stopped


def fetch_bytes(
    source: Source, path: str, *, limit: int, watcher: Watcher, sha256: str | None = None
) -> bytes:
    """A small file as bytes.

    Args:
        source: Where from.
        path: The file.
        limit: Bytes it has at most.
        watcher: Told of waits.
        sha256: Its checksum, if known.

    Raises:
        Refused: The source does not give it, or it is larger.
        CorruptFile: The source's copy has another checksum, time and again.
        SourceFails: The source kept failing.
        Stopped: By the watcher.
    """
    attempts = Attempts(source, path, watcher)
    while True:
        try:
            content = bytearray()
            with source.open(path) as body:
                for chunk in body.chunks:
                    content += chunk
                    if len(content) > limit:
                        raise Refused(f"{source.label(path)}: more than {limit} bytes, too many")
            if sha256 and hashlib.sha256(content).hexdigest() != sha256:
                raise WrongContent("its SHA-256 is not the one stated for it")
            return bytes(content)
        except (Interrupted, WrongContent) as error:
            attempts.wait_after(error)
