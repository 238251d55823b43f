"""Every check of `validate` finds the defect it is there for, and clean shards pass."""

import os
import random
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

import tg80
from tests import factories
from tg80.errors import UserError
from tg80.files import checksum_path, file_sha256
from tg80.molecules import molecule_from_smiles
from tg80.twins import find_twins, shipped_twins
from tg80.validate import files_to_check, validate

WATER = molecule_from_smiles("O", "water")


def refresh_checksum(path):
    checksum_path(path).write_text(f"{file_sha256(path)}  {path.name}\n")


@pytest.fixture
def copy(ethanol_shard, tmp_path):
    """A copy of the clean shard that may be spoilt."""
    path = tmp_path / ethanol_shard.name
    shutil.copy(ethanol_shard, path)
    refresh_checksum(path)
    return path


def errors_of(path):
    return {problem.check for problem in validate(path) if problem.level == "error"}


def checks_of(path):
    return {(problem.level, problem.check) for problem in validate(path)}


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


# --- content -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def acid():
    """Model and arrays of 600 fs of formic acid."""
    model = factories.spring_model(factories.as_molecule("formic-acid"))
    velocities = factories.start_velocities(model, np.random.default_rng(5))
    settings = {"n_frames": 600, "store_every_fs": 1.0, "time_step_fs": 0.125}
    run = factories.integrate([model], [velocities], **settings)[0]
    return model, factories.frame_arrays(model, run, 1.0, 0.125)


def problems_with(acid, tmp_path, *, spoil=None, **changes):
    """(level, check) pairs of a shard with spoilt arrays or changed metadata."""
    model, arrays = acid
    arrays = {name: np.array(values) for name, values in arrays.items()}
    metadata = factories.make_metadata(model, arrays, **({"time_step_fs": 0.125} | changes))
    if spoil is not None:
        spoil(arrays)
    path = tmp_path / "formic-acid-r0.h5md"
    factories.write_shard(path, model, arrays, metadata)
    return checks_of(path)


def spoil(name, change):
    def apply(arrays):
        arrays[name] = change(arrays[name])

    return apply


def tumble(arrays):
    arrays["velocities"] += np.cross([0, 0, 1e-3], arrays["positions"])


def drift_away(arrays):
    arrays["velocities"] += 1e-3


def at(frame, value):
    def change(values):
        values[frame] = value
        return values

    return change


def heat(arrays):
    """A conserved quantity that climbs by 0.2 meV/atom/ps, its potential energy with it."""
    climb = 0.2e-3 * 5 * arrays["time"] / 1000
    arrays["conserved_quantity"] += climb
    arrays["potential_energy"] += climb


def jump(arrays):
    arrays["conserved_quantity"][300:] += 5 * 3e-3
    arrays["potential_energy"][300:] += 5 * 3e-3


CONTENT_DEFECTS = {
    "not finite": ("error", "finite", spoil("forces", at((5, 0, 0), np.nan))),
    "infinite": ("error", "finite", spoil("dipole", at(7, np.inf))),
    "late start": ("error", "time", spoil("time", lambda t: t + 1)),
    "uneven": ("error", "time", spoil("time", at(10, 10.4))),
    "slower clock": ("error", "time", spoil("time", lambda t: 2 * t)),
    "kinetic": ("error", "kinetic energy", spoil("kinetic_energy", lambda k: 1.01 * k)),
    "conserved": ("error", "energies", spoil("potential_energy", at(3, 0.0))),
    "raw forces": ("error", "net force", spoil("forces", lambda f: f + 1e-3)),
    "torque": (
        "error",
        "net torque",
        lambda a: a.update(forces=a["forces"] + np.cross([0, 0, 1e-2], a["positions"])),
    ),
    "drifting off": ("error", "linear momentum", drift_away),
    "tumbling": ("error", "angular momentum", tumble),
    "velocity unit": ("error", "velocities", spoil("velocities", lambda v: v * 1.3)),
    "force unit": ("error", "forces", spoil("forces", lambda f: f * 1.889726)),
    "force sign": ("error", "forces", spoil("forces", lambda f: -f)),
    "heating": ("error", "drift", heat),
    "jump": ("error", "drift total", jump),
    "small gap": ("warning", "gap", spoil("homo_lumo_gap", at(4, 0.3))),
    "unconverged": ("warning", "scf", spoil("scf_converged", at(4, 0))),
    "noisy grid": ("warning", "net force", spoil("raw_net_force", at(4, 0.2))),
    "noisy torque": ("warning", "net torque", spoil("raw_net_torque", at(4, 0.5))),
    "unknown flag": ("error", "flags", spoil("quality_flags", at(4, 1 << 20))),
    "dissociation": (
        "error",
        "bond graph",
        spoil("positions", lambda x: x + np.linspace(0, 1, 600)[:, None, None] * 2 * np.eye(5, 3)),
    ),
}


@pytest.mark.parametrize("name", CONTENT_DEFECTS)
def test_spoilt_frames_are_found(name, acid, tmp_path):
    level, check, change = CONTENT_DEFECTS[name]
    assert (level, check) in problems_with(acid, tmp_path, spoil=change)


METADATA_DEFECTS = {
    "length": ("error", "frames", {"length_fs": 700.0}),
    "spacing": ("error", "time", {"store_every_fs": 0.5}),
    "name": ("warning", "name", {"name": "acetic-acid"}),
    "replica": ("warning", "name", {"replica": 3}),
    "level": ("error", "level", {"level": "b3lyp"}),
    "custom": ("error", "level", {"level": "custom-12345678"}),
    "settings": ("error", "level", {"level_settings": {"method": "rks"}}),
    "smiles": ("error", "molecule", {"smiles": "CC=O"}),
    "unreadable smiles": ("error", "molecule", {"smiles": "C1"}),
    "mapped": ("error", "molecule", {"mapped_smiles": "[C:1](=[O:2])([O:3][H:5])[H:4]"}),
    "charge": ("error", "molecule", {"charge": 1}),
    "inchikey": ("error", "molecule", {"inchikey": "LFQSCWFLJHTTHZ-UHFFFAOYSA-N"}),
    "far bond": ("error", "molecule", {"bonds": ((0, 9, 1.0),)}),
    "linear": ("error", "freedom", {"linear": True, "degrees_of_freedom": 10}),
    "freedom": ("error", "freedom", {"degrees_of_freedom": 15}),
    "recipe": ("error", "recipe", {"recipe": {"quality": {"gap_ev": "large"}}}),
    "boast": ("error", "statistics", {"statistics": {"temperature": {"value": 300.0}}}),
}


@pytest.mark.parametrize("name", METADATA_DEFECTS)
def test_metadata_that_do_not_fit_are_found(name, acid, tmp_path):
    level, check, changes = METADATA_DEFECTS[name]
    assert (level, check) in problems_with(acid, tmp_path, **changes)


def test_masses_of_other_elements_are_found(copy):
    with h5py.File(copy, "r+") as file:
        file["particles/trajectory/mass"][0] = 13.003
    refresh_checksum(copy)
    assert "masses" in errors_of(copy)


def test_stated_frames_are_compared_with_stored_ones(copy):
    from tg80.shard import Shard

    with Shard(copy) as shard:
        metadata = shard.metadata.model_copy(update={"n_frames": 500})
    with h5py.File(copy, "r+") as file:
        for name, value in metadata.to_attributes().items():
            file["parameters/tg80"].attrs[name] = value
    refresh_checksum(copy)
    assert errors_of(copy) == {"frames"}


@pytest.mark.parametrize(("start", "expected"), [("mean-energy", True), ("canonical", False)])
def test_temperature_is_judged_only_where_it_was_set(start, expected, tmp_path):
    """Springs at 300 K, stated as 350 K, over more than 5 ps."""
    path = factories.make_shard(
        tmp_path, WATER, n_frames=5200, temperature_k=350.0, start=start, time_step_fs=0.5
    )
    assert (("error", "temperature") in checks_of(path)) is expected


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
