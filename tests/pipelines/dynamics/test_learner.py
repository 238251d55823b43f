"""The `learned` integrator with springs as level and as cheap method: known forces, no DFT."""

from itertools import pairwise

import numpy as np
import pytest

from pipelines.dynamics.checkpoint import read_arrays, write_arrays
from pipelines.dynamics.inner_potential import CorrectedEngine, no_permutations
from pipelines.dynamics.integrators import Body, Stepper
from pipelines.dynamics.learner import (
    OUTER_STEPS,
    Learner,
    _drifts,
    allowed_outer_steps,
)
from pipelines.dynamics.parts import read_parts
from pipelines.dynamics.segments import Stage, StagePlan
from pipelines.dynamics.thermostats import thermal_velocities
from pipelines.engines.engine import Evaluation
from pipelines.recipe import Recipe
from tests.pipelines.dynamics.analytic import SpringEngine
from tg80.constants import masses_of
from tg80.shards.fields import LEVEL_FIELDS, MISSING, evaluated_frames

NUMBERS = (6, 8, 6, 1, 1)
REST = np.array([[0.0, 0, 0], [1.5, 0, 0], [0, 1.4, 0], [0.3, 0.4, 1.3], [-0.8, -0.7, 0.5]])
BODY = Body(masses_of(NUMBERS), 9, False)
INNER_FS = 0.25


@pytest.fixture(autouse=True, scope="module")
def small_fits():
    """At most 120 frames a fit: the springs need no more, and a test waits for no large one."""
    with pytest.MonkeyPatch.context() as patch:
        for room in ("learner", "inner_potential"):
            patch.setattr(f"pipelines.dynamics.{room}.most_frames", lambda n_atoms: 120)
        yield


class TwoConformers(SpringEngine):
    """Springs with a further attraction between atoms 1 and 4 that acts within `within` A only."""

    def __init__(self, rest: np.ndarray, within: float = 0.0):
        super().__init__(rest, 5.0)
        self.within = within

    def evaluate(self, positions: np.ndarray) -> Evaluation:
        found = super().evaluate(positions)
        apart = positions[1] - positions[4]
        length = np.linalg.norm(apart)
        if length >= self.within:
            return found
        inside = self.within - length
        forces = found.forces.copy()
        push = -30.0 * inside**3 * apart / length
        forces[1] += push
        forces[4] -= push
        energy = found.energy - 7.5 * inside**4
        return Evaluation(energy, forces, found.dipole, found.charges, -1, True, 1.0)


def make_stage(folder, *, level=None, length_fs=1000.0, kelvin=200.0, before=None, steps=None,
               seeds=0, start=None):  # fmt: skip
    inner = CorrectedEngine(SpringEngine(1.02 * REST, 4.0))
    stepper = Stepper(BODY, level or SpringEngine(REST, 5.0), 1.0, inner, INNER_FS)
    rng = np.random.default_rng(1)
    frames = REST + 0.03 * rng.normal(size=(seeds, *REST.shape))
    learner = Learner(
        stepper,
        NUMBERS,
        steps or OUTER_STEPS,
        seed_frames=lambda: frames,
        before=lambda: before,
        permutations=lambda _: no_permutations(5),
    )
    plan = StagePlan(
        identity="springs", n_steps=round(length_fs / INNER_FS), steps_per_segment=200,
        store_stride=4, seed=(1,),
    )  # fmt: skip
    velocities = thermal_velocities(BODY, REST, kelvin, np.random.default_rng(0))
    return Stage(folder, plan, BODY, stepper, None, start or (lambda: (REST, velocities)), learner)


def finish(stage):
    """All segments, each by a stage made anew as after a kill; frames and last progress."""
    for _ in range(400):
        progress = stage().advance()
        if progress.step >= stage().plan.n_steps:
            return read_parts(stage().part_paths(progress)), progress
    raise AssertionError("no end")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("learned")
    return finish(lambda: make_stage(folder))


def test_the_outer_step_grows_as_the_residual_falls(finished):
    frames, progress = finished
    outer, residual = frames["outer_step"], frames["residual_force"]
    assert outer[1] == 1 and outer[-2] == 2  # the last may be cut short
    assert residual[-1] < 0.02 * residual[0]
    assert np.array_equal(frames["time"], np.arange(1001.0))
    known = progress.header["inner"]
    assert known["n_fits"] >= 3
    assert known["n_evaluations"] < 700
    assert known["sha256"]


def test_energy_is_conserved_and_it_is_the_level_s(finished):
    frames, _ = finished
    evaluated = evaluated_frames(frames)
    assert np.std(frames["conserved_quantity"][evaluated]) / len(REST) < 1e-4
    level = SpringEngine(REST, 5.0)
    rows = zip(frames["positions"], frames["potential_energy"], strict=True)
    for x, energy in (row for row, known in zip(rows, evaluated, strict=True) if known):
        assert level.evaluate(x.astype(float)).energy == pytest.approx(energy, abs=1e-3)


def test_a_stage_cut_off_anywhere_goes_on_with_the_same_bits(finished, tmp_path):
    """Each segment is done twice, from the checkpoint before: the second time counts."""
    _, progress = finished
    stage = make_stage(tmp_path)
    while True:
        done = stage.advance()
        last = sorted(tmp_path.glob("checkpoint-*.npz"))
        if len(last) > 1 and done.segment % 2:
            last[-1].unlink()
            again = make_stage(tmp_path).advance()
            assert again.parts == done.parts
            assert again.header["inner"] == done.header["inner"]
        if done.step >= stage.plan.n_steps:
            break
    assert done.parts == progress.parts
    assert np.array_equal(done.positions, progress.positions)


def test_frames_between_evaluations_are_stored_without_the_level(finished):
    frames, _ = finished
    evaluated = evaluated_frames(frames)
    assert evaluated[frames["outer_step"] <= 1].all() and 0.2 < evaluated.mean() < 0.8
    for name in LEVEL_FIELDS:
        values = frames[name].reshape(1001, -1)
        assert np.isfinite(values[evaluated]).all()
        missing = np.full_like(values[~evaluated], MISSING.get(name, np.nan))
        assert np.array_equal(values[~evaluated], missing, equal_nan=name not in MISSING)
    # Read as if the level had been asked there too: energy as good as where it was.
    level = SpringEngine(REST, 5.0)
    potential = [level.evaluate(x.astype(float)).energy for x in frames["positions"]]
    total = np.array(potential) + frames["kinetic_energy"]
    assert np.std(total[~evaluated]) < 1.5 * np.std(total[evaluated]) + 1e-5
    moved = (frames["positions"][2:] - frames["positions"][:-2]).astype(float) / 2.0
    off = moved - frames["velocities"][1:-1]
    sizes = np.sqrt(np.mean(off**2, axis=(1, 2)))
    assert sizes[~evaluated[1:-1]].mean() == pytest.approx(sizes[evaluated[1:-1]].mean(), rel=0.2)


def test_motion_between_two_fits_reverses_in_time(finished):
    _, progress = finished
    stage = make_stage(None, before=(progress.arrays, progress.header))
    assert stage.learner is not None
    stage.learner.begin(REST)
    stepper = stage.stepper
    state = stepper.begin(progress.positions, progress.velocities)
    for _ in range(50):
        stepper.step(state, 16)
    state.velocities = -state.velocities
    for _ in range(50):
        stepper.step(state, 16)
    start = stepper.begin(progress.positions, progress.velocities).positions
    assert np.abs(state.positions - start).max() < 1e-8


def test_a_new_conformer_makes_the_outer_step_fall_and_it_is_learned(tmp_path):
    """The level attracts two atoms once they come near, which the stage before never showed."""
    rest = float(np.linalg.norm(REST[1] - REST[4]))

    def level():
        return TwoConformers(REST, within=rest - 0.35)

    _, before = finish(lambda: make_stage(tmp_path / "cold", level=level(), kelvin=100.0))
    cold = before.header["inner"]
    assert cold["outer_step_fs"] == 2
    hot = thermal_velocities(BODY, REST, 2000.0, np.random.default_rng(3))
    frames, after = finish(lambda: make_stage(
        tmp_path / "hot", level=level(), before=(before.arrays, before.header),
        start=lambda: (before.positions, hot), length_fs=600.0,
    ))  # fmt: skip
    assert frames["outer_step"][1:].min() == 1
    assert after.header["inner"]["n_fits"] > cold["n_fits"]
    conserved = frames["conserved_quantity"][evaluated_frames(frames)]
    assert np.std(conserved) / len(REST) < 1e-3


def test_frames_with_stretched_bonds_are_learned_before_the_first_step(tmp_path):
    stage = make_stage(tmp_path, seeds=300)
    counts = []
    for _ in range(4):
        progress = stage.advance()
        counts.append((progress.step, progress.header["inner"]["n_seeds"]))
    assert [step for step, _ in counts[:3]] == [0, 0, 0] and counts[3][0] > 0
    assert [seeds for _, seeds in counts] == [20, 40, 60, 60]
    assert progress.header["inner"]["n_fits"] >= 1
    frames = read_parts(stage.part_paths(progress))
    assert frames["residual_force"][-1] < 0.1 * frames["residual_force"][0]


def test_a_fit_that_fails_goes_on_as_mts_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.dynamics.inner_potential.LEAST_FRAMES", 10**6)
    lines, progress = [], None
    for _ in range(5):
        progress = make_stage(tmp_path).advance()
        lines += progress.warnings
    assert progress is not None and progress.header["inner"]["outer_step_fs"] == 1
    assert lines and "too few for a fit" in lines[0] and "springs" in lines[0]


def test_a_checkpoint_of_mts_goes_on_as_mts(tmp_path):
    """It holds no knowledge: GFN2-xTB alone inside at the first outer step, until 40 labels."""
    stage = make_stage(tmp_path)
    stage.advance()
    (path,) = tmp_path.glob("checkpoint-*.npz")
    arrays, header = read_arrays(path)
    del header["inner"]
    write_arrays(path, {k: v for k, v in arrays.items() if not k.startswith("inner:")}, header)
    stage = make_stage(tmp_path)
    progress = stage.advance()
    assert progress.header["inner"]["n_seen"] == 50


def test_a_correction_of_another_kernel_is_fitted_anew(finished, tmp_path):
    _, done = finished
    header = done.header | {"inner": done.header["inner"] | {"kernel": "another", "n_seeds": 60}}
    stage = make_stage(tmp_path, before=(done.arrays, header))
    first, second = stage.advance().header["inner"], stage.advance().header["inner"]
    assert done.header["inner"]["outer_step_fs"] > 1 == first["outer_step_fs"]
    assert first["n_fits"] == done.header["inner"]["n_fits"] + 1 and second["outer_step_fs"] > 1


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [
        ({}, [step.fs for step in OUTER_STEPS]),
        ({"inner_step_fs": 0.5, "store_every_fs": 1}, [step.fs for step in OUTER_STEPS]),
        ({"inner_step_fs": 1}, [step.fs for step in OUTER_STEPS if step.fs % 1 == 0]),
        ({"outer_step_fs": 4}, [1, 4]),
        ({"outer_step_fs": 2.5}, [0.5, 2.5]),
        ({"outer_step_fs": 0.5}, [0.5]),
    ],
)
def test_outer_steps_are_whole_inner_steps(settings, allowed):
    recipe = Recipe(integrator="learned", **settings)
    steps = allowed_outer_steps(recipe)
    assert [step.fs for step in steps] == allowed
    assert recipe.first_step_fs == allowed[0]


def test_limits_shrink_as_steps_grow():
    assert all(a.fs < b.fs and a.limit > b.limit for a, b in pairwise(OUTER_STEPS))


def test_a_drift_beyond_doubt_forbids_the_outer_step():
    times = 50.0 * np.arange(12)
    noise = 2e-5 * np.random.default_rng(0).normal(size=12)
    assert not _drifts(list(zip(times, noise, strict=True)))
    assert not _drifts(list(zip(times[:4], 1e-6 * times[:4], strict=True)))
    assert _drifts(list(zip(times, noise + 4e-7 * times, strict=True)))
    assert _drifts(list(zip(times, noise - 4e-7 * times, strict=True)))
