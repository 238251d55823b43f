"""Twins: where they start, that they follow the shard's own dynamics, and that nothing is lost."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import tg80
from pipelines.cli import run
from pipelines.dynamics.integrators import Body, Stepper
from pipelines.engines.engine import Resources
from pipelines.recipe import Recipe
from pipelines.twins.starts import perturbed_start, resampled_hydrogens
from pipelines.twins.twins import Twin, TwinRun, TwinSource, do_segment
from tests.pipelines.dynamics.analytic import SpringEngine
from tg80.chemistry.mechanics import (
    angular_momentum,
    kinetic_energy,
    linear_momentum,
    remove_rigid_motion,
    temperature,
)
from tg80.constants import ACCELERATION
from tg80.errors import RunFailed, UserError
from tg80.shards.fields import FIELDS
from tg80.shards.shard import Shard, stored_resolution, to_disk
from tg80.shards.twins import TwinSettings, floor, read_twins

MINI = Path(tg80.__file__).parent / "data" / "mini-xtb"
FORMALDEHYDE = MINI / "formaldehyde-r0.h5md"
QUICK = Resources()


def make(out: Path, source: TwinSource, **settings):
    """All twins of a shard in this process; the settings are those of `TwinSettings`."""
    run = TwinRun(out, source, TwinSettings(**{"length_fs": 20.0, **settings}))
    tasks = run.tasks()
    for task in tasks:
        while do_segment(task, QUICK)[0] < run.settings.length_fs:
            pass
    return run.assemble(tasks)


@pytest.fixture(scope="module")
def source() -> TwinSource:
    return TwinSource(FORMALDEHYDE)


# --- where they start -------------------------------------------------------------------------


def test_displacements_are_gaussian_without_rigid_motion(source):
    positions, velocities = source.frame(0)
    body, rng = source.body, np.random.default_rng(4)
    shifts = []
    for _ in range(500):
        moved, speeds = perturbed_start(positions, velocities, body, 0.01, rng)
        shift = moved - positions
        assert np.abs(linear_momentum(body.masses, shift)).max() < 1e-12
        assert np.abs(angular_momentum(body.masses, positions.astype(float), shift)).max() < 1e-12
        assert np.array_equal(speeds, velocities)
        shifts.append(shift)
    # The projection of unit displacements gives the spread that each coordinate should have.
    units = np.eye(positions.size).reshape(-1, *positions.shape)
    projected = np.array(
        [remove_rigid_motion(body.masses, positions.astype(float), u, linear=False) for u in units]
    )
    expected = 0.01 * np.sqrt((projected**2).sum(axis=0))
    assert np.allclose(np.std(shifts, axis=0), expected, rtol=0.15, atol=1e-5)
    assert np.trace(projected.reshape(positions.size, -1)) == pytest.approx(positions.size - 6)


@pytest.mark.parametrize("rounded", [False, True], ids=["float32", "rounded to steps"])
def test_without_displacement_only_the_rounding_is_drawn(source, rounded):
    as_stored = [np.asarray, np.asarray]  # by a version that rounded to float32 only
    if rounded:
        as_stored = [partial(to_disk, FIELDS[name]) for name in ("positions", "velocities")]
    positions, velocities = (
        store(array) for store, array in zip(as_stored, source.frame(7), strict=True)
    )
    rng = np.random.default_rng(0)
    starts = [perturbed_start(positions, velocities, source.body, 0.0, rng) for _ in range(3)]
    for moved, speeds in starts:
        assert np.array_equal(as_stored[0](moved.astype(np.float32)), positions)
        nearest = 0.5 * stored_resolution(FIELDS["velocities"], velocities)
        assert np.all(np.abs(speeds - velocities) <= nearest) and np.any(speeds != velocities)
    shift = np.abs(starts[0][0] - starts[1][0]).max()
    assert 5e-6 < shift < 2.0**-15 if rounded else 0 < shift < 1e-6


def test_resampled_hydrogens_keep_momenta_and_heavy_atoms():
    benzene_like = TwinSource(MINI / "toluene-r0.h5md")
    positions, velocities = (array.astype(float) for array in benzene_like.frame(3))
    numbers, masses = benzene_like.atomic_numbers, benzene_like.body.masses
    rng, kelvin = np.random.default_rng(2), []
    hydrogen = numbers == 1
    n_free = 3 * hydrogen.sum() - 6
    for _ in range(400):
        drawn = resampled_hydrogens(positions, velocities, numbers, masses, 300.0, rng)
        assert np.array_equal(drawn[~hydrogen], velocities[~hydrogen])
        change = drawn - velocities
        assert np.abs(linear_momentum(masses, change)).max() < 1e-12
        assert np.abs(angular_momentum(masses, positions, change)).max() < 1e-12
        kelvin.append(kinetic_energy(masses, drawn))
    spread = np.std(kelvin) / np.sqrt(len(kelvin))
    # What the draw adds is thermal: its mean does not depend on the velocities it replaces.
    again = [
        kinetic_energy(masses, resampled_hydrogens(positions, drawn, numbers, masses, 300.0, rng))
        for _ in range(400)
    ]
    assert np.mean(kelvin) == pytest.approx(np.mean(again), abs=5 * spread)
    # Var(K) of n_free thermal degrees is n_free (kT)^2 / 2.
    kt = temperature_spread(np.var(kelvin), n_free)
    assert kt == pytest.approx(300.0, rel=0.15)


def temperature_spread(variance: float, n_free: int) -> float:
    """Temperature (K) whose kinetic energy over n_free degrees has this variance (eV^2)."""
    return float(temperature(0.5 * n_free * np.sqrt(2 * variance / n_free), n_free))


def test_a_single_hydrogen_is_fixed_by_the_momenta():
    source = TwinSource(MINI / "chloroform-r0.h5md")
    positions, velocities = (array.astype(float) for array in source.frame(0))
    drawn = resampled_hydrogens(
        positions, velocities, source.atomic_numbers, source.body.masses, 300.0,
        np.random.default_rng(0),
    )  # fmt: skip
    assert np.array_equal(drawn, velocities)


# --- their dynamics ---------------------------------------------------------------------------


def test_floor_of_a_harmonic_oscillator_swings_as_the_square_of_a_cosine():
    """x_k(t) = delta_k cos(omega t): the variance over twins is sigma^2/6 cos^2(omega t)."""
    masses, stiffness = np.array([14.0, 14.0]), 20.0
    rest = np.array([[0.0, 0.0, 0.0], [1.1, 0.0, 0.0]])
    body = Body(masses, 1, linear=True)
    omega = np.sqrt(2 * stiffness * ACCELERATION / masses[0])
    sigma, step_fs, rng = 1e-4, 0.05, np.random.default_rng(3)
    runs = []
    for _ in range(100):
        stepper = Stepper(body, SpringEngine(rest, stiffness), step_fs)
        start = perturbed_start(
            rest.astype(np.float32), np.zeros((2, 3), np.float32), body, sigma, rng
        )
        state = stepper.begin(*start)
        path = [state.positions]
        for _ in range(50):
            stepper.step(state)
            path.append(state.positions)
        runs.append(path)
    variance = np.var(np.array(runs), axis=0, ddof=1).mean(axis=(1, 2))
    times = step_fs * np.arange(51)
    # Half of one bond-length variance of 2 sigma^2 on each atom, along one of three directions.
    assert variance[0] == pytest.approx(sigma**2 / 6, rel=0.6)
    swing = np.cos(omega * times) ** 2
    assert np.allclose(variance / variance[0], swing, atol=2e-3)


@pytest.fixture(scope="module")
def unperturbed(source, tmp_path_factory):
    return make(
        tmp_path_factory.mktemp("zero"), source, perturbation_angstrom=0.0, n_twins=2,
        length_fs=100.0,
    )  # fmt: skip


def test_twins_without_displacement_follow_the_stored_trajectory(source, unperturbed):
    """The same level, integrator and projections: only rounding and SCF noise differ."""
    step = FIELDS["positions"].step
    with Shard(source.path) as shard:
        for i, frame in enumerate(unperturbed.start_frames):
            stored = shard.read("positions", frame, frame + 11)
            apart = np.abs(unperturbed.positions[i] - stored).max(axis=(0, 2, 3))
            assert apart[0] <= step / 2
            assert apart.max() < step / 2 + 2e-5
    _, values = floor(unperturbed, "all")
    assert values.max() < 1e-10 + step**2 / 6


def test_a_displacement_is_seen_and_grows(source, unperturbed, tmp_path):
    twins = make(tmp_path, source, perturbation_angstrom=1e-3, length_fs=100.0)
    _, values = floor(twins, "all")
    assert values[:, 0].mean() > 100 * floor(unperturbed, "all")[1][:, 0].mean()
    assert values[:, 5:].mean() > values[:, 0].mean()
    # Displaced positions at the same velocities: the energy is uncertain, too.
    assert 1e-5 < twins.start_energies.std(axis=1).mean() < 0.1


def test_starts_are_the_windows_that_the_benchmark_scores():
    from benchmarks.tasks.data import load_benchmark
    from benchmarks.tasks.tasks import get_task
    from pipelines.twins.twins import DEFAULT_LENGTH_FS

    task = get_task("mini-xtb-v1")
    data = load_benchmark(task, 1)
    scored = data.parts["test_time"].windows.states.start_id
    source = TwinSource(MINI / f"{data.training.molecules[0]}-r0.h5md")
    settings = TwinSettings(length_fs=task.horizon_fs)
    ids = {f"{source.stem}@{frame}" for frame in source.starts(settings)}
    assert len(ids) == 2
    assert ids <= set(scored)
    assert task.horizon_fs == DEFAULT_LENGTH_FS["xtb"]
    assert get_task("tg80-multitask").horizon_fs == DEFAULT_LENGTH_FS["rks"]


def test_other_thermostat_noise_parts_the_twins(shard_factory, tmp_path):
    recipe = Recipe(level="gfn2-xtb", thermostat="langevin", thermostat_time_fs=50.0)
    path = shard_factory(
        "formaldehyde", ensemble="langevin", recipe=recipe.model_dump(mode="json"), n_frames=400
    )
    source = TwinSource(path)
    settings = {"perturbation_angstrom": 0.0, "n_starts": 1, "n_twins": 2}
    same = make(tmp_path / "same", source, **settings)
    other = make(tmp_path / "other", source, noise=True, **settings)
    assert floor(other, "all")[1][0, -1] > 1e4 * floor(same, "all")[1][0, -1]


# --- settings, errors, resuming ---------------------------------------------------------------


def test_a_run_taken_up_again_gives_the_same_bytes(source, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    make(whole, source, n_starts=1)
    run = TwinRun(broken, source, TwinSettings(length_fs=20.0, n_starts=1))
    tasks = run.tasks()
    for task in tasks[:2]:
        do_segment(task, QUICK)
    assert not run.path.exists()
    make(broken, TwinSource(FORMALDEHYDE), n_starts=1)
    name = "formaldehyde-r0-twins.h5"
    assert (whole / name).read_bytes() == (broken / name).read_bytes()
    assert not run.work.exists()


def test_a_stage_of_several_segments_goes_on_where_it_was(source, tmp_path):
    """Killed between segments: the parts join to what one process makes."""
    recipe = source.recipe.model_copy(update={"segment_fs": 10.0})

    def twin(out: Path, processes: int) -> np.ndarray:
        settings = TwinSettings(length_fs=40.0, n_starts=1)
        again = TwinSource(FORMALDEHYDE)
        again.recipe = recipe
        task = TwinRun(out, again, settings).tasks()[0]
        stage = Twin(again, task).stage()
        for segment in range(4):
            stage = Twin(again, task).stage() if segment < processes else stage
            progress = stage.advance()
        assert progress.step == 80
        return progress.positions

    assert np.array_equal(twin(tmp_path / "a", 0), twin(tmp_path / "b", 4))


def test_command_makes_twins_once_and_refuses_to_mix_them(tmp_path, capsys):
    out = tmp_path / "twins"
    words = ["twin", "--data", str(MINI), "--molecules", "formaldehyde", "--replica", "0"]
    words += ["--length-fs", "20", "--starts", "1", "--out", str(out), "--workers", "1"]
    assert run([*words, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["twins"][0]
    path = out / "formaldehyde-r0-twins.h5"
    assert row["path"] == str(path)
    assert row["start_ids"] == ["formaldehyde-r0@948"]
    before = path.stat().st_mtime_ns
    assert run(words) == 0
    assert path.stat().st_mtime_ns == before
    assert sorted(p.name for p in out.iterdir() if p.name != ".lock") == [
        path.name, f"{path.name}.sha256",
    ]  # fmt: skip
    capsys.readouterr()
    assert run([*words, "--perturbation", "1e-2"]) == 2
    assert "perturbation_angstrom 0.001 there, 0.01 now" in capsys.readouterr().err
    assert read_twins(path).metadata.settings.n_twins == 4


@pytest.mark.parametrize(
    "words, reason",
    [
        (["--noise"], "NVE and has no thermostat"),
        (["--length-fs", "5000"], "longer than the test_time block"),
        (["--length-fs", "15"], "not a multiple of 10 fs"),
        (["--perturbation", "-1"], "greater than or equal to 0"),
        (["--molecules", "unobtainium"], "no shard of unobtainium"),
        (["--replica", "1"], "no shard of replica 1"),
    ],
)
def test_bad_settings_are_refused_in_one_line(words, reason, tmp_path, capsys):
    command = ["twin", "--data", str(MINI), "--molecules", "formaldehyde", "--out", str(tmp_path)]
    assert run([*command, *words]) == 2
    error = capsys.readouterr().err.strip()
    assert reason in error
    assert "\n" not in error


def test_one_name_at_two_levels_is_refused(tmp_path, capsys):
    """In a tree of levels: the twins of one would take the file of the other's."""
    for level in ("gfn2-xtb", "pbe-def2svp"):
        (tmp_path / level).mkdir()
        (tmp_path / level / "ethanol-r0.h5md").write_bytes(b"")
    assert run(["twin", "--data", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "several shards are called ethanol-r0.h5md" in capsys.readouterr().err


def test_a_shard_without_its_recipe_is_refused(shard_factory):
    with pytest.raises(UserError, match="does not hold the recipe"):
        TwinSource(shard_factory("formaldehyde"))


def test_a_failing_twin_names_its_start(source, tmp_path):
    task = TwinRun(tmp_path, source, TwinSettings(length_fs=20.0)).tasks()[0]
    stage = Twin(source, task).stage()

    def fails(positions):
        raise RunFailed("no self-consistency")

    stage.stepper.engine.evaluate = fails
    with pytest.raises(RunFailed, match="no self-consistency"):
        stage.advance()
    assert not list(stage.folder.glob("part-*"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_dft_twins_follow_a_dft_trajectory(tmp_path, capsys):
    """Multiple time steps, projections and density fit as in the run that made the shard."""
    (tmp_path / "list.smi").write_text("C=O formaldehyde\n")
    data, out = tmp_path / "data", tmp_path / "twins"
    words = ["generate", "--molecule-list", str(tmp_path / "list.smi"), "--out", str(data)]
    words += ["--length-fs", "100", "--equilibration-fs", "0", "--workers", "1"]
    words += ["--integrator", "mts"]  # `learned` would know more inside than a twin that begins
    quick = ["pre_equilibration_fs=100", "n_conformers=2", "n_relaxed=1"]
    assert run([*words, *(word for setting in quick for word in ("--set", setting))]) == 0
    words = ["twin", "--data", str(data), "--out", str(out), "--perturbation", "0", "--twins", "2"]
    words += ["--length-fs", "20", "--store-every-fs", "1", "--starts", "1", "--workers", "2"]
    assert run(words) == 0
    twins = read_twins(out / "formaldehyde-r0-twins.h5")
    frame = int(twins.start_frames[0])
    with Shard(data / "formaldehyde-r0.h5md") as shard:
        stored = shard.read("positions", frame, frame + 21)
    # The SCF starts from a fresh guess here: within its thresholds, not to the bit.
    assert np.abs(twins.positions[0] - stored).max() < 1e-4
    assert floor(twins, "all")[1].max() < 1e-9
