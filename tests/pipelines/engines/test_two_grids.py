"""The two-grid self-consistency against the level's own grid converged much further."""

import numpy as np
import pytest

from pipelines.dynamics.integrators import Body, Stepper
from pipelines.dynamics.thermostats import thermal_velocities
from pipelines.engines.dft import two_grids
from pipelines.engines.dft.gpu import LibraryHamiltonian, pyscf_library
from pipelines.engines.dft.kohn_sham import KohnShamHamiltonian
from pipelines.engines.dft.scf import KohnShamEngine
from pipelines.engines.dft.self_consistency import orbital_gradient
from pipelines.engines.registry import make_engine
from tests.support.structures import displaced, references, structure
from tg80.chemistry.mechanics import degrees_of_freedom, is_linear
from tg80.constants import EV_PER_ANGSTROM_PER_HARTREE_PER_BOHR as FORCE
from tg80.constants import masses_of
from tg80.errors import RunFailed
from tg80.theory import get_level

LEVEL = get_level("pbe-def2svp")
TIGHT = LEVEL.customised(energy_threshold_hartree=1e-11, gradient_threshold=2e-8)


def dynamics(name: str, spacing_fs: float, n: int) -> list[np.ndarray]:
    """Geometries (n_atoms, 3) A of GFN2-xTB dynamics at about 300 K, which does not tumble."""
    numbers, positions = structure(name)
    masses = masses_of(np.array(numbers))
    body = Body(masses, degrees_of_freedom(masses, positions), is_linear(masses, positions))
    stepper = Stepper(body, make_engine("gfn2-xtb", numbers), 0.5)
    # Twice the temperature, half of which goes into the potential energy.
    velocities = thermal_velocities(body, positions, 600.0, np.random.default_rng(1))
    state = stepper.begin(positions, velocities)
    path = []
    for _ in range(n):
        for _ in range(round(2.0 * spacing_fs)):
            stepper.step(state)
        path.append(state.positions.copy())
    return path


def engine_of(name: str, *, on_library: bool = False) -> KohnShamEngine:
    numbers, _ = structure(name)
    if on_library:
        return KohnShamEngine(LibraryHamiltonian(LEVEL, numbers, 0, pyscf_library()))
    return KohnShamEngine(KohnShamHamiltonian(LEVEL, numbers, 0))


def errors(engine: KohnShamEngine, name: str, path: list[np.ndarray], every: int):
    """Largest force error, hartree/bohr, and energy error, eV, on every so many geometries."""
    tight = make_engine(TIGHT, structure(name)[0])
    force = energy = 0.0
    for i, positions in enumerate(path):
        ours = engine.evaluate(positions)
        if i % every == every - 1:
            assert engine.last_attempt == "two grids"
            exact = tight.evaluate(positions)
            force = max(force, np.abs(ours.forces - exact.forces).max() / FORCE)
            energy = max(energy, abs(ours.energy - exact.energy))
    return force, energy


def test_energy_forces_and_gradient_norm_are_the_fine_grids():
    path = dynamics("formaldehyde", 4.0, 10)
    engine = engine_of("formaldehyde")
    force, energy = errors(engine, "formaldehyde", path, 5)
    assert force < 5e-6
    assert energy < 1e-6
    solution, hamiltonian = engine.last_solution, engine._hamiltonian
    assert solution is not None
    assert solution.cycles == 1 < solution.coarse_cycles
    fine = hamiltonian.fock(solution.occupied)
    to_loewdin = hamiltonian.overlap_inverse_root
    orbitals = hamiltonian.overlap_root @ solution.occupied
    _, norm = orbital_gradient(to_loewdin @ fine.matrix @ to_loewdin, orbitals)
    assert norm < solution.gradient_norm < 3e-5
    assert abs(fine.energy - solution.build.energy) < 1e-8


@pytest.mark.slow
@pytest.mark.parametrize("spacing_fs", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("name", [name for name in references() if name != "formaldehyde"])
def test_errors_are_below_the_noise_of_self_consistency(name, spacing_fs):
    force, energy = errors(engine_of(name), name, dynamics(name, spacing_fs, 24), 6)
    assert force < 5e-6
    assert energy < 1e-5


def test_the_gpu_engine_has_the_same_two_grids():
    """On PySCF's classes: the library builds the fine grid's matrix and gradient."""
    engine = engine_of("water", on_library=True)
    force, energy = errors(engine, "water", dynamics("water", 2.0, 5), 5)
    assert force < 5e-6
    assert energy < 1e-6
    assert engine.last_solution is not None and engine.last_solution.cycles == 1


def test_forces_are_minus_the_slope_of_the_energy():
    """Along a path on which the grid corrections are predicted."""
    path = displaced(structure("water")[1], 9, size=0.002)
    engine = engine_of("water")
    found = [engine.evaluate(positions) for positions in path]
    assert engine.last_attempt == "two grids"
    step = path[1] - path[0]
    energies = [one.energy for one in found]
    slope = (8.0 * (energies[7] - energies[5]) - energies[8] + energies[4]) / 12.0
    length = np.linalg.norm(step)
    assert -float(np.vdot(found[6].forces, step)) == pytest.approx(slope, abs=3e-6 * FORCE * length)


def test_a_poor_correction_costs_a_second_fine_matrix():
    path = dynamics("water", 1.0, 4)
    engine = engine_of("water")
    for positions in path[:-1]:
        engine.evaluate(positions)
    assert engine.last_solution is not None and engine.last_solution.cycles == 1
    state = engine.state()
    random = np.random.default_rng(0).normal(size=state["corrections"].shape[1:])
    state["corrections"] = state["corrections"] + 2e-3 * (random + random.T)
    engine.load_state(state)
    spoiled = engine.evaluate(path[-1])
    assert engine.last_attempt == "two grids"
    assert spoiled.scf_cycles == 2
    exact = make_engine(TIGHT, structure("water")[0]).evaluate(path[-1])
    assert np.abs(spoiled.forces - exact.forces).max() < 2e-6 * FORCE


def test_what_two_grids_cannot_solve_goes_down_the_ladder(monkeypatch):
    path = dynamics("water", 1.0, 3)
    engine = engine_of("water")
    engine.evaluate(path[0])
    engine.evaluate(path[1])
    assert engine.last_attempt == "two grids"
    monkeypatch.setattr(two_grids, "TRUSTED_GRADIENT", 1e-14)
    evaluation = engine.evaluate(path[2])
    assert engine.last_attempt == "the predicted orbitals"
    exact = make_engine(TIGHT, structure("water")[0]).evaluate(path[2])
    assert np.abs(evaluation.forces - exact.forces).max() < 2e-5 * FORCE


@pytest.mark.parametrize("jump", [False, True])
def test_a_first_geometry_takes_two_grids_too(jump):
    """Nothing is known of the correction, from a fresh guess or after the molecule was turned."""
    first, *_, last = dynamics("water", 1.0, 3)
    engine, exact = engine_of("water"), make_engine(TIGHT, structure("water")[0])
    if jump:
        engine.evaluate(first[:, [1, 2, 0]])
    evaluation = engine.evaluate(last)
    assert engine.last_attempt == "two grids" and evaluation.scf_cycles <= 2
    assert np.abs(evaluation.forces - exact.evaluate(last).forces).max() < 5e-6 * FORCE


def test_a_checkpoint_without_corrections_goes_on_and_learns_them():
    path = dynamics("water", 1.0, 5)
    before = engine_of("water")
    for positions in path[:3]:
        before.evaluate(positions)
    state = before.state()
    del state["corrections"]
    engine = engine_of("water")
    engine.load_state(state)
    engine.evaluate(path[3])
    engine.evaluate(path[4])
    state = engine.state()
    assert state["corrections"].shape == (2, *state["overlaps"].shape[1:])
    state["corrections"] = state["corrections"][:, :-1]
    with pytest.raises(RunFailed, match="unexpected shapes"):
        engine.load_state(state)


def test_reference_levels_and_exact_coulomb_stay_on_the_fine_grid():
    numbers, _ = structure("water")
    without_fit = LEVEL.customised(auxiliary_basis=None)
    for level in (get_level("pbe-def2svp-tight"), TIGHT, without_fit):
        assert not KohnShamHamiltonian(level, numbers, 0).has_coarse_grid
    assert KohnShamHamiltonian(LEVEL, numbers, 0).has_coarse_grid
    assert not KohnShamHamiltonian(LEVEL, [6] * 20, 0, memory_gb=0.1).has_coarse_grid
