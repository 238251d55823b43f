"""The time steps conserve what they must, and the thermostats count internal degrees of freedom."""

from dataclasses import replace

import numpy as np
import pytest

from pipelines.dynamics.integrators import Body, Stepper
from pipelines.dynamics.thermostats import BussiThermostat, LangevinThermostat, thermal_velocities
from pipelines.engines.registry import make_engine
from tests.pipelines.dynamics.analytic import SpringEngine
from tg80.chemistry.mechanics import (
    angular_momentum,
    degrees_of_freedom,
    is_linear,
    kinetic_energy,
    linear_momentum,
    temperature,
)
from tg80.constants import ACCELERATION, BOLTZMANN_EV_PER_K, masses_of
from tg80.shards.quality import block_mean

REST = np.array([[0.0, 0, 0], [1.5, 0, 0], [0, 1.4, 0], [0.3, 0.4, 1.3], [-0.8, -0.7, 0.5]])
MASSES = masses_of([6, 8, 6, 1, 1])
ETHANOL = (6, 6, 8, 1, 1, 1, 1, 1, 1)
ETHANOL_POSITIONS = np.array(
    [
        [-1.2129, -0.2295, 0.0000],
        [0.0775, 0.5492, 0.0000],
        [1.1508, -0.3864, 0.0000],
        [-2.0734, 0.4471, 0.0000],
        [-1.2706, -0.8664, 0.8874],
        [-1.2706, -0.8664, -0.8874],
        [0.1356, 1.1952, 0.8871],
        [0.1356, 1.1952, -0.8871],
        [1.9690, 0.1306, 0.0000],
    ]
)


def make_body(masses, positions):
    return Body(masses, degrees_of_freedom(masses, positions), is_linear(masses, positions))


def make_start(body, positions, seed=0, kelvin=300.0):
    rng = np.random.default_rng(seed)
    return positions, thermal_velocities(body, positions, kelvin, rng)


def total_energy(body, state):
    return state.evaluation.energy + kinetic_energy(body.masses, state.velocities)


def energy_spread(stepper, body, length_fs, kelvin=300.0):
    state = stepper.begin(*make_start(body, REST, kelvin=kelvin))
    energies = []
    for _ in range(round(length_fs / stepper.step_fs)):
        stepper.step(state)
        energies.append(total_energy(body, state))
    return np.std(energies)


def test_verlet_is_of_second_order():
    body = make_body(MASSES, REST)
    spreads = [
        energy_spread(Stepper(body, SpringEngine(REST), dt), body, 400) for dt in (0.5, 0.25)
    ]
    assert spreads[0] / spreads[1] == pytest.approx(4.0, rel=0.1)


def test_instants_inside_an_outer_step_are_as_good_as_its_ends():
    """Against Verlet of 0.01 fs; and the energy shows no saw-tooth where the kicks are."""
    body = make_body(MASSES, REST)
    level = SpringEngine(REST, 5.0)
    start = make_start(body, REST)
    reference = Stepper(body, level, 0.01)
    state = reference.begin(*start)
    exact = []
    for _ in range(160):
        for _ in range(25):
            reference.step(state)
        exact.append((state.positions, state.velocities))
    teeth = []
    for outer_fs in (1.0, 2.0):
        stepper = Stepper(body, level, outer_fs, SpringEngine(1.02 * REST, 4.0), 0.25)
        state = stepper.begin(*start)
        instants = []
        for _ in range(round(40 / outer_fs)):
            instants += stepper.step(state, keep=range(1, stepper.n_inner))
            instants.append(replace(state))
        pairs = zip(instants, exact, strict=True)
        errors = np.array(
            [(np.std(a.positions - x), np.std(a.velocities - v)) for a, (x, v) in pairs]
        )
        inside = np.arange(1, len(errors) + 1) % stepper.n_inner != 0
        assert (errors[inside].mean(axis=0) < 1.1 * errors[~inside].mean(axis=0)).all()
        energies = np.array(
            [level.evaluate(a.positions).energy + kinetic_energy(MASSES, a.velocities)
             for a in instants]
        )  # fmt: skip
        places = np.arange(len(energies))
        line = np.interp(places, places[~inside], energies[~inside])
        teeth.append(np.std((energies - line)[stepper.n_inner :]))
        assert teeth[-1] < 0.1 * np.std(energies[~inside])
    assert teeth[1] > 5 * teeth[0]  # of third order: the step's own energy error is of second
    for instant in instants:
        spin = angular_momentum(MASSES, instant.positions, instant.velocities)
        assert np.abs(spin).max() < 1e-12


def test_verlet_reverses_in_time():
    body = make_body(MASSES, REST)
    stepper = Stepper(body, SpringEngine(REST), 0.5)
    state = stepper.begin(*make_start(body, REST))
    before = state.positions
    for _ in range(100):
        stepper.step(state)
    state.velocities = -state.velocities
    for _ in range(100):
        stepper.step(state)
    assert np.abs(state.positions - before).max() < 1e-11


def test_respa_with_the_level_inside_is_verlet_at_the_inner_step():
    """The outer kick is zero then: the two integrators must take the same path."""
    body = make_body(MASSES, REST)
    plain = Stepper(body, SpringEngine(REST), 0.25)
    respa = Stepper(body, SpringEngine(REST), 1.0, SpringEngine(REST), 0.25)
    one, other = (stepper.begin(*make_start(body, REST)) for stepper in (plain, respa))
    for _ in range(50):
        respa.step(other)
        for _ in range(4):
            plain.step(one)
    assert np.abs(one.positions - other.positions).max() < 1e-11


def test_respa_conserves_the_energy_of_the_level_and_not_of_the_inner_method():
    body = make_body(MASSES, REST)
    level, inner = SpringEngine(REST, 5.0), SpringEngine(REST, 5.5)
    respa = energy_spread(Stepper(body, level, 1.0, inner, 0.25), body, 400)
    coarse = energy_spread(Stepper(body, level, 1.0), body, 400)
    cheap = Stepper(body, inner, 0.25)
    state = cheap.begin(*make_start(body, REST))
    wandering = []
    for _ in range(1600):
        cheap.step(state)
        kinetic = kinetic_energy(MASSES, state.velocities)
        wandering.append(level.evaluate(state.positions).energy + kinetic)
    assert respa < 0.5 * coarse
    assert respa < 0.1 * np.std(wandering)


def test_respa_calls_the_level_once_an_outer_step():
    body = make_body(MASSES, REST)
    level, inner = SpringEngine(REST), SpringEngine(REST, 4.0)
    stepper = Stepper(body, level, 1.0, inner, 0.25)
    state = stepper.begin(*make_start(body, REST))
    for _ in range(10):
        stepper.step(state)
    assert (level.n_evaluations, inner.n_evaluations) == (11, 41)


@pytest.mark.parametrize("thermostat", [None, BussiThermostat, LangevinThermostat])
def test_momenta_stay_zero_though_the_forces_push(thermostat):
    """A net force and torque on one atom, far above the grid's noise, must leave no trace."""
    body = make_body(MASSES, REST)
    stepper = Stepper(body, SpringEngine(REST, push=0.05), 0.5)
    state = stepper.begin(*make_start(body, REST))
    apply = thermostat(body, 300.0, 50.0).apply if thermostat else None
    rng = np.random.default_rng(1)
    thermal = np.sqrt(BOLTZMANN_EV_PER_K * 300 * ACCELERATION * MASSES.sum())
    for _ in range(2000):
        stepper.step(state)
        if apply:
            apply(state, 0.5, rng)
    assert np.abs(linear_momentum(MASSES, state.velocities)).max() < 1e-6 * thermal
    spin = angular_momentum(MASSES, state.positions, state.velocities)
    assert np.abs(spin).max() < 1e-6 * thermal
    assert np.linalg.norm(state.net_force) == pytest.approx(0.05 * np.sqrt(3), rel=1e-6)


@pytest.mark.parametrize("thermostat", [BussiThermostat, LangevinThermostat])
def test_thermostats_sample_the_kinetic_energy_of_the_canonical_ensemble(thermostat):
    """Mean and variance over 3N-6: K follows a gamma distribution of shape (3N-6)/2."""
    body = make_body(MASSES, REST)
    stepper = Stepper(body, SpringEngine(REST), 1.0)
    state = stepper.begin(*make_start(body, REST))
    rng = np.random.default_rng(2)
    bath = thermostat(body, 300.0, 10.0)
    kelvin = []
    for _ in range(40000):
        stepper.step(state)
        bath.apply(state, 1.0, rng)
        kelvin.append(temperature(kinetic_energy(MASSES, state.velocities), body.n_degrees))
    mean, error = block_mean(np.array(kelvin), 20)
    assert error < 6
    assert abs(mean - 300) < 3 * error
    assert np.std(kelvin) == pytest.approx(300 * np.sqrt(2 / body.n_degrees), rel=0.05)


def test_thermostat_energy_closes_the_balance():
    body = make_body(MASSES, REST)
    stepper = Stepper(body, SpringEngine(REST), 0.1)
    state = stepper.begin(*make_start(body, REST))
    start = total_energy(body, state)
    bath, rng = BussiThermostat(body, 600.0, 20.0), np.random.default_rng(3)
    for _ in range(5000):
        stepper.step(state)
        bath.apply(state, 0.1, rng)
    assert abs(state.thermostat_energy) > 0.1
    assert total_energy(body, state) - state.thermostat_energy == pytest.approx(start, abs=1e-4)


def test_diatomic_has_one_degree_of_freedom():
    positions = np.array([[0.0, 0, 0], [0, 0, 1.1]])
    masses = masses_of([6, 8])
    body = make_body(masses, positions)
    assert (body.n_degrees, body.linear) == (1, True)
    stepper = Stepper(body, SpringEngine(positions, 50.0), 0.5)
    state = stepper.begin(*make_start(body, positions))
    bath, rng = BussiThermostat(body, 300.0, 10.0), np.random.default_rng(4)
    kelvin = []
    for _ in range(20000):
        stepper.step(state)
        bath.apply(state, 0.5, rng)
        kelvin.append(temperature(kinetic_energy(masses, state.velocities), 1))
    mean, error = block_mean(np.array(kelvin), 20)
    assert abs(mean - 300) < 3 * error and error < 40
    assert np.abs(state.positions[:, :2]).max() < 1e-9


def ethanol_nvt(n_degrees, n_steps, seed):
    """Temperatures over 3N-6 of a GFN2-xTB run of ethanol whose thermostat counts `n_degrees`."""
    masses = masses_of(ETHANOL)
    honest = make_body(masses, ETHANOL_POSITIONS)
    body = Body(masses, n_degrees, honest.linear)
    stepper = Stepper(body, make_engine("gfn2-xtb", ETHANOL), 0.5)
    bath, rng = BussiThermostat(body, 300.0, 10.0), np.random.default_rng(seed)
    state = stepper.begin(*make_start(honest, ETHANOL_POSITIONS, seed=seed))
    kelvin = []
    for _ in range(n_steps):
        stepper.step(state)
        bath.apply(state, 0.5, rng)
        kelvin.append(temperature(kinetic_energy(masses, state.velocities), honest.n_degrees))
    return np.array(kelvin)


def test_ethanol_runs_at_300_kelvin_and_would_not_with_3n_degrees_of_freedom():
    kelvin = ethanol_nvt(21, 8000, seed=5)[800:]
    mean, error = block_mean(kelvin)
    assert error < 8
    assert abs(mean - 300) < 3 * error
    hot = ethanol_nvt(27, 2000, seed=5)[600:]
    hot_mean, hot_error = block_mean(hot)
    assert abs(hot_mean - 300) > 3 * hot_error
    assert hot_mean == pytest.approx(386, abs=4 * hot_error)


def test_xtb_dynamics_conserve_energy():
    body = make_body(masses_of(ETHANOL), ETHANOL_POSITIONS)
    stepper = Stepper(body, make_engine("gfn2-xtb", ETHANOL), 0.5)
    state = stepper.begin(*make_start(body, ETHANOL_POSITIONS, seed=6, kelvin=600))
    energies = []
    for _ in range(1000):
        stepper.step(state)
        energies.append(total_energy(body, state))
    assert np.std(energies) / 9 < 1e-3
    kinetic = [energies[i] for i in (0, -1)]
    assert abs(kinetic[1] - kinetic[0]) / 9 < 2e-3
