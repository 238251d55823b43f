"""`tg80.load`: what a reader gets of a data set, and that frames are read when asked for only."""

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tg80
from tests.support import factories
from tg80.errors import CorruptFile, UserError
from tg80.shards.shard import Shard
from tg80.splits.split import load_split, mini_names, time_blocks
from tg80.windows.lags import LagSampling
from tg80.windows.trajectories import MappedArray
from tg80.windows.windows import TrainingWindows, window_loader

PAGE = Path(__file__).parents[2] / "docs" / "dataset" / "reading.md"
PARTS = ("train", "val", "val_time", "test_time", "test_id", "test_ood")
# Of fold 2 of tg80-v1: four of train, one each of val, test_id and test_ood.
TRAIN = ("1-butanol", "acetonitrile", "chlorobenzene", "ethylene")
NAMES = (*TRAIN, "chloroform", "formaldehyde", "urea")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Seven molecules, ethylene with two replicas."""
    folder = tmp_path_factory.mktemp("data")
    factories.make_dataset(folder, NAMES, n_frames=101, store_every_fs=2.0)
    factories.make_dataset(folder, ["ethylene"], n_frames=101, store_every_fs=2.0, replica=1)
    return folder


@pytest.fixture(scope="module")
def mini():
    return tg80.load("mini-xtb")


def test_the_shipped_set_has_its_molecules_and_its_split(mini):
    frozen = load_split("tg80-v1")
    assert list(mini) == mini_names(frozen.molecules, frozen.clusters) and len(mini) == 30
    assert mini.split == frozen.restrict(mini) and mini.level == "gfn2-xtb"
    assert {n: m.inchikey for n, m in mini.molecules.items()} == {
        n: c.inchikey for n, c in mini.split.molecules.items()
    }
    assert "methanol" in mini and "ethanol" not in mini
    assert repr(mini).startswith("<Dataset: 30 molecules, 30 trajectories, 36030 frames at gfn2")


def test_loading_opens_no_file_for_good_and_reads_no_frame(folder, monkeypatch):
    def refused(*_arguments, **_settings):
        raise AssertionError("frames are read")

    monkeypatch.setattr(Shard, "read", refused)
    data = tg80.load(folder)
    assert all(shard._open is None for shard in data.trajectories.values())
    assert list(data.molecules) == sorted(NAMES) and data.split is not None
    with pytest.raises(AssertionError, match="frames are read"):
        data.part(2, "train")


def test_trajectories_by_name_and_replica(folder):
    data = tg80.load(folder)
    assert list(data.trajectories) == sorted(data.trajectories)
    assert [shard.metadata.replica for shard in data.replicas("ethylene")] == [0, 1]
    assert data["ethylene"] is data["ethylene", 0] is not data["ethylene", 1]
    assert data["urea"].read("forces").shape == (101, 8, 3)
    first, second = data.trajectory("ethylene"), data.trajectory("ethylene", 1)
    assert (first.replica, second.replica) == (0, 1)
    np.testing.assert_array_equal(second.positions, data["ethylene", 1].read("positions"))
    wrong: dict[Any, str] = {
        "ethanol": "no molecule 'ethanol'; there are 1-butanol, ",
        ("ethanol", 0): "no molecule 'ethanol'; there are 1-butanol, ",
        ("ethylene", 2): "no replica 2 of ethylene; there is 0, 1",
        3: "no molecule 3; there are 1-butanol, ",
    }
    for key, reason in wrong.items():
        with pytest.raises(KeyError, match=reason):
            data[key]


def test_parts_hold_their_molecules_their_blocks_and_all_replicas(folder):
    data = tg80.load(folder)
    found = {part: [(t.name, t.replica) for t in data.part(2, part)] for part in PARTS}
    seen = [*((name, 0) for name in TRAIN), ("ethylene", 1)]
    assert found == {
        "train": seen, "val_time": seen, "test_time": seen, "val": [("chloroform", 0)],
        "test_id": [("formaldehyde", 0)], "test_ood": [("urea", 0)],
    }  # fmt: skip
    frames = {
        part: range(t.first_frame, t.first_frame + t.n_frames)
        for part in ("train", "val_time", "test_time")
        for t in data.part(2, part)[:1]
    }
    for part, (begin, end) in time_blocks(200.0).items():
        assert 2 * frames[part][0] >= begin - 0.02 and 2 * frames[part][-1] <= end + 0.02
    assert not set(frames["train"]) & set(frames["val_time"]) | (
        set(frames["val_time"]) & set(frames["test_time"])
    )
    heavy = data.part(2, "test_ood", atoms="heavy")[0]
    assert heavy.n_atoms == 4 and heavy.atomic_numbers.min() > 1


def test_the_time_blocks_are_those_of_the_split(folder, tmp_path):
    split = load_split("tg80-v1")
    blocks = {"train": (0.0, 0.5), "val_time": (0.6, 0.7), "test_time": (0.8, 1.0)}
    path = tmp_path / "split.json"
    path.write_text(split.model_copy(update={"time_blocks": blocks}).to_json())
    data = tg80.load(folder, split=path)
    assert [t.n_frames for t in data.part(2, "train")] == [51] * 5


def test_a_mapped_set_gives_the_same_windows(folder, tmp_path):
    lags = LagSampling((20.0, 40.0))

    def starts(data):
        windows = TrainingWindows(data.part(2, "train"), lags, seed=0, windows_per_trajectory=8)
        return [batch.positions.numpy() for batch in window_loader(windows, 6)]

    mapped = tg80.load(folder, cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    for one, other in zip(starts(tg80.load(folder)), starts(mapped), strict=True):
        np.testing.assert_array_equal(one, other)
    assert isinstance(mapped.part(2, "val")[0].positions, MappedArray)
    assert {path.name.split("-r")[0] for path in (tmp_path / "cache").iterdir()} == {
        *TRAIN, "chloroform",
    }  # fmt: skip


def test_a_data_set_goes_to_another_process(folder):
    data = tg80.load(folder)
    data["urea"].read("positions")
    again = pickle.loads(pickle.dumps(data))
    np.testing.assert_array_equal(again["urea"].read("forces"), data["urea"].read("forces"))
    assert again.split == data.split


def test_a_downloaded_folder_with_its_split_and_levels(folder, tmp_path):
    for level in ("gfn2-xtb", "pbe-def2svp"):
        factories.make_dataset(tmp_path / level, NAMES[:2], n_frames=20, level=level)
    (tmp_path / "splits").mkdir()
    own = load_split("tg80-v1").model_copy(update={"version": "custom-own"})
    (tmp_path / "splits" / "own.json").write_text(own.to_json())
    with pytest.raises(UserError, match=r"gfn2-xtb, pbe-def2svp; choose one by its level"):
        tg80.load(tmp_path)
    data = tg80.load(tmp_path, level="pbe-def2svp")
    assert len(data.trajectories) == 2 and data.level == "pbe-def2svp"
    assert data.split is not None and data.split.subset_of == "custom-own"
    assert tg80.load(tmp_path / "gfn2-xtb").split.subset_of == "custom-own"
    with pytest.raises(UserError, match="no trajectory at level of theory b3lyp; there is gfn2"):
        tg80.load(tmp_path, level="b3lyp")


def test_molecules_that_no_split_has(tmp_path):
    factories.make_dataset(tmp_path, ["CCCF", "ethylene"], n_frames=10)
    data = tg80.load(tmp_path)
    assert data.split is None and len(data) == 2
    with pytest.raises(UserError, match="no split has all these molecules; make one with"):
        data.part(1, "train")
    with pytest.raises(UserError, match="split tg80-v1 has no c3h7f"):
        tg80.load(tmp_path, split="tg80-v1")


def test_a_name_that_is_another_compound_in_the_split_is_not_in_it(tmp_path):
    molecule = factories.as_molecule("CCCF")
    fake = factories.make_shard(tmp_path, "CCCF", n_frames=10, name="ethylene")
    assert tg80.load(fake).split is None
    with pytest.raises(UserError, match="split tg80-v1 has no ethylene"):
        tg80.load(fake, split="tg80-v1")
    other = factories.make_shard(tmp_path / "more", "ethylene", n_frames=10, replica=1)
    with pytest.raises(UserError, match="calls a different compound ethylene"):
        _ = tg80.load([fake, other]).molecules
    second = factories.make_shard(tmp_path / "more", "CCCF", n_frames=10)
    with pytest.raises(UserError, match=f"under two names: .*{molecule.name}"):
        _ = tg80.load([fake, second]).molecules


def test_wrong_sources_are_named(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"mini-abc: no such file or folder, nor a set .*mini-xtb"):
        tg80.load("mini-abc")
    with pytest.raises(UserError, match=r"no \.h5md file"):
        tg80.load(tmp_path)
    os.symlink(folder / "urea-r0.h5md", tmp_path / "again.h5md")
    with pytest.raises(UserError, match=r"both replica 0 of urea"):
        tg80.load([folder, tmp_path / "again.h5md"])
    (tmp_path / "urea-r0.h5md").write_bytes((folder / "urea-r0.h5md").read_bytes()[:900])
    with pytest.raises(CorruptFile, match=r"urea-r0\.h5md"):
        tg80.load(tmp_path / "urea-r0.h5md")
    for nothing in ("", [], [folder, ""]):
        with pytest.raises(UserError, match="no source is named"):
            tg80.load(nothing)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((6, "train"), "no fold 6"),
        (("2", "train"), "fold must be a whole number, not '2'"),
        ((1, "test"), "no part 'test'"),
        ((1, "train", "light"), "atoms must be all or heavy, not 'light'"),
    ],
)
def test_a_part_that_can_t_be_is_refused(arguments, reason, folder):
    fold, part, *atoms = arguments
    with pytest.raises(UserError, match=reason):
        tg80.load(folder).part(fold, part, **({"atoms": atoms[0]} if atoms else {}))


def test_importing_the_package_is_light():
    code = "import sys, tg80; print(tg80.__version__, {'h5py', 'torch', 'rdkit'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [tg80.__version__, "set()"]
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = tg80.lode


_WITHOUT_EXTRAS = """
import sys
missing = dict.fromkeys(
    ["torch", "pyscf", "dask", "distributed", "rdkit", "sklearn", "umap", "matplotlib", "numba"]
)
sys.modules.update(missing)  # None: an import of it fails
import tg80, tg80.release.download, tg80.exchange.export
shard = tg80.load("mini-xtb")["methanol"]
assert shard.read("forces").shape == (1201, 6, 3)
print(*tg80.validate(shard.path), sep="\\n")
"""


def test_data_is_read_and_checked_without_extras():
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_EXTRAS], capture_output=True, text=True, check=True
    )
    what = "not checked: the package rdkit is not installed; run: pip install 'tg80[generate]'"
    problems = done.stdout.splitlines()
    assert [line.partition("h5md: ")[2] for line in problems] == [
        f"molecule: {what}",
        f"stereo: {what}",
    ]


def test_the_examples_of_the_documentation_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) >= 3
    names: dict = {}
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), names)
    printed = [line for block in blocks for line in re.findall(r"# prints: (.*)", block)]
    assert printed and capsys.readouterr().out.splitlines() == printed
