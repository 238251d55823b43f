"""sGDML on the mini set that ships along, and what is said where it cannot be asked."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.interface import CannotPredict
from benchmarks.models import ROLLED_OUT, TRIVIAL, make_model
from benchmarks.models.force_fields import sgdml
from benchmarks.models.force_fields.frames import labelled_frames
from benchmarks.models.force_fields.rollout import roll_out
from tests.support import toys

FEW = ("ethylene", "furan")
pytestmark = pytest.mark.timeout(900)


def mark(test):
    for one in toys.NEEDS["sgdml"]:
        test = one(test)
    return test


@pytest.fixture(scope="module")
def fitted(mini):
    blocks = tuple(t for t in mini.training.trajectories if t.name in FEW)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sgdml, "LARGEST_KERNEL", 1500)
        model = make_model("sgdml")
        report = model.fit(replace(mini.training, trajectories=blocks))
    assert report.n_samples == 1500 // 18 + 1500 // 27
    return model


def starts_of(mini, name):
    windows = mini.parts["test_time"].windows
    rows = [i for i, other in enumerate(windows.states.molecule) if other == name]
    return windows.states.select(rows), windows.targets[rows]


@mark
def test_later_frames_have_the_forces_that_were_learnt(fitted, mini):
    """Within 5 % of what they are, and minus the slope of the energy."""
    states, _ = starts_of(mini, "furan")
    (block,) = [b for b in mini.training.validation_blocks if b.name == "furan"]
    x, forces = labelled_frames([block])
    field = fitted.force_field(replace(states.select([0] * len(x)), positions=x.float()))
    numbers = torch.from_numpy(block.atomic_numbers).expand(len(x), -1)
    _, found = field(x, numbers)
    assert float((found - forces).norm() / forces.norm()) < 0.05
    one = field.select(torch.arange(len(x)) == 0)
    shift = torch.zeros_like(x[:1])
    shift[0, 2, 1] = 1e-4
    up, down = one(x[:1] + shift, numbers[:1])[0], one(x[:1] - shift, numbers[:1])[0]
    assert float(-(up - down) / 2e-4) == pytest.approx(float(found[0, 2, 1]), abs=1e-5)


@mark
def test_a_rollout_stays_at_the_truth(fitted, mini):
    """At 120 fs within a tenth of what persistence errs."""
    states, targets = starts_of(mini, "furan")
    lags = torch.full((len(states), 1), 120.0)
    found = roll_out(fitted.force_field(states), states, lags, fitted.rollout)
    assert not found.failed.any() and float(found.drift_mev.max()) < 2
    heavy, start = states.score_mask, states.positions.double()
    off, moved = found.positions[:, 0] - targets[:, 0], start - targets[:, 0]
    assert float(off[heavy].square().sum() / moved[heavy].square().sum()) < 0.1


@mark
def test_unseen_molecules_are_refused_and_rows_are_kept_apart(fitted, mini):
    states = mini.parts["test_id"].windows.states.select([0])
    with pytest.raises(CannotPredict, match="is not a training molecule"):
        fitted.force_field(states)
    both = mini.parts["test_time"].windows.states
    rows = [both.molecule.index(name) for name in FEW]
    together, failed = fitted.predict(both.select(rows), torch.full((2, 1), 20.0))
    assert not failed.any()
    for i, row in enumerate(rows):
        alone, _ = fitted.predict(both.select([row]), torch.full((1, 1), 20.0))
        np.testing.assert_allclose(together[i], alone[0], atol=1e-5)


def test_it_runs_only_where_it_is_named():
    assert "sgdml" in ROLLED_OUT and "sgdml" not in TRIVIAL


def test_without_the_package_one_line_says_what_to_install(monkeypatch, capsys):
    from benchmarks.cli import main

    monkeypatch.setattr(sgdml.importlib.util, "find_spec", lambda name: None)
    assert main(["run", "--fold", "1", "--model", "sgdml"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "pip install 'tg80[sgdml]'" in error
