"""One trajectory through its stages: energies, replicas, resuming, failures, damaged files."""

from importlib.metadata import version

import h5py
import numpy as np
import pytest

from pipelines.dynamics.checkpoint import read_arrays
from pipelines.engines.engine import Engine
from pipelines.recipe import Recipe
from pipelines.run.task import installed_versions
from pipelines.trajectory import Trajectory
from tests.stress.kill_run import datasets
from tg80.chemistry.mechanics import angular_momentum, kinetic_energy, linear_momentum
from tg80.chemistry.molecule import molecule_from_smiles
from tg80.constants import BOLTZMANN_EV_PER_K
from tg80.errors import CorruptFile, RunFailed
from tg80.shards.fields import FIELDS
from tg80.shards.shard import Shard
from tg80.shards.validate import validate

SHORT = {
    "level": "gfn2-xtb",
    "length_fs": 60,
    "pre_equilibration_fs": 40,
    "equilibration_fs": 40,
    "segment_fs": 20,
    "n_conformers": 3,
}


def run(trajectory, limit=100):
    """Works through all stages; their names in order."""
    names = []
    for _ in range(limit):
        names.append(trajectory.prepare().name)
        if names[-1] == "prepared":
            break
    for _ in range(limit):
        names.append(trajectory.produce().name)
        if names[-1] == "done":
            return names
    raise AssertionError("no end")


def methanol(folder, replica=0, **settings):
    return Trajectory(
        folder, molecule_from_smiles("CO", "methanol"), Recipe(**(SHORT | settings)), replica
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    trajectory = methanol(tmp_path_factory.mktemp("run"))
    return trajectory, run(trajectory)


def test_stages_follow_one_another(finished):
    _, names = finished
    assert list(dict.fromkeys(names)) == [
        "geometry", "pre-equilibration", "equilibration", "prepared", "production", "done",
    ]  # fmt: skip


def test_frames_start_at_zero_and_are_as_far_apart_as_asked(finished):
    with Shard(finished[0].shard_path) as shard:
        assert shard.times_fs.tolist() == list(range(61))
        assert shard.metadata.end == "complete"


def test_a_kohn_sham_shard_names_the_versions_that_decide_its_bits(tmp_path):
    settings = {
        "level": "pbe-def2svp", "length_fs": 2, "pre_equilibration_fs": 10, "equilibration_fs": 2,
        "n_conformers": 1,
    }  # fmt: skip
    water = molecule_from_smiles("O", "water")
    trajectory = Trajectory(tmp_path, water, Recipe(**(SHORT | settings)), 0)
    run(trajectory)
    with Shard(trajectory.shard_path) as shard:
        assert shard.metadata.level == "pbe-def2svp"
        versions = shard.metadata.versions
    deciding = {name for name, _ in installed_versions()} - {"python", "dask", "distributed"}
    assert "numba" in deciding and deciding <= versions.keys()
    assert all(versions[name] == version(name) for name in deciding)


def test_replica_zero_starts_at_the_energy_it_should(finished):
    """Short NVT: E* = V(relaxed) + (3N-6) kT, and the first frame has just this energy."""
    trajectory, _ = finished
    _, header = read_arrays(trajectory.work / "geometry.npz")
    with Shard(trajectory.shard_path) as shard:
        target = shard.metadata.target_energy_ev
        first = shard.read("conserved_quantity")[0]
        assert shard.metadata.energy_source == "equipartition"
    expected = header["energy"] + 12 * BOLTZMANN_EV_PER_K * 300
    assert target == pytest.approx(expected, abs=2e-4)
    assert first == pytest.approx(target, abs=1e-6)


def test_momenta_of_the_shard_are_zero(finished):
    with Shard(finished[0].shard_path) as shard:
        masses, positions = shard.masses, shard.read("positions").astype(float)
        velocities = shard.read("velocities").astype(float)
    thermal = np.sqrt(2 * kinetic_energy(masses, velocities[0]) * masses.sum() * 9.6485e-3)
    # What is stored is rounded; a molecule that tumbles has a tenth of the thermal momentum.
    rounding = masses * FIELDS["velocities"].largest_rounding
    assert rounding.sum() < 1e-4 * thermal
    for x, v in zip(positions, velocities, strict=True):
        assert np.abs(linear_momentum(masses, v)).max() < 1e-6 * thermal + rounding.sum()
        arms = np.linalg.norm(x, axis=1)
        assert np.abs(angular_momentum(masses, x, v)).max() < 1e-6 * thermal + arms @ rounding


def test_a_long_nvt_run_gives_the_mean_energy(tmp_path):
    trajectory = methanol(tmp_path, equilibration_fs=2500, segment_fs=500, length_fs=20)
    run(trajectory)
    with Shard(trajectory.shard_path) as shard:
        assert shard.metadata.energy_source == "nvt-mean"
        expected = read_arrays(trajectory.work / "geometry.npz")[1]["energy"]
        expected += 12 * BOLTZMANN_EV_PER_K * 300
        # Methanol is nearly harmonic: both ways to E* agree within a fifth of kT per atom.
        assert shard.metadata.target_energy_ev == pytest.approx(expected, abs=0.03)


def test_segments_and_one_go_hold_the_same_bits(tmp_path, finished):
    """New objects for every segment, as another process would make them."""
    names = []
    while "done" not in names:
        trajectory = methanol(tmp_path)
        stage = trajectory.prepare()
        if stage.name == "prepared":
            stage = methanol(tmp_path).produce()
        names.append(stage.name)
    with h5py.File(methanol(tmp_path).shard_path) as one, h5py.File(finished[0].shard_path) as two:
        ours, theirs = datasets(one), datasets(two)
    assert ours.keys() == theirs.keys() and len(ours) >= 20
    assert all(ours[name].tobytes() == theirs[name].tobytes() for name in ours)


def test_replicas_start_from_other_frames_and_may_be_stored_otherwise(tmp_path):
    starts = []
    for replica in range(3):
        trajectory = methanol(
            tmp_path, replica, segment_fs=500, length_fs=20, later_length_fs=10,
            later_store_every_fs=2,
        )  # fmt: skip
        run(trajectory)
        with Shard(trajectory.shard_path) as shard:
            starts.append(shard.read("positions")[0])
            assert (shard.n_frames, shard.frame_fs) == ((6, 2.0) if replica else (21, 1.0))
            assert shard.metadata.recipe == trajectory.recipe.stated()
            expected = "mean-energy" if replica == 0 else "canonical"
            assert (shard.metadata.replica, shard.metadata.start) == (replica, expected)
    assert all(np.abs(starts[i] - starts[j]).max() > 0.01 for i, j in ((0, 1), (0, 2), (1, 2)))


def test_a_thermostat_in_production_starts_canonical_and_keeps_its_balance(tmp_path):
    trajectory = methanol(tmp_path, thermostat="langevin", thermostat_time_fs=20)
    run(trajectory)
    with Shard(trajectory.shard_path) as shard:
        assert (shard.metadata.ensemble, shard.metadata.start) == ("langevin", "canonical")
        conserved = shard.read("conserved_quantity")
        total = shard.read("potential_energy") + shard.read("kinetic_energy")
    assert np.ptp(total) > 0.05
    assert np.ptp(conserved) < 0.02


def test_seed_and_compound_decide_the_trajectory(tmp_path):
    first = {}
    for seed in (1, 2):
        trajectory = methanol(tmp_path / str(seed), seed=seed)
        run(trajectory)
        with Shard(trajectory.shard_path) as shard:
            first[seed] = shard.read("velocities")[0]
    assert np.abs(first[1] - first[2]).max() > 1e-3


class BreaksDown:
    """An engine that fails after a number of geometries; everything else is the real one's."""

    def __init__(self, engine: Engine, after: int):
        self.engine, self.after, self.level = engine, after, engine.level
        self.load_state, self.state = engine.load_state, engine.state
        self.reset = engine.reset

    def evaluate(self, positions):
        self.after -= 1
        if self.after < 0:
            raise RunFailed("no self-consistency after fresh guess, level shift, second order")
        return self.engine.evaluate(positions)


def test_a_failure_in_production_ends_the_trajectory_with_its_reason(tmp_path):
    trajectory = methanol(tmp_path)
    while trajectory.prepare().name != "prepared":
        pass
    trajectory.produce()
    make = trajectory._level_stepper

    def failing():
        stepper = make()
        stepper.engine = BreaksDown(stepper.engine, 10)
        return stepper

    trajectory._level_stepper = failing
    stage = trajectory.produce()
    assert stage.name == "done" and stage.failure and "second order" in stage.failure
    with Shard(trajectory.shard_path) as shard:
        assert shard.times_fs[-1] == 20
        assert shard.metadata.end.startswith("failed: ")
    assert methanol(tmp_path).is_done()


def test_a_damaged_part_is_named_and_never_overwritten(tmp_path):
    trajectory = methanol(tmp_path)
    while trajectory.prepare().name != "prepared":
        pass
    trajectory.produce()
    part = trajectory.production_folder / "part-000000.npz"
    damaged = bytearray(part.read_bytes())
    damaged[len(damaged) // 2] ^= 4
    part.write_bytes(bytes(damaged))
    with pytest.raises(CorruptFile, match=r"part-000000\.npz"):
        run(methanol(tmp_path))
    assert part.read_bytes() == bytes(damaged)
    assert not trajectory.shard_path.exists()


def test_a_damaged_shard_is_named_and_never_overwritten(tmp_path):
    trajectory = methanol(tmp_path)
    run(trajectory)
    content = trajectory.shard_path.read_bytes()[:-100]
    trajectory.shard_path.write_bytes(content)
    with pytest.raises(CorruptFile, match=r"methanol-r0\.h5md"):
        methanol(tmp_path).produce()
    assert trajectory.shard_path.read_bytes() == content


def test_a_damaged_checkpoint_costs_one_segment_and_no_bit(tmp_path, finished):
    trajectory = methanol(tmp_path)
    while trajectory.prepare().name != "prepared":
        pass
    trajectory.produce()
    trajectory.produce()
    newest = max(trajectory.production_folder.glob("checkpoint-*.npz"))
    newest.write_bytes(b"0" * 100)
    stage = methanol(tmp_path).produce()
    assert stage.time_fs == 40 and newest.name in stage.warnings[0]
    run(methanol(tmp_path))
    with Shard(trajectory.shard_path) as one, Shard(finished[0].shard_path) as other:
        assert one.read("positions").tobytes() == other.read("positions").tobytes()


def test_other_settings_in_the_same_folder_are_refused(tmp_path):
    run_one = methanol(tmp_path)
    run_one.prepare()
    run_one.prepare()
    with pytest.raises(CorruptFile, match="other settings"):
        methanol(tmp_path, seed=99).prepare()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_learned_dynamics_of_formaldehyde_take_longer_steps_and_survive_a_kill(tmp_path):
    """PBE: the stages learn, and a segment done again from its checkpoint gives the same bits."""
    settings = {
        "level": "pbe-def2svp", "integrator": "learned", "pre_equilibration_fs": 500,
        "equilibration_fs": 200, "length_fs": 100, "segment_fs": 50, "n_conformers": 1,
    }  # fmt: skip
    formaldehyde = molecule_from_smiles("C=O", "formaldehyde")
    trajectory = Trajectory(tmp_path, formaldehyde, Recipe(**(SHORT | settings)), 0)
    while trajectory.prepare().name != "prepared":
        pass
    trajectory.produce()
    stage = trajectory.production()
    first = stage.advance()
    newest = max(trajectory.production_folder.glob("checkpoint-*.npz"))
    newest.unlink()
    again = trajectory.production().advance()
    assert (again.parts, again.header["inner"]) == (first.parts, first.header["inner"])
    while trajectory.produce().name != "done":
        pass
    with Shard(trajectory.shard_path) as shard:
        assert shard.metadata.statistics["level_evaluations"] < 60
        assert np.nanmax(shard.read("residual_force")) < 0.02
        assert np.nanstd(shard.read("conserved_quantity")) / 4 < 2e-4
    assert not [p for p in validate(trajectory.shard_path) if p.level == "error"]
