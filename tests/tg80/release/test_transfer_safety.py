"""Manifests that mean harm, folders with traps in them, and what is in a folder already."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.cli import run
from tests.support.web_server import Fault
from tests.tg80.release.published import publish_tree, put_manifest, sha256, shard_path, tree
from tg80.errors import CorruptFile, Tg80Error, UserError
from tg80.release.download import download, place
from tg80.release.manifest import PublishedFile
from tg80.release.selection import Selection
from tg80.release.sources import Patience

FAST = Patience(connect_s=5, stall_s=5, backoff_s=0.01, attempts=2, copies=2)
PATH = shard_path("ethanol")
ADDRESS = f"1.0/{PATH}"
ONE = Selection(molecules=("ethanol",), level="pbe-def2svp")


@pytest.mark.parametrize(
    "path",
    [
        "../evil", "a/../../evil", "..", "./evil", "a/./b", "a//b", "/evil", "/tmp/evil", "a/",
        "C:/evil", "C:evil", "..\\evil", "a\\b", "\\\\host\\evil", "evil\n", "e\x00vil", "",
        "~/evil", "%2e%2e/evil", "evil:stream", "\u202eevil",
        ".bashrc", ".git/config", "a/.hidden", "evil.part", "evil.wrong",
        "evil/x.part", "aux", "a/NUL.txt", "com1", "evil.", "a./b", "e" * 250,
        "README.md", "readme.MD", "manifest.json", "Manifest.JSON", "README.md/evil",
    ],
)  # fmt: skip
def test_manifests_with_bad_paths_are_refused_whole(site, server, tmp_path, path, capsys):
    manifest = json.loads((site / "1.0" / "manifest.json").read_text())
    manifest["files"].append({"path": path, "n_bytes": 4, "sha256": sha256(b"evil")})
    put_manifest(site, "1.0", json.dumps(manifest).encode())
    before = set(tmp_path.rglob("*"))
    out = tmp_path / "inner" / "out"
    assert run(["download", "--source", server.url, "--to", str(out)]) == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error")]
    assert "1.0/manifest.json" in line
    assert set(tmp_path.rglob("*")) == before
    assert {asked.path for asked in server.log} == {"versions.json", "1.0/manifest.json"}


@pytest.mark.parametrize("field", ["molecule", "level"])
def test_names_that_would_write_on_the_terminal(site, server, tmp_path, field):
    manifest = json.loads((site / "1.0" / "manifest.json").read_text())
    manifest["shards"][0][field] = "\x1b[2Jgone"
    put_manifest(site, "1.0", json.dumps(manifest).encode())
    with pytest.raises(CorruptFile, match="non-printable") as refused:
        download(server.url, tmp_path / "out", patience=FAST)
    assert "\x1b" not in str(refused.value)


@pytest.mark.parametrize(
    "text", [b"", b"<html>Not here</html>", b"[]", b"{}", b"\xff\xfe", b'{"a": ' * 5000, b"null"]
)
def test_a_manifest_that_is_none(site, server, tmp_path, text):
    put_manifest(site, "1.0", text)
    with pytest.raises(CorruptFile, match=r"1\.0/manifest\.json: not a valid manifest"):
        download(server.url, tmp_path / "out", patience=FAST)
    (site / "versions.json").write_bytes(text)
    with pytest.raises(CorruptFile, match=r"versions\.json: not a valid versions"):
        download(server.url, tmp_path / "out", patience=FAST)
    assert not (tmp_path / "out").exists()


def test_a_manifest_that_is_not_the_one_of_versions_json(site, server, tmp_path):
    manifest = site / "1.0" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("ethanol", "methanol"))
    with pytest.raises(CorruptFile, match=r"1\.0/manifest\.json.*tried 2 times"):
        download(server.url, tmp_path / "out", patience=FAST)
    assert not (tmp_path / "out").exists()


def test_a_manifest_of_another_version(site, server, tmp_path):
    put_manifest(site, "1.1", (site / "1.0" / "manifest.json").read_bytes())
    with pytest.raises(CorruptFile, match=r"is of 'tg80' 1\.0, not of 'tg80' 1\.1"):
        download(server.url, tmp_path / "out", patience=FAST)


def test_versions_that_are_odd(site, server, tmp_path):
    versions = json.loads((site / "versions.json").read_text())
    versions["versions"] *= 2
    (site / "versions.json").write_text(json.dumps(versions))
    with pytest.raises(CorruptFile, match="twice"):
        download(server.url, tmp_path / "out", patience=FAST)
    versions["versions"] = []
    (site / "versions.json").write_text(json.dumps(versions))
    with pytest.raises(UserError, match="no version is published"):
        download(server.url, tmp_path / "out", patience=FAST)


def test_a_manifest_without_end(server, tmp_path, monkeypatch):
    monkeypatch.setattr("tg80.release.release.LARGEST_MANIFEST", 100_000)
    server.faults["versions.json"] = [Fault(content=lambda c: b" " * 10**7, no_length=True)]
    with pytest.raises(Tg80Error, match="more than 100000 bytes"):
        download(server.url, tmp_path / "out", patience=FAST)
    assert server.log[0].n_sent < 10**7


def test_an_object_store_that_forbids_what_is_not_there(site, server, tmp_path):
    """Without the right to list, S3 answers 403 for a missing versions.json."""
    server.faults["1.0/versions.json"] = [Fault(status=403, forever=True)]
    download(f"{server.url}/1.0", tmp_path / "out", patience=FAST)
    assert tree(tmp_path / "out") == tree(site / "1.0")
    server.faults["versions.json"] = [Fault(status=403, forever=True)]
    with pytest.raises(Tg80Error, match=r"versions\.json: HTTP 403"):
        download(server.url, tmp_path / "other", patience=FAST)


@pytest.mark.parametrize("bad", [b"[1, 2]", b"{}", b"no", b'{"train": 3}', b'{"train": [1]}'])
def test_a_list_of_a_fold_that_is_none(site, server, tmp_path, bad):
    change_fold_list(site, bad)
    with pytest.raises(CorruptFile, match=r"folds/fold-1\.json: not a valid list"):
        download(server.url, tmp_path / "out", selection=Selection(fold=1), patience=FAST)


def test_a_list_of_a_fold_with_a_file_that_is_not_published(site, server, tmp_path):
    change_fold_list(site, b'{"train": ["../../etc/passwd"]}')
    with pytest.raises(CorruptFile, match="which the manifest does not"):
        download(server.url, tmp_path / "out", selection=Selection(fold=1), patience=FAST)


def change_fold_list(site, content):
    (site / "1.0" / "folds" / "fold-1.json").write_bytes(content)
    manifest = json.loads((site / "1.0" / "manifest.json").read_text())
    for entry in manifest["files"]:
        if entry["path"] == "folds/fold-1.json":
            entry |= {"n_bytes": len(content), "sha256": sha256(content)}
    put_manifest(site, "1.0", json.dumps(manifest).encode())


def link(tmp_path, name, target):
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


@pytest.mark.parametrize(
    "name",
    ["pbe-def2svp", PATH, f"{PATH}.part", f"{PATH}.wrong", "manifest.json",
     ".download.lock", "folds", "README.md"],
)  # fmt: skip
@pytest.mark.parametrize("dangling", [False, True])
def test_links_that_lead_out_of_the_folder(server, tmp_path, name, dangling):
    outside = tmp_path / "outside"
    if not dangling:
        if name in ("pbe-def2svp", "folds"):
            outside.mkdir()
        else:
            outside.write_bytes(b"precious")
    link(tmp_path, name, outside)
    with pytest.raises(UserError, match="by a link"):
        download(server.url, tmp_path / "out", selection=ONE, patience=FAST)
    if outside.is_file():
        assert outside.read_bytes() == b"precious"
    elif not dangling:
        assert list(outside.iterdir()) == []
    assert outside.exists() != dangling


def test_a_folder_that_is_itself_a_link_is_the_users_choice(site, server, tmp_path):
    (tmp_path / "big-disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "big-disk")
    download(server.url, tmp_path / "out", patience=FAST)
    assert tree(tmp_path / "big-disk") == tree(site / "1.0")


@pytest.mark.parametrize("name", [PATH, f"{PATH}.part", "pbe-def2svp", "manifest.json"])
def test_what_is_no_file_in_the_way_of_one(server, tmp_path, name):
    (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
    if name == "pbe-def2svp":
        (tmp_path / "out" / name).write_bytes(b"")
    elif name == PATH:
        (tmp_path / "out" / name).mkdir()
    else:
        os.mkfifo(tmp_path / "out" / name)
    with pytest.raises(Tg80Error, match=f"{name}"):
        download(server.url, tmp_path / "out", selection=ONE, patience=FAST)


def test_a_file_for_a_folder(server, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="is not a folder"):
        download(server.url, tmp_path / "out", patience=FAST)
    with pytest.raises(Tg80Error):
        download(server.url, tmp_path / "out" / "deeper", patience=FAST)
    assert (tmp_path / "out").read_text() == "mine"


def test_a_folder_that_cannot_be_written(server, tmp_path):
    with pytest.raises(Tg80Error, match="/proc/out"):
        download(server.url, "/proc/out", patience=FAST)


def test_other_peoples_files_are_never_replaced(site, server, tmp_path):
    """In a folder without a manifest of ours a file of that name is not ours to mend."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "README.md").write_text("my own notes")
    for dry_run in (True, False):
        with pytest.raises(UserError, match=r"README\.md: is another file"):
            download(server.url, out, patience=FAST, dry_run=dry_run)
    assert tree(out) == {"README.md": b"my own notes"}
    # What happens to be right is taken, and other names are let alone.
    (out / "README.md").write_bytes((site / "1.0" / "README.md").read_bytes())
    (out / "notes.txt").write_text("mine")
    report = download(server.url, out, patience=FAST)
    assert "README.md" in report.kept
    assert tree(out) == {**tree(site / "1.0"), "notes.txt": b"mine"}


@pytest.mark.parametrize("text", [b"", b"{}", b"my own manifest"])
def test_a_manifest_in_the_folder_that_is_none(server, tmp_path, text):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_bytes(text)
    with pytest.raises(UserError, match=r"not a valid manifest.*another --to"):
        download(server.url, tmp_path / "out", patience=FAST)
    assert (tmp_path / "out" / "manifest.json").read_bytes() == text


def test_a_version_that_was_changed_after_all(site, server, tmp_path):
    download(server.url, tmp_path / "out", patience=FAST)
    before = tree(tmp_path / "out")
    publish_tree(site, "1.0", seed=1)
    with pytest.raises(UserError, match="a published version never changes"):
        download(server.url, tmp_path / "out", patience=FAST)
    assert tree(tmp_path / "out") == before


def test_a_wrong_file_that_cannot_be_replaced_leaves_its_name(site, server, tmp_path):
    out = tmp_path / "out"
    download(server.url, out, selection=ONE, patience=FAST)
    (out / PATH).write_bytes(bytes(200_000))
    server.faults[ADDRESS] = [Fault(status=404)]
    report = download(server.url, out, selection=ONE, patience=FAST)
    assert list(report.failed) == [PATH]
    assert not (out / PATH).exists()
    assert Path(f"{out / PATH}.wrong").read_bytes() == bytes(200_000)
    download(server.url, out, selection=ONE, patience=FAST)
    assert (out / PATH).read_bytes() == (site / ADDRESS).read_bytes()
    assert not Path(f"{out / PATH}.wrong").exists()


def test_a_short_file_that_has_another_name_as_well_is_not_written_on(site, server, tmp_path):
    out = tmp_path / "out"
    download(server.url, out, selection=ONE, patience=FAST)
    (out / PATH).write_bytes(b"short")
    os.link(out / PATH, tmp_path / "mine")
    download(server.url, out, selection=ONE, patience=FAST)
    assert (out / PATH).read_bytes() == (site / ADDRESS).read_bytes()
    assert (tmp_path / "mine").read_bytes() == b"short"


NAMES = st.one_of(
    st.text(max_size=12),
    st.lists(
        st.sampled_from(["..", ".", "", "a", "b.h5md", "~", "C:", "con", "\\", "\x00"]),
        max_size=5,
    ).map("/".join),
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(path=NAMES)
def test_no_path_leaves_the_folder(tmp_path_factory, path):
    folder = tmp_path_factory.getbasetemp() / "paths"
    folder.mkdir(exist_ok=True)
    try:
        PublishedFile(path=path, n_bytes=0, sha256="0" * 64)
    except ValueError:
        return
    target = place(folder, path)
    assert target.resolve().is_relative_to(folder.resolve()) and target != folder
