"""The file of twins and the floor that is computed from it."""

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

import tg80
from tg80.errors import CorruptFile, UserError
from tg80.files import checksum_path, file_sha256
from tg80.shards.shard import Shard, find_shards
from tg80.shards.twins import (
    TwinMetadata,
    Twins,
    TwinSettings,
    find_twins,
    floor,
    persistence,
    read_twins,
    shipped_twins,
    write_twins,
)


def make_twins(positions: np.ndarray, atomic_numbers=(6, 8, 1, 1)) -> Twins:
    """Twins with these positions (n_starts, n_twins, n_frames, n_atoms, 3), 10 fs apart."""
    n_starts, n_twins, n_frames, n_atoms, _ = positions.shape
    length = 10.0 * (n_frames - 1)
    metadata = TwinMetadata(
        name="formaldehyde", replica=0, mapped_smiles="", inchikey="", charge=0,
        source="formaldehyde-r0.h5md", source_sha256="0" * 64, starts_in="test_time",
        settings=TwinSettings(length_fs=length, n_starts=min(n_starts, 16), n_twins=n_twins),
        level="gfn2-xtb", level_settings={}, recipe={"seed": 3}, integrator="verlet",
        ensemble="nve", temperature_k=300.0, time_step_fs=0.5, frame_fs=10.0,
        versions={"tg80": "0"}, platform={},
    )  # fmt: skip
    return Twins(
        metadata,
        positions.astype(np.float32),
        10.0 * np.arange(n_frames),
        100 * np.arange(n_starts),
        np.zeros((n_starts, n_twins, n_atoms, 3), dtype=np.float32),
        np.full((n_starts, n_twins), -3.0),
        np.asarray(atomic_numbers, dtype=np.int32),
    )


@pytest.fixture
def twins() -> Twins:
    return make_twins(np.random.default_rng(1).normal(size=(2, 4, 6, 4, 3)))


def test_file_gives_back_what_was_written(twins, tmp_path):
    path = tmp_path / "formaldehyde-r0-twins.h5"
    write_twins(path, twins)
    back = read_twins(path)
    assert back.metadata == twins.metadata
    assert np.array_equal(back.positions, twins.positions)
    assert np.allclose(back.start_energies, twins.start_energies, rtol=1e-15)
    assert back.start_ids == ("formaldehyde-r0@0", "formaldehyde-r0@100")
    assert checksum_path(path).read_text() == f"{file_sha256(path)}  {path.name}\n"
    assert find_twins(tmp_path) == [path]
    with h5py.File(path) as file:
        assert file["twins/position"].attrs["unit"] == "Angstrom"
        assert json.loads(file["twins"].attrs["metadata"])["settings"]["n_twins"] == 4


def test_floor_of_two_twins_is_half_their_mean_squared_difference():
    twins = make_twins(np.random.default_rng(2).normal(size=(3, 2, 5, 4, 3)))
    lags, values = floor(twins)
    heavy = twins.positions[:, :, 1:, :2].astype(np.float64)
    apart = heavy[:, 0] - heavy[:, 1]
    assert np.array_equal(lags, [10.0, 20.0, 30.0, 40.0])
    assert np.allclose(values, 0.5 * (apart**2).mean(axis=(2, 3)), rtol=1e-12)


def test_floor_is_the_variance_without_bias_for_any_number_of_twins():
    sigma = 0.2
    for n_twins in (2, 4, 7):
        draws = np.random.default_rng(n_twins).normal(scale=sigma, size=(2000, n_twins, 2, 2, 3))
        draws += np.random.default_rng(9).normal(size=(2000, 1, 1, 1, 3))  # where each start is
        _, values = floor(make_twins(draws, atomic_numbers=(6, 8)))
        error = sigma**2 * np.sqrt(2 / (n_twins - 1) / (2000 * 6))
        assert values.mean() == pytest.approx(sigma**2, abs=4 * error)


def test_floor_scores_heavy_atoms_unless_all_are_asked_for(twins):
    moved = twins.positions.copy()
    moved[..., 2:, :] *= 10.0
    wild = replace(twins, positions=moved)
    assert np.allclose(floor(wild)[1], floor(twins)[1])
    assert (floor(wild, "all")[1] > 5 * floor(twins, "all")[1]).all()
    lags, values = floor(twins, lags_fs=[20.0, 50.0])
    assert np.array_equal(lags, [20.0, 50.0])
    assert np.array_equal(values, floor(twins)[1][:, [1, 4]])


def test_lags_that_are_not_stored_are_refused(twins):
    for lag in (15.0, 60.0):
        with pytest.raises(UserError, match="stored every 10 fs up to 50 fs"):
            floor(twins, lags_fs=[lag])
    with pytest.raises(UserError, match="no heavy atom"):
        floor(replace(twins, atomic_numbers=np.ones(4, dtype=np.int32)))


def test_any_flipped_byte_is_noticed_and_named(twins, tmp_path):
    path = tmp_path / "formaldehyde-r0-twins.h5"
    write_twins(path, twins)
    whole = path.read_bytes()
    for place in np.random.default_rng(0).integers(len(whole), size=20):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(CorruptFile, match=path.name):
            read_twins(path)
    path.write_bytes(whole[:-100])
    with pytest.raises(CorruptFile, match="cut short or altered"):
        read_twins(path)
    path.write_bytes(whole)
    checksum_path(path).unlink()
    with pytest.raises(CorruptFile, match=r"twins.h5.sha256 is missing"):
        read_twins(path)


def test_what_is_not_there_is_said_in_one_line(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        find_twins(tmp_path / "none")
    with pytest.raises(UserError, match=r"no -twins\.h5 file"):
        find_twins(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        read_twins(tmp_path / "x-twins.h5")
    with pytest.raises(UserError, match="no twins ship for mini-none"):
        shipped_twins("mini-none")


def test_a_folder_of_twins_holds_no_shard(twins, tmp_path):
    write_twins(tmp_path / "formaldehyde-r0-twins.h5", twins)
    with pytest.raises(UserError, match=r"no \.h5md file"):
        find_shards(tmp_path)


# --- what ships -------------------------------------------------------------------------------

DATA = Path(tg80.__file__).parent / "data"


@pytest.fixture(scope="module")
def shipped() -> list[Twins]:
    return [read_twins(path) for path in find_twins(shipped_twins("mini-xtb"))]


def test_twins_of_every_mini_molecule_ship(shipped):
    shards = {path.name: path for path in find_shards(DATA / "mini-xtb")}
    assert {twins.metadata.source for twins in shipped} == shards.keys()
    for twins in shipped:
        facts = twins.metadata
        assert facts.source_sha256 == file_sha256(shards[facts.source])
        assert (twins.n_starts, twins.n_twins) == (2, 4)
        assert facts.settings.perturbation_angstrom == 1e-3
        assert twins.times_fs[-1] == 960.0
    folder = shipped_twins("mini-xtb")
    assert sum(path.stat().st_size for path in folder.iterdir()) < 5_000_000


def test_shipped_twins_start_next_to_their_shard(shipped):
    for twins in shipped:
        with Shard(DATA / "mini-xtb" / twins.metadata.source) as shard:
            assert np.array_equal(twins.atomic_numbers, shard.atomic_numbers)
            for i, frame in enumerate(twins.start_frames):
                apart = twins.positions[i, :, 0] - shard.read("positions", frame, frame + 1)
                assert 3e-4 < np.sqrt((apart**2).mean()) < 2e-3


def test_shipped_floor_grows_and_lies_below_persistence(shipped):
    lags = [10.0, 100.0, 480.0, 960.0]
    floors = np.median([floor(t, lags_fs=lags)[1].mean(axis=0) for t in shipped], axis=0)
    moved = np.median([persistence(t, lags_fs=lags)[1].mean(axis=0) for t in shipped], axis=0)
    assert floors[1] < floors[2] < floors[3]
    assert (floors < 0.05 * moved).all()
    # Displacements of 1e-3 A, of which the projection leaves most.
    assert 1e-7 < floors[0] < 2e-6


def test_persistence_is_the_mean_squared_way_from_the_start(twins):
    lags, values = persistence(twins, "all", [30.0])
    way = twins.positions[:, :, 3].astype(float) - twins.positions[:, :, 0]
    assert np.array_equal(lags, [30.0])
    assert np.allclose(values[:, 0], (way**2).mean(axis=(1, 2, 3)))
