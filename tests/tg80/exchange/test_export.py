"""Exports, read back by the programs they are for."""

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import ase.io
import numpy as np
import pytest

from tests.support import factories
from tg80.errors import CorruptFile, UserError
from tg80.exchange.export import FORMATS, Selection, plan_export, write_export
from tg80.shards.fields import LEVEL_FIELDS, MISSING, STATIC_FIELDS
from tg80.shards.shard import Shard, write_shard
from tg80.splits.split import ALL_PARTS, load_split, time_blocks
from tg80.theory import LEVELS
from tg80.windows.trajectories import read_trajectory

MINI = Path(str(resources.files("tg80"))) / "data" / "mini-xtb"
KCAL_PER_EV = 23.060547830619026  # CODATA 2018: N_A e / (4184 J)
# Of fold 2 of tg80-v1.
TRAIN, VAL, TEST_ID, TEST_OOD = ("acetonitrile", "ethylene"), "chloroform", "formaldehyde", "urea"
N_FRAMES = 101


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A compound of each part of fold 2, 101 frames 1 fs apart, and a replica of ethylene."""
    folder = tmp_path_factory.mktemp("data")
    factories.make_dataset(folder, [*TRAIN, VAL, TEST_ID, TEST_OOD], n_frames=N_FRAMES)
    factories.make_dataset(folder, ["ethylene"], n_frames=N_FRAMES, replica=1)
    return folder


def export(sources, to, out, *, separate=False, force=False, **selection):
    sources = sources if isinstance(sources, list) else [sources]
    targets = plan_export(sources, to, out, Selection(**selection), separate=separate, force=force)
    return write_export(targets)


def float32_bits(values):
    return np.asarray(values).astype("f4").view("u4")


def test_ase_reads_extended_xyz_bit_for_bit(data, tmp_path):
    (file,) = export(data, "extxyz", tmp_path, molecules=("ethylene", "urea"))
    frames = [f for f in ase.io.read(file["path"], ":") if "molecule" in f.info]
    assert len(frames) == file["n_frames"] == 3 * N_FRAMES
    for name, replica in (("ethylene", 0), ("ethylene", 1), ("urea", 0)):
        of_this = [f for f in frames if (f.info["molecule"], f.info["replica"]) == (name, replica)]
        with Shard(data / f"{name}-r{replica}.h5md") as shard:
            for key, found in (
                ("positions", [f.positions for f in of_this]),
                ("velocities", [f.arrays["velocities"] for f in of_this]),
                ("forces", [f.arrays["REF_forces"] for f in of_this]),
            ):
                np.testing.assert_array_equal(float32_bits(found), float32_bits(shard.read(key)))
            energies = [f.info["REF_energy"] for f in of_this]
            np.testing.assert_array_equal(energies, shard.read("potential_energy"))
            np.testing.assert_array_equal([f.info["time_fs"] for f in of_this], shard.times_fs)
            np.testing.assert_array_equal(of_this[0].numbers, shard.atomic_numbers)
        assert not any(f.pbc.any() or f.cell.any() for f in of_this)
        assert {f.info["level"] for f in of_this} == {"gfn2-xtb"}


def test_isolated_atoms_of_the_level_come_first(data, tmp_path):
    (file,) = export(data, "extxyz", tmp_path, molecules=("ethylene", "urea"))
    frames = ase.io.read(file["path"], ":")
    atoms = [f for f in frames if f.info.get("config_type") == "IsolatedAtom"]
    known = LEVELS["gfn2-xtb"].isolated_atom_energies
    expected = {symbol: known[symbol] for symbol in ("H", "C", "N", "O")}
    assert {f.get_chemical_formula(): f.info["REF_energy"] for f in atoms} == expected
    assert file["isolated_atom_energies_ev"] == expected
    assert frames[: len(atoms)] == atoms


def test_isolated_atoms_are_in_no_part_but_train(data, tmp_path):
    for part in ALL_PARTS:
        (file,) = export(data, "extxyz", tmp_path, fold=2, part=part)
        kinds = {f.info.get("config_type") for f in ase.io.read(file["path"], ":")}
        assert ("IsolatedAtom" in kinds) == (part == "train")


def test_a_custom_level_has_no_isolated_atoms_and_says_so(tmp_path):
    factories.make_shard(tmp_path, "ethylene", n_frames=5, level="custom-12345678")
    (file,) = export(tmp_path, "extxyz", tmp_path / "out")
    assert file["notes"] == [
        "no isolated-atom energies at this level: train MACE with --E0s average"
    ]
    assert len(ase.io.read(file["path"], ":")) == 5


def exported_frames(file):
    """(molecule, replica, frame number) of all frames of an extended XYZ file."""
    frames = ase.io.read(file["path"], ":")
    keys = [
        (f.info["molecule"], f.info["replica"], round(f.info["time_fs"]))
        for f in frames
        if "molecule" in f.info
    ]
    assert len(keys) == len(set(keys))
    return set(keys)


def test_no_part_of_a_fold_holds_frames_of_another(data, tmp_path):
    fold = load_split("tg80-v1").fold(2)
    found = {}
    for part in ALL_PARTS:
        (file,) = export(data, "extxyz", tmp_path, fold=2, part=part)
        found[part] = exported_frames(file)
        assert file["split"]["part"] == part
    for part in ("val", "test_id", "test_ood"):
        assert {name for name, _, _ in found[part]} <= set(fold.part(part))
        assert len(found[part]) == N_FRAMES
    blocks = time_blocks(N_FRAMES - 1)
    for part, (begin, end) in blocks.items():
        assert {name for name, _, _ in found[part]} == set(TRAIN)
        assert {replica for _, replica, _ in found[part]} == {0, 1}
        times = [time for _, _, time in found[part]]
        assert begin <= min(times) and max(times) <= end
    assert max(time for _, _, time in found["train"]) == 60
    parts = list(found.values())
    assert sum(map(len, parts)) == len(set().union(*parts))


def test_a_time_block_is_the_one_the_benchmark_uses(data, tmp_path):
    (file,) = export(
        data, "upstream", tmp_path, fold=2, part="val_time", molecules=("acetonitrile",)
    )
    whole = read_trajectory(data / "acetonitrile-r0.h5md")
    block = whole.block(*time_blocks(whole.length_fs)["val_time"])
    with np.load(file["path"], allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["coords"], block.positions.astype("f8"))
    assert file["trajectories"][0]["first_time_fs"] == block.first_frame * block.frame_fs


def test_npz_is_a_data_set_of_sgdml(data, tmp_path):
    (file,) = export(data, "npz", tmp_path, molecules=("urea",))
    assert Path(file["path"]).name == "urea.npz"
    with np.load(file["path"], allow_pickle=False) as archive:
        found = {key: archive[key] for key in archive.files}
    with Shard(data / "urea-r0.h5md") as shard:
        np.testing.assert_array_equal(found["z"], shard.atomic_numbers)
        np.testing.assert_array_equal(found["R"], shard.read("positions").astype("f8"))
        energies, forces = shard.read("potential_energy"), shard.read("forces")
    np.testing.assert_allclose(found["E"], energies * KCAL_PER_EV, rtol=1e-9)
    np.testing.assert_allclose(found["F"], forces.astype("f8") * KCAL_PER_EV, rtol=1e-9)
    np.testing.assert_array_equal(float32_bits(found["F"] / KCAL_PER_EV), float32_bits(forces))
    assert found["F"].shape == (N_FRAMES, 8, 3) and found["E"].shape == (N_FRAMES,)
    texts = {key: str(found[key]) for key in ("type", "name", "theory", "r_unit", "e_unit")}
    assert texts == {
        "type": "d",
        "name": "urea",
        "theory": "gfn2-xtb",
        "r_unit": "Ang",
        "e_unit": "kcal/mol",
    }
    assert found["F_max"] == found["F"].max() and found["E_var"] == np.var(found["E"])
    parts = b"".join(hashlib.md5(found[key].tobytes()).digest() for key in "zREF")
    assert found["md5"] == hashlib.md5(parts).hexdigest().encode()


def test_upstream_is_what_the_public_atom_code_reads(data, tmp_path):
    files = export(data, "upstream", tmp_path, molecules=("ethylene",))
    names = ["tg80_ethylene.npz", "tg80_ethylene-r1.npz"]
    assert [Path(file["path"]).name for file in files] == names
    for replica, file in enumerate(files):
        archive = np.load(file["path"], allow_pickle=False)
        assert set(archive.files) == {"coords", "nuclear_charges"}
        x, z = archive["coords"], archive["nuclear_charges"]
        assert x[:-1].shape == (x[1:] - x[:-1]).shape == (N_FRAMES - 1, 6, 3)
        assert x[:, z > 1].shape == (N_FRAMES, 2, 3)
        with Shard(data / f"ethylene-r{replica}.h5md") as shard:
            np.testing.assert_array_equal(float32_bits(x), float32_bits(shard.read("positions")))
        beside = json.loads(Path(file["path"]).with_suffix(".json").read_text())
        assert beside["trajectories"][0]["frame_fs"] == 1.0
        assert beside["trajectories"][0]["replica"] == replica


@pytest.mark.parametrize(
    ("wish", "n_frames", "frame_fs"),
    [({"every": 7}, 15, 7.0), ({"frames": 10}, 10, 10.0), ({"frames": 1000}, 101, 1.0)],
)
def test_frames_are_evenly_spaced(data, tmp_path, wish, n_frames, frame_fs):
    (file,) = export(data, "upstream", tmp_path, molecules=("urea",), **wish)
    assert file["n_frames"] == n_frames
    assert file["trajectories"][0]["frame_fs"] == frame_fs
    with (
        np.load(file["path"], allow_pickle=False) as archive,
        Shard(data / "urea-r0.h5md") as shard,
    ):
        whole = shard.read("positions").astype("f8")
        np.testing.assert_array_equal(archive["coords"], whole[:: int(frame_fs)][:n_frames])


def test_mdanalysis_reads_separate_files_as_it_reads_the_shard(data, tmp_path):
    import MDAnalysis as mda

    files = export(data, "extxyz", tmp_path, separate=True, molecules=("ethylene",))
    assert [Path(file["path"]).name for file in files] == ["ethylene-r0.xyz", "ethylene-r1.xyz"]
    for file in files:
        shard = mda.Universe(str(data / Path(file["path"]).with_suffix(".h5md").name))
        universe = mda.Universe(file["path"])
        assert list(universe.atoms.names) == ["C", "C", "H", "H", "H", "H"]
        assert len(universe.trajectory) == len(shard.trajectory) == N_FRAMES
        for one, other in zip(universe.trajectory, shard.trajectory, strict=True):
            np.testing.assert_array_equal(one.positions, other.positions)


def test_frames_between_evaluations_have_no_energies_to_learn_from(tmp_path):
    path = factories.make_shard(tmp_path, "urea", n_frames=N_FRAMES, evaluated_every=4)
    with Shard(path) as shard:
        energies, forces = shard.read("potential_energy"), shard.read("forces")
        evaluated = shard.evaluated
    (file,) = export(path, "extxyz", tmp_path / "xyz", separate=True)
    frames = ase.io.read(file["path"], ":")
    assert len(frames) == file["n_frames"] == N_FRAMES
    assert any("75 frames lie between" in note for note in file["notes"])
    for frame, known, energy, force in zip(frames, evaluated, energies, forces, strict=True):
        assert ("REF_energy" in frame.info) == ("REF_forces" in frame.arrays) == known
        assert frame.arrays["velocities"].shape == (8, 3)
        if known:
            assert frame.info["REF_energy"] == energy
            found = float32_bits(frame.arrays["REF_forces"])
            np.testing.assert_array_equal(found, float32_bits(force))
    (file,) = export(path, "npz", tmp_path / "npz")
    assert file["n_frames"] == 26 and "left out" in file["notes"][-1]
    assert file["trajectories"][0]["frame_fs"] == 4.0
    fold = next(f for f in range(1, 6) if "urea" in load_split("tg80-v1").fold(f).part("train"))
    (part,) = export(path, "npz", tmp_path / "part", fold=fold, part="val_time")
    start = part["trajectories"][0]["first_time_fs"]
    with np.load(part["path"], allow_pickle=False) as archive, Shard(path) as shard:
        assert shard.evaluated[int(start)]
        np.testing.assert_array_equal(archive["R"][0], shard.read("positions")[int(start)])
    with np.load(file["path"], allow_pickle=False) as archive:
        assert archive["E"].shape == (26,) and np.isfinite(archive["F"]).all()
    (file,) = export(path, "upstream", tmp_path / "upstream")
    assert file["n_frames"] == N_FRAMES


def test_uneven_evaluations_have_no_one_spacing(tmp_path):
    path = factories.make_shard(tmp_path, "urea", n_frames=N_FRAMES, evaluated_every=4)
    with Shard(path) as shard:
        arrays = {
            name: np.array(shard.read(name)) for name in (*shard.frame_fields, "step", "time")
        }
        static = {field.name: shard.static(field.name) for field in STATIC_FIELDS}
        metadata = shard.metadata
    for name in LEVEL_FIELDS:
        arrays[name][8] = MISSING.get(name, np.nan)
    arrays["evaluated"][8] = 0
    write_shard(path, arrays | static, metadata)
    (file,) = export(path, "npz", tmp_path / "npz")
    assert file["n_frames"] == 25 and file["trajectories"][0]["frame_fs"] is None
    assert "not evenly spaced" in file["notes"][-1]
    (whole,) = export(path, "upstream", tmp_path / "upstream")
    assert whole["trajectories"][0]["frame_fs"] == 1.0


def test_no_data_set_of_frames_that_all_lack_energies(tmp_path):
    path = factories.make_shard(tmp_path, "ethylene", n_frames=N_FRAMES, evaluated_every=100)
    with pytest.raises(UserError, match="no frame chosen has energies"):
        export(path, "npz", tmp_path / "npz", fold=2, part="val_time")


def test_what_exists_is_not_written_over(data, tmp_path):
    (file,) = export(data, "extxyz", tmp_path, molecules=("urea",))
    before = Path(file["path"]).read_bytes()
    with pytest.raises(UserError, match=r"all\.xyz exists already; choose another --out"):
        export(data, "extxyz", tmp_path, molecules=("ethylene",))
    assert Path(file["path"]).read_bytes() == before
    (new,) = export(data, "extxyz", tmp_path, molecules=("ethylene",), force=True)
    assert Path(file["path"]).read_bytes() != before
    assert new["sha256"] == hashlib.sha256(Path(new["path"]).read_bytes()).hexdigest()
    Path(new["path"]).unlink()
    with pytest.raises(UserError, match=r"all\.json exists already"):
        export(data, "extxyz", tmp_path, molecules=("ethylene",))


@pytest.mark.parametrize("to", FORMATS)
def test_a_shard_that_breaks_half_way_leaves_nothing(data, tmp_path, to):
    copy = tmp_path / "urea-r0.h5md"
    copy.write_bytes((data / copy.name).read_bytes())
    targets = plan_export([copy], to, tmp_path / "out")
    content = bytearray(copy.read_bytes())
    with Shard(copy) as shard:
        dataset = shard.file["particles/trajectory/position/value"]
        offset = dataset.id.get_chunk_info(0).byte_offset
    content[offset + 50] ^= 1
    copy.write_bytes(content)
    with pytest.raises(CorruptFile, match=r"urea-r0\.h5md"):
        write_export(targets)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_shard_that_is_not_what_its_checksum_says_is_refused(tmp_path):
    path = factories.make_shard(tmp_path, "ethylene", n_frames=5)
    path.with_name(path.name + ".sha256").write_text(f"{'0' * 64}  {path.name}\n")
    with pytest.raises(CorruptFile, match=r"does not match ethylene-r0\.h5md\.sha256"):
        plan_export([tmp_path], "npz", tmp_path / "out")


@pytest.mark.parametrize(
    ("to", "wish", "message"),
    [
        ("xyz", {}, "no format 'xyz'; formats are extxyz, npz, upstream"),
        ("npz", {"molecules": ("ethanol",)}, "no trajectory of ethanol in the data"),
        ("npz", {"level": "pbe-def2svp"}, "no data at level pbe-def2svp; there is gfn2-xtb"),
        ("npz", {"fold": 2}, "--fold and --part go together"),
        ("npz", {"part": "train"}, "--fold and --part go together"),
        ("npz", {"fold": 2, "part": "test"}, "no part 'test'; parts are train, val, test_id"),
        ("npz", {"fold": 6, "part": "val"}, "split tg80-v1 has no fold 6"),
        ("npz", {"fold": 2, "part": "val", "molecules": ("urea",)}, "urea: not in part val of"),
        ("npz", {"every": 2, "frames": 2}, "exclude each other"),
        ("npz", {"separate": True}, "--separate is for extxyz"),
    ],
)
def test_a_wrong_wish_is_one_line(data, tmp_path, to, wish, message):
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        export(data, to, tmp_path / "out", **wish)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_levels_are_never_mixed(data, tmp_path):
    factories.make_shard(tmp_path / "dft", "ethylene", n_frames=5, level="pbe-def2svp")
    both = [data, tmp_path / "dft"]
    with pytest.raises(UserError, match="levels of theory are not mixed: choose --level"):
        export(both, "extxyz", tmp_path / "out")
    (file,) = export(both, "extxyz", tmp_path / "out", level="pbe-def2svp")
    assert (file["n_frames"], file["level"]) == (5, "pbe-def2svp")


def test_one_trajectory_given_twice_is_refused(data, tmp_path):
    copy = tmp_path / "again.h5md"
    copy.write_bytes((data / "urea-r0.h5md").read_bytes())
    with pytest.raises(UserError, match="hold the same trajectory"):
        export([data, copy], "npz", tmp_path / "out")
    assert len(export([data, data], "npz", tmp_path / "out")) == 6  # the same path twice is one


def test_a_name_that_means_another_compound_in_the_split_is_refused(tmp_path):
    factories.make_shard(tmp_path, "ethylene", n_frames=5, name="urea")
    with pytest.raises(UserError, match="urea is VGGSQFUCUMXWEO-UHFFFAOYSA-N here"):
        export(tmp_path, "npz", tmp_path / "out", fold=2, part="test_ood")


def test_flagged_frames_stay_and_are_counted(tmp_path):
    model = factories.spring_model(factories.as_molecule("ethylene"))
    velocities = factories.start_velocities(model, np.random.default_rng(0))
    (run,) = factories.integrate(
        [model], [velocities], n_frames=10, store_every_fs=1.0, time_step_fs=0.25
    )
    arrays = factories.frame_arrays(model, run, 1.0, 0.25)
    arrays["quality_flags"][4] = 16
    path = tmp_path / "ethylene-r0.h5md"
    factories.write_shard(path, model, arrays, factories.make_metadata(model, arrays))
    (file,) = export(path, "extxyz", tmp_path / "out")
    assert file["notes"] == ["1 frames carry quality flags; none was left out for that"]
    frames = [f for f in ase.io.read(file["path"], ":") if "molecule" in f.info]
    assert [f.info["quality_flags"] for f in frames] == [0] * 4 + [16] + [0] * 5


@pytest.mark.mace
@pytest.mark.slow
def test_mace_trains_on_an_export(tmp_path):
    if importlib.util.find_spec("mace") is None:
        pytest.skip("mace is not installed: pip install -c constraints.txt '.[mace]'")
    wish = {"fold": 2, "molecules": TRAIN}
    export(MINI, "extxyz", tmp_path, part="train", frames=12, **wish)
    (held,) = export(MINI, "extxyz", tmp_path, part="val_time", frames=4, **wish)
    command = Path(sys.executable).with_name("mace_run_train")
    options = (
        "--name tiny --train_file fold-2-train.xyz --valid_file fold-2-val_time.xyz --work_dir . "
        "--model MACE --hidden_irreps 8x0e --num_interactions 1 --correlation 1 --max_ell 1 "
        "--MLP_irreps 4x0e --radial_MLP [8] --r_max 4 --max_num_epochs 2 --batch_size 4 "
        "--device cpu --default_dtype float64 --seed 1"
    )
    # e3nn 0.4.4 and MACE load files of their own that torch 2.6 and newer refuse by default.
    environment = os.environ | {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    done = subprocess.run(
        [command, *options.split()], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    log = done.stdout + done.stderr
    assert "'energy': 'REF_energy'" in log and "'forces': 'REF_forces'" in log
    assert "Using isolated atom energies from training file" in log
    known = LEVELS["gfn2-xtb"].isolated_atom_energies
    energies = f"{{1: {known['H']}, 6: {known['C']}, 7: {known['N']}}}"
    assert f"Atomic Energies used (z: eV) for head Default: {energies}" in log
    assert "Total number of configurations: train=24, valid=8" in log
    assert "Training complete" in log and (tmp_path / "tiny.model").is_file()
    # Before training MACE predicts little beyond the atoms: its error is what binds them.
    frames = ase.io.read(held["path"], ":")
    binding = [f.info["REF_energy"] - sum(known[s] for s in f.symbols) for f in frames]
    expected_ev = np.sqrt(np.mean(np.square(np.divide(binding, [len(f) for f in frames]))))
    found = re.search(r"Initial: .*RMSE_E_per_atom= *([\d.]+) meV", log)
    assert found and float(found[1]) / 1000 == pytest.approx(expected_ev, rel=0.03)
