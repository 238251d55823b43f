"""Published data on a web server, over HTTP with byte ranges.

`requests` brings connections, proxies (`http_proxy`, `https_proxy`, `no_proxy`) and certificates;
redirects are followed here, so that each of their addresses is looked at before it is asked.
"""

import http
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.metadata import version
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from urllib3.util.retry import Retry

from tg80.errors import UserError
from tg80.release.sources import (
    CHUNK_BYTES,
    Body,
    Interrupted,
    Missing,
    Patience,
    Refused,
    WrongContent,
)

MAX_REDIRECTS = 10
_REDIRECTS = (301, 302, 303, 307, 308)
_MISSING = (404, 410)
_PASSING = (408, 425, 429)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class WebSource:
    """A folder of a web server.

    Args:
        address: http or https, without query; a user and password in it are used, never shown.

    Raises:
        UserError: the address is none.
    """

    def __init__(self, address: str, patience: Patience) -> None:
        self.name = _without_password(address)
        if not _is_plain(address):
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
    def open(self, path: str, offset: int = 0, tag: str | None = None) -> Iterator[Body]:
        # Compressed on the way, the bytes would not be those of the file, nor would ranges.
        headers = {"Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if tag:
                headers["If-Range"] = tag
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
            target = _joined(url, location)
            schemes = (urlsplit(url).scheme.lower(), urlsplit(target).scheme.lower())
            if schemes not in (("http", "http"), ("http", "https"), ("https", "https")):
                raise Refused(
                    f"{self.label(path)}: redirects from {schemes[0]} to {schemes[1] or '?'}, "
                    "which is not followed"
                )
            url = target
        raise Refused(f"{self.label(path)}: redirects more than {MAX_REDIRECTS} times")

    def _request(self, url: str, path: str, headers: dict[str, str]) -> requests.Response:
        timeout = (self.patience.connect_s, self.patience.stall_s)
        try:
            return self._session.get(
                url, headers=headers, timeout=timeout, stream=True, allow_redirects=False
            )
        except requests.exceptions.RequestException as error:
            if _never_passes(error):
                raise Refused(f"{self.label(path)}: {_reason(error)}") from None
            raise Interrupted(_reason(error)) from None
        except (urllib3.exceptions.HTTPError, UnicodeError, ValueError) as error:
            # An address that no request can be made of, e.g. a redirect to http://[.
            raise Refused(f"{self.label(path)}: {_reason(error)}") from None

    @property
    def _session(self) -> requests.Session:
        """One session a thread: they are not safe to share."""
        if not hasattr(self._local, "session"):
            session = requests.Session()
            session.headers["User-Agent"] = f"tg80/{version('tg80')}"
            self._local.session = session
        return self._local.session

    def _body(self, response: requests.Response, path: str, offset: int) -> Body:
        status = response.status_code
        encoding = response.headers.get("Content-Encoding", "").strip().lower()
        encoded = encoding not in ("", "identity")
        tag = None if encoded else _tag(response)
        if status == 200:
            n_total = None if encoded else _number(response.headers.get("Content-Length"))
            return Body(0, n_total, tag, _chunks(response, encoded))
        if status == 206 and offset and not encoded:
            n_total = _check_range(response, offset)
            return Body(offset, n_total, tag, _chunks(response, False))
        if status in (206, 416) and offset:
            raise WrongContent(f"the source has nothing from byte {offset} on")
        answer = f"HTTP {status}{_phrase(status)}"
        if status in _MISSING:
            raise Missing(f"{self.label(path)}: {answer}")
        if status in _PASSING or status >= 500:
            raise Interrupted(answer, _retry_after_s(response))
        raise Refused(f"{self.label(path)}: {answer}")


def _joined(url: str, location: str) -> str:
    """Where a redirect leads; an address that is none stays as it is, to be refused as such."""
    try:
        return urljoin(url, location)
    except ValueError:
        return "invalid:"


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


def _tag(response: requests.Response) -> str | None:
    """What If-Range takes: a strong ETag, else the date of the last change."""
    etag = response.headers.get("ETag", "").strip()
    if re.fullmatch(r'"[\x21\x23-\x7e]*"', etag):
        return etag
    return response.headers.get("Last-Modified")


def _retry_after_s(response: requests.Response) -> float | None:
    """Seconds of the Retry-After header, given as a number or as a date."""
    value = response.headers.get("Retry-After")
    if value is None:
        return None
    try:
        # Of a number no more digits than a date has characters: enough for every wait.
        return Retry().parse_retry_after(value.strip()[:29])
    except (urllib3.exceptions.HTTPError, ValueError, OverflowError):
        return None


def _never_passes(error: requests.exceptions.RequestException) -> bool:
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in _causes(error)):
        return True
    # Among the ValueErrors are addresses that no request can be made of.
    return isinstance(error, ValueError)


def _reason(error: Exception) -> str:
    """A few words for people, from the innermost cause that has some."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not accepted: {cause.verify_message}"
    via = "the proxy: " if isinstance(error, requests.exceptions.ProxyError) else ""
    for cause in reversed(causes):
        if isinstance(cause, OSError) and cause.strerror:
            return via + cause.strerror.lower()
    timeouts = (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError, TimeoutError)
    if any(isinstance(cause, timeouts) for cause in causes):
        return via + "timed out"
    if isinstance(error, ValueError):
        return f"not an address that can be asked ({type(error).__name__})"
    return via + "the connection broke off"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _number(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"[0-9]{1,18}", text) else None


def _phrase(status: int) -> str:
    """The standard's own words: those of the server could hold anything."""
    try:
        return f" {http.HTTPStatus(status).phrase}"
    except ValueError:
        return ""


def _is_plain(address: str) -> bool:
    try:
        parts = urlsplit(address)
        _ = parts.port  # looked at when it is asked for
    except ValueError:
        return False
    return bool(parts.hostname) and not parts.query and not parts.fragment


def _without_password(address: str) -> str:
    return re.sub(r"(?<=://)[^/]*@", "", address)
