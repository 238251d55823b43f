"""Workers started by others, reached through their Dask scheduler."""

import asyncio
import ipaddress
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dask import config as dask_config
from distributed import Client, Security, rpc
from distributed.comm.addressing import get_address_host_port
from pydantic import BaseModel, ConfigDict

from pipelines.run.cluster.tls import PROTOCOL, client_security
from pipelines.run.cluster.workers import Order, check_workers, quiet_logs
from tg80.errors import Tg80Error, UserError
from tg80.theory import Level
from tg80.untrusted.documents import read_json

CONNECT_TIMEOUT_S = 5.0
_PLAIN = "tcp://"
_FORM = "write it as tls://HOST:PORT"


class SchedulerProfile(BaseModel):
    """A running scheduler and how to join it. Read from TOML."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    address: str
    """tls://HOST:PORT, or the path of its scheduler file"""
    tls_ca: Path | None = None
    """certificate of the authority that has signed the scheduler's"""
    tls_cert: Path | None = None
    """this client's certificate"""
    tls_key: Path | None = None
    """its key, if it is not in the same file"""
    insecure: bool = False
    """whether a scheduler on another machine may be joined without TLS"""

    def beside(self, profile: Path) -> "SchedulerProfile":
        """With the certificates' paths taken from the folder of the profile."""
        files = {name: getattr(self, name) for name in ("tls_ca", "tls_cert", "tls_key")}
        paths = {name: profile.parent / path.expanduser() for name, path in files.items() if path}
        return self.model_copy(update=paths)


@dataclass(frozen=True)
class Target:
    """A scheduler that answers.

    Attributes:
        address: with its protocol.
        security: how to talk to it.
        warnings: what may be unsafe about that.
    """

    address: str
    security: Security = field(repr=False)
    warnings: list[str]


@dataclass(frozen=True)
class RunningScheduler:
    """Workers started by others.

    Attributes:
        profile: which scheduler they belong to.
    """

    profile: SchedulerProfile

    def check(self, level: Level, device: str) -> None:
        """Ask the scheduler for its identity; its workers may come later.

        Raises:
            UserError: no such file, a wrong address, or joining like this is refused.
            Tg80Error: nothing answers.
        """
        with quiet_logs():
            find_scheduler(self.profile)

    @contextmanager
    def open(self, order: Order) -> Iterator[Client]:
        """A client of that scheduler, once workers are there and see the folder.

        Raises:
            UserError: no such file, a wrong address, or joining like this is refused.
            Tg80Error: nothing answers, packages differ, or the folder is not shared.
        """
        with quiet_logs():
            target = find_scheduler(self.profile)
            for line in target.warnings:
                order.say(f"warning: {line}")
            with connected(target) as client:
                check_workers(client, order)
                yield client

    def tend(self, n_tasks: int) -> None:
        """Do nothing: these workers belong to others."""


def find_scheduler(profile: SchedulerProfile) -> Target:
    """The scheduler that answers at an address, or is named by a scheduler file.

    Raises:
        UserError: no such file, a wrong address, or joining like this is refused.
        Tg80Error: nothing answers there, or something else than a scheduler.
    """
    given = profile.address
    target = _target(profile, _scheduler_file_address(given) or given)
    try:
        kind = asyncio.run(asyncio.wait_for(_identity(target), CONNECT_TIMEOUT_S))
    except (OSError, TimeoutError, ValueError) as error:  # ValueError: no name of a host
        if _is_distrust(error):
            raise UserError(
                f"{given}: the certificate of what answers there has expired, or --tls-ca has not "
                "signed it; give the certificates that belong to this scheduler"
            ) from None
        kind = None
    if kind != "Scheduler":
        plain = target.address.startswith(_PLAIN)
        doubt = "it wants TLS (tls://)" if plain else "it does not trust this certificate"
        raise Tg80Error(
            f"no Dask scheduler answers at {given} within {CONNECT_TIMEOUT_S:g} s, or {doubt}; "
            "start `dask scheduler`, or give its address"
        )
    return target


@contextmanager
def connected(target: Target) -> Iterator[Client]:
    """A client of a scheduler that was found."""
    with dask_config.set({"distributed.comm.timeouts.connect": CONNECT_TIMEOUT_S}):
        client = Client(
            target.address,
            security=target.security,
            timeout=CONNECT_TIMEOUT_S,
            set_as_default=False,
        )
        try:
            yield client
        finally:
            client.close(timeout=1)


def _target(profile: SchedulerProfile, address: str) -> Target:
    """How to talk to the scheduler at an address.

    Raises:
        UserError: joining it like this is not allowed, or a certificate or key is wrong.
    """
    given = f"--scheduler {profile.address}"
    scheme, separator, rest = address.rpartition("://")
    protocol = scheme + separator or _PLAIN
    if protocol not in (PROTOCOL, _PLAIN):
        raise UserError(f"{given}: unknown address scheme {scheme!r}; {_FORM}")
    try:
        host, port = get_address_host_port(protocol + rest, strict=True)
    except ValueError as error:
        raise UserError(f"{given}: {error}; {_FORM}") from None
    if not (host and 0 < port < 1 << 16):
        raise UserError(f"{given}: no host, or no port from 1 to 65535; {_FORM}")
    files = _given_files(profile)
    if protocol == PROTOCOL:
        files = files or _configured_files()
        if files is None:
            raise UserError(
                f"{given}: TLS needs certificates; give --tls-ca, --tls-cert and --tls-key"
            )
        return Target(address, *client_security(*files))
    if files is not None:
        raise UserError(f"{given}: certificates are given, but {address} is an address without TLS")
    risk = f"{rest} is a scheduler without TLS: whoever can reach it can run code as you"
    if not (profile.insecure or _is_loopback(host)):
        raise UserError(
            f"{given}: {risk}; start it with TLS (see docs/pipeline/clusters.md), or give "
            "--insecure if you trust everybody in its network"
        )
    security = Security(require_encryption=False, tls_ca_file=None, tls_client_cert=None)
    return Target(_PLAIN + rest, security, [risk])


def _given_files(profile: SchedulerProfile) -> tuple[Path, Path, Path] | None:
    ca, cert, key = profile.tls_ca, profile.tls_cert, profile.tls_key
    if ca and cert:
        return ca, cert, key or cert
    if ca or cert or key:
        raise UserError("--tls-ca and --tls-cert go together; --tls-key if it is a file of its own")
    return None


def _configured_files() -> tuple[Path, Path, Path] | None:
    """Those of the user's own Dask settings."""
    own = Security()
    if not (own.tls_ca_file and own.tls_client_cert):
        return None
    key = own.tls_client_key or own.tls_client_cert
    return Path(own.tls_ca_file), Path(own.tls_client_cert), Path(key)


def _is_loopback(host: str) -> bool:
    try:
        addresses = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except (OSError, ValueError):  # no such host, or no name of one
        return False
    return all(ipaddress.ip_address(each).is_loopback for each in addresses)


async def _identity(target: Target) -> str:
    arguments = target.security.get_connection_args("client")
    async with rpc(target.address, timeout=CONNECT_TIMEOUT_S, connection_args=arguments) as server:
        facts: Any = await server.identity()
        return facts["type"]


def _is_distrust(error: BaseException | None) -> bool:
    """Whether a connection failed because of the peer's certificate."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__
    return error is not None


def _scheduler_file_address(path: str) -> str | None:
    """The address in a scheduler file; None if this is an address itself."""
    if "://" in path or (os.sep not in path and not path.endswith(".json")):
        return None
    if not Path(path).exists():
        raise UserError(
            f"{path}: no such scheduler file; start `dask scheduler --scheduler-file {path}` first"
        )
    found = read_json(path, "the scheduler file of `dask scheduler`")
    address = found.get("address") if isinstance(found, dict) else None
    if not isinstance(address, str):
        raise UserError(f"{path}: not a scheduler file of `dask scheduler`")
    return address
