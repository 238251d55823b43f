"""The harmonic trial: exact physics, endless windows, and its command."""

import json

import numpy as np
import pytest
import torch

from benchmarks.cli import main
from benchmarks.interface import Budget
from benchmarks.studies.harmonic_trial import (
    FRAME_FS,
    LAGS_FS,
    harmonic_molecule,
    run_trial,
    training_data,
)
from tests.support import toys
from tg80.constants import ACCELERATION, BOLTZMANN_EV_PER_K
from tg80.errors import UserError
from tg80.windows.lags import LagSampling


@pytest.fixture(scope="module")
def furan():
    return harmonic_molecule("furan")


def test_trajectories_obey_newton_with_the_forces_of_the_hessian(furan):
    """F = -H d, and dv/dt = F/m from a central difference at a time step of 0.01 fs."""
    block = furan.trajectories()[0]
    _, forces = block.labels.read()
    displacement = (block.positions - furan.modes.structure.numpy()).reshape(len(forces), -1)
    expected = -displacement @ block.hessian
    off = np.abs(forces.reshape(len(forces), -1) - expected).max()
    assert off < 0.02 * np.abs(forces).max()  # the stored Hessian has a trace of translations
    normal = np.random.default_rng(0).normal(size=(1, furan.n_numbers))
    q, p = furan.amplitudes(normal)
    times = torch.tensor([[99.99, 100.0, 100.01]], dtype=torch.float64)
    _, velocities = furan.at(q, p, times)
    positions, _ = furan.at(q, p, times)
    weighted = (positions[0, 1] - furan.modes.structure) * furan.modes.masses.sqrt()[:, None]
    force = furan.forces(weighted.flatten() @ furan.modes.vectors)
    slope = (velocities[0, 2] - velocities[0, 0]) / 0.02
    expected = ACCELERATION * force / furan.modes.masses[:, None]
    assert torch.allclose(slope, expected, rtol=1e-4, atol=1e-7)


def test_start_states_are_thermal(furan):
    """Every mode holds kT on average: half of it kinetic, half potential energy."""
    normal = np.random.default_rng(0).normal(size=(4000, furan.n_numbers))
    q, p = furan.amplitudes(normal)
    kt = BOLTZMANN_EV_PER_K * 300
    assert float((p.square().mean(0) / (ACCELERATION * kt) - 1).abs().max()) < 0.1
    potential = (q * furan.modes.rates).square().mean(0) / ACCELERATION
    assert float((potential / kt - 1).abs().max()) < 0.1


def test_windows_are_fresh_repeatable_and_true(furan):
    data = training_data(furan)
    lags = LagSampling((120.0, 240.0), 0.5, 960.0)
    windows, same = (
        data.windows(data.trajectories, lags, seed=3, windows_per_trajectory=2) for _ in range(2)
    )
    first, again = windows.__getitems__([0, 5]), same.__getitems__([5])
    later = windows.__getitems__([5 + len(windows)])
    assert torch.equal(first.positions[1], again.positions[0])
    assert not torch.equal(first.positions[1], later.positions[0])
    assert bool(((first.lags_fs % FRAME_FS == 0) | first.lags_fs.isnan()).all())


def test_the_oracle_passes_and_persistence_is_the_unit(furan, tmp_path):
    asked = {"budget": Budget(epochs=1), "seed": 0, "out": tmp_path}
    assert max(run_trial("harmonic", {}, furan, **asked).errors) < 1e-6
    assert run_trial("persistence", {}, furan, **asked).errors == (1.0,) * len(LAGS_FS)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("molecule", "epochs"),
    [("furan", 28), pytest.param("benzoic-acid", 37, marks=pytest.mark.slow)],
)
def test_atom_modes_learns_frequencies(molecule, epochs, tmp_path):
    """32 steps an epoch, a CPU minute: phases at 960 fs hang on frequencies to about 3 cm-1."""
    settings = {
        "model": {"output": "modes"},
        "training": {"windows_per_trajectory": 8, "validations": 1, "learning_rate": 0.005},
    }
    asked = {"budget": Budget(epochs=epochs), "seed": 0, "out": tmp_path}
    result = run_trial("atom-modes", settings, harmonic_molecule(molecule), **asked)
    assert result.n_steps < 1200
    assert max(result.at(20.0), result.at(120.0)) < 0.02
    assert result.at(960.0) < 0.05


@pytest.mark.parametrize("model", ["atom", "egno", "valence"])
def test_learnt_models_can_be_tried(furan, tmp_path, model):
    settings = {"atom": toys.TINY_ATOM, "egno": toys.TINY_EGNN, "valence": {"model": {"width": 8}}}
    result = run_trial(model, settings[model], furan, budget=Budget(epochs=1), seed=0, out=tmp_path)
    assert np.isfinite(result.errors).all() and result.n_steps > 0


def test_the_command_reports_every_molecule(tmp_path, capsys):
    given = ["harmonic-trial", "--model", "harmonic", "--json", "--out", str(tmp_path)]
    assert main(given) == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["molecule"] for row in report] == ["furan", "benzoic-acid"]
    assert all(max(row["errors"]) < 1e-6 for row in report)


@pytest.mark.parametrize(
    ("option", "value"), [("--molecule", "unobtainium"), ("--minutes", "0"), ("--model", "egon")]
)
def test_wrong_input_is_refused_in_one_line(tmp_path, capsys, option, value):
    assert main(["harmonic-trial", option, value, "--out", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_molecule_without_a_shard_is_named(tmp_path):
    with pytest.raises(UserError, match="unobtainium"):
        harmonic_molecule("unobtainium")
