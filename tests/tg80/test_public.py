"""Files of the form of MD17, rMD17 and MD22, made here: the originals were not at hand."""

import io
import pickle
import re
import zipfile

import numpy as np
import pytest

from tests import factories
from tg80.errors import CorruptFile, Tg80Error, UserError
from tg80.export import plan_export, write_export
from tg80.public import read_public
from tg80.public_sets import PUBLIC_SETS, recognise
from tg80.shard import Shard
from tg80.single_task import single_task
from tg80.splits import time_blocks
from tg80.windows import collate, cut_window

EV_PER_KCAL = 1 / 23.060547830619026  # CODATA 2018: 4184 J / N_A e
ETHANOL = np.array([6, 6, 8, 1, 1, 1, 1, 1, 1])


def vibrating(n_frames, numbers=ETHANOL, seed=0):
    """(n_frames, n_atoms, 3) A: every atom swings about its place at about 0.01 A/fs."""
    rng = np.random.default_rng(seed)
    shape = (len(numbers), 3)
    rest = rng.normal(size=shape) * 1.5
    rate, phase = rng.uniform(0.05, 0.2, shape), rng.uniform(0, 2 * np.pi, shape)
    steps = np.arange(n_frames)[:, None, None]
    return rest + 0.1 * np.sin(rate * steps + phase)


def sgdml_arrays(positions, numbers=ETHANOL, name="ethanol", seed=0):
    """The keys of an MD17 or MD22 file."""
    rng = np.random.default_rng(seed)
    return {
        "R": positions,
        "z": numbers.astype("u1"),
        "E": rng.normal(-97_000, 5, size=(len(positions), 1)),
        "F": rng.normal(size=positions.shape) * 20,
        "name": np.array(name),
        "theory": np.array("DFT"),
    }


def rmd17_arrays(positions, chosen, numbers=ETHANOL, seed=0):
    """The keys of an rMD17 file with frames `chosen` of a simulation, in that order."""
    rng = np.random.default_rng(seed)
    return {
        "coords": positions[chosen],
        "nuclear_charges": numbers.astype("u1"),
        "energies": -97_000 + 0.001 * chosen,
        "forces": rng.normal(size=positions[chosen].shape) * 20,
        "old_indices": chosen,
        "old_energies": -97_000 + 0.001 * chosen,
        "old_forces": positions[chosen],
    }


def write(path, arrays):
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="module")
def long_file(tmp_path_factory):
    """45,000 frames of ethanol: enough for both protocols."""
    path = tmp_path_factory.mktemp("public") / "md17_ethanol.npz"
    return write(path, sgdml_arrays(vibrating(45_000)))


def test_md17_is_read_in_the_units_of_the_code(tmp_path):
    arrays = sgdml_arrays(vibrating(20))
    data = read_public(write(tmp_path / "md17_ethanol.npz", arrays))
    assert (data.set_id, data.molecule, data.frame_fs) == ("md17", "ethanol", 0.5)
    assert "10.1126/sciadv.1603015" in data.frame_source
    np.testing.assert_array_equal(data.positions, arrays["R"])
    np.testing.assert_array_equal(data.atomic_numbers, ETHANOL)
    np.testing.assert_allclose(data.energies, arrays["E"][:, 0] * EV_PER_KCAL, rtol=1e-8)
    np.testing.assert_allclose(data.forces, arrays["F"] * EV_PER_KCAL, rtol=1e-6)
    assert data.stretches == ((0, 20),)


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
    with pytest.raises(UserError, match="which is not how rmd17 is kept"):
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
    assert data.stretches == ((0, 7), (7, 99), (99, 395))
    task = single_task(
        data, "leak-free", horizon_frames=8, n_starts={"train": 5, "val_time": 5, "test_time": 5}
    )
    # The first frame of the stretch has no frame before it, so no velocity.
    assert task.trajectory.first_frame == 100
    np.testing.assert_array_equal(task.trajectory.positions, positions[104:399, :3].astype("f4"))
    assert "frames 99 to 394 of 395" in task.remarks[0]


def test_scattered_frames_of_rmd17_give_no_velocities(tmp_path):
    chosen = np.random.default_rng(1).permutation(np.arange(0, 400, 2))
    path = write(tmp_path / "rmd17_ethanol.npz", rmd17_arrays(vibrating(400), chosen))
    data = read_public(path)
    assert data.stretches == () and data.longest_stretch == (0, 0)
    assert data.finite_difference_temperature_k() is None
    with pytest.raises(UserError, match="0 consecutive frames are too few for the leak-free"):
        single_task(data, "leak-free")
    with pytest.raises(UserError, match="took the file order of rMD17 for time"):
        single_task(data, "as-published")


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
    assert data.stretches == ((0, 60), (60, 150))
    shuffled = np.random.default_rng(0).permutation(vibrating(300, seed=3) * 5)
    data = read_public(write(tmp_path / "ethanol_dft.npz", sgdml_arrays(shuffled)))
    assert data.longest_stretch[1] - data.longest_stretch[0] < 10


def published_draw(n_frames, margin=10_000, horizon=3000):
    """The draw of the public code, written down once more, step by step."""
    x = np.arange(n_frames)[:-1]
    start, end = margin, x.shape[0] - margin - horizon + 1
    n = x[start:end].shape[0]
    np.random.seed(100)
    taken = np.zeros(n, dtype=bool)
    drawn = []
    for share in (0.1, 0.05, 0.05):
        chosen = np.random.choice(np.where(~taken)[0], size=int(share * n), replace=False)
        taken[chosen] = True
        drawn.append(chosen + start)
    return drawn[0][:500], drawn[1][:2000], drawn[2][:2000]


def test_as_published_starts_are_those_of_the_published_runs(tmp_path):
    n_frames = 64_000  # at this length 5 % of the frames are more than the 2000 used
    path = write(tmp_path / "md17_ethanol.npz", sgdml_arrays(vibrating(n_frames)))
    task = single_task(read_public(path), "as-published")
    for part, expected in zip(
        ("train", "val_time", "test_time"), published_draw(n_frames), strict=True
    ):
        np.testing.assert_array_equal(task.starts[part], expected)
    assert task.lags_fs.tolist() == [187.5 * i for i in range(1, 9)]
    x = vibrating(n_frames)[:, :3]
    np.testing.assert_allclose(
        task.trajectory.velocities, (x[1:] - x[:-1]) / 0.5, rtol=1e-4, atol=1e-7
    )
    assert task.random_rotations is False
    assert any("test windows overlap training windows" in remark for remark in task.remarks)
    assert any("velocities from the frame after" in remark for remark in task.remarks)


def test_leak_free_parts_share_no_frame(long_file):
    data = read_public(long_file)
    task = single_task(data, "leak-free")
    assert {part: len(set(s)) for part, s in task.starts.items()} == {
        "train": 500,
        "val_time": 2000,
        "test_time": 2000,
    }
    # A window reads from one frame before its start (velocity) to 3000 frames after it.
    spans = {part: (s.min() - 1, s.max() + 3000) for part, s in task.starts.items()}
    assert spans["train"][1] < spans["val_time"][0] < spans["val_time"][1] < spans["test_time"][0]
    assert spans["test_time"][1] < task.trajectory.n_frames
    for part, (begin, end) in time_blocks(task.trajectory.length_fs).items():
        assert begin <= 0.5 * task.starts[part].min()
        assert 0.5 * (task.starts[part].max() + 3000) <= end
    assert task.random_rotations is True and task.remarks == ()


def test_leak_free_velocities_use_no_future_frame(long_file, tmp_path):
    data = read_public(long_file)
    task = single_task(data, "leak-free")
    x = data.positions[:, :3]
    np.testing.assert_allclose(
        task.trajectory.velocities, (x[1:] - x[:-1]) / 0.5, rtol=1e-4, atol=1e-7
    )
    np.testing.assert_array_equal(task.trajectory.positions, x[1:].astype("f4"))
    start = task.starts["test_time"][7]
    changed = data.positions.copy()
    changed[start + 2 :] += 0.01  # frame `start` of the trajectory is frame start + 1 of the file
    path = write(tmp_path / "md17_ethanol.npz", sgdml_arrays(changed))
    again = single_task(read_public(path), "leak-free")
    np.testing.assert_array_equal(
        again.trajectory.velocities[start], task.trajectory.velocities[start]
    )
    published = single_task(read_public(path), "as-published").trajectory.velocities
    before = single_task(data, "as-published").trajectory.velocities
    assert not np.array_equal(published[start + 1], before[start + 1])


@pytest.mark.parametrize("protocol", ["as-published", "leak-free"])
def test_windows_are_cut_from_the_starts(long_file, protocol):
    data = read_public(long_file)
    task = single_task(data, protocol)
    starts = task.starts["test_time"][:3]
    batch = collate([cut_window(task.trajectory, s, task.lags_fs) for s in starts])
    assert batch.targets.shape == (3, 8, 3, 3)
    np.testing.assert_array_equal(batch.lags_fs[0], task.lags_fs.astype("f4"))
    frames = np.array([task.trajectory.first_frame + s for s in starts])
    lags = np.arange(375, 3001, 375)
    expected = data.positions[frames[:, None] + lags][:, :, :3]
    np.testing.assert_array_equal(batch.targets, expected.astype("f4"))
    assert batch.molecule == ("ethanol",) * 3
    whole = single_task(data, protocol, heavy=False).trajectory
    assert whole.n_atoms == 9 and whole.relaxed_positions is None


@pytest.mark.parametrize("protocol", ["as-published", "leak-free"])
def test_too_short_data_are_refused_with_the_length_it_takes(tmp_path, protocol):
    path = write(tmp_path / "md17_ethanol.npz", sgdml_arrays(vibrating(20_000)))
    with pytest.raises(UserError, match=f"too few for the {protocol} single-task") as raised:
        single_task(read_public(path), protocol)
    assert "\n" not in str(raised.value) and "500/2000/2000 starts" in str(raised.value)
    least = int(re.search(r"it takes about (\d+)", str(raised.value))[1])
    path = write(tmp_path / "md17_ethanol.npz", sgdml_arrays(vibrating(least + 3)))
    assert len(single_task(read_public(path), protocol).starts["val_time"]) == 2000
    path = write(tmp_path / "md17_ethanol.npz", sgdml_arrays(vibrating(least - 40)))
    with pytest.raises(UserError, match="too few"):
        single_task(read_public(path), protocol)


def test_settings_of_the_protocol_are_checked(long_file):
    data = read_public(long_file)
    with pytest.raises(UserError, match="no protocol 'random'"):
        single_task(data, "random")
    with pytest.raises(UserError, match="a horizon of 3001 frames has no 8 uniform lags"):
        single_task(data, "leak-free", horizon_frames=3001)


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
        (spoilt(GOOD, R=NOT_FINITE), "R holds values that are no numbers"),
        (spoilt(GOOD, E=np.zeros(5)), "E has shape"),
        (spoilt(GOOD, E=np.full(6, np.inf)), "E holds values that are no numbers"),
        (spoilt(GOOD, F=R[:5]), "F has shape"),
        (spoilt(GOOD, z=ETHANOL[:8], R=R[:, :8], F=R[:, :8]), "8 atoms; this molecule has 9"),
        (spoilt(GOOD, z=np.array(list("CCOHHHHHH"))), "z holds no numbers"),
        (spoilt(GOOD, z=ETHANOL * 0), "z is no list of atomic numbers"),
        (spoilt(GOOD, z=ETHANOL + 0.5), "z is no list of atomic numbers"),
        (spoilt(rmd17_arrays(R, np.arange(6)), old_indices=None), "lacks old_indices"),
        (
            spoilt(rmd17_arrays(R, np.arange(6)), old_indices=np.arange(5)),
            "old_indices is no list of 6 frame numbers",
        ),
        (
            spoilt(rmd17_arrays(R, np.arange(6)), old_indices=np.full(6, np.nan)),
            "old_indices is no list of 6 frame numbers",
        ),
    ],
)
def test_a_malformed_file_is_one_line(tmp_path, arrays, message):
    path = write(tmp_path / "ethanol.npz", arrays)
    with pytest.raises(CorruptFile, match=message) as raised:
        read_public(path)
    assert str(raised.value).startswith(f"{path}: ") and "\n" not in str(raised.value)


@pytest.mark.parametrize("key", ["R", "z", "E", "F"])
def test_nothing_is_unpickled(tmp_path, key):
    trap = tmp_path / "trap"
    objects = np.array([Explosive(trap)], dtype=object)
    np.savez(tmp_path / "md17_ethanol.npz", allow_pickle=True, **spoilt(GOOD, **{key: objects}))
    with pytest.raises(CorruptFile, match=f"{key} is pickled Python objects, which are never"):
        read_public(tmp_path / "md17_ethanol.npz")
    bare = tmp_path / "ethanol.npz"
    bare.write_bytes(pickle.dumps(Explosive(trap)))
    with pytest.raises(CorruptFile):
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
    with pytest.raises(CorruptFile, match="a single array"):
        read_public(single)
    with zipfile.ZipFile(single, "w") as archive:
        archive.writestr("R.npy", "no array")
    with pytest.raises(CorruptFile):
        read_public(single)


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


def test_our_own_export_reads_back(ethanol_shard, tmp_path):
    (file,) = write_export(plan_export([ethanol_shard], "npz", tmp_path))
    data = read_public(file["path"], frame_fs=file["trajectories"][0]["frame_fs"])
    with Shard(ethanol_shard) as shard:
        np.testing.assert_array_equal(data.positions.astype("f4"), shard.read("positions"))
        np.testing.assert_allclose(data.energies, shard.read("potential_energy"), rtol=1e-12)
        np.testing.assert_allclose(data.forces, shard.read("forces"), rtol=1e-6)
    assert data.stretches == ((0, 400),)
