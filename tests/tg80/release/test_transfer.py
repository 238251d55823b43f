"""`tg80 download` from a real web server: all of it, parts of it, broken off and gone on with."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from pipelines.cli import run
from tests.support.web_server import Fault, serving
from tests.tg80.release.published import NAMES, PARTS, publish_tree, shard_path, tree
from tg80.errors import Tg80Error, UserError
from tg80.release.download import download
from tg80.release.selection import Selection
from tg80.release.sources import Patience, Watcher

pytestmark = pytest.mark.usefixtures("no_outside_settings")
FAST = Patience(connect_s=5, stall_s=5, backoff_s=0.01)


def shards_in(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*.h5md")}


def part_sizes(folder):
    """By path; a part that gets its name meanwhile is left out."""
    sizes = {}
    for path in folder.rglob("*.part"):
        with suppress(FileNotFoundError):
            sizes[path] = path.stat().st_size
    return sizes


def test_the_whole_version_is_what_was_published(server, site, tmp_path):
    report = download(server.url, tmp_path / "out", patience=FAST)
    assert tree(tmp_path / "out") == tree(site / "1.0")
    assert not report.failed and not report.kept
    assert len(report.fetched) == len(tree(site / "1.0")) - 1  # the manifest is not in itself
    assert report.n_bytes_received == sum(report.fetched.values())
    assert {asked.path for asked in server.log if asked.status != 200} == set()
    assert {asked.headers["accept-encoding"] for asked in server.log} == {"identity"}


def test_nothing_right_is_fetched_twice(server, site, tmp_path):
    download(server.url, tmp_path / "out", patience=FAST)
    server.log.clear()
    again = download(server.url, tmp_path / "out", patience=FAST)
    assert [asked.path for asked in server.log] == ["versions.json", "1.0/manifest.json"]
    assert not again.fetched and again.n_bytes_received == 0
    # One file less, one cut short, one changed: these three are asked for and no other.
    gone, short, changed = (tmp_path / "out" / shard_path(name) for name in NAMES[:3])
    gone.unlink()
    whole = short.read_bytes()
    short.write_bytes(whole[:40_000])
    flipped = bytearray(changed.read_bytes())
    flipped[77] ^= 1
    changed.write_bytes(flipped)
    server.log.clear()
    report = download(server.url, tmp_path / "out", patience=FAST)
    assert set(report.fetched) == {shard_path(name) for name in NAMES[:3]}
    assert tree(tmp_path / "out") == tree(site / "1.0")
    (asked,) = server.asked(f"1.0/{shard_path(NAMES[1])}")
    assert (asked.range, asked.n_sent) == ("bytes=40000-", len(whole) - 40_000)
    assert len(server.log) == 2 + 3


@pytest.mark.parametrize(
    ("selection", "names", "levels"),
    [
        (Selection(fold=1), NAMES, 2),
        (Selection(fold=1, parts=("train",)), PARTS["train"], 2),
        (Selection(fold=1, parts=("test_time",)), PARTS["train"], 2),
        (Selection(fold=1, parts=("val_time", "train")), PARTS["train"], 2),
        (Selection(fold=1, parts=("val", "test_ood")), ("aniline", "acetone"), 2),
        (Selection(molecules=("phenol", "ethanol")), ("phenol", "ethanol"), 2),
        (Selection(level="gfn2-xtb"), NAMES, 1),
        (Selection(1, ("train", "test_id"), ("phenol",), "gfn2-xtb"), ("phenol",), 1),
    ],
    ids=str,
)
def test_only_what_is_asked_for(server, site, tmp_path, selection, names, levels):
    report = download(server.url, tmp_path / "out", selection=selection, patience=FAST)
    out, published = tree(tmp_path / "out"), tree(site / "1.0")
    assert out.items() <= published.items()
    shards = shards_in(tmp_path / "out")
    assert {path.split("/")[1] for path in shards} == {f"{name}-r0.h5md" for name in names}
    assert len(shards) == levels * len(names)
    # With each shard its checksum and no other's; always the card, the splits and the manifest.
    assert {p for p in out if p.endswith(".sha256")} == {f"{path}.sha256" for path in shards}
    assert {"README.md", "splits/tg80-v1.json", "folds/fold-1.json", "manifest.json"} <= set(out)
    assert not any(path.startswith("plots/") for path in out)
    assert report.molecules == tuple(sorted(names))


def test_a_download_can_be_widened(server, site, tmp_path):
    download(server.url, tmp_path / "out", selection=Selection(1, ("val",)), patience=FAST)
    server.log.clear()
    report = download(server.url, tmp_path / "out", patience=FAST)
    assert tree(tmp_path / "out") == tree(site / "1.0")
    assert f"1.0/{shard_path('aniline')}" not in {asked.path for asked in server.log}
    assert report.kept.keys() >= {shard_path("aniline")}


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        (dict(fold=7), "folds are 1"),
        (dict(parts=("train",)), "--fold"),
        (dict(fold=1, parts=("test",)), "test_ood"),
        (dict(molecules=("ethanol", "kryptonite")), "kryptonite"),
        (dict(level="ccsd"), "pbe-def2svp"),
        (dict(fold=1, parts=("val",), molecules=("ethanol",)), "no file fits"),
    ],
)
def test_what_is_not_published_is_the_users_mistake(server, tmp_path, selection, words):
    with pytest.raises(UserError, match=words):
        download(server.url, tmp_path / "out", selection=Selection(**selection), patience=FAST)
    assert not (tmp_path / "out").exists()


def test_versions(site, server, tmp_path):
    publish_tree(site, "1.1")
    assert download(server.url, tmp_path / "new", patience=FAST).version == "1.1"
    assert download(server.url, tmp_path / "old", version="1.0", patience=FAST).version == "1.0"
    assert tree(tmp_path / "new") == tree(site / "1.1")
    assert tree(tmp_path / "old") == tree(site / "1.0")
    with pytest.raises(UserError, match=r"no version 2\.0.*1\.0, 1\.1"):
        download(server.url, tmp_path / "none", version="2.0", patience=FAST)
    # A folder keeps to one version.
    with pytest.raises(UserError, match=r"holds tg80 1\.0, not tg80 1\.1"):
        download(server.url, tmp_path / "old", patience=FAST)
    assert tree(tmp_path / "old") == tree(site / "1.0")


@pytest.mark.parametrize("form", ["url", "path", "file-url"])
@pytest.mark.parametrize("inner", ["", "1.0"], ids=["site", "version"])
def test_sites_and_versions_by_url_and_path(server, site, tmp_path, form, inner):
    base = {"url": server.url, "path": str(site), "file-url": site.as_uri()}[form]
    download(f"{base}/{inner}", tmp_path / "out", patience=FAST)
    assert tree(tmp_path / "out") == tree(site / "1.0")


def test_a_version_that_names_another(server, tmp_path):
    with pytest.raises(UserError, match=r"is version 1\.0, not 1\.1"):
        download(f"{server.url}/1.0", tmp_path / "out", version="1.1", patience=FAST)


def test_nothing_is_published_there(tmp_path, server):
    for source in (f"{server.url}/elsewhere", tmp_path):
        with pytest.raises(UserError, match=r"neither versions\.json nor manifest\.json"):
            download(str(source), tmp_path / "out", patience=FAST)


def test_a_copy_from_a_folder_goes_on_where_it_was(site, tmp_path):
    selection = Selection(molecules=("ethanol",), level="gfn2-xtb")
    path = shard_path("ethanol", "gfn2-xtb")
    first = download(str(site), tmp_path / "out", selection=selection)
    whole = (site / "1.0" / path).read_bytes()
    (tmp_path / "out" / path).write_bytes(whole[:30_000])
    again = download(str(site), tmp_path / "out", selection=selection)
    assert first.n_bytes_received > again.n_bytes_received == len(whole) - 30_000
    # A beginning of something else is of no use, and one more start finds that out.
    (tmp_path / "out" / path).write_bytes(bytes(30_000))
    assert not download(str(site), tmp_path / "out", selection=selection).failed
    assert (tmp_path / "out" / path).read_bytes() == whole
    # Wrong in the source itself: refused by name.
    (site / "1.0" / path).write_bytes(whole[:-1] + b"?")
    (tmp_path / "out" / path).unlink()
    report = download(str(site), tmp_path / "out", selection=selection)
    assert list(report.failed) == [path] and "SHA-256" in report.failed[path]
    assert not (tmp_path / "out" / path).exists()


def test_the_source_itself_is_no_target(site):
    with pytest.raises(UserError, match="source itself"):
        download(str(site), site / "1.0")


def test_dry_run(server, site, tmp_path, capsys):
    out = tmp_path / "out"
    options = ["download", "--source", server.url, "--to", str(out), "--molecules", "ethanol"]
    assert run([*options, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert f"{100_000:,}  {shard_path('ethanol')}" in printed and "to fetch" in printed
    assert not out.exists()
    assert run(options) == 0
    assert run([*options, "--dry-run", "--json"]) == 0
    text = capsys.readouterr().out
    found = json.loads(text[text.index("{") :])
    assert found["fetched"] == {} and found["dry_run"] is True
    assert found["n_bytes_kept"] == sum(found["kept"].values()) > 200_000


def test_the_command_tells_what_it_did(server, site, tmp_path, capsys):
    out = tmp_path / "out"
    options = ["download", "--source", server.url, "--to", str(out), "--jobs", "2"]
    assert run([*options, "--fold", "1", "--part", "val", "--part", "test_id"]) == 0
    printed = capsys.readouterr().out
    assert "tg80 1.0" in printed and str(out) in printed
    assert f'tg80.load("{out}", level="gfn2-xtb")' in printed
    assert run([*options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["failed"] == {} and len(found["kept"]) == 11
    assert found["source"] == server.url and found["folder"] == str(out)


def test_default_folder(server, site, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert download(server.url, patience=FAST).folder == "tg80-1.0"
    assert tree(tmp_path / "tg80-1.0") == tree(site / "1.0")


def start(server, out, *options):
    """A real `tg80 download` process; Ctrl-C reaches it even where the tests ignore it."""
    command = [sys.executable, "-m", "pipelines.cli", "download", "--source", server.url]
    return subprocess.Popen(
        [*command, "--to", str(out), *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_stopped_in_the_middle_and_gone_on_with(tmp_path, how):
    publish_tree(tmp_path / "site", n_bytes=300_000)
    out = tmp_path / "out"
    with serving(tmp_path / "site") as server:
        server.bytes_per_s = 300_000
        process = start(server, out, "--jobs", "3")

        def in_the_middle():
            sizes = part_sizes(out).values()
            return len(shards_in(out)) >= 3 and sum(50_000 < n < 250_000 for n in sizes) >= 2

        wait_until(in_the_middle)
        process.send_signal(how)
        _, said = process.communicate(timeout=60)
        if how == signal.SIGINT:
            assert process.returncode == 130 and "resumes from here" in said
        whole = tree(out)
        parts = {path: n for path, n in part_sizes(out).items() if 0 < n < 300_000}
        published = tree(tmp_path / "site" / "1.0")
        finished = {path for path in whole if not path.endswith(".part")}
        assert {path: whole[path] for path in finished}.items() <= published.items()
        assert parts and 3 <= len(shards_in(out)) < 10

        server.log.clear()
        server.bytes_per_s = None
        process = start(server, out)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
        assert tree(out) == published
        asked = {each.path.removeprefix("1.0/"): each for each in server.log}
        assert len(server.log) == len(asked)  # nothing twice
        assert not finished - {"manifest.json"} & set(asked)  # nothing that was whole
        for part, size in parts.items():
            path = str(part.relative_to(out)).removesuffix(".part")
            assert asked[path].range == f"bytes={size}-"
            assert asked[path].n_sent == len(published[path]) - size


def test_a_second_download_into_the_same_folder_is_refused(site, tmp_path):
    with serving(site) as server:
        server.bytes_per_s = 100_000
        process = start(server, tmp_path / "out")
        try:
            wait_until(lambda: list((tmp_path / "out").rglob("*.part")))
            with pytest.raises(UserError, match="another download"):
                download(server.url, tmp_path / "out", patience=FAST)
        finally:
            process.kill()
            process.communicate()
        server.bytes_per_s = None
        download(server.url, tmp_path / "out", patience=FAST)
    assert tree(tmp_path / "out") == tree(site / "1.0")


@pytest.mark.parametrize("jobs", [1, 4])
def test_files_come_side_by_side(server, tmp_path, jobs):
    server.bytes_per_s = 250_000  # a connection
    out, at_once = tmp_path / "out", []

    class Counter(Watcher):
        def advance(self, n_bytes):
            at_once.append(len(part_sizes(out)))

    selection = Selection(1, ("train",))
    download(server.url, out, jobs=jobs, selection=selection, watcher=Counter())
    assert (max(at_once) > 1) == (jobs > 1)


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
from pipelines.cli import run
sys.exit(run(sys.argv[1:]))
"""


def test_a_disk_that_takes_no_more_bytes(server, site, tmp_path):
    """The system itself refuses the write: here a limit on the size of a file."""
    command = ["download", "--source", server.url, "--to", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *command], capture_output=True, text=True, timeout=60
    )
    errors = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert done.returncode == 1 and len(errors) == 1
    assert "the disk is full" in errors[0] and "resumes from here" in errors[0]
    server.log.clear()
    download(server.url, tmp_path / "out", patience=FAST)
    assert tree(tmp_path / "out") == tree(site / "1.0")
    assert any(asked.range == "bytes=60000-" for asked in server.log)


def test_a_full_file_system(server, tmp_path):
    """A file system of 1 MB, made and mounted for this process alone where the system lets us."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = f"{sys.executable} -m pipelines.cli download --source {server.url} --to {disk}/out"
    script = f"mount -t tmpfs -o size=600k none {disk} && {command}"
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"]).returncode:
        pytest.skip("no user name spaces here")
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "MB are to be fetched and 0.6 MB are free" in done.stderr


def test_jobs_out_of_range(server, tmp_path):
    for jobs in (0, 1000):
        with pytest.raises(UserError, match="--jobs"):
            download(server.url, tmp_path / "out", jobs=jobs)


def test_a_server_that_is_gone_is_given_up_for_all_files_at_once(site, tmp_path):
    """Not five attempts for each of many files."""
    with serving(site) as server:
        for path in tree(site / "1.0"):
            if path != "manifest.json":
                server.faults[f"1.0/{path}"] = [Fault(status=503, forever=True)]
        with pytest.raises(Tg80Error, match=r"503.*so did 7 files"):
            download(server.url, tmp_path / "out", patience=FAST)
        assert len(server.log) < 2 + 5 * 14  # 8 files given up, and those then under way
