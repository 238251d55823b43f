"""The density of states shows the modes where they are, and each with the same area."""

import numpy as np
import pytest
from scipy.signal import find_peaks

from pipelines.dynamics.integrators import Body, Stepper
from pipelines.engines.registry import make_engine
from tests.support import factories
from tg80.constants import ACCELERATION, BOLTZMANN_EV_PER_K, WAVENUMBER_FS
from tg80.dataset import load
from tg80.shards.shard import Shard
from tg80.shards.vibrations import density_of_states, harmonic_wavenumbers


def modes(shard):
    """Angular frequencies (n,) 1/fs and mass-weighted modes (3 n_atoms, n), without rigid ones."""
    root = np.sqrt(np.repeat(shard.masses, 3))
    squares, vectors = np.linalg.eigh(shard.static("hessian") / np.outer(root, root))
    n_modes = shard.metadata.degrees_of_freedom
    return np.sqrt(ACCELERATION * squares[-n_modes:]), vectors[:, -n_modes:]


def mode_velocities(shard, kelvin, phases):
    """(n_frames, n_atoms, 3) A/fs of modes of equal energy at phases (n_frames, n_modes)."""
    _, vectors = modes(shard)
    speed = np.sqrt(2 * BOLTZMANN_EV_PER_K * kelvin * ACCELERATION)
    weighted = speed * np.cos(phases) @ vectors.T
    return (weighted / np.sqrt(np.repeat(shard.masses, 3))).reshape(len(phases), -1, 3)


@pytest.fixture(scope="module")
def formaldehyde():
    with load("mini-xtb")["formaldehyde"] as shard:
        yield shard


def test_wavenumbers_of_a_diatomic_are_those_of_the_textbook():
    """H35Cl: 516.3 N/m gives 2990 cm-1 (Herzberg)."""
    k = 516.3 / 16.02176634  # eV/A^2
    hessian = np.zeros((6, 6))
    hessian[np.ix_([0, 3], [0, 3])] = k * np.array([[1, -1], [-1, 1]])
    found = harmonic_wavenumbers(hessian, np.array([1.00783, 34.96885]), 1)
    assert found == pytest.approx([2991], abs=2)


def test_a_harmonic_trajectory_has_its_peaks_at_its_modes_with_equal_areas(formaldehyde):
    rates, _ = modes(formaldehyde)
    exact = harmonic_wavenumbers(formaldehyde.static("hessian"), formaldehyde.masses, len(rates))
    np.testing.assert_allclose(exact, rates * WAVENUMBER_FS / (2 * np.pi))
    times, phases = 2.0 * np.arange(4000), np.random.default_rng(0).uniform(0, 6, len(rates))
    velocities = mode_velocities(formaldehyde, 300.0, times[:, None] * rates + phases)
    found = density_of_states(velocities, formaldehyde.masses, 2.0)
    assert found.resolution == pytest.approx(12, abs=0.1)  # segments of 4 ps
    peaks, _ = find_peaks(found.density, height=0.3 * found.density.max())
    assert len(peaks) == 6
    np.testing.assert_allclose(found.wavenumbers[peaks], exact, atol=1.0)
    step = found.wavenumbers[1]
    for wavenumber in exact:
        near = np.abs(found.wavenumbers - wavenumber) < 3 * found.resolution
        assert step * found.density[near].sum() == pytest.approx(1 / 6, rel=0.02)


def test_it_is_the_transform_of_the_mass_weighted_autocorrelation(formaldehyde):
    """Direct sums over pairs of frames and a cosine transform give the same lines."""
    rates, _ = modes(formaldehyde)
    n_frames = 400
    times = 2.0 * np.arange(n_frames)
    velocities = mode_velocities(formaldehyde, 300.0, times[:, None] * rates + 1.0)
    found = density_of_states(velocities, formaldehyde.masses, 2.0)
    weighted = np.sqrt(formaldehyde.masses)[:, None] * velocities
    weighted = weighted.reshape(n_frames, -1) * np.hanning(n_frames + 1)[:-1, None]
    correlation = np.array(
        [np.sum(weighted[: n_frames - lag] * weighted[lag:]) for lag in range(n_frames)]
    )
    correlation[1:] *= 2  # both signs of the lag
    angles = 2 * np.pi / WAVENUMBER_FS * found.wavenumbers[:, None] * times
    direct = np.cos(angles) @ correlation
    direct /= direct.sum() * found.wavenumbers[1]
    np.testing.assert_allclose(found.density, direct, atol=1e-3 * direct.max())


def test_fast_modes_are_folded_back_at_wide_frames(formaldehyde):
    rates, _ = modes(formaldehyde)
    times = 10.0 * np.arange(1000)
    velocities = mode_velocities(formaldehyde, 300.0, times[:, None] * rates)
    found = density_of_states(velocities, formaldehyde.masses, 10.0)
    highest = found.wavenumbers[-1]
    assert highest == pytest.approx(1667.8, abs=0.1)
    exact = rates * WAVENUMBER_FS / (2 * np.pi)
    folded = np.sort(np.where(exact > highest, np.abs(2 * highest - exact), exact))
    peaks, _ = find_peaks(found.density, height=0.2 * found.density.max())
    np.testing.assert_allclose(found.wavenumbers[peaks], folded, atol=2.0)


def test_gfn2_dynamics_of_formaldehyde_vibrates_as_its_hessian_says(formaldehyde):
    """At 10 K, where it is harmonic: 2 ps at GFN2-xTB, from the relaxed structure of the shard."""
    facts, masses = formaldehyde.metadata, formaldehyde.masses
    body = Body(masses, facts.degrees_of_freedom, facts.linear)
    stepper = Stepper(body, make_engine("gfn2-xtb", formaldehyde.atomic_numbers), 0.5)
    signs = np.pi * np.array([[0, 1, 0, 0, 1, 0]])
    start = mode_velocities(formaldehyde, 10.0, signs)[0]
    state = stepper.begin(formaldehyde.static("relaxed_positions"), start)
    velocities = []
    for _ in range(2000):
        velocities.append(state.velocities)
        stepper.step(state)
        stepper.step(state)
    found = density_of_states(np.array(velocities), masses, 1.0)
    exact = harmonic_wavenumbers(formaldehyde.static("hessian"), masses, 6)
    peaks, _ = find_peaks(found.density, height=0.1 * found.density.max())
    assert len(peaks) == 6 and found.resolution < 25
    np.testing.assert_allclose(found.wavenumbers[peaks], exact, atol=found.resolution)


def test_springs_at_300_kelvin(tmp_path):
    """An anharmonic trajectory, read from its shard: four fifths of the area is at the modes."""
    path = factories.make_shard(tmp_path, "formaldehyde", n_frames=2000, store_every_fs=1.0)
    with Shard(path) as shard:
        found = density_of_states(shard.read("velocities"), shard.masses, shard.frame_fs)
        exact = harmonic_wavenumbers(
            shard.static("hessian"), shard.masses, shard.metadata.degrees_of_freedom
        )
    near = np.abs(found.wavenumbers[:, None] - exact).min(axis=1) < 4 * found.resolution
    assert found.wavenumbers[1] * found.density[near].sum() > 0.8
