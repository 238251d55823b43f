"""`validate` finds what is wrong with files, their structure and folders; clean shards pass."""

import os
import random
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

import tg80
from tests.support import factories
from tests.tg80.shards.validation import checks_of, errors_of, refresh_checksum
from tg80.chemistry.molecule import molecule_from_smiles
from tg80.errors import UserError
from tg80.files import checksum_path, file_sha256
from tg80.shards.twins import find_twins, shipped_twins
from tg80.shards.validate import files_to_check, validate

WATER = molecule_from_smiles("O", "water")


# --- clean data ----------------------------------------------------------------------------------


@pytest.mark.parametrize("smiles", ["O", "C#C", "CC(=O)O", "C/C=C/C", "[NH4+]", "c1ccsc1"])
def test_shards_of_many_kinds_of_molecule_are_clean(smiles, tmp_path):
    path = factories.make_shard(tmp_path, smiles, n_frames=60, time_step_fs=0.125)
    assert errors_of(path) == set()


def test_a_long_shard_has_no_problem_at_all(tmp_path):
    path = factories.make_shard(tmp_path, "ethanol", n_frames=1500, seed=2)
    assert validate(path) == []


def test_a_few_tens_of_fs_are_inconclusive_not_wrong(tmp_path):
    path = factories.make_shard(tmp_path, "ethanol", n_frames=30)
    assert checks_of(path) == {("warning", "drift")}


def test_a_single_frame_is_valid(tmp_path):
    path = factories.make_shard(tmp_path, "ethanol", n_frames=1)
    assert errors_of(path) == set()


def test_frames_of_a_folder_are_all_checked(tmp_path):
    factories.make_dataset(tmp_path, ["ethanol", WATER], n_frames=20)
    assert {problem.level for problem in validate(tmp_path)} == {"warning"}
    (tmp_path / "water-r0.h5md").write_bytes(b"nonsense")
    assert [p.file for p in validate(tmp_path) if p.level == "error"] == [
        str(tmp_path / "water-r0.h5md")
    ]


def test_a_path_that_is_no_shard_is_the_users_mistake(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError):
            validate(path)


# --- the file as such ----------------------------------------------------------------------------


def test_cut_short_and_altered_files_fail_their_checksum(copy):
    whole = copy.read_bytes()
    copy.write_bytes(whole[:-1])
    (problem,) = validate(copy)
    assert (problem.level, problem.check, problem.file) == ("error", "checksum", str(copy))
    copy.write_bytes(whole)
    checksum_path(copy).write_text("nonsense\n")
    assert errors_of(copy) == {"checksum"}
    checksum_path(copy).write_text(f"{file_sha256(copy)}  other.h5md\n")
    assert errors_of(copy) == {"checksum"}


def test_without_a_checksum_a_warning_says_so(copy):
    checksum_path(copy).unlink()
    assert ("warning", "checksum") in checks_of(copy)
    assert errors_of(copy) == set()


def test_files_that_are_no_shard_are_named(copy):
    for content in (b"", b"text", copy.read_bytes()[:4000]):
        copy.write_bytes(content)
        refresh_checksum(copy)
        assert errors_of(copy) == {"readable"}


def flip_somewhere(data, rng):
    """A copy of the bytes with one bit turned over."""
    flipped = bytearray(data)
    flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(flipped)


N_FLIPS = int(os.environ.get("TG80_FLIPS", "60"))


def test_every_flipped_bit_is_found(copy):
    whole, rng = copy.read_bytes(), random.Random(0)
    for _ in range(N_FLIPS):
        copy.write_bytes(flip_somewhere(whole, rng))
        assert errors_of(copy) == {"checksum"}


def all_content(path):
    """Every attribute and data set a reader can see."""
    content = {}

    def visit(name, item):
        content[name] = {key: np.array(value).tolist() for key, value in item.attrs.items()}
        if isinstance(item, h5py.Dataset):
            content[name]["data"] = item[()].tobytes()

    with h5py.File(path) as file:
        file.visititems(visit)
    return content


@pytest.mark.timeout(0)  # TG80_FLIPS may ask for hours
def test_without_a_checksum_flipped_bits_are_found_or_change_nothing_of_ours(tmp_path):
    """Structure and data carry checksums of HDF5's, metadata one of ours; padding has none."""
    path = factories.make_shard(tmp_path, WATER, n_frames=20)
    whole, rng, before = path.read_bytes(), random.Random(1), all_content(path)
    checksum_path(path).unlink()
    n_found = 0
    for _ in range(N_FLIPS):
        path.write_bytes(flip_somewhere(whole, rng))
        if errors_of(path):
            n_found += 1
        else:
            assert {k: v for k, v in all_content(path).items() if not k.startswith("h5md")} == {
                k: v for k, v in before.items() if not k.startswith("h5md")
            }
    assert n_found > 0.5 * N_FLIPS


def test_leftovers_of_interrupted_runs_are_named(copy):
    folder = copy.parent
    for name in (".x-r0.h5md.7.tmp", "part-000001.npz", "y-r0.h5md.sha256"):
        (folder / name).write_text("x")
    leftovers = [p for p in validate(folder) if p.check == "leftovers"]
    assert {p.level for p in leftovers} == {"warning"}
    assert [p.file.rsplit("/", 1)[1] for p in leftovers] == [
        ".x-r0.h5md.7.tmp", "part-000001.npz", "y-r0.h5md.sha256",
    ]  # fmt: skip


# --- structure, schema, units, metadata ----------------------------------------------------------

POSITION = "particles/trajectory/position"
OBSERVABLE = "observables/trajectory"


def replace_dataset(file, path, values, **options):
    unit = file[path].attrs.get("unit")
    del file[path]
    file.create_dataset(path, data=values, **options)
    if unit is not None:
        file[path].attrs["unit"] = unit


def unlink_time(file):
    time = file[f"{POSITION}/time"][:]
    del file["particles/trajectory/force/time"]
    file["particles/trajectory/force/time"] = time


def fixed_length_unit(file):
    file[f"{POSITION}/value"].attrs["unit"] = np.bytes_("Angstrom")


STRUCTURAL_DEFECTS = {
    "version": ("structure", lambda f: f["h5md"].attrs.modify("version", [1, 0])),
    "author": ("structure", lambda f: f.__delitem__("h5md/author")),
    "creator": ("structure", lambda f: f["h5md/creator"].attrs.__delitem__("version")),
    "dimension": (
        "structure",
        lambda f: f["particles/trajectory/box"].attrs.modify("dimension", 2),
    ),
    "box": ("structure", lambda f: f.__delitem__("particles/trajectory/box")),
    "group": ("structure", lambda f: f.create_group("particles/solvent")),
    "foreign group": ("structure", lambda f: f.create_group("notes/of=mine")),
    "observable": ("structure", lambda f: f.create_dataset(f"{OBSERVABLE}/mean/value", data=[1])),
    "link": ("structure", unlink_time),
    "missing": ("schema", lambda f: f.__delitem__(f"{OBSERVABLE}/dipole/value")),
    "no positions": ("schema", lambda f: f.__delitem__(f"{POSITION}/value")),
    "hessian": ("schema", lambda f: f.__delitem__("parameters/tg80/hessian")),
    "dtype": (
        "schema",
        lambda f: replace_dataset(f, f"{POSITION}/value", f[f"{POSITION}/value"][:].astype("f8")),
    ),
    "shape": (
        "schema",
        lambda f: replace_dataset(f, "particles/trajectory/mass", np.ones(8)),
    ),
    "unit": ("units", lambda f: f[f"{POSITION}/value"].attrs.modify("unit", "nm")),
    "no unit": ("units", lambda f: f[f"{POSITION}/time"].attrs.__delitem__("unit")),
    "fixed-length unit": ("units", fixed_length_unit),
    "metadata": ("readable", lambda f: f["parameters/tg80"].attrs.modify("temperature_k", 310.0)),
    "metadata field": ("readable", lambda f: f["parameters/tg80"].attrs.__delitem__("smiles")),
    "extra metadata": ("readable", lambda f: f["parameters/tg80"].attrs.modify("note", "hi")),
    "no parameters": ("readable", lambda f: f.__delitem__("parameters")),
}


@pytest.mark.parametrize("name", STRUCTURAL_DEFECTS)
def test_structural_defects_are_found(name, copy):
    check, spoil = STRUCTURAL_DEFECTS[name]
    with h5py.File(copy, "r+") as file:
        spoil(file)
    refresh_checksum(copy)
    assert check in errors_of(copy)


# --- trees and twins -----------------------------------------------------------------------------


@pytest.fixture
def tree(copy, tmp_path):
    """A folder of shards and one of twins below a folder that holds neither."""
    (tmp_path / "tree" / "gfn2-xtb").mkdir(parents=True)
    (tmp_path / "tree" / "twins").mkdir()
    twins = find_twins(shipped_twins("mini-xtb"))[0]
    for source, folder in ((copy, "gfn2-xtb"), (twins, "twins")):
        for path in (source, checksum_path(source)):
            shutil.copy(path, tmp_path / "tree" / folder)
    return tmp_path / "tree"


def test_a_tree_is_checked_all_the_way_down(tree):
    assert [path.parent.name for path in files_to_check(tree)] == ["gfn2-xtb", "twins"]
    assert errors_of(tree) == set()
    shard, twins = files_to_check(tree)
    (shard.parent / f"{shard.name}.sha256").unlink()
    (twins.parent / "water-r0.h5md.sha256").write_text("")
    assert {("warning", "checksum"), ("warning", "leftovers")} <= checks_of(tree)


def test_twins_are_checked(tree):
    twins = files_to_check(tree)[1]
    assert validate(twins) == []
    other = twins.with_name("water-r0-twins.h5")
    shutil.copy(twins, other)
    refresh_checksum(other)
    assert checks_of(other) == {("warning", "name")}
    with h5py.File(other, "r+") as file:
        file["twins/position"][0, 0, 0, 0, 0] = np.nan
    assert errors_of(other) == {"checksum"}
    refresh_checksum(other)
    assert errors_of(other) == {"finite"}
    with h5py.File(other, "r+") as file:
        del file["twins/species"]
    refresh_checksum(other)
    assert errors_of(other) == {"readable"}


def test_all_that_ships_has_no_error():
    data = Path(tg80.__file__).parent / "data"
    assert len(files_to_check(data)) >= 60
    assert errors_of(data) == set()
