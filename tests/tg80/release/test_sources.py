"""Where data come from: options, redirects, proxies, certificates, addresses."""

import shutil
import subprocess

import pytest

from pipelines.cli import run
from tests.support.web_server import Fault, proxying, serving
from tests.tg80.release.published import shard_path, tree
from tg80.errors import Tg80Error, UserError
from tg80.release.download import download
from tg80.release.selection import Selection
from tg80.release.sources import Patience, Refused, open_source

FAST = Patience(connect_s=5, stall_s=5, backoff_s=0.01, attempts=2)
PATH = shard_path("ethanol")
ONE = Selection(molecules=("ethanol",), level="pbe-def2svp")


def test_without_a_source_the_message_says_how_to_set_one(no_outside_settings, capsys):
    assert run(["download"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for words in ("no public mirror", "--source", "TG80_SOURCE"):
        assert words in line


def test_option_before_environment(site, tmp_path, no_outside_settings, monkeypatch):
    monkeypatch.setenv("TG80_SOURCE", "https://example.org/from-environment")
    assert open_source(None, FAST).name == "https://example.org/from-environment"
    assert open_source("https://example.org/given", FAST).name == "https://example.org/given"
    monkeypatch.setenv("TG80_SOURCE", "")  # as good as unset
    with pytest.raises(UserError, match="no source"):
        open_source("", FAST)
    monkeypatch.setenv("TG80_SOURCE", str(site / "1.0"))
    download(to=tmp_path / "out", selection=ONE, patience=FAST)
    assert (tmp_path / "out" / PATH).read_bytes() == (site / "1.0" / PATH).read_bytes()


@pytest.mark.parametrize(
    "address",
    ["ftp://example.org/x", "s3://bucket/x", "gopher://x", "/no/such/folder", "file://host/x",
     "file:///no/such/folder", "http://", "https:///x", "http://example.org/x?y=1",
     "http://example.org/#x"],
)  # fmt: skip
def test_addresses_that_are_none(address, no_outside_settings, capsys, tmp_path):
    assert run(["download", "--source", address, "--to", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert address in line


@pytest.mark.parametrize(
    "address",
    ["http://[", "http://[::1", "http://exa mple.org", "http://host:99999999", "http://.a"],
)
def test_addresses_that_no_request_can_be_made_of(address, no_outside_settings, capsys, tmp_path):
    options = ["--to", str(tmp_path / "out"), "--attempts", "1"]
    assert run(["download", "--source", address, *options]) in (1, 2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "bug" not in lines[0]


def test_a_server_that_is_not_there(no_outside_settings, tmp_path, site, capsys):
    with serving(site) as server:
        url = server.url
    options = ["--to", str(tmp_path / "out"), "--attempts", "2"]
    assert run(["download", "--source", url, *options]) == 1
    *said, error = capsys.readouterr().err.splitlines()
    assert error.endswith("versions.json: connection refused (tried 2 times)")
    assert len(said) == 1 and "attempt 2 of 2 in" in said[0]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(site, server, tmp_path, status):
    with serving(site) as front:
        front.faults["1.0/" + PATH] = [
            Fault(status=status, headers={"Location": f"{server.url}/1.0/{PATH}"})
        ]
        away = Fault(status=status, headers={"Location": "/1.0/README.md?x=1"})
        front.faults["1.0/README.md"] = [away]
        download(front.url, tmp_path / "out", selection=ONE, patience=FAST)
    assert tree(tmp_path / "out").items() <= tree(site / "1.0").items()
    assert [asked.path for asked in server.log] == ["1.0/" + PATH]


def test_a_range_is_kept_through_a_redirect(site, server, tmp_path):
    with serving(site) as front:
        location = {"Location": f"{server.url}/1.0/{PATH}"}
        front.faults["1.0/" + PATH] = [Fault(status=302, headers=location, forever=True)]
        server.faults["1.0/" + PATH] = [Fault(break_after=50_000)]
        download(front.url, tmp_path / "out", selection=ONE, patience=FAST)
    assert [asked.range for asked in server.log] == [None, "bytes=50000-"]


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher:x", "data:,x", "http://["]
)
def test_redirects_elsewhere_than_to_the_web(server, tmp_path, location):
    server.faults["1.0/" + PATH] = [Fault(status=302, headers={"Location": location})]
    report = download(server.url, tmp_path / "out", selection=ONE, patience=FAST)
    assert list(report.failed) == [PATH] and len(server.asked("1.0/" + PATH)) == 1
    assert not (tmp_path / "out" / PATH).exists()


def test_redirects_without_end(server, tmp_path):
    fault = Fault(status=302, headers={"Location": f"/1.0/{PATH}"}, forever=True)
    server.faults["1.0/" + PATH] = [fault]
    report = download(server.url, tmp_path / "out", selection=ONE, patience=FAST)
    assert "redirects more than 10 times" in report.failed[PATH]


def test_a_password_is_used_and_never_shown(site, server, tmp_path, capsys):
    address = server.url.replace("//", "//user:secret@")
    server.faults["1.0/" + PATH] = [Fault(break_after=1000), Fault(status=404)]
    options = ["download", "--source", address, "--to", str(tmp_path / "out"), "--molecules"]
    assert run([*options, "ethanol", "--level", "pbe-def2svp", "--json"]) == 1
    printed = capsys.readouterr()
    assert "secret" not in printed.out + printed.err
    assert server.log[0].headers["authorization"].startswith("Basic ")
    assert not any(b"secret" in content for content in tree(tmp_path / "out").values())


def test_through_a_proxy(site, server, tmp_path, monkeypatch):
    """The host's name exists for the proxy alone; what broke off goes on by range."""
    with proxying(server) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        server.faults["1.0/" + PATH] = [Fault(break_after=40_000)]
        download("http://data.invalid/", tmp_path / "out", selection=ONE, patience=FAST)
        assert (tmp_path / "out" / PATH).read_bytes() == (site / "1.0" / PATH).read_bytes()
        assert "GET http://data.invalid/versions.json HTTP/1.1" in proxy.log
        assert len(proxy.log) == len(server.log) > 4
        assert server.asked("1.0/" + PATH)[1].range == "bytes=40000-"
        # A host for which none is to be used is asked directly.
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        proxy.log.clear()
        download(server.url, tmp_path / "direct", selection=ONE, patience=FAST)
        assert proxy.log == []


def test_a_proxy_that_is_not_there(server, tmp_path, monkeypatch):
    with proxying(server) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
    with pytest.raises(Tg80Error, match="the proxy: connection refused"):
        download("http://data.invalid/", tmp_path / "out", patience=FAST)
    assert server.log == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A key and a certificate of its own signing for 127.0.0.1 and data.invalid, as PEM."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", "/CN=test", "-keyout", folder / "key.pem",
         "-out", folder / "certificate.pem",
         "-addext", "subjectAltName=IP:127.0.0.1,DNS:data.invalid"],
        check=True, capture_output=True,
    )  # fmt: skip
    both = folder / "both.pem"
    both.write_bytes((folder / "key.pem").read_bytes() + (folder / "certificate.pem").read_bytes())
    return both


def test_certificates_are_checked(site, certificate, tmp_path, monkeypatch):
    with serving(site, certificate) as server:
        with pytest.raises(Refused, match=r"certificate is not accepted: .*self.signed"):
            download(server.url, tmp_path / "out", patience=FAST)
        # One that the user trusts is good, for the host it names.
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        download(server.url, tmp_path / "out", patience=FAST)
        assert tree(tmp_path / "out") == tree(site / "1.0")
        with pytest.raises(Refused, match="certificate is not accepted"):
            download(server.url.replace("127.0.0.1", "localhost"), tmp_path / "b", patience=FAST)


def test_https_through_a_proxy(site, certificate, tmp_path, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with serving(site, certificate) as server, proxying(server) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        download("https://data.invalid", tmp_path / "out", selection=ONE, patience=FAST)
        assert (tmp_path / "out" / PATH).read_bytes() == (site / "1.0" / PATH).read_bytes()
        assert {line.split(" HTTP")[0] for line in proxy.log} == {"CONNECT data.invalid:443"}


def test_https_never_leads_to_http(site, server, certificate, tmp_path, monkeypatch):
    """A redirect out of the protected connection could change what is published."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with serving(site, certificate) as secure:
        location = {"Location": f"{server.url}/versions.json"}
        secure.faults["versions.json"] = [Fault(status=302, headers=location)]
        with pytest.raises(Tg80Error, match="redirects from https to http"):
            download(secure.url, tmp_path / "out", patience=FAST)
        assert server.log == []
        location = {"Location": f"{secure.url}/versions.json"}
        server.faults["versions.json"] = [Fault(status=302, headers=location)]
        download(
            server.url, tmp_path / "out", selection=ONE, patience=FAST
        )  # the other way is fine
