"""Who may talk to a cluster: those with its certificate, whatever the user's Dask settings say."""

import os
import stat
import tempfile
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path

import dask_jobqueue  # noqa: F401  Its defaults are to be there before `OPEN` is.
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from dask import config as dask_config
from distributed import Scheduler, Security, SpecCluster

from pipelines.cli import run
from pipelines.run.cluster import running_scheduler
from pipelines.run.cluster.batch_queue import JobProfile, make_cluster
from pipelines.run.cluster.running_scheduler import SchedulerProfile, find_scheduler
from pipelines.run.cluster.this_machine import local_client
from pipelines.run.cluster.tls import job_security, private_folder
from pipelines.run.places import choose_place
from tests.stress.stranger import (
    PLACES,
    Listener,
    attempts,
    intrude,
    listeners,
    strangers_certificate,
)
from tg80.errors import UserError
from tg80.files import remove_temporary_files

# What a user's ~/.config/dask or environment may say.
OPEN = {
    "distributed.comm.require-encryption": False,
    "distributed.comm.default-scheme": "tcp",
    "distributed.comm.tls.ciphers": "eNULL",
    "distributed.comm.tls.ca-file": "/nowhere/ca.pem",
    "distributed.scheduler.dashboard.tls.cert": "/nowhere/cert.pem",
    "jobqueue.local.interface": "lo",
    "jobqueue.local.scheduler-options": {"dashboard_address": ":0", "protocol": "tcp"},
}


class Authority:
    """Signs certificates; `paths` are those of the files of one, made anew each time."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(self._sign(self.key, "authority", 1))

    def certificate(self, name: str, days: float = 1, mode: int = 0o600) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        cert, path = self.folder / f"{name}.pem", self.folder / f"{name}-key.pem"
        cert.write_bytes(self._sign(key, name, days))
        path.write_bytes(pem(key))
        path.chmod(mode)
        return cert, path

    def _sign(self, key: ec.EllipticCurvePrivateKey, name: str, days: float) -> bytes:
        end = datetime.now(UTC) + timedelta(days=days)
        subject, issuer = (
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
            for text in (name, "authority")
        )
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(end - timedelta(days=2))
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(name == "authority", None), critical=True)
        )
        signed = builder.sign(self.key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)


def pem(key: ec.EllipticCurvePrivateKey, phrase: bytes | None = None) -> bytes:
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if phrase is not None:
        encryption = serialization.BestAvailableEncryption(phrase)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def scheduler(authority):
    """Address of a scheduler that wants a certificate of the authority."""
    cert, key = (str(path) for path in authority.certificate("scheduler"))
    security = Security(
        require_encryption=True, tls_ca_file=str(authority.ca), tls_scheduler_cert=cert,
        tls_scheduler_key=key, tls_client_cert=cert, tls_client_key=key,
    )  # fmt: skip
    with scheduler_alone(protocol="tls://", security=security) as cluster:
        yield cluster.scheduler_address


def scheduler_alone(**options):
    facts = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "dashboard": False}
    return SpecCluster(
        scheduler={"cls": Scheduler, "options": facts | options}, security=options.get("security")
    )


@pytest.mark.parametrize(
    "place",
    ["workers", pytest.param("cluster", marks=pytest.mark.slow)],
)
def test_no_socket_of_a_run_answers_a_stranger(place, tmp_path):
    found, faults = intrude(tmp_path, *PLACES[place])
    assert faults == []
    assert len(found) == 5  # the scheduler, two nannies, two workers


def test_the_stranger_gets_in_where_nothing_keeps_him_out(tmp_path):
    with scheduler_alone() as cluster:
        dask = int(cluster.scheduler_address.rpartition(":")[2])
        places = [
            Listener(0, "127.0.0.1", port) for port in (dask, cluster.scheduler.http_server.port)
        ]
        answers = attempts(places, strangers_certificate(tmp_path))
    assert "Scheduler" in answers[places[0], "plain Dask"]
    assert answers[places[1], "plain HTTP"]


def test_nothing_opens_a_local_cluster_and_a_killed_worker_comes_back(tmp_path, monkeypatch):
    """Neither Dask settings nor a folder of somebody else's that modules would be imported from."""
    planted = tmp_path / "dask-scratch-space"
    planted.mkdir(mode=0o777)
    (planted / "planted.py").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with dask_config.set(OPEN), local_client(1, tmp_path) as client:
        assert list(client.run(find_spec, "planted").values()) == [find_spec("planted")] == [None]
        info = client.scheduler_info()
        addresses = [info["address"], *info["workers"]]
        assert all(address.startswith("tls://127.0.0.1:") for address in addresses)
        assert info["services"] == {}
        (pid,) = client.run(os.getpid).values()
        os.kill(pid, 9)
        assert client.submit(os.getpid, pure=False).result(timeout=60) != pid


def test_a_jobs_key_is_in_no_command_line_and_goes_with_its_run(tmp_path):
    folder = tmp_path / "a run's $HOME"
    folder.mkdir()
    profile = JobProfile(kind="local", jobs=1, memory="1 GB", options={"worker_extra_args": ["-v"]})
    with private_folder(folder, shared=True) as place:
        security = job_security(place)
        path = Path(str(security.tls_worker_key))
        assert path.is_relative_to(folder)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        with dask_config.set(OPEN), make_cluster(profile, security) as cluster:
            script = cluster.job_script()
            assert cluster.scheduler_address.startswith("tls://127.0.0.1:")
            assert cluster.scheduler.services == {}
    assert "PRIVATE KEY" not in script and "'\"'\"'s $HOME/.dask-" in script
    assert (
        "--local-directory '/" in script
        and "--host 127.0.0.1" in script
        and "--interface" not in script
        and " -v " in script
    )
    assert list(folder.iterdir()) == []


def test_the_scheduler_of_a_queue_answers_no_stranger(tmp_path):
    """It listens on the network, as its workers are on other machines."""
    profile = JobProfile(kind="slurm", jobs=1, memory="1 GB", walltime="01:00:00")
    with (
        private_folder(tmp_path, shared=True) as place,
        dask_config.set(OPEN),
        make_cluster(profile, job_security(place)),
    ):
        found = [where for where in listeners(os.getpid()) if not where.is_loopback]
        answers = attempts(found, strangers_certificate(tmp_path))
    assert len({where.port for where in found}) == 1
    assert [answer for answer in answers.values() if answer] == []


def test_the_next_run_removes_what_a_killed_one_left(tmp_path):
    (tmp_path / ".dask-abc.tmp").mkdir()
    (tmp_path / ".dask-abc.tmp" / "cluster.pem").touch()
    remove_temporary_files(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options",
    [{"protocol": "tcp"}, {"security": False}, {"scheduler_options": {"dashboard": True}}],
)
def test_a_profile_cannot_open_its_cluster(options):
    with pytest.raises(ValueError, match="leave it out"):
        JobProfile(kind="slurm", jobs=1, memory="1 GB", options=options)


def join(tmp_path, capsys, address, *options):
    """Exit code and the one line of a run that joins a scheduler in vain."""
    smiles = tmp_path / "list.smi"
    smiles.write_text("CO methanol\n")
    code = run(
        ["generate", "--molecule-list", str(smiles), "--out", str(tmp_path / "out"),
         "--level=gfn2-xtb", "--scheduler", address, *map(str, options)]
    )  # fmt: skip
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1 and not (tmp_path / "out").exists()
    return code, error


def test_certificates_of_the_authority_open_its_scheduler(authority, scheduler, tmp_path):
    cert, key = authority.certificate("me")
    profile = SchedulerProfile(address=scheduler, tls_ca=authority.ca, tls_cert=cert, tls_key=key)
    assert find_scheduler(profile).warnings == []
    key.chmod(0o644)
    assert str(key) in find_scheduler(profile).warnings[0]
    both = authority.folder / "both.pem"
    both.write_bytes(cert.read_bytes() + key.read_bytes())
    (authority.folder / "lab.toml").write_text(
        f'address = "{scheduler}"\ntls_ca = "ca.pem"\ntls_cert = "both.pem"\n'
    )
    _, place = choose_place(scheduler=str(authority.folder / "lab.toml"))
    find_scheduler(place.profile)
    own = {"ca-file": authority.ca, "client.cert": both}
    with dask_config.set({f"distributed.comm.tls.{name}": str(own[name]) for name in own}):
        find_scheduler(SchedulerProfile(address=scheduler))


def test_what_is_wrong_with_a_certificate_is_told(
    authority, scheduler, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(running_scheduler, "CONNECT_TIMEOUT_S", 1.0)
    cert, key = authority.certificate("good")
    old, old_key = authority.certificate("old", days=-0.01)
    early, early_key = authority.certificate("early", days=3)
    locked = tmp_path / "locked.pem"
    locked.write_bytes(pem(ec.generate_private_key(ec.SECP256R1()), b"phrase"))
    (tmp_path / "text.pem").write_text("no certificate")
    os.mkfifo(tmp_path / "pipe.pem")
    other = Authority(tmp_path)
    cases = [
        ((), "TLS needs certificates"),
        (("--tls-ca", authority.ca), "go together"),
        (("--tls-ca", tmp_path / "none.pem", "--tls-cert", cert), "none.pem: no such file"),
        (("--tls-ca", tmp_path / "pipe.pem", "--tls-cert", cert), "pipe.pem: is a pipe"),
        (("--tls-ca", tmp_path / "text.pem", "--tls-cert", cert), "text.pem: holds no certificate"),
        (("--tls-ca", authority.ca, "--tls-cert", cert), "good.pem: holds no private key"),
        (("--tls-ca", authority.ca, "--tls-cert", cert, "--tls-key", old_key), "not the key of"),
        (("--tls-ca", authority.ca, "--tls-cert", cert, "--tls-key", locked), "has a pass phrase"),
        (("--tls-ca", authority.ca, "--tls-cert", old, "--tls-key", old_key), "expired on"),
        (("--tls-ca", authority.ca, "--tls-cert", early, "--tls-key", early_key), "valid from"),
        (("--tls-ca", other.ca, "--tls-cert", cert, "--tls-key", key), "--tls-ca has not signed"),
    ]
    for options, says in cases:
        code, error = join(tmp_path, capsys, scheduler, *options)
        assert code == 2 and says in error, (options, error)
    path, other_key = other.certificate("other")
    options = ("--tls-ca", authority.ca, "--tls-cert", path, "--tls-key", other_key)
    code, error = join(tmp_path, capsys, scheduler, *options)
    assert code == 1 and "not trust this certificate" in error
    code, error = join(tmp_path, capsys, scheduler.replace("tls://", "tcp://"))
    assert code == 1 and "wants TLS" in error


@pytest.mark.parametrize("address", ["tcp://192.0.2.7:8786", "192.0.2.7:8786"])
def test_no_tls_to_another_machine_wants_a_word(address, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(running_scheduler, "CONNECT_TIMEOUT_S", 0.5)
    code, error = join(tmp_path, capsys, address)
    assert code == 2 and "whoever can reach it can run code as you" in error
    assert "--insecure" in error
    code, error = join(tmp_path, capsys, address, "--insecure")
    assert code == 1 and "no Dask scheduler answers" in error


def test_no_tls_on_this_machine_is_warned_of():
    with scheduler_alone() as cluster:
        target = find_scheduler(SchedulerProfile(address=cluster.scheduler_address))
    assert "whoever can reach it can run code as you" in target.warnings[0]


@pytest.mark.parametrize(
    "options",
    [
        {"insecure": True},
        {"tls": {"ca": Path("ca.pem")}},
        {"scheduler": "tls://a:1", "dashboard": True},
    ],
)
def test_options_of_a_scheduler_go_with_one(options):
    with pytest.raises(UserError):
        choose_place(**options)


def test_a_dashboard_that_cannot_be_shown_is_refused(monkeypatch):
    monkeypatch.setattr("pipelines.run.places.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install"):
        choose_place(dashboard=True)
