"""The start of replica 0: an NVE trajectory at the mean energy of the temperature.

A canonical start would give each trajectory a temperature of its own (a spread of about
300/sqrt(3N-6) K); scaled to E* = <V> + (3N-6) kT/2 it runs at the target temperature.
"""

import numpy as np

from pipelines.conformers import relax
from pipelines.dynamics.integrators import Body, Stepper
from pipelines.dynamics.thermostats import Thermostat
from pipelines.engines.engine import Engine
from tg80.chemistry.mechanics import kinetic_energy
from tg80.chemistry.molecule import Molecule
from tg80.constants import BOLTZMANN_EV_PER_K
from tg80.errors import RunFailed
from tg80.shards.fields import evaluated_frames

# <V> of an NVT run counts once the run has MEAN_ENERGY_FS after its first SETTLING_FS.
SETTLING_FS = 500.0
MEAN_ENERGY_FS = 2000.0
RELAXED_FORCE = 0.02  # eV/A; leaves the relaxed energy good to about 1e-4 eV
LEAST_KINETIC_SHARE = 0.2  # of its mean; from less, velocities would be stretched out of shape
MAX_EXTRA_NVT_FS = 1000.0


def mean_energy_start(
    molecule: Molecule,
    body: Body,
    stepper: Stepper,
    last_frame: tuple[np.ndarray, np.ndarray],
    *,
    relaxed_guess: np.ndarray,
    nvt: dict[str, np.ndarray],
    temperature_k: float,
    thermostat: Thermostat,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, dict]:
    """Positions and velocities at the total energy E*.

    Args:
        molecule: the compound.
        body: its masses and degrees of freedom.
        stepper: integrator at the level.
        last_frame: positions (n_atoms, 3) A and velocities (n_atoms, 3) A/fs that NVT ended with.
        relaxed_guess: (n_atoms, 3) A, relaxed with the cheap method.
        nvt: `time` (fs), `potential_energy` and `kinetic_energy` (eV) of the NVT run at the level;
            empty without one.
        temperature_k: target temperature.
        thermostat: of the NVT that goes on where the last frame lies too high.
        rng: noise of that NVT.

    Returns:
        positions, velocities, and facts: `target_energy_ev`, `source`, `extra_nvt_fs`.

    Raises:
        RunFailed: no frame well below E* was met.
    """
    kt = BOLTZMANN_EV_PER_K * temperature_k
    mean_kinetic = 0.5 * body.n_degrees * kt
    if nvt and nvt["time"][-1] - SETTLING_FS >= MEAN_ENERGY_FS:
        target, source = mean_potential(nvt, mean_kinetic) + mean_kinetic, "nvt-mean"
    else:
        relaxed = _relaxed_energy(molecule, stepper.engine, relaxed_guess)
        target, source = relaxed + body.n_degrees * kt, "equipartition"
    state = stepper.begin(*last_frame)
    least = LEAST_KINETIC_SHARE * mean_kinetic
    # A small molecule's potential energy now and then exceeds E*: NVT goes on until it does not.
    for step in range(round(MAX_EXTRA_NVT_FS / stepper.step_fs) + 1):
        assert state.evaluation is not None
        kinetic = target - state.evaluation.energy
        if kinetic > least:
            scale = np.sqrt(kinetic / kinetic_energy(body.masses, state.velocities))
            extra_fs = step * stepper.step_fs
            facts = {"target_energy_ev": target, "source": source, "extra_nvt_fs": extra_fs}
            return state.positions, scale * state.velocities, facts
        stepper.step(state)
        thermostat.apply(state, stepper.step_fs, rng)
    raise RunFailed(
        f"{molecule.name}: no NVT frame below the target energy in {MAX_EXTRA_NVT_FS:g} fs more; "
        "equilibrate longer (--equilibration-fs)"
    )


def mean_potential(nvt: dict[str, np.ndarray], mean_kinetic: float) -> float:
    """<V> of an NVT run, eV, with the kinetic energy as control variate.

    The thermostat lets the total energy wander slowly, and potential and kinetic energy wander
    along together; a plain mean over 2 ps would miss E* by the energy of 10 K (ethanol) to 30 K
    (formaldehyde). <K> is known exactly, so what the run's mean of K is off by is taken off its
    mean of V too (the harmonic regression coefficient, 1).

    Args:
        nvt: `time` (fs), `potential_energy`, `kinetic_energy` (eV).
        mean_kinetic: <K> = (3N-6) kT/2, eV.
    """
    settled = (nvt["time"] > SETTLING_FS) & evaluated_frames(nvt)
    excess = float(nvt["kinetic_energy"][settled].mean()) - mean_kinetic
    return float(nvt["potential_energy"][settled].mean()) - excess


def _relaxed_energy(molecule: Molecule, engine: Engine, guess: np.ndarray) -> float:
    energy, _ = relax(molecule, engine, guess, RELAXED_FORCE)
    engine.reset()
    return energy
