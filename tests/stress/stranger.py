"""Tries to talk to every listening socket of a running `tg80 generate`, as somebody who may not.

    python -m tests.stress.stranger

The sockets are read from /proc, for all processes below the run, so that none can be forgotten. At
each one a stranger asks Dask for its `identity` and HTTP for its page: in plain, over TLS without a
certificate, and over TLS with a certificate that he made himself.
"""

import argparse
import asyncio
import ipaddress
import os
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from distributed import Security, rpc

PLACES = {
    "workers": ("--workers", "2"),
    "cluster": ("--cluster", "local.toml"),
}
PROFILE = 'kind = "local"\njobs = 2\nmemory = "4 GB"\n'
TIMEOUT_S = 2.0


class Listener(NamedTuple):
    """A listening socket of a process."""

    pid: int
    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        return ipaddress.ip_address(self.host).is_loopback

    def __str__(self) -> str:
        return f"{self.host}:{self.port} of process {self.pid}"


def process_tree(root: int) -> set[int]:
    """A process and all that descend from it."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found, waiting = set(), {root}
    while waiting:
        found |= waiting
        waiting = {pid for pid, parent in parents.items() if parent in waiting} - found
    return found


def listeners(root: int) -> list[Listener]:
    """Every TCP socket on which a process of the tree listens."""
    sockets = dict(_listening("/proc/net/tcp", 4)) | dict(_listening("/proc/net/tcp6", 16))
    found = set()
    for pid in process_tree(root):
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            with suppress(OSError):
                name = os.readlink(link)
                if name.startswith("socket:[") and name[8:-1] in sockets:
                    found.add(Listener(pid, *sockets[name[8:-1]]))
    return sorted(found)


def _listening(table: str, n_bytes: int) -> Iterator[tuple[str, tuple[str, int]]]:
    """Inode, address and port of the sockets that listen; the kernel writes words of the host."""
    for line in Path(table).read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] != "0A":
            continue
        digits, port = fields[1].split(":")
        words = [bytes.fromhex(digits[i : i + 8]) for i in range(0, 2 * n_bytes, 8)]
        packed = b"".join(
            word[::-1] if sys.byteorder == "little" else word for word in words
        )  # fmt: skip
        yield fields[9], (str(ipaddress.ip_address(packed)), int(port, 16))


def strangers_certificate(folder: Path) -> Path:
    """A certificate and its key as anybody can make them, in one file."""
    made = Security.temporary()
    path = folder / "stranger.pem"
    path.write_text(f"{made.tls_client_key}{made.tls_client_cert}")
    return path


def attempts(places: list[Listener], certificate: Path) -> dict[tuple[Listener, str], str]:
    """What came back from each way to ask at each place; empty where nothing did."""
    bare, forged = _context(), _context(certificate)
    ways = {
        "plain Dask": (_dask, None),
        "Dask over TLS without a certificate": (_dask, bare),
        "Dask over TLS with his own certificate": (_dask, forged),
        "plain HTTP": (_http, None),
        "HTTPS without a certificate": (_http, bare),
        "HTTPS with his own certificate": (_http, forged),
    }

    async def ask(way: str, where: Listener) -> str:
        question, context = ways[way]
        with suppress(OSError, TimeoutError, ValueError):
            return await asyncio.wait_for(question(where, context), TIMEOUT_S)
        return ""

    async def ask_all() -> list[str]:
        return await asyncio.gather(*(ask(way, where) for where in places for way in ways))

    keys = [(where, way) for where in places for way in ways]
    return dict(zip(keys, asyncio.run(ask_all()), strict=True))


def _context(certificate: Path | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if certificate is not None:
        context.load_cert_chain(certificate)
    return context


async def _dask(where: Listener, context: ssl.SSLContext | None) -> str:
    host = f"[{where.host}]" if ":" in where.host else where.host
    address = f"{'tls' if context else 'tcp'}://{host}:{where.port}"
    arguments = {"ssl_context": context} if context else {}
    async with rpc(address, timeout=TIMEOUT_S, connection_args=arguments) as server:
        return str(await server.identity())


async def _http(where: Listener, context: ssl.SSLContext | None) -> str:
    reader, writer = await asyncio.open_connection(where.host, where.port, ssl=context)
    try:
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        answer = (await reader.read(4096)).decode(errors="replace")
    finally:
        writer.close()
    return answer if answer.startswith("HTTP") else ""


@contextmanager
def running_generate(folder: Path, *place: str) -> Iterator[subprocess.Popen]:
    """A run that is at work: its scheduler and its workers are there.

    The folder it is started in holds a module of the stranger's.
    """
    (folder / "pickle.py").write_text("raise SystemExit('imported from the working folder')\n")
    (folder / "local.toml").write_text(PROFILE)
    (folder / "list.smi").write_text("C=O formaldehyde\nCO methanol\n")
    arguments = (
        "--molecule-list", "list.smi", "--out", "a run", "--level", "gfn2-xtb", *place,
        "--length-fs", "100000", "--set", "pre_equilibration_fs=20", "--set", "segment_fs=20",
        "--set", "n_conformers=3",
    )  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "pipelines.cli", "generate", *arguments],
        cwd=folder, env=environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        _wait_for_work(process, folder / "a run")
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _wait_for_work(process: subprocess.Popen, out: Path) -> None:
    """Returns when both molecules have been begun, each by a worker of its own."""
    deadline = time.monotonic() + 120
    while len(list(out.glob("work/*/geometry.npz"))) < 2:
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise RuntimeError(f"the run did not begin: {process.communicate()[1]}")
        time.sleep(0.05)


def told_secrets(root: int, folder: Path) -> list[str]:
    """Keys where others can read them: in a command line, as `ps` shows it, or in a file."""
    found = []
    for pid in process_tree(root):
        with suppress(OSError):
            if b"PRIVATE KEY" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(f"the command line of process {pid} holds a key")
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_mode & 0o077 and b"PRIVATE KEY" in path.read_bytes():
            found.append(f"{path} holds a key that others can read")
    return found


def intrude(folder: Path, *place: str) -> tuple[list[Listener], list[str]]:
    """The sockets of a run, and what is wrong with them: open to others, or to the network."""
    with tempfile.TemporaryDirectory() as his, running_generate(folder, *place) as process:
        certificate = strangers_certificate(Path(his))
        found = listeners(process.pid)
        faults = [f"{where} listens to the network" for where in found if not where.is_loopback]
        faults += told_secrets(process.pid, folder)
        faults += [
            f"{where} answers {way}: {answer[:60]!r}"
            for (where, way), answer in attempts(found, certificate).items()
            if answer
        ]
    return found, faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--place", choices=sorted(PLACES), action="append")
    n_faults = 0
    for place in parser.parse_args().place or PLACES:
        with tempfile.TemporaryDirectory() as name:
            found, faults = intrude(Path(name), *PLACES[place])
        print(f"{' '.join(PLACES[place])}: {len(found)} sockets, {len(faults)} faults", flush=True)
        for fault in faults:
            print(f"  {fault}")
        n_faults += len(faults)
    return 1 if n_faults else 0


if __name__ == "__main__":
    sys.exit(main())
