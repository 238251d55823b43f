"""Thermostats of the internal degrees of freedom, and velocities of a temperature."""

from typing import Protocol

import numpy as np

from pipelines.dynamics.integrators import Body, State
from tg80.chemistry.mechanics import kinetic_energy, remove_rigid_motion
from tg80.constants import ACCELERATION, BOLTZMANN_EV_PER_K


class Thermostat(Protocol):
    def apply(self, state: State, step_fs: float, rng: np.random.Generator) -> None: ...


class BussiThermostat:
    """Stochastic velocity rescaling over the internal degrees of freedom.

    References:
        Bussi, Donadio, Parrinello, J. Chem. Phys. 126, 014101 (2007), doi:10.1063/1.2408420,
        eq. A7; as a library's own form counts 3N degrees of freedom, it would heat ethanol to
        386 K here.
    """

    def __init__(self, body: Body, temperature_k: float, time_fs: float):
        self.body = body
        self.mean_kinetic = 0.5 * body.n_degrees * BOLTZMANN_EV_PER_K * temperature_k
        self.time_fs = time_fs

    def apply(self, state: State, step_fs: float, rng: np.random.Generator) -> None:
        before = kinetic_energy(self.body.masses, state.velocities)
        n = self.body.n_degrees
        decay = np.exp(-step_fs / self.time_fs)
        first = rng.standard_normal()
        others = 2.0 * rng.standard_gamma(0.5 * (n - 1)) if n > 1 else 0.0
        share = self.mean_kinetic / (n * before) * (1.0 - decay)
        square = decay + share * (first**2 + others) + 2.0 * first * np.sqrt(decay * share)
        # The amplitude keeps its sign unless noise turns the (one) velocity around.
        sign = np.sign(first + np.sqrt(decay / share)) if share > 0 else 1.0
        state.velocities = state.velocities * (sign * np.sqrt(square))
        state.thermostat_energy += before * (square - 1.0)


class LangevinThermostat:
    """Exact Ornstein-Uhlenbeck step on the internal velocities; rigid motion is projected out.

    References:
        Bussi, Parrinello, Phys. Rev. E 75, 056707 (2007), doi:10.1103/PhysRevE.75.056707.
    """

    def __init__(self, body: Body, temperature_k: float, time_fs: float):
        self.body = body
        kt = BOLTZMANN_EV_PER_K * temperature_k
        self.thermal = np.sqrt(kt * ACCELERATION / body.masses)[:, None]
        self.time_fs = time_fs

    def apply(self, state: State, step_fs: float, rng: np.random.Generator) -> None:
        masses = self.body.masses
        before = kinetic_energy(masses, state.velocities)
        decay = np.exp(-step_fs / self.time_fs)
        noise = self.thermal * rng.standard_normal(state.velocities.shape)
        noise = remove_rigid_motion(masses, state.positions, noise, linear=self.body.linear)
        state.velocities = decay * state.velocities + np.sqrt(1.0 - decay**2) * noise
        state.thermostat_energy += kinetic_energy(masses, state.velocities) - before


def make_thermostat(
    name: str, body: Body, temperature_k: float, time_fs: float
) -> Thermostat | None:
    """The thermostat of an ensemble; None for `nve`."""
    if name == "bussi":
        return BussiThermostat(body, temperature_k, time_fs)
    if name == "langevin":
        return LangevinThermostat(body, temperature_k, time_fs)
    return None


def thermal_velocities(
    body: Body, positions: np.ndarray, temperature_k: float, rng: np.random.Generator
) -> np.ndarray:
    """Maxwell-Boltzmann velocities (n_atoms, 3) A/fs without rigid motion."""
    kt = BOLTZMANN_EV_PER_K * temperature_k
    sigma = np.sqrt(kt * ACCELERATION / body.masses)[:, None]
    noise = sigma * rng.standard_normal(positions.shape)
    return remove_rigid_motion(body.masses, positions, noise, linear=body.linear)
