"""Rollouts against ASE's own integrator, against stored dynamics, and with bad potentials."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.calculators.calculator import CalculationFailed
from ase.calculators.emt import EMT
from ase.calculators.morse import MorsePotential
from ase.md.verlet import VelocityVerlet

from benchmarks.interface import CannotPredict
from benchmarks.models import TRIVIAL, make_model
from benchmarks.models.force_fields import gfn2
from benchmarks.models.force_fields.rollout import (
    AseForceField,
    ForceFieldModel,
    RolloutSettings,
    roll_out,
)
from benchmarks.scoring.errors import predict_errors
from benchmarks.tasks.scored_windows import Windows
from benchmarks.tasks.states import StartStates
from tg80.errors import UserError

LAGS = (4.0, 10.25, 30.0)
SETTINGS = RolloutSettings()


class EmtModel(ForceFieldModel):
    """A force field of ASE as a model: this is all there is to it."""

    id = "emt"

    def force_field(self, states):
        return AseForceField(EMT)


def cluster(n_atoms=3, seed=0):
    """A warm cluster of copper and its velocities, A/fs."""
    rng = np.random.default_rng(seed)
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])[:n_atoms] * 2.4
    atoms = Atoms(f"Cu{n_atoms}", positions=corners + 0.1 * rng.normal(size=(n_atoms, 3)))
    return atoms, 0.003 * rng.normal(size=(n_atoms, 3))


def states_of(*members):
    """Atoms and velocities (A/fs) as padded start states."""
    n_atoms = max(len(atoms) for atoms, _ in members)
    x, v = np.zeros((2, len(members), n_atoms, 3), dtype="f4")
    z = np.zeros((len(members), n_atoms), dtype="i8")
    for i, (atoms, velocities) in enumerate(members):
        x[i, : len(atoms)], v[i, : len(atoms)] = atoms.positions, velocities
        z[i, : len(atoms)] = atoms.numbers
    numbers = torch.from_numpy(z)
    names = tuple(str(i) for i in range(len(members)))
    return StartStates(torch.from_numpy(x), torch.from_numpy(v), numbers, numbers > 0, names, names)


def lags_of(states, lags=LAGS):
    return torch.tensor(lags).expand(len(states), -1)


def ase_positions(atoms, velocities, lags, make, step_fs=0.5):
    """The same by ASE's VelocityVerlet, lags being multiples of the step."""
    atoms = atoms.copy()
    atoms.positions = atoms.positions.astype("f4")
    atoms.set_velocities(np.asarray(velocities, dtype="f4") / units.fs)
    atoms.calc = make()
    dynamics = VelocityVerlet(atoms, timestep=step_fs * units.fs)
    found, done = [], 0
    for lag in lags:
        dynamics.run(round(lag / step_fs) - done)
        done = round(lag / step_fs)
        found.append(atoms.get_positions())
    return np.array(found)


def test_a_rollout_is_that_of_ase():
    atoms, velocities = cluster()
    states = states_of((atoms, velocities))
    found = roll_out(AseForceField(EMT), states, lags_of(states, (5.0, 40.0, 200.0)), SETTINGS)
    expected = ase_positions(atoms, velocities, (5.0, 40.0, 200.0), EMT)
    # ASE's unit of time is of another CODATA year than ours: 2e-8.
    np.testing.assert_allclose(found.positions[0], expected, atol=1e-6)
    assert not found.failed.any() and float(found.drift_mev.max()) < 1
    assert np.abs(expected[-1] - atoms.positions).max() > 0.1


def test_stored_dynamics_of_gfn2_are_reproduced(mini):
    """The data themselves are velocity Verlet at 0.5 fs: only float32 starts tell them apart."""
    windows = mini.parts["test_time"].curve
    rows = [windows.states.molecule.index(name) for name in ("methanol", "ethylene")]
    states, lags = windows.states.select(rows), windows.lags_fs[rows, :3]
    model = make_model("gfn2-xtb")
    model.fit(mini.training)
    assert model.oracle and "gfn2-xtb" not in TRIVIAL
    found = roll_out(model.force_field(states), states, lags, SETTINGS)
    real = states.atom_mask[:, None, :, None]
    difference = (found.positions - windows.targets[rows, :3]) * real
    assert float(lags.max()) == 50
    assert float(difference.abs().max()) < 2e-3
    assert float(found.drift_mev.max()) < 1


def test_gfn2_is_no_oracle_at_other_levels_and_needs_all_atoms(mini, monkeypatch):
    model = make_model("gfn2-xtb")
    training = mini.training
    model.fit(replace(training, task=training.task.model_copy(update={"level": "pbe-def2svp"})))
    assert not model.oracle
    with pytest.raises(CannotPredict, match="needs all atoms"):
        model.fit(replace(training, task=training.task.on_track("heavy-input")))
    monkeypatch.setattr(gfn2.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'tg80\[generate\]'"):
        make_model("gfn2-xtb")


def test_a_batch_gives_what_its_samples_give_whatever_becomes_of_the_others():
    members = [cluster(3, 0), cluster(4, 1), cluster(2, 2)]
    states, model = states_of(*members), EmtModel()
    lags = torch.tensor([[4.0, 30.0], [2.0, torch.nan], [10.25, 7.0]])
    together, failed = model.predict(states, lags)
    assert not failed.any()
    for row, (atoms, velocities) in enumerate(members):
        one = states_of((atoms, velocities))
        alone, _ = model.predict(one, lags[row : row + 1])
        torch.testing.assert_close(
            alone[0], together[row, :, : len(atoms)], atol=1e-6, rtol=0, equal_nan=True
        )


def test_lags_between_two_steps_are_reached():
    """A step of 1 fs and lags off it are as good as steps that end on them."""
    atoms, velocities = cluster()
    states, lags = states_of((atoms, velocities)), (10.25, 30.5)
    coarse = roll_out(
        AseForceField(EMT), states, lags_of(states, lags), RolloutSettings(time_step_fs=1.0)
    )
    fine = ase_positions(atoms, velocities, lags, EMT, step_fs=0.25)
    np.testing.assert_allclose(coarse.positions[0], fine, atol=1e-4)


def test_the_energy_of_newtons_equations_is_kept_and_its_drift_told():
    states = states_of((Atoms("N2", positions=[[0, 0, 0], [0, 0, 1.05]]), np.zeros((2, 3))))
    field = AseForceField(lambda: MorsePotential(epsilon=9.0, r0=1.1, rho0=3.0))
    small, large = (
        roll_out(field, states, lags_of(states, (100.0,)), RolloutSettings(time_step_fs=step))
        for step in (0.5, 1.0)
    )
    # Velocity Verlet is of second order: half the step, a quarter of the error.
    assert float(small.drift_mev) == pytest.approx(float(large.drift_mev) / 4, rel=0.3)


def outward(positions, atomic_numbers):
    """Atoms are driven away from their centre, ever faster, by a potential: -50 x^2."""
    centred = positions - positions.mean(1, keepdim=True)
    return -50 * centred.square().sum((1, 2)), 100 * centred


def lying(positions, atomic_numbers):
    """Forces that no energy belongs to."""
    return torch.zeros(len(positions), dtype=torch.float64), torch.ones_like(positions)


def broken(positions, atomic_numbers):
    """Not a number for the second molecule."""
    energies = torch.zeros(len(positions), dtype=torch.float64)
    energies[(atomic_numbers > 0).sum(1) == 4] = torch.nan
    return energies, torch.zeros_like(positions)


def test_what_flies_apart_gains_energy_or_is_not_a_number_has_failed():
    states = states_of(cluster(3), cluster(4))
    loose = RolloutSettings(largest_drift_mev=1e9)
    apart = roll_out(outward, states, lags_of(states, (500.0,)), loose)
    assert apart.failed.all()
    heated = roll_out(lying, states, lags_of(states), SETTINGS)
    assert heated.failed.all() and float(heated.drift_mev.min()) > 10
    assert roll_out(broken, states, lags_of(states), SETTINGS).failed.tolist() == [False, True]
    for found in (apart, heated):
        still = states.positions.double()[:, None].expand_as(found.positions)
        torch.testing.assert_close(found.positions, still)


def test_a_blow_up_behind_the_last_lag_is_none():
    states = states_of(cluster(3))
    assert not roll_out(outward, states, lags_of(states, (1.0,)), SETTINGS).failed.any()


def test_a_calculator_that_gives_up_has_failed_and_no_other_molecule():
    class Moody(EMT):
        def calculate(self, atoms, *args, **kwargs):
            if len(atoms) == 4:
                raise CalculationFailed("no convergence")
            super().calculate(atoms, *args, **kwargs)

    states = states_of(cluster(3), cluster(4))
    found = roll_out(AseForceField(Moody), states, lags_of(states), SETTINGS)
    assert found.failed.tolist() == [False, True]


def test_failures_are_scored_as_persistence_and_counted():
    class Exploding(ForceFieldModel):
        id = "exploding"

        def force_field(self, states):
            return outward

    states = states_of(cluster(3), cluster(4))
    lags = lags_of(states, (500.0,))
    targets = states.positions[:, None] + torch.where(states.atom_mask[:, None, :, None], 0.3, 0.0)
    errors = predict_errors(Exploding(), Windows(states, lags, targets))
    assert errors.failed.tolist() == [True, True]
    np.testing.assert_allclose(errors.raw, 0.09, rtol=1e-5)
