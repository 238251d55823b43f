"""Servers that err, lie, stall or change: nothing wrong is ever accepted, nothing right lost."""

import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.cli import run
from tests.support.web_server import Fault, serving
from tests.tg80.release.published import publish_tree, shard_path, tree
from tg80.release.download import download
from tg80.release.selection import Selection
from tg80.release.sources import Patience, Watcher

FAST = Patience(connect_s=5, stall_s=5, backoff_s=0.01)
PATH = shard_path("ethanol")
ADDRESS = f"1.0/{PATH}"
N_BYTES = 100_000
ONE = Selection(molecules=("ethanol",), level="pbe-def2svp")


def flipped(content, at=12_345):
    changed = bytearray(content)
    changed[at % len(changed)] ^= 1
    return bytes(changed)


def fetch(server, tmp_path, *faults, patience=FAST, **options):
    """Downloads one shard with these faults in its answers.

    Returns:
        The report, and the requests for the shard.
    """
    server.faults[ADDRESS] = list(faults)
    report = download(server.url, tmp_path / "out", selection=ONE, patience=patience, **options)
    return report, server.asked(ADDRESS)


def assert_right(site, tmp_path):
    assert (tmp_path / "out" / PATH).read_bytes() == (site / ADDRESS).read_bytes()
    assert tree(tmp_path / "out").items() <= tree(site / "1.0").items()  # and nothing beside it


def assert_refused(report, tmp_path, words):
    """By name, with nothing under the final name, and all other files here."""
    assert list(report.failed) == [PATH]
    assert PATH in report.failed[PATH] and words in report.failed[PATH]
    assert "\n" not in report.failed[PATH]
    assert not (tmp_path / "out" / PATH).exists()
    assert (tmp_path / "out" / "README.md").exists()
    assert f"{PATH}.sha256" in report.fetched | report.kept


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=500), Fault(status=502), Fault(status=503), Fault(status=504),
        Fault(status=429), Fault(status=408),
        Fault(break_after=0), Fault(break_after=60_000), Fault(no_length=True),
        Fault(no_length=True, break_after=60_000), Fault(stated=N_BYTES, break_after=99_999),
        Fault(stated=N_BYTES + 1), Fault(stated=50_000), Fault(stated=0),
        Fault(content=flipped), Fault(content=lambda c: c[:60_000]),
        Fault(content=lambda c: c + b"more"), Fault(content=lambda c: b"<html>Log in</html>"),
        Fault(content=lambda c: c + b"more", no_length=True), Fault(content=lambda c: b""),
        Fault(content=lambda c: c[:60_000], no_length=True),
        Fault(encoding="gzip"), Fault(encoding="gzip", content=flipped),
        Fault(encoding="gzip", break_after=60_000),
        Fault(headers={"Content-Encoding": "gzip"}),
    ],
)  # fmt: skip
def test_one_fault_is_got_over(server, site, tmp_path, fault):
    report, _ = fetch(server, tmp_path, fault)
    assert not report.failed
    assert_right(site, tmp_path)


@pytest.mark.parametrize(
    ("fault", "words", "n_asked"),
    [
        (Fault(status=404), "HTTP 404 Not Found", 1),
        (Fault(status=410), "HTTP 410", 1),
        (Fault(status=403), "HTTP 403 Forbidden", 1),
        (Fault(status=401), "HTTP 401", 1),
        (Fault(status=204), "HTTP 204", 1),
        (Fault(status=500), "HTTP 500 Internal Server Error (tried 5 times)", 5),
        (Fault(status=429), "HTTP 429 Too Many Requests (tried 5 times)", 5),
        (Fault(break_after=0), "broke off", 5),
        (Fault(content=flipped), "its SHA-256 is not that of the manifest (tried 3 times)", 3),
        (Fault(content=lambda c: c[:60_000]), f"60000 bytes there, {N_BYTES} in the manifest", 3),
        (Fault(content=lambda c: c + b"more"), f"{N_BYTES + 4} bytes there", 3),
        (Fault(content=lambda c: c + b"more", no_length=True), "has more than the 100000", 3),
        # Short without saying so: asked for the rest each time, of which there is nothing.
        (Fault(content=lambda c: c[:60_000], no_length=True), "nothing from byte 60000", 6),
        (Fault(stated=50_000), "50000 bytes there", 3),
        (Fault(encoding="gzip", content=flipped), "SHA-256", 3),
    ],
)
def test_a_fault_that_stays_is_refused_by_name(server, tmp_path, fault, words, n_asked):
    fault = Fault(**{**vars(fault), "forever": True})
    report, asked = fetch(server, tmp_path, fault)
    assert_refused(report, tmp_path, words)
    assert len(asked) == n_asked


def test_one_flipped_byte_on_the_server(site, server, tmp_path, capsys):
    """The command: exit code 1, one line with the name, the rest is kept for the next time."""
    published = tree(site / "1.0")
    (site / ADDRESS).write_bytes(flipped(published[PATH]))
    command = ["download", "--source", server.url, "--to", str(tmp_path / "out")]
    assert run(command) == 1
    errors = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error")]
    assert len(errors) == 1 and ADDRESS in errors[0] and "SHA-256" in errors[0]
    del published[PATH]
    assert tree(tmp_path / "out") == published
    assert len(server.asked(ADDRESS)) == 3
    # Mended on the server, that file alone is fetched.
    (site / ADDRESS).write_bytes(flipped((site / ADDRESS).read_bytes()))
    server.log.clear()
    assert run(command) == 0
    assert len(server.log) == 3 and tree(tmp_path / "out") == tree(site / "1.0")


def test_a_broken_connection_is_gone_on_with_by_range(server, site, tmp_path):
    breaks = [Fault(break_after=30_000), Fault(break_after=20_000), Fault(break_after=1)]
    report, asked = fetch(server, tmp_path, *breaks)
    assert_right(site, tmp_path)
    ranges = [None, "bytes=30000-", "bytes=50000-", "bytes=50001-"]
    assert [each.range for each in asked] == ranges
    assert (
        sum(each.n_sent for each in asked)
        == N_BYTES
        == report.n_bytes_received - sum(n for path, n in report.fetched.items() if path != PATH)
    )


def test_a_file_that_changes_between_attempts_is_found_by_the_checksum(server, site, tmp_path):
    """The first half is of other content: the whole is wrong, and comes once more."""
    other = Fault(content=lambda c: bytes(len(c)), break_after=50_000)
    _, asked = fetch(server, tmp_path, other)
    assert_right(site, tmp_path)
    assert [each.status for each in asked] == [200, 206, 200]


def test_a_part_from_another_server_is_resumed(server, site, tmp_path):
    patience = Patience(attempts=1, backoff_s=0)
    fetch(server, tmp_path, Fault(break_after=50_000), patience=patience)
    with serving(site) as mirror:
        _, asked = fetch(mirror, tmp_path)
    assert_right(site, tmp_path)
    assert [each.range for each in asked] == ["bytes=50000-"]


def test_a_server_without_ranges_starts_over(server, site, tmp_path):
    no_ranges = Fault(no_ranges=True)
    report, asked = fetch(server, tmp_path, Fault(break_after=50_000), no_ranges)
    assert_right(site, tmp_path)
    assert [each.status for each in asked] == [200, 200]  # and no third request
    assert report.n_bytes_received > N_BYTES + 50_000


@pytest.mark.parametrize(
    "answer", ["bytes 0-99999/100000", "bytes 50001-99999/100000", "items 50000-9/10", ""]
)
def test_a_part_that_is_not_the_one_asked_for(server, site, tmp_path, answer):
    _, asked = fetch(server, tmp_path, Fault(break_after=50_000), Fault(answer_range=answer))
    assert_right(site, tmp_path)
    assert [each.range for each in asked] == [None, "bytes=50000-", None]


def test_a_part_of_a_file_of_another_size(server, site, tmp_path):
    lie = Fault(answer_range="bytes 50000-99999/100001")
    _, asked = fetch(server, tmp_path, Fault(break_after=50_000), lie)
    assert_right(site, tmp_path)
    assert asked[2].range == "bytes=50000-"  # what is here need not be thrown away for it


def test_the_range_is_not_satisfiable(server, site, tmp_path):
    whole = {"Content-Range": "bytes */100000"}
    refusal = Fault(status=416, headers=whole)
    _, asked = fetch(server, tmp_path, Fault(break_after=50_000), refusal)
    assert_right(site, tmp_path)
    assert [each.range for each in asked] == [None, "bytes=50000-", None]


def test_more_bytes_than_the_manifest_says_are_never_stored(server, tmp_path):
    """An endless body with no stated length."""
    endless = Fault(content=lambda c: c * 100, no_length=True, forever=True)
    report, asked = fetch(server, tmp_path, endless)
    assert_refused(report, tmp_path, "has more than the 100000 bytes")
    assert all(each.n_sent < 100 * N_BYTES for each in asked)
    assert not list((tmp_path / "out").rglob("*.part"))


def test_a_part_file_longer_than_the_file(server, site, tmp_path):
    part = tmp_path / "out" / f"{PATH}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(N_BYTES + 5))
    _, asked = fetch(server, tmp_path)
    assert_right(site, tmp_path)
    assert [each.range for each in asked] == [None]


def test_a_whole_part_file_needs_no_request(server, site, tmp_path):
    """Killed between the last byte and the rename."""
    part = tmp_path / "out" / f"{PATH}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes((site / ADDRESS).read_bytes())
    _, asked = fetch(server, tmp_path)
    assert_right(site, tmp_path)
    assert asked == []


def test_retry_after_is_honoured(server, site, tmp_path):
    began = time.monotonic()
    fetch(server, tmp_path, Fault(status=503, headers={"Retry-After": "1"}))
    assert_right(site, tmp_path)
    assert time.monotonic() - began > 1


@pytest.mark.parametrize("value", ["100000", "Fri, 31 Dec 2100 00:00:00 GMT"])
def test_a_server_that_wants_to_be_left_alone_for_long(server, tmp_path, value):
    report, asked = fetch(server, tmp_path, Fault(status=429, headers={"Retry-After": value}))
    assert_refused(report, tmp_path, "to be asked again after")
    assert len(asked) == 1


@pytest.mark.parametrize("value", ["soon", "-5", "Thu, 01 Jan 1970 00:00:00 GMT", "9" * 400])
def test_a_retry_after_that_says_nothing(server, site, tmp_path, value):
    report, _ = fetch(server, tmp_path, Fault(status=503, headers={"Retry-After": value}))
    if len(value) < 400:
        assert_right(site, tmp_path)
    else:
        assert_refused(report, tmp_path, "503")


def test_waits_double_and_vary(server, site, tmp_path):
    patience = Patience(backoff_s=0.1)
    server.faults[ADDRESS] = [Fault(status=500)] * 4
    lines = []

    class Listener(Watcher):
        def say(self, line):
            lines.append(line)

    download(server.url, tmp_path / "out", selection=ONE, patience=patience, watcher=Listener())
    assert_right(site, tmp_path)
    waits = [float(line.split(" in ")[1].removesuffix(" s")) for line in lines]
    assert len(waits) == 4
    for wait, mean in zip(waits, (0.1, 0.2, 0.4, 0.8), strict=True):
        assert 0.45 * mean <= wait <= 1.6 * mean


def test_a_server_that_stalls(server, site, tmp_path):
    """Once: gone on with after the silence. For ever: given up, what came stays."""
    patience = Patience(stall_s=0.3, backoff_s=0.01, attempts=3)
    _, asked = fetch(server, tmp_path, Fault(stall_after=50_000), patience=patience)
    assert_right(site, tmp_path)
    assert asked[1].range == "bytes=50000-"
    (tmp_path / "out" / PATH).unlink()
    server.log.clear()
    faults = [Fault(stall_after=50_000), Fault(stall_after=0, forever=True)]
    report, asked = fetch(server, tmp_path, *faults, patience=patience)
    assert_refused(report, tmp_path, "timed out (tried 3 times)")
    assert (tmp_path / "out" / f"{PATH}.part").stat().st_size == 50_000
    fetch(server, tmp_path)
    assert_right(site, tmp_path)


def test_a_slow_but_steady_server(site, tmp_path):
    """Far longer in all than the longest silence that is borne."""
    with serving(site) as server:
        server.bytes_per_s = 60_000
        began = time.monotonic()
        report, asked = fetch(server, tmp_path, patience=Patience(stall_s=0.8, attempts=1))
        assert time.monotonic() - began > 1.5
    assert not report.failed and len(asked) == 1
    assert_right(site, tmp_path)


def test_progress_in_small_steps_comes_to_an_end(tmp_path, no_outside_settings):
    """A server that always breaks off soon is not to keep us for ever; one that brings much is."""
    publish_tree(tmp_path / "site", n_bytes=3_500_000)
    with serving(tmp_path / "site") as server:
        patience = Patience(backoff_s=0, attempts=2)
        report, asked = fetch(
            server, tmp_path, Fault(break_after=1_100_000, forever=True), patience=patience
        )
        assert not report.failed and len(asked) == 4
        (tmp_path / "out" / PATH).unlink()
        server.log.clear()
        report, asked = fetch(
            server, tmp_path, Fault(break_after=1000, forever=True), patience=patience
        )
        assert_refused(report, tmp_path, "broke off")
        assert len(asked) == 2
        # Without ranges each attempt begins anew and gets no farther.
        again = Fault(break_after=1_100_000, no_ranges=True, forever=True)
        report, asked = fetch(server, tmp_path, again, patience=patience)
        assert_refused(report, tmp_path, "broke off")


def test_the_manifest_is_tried_again_as_well(server, site, tmp_path):
    server.faults["versions.json"] = [Fault(status=500), Fault(break_after=10)]
    server.faults["1.0/manifest.json"] = [Fault(content=flipped), Fault(break_after=100)]
    report, _ = fetch(server, tmp_path)
    assert not report.failed
    assert_right(site, tmp_path)


FAULTS = st.builds(
    Fault,
    status=st.sampled_from([None, None, None, 500, 503, 416]),
    content=st.sampled_from([None, None, flipped, lambda c: c[:700], lambda c: c + b"x" * 500]),
    break_after=st.none() | st.integers(0, 1100),
    stated=st.none() | st.none() | st.integers(0, 2000),
    no_length=st.booleans(),
    no_ranges=st.booleans(),
    encoding=st.sampled_from([None, None, "gzip"]),
    answer_range=st.sampled_from([None, None, "bytes 3-999/1000", "bytes */5"]),
)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A server of files of 1000 bytes and more."""
    folder = tmp_path_factory.mktemp("small")
    publish_tree(folder / "site", n_bytes=1000)
    with serving(folder / "site") as server:
        yield server


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(faults=st.lists(FAULTS, max_size=6), part=st.none() | st.binary(max_size=1200))
def test_whatever_the_server_does(small, faults, part):
    """The right file under its name, or none and its name in the report."""
    right = (small.root / ADDRESS).read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        if part is not None:
            (out / PATH).parent.mkdir(parents=True)
            Path(f"{out / PATH}.part").write_bytes(part)
        small.faults[ADDRESS] = list(faults)
        patience = Patience(connect_s=5, stall_s=5, attempts=3, copies=3, backoff_s=0)
        report = download(small.url, out, selection=ONE, patience=patience, jobs=1)
        if report.failed:
            assert list(report.failed) == [PATH] and not (out / PATH).exists()
            # One 416 is final where no range was asked for.
            assert len(faults) >= 3 or any(fault.status == 416 for fault in faults)
        else:
            assert (out / PATH).read_bytes() == right
        small.faults.clear()
        report = download(small.url, out, selection=ONE, patience=patience, jobs=1)
        assert not report.failed and (out / PATH).read_bytes() == right
