"""From shards to a publication to another folder: what is loaded there is what was published."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

import tg80
from pipelines.cli import run
from tests.support import factories
from tests.support.web_server import serving
from tests.tg80.release.published import tree
from tg80.release.download import download
from tg80.release.publish import publish
from tg80.release.selection import Selection
from tg80.shards.shard import Shard, find_shards
from tg80.shards.validate import validate
from tg80.splits.split import PARTS, load_split, mini_names

pytestmark = pytest.mark.usefixtures("no_outside_settings")
SPLIT = load_split("tg80-v1")
NAMES = mini_names(SPLIT.molecules, SPLIT.clusters)[::3]


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    """A site of every third compound of the mini set, and one with all files in one folder."""
    folder = tmp_path_factory.mktemp("sites")
    factories.make_dataset(folder / "data", NAMES, n_frames=40)
    for name, flat in (("tree", False), ("flat", True)):
        publish(folder / "data", folder / name, version="1.0.0", name="small", flat=flat)
    return folder


def names_in(folder):
    names = []
    for path in find_shards(folder):
        with Shard(path) as shard:
            names.append(shard.metadata.name)
    return sorted(names)


@pytest.mark.parametrize("form", ["tree", "flat"])
def test_the_whole_publication(sites, tmp_path, form):
    with serving(sites / form) as server:
        report = download(server.url, tmp_path / "out")
    assert not report.failed
    assert tree(tmp_path / "out") == tree(sites / form / "1.0.0")
    assert [problem for problem in validate(tmp_path / "out") if problem.level == "error"] == []
    data = tg80.load(tmp_path / "out")
    assert sorted(data.molecules) == sorted(NAMES)
    with Shard(sites / "data" / f"{NAMES[0]}-r0.h5md") as shard:
        np.testing.assert_array_equal(data[NAMES[0]].read("positions"), shard.read("positions"))


@pytest.mark.parametrize("fold", [1, 2, 3, 4, 5])
def test_every_part_of_every_fold(sites, tmp_path, fold):
    """As the split deals the compounds, not as the lists of the publication say."""
    dealt = {part: sorted(set(SPLIT.fold(fold).part(part)) & set(NAMES)) for part in PARTS}
    assert sum(map(bool, dealt.values())) >= 3
    published = tree(sites / "tree" / "1.0.0")
    for part, names in dealt.items():
        if names:
            out = tmp_path / part
            download(str(sites / "tree"), out, selection=Selection(fold, (part,)))
            assert names_in(out) == names
            assert tree(out).items() <= published.items()


def test_a_part_is_loaded_with_its_split(sites, tmp_path, capsys):
    with serving(sites / "flat" / "1.0.0") as server:  # an archive has no versions.json
        command = ["download", "--source", server.url, "--to", str(tmp_path / "out")]
        assert run([*command, "--fold", "2", "--part", "test_time", "--jobs", "2"]) == 0
    train = sorted(set(SPLIT.fold(2).train) & set(NAMES))
    assert names_in(tmp_path / "out") == train
    # What the command prints at the end runs as it stands.
    code = capsys.readouterr().out.split("\n\n", 1)[1]
    assert code.startswith("import tg80\n") and len(code.splitlines()) == 3
    done = subprocess.run(
        [sys.executable, "-c", code + "\nprint(*positions.shape, *sorted(data.molecules))"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    n_frames, n_atoms, _, *names = done.stdout.split()
    assert (int(n_frames), int(n_atoms)) == (40, SPLIT.molecules[train[0]].n_atoms)
    assert names == train


def test_the_documented_commands(sites, tmp_path, capsys):
    """`tg80 validate`, `info` and `split` take a downloaded folder as it is."""
    out = tmp_path / "out"
    assert run(["download", "--source", str(sites / "tree"), "--to", str(out)]) == 0
    assert run(["validate", str(out)]) == 0
    assert run(["info", str(out), "--json"]) == 0
    assert all(name in capsys.readouterr().out for name in NAMES[:1])
    shutil.rmtree(out / "gfn2-xtb")
    assert run(["validate", str(out)]) == 2
    assert run(["download", "--source", str(sites / "tree"), "--to", str(out)]) == 0
    assert tree(out) == tree(sites / "tree" / "1.0.0")
