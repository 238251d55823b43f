"""Certificates of the clusters that are started here, and of a client that joins another's.

Dask runs whatever code a peer sends it. So all of a cluster show each other a certificate, and each
refuses whom the cluster's own authority has not signed.

References:
    https://distributed.dask.org/en/stable/tls.html
"""

import os
import shlex
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from distributed import Security

from tg80.errors import UserError
from tg80.files import read_bytes

LOOPBACK = "127.0.0.1"
PROTOCOL = "tls://"
_ROLES = ("client", "scheduler", "worker")
_WANTED = "a certificate or key in PEM"
# The user's Dask settings have no say in how strong the encryption is.
STRENGTH = {"tls_ciphers": None, "tls_min_version": None, "tls_max_version": None}


class _JobSecurity(Security):
    """A certificate in a file that jobs are told of in a line of a shell script."""

    def get_tls_config_for_role(self, role: str) -> dict[str, Any]:
        found = super().get_tls_config_for_role(role)
        if role != "worker":
            return found
        return {name: value and shlex.quote(value) for name, value in found.items()}


def job_security(folder: Path) -> Security:
    """A certificate and its key for one cluster, in a file for the jobs of this user.

    Args:
        folder: where the file goes; only this user may enter it.
    """
    path = folder / "cluster.pem"
    made = Security.temporary()
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(f"{made.tls_worker_key}{made.tls_worker_cert}")
    names = ["tls_ca_file", *(f"tls_{role}_{what}" for role in _ROLES for what in ("cert", "key"))]
    return _JobSecurity(require_encryption=True, **dict.fromkeys(names, str(path)), **STRENGTH)


@contextmanager
def private_folder(parent: Path, *, shared: bool) -> Iterator[Path]:
    """A new folder that only this user may enter, and that is removed at the end.

    Args:
        parent: the folder of a run, which removes it next time if this process is killed.
        shared: whether it must lie there, as other machines see it; else the system's temporary
            folder serves if the file system has no rights.

    Raises:
        UserError: everybody may enter what is made there.
    """

    def make(where: Path | None) -> tempfile.TemporaryDirectory:
        # A job that is still about to end may be in the way of its removal.
        options: Any = {"prefix": ".dask-", "suffix": ".tmp", "ignore_cleanup_errors": True}
        return tempfile.TemporaryDirectory(dir=where, **options)

    with ExitStack() as stack:
        place = Path(stack.enter_context(make(parent.resolve())))
        if _others_may_read(place) and shared:
            raise UserError(
                f"{parent}: its file system lets everybody read the cluster's key; choose another "
                "--out"
            )
        if _others_may_read(place):
            place = Path(stack.enter_context(make(None)))
        yield place


def _others_may_read(path: Path) -> bool:
    return bool(path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))


def client_security(ca: Path, cert: Path, key: Path) -> tuple[Security, list[str]]:
    """What a client needs to join a scheduler over TLS, from files in PEM.

    Args:
        ca: certificates of the authority that has signed the scheduler's.
        cert: this client's certificate.
        key: its key; may be the same file.

    Returns:
        The settings, and a warning if others can read the key.

    Raises:
        UserError: a file is missing, is not one or has expired, or the key is not the
            certificate's.
    """
    _read_certificates(ca)
    certificate = _read_certificates(cert)[0]
    try:
        # Here and not by OpenSSL, which would ask for a pass phrase at the terminal.
        public = load_pem_private_key(read_bytes(key, _WANTED), password=None).public_key()
    except TypeError:
        raise UserError(
            f"{key}: the key has a pass phrase; give one without, in a file of mode 0600"
        ) from None
    except ValueError:
        raise UserError(f"{key}: holds no private key in PEM; give --tls-key") from None
    if public != certificate.public_key():
        raise UserError(f"{key}: not the key of {cert}; give the two that were made together")
    files = {"tls_ca_file": str(ca), "tls_client_cert": str(cert), "tls_client_key": str(key)}
    warnings = []
    if _others_may_read(key):
        warnings = [f"{key}: others can read this key, and use it; chmod 600 it"]
    return Security(require_encryption=True, **files, **STRENGTH), warnings


def _read_certificates(path: Path) -> list[x509.Certificate]:
    try:
        found = x509.load_pem_x509_certificates(read_bytes(path, _WANTED))
    except ValueError:
        raise UserError(f"{path}: holds no certificate in PEM") from None
    now = datetime.now(UTC)
    if now >= (end := min(each.not_valid_after_utc for each in found)):
        raise UserError(f"{path}: expired on {end:%Y-%m-%d}; make a new certificate")
    if now < (begin := max(each.not_valid_before_utc for each in found)):
        raise UserError(f"{path}: valid from {begin:%Y-%m-%d %H:%M} UTC on; check the clock")
    return found
