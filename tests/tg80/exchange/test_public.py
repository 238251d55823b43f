"""Reading files of the form of MD17, rMD17 and MD22."""

import io
import pickle
import zipfile

import numpy as np
import pytest

from tests.support import factories
from tests.support.public_files import ETHANOL, rmd17_arrays, sgdml_arrays, vibrating, write
from tests.support.without_rights import TG80, run_without_rights
from tg80.errors import Tg80Error, UserError
from tg80.exchange.export import plan_export, write_export
from tg80.exchange.md17 import read_public
from tg80.exchange.md17_sets import PUBLIC_SETS, recognise
from tg80.shards.shard import Shard

EV_PER_KCAL = 1 / 23.060547830619026  # CODATA 2018: 4184 J / N_A e


def test_md17_is_read_in_the_units_of_the_code(tmp_path):
    arrays = sgdml_arrays(vibrating(20))
    data = read_public(write(tmp_path / "md17_ethanol.npz", arrays))
    assert (data.set_id, data.molecule, data.frame_fs) == ("md17", "ethanol", 0.5)
    assert "10.1126/sciadv.1603015" in data.frame_source
    np.testing.assert_array_equal(data.positions, arrays["R"])
    np.testing.assert_array_equal(data.atomic_numbers, ETHANOL)
    np.testing.assert_allclose(data.energies, arrays["E"][:, 0] * EV_PER_KCAL, rtol=1e-8)
    np.testing.assert_allclose(data.forces, arrays["F"] * EV_PER_KCAL, rtol=1e-6)
    assert data.segments == ((0, 20),)


def test_md22_is_read_with_its_own_spacing(tmp_path):
    numbers = np.array([6] * 22 + [8] * 2 + [1] * 32)
    arrays = sgdml_arrays(vibrating(5, numbers), numbers, "DHA")
    data = read_public(write(tmp_path / "md22_DHA.npz", arrays))
    assert (data.set_id, data.molecule, data.frame_fs) == ("md22", "dha", 1.0)
    assert "10.1126/sciadv.adf0873" in data.frame_source


@pytest.mark.parametrize(
    ("stem", "found"),
    [
        ("md17_ethanol", ("md17", "ethanol")),
        ("ethanol_dft", ("md17", "ethanol")),
        ("Ethanol", ("md17", "ethanol")),
        ("md17_benzene2017", ("md17", "benzene")),
        ("benzene_old_dft", ("md17", "benzene")),
        ("md17_salicylic", ("md17", "salicylic-acid")),
        ("md22_Ac-Ala3-NHMe", ("md22", "ac-ala3-nhme")),
        ("md22_AT-AT", ("md22", "at-at")),
        ("md22_AT-AT-CG-CG", ("md22", "at-at-cg-cg")),
        ("md22_buckyball-catcher", ("md22", "buckyball-catcher")),
        ("md22_double_walled_nanotube", ("md22", "double-walled-nanotube")),
        ("benzene2018_dft", None),  # another run, of another spacing
        ("ethanol_ccsd_t-train", None),  # another level of theory, and no trajectory
        ("aspirin_ccsd-train", None),
        ("rmd17_ethanol", None),
        ("revised_ethanol", None),
        ("md22_ethanol", None),
        ("md17_stachyose", None),
        ("trajectory", None),
    ],
)
def test_a_file_is_known_by_its_name(stem, found):
    known = recognise(stem, "sgdml")
    assert (known and (known[0].id, known[1].name)) == found


def test_every_file_of_the_table_is_known_by_its_name():
    for public in PUBLIC_SETS.values():
        for molecule in public.molecules:
            assert recognise(molecule.file.removesuffix(".npz"), public.layout) == (
                public,
                molecule,
            )


def test_what_the_name_does_not_tell_the_user_can(tmp_path):
    path = write(tmp_path / "trajectory.npz", sgdml_arrays(vibrating(5), name="mine"))
    with pytest.raises(UserError, match="give --set and --molecule, or --frame-fs"):
        read_public(path)
    assert read_public(path, set_id="md17", molecule="ethanol").frame_fs == 0.5
    assert read_public(path, molecule="ethanol").set_id == "md17"
    other = read_public(path, frame_fs=10.0)
    assert (other.set_id, other.molecule, other.frame_fs) == ("other", "mine", 10.0)
    assert other.frame_source == "stated by the user"
    with pytest.raises(UserError, match="md17 has no molecule 'water'; it has aspirin"):
        read_public(path, set_id="md17", molecule="water")
    with pytest.raises(UserError, match="which rmd17 does not have"):
        read_public(path, set_id="rmd17", molecule="ethanol")


def test_rmd17_is_put_in_the_order_of_time(tmp_path):
    positions = vibrating(400)
    kept = np.delete(np.arange(400), [7, 100, 101, 102, 399])
    chosen = np.random.default_rng(1).permutation(kept)
    data = read_public(write(tmp_path / "rmd17_ethanol.npz", rmd17_arrays(positions, chosen)))
    assert (data.set_id, data.frame_fs) == ("rmd17", 0.5)
    np.testing.assert_array_equal(data.frame_numbers, kept)
    np.testing.assert_array_equal(data.positions, positions[kept])
    np.testing.assert_allclose(data.energies / EV_PER_KCAL, -97_000 + 0.001 * kept, rtol=1e-9)
    assert data.segments == ((0, 7), (7, 99), (99, 395))


def test_scattered_frames_of_rmd17_give_no_velocities(tmp_path):
    chosen = np.random.default_rng(1).permutation(np.arange(0, 400, 2))
    path = write(tmp_path / "rmd17_ethanol.npz", rmd17_arrays(vibrating(400), chosen))
    data = read_public(path)
    assert data.segments == () and data.longest_segment == (0, 0)
    assert data.finite_difference_temperature_k() is None


def test_finite_differences_tell_whether_the_spacing_is_right(tmp_path):
    model = factories.spring_model(factories.as_molecule("ethanol"))
    velocities = factories.start_velocities(model, np.random.default_rng(0))
    (run,) = factories.integrate(
        [model], [velocities], n_frames=4000, store_every_fs=0.5, time_step_fs=0.25
    )
    arrays = sgdml_arrays(run["positions"], np.asarray(model.molecule.atomic_numbers))
    path = write(tmp_path / "md17_ethanol.npz", arrays)
    kinetic = 0.5 * np.einsum("i,tij->t", model.masses, run["velocities"] ** 2)
    kelvin = 2 * kinetic.mean() / (21 * 8.617333e-5 * 9.648533e-3)
    found = read_public(path).finite_difference_temperature_k()
    assert found == pytest.approx(kelvin, rel=0.03)
    wrong = read_public(path, frame_fs=1.0).finite_difference_temperature_k()
    assert wrong == pytest.approx(found / 4)


def test_a_jump_ends_a_stretch(tmp_path):
    glued = np.concatenate([vibrating(60), vibrating(90, seed=2)])
    data = read_public(write(tmp_path / "md17_ethanol.npz", sgdml_arrays(glued)))
    assert data.segments == ((0, 60), (60, 150))
    shuffled = np.random.default_rng(0).permutation(vibrating(300, seed=3) * 5)
    data = read_public(write(tmp_path / "ethanol_dft.npz", sgdml_arrays(shuffled)))
    assert data.longest_segment[1] - data.longest_segment[0] < 10


class Explosive:
    """Unpickling it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def spoilt(arrays, **changes):
    return {key: value for key, value in (arrays | changes).items() if value is not None}


R = vibrating(6)
GOOD = sgdml_arrays(R)
NOT_FINITE = np.where(np.arange(R.size).reshape(R.shape) == 5, np.nan, R)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (spoilt(GOOD, R=None), r"neither R \(MD17, MD22\) nor coords"),
        (spoilt(GOOD, F=None), "lacks F; it has R, z, E"),
        (spoilt(GOOD, R=R[0]), r"R has shape \(9, 3\), not \(frames, 9, 3\)"),
        (spoilt(GOOD, R=R[:0]), r"R has shape \(0, 9, 3\)"),
        (spoilt(GOOD, R=R[:, :8]), "R has shape"),
        (spoilt(GOOD, R=np.float64(1)), "R has shape"),
        (spoilt(GOOD, R=NOT_FINITE), "R holds values that are not finite numbers"),
        (spoilt(GOOD, E=np.zeros(5)), "E has shape"),
        (spoilt(GOOD, E=np.full(6, np.inf)), "E holds values that are not finite numbers"),
        (spoilt(GOOD, F=R[:5]), "F has shape"),
        (spoilt(GOOD, z=ETHANOL[:8], R=R[:, :8], F=R[:, :8]), "8 atoms; this molecule has 9"),
        (spoilt(GOOD, z=np.array(list("CCOHHHHHH"))), "z is not numeric"),
        (spoilt(GOOD, z=ETHANOL * 0), "z is not a list of atomic numbers"),
        (spoilt(GOOD, z=ETHANOL + 0.5), "z is not a list of atomic numbers"),
        (spoilt(rmd17_arrays(R, np.arange(6)), old_indices=None), "lacks old_indices"),
        (
            spoilt(rmd17_arrays(R, np.arange(6)), old_indices=np.arange(5)),
            "old_indices is not a list of 6 frame numbers",
        ),
        (
            spoilt(rmd17_arrays(R, np.arange(6)), old_indices=np.full(6, np.nan)),
            "old_indices is not a list of 6 frame numbers",
        ),
    ],
)
def test_a_malformed_file_is_one_line(tmp_path, arrays, message):
    path = write(tmp_path / "ethanol.npz", arrays)
    with pytest.raises(UserError, match=message) as raised:
        read_public(path)
    assert str(raised.value).startswith(f"{path}: ") and "\n" not in str(raised.value)


@pytest.mark.parametrize("key", ["R", "z", "E", "F"])
def test_nothing_is_unpickled(tmp_path, key):
    trap = tmp_path / "trap"
    objects = np.array([Explosive(trap)], dtype=object)
    np.savez(tmp_path / "md17_ethanol.npz", allow_pickle=True, **spoilt(GOOD, **{key: objects}))
    with pytest.raises(UserError, match=f"{key} is pickled Python objects, which are never"):
        read_public(tmp_path / "md17_ethanol.npz")
    bare = tmp_path / "ethanol.npz"
    bare.write_bytes(pickle.dumps(Explosive(trap)))
    with pytest.raises(UserError):
        read_public(bare)
    assert not trap.exists()


def test_a_pickled_name_is_passed_over(tmp_path):
    trap = tmp_path / "trap"
    arrays = spoilt(GOOD, name=np.array([Explosive(trap)], dtype=object))
    np.savez(tmp_path / "md17_ethanol.npz", allow_pickle=True, **arrays)
    assert read_public(tmp_path / "md17_ethanol.npz").molecule == "ethanol"
    assert not trap.exists()


def test_other_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_public(tmp_path / "md17_ethanol.npz")
    single = tmp_path / "ethanol.npz"
    with single.open("wb") as stream:
        np.save(stream, R)
    with pytest.raises(UserError, match="a single array"):
        read_public(single)
    with zipfile.ZipFile(single, "w") as archive:
        archive.writestr("R.npy", "no array")
    with pytest.raises(UserError):
        read_public(single)


def test_a_folder_and_a_closed_file_are_called_so(tmp_path):
    with pytest.raises(UserError, match="is a folder; give one npz file"):
        read_public(tmp_path)
    path = tmp_path / "md17_ethanol.npz"
    np.savez(path, **GOOD)
    path.chmod(0)
    done = run_without_rights([*TG80, "public", str(path)])
    assert done.returncode == 2
    assert done.stderr == f"error: {path}: cannot be read: Permission denied\n"


def test_damaged_files_give_one_line_or_the_same_data(tmp_path):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **sgdml_arrays(vibrating(3)))
    content = buffer.getvalue()
    whole = read_public(write(tmp_path / "md17_ethanol.npz", sgdml_arrays(vibrating(3))))
    rng = np.random.default_rng(0)
    damaged = [content[:n] for n in rng.integers(0, len(content), 60)]
    for offset in rng.integers(0, len(content), 200):
        flipped = bytearray(content)
        flipped[offset] ^= 1 << int(rng.integers(8))
        damaged.append(bytes(flipped))
    path = tmp_path / "ethanol.npz"
    n_refused = 0
    for each in damaged:
        path.write_bytes(each)
        try:
            data = read_public(path)
        except Tg80Error as error:
            n_refused += 1
            assert "\n" not in str(error)
        else:
            for name in ("positions", "energies", "forces", "atomic_numbers"):
                np.testing.assert_array_equal(getattr(data, name), getattr(whole, name))
    assert n_refused > 200


UNITS = [
    ("Ang", "kcal/mol", 1.0, 1.0),
    ("Angstrom", "kcal mol^-1", 1.0, 1.0),
    ("\u212b", "kJ/mol", 1.0, 4.184),
    ("A", "eV", 1.0, 1 / 23.060547830619026),
    ("ang", "meV", 1.0, 1000 / 23.060547830619026),
    ("Bohr", "Hartree", 1 / 0.529177210903, 1 / 627.5094740631),
    ("a.u.", "a.u.", 1 / 0.529177210903, 1 / 627.5094740631),
    (b"au", np.array(["Ha"]), 1 / 0.529177210903, 1 / 627.5094740631),
    ("nm", "kJ mol-1", 0.1, 4.184),
    ("", " ", 1.0, 1.0),
]


@pytest.mark.parametrize(("r_unit", "e_unit", "length", "energy"), UNITS)
def test_the_units_of_the_file_are_honoured(r_unit, e_unit, length, energy, tmp_path):
    """The same frames, in these units: `length` and `energy` are what 1 A and 1 kcal/mol are."""
    usual = read_public(write(tmp_path / "md17_ethanol.npz", GOOD))
    assert (usual.r_unit, usual.e_unit) == ("Ang (assumed)", "kcal/mol (assumed)")
    other = {"R": R * length, "E": GOOD["E"] * energy, "F": GOOD["F"] * energy / length}
    texts = {"r_unit": np.array(r_unit), "e_unit": np.array(e_unit)}
    data = read_public(write(tmp_path / "ethanol_dft.npz", GOOD | other | texts))
    np.testing.assert_allclose(data.positions, usual.positions, rtol=1e-10)
    np.testing.assert_allclose(data.energies, usual.energies, rtol=1e-9)
    np.testing.assert_allclose(data.forces, usual.forces, rtol=1e-6)
    assert (data.r_unit, data.segments) == (
        str(np.array(r_unit).astype("U")).strip() or "Ang (assumed)",
        usual.segments,
    )


@pytest.mark.parametrize("layout", ["sgdml", "rmd17"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r_unit": "furlong"}, "r_unit 'furlong' is not known; give Ang"),
        ({"e_unit": "kcal/mol/atom"}, "e_unit 'kcal/mol/atom' is not known; give kcal/mol"),
        ({"e_unit": "a\nb"}, r"e_unit 'a\\nb' is not known"),
        ({"r_unit": 1.0}, "r_unit is not a text"),
        ({"r_unit": np.array([None])}, "r_unit is not a text"),
        ({"r_unit": ["Ang", "Ang"]}, "r_unit is not a text"),
        ({"force_unit": "eV/A"}, "states force_unit, which is not known"),
        ({"lattice": np.eye(3) * 20}, "lattice describes a periodic system"),
        ({"lattice": np.array(None)}, "lattice describes a periodic system"),
        ({"lattice": "none"}, "lattice describes a periodic system"),
        ({"pbc": [True, False, False]}, "pbc describes a periodic system"),
        ({"cell": np.eye(3)}, "cell describes a periodic system"),
    ],
)  # fmt: skip
def test_units_that_are_not_known_and_lattices_are_refused(layout, changes, message, tmp_path):
    arrays = GOOD if layout == "sgdml" else rmd17_arrays(R, np.arange(6))
    path = tmp_path / "ethanol.npz"
    np.savez(path, allow_pickle=True, **arrays, **changes)
    with pytest.raises(UserError, match=message) as raised:
        read_public(path)
    assert "\n" not in str(raised.value)


def test_a_lattice_that_is_none_is_passed_over(tmp_path):
    zero = {"lattice": np.zeros((3, 3)), "pbc": np.zeros(3, bool)}
    assert read_public(write(tmp_path / "ethanol.npz", GOOD | zero)).set_id == "md17"


@pytest.mark.parametrize(
    ("stem", "name", "theory", "says"),
    [
        ("benzene2018_dft", "benzene", "DFT", "file name says 2018"),
        ("md17_benzene_2018", "benzene", "DFT", "file name says 2018"),
        ("benzene_ccsd_t-train", "benzene", "DFT", "file name says ccsd-t"),
        ("benzene_ccsd-train", "benzene", "DFT", "file name says ccsd"),
        ("rmd17_benzene", "benzene", "DFT", "file name says rmd17"),
        ("md22_benzene", "benzene", "DFT", "file name says md22"),
        ("benzene_mp2", "benzene", "DFT", "file name says mp2"),
        ("uracil", "benzene", "DFT", "file name says uracil"),
        ("benzene", "uracil", "DFT", "name inside says uracil"),
        ("benzene", "benzene2018", "DFT", "name inside says 2018"),
        ("benzene", "benzene", "CCSD(T)/cc-pVTZ", "theory says ccsd-t"),
        ("benzene", "benzene", "gfn2-xtb", "theory says gfn2"),
        ("benzene", "benzene", "pbe-def2svp", "theory says def2svp"),
    ],
)
@pytest.mark.parametrize(
    "asked", [{}, {"set_id": "md17"}, {"set_id": "md17", "molecule": "benzene"}]
)
def test_a_file_that_says_it_is_another_is_refused_with_a_hint(
    stem, name, theory, says, asked, tmp_path
):
    numbers = np.array([6] * 6 + [1] * 6)
    arrays = sgdml_arrays(vibrating(6, numbers), numbers, name) | {"theory": np.array(theory)}
    path = write(tmp_path / f"{stem}.npz", arrays)
    if stem == "uracil" and "molecule" not in asked:
        says = "name inside says benzene"
    with pytest.raises(UserError, match=f"its {says}, which .* of MD17 is not; give md17_"):
        read_public(path, **asked)
    assert read_public(path, frame_fs=1.0).set_id == "other"


def member(array_or_bytes):
    buffer = io.BytesIO()
    np.save(buffer, array_or_bytes)
    return buffer.getvalue()


def test_what_is_packed_as_a_trap_is_refused_at_once(tmp_path):
    path = tmp_path / "md17_ethanol.npz"
    whole = {f"{key}.npy": member(value) for key, value in GOOD.items()}
    shapes = (b"(9**9, 9)", b"(99999999", b"(-6, 9,3)", b"(((((((((")
    traps = [whole | {"R.npy": whole["R.npy"].replace(b"(6, 9, 3)", shape)} for shape in shapes]
    header = np.lib.format.magic(1, 0) + (118).to_bytes(2, "little")
    text = "{'descr': '<f8', 'fortran_order': False, 'shape': (999999999999, 9, 3), }"
    huge = header + text.ljust(117).encode() + b"\n" + b"\0" * 1000
    traps += [whole | {"R.npy": huge}, whole | {"z.npy": b"raw"}, {"R": b"raw"} | whole]
    for members in traps:
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        with pytest.raises(UserError, match=rf"^{path}: [^\n]*$"):
            read_public(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("R.npy", b"\0" * 2**20)
        info = archive.getinfo("R.npy")
        info.file_size = 2**40  # as it says, not as it is
    with pytest.raises(UserError, match=r"unpacks to 1024\.0 GiB; more than 4 are not read"):
        read_public(path)


@pytest.mark.parametrize(("key", "value"), [("R", 1e6), ("R", -1e308), ("E", 1e300), ("F", 1e39)])
def test_numbers_that_are_those_of_no_molecule_are_refused(key, value, tmp_path):
    arrays = GOOD | {key: np.full_like(GOOD[key], value)}
    with pytest.raises(UserError, match=f"{key} holds .*; give numbers of a molecule"):
        read_public(write(tmp_path / "ethanol.npz", arrays))


def test_our_own_export_reads_back(ethanol_shard, tmp_path):
    (file,) = write_export(plan_export([ethanol_shard], "npz", tmp_path))
    data = read_public(file["path"], frame_fs=file["trajectories"][0]["frame_fs"])
    with Shard(ethanol_shard) as shard:
        np.testing.assert_array_equal(data.positions.astype("f4"), shard.read("positions"))
        np.testing.assert_allclose(data.energies, shard.read("potential_energy"), rtol=1e-12)
        np.testing.assert_allclose(data.forces, shard.read("forces"), rtol=1e-6)
    assert data.segments == ((0, 400),)


def test_a_molecule_that_is_in_no_set_is_not_passed_over(tmp_path):
    path = write(tmp_path / "md17_ethanol.npz", sgdml_arrays(vibrating(5)))
    with pytest.raises(UserError, match="--molecule foo: is in no public set"):
        read_public(path, molecule="foo")


def test_a_file_without_atoms_is_refused(tmp_path):
    empty = {"R": np.zeros((10, 0, 3)), "z": np.zeros(0, int), "E": np.zeros(10)}
    path = tmp_path / "md17_ethanol.npz"
    np.savez(path, **empty, F=np.zeros((10, 0, 3)))
    with pytest.raises(UserError, match="z is not a list of atomic numbers"):
        read_public(path, frame_fs=1.0)
    with pytest.raises(UserError, match="less than 1e6, not inf"):
        read_public(path, frame_fs=float("inf"))


def test_our_export_for_the_public_atom_code_reads_back(ethanol_shard, tmp_path):
    (file,) = write_export(plan_export([ethanol_shard], "upstream", tmp_path))
    with pytest.raises(UserError, match=r"holds positions and elements only, .* give --frame"):
        read_public(file["path"])
    data = read_public(file["path"], frame_fs=file["trajectories"][0]["frame_fs"])
    assert (data.set_id, data.energies, data.forces) == ("other", None, None)
    with Shard(ethanol_shard) as shard:
        np.testing.assert_array_equal(data.positions.astype("f4"), shard.read("positions"))
        np.testing.assert_array_equal(data.atomic_numbers, shard.atomic_numbers)
    assert data.segments == ((0, 400),)
