"""The predictor between steps is not reversible in time: the energy must not show it."""

import numpy as np
import pytest

from pipelines.conformers import start_geometry
from pipelines.dynamics.integrators import Body, Stepper
from pipelines.dynamics.thermostats import make_thermostat, thermal_velocities
from pipelines.engines.registry import make_engine
from tg80.chemistry.mechanics import degrees_of_freedom, is_linear, kinetic_energy
from tg80.chemistry.molecule import molecule_from_smiles
from tg80.shards.quality import drift_with_error


def _thermal_start(molecule, body, positions):
    """A start at 300 K after 200 fs of GFN2-xTB under a thermostat."""
    rng = np.random.default_rng(2)
    stepper = Stepper(body, make_engine("gfn2-xtb", molecule.atomic_numbers), 0.5)
    thermostat = make_thermostat("bussi", body, 300.0, 50.0)
    state = stepper.begin(positions, thermal_velocities(body, positions, 300.0, rng))
    for _ in range(400):
        stepper.step(state)
        thermostat.apply(state, 0.5, rng)
    return state.positions, state.velocities


@pytest.mark.slow
@pytest.mark.parametrize("smiles", ["C=O", "CO"])
def test_energy_of_dft_dynamics_does_not_drift(smiles):
    """1 ps of NVE with the default time steps; meV/atom/ps."""
    molecule = molecule_from_smiles(smiles)
    geometry = start_geometry(
        molecule, n_conformers=3, n_relaxed=1, choice="lowest", temperature_k=300.0, seed=0
    )
    masses, positions = molecule.masses, geometry.positions
    body = Body(masses, degrees_of_freedom(masses, positions), is_linear(masses, positions))
    numbers = molecule.atomic_numbers
    inner = make_engine("gfn2-xtb", numbers)
    stepper = Stepper(body, make_engine("pbe-def2svp", numbers), 1.0, inner, 0.25)
    state = stepper.begin(*_thermal_start(molecule, body, positions))
    energies = []
    for _ in range(1000):
        stepper.step(state)
        energies.append(state.evaluation.energy + kinetic_energy(masses, state.velocities))
    slope, error = drift_with_error(np.arange(1000.0), np.array(energies), block_fs=100.0)
    per_atom = 1000.0 / molecule.n_atoms
    assert abs(slope) * per_atom - 2.0 * error * per_atom < 0.05
    assert error * per_atom < 0.05
