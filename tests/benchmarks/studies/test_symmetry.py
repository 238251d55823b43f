"""The symmetry laboratory on trained models, on predictors, and on a model with a fault."""

import json
from dataclasses import replace

import pytest
import torch

from benchmarks import models
from benchmarks.cli import main
from benchmarks.models import make_model
from benchmarks.models.trivial import Persistence
from benchmarks.runs.evaluation import MEAN
from benchmarks.runs.saved import cases, saved_runs
from benchmarks.studies import symmetry
from benchmarks.studies.symmetry import EXACT_A, SymmetrySettings, measure
from tests.support import toys
from tg80.errors import UserError

FEW = SymmetrySettings(windows=6, rotations=3)
ROUNDING_A = 1e-5


def measured(data, case, settings=FEW):
    model = case.load(data)
    return measure(model, data, settings, label=case.label, state=case.state, seed=case.seed)


@pytest.fixture(scope="module")
def trained(mini, mini_runs):
    """What is measured on atom-start, trained, and its record."""
    (run,) = saved_runs(mini_runs, mini, models=["atom-start"])
    found = cases(mini, mini_runs, models=["atom-start"])
    (case,) = [case for case in found if case.state == "trained"]
    return measured(mini, case), run.record


def test_a_trained_model_is_quasi_equivariant(trained):
    found, _ = trained
    assert found.rotations.point > 100 * ROUNDING_A
    assert 0 < found.rotations.paper <= found.rotations.point
    assert found.reflections.point > 100 * ROUNDING_A
    assert found.displacement > 0.01
    assert found.is_exact and found.translation < ROUNDING_A and found.permutation < ROUNDING_A


def test_only_the_lifting_is_equivariant(trained):
    layers = trained[0].layers
    assert list(layers) == ["X", "V", "Z", "block 1", "block 2"]
    for name, layer in layers.items():
        for error in (layer.rotations, layer.reflections):
            assert error.relative < 2e-6 if name in "XVZ" else error.relative > 0.05


def test_robustness_is_the_quotient_of_the_recorded_errors(trained):
    found, record = trained
    for part, ratio in found.robustness.items():
        turned = record.value(part, "s2t", MEAN)
        stored = record.value(part, "s2t_stored_frame", MEAN)
        assert ratio.s2t_turned == pytest.approx(turned)
        assert ratio.s2t == pytest.approx(turned / stored)
        last = record.value(part, "s2s", MEAN) / record.value(part, "s2s_stored_frame", MEAN)
        assert ratio.s2s == pytest.approx(last)


@pytest.mark.parametrize(
    "name", ["persistence", "ballistic", "blend", "mean-structure", "fitted-harmonic"]
)
def test_predictors_are_exact(name, mini):
    (case,) = cases(mini, models=[name])
    found = measured(mini, case)
    assert found.rotations.point < ROUNDING_A and found.is_exact and found.layers == {}
    for ratio in found.robustness.values():
        assert ratio.s2t == pytest.approx(1.0, abs=1e-4)
    # A structure is turned onto the start, but never reflected.
    keeps_structures = name in ("blend", "mean-structure", "fitted-harmonic")
    assert (found.reflections.point > 0.01) == keeps_structures


def test_untrained_models_have_the_settings_of_the_trained_ones(mini, mini_runs):
    found = cases(mini, mini_runs, models=["atom", "persistence"])
    assert [(c.state, c.seed) for c in found] == [
        ("untrained", 0), ("untrained", 1), ("trained", 0), ("trained", 1), ("fitted", None),
    ]  # fmt: skip
    first, second = found[0].load(mini), found[2].load(mini)
    assert first.settings() == second.settings()
    weights = [list(m.module.parameters()) for m in (first, second)]
    assert any(not torch.equal(a, b) for a, b in zip(*weights, strict=True))
    labels = {run.label for run in saved_runs(mini_runs, mini)}
    assert labels == {"atom", "atom-start"}


class KnowsPlaces(Persistence):
    """Shifts each atom by its place in the list, and shrinks about the origin."""

    id = "persistence"

    def _predict(self, states, lags_fs):
        places = 0.01 * torch.arange(states.positions.shape[1])[:, None]
        still = super()._predict(states, lags_fs)
        return 0.999 * still + places


class GivesUp(Persistence):
    """Flies away at padding, and gives up on the first window."""

    def predict(self, states, lags_fs):
        positions, failed = super().predict(states, lags_fs)
        failed[0] = True
        positions = torch.where(states.atom_mask[:, None, :, None], positions, torch.nan)
        positions[1] += 1.0
        positions[2, 0, 0] = torch.nan
        return positions, failed


def test_what_fails_stands_still_and_padding_does_not_count(mini):
    states = mini.parts["test_id"].windows.states.select([0, 30, 59])
    operator = symmetry.as_operator(GivesUp(), states, "heavy")
    lags = torch.tensor([[120.0, 240.0]] * 3)
    moved = operator(states.positions, states.velocities, states.atomic_numbers, lags)
    moved = (moved - states.positions[:, None]).abs().amax((1, 3))
    assert moved[0].max() == moved[2].max() == 0
    torch.testing.assert_close(moved[1], states.atom_mask[1].float())


def test_a_fault_is_seen_and_fails_the_command(monkeypatch, capsys):
    monkeypatch.setitem(models.MODELS, "persistence", KnowsPlaces)
    argv = ["symmetry", "--fold", "2", "--model", "persistence", "--windows", "4", "--json"]
    assert main(argv) == 1
    shown = capsys.readouterr()
    assert "change the prediction of persistence" in shown.err
    (row,) = json.loads(shown.out)["rows"]
    assert row["translation"] > EXACT_A and row["permutation"] > EXACT_A
    assert row["rotations"]["point"] > 0.01 and not row["is_exact"]


def test_tables(trained, mini_runs, capsys):
    argv = ["symmetry", "--fold", "2", "--from", str(mini_runs), "--model", "atom-start"]
    assert main([*argv, "--windows", "4", "--rotations", "2", "--markdown"]) == 0
    text = capsys.readouterr().out
    assert "| atom-start | trained | 1 | " in text and "| atom-start | untrained | 1 | " in text
    assert "| block 2 | " in text and "test_ood" in text
    other = replace(trained[0], seed=1, displacement=trained[0].displacement + 2.0)
    positions, ratios, layers = symmetry.tables([trained[0], other], FEW)
    assert positions.rows[0][2] == "2" and positions.rows[0][6].endswith("± 3")
    assert len(ratios.rows) == 1 and layers.rows[0][0] == "X"


def test_mistakes_are_named(mini, mini_runs, tmp_path, capsys):
    with pytest.raises(UserError, match="no such folder"):
        saved_runs(tmp_path / "none", mini)
    with pytest.raises(UserError, match=r"no finished run of atom-start on fold 2 .* these seeds"):
        saved_runs(mini_runs, mini, models=["atom-start"], seeds=[7])
    with pytest.raises(UserError, match="ran on other data"):
        saved_runs(mini_runs, replace(mini, manifest_sha256="0" * 64))
    (case,) = cases(mini, models=["mean-structure"])
    with pytest.raises(UserError, match="choose --part test_time"):
        measured(mini, case, replace(FEW, part="test_id"))
    with pytest.raises(UserError, match="no part 'tests'"):
        measured(mini, case, replace(FEW, part="tests"))
    assert main(["symmetry", "--fold", "2", "--model", "atm"]) == 2
    assert "unknown model 'atm'" in capsys.readouterr().err


def test_a_reordered_training_set_is_the_same_molecules(mini):
    orders = {t.name: list(range(t.n_atoms))[::-1] for t in mini.training.trajectories}
    turned = symmetry.reordered(mini.training, orders)
    for old, new in zip(mini.training.trajectories, turned.trajectories, strict=True):
        assert new.atomic_numbers.tolist() == old.atomic_numbers[::-1].tolist()
        assert (new.positions[5] == old.positions[5, ::-1]).all()
        assert (turned.relaxed_positions[old.name] == new.relaxed_positions).all()


def test_the_strict_model_keeps_rotations_and_reflections_layer_by_layer(mini):
    model = make_model("atom", model=toys.SMALL_ATOM["model"] | {"symmetry": "strict"})
    model.initialise(mini.training, seed=0)
    found = measure(model, mini, FEW, label="strict", state="untrained", seed=0)
    assert found.displacement > 1e-3
    assert max(found.rotations.point, found.reflections.point) < 1e-3 * found.displacement
    errors = [error for both in found.layers.values() for error in vars(both).values()]
    assert len(errors) == 10 and max(error.relative for error in errors) < 1e-5
