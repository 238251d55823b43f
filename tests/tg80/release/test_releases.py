"""Releases of this repository: published where they are, found by name, fetched over HTTP.

The commands of the documentation's three ways run here, on a release of small shards.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import tg80
from benchmarks.cli import main as bench
from pipelines.cli import run
from tests.support import factories
from tests.support.web_server import serving
from tests.tg80.release.published import tree
from tests.tg80.release.test_transfer import part_sizes, shards_in, wait_until
from tg80.dataset import shipped_folder
from tg80.errors import CorruptFile, UserError
from tg80.release.card import folder_card
from tg80.release.card import main as make_card
from tg80.release.download import download
from tg80.release.intact import check_versions
from tg80.release.publish import publish_here
from tg80.release.survey import survey
from tg80.splits.split import load_split, mini_names

pytestmark = pytest.mark.usefixtures("no_outside_settings")
ROOT = Path(__file__).parents[3]
NAME = "tg80-small-v1"
SPLIT = load_split("tg80-v1")
MINI = mini_names(SPLIT.molecules, SPLIT.clusters)
# With each part of fold 3.
NAMES = sorted({*MINI[::3], *SPLIT.restrict(MINI).fold(3).test_id[:2]})
WAYS = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/dataset/downloading.md").read_text(), re.S)


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """A release of some compounds of the mini set, published where it is."""
    folder = tmp_path_factory.mktemp("checkout") / "tg80" / "data" / "releases" / NAME
    folder.mkdir(parents=True)
    for name in NAMES:
        for path in shipped_folder("mini-xtb").glob(f"{name}-r0.h5md*"):
            shutil.copy(path, folder)
    split = folder.parents[3] / "split.json"
    split.write_text(SPLIT.restrict(NAMES).to_json())
    assert run(["publish", str(folder), "--split", str(split)]) == 0
    return folder


@pytest.fixture
def spoilt(release, tmp_path):
    """A copy of the release."""
    return Path(shutil.copytree(release, tmp_path / NAME))


def test_what_is_published_stays_where_it_is(release):
    content = tree(release)
    folds = {f"folds/fold-{fold}.json" for fold in range(1, 6)}
    assert {"manifest.json", "README.md", "croissant.json", *folds} < set(content)
    assert {path for path in content if path.endswith(".h5md")} == {f"{n}-r0.h5md" for n in NAMES}
    assert "plots/gfn2-xtb/drift.png" in content and "splits" in {p.split("/")[0] for p in content}
    assert f"# tg80-small {NAME.rpartition('-')[2]}" in content["README.md"].decode()
    assert check_versions(release) == []
    assert run(["validate", str(release)]) == 0
    data = tg80.load(release)
    assert sorted(data) == sorted(NAMES) and data.split == SPLIT.restrict(NAMES)


def test_a_published_release_never_changes(spoilt, capsys):
    with pytest.raises(UserError, match="is published and never changes"):
        publish_here(spoilt)
    with pytest.raises(SystemExit, match="is published and never changes"):
        make_card([str(spoilt)])
    assert tree(spoilt).keys() and run(["publish", str(spoilt)]) == 2
    # A new shard, an altered one with a checksum to match, and one that is gone.
    factories.make_shard(spoilt, "ethanol", n_frames=40)
    with pytest.raises(CorruptFile, match=r"ethanol-r0.h5md: missing or altered; a published"):
        publish_here(spoilt)
    (spoilt / "ethanol-r0.h5md").unlink()
    (spoilt / "ethanol-r0.h5md.sha256").unlink()
    factories.make_shard(spoilt, NAMES[0], n_frames=400, seed=1)
    with pytest.raises(CorruptFile, match=r"missing or altered \(and 1 more\)"):
        publish_here(spoilt)
    capsys.readouterr()
    assert run(["validate", str(spoilt)]) == 1
    said = capsys.readouterr().out
    assert f"{NAMES[0]}-r0.h5md" in said and "is not the file that manifest.json lists" in said
    (spoilt / "manifest.json").write_text("{}")
    assert run(["validate", str(spoilt)]) == 1


def test_a_part_of_a_release_is_readable_and_not_published(tmp_path, monkeypatch):
    folder = tmp_path / "releases" / NAME
    factories.make_dataset(folder, NAMES[:2], n_frames=40)
    card = folder_card("# card\n", survey(folder))
    assert "**In the making: 2 of 80 compounds.**" in card
    with pytest.raises(UserError, match=r"has 2 of the 80 compounds of split tg80-v1; add"):
        publish_here(folder)
    assert not (folder / "manifest.json").exists()
    assert sorted(tg80.load(folder)) == sorted(NAMES[:2])
    with pytest.raises(UserError, match="neither"):
        download(str(folder), tmp_path / "out")
    # By its name it is found in a checkout alone: a run's folder elsewhere is no release.
    monkeypatch.setenv("TG80_DATA", str(folder.parent))
    with pytest.raises(UserError, match="no such file or folder, nor a set"):
        tg80.load(NAME)


def test_folders_of_other_names_need_an_out(tmp_path, capsys):
    factories.make_shard(tmp_path / "mine", "methanol", n_frames=30)
    assert run(["publish", str(tmp_path / "mine")]) == 2
    assert "only a folder called NAME-VERSION" in capsys.readouterr().err
    assert run(["publish", str(tmp_path / "mine"), "--version", "2"]) == 2
    assert "go with --out" in capsys.readouterr().err
    assert run(["publish", str(tmp_path / "none-v1")]) == 2


def test_the_releases_here_are_unaltered():
    assert check_versions(ROOT / "tg80" / "data" / "releases") == []


def test_a_checkout_finds_the_release_it_is_making():
    folder = ROOT / "tg80" / "data" / "releases" / "tg80-xtb-v1"
    data = tg80.load("tg80-xtb-v1")
    assert shipped_folder("tg80-xtb-v1") == folder and data.level == "gfn2-xtb"
    assert data.trajectories and {s.path.parent for s in data.trajectories.values()} == {folder}


def of_docs(way: str, url: str) -> list[list[str]]:
    """The commands of a block of the documentation, of this release and server."""
    text = way.replace("https://example.org", url).replace("tg80-xtb-v1", NAME)
    return [line.split("#")[0].split() for line in text.splitlines() if line.startswith("tg80 ")]


def test_a_static_server_killed_in_the_middle(release, tmp_path, monkeypatch):
    """The second way: `kill -9`, the same command again, and the set is found by its name."""
    monkeypatch.setenv("TG80_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "data" / NAME
    with serving(release.parent) as server:
        (command,) = of_docs(WAYS[1], server.url)
        server.bytes_per_s = 400_000
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.cli", *command[1:]],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ,
        )  # fmt: skip

        def in_the_middle():
            sizes = part_sizes(out).values() if out.exists() else ()
            return shards_in(out) and sum(50_000 < n < 200_000 for n in sizes) >= 2

        wait_until(in_the_middle)
        process.send_signal(signal.SIGKILL)
        process.wait()
        sizes = {path: n for path, n in part_sizes(out).items() if n}
        whole = {path: (release / path.name.removesuffix(".part")).stat().st_size for path in sizes}
        parts = {path: n for path, n in sizes.items() if n < whole[path]}
        assert parts and len(shards_in(out)) < len(NAMES)
        server.bytes_per_s = None
        server.log.clear()
        assert run(command[1:]) == 0
        resumed = {asked.path: asked.range for asked in server.log if asked.range}
        for path, n_bytes in parts.items():
            name = path.name.removesuffix(".part")
            assert resumed[f"{NAME}/{name}"] == f"bytes={n_bytes}-"
    assert tree(out) == tree(release)
    assert sorted(tg80.load(NAME)) == sorted(NAMES) and shipped_folder(NAME) == out
    (split,) = (out / "splits").iterdir()
    scored = ["run", "--task", "tg80-xtb-v1", "--fold", "3", "--model", "persistence"]
    assert bench([*scored, "--data", str(out), "--out", "runs", "--split", str(split)]) == 0
    assert list((tmp_path / "runs").rglob("*.json"))


def test_one_fold_only(release, tmp_path, monkeypatch):
    """The third way: one part of one fold, then some molecules, over HTTP."""
    monkeypatch.chdir(tmp_path)
    with serving(release.parent) as server:
        commands = of_docs(WAYS[2], server.url)
        assert len(commands) == 2
        assert run(commands[0][1:]) == 0
        held = sorted(set(SPLIT.restrict(NAMES).fold(3).train))
        assert shards_in(Path(NAME)) == {f"{name}-r0.h5md" for name in held}
        data = tg80.load(NAME)
        assert sorted(data) == held and len(data.part(3, "train")) == len(held)
        assert run(commands[1][1:]) == 2  # this small release has no ethanol
        assert run(["validate", NAME]) == 0


def test_a_clone_holds_the_release(release, tmp_path):
    """The first way: a repository with a release, cloned, read by its own package."""
    source = tmp_path / "source"
    shutil.copytree(
        ROOT / "tg80", source / "tg80", ignore=shutil.ignore_patterns("releases", "__pycache__")
    )
    shutil.copytree(release, source / "tg80" / "data" / "releases" / NAME)
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "-C", str(source)]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "Add a release"]):
        subprocess.run([*git, *words], check=True)
    clone = WAYS[0].splitlines()[0].split("#")[0]
    assert clone.startswith("git clone https://")
    subprocess.run(["git", "clone", "-q", source, tmp_path / "tg80"], check=True)
    code = f"import tg80; print(tg80.__file__, *tg80.load({NAME!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "tg80", capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "tg80")}, check=True,
    )  # fmt: skip
    where, *names = done.stdout.split()
    assert Path(where).is_relative_to(tmp_path / "tg80") and names == sorted(NAMES)
