"""A real web server for tests, with byte ranges, a log of what was asked, and faults to order.

    with serving(folder) as server:
        server.faults["1.0/a.h5md"] = [Fault(status=500), Fault(break_after=1000)]
        ...server.url, server.log

Each request for a path uses up the first of its faults; one with `forever` stays.
"""

import gzip
import http.server
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

PIECE = 4096


@dataclass(frozen=True)
class Fault:
    """What is wrong with one answer.

    Attributes:
        status: answer with it and no file. headers: added to those of the answer.
        content: applied to the file's bytes before anything else.
        break_after: bytes of the body after which the connection is cut.
        stall_after: bytes of the body after which nothing more comes.
        stated: what Content-Length says instead of the truth.
        no_length: no Content-Length: the body ends when the connection does.
        no_ranges: answer a Range with the whole file.
        encoding: `gzip` sends the file compressed, whatever was asked for.
        answer_range: Content-Range of a 206, instead of the truth.
        forever: every time.
    """

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    content: Callable[[bytes], bytes] | None = None
    break_after: int | None = None
    stall_after: int | None = None
    stated: int | None = None
    no_length: bool = False
    no_ranges: bool = False
    encoding: str | None = None
    answer_range: str | None = None
    forever: bool = False


@dataclass
class Asked:
    """One request, and how many bytes of the body went out."""

    path: str
    headers: dict[str, str]
    status: int = 0
    n_sent: int = 0

    @property
    def range(self) -> str | None:
        return self.headers.get("range")


class WebServer(http.server.ThreadingHTTPServer):
    """Serves `root`; `log` grows with every request."""

    daemon_threads = True
    block_on_close = False
    # More than the default waits in line, so that no connection is refused in tests of many.
    request_queue_size = 64

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Files)
        self.root = root
        self.log: list[Asked] = []
        self.faults: dict[str, list[Fault]] = {}
        self.bytes_per_s: float | None = None
        self.closing = threading.Event()
        self.scheme = "http"
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_port}"

    def take_fault(self, path: str) -> Fault:
        with self._lock:
            faults = self.faults.get(path, [])
            if not faults:
                return Fault()
            return faults[0] if faults[0].forever else faults.pop(0)

    def asked(self, path: str) -> list[Asked]:
        """The requests for one path, in order."""
        return [each for each in self.log if each.path == path]

    def handle_error(self, request, client_address) -> None:
        """A client that was killed is no news."""


class _Files(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # small answers at once
    server: WebServer

    def log_message(self, format: str, *args) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).lstrip("/")
        asked = Asked(path, {key.lower(): value for key, value in self.headers.items()})
        self.server.log.append(asked)
        fault = self.server.take_fault(path)
        file = self.server.root / path
        if fault.status is not None:
            self._answer(asked, fault.status, {"Content-Length": "0", **fault.headers})
        elif not file.is_file():
            self._answer(asked, 404, {"Content-Length": "0"})
        else:
            content = file.read_bytes()
            self._send(asked, fault, fault.content(content) if fault.content else content)

    def _answer(self, asked: Asked, status: int, headers: dict[str, str]) -> None:
        asked.status = status
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()

    def _send(self, asked: Asked, fault: Fault, content: bytes) -> None:
        status, body, headers = 200, content, {}
        if fault.encoding == "gzip":
            body = gzip.compress(content)
            headers["Content-Encoding"] = "gzip"
        begin = self._range_begin(asked)
        if begin and not fault.no_ranges:
            if begin >= len(body):
                whole = {"Content-Length": "0", "Content-Range": f"bytes */{len(body)}"}
                self._answer(asked, 416, whole)
                return
            headers["Content-Range"] = f"bytes {begin}-{len(body) - 1}/{len(body)}"
            if fault.answer_range is not None:
                headers["Content-Range"] = fault.answer_range
            status, body = 206, body[begin:]
        if not fault.no_length:
            headers["Content-Length"] = str(len(body) if fault.stated is None else fault.stated)
        cut = fault.no_length or fault.break_after is not None or fault.stated is not None
        self.close_connection = cut or self.close_connection
        self._answer(asked, status, headers | fault.headers)
        self._send_body(asked, fault, body)

    def _range_begin(self, asked: Asked) -> int:
        if asked.range is None:
            return 0
        return int(asked.range.removeprefix("bytes=").removesuffix("-"))

    def _send_body(self, asked: Asked, fault: Fault, body: bytes) -> None:
        end = len(body)
        for limit in (fault.break_after, fault.stall_after):
            end = end if limit is None else min(end, limit)
        while asked.n_sent < end:
            piece = body[asked.n_sent : min(asked.n_sent + PIECE, end)]
            self.wfile.write(piece)
            asked.n_sent += len(piece)
            if self.server.bytes_per_s:
                time.sleep(len(piece) / self.server.bytes_per_s)
        if fault.stall_after is not None:
            self.server.closing.wait(30)


class Proxy(http.server.ThreadingHTTPServer):
    """An HTTP proxy that takes every host to one server; `log` holds the request lines."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, upstream: WebServer) -> None:
        super().__init__(("127.0.0.1", 0), _Relay)
        self.upstream_port = upstream.server_port
        self.log: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Relay(http.server.BaseHTTPRequestHandler):
    server: Proxy

    def log_message(self, format: str, *args) -> None:
        pass

    def do_GET(self) -> None:
        """Plain HTTP: the request line has the whole address."""
        self.server.log.append(self.requestline)
        with self._upstream() as upstream:
            self.headers.replace_header("Connection", "close")
            headers = "".join(f"{k}: {v}\r\n" for k, v in self.headers.items())
            path = urlsplit(self.path).path
            request = f"GET {path} HTTP/1.0\r\n{headers}\r\n"
            upstream.sendall(request.encode())
            while data := upstream.recv(1 << 16):
                self.wfile.write(data)
        self.close_connection = True

    def do_CONNECT(self) -> None:
        """HTTPS: bytes go to and fro and are not looked at."""
        self.server.log.append(self.requestline)
        with self._upstream() as upstream:
            self.send_response(200)
            self.end_headers()
            ends = {self.connection: upstream, upstream: self.connection}
            while True:
                for source in select.select(list(ends), [], [], 10)[0]:
                    data = source.recv(1 << 16)
                    if not data:
                        return
                    ends[source].sendall(data)

    def _upstream(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.server.upstream_port))


@contextmanager
def serving(root: Path, certificate: Path | None = None) -> Iterator[WebServer]:
    """A server of a folder; with a PEM file of key and certificate it speaks TLS."""
    server = WebServer(root)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.scheme = "https"
    with _running(server):
        try:
            yield server
        finally:
            server.closing.set()


@contextmanager
def proxying(upstream: WebServer) -> Iterator[Proxy]:
    """A proxy in front of a server."""
    proxy = Proxy(upstream)
    with _running(proxy):
        yield proxy


@contextmanager
def _running(server: http.server.ThreadingHTTPServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        with suppress(OSError):
            server.server_close()
        thread.join()
