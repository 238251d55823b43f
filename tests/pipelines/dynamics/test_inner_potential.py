"""The learned inner potential: an energy with exact forces, true to what it was fitted to."""

import itertools

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pipelines.dynamics.inner_potential import (
    CorrectedEngine,
    FitFailed,
    choose_frames,
    fit_correction,
    most_frames,
    no_permutations,
    stretch_hydrogens,
)
from tests.pipelines.dynamics.analytic import SpringEngine

REST = np.array([[0.0, 0, 0], [1.5, 0, 0], [0, 1.4, 0], [0.3, 0.4, 1.3], [-0.8, -0.7, 0.5]])
NUMBERS = np.array([6, 8, 6, 1, 1])
ALONE = no_permutations(5)
LEVEL, CHEAP = SpringEngine(REST, 5.0), SpringEngine(REST * 1.02, 4.0)


def frames(n, seed=0, size=0.05):
    return REST + size * np.random.default_rng(seed).normal(size=(n, *REST.shape))


def differences(positions):
    return np.array([LEVEL.evaluate(x).forces - CHEAP.evaluate(x).forces for x in positions])


@pytest.fixture(scope="module")
def correction():
    return fit_correction(frames(100), differences(frames(100)), ALONE)


def test_forces_are_the_gradient_of_the_energy(correction):
    """Central differences of fourth order: the energy is a sum of large terms, good to 1e-9 eV."""
    positions, step = frames(1, seed=1)[0], 3e-3
    _, forces = correction.energy_and_forces(positions)
    numerical = np.zeros_like(forces)
    for atom, axis in np.ndindex(forces.shape):
        for factor, weight in ((1, 8), (2, -1), (-1, -8), (-2, 1)):
            moved = positions.copy()
            moved[atom, axis] += factor * step
            energy, _ = correction.energy_and_forces(moved)
            numerical[atom, axis] -= weight * energy / (12 * step)
    assert np.abs(forces - numerical).max() < 2e-6 * np.abs(forces).max() + 1e-6


def test_energy_and_forces_follow_a_rigid_motion(correction):
    positions = frames(1, seed=2)[0]
    turn = Rotation.from_rotvec([0.3, -1.0, 2.0]).as_matrix().T
    energy, forces = correction.energy_and_forces(positions)
    moved_energy, moved_forces = correction.energy_and_forces(positions @ turn + 7.0)
    assert moved_energy == pytest.approx(energy, abs=1e-9)
    assert np.abs(moved_forces - forces @ turn).max() < 1e-8
    assert np.abs(forces.sum(axis=0)).max() < 1e-9
    assert np.abs(np.cross(positions, forces).sum(axis=0)).max() < 1e-9


def test_forces_of_frames_not_seen_are_those_of_the_level(correction):
    unseen = frames(50, seed=3)
    wanted = differences(unseen)
    found = np.array([correction.energy_and_forces(x)[1] for x in unseen])
    assert np.std(found - wanted) < 0.02 * np.std(wanted)
    engine = CorrectedEngine(CHEAP, correction)
    energies = [engine.evaluate(x).energy - LEVEL.evaluate(x).energy for x in unseen]
    bare = [CHEAP.evaluate(x).energy - LEVEL.evaluate(x).energy for x in unseen]
    assert np.std(energies) < 0.02 * np.std(bare)  # up to a constant that forces don't tell
    plain = CorrectedEngine(CHEAP).evaluate(unseen[0])
    assert np.array_equal(plain.forces, CHEAP.evaluate(unseen[0]).forces)


def test_two_fits_to_the_same_frames_are_the_same_bits(correction):
    again = fit_correction(frames(100), differences(frames(100)), ALONE)
    assert again.sha256 == correction.sha256
    other = fit_correction(frames(99), differences(frames(99)), ALONE)
    assert other.sha256 != correction.sha256


def test_a_diatomic_and_a_linear_molecule_are_fitted():
    for numbers in (2, 3):
        rest = np.zeros((numbers, 3))
        rest[:, 2] = 1.2 * np.arange(numbers)
        level, cheap = SpringEngine(rest, 5.0), SpringEngine(rest, 4.0)
        positions = rest + 0.03 * np.random.default_rng(4).normal(size=(40, *rest.shape))
        forces = np.array([level.evaluate(x).forces - cheap.evaluate(x).forces for x in positions])
        found = fit_correction(positions[:30], forces[:30], no_permutations(numbers))
        errors = [
            found.energy_and_forces(x)[1] - f
            for x, f in zip(positions[30:], forces[30:], strict=True)
        ]
        assert np.std(errors) < 0.02 * np.std(forces)


@pytest.mark.parametrize(
    ("positions", "reason"),
    [(frames(3), "too few"), (np.full((20, 5, 3), np.nan), "not finite")],
)
def test_a_fit_that_fails_says_why(positions, reason):
    with pytest.raises(FitFailed, match=reason):
        fit_correction(positions, np.zeros_like(positions), ALONE)


def test_frames_chosen_lie_far_apart():
    near = frames(200, size=0.01)
    far = frames(5, seed=5, size=0.2)
    pool = np.concatenate([near, far])
    chosen = choose_frames(pool, 12, ALONE)
    assert len(set(chosen)) == 12 and set(range(200, 205)) <= set(chosen)
    assert np.array_equal(chosen, choose_frames(pool, 12, ALONE))
    assert np.array_equal(choose_frames(near, 300, ALONE), np.arange(200))


def test_equations_fit_the_memory():
    assert most_frames(2) == 7000
    assert 48 * most_frames(18) <= 7000


def test_only_bonds_to_hydrogen_are_stretched():
    moved = stretch_hydrogens(REST, NUMBERS, np.random.default_rng(6))
    assert np.array_equal(moved[:3], REST[:3])
    shift = moved[3:] - REST[3:]
    assert (np.abs(np.linalg.norm(shift, axis=1)) > 1e-4).all()
    assert (np.linalg.norm(shift, axis=1) <= 0.12).all()
    assert np.abs(np.cross(shift, REST[3:] - REST[0])).max() < 1e-12


def test_of_too_many_frames_those_far_apart_are_fitted(monkeypatch):
    monkeypatch.setattr("pipelines.dynamics.inner_potential.most_frames", lambda n_atoms: 40)
    many = frames(100)
    chosen = choose_frames(many, 40, ALONE)
    expected = fit_correction(many[chosen], differences(many[chosen]), ALONE)
    assert fit_correction(many, differences(many), ALONE).sha256 == expected.sha256


def test_permutations_of_like_atoms_teach_and_hold():
    """A pyramid with three like atoms: a third of the frames' error is left, and no difference."""
    angles = 2.0 * np.pi * np.arange(3) / 3
    ring = np.stack([np.cos(angles), np.sin(angles), np.full(3, 0.4)], axis=1)
    rest = np.concatenate([[[0.0, 0, 0], [0, 0, -1.4]], ring])
    level, cheap = SpringEngine(rest, 5.0), SpringEngine(1.02 * rest, 4.0)
    like = [(0, 1, *row) for row in itertools.permutations((2, 3, 4))]
    rng = np.random.default_rng(7)
    seen, new = (rest + 0.1 * rng.normal(size=(n, *rest.shape)) for n in (12, 30))
    wanted = [
        np.array([level.evaluate(x).forces - cheap.evaluate(x).forces for x in positions])
        for positions in (seen, new)
    ]
    errors = []
    for permutations in (ALONE, np.array(like)):
        found = fit_correction(seen, wanted[0], permutations)
        forces = np.array([found.energy_and_forces(x)[1] for x in new])
        errors.append(np.sqrt(np.mean((forces - wanted[1]) ** 2)))
    assert errors[1] < 0.5 * errors[0]
    energy, forces = found.energy_and_forces(new[0])
    for row in like:
        moved_energy, moved = found.energy_and_forces(new[0][list(row)])
        assert moved_energy == pytest.approx(energy, abs=1e-9)
        assert np.abs(moved - forces[list(row)]).max() < 1e-9
    images = np.array([new[0][list(row)] for row in like])
    assert list(choose_frames(np.concatenate([images, new[1:2]]), 2, np.array(like))) == [0, 6]
