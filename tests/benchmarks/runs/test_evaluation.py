from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.models import Budget, make_model
from benchmarks.models.trivial import Persistence
from benchmarks.runs.evaluation import (
    MEAN,
    MEDIAN,
    POOLED,
    fit_references,
    references_of,
    rows_of,
    score,
    score_part,
)
from benchmarks.scoring import metrics
from benchmarks.scoring.errors import predict_errors, validation_error
from benchmarks.scoring.metrics import Metric
from benchmarks.tasks.tasks import ChosenOn
from tests.support import toys


@pytest.fixture(scope="module")
def references(data):
    return fit_references(data)


class Gives(Persistence):
    """A model that gives a fixed answer and fails where it is told to."""

    def __init__(self, positions, failed=None):
        self.positions, self.failed = positions, failed

    def predict(self, states, lags_fs):
        rows = slice(0, len(states))
        failed = torch.zeros(len(states), dtype=torch.bool)
        return self.positions[rows], failed if self.failed is None else self.failed[rows]


def test_truth_scores_zero_and_has_skill_one(data, references):
    part = data.parts["test_id"]
    result = score_part(Gives(part.windows.targets), replace(part, curve=None), references)
    rows = {(v.molecule, v.metric, v.lag_fs): v.value for v in rows_of(result)}
    assert rows[MEAN, Metric.S2S, None] < 1e-12
    assert rows[MEDIAN, Metric.SKILL, 90.0] == pytest.approx(1.0)
    assert rows[POOLED, Metric.S2T_ALIGNED, None] < 1e-10


def test_failed_and_infinite_predictions_score_as_persistence_and_are_counted(data, references):
    part = data.parts["test_id"]
    n = len(part.windows.states)
    positions = part.windows.targets.clone()
    positions[0, 1, 0, 0] = torch.nan
    positions[1, 2, 0, 1] = torch.inf
    failed = torch.zeros(n, dtype=torch.bool)
    failed[2] = True
    errors = predict_errors(Gives(positions, failed), part.windows)
    still = predict_errors(Persistence(), part.windows)
    np.testing.assert_array_equal(errors.raw[:3], still.raw[:3])
    np.testing.assert_array_equal(errors.aligned[:3], still.aligned[:3])
    assert np.all(errors.raw[3:] == 0)
    assert errors.failed.tolist() == [True] * 3 + [False] * (n - 3)
    result = score_part(Gives(positions, failed), replace(part, curve=None), references)
    counted = {v.n_failed for v in rows_of(result) if v.molecule == MEAN}
    assert counted == {3}
    assert sum(v.n_failed for v in rows_of(result) if v.metric == Metric.S2S) == 3 * 3


def test_validation_weighs_molecules_and_parts_alike_and_counts_persistence_as_one(data):
    part, other = data.parts["test_id"], data.parts["test_time"]
    windows = part.windows
    assert validation_error(Persistence(), [part, other], batch_size=3) == pytest.approx(1.0)
    assert validation_error(Gives(windows.targets), [part]) < 1e-100
    failed = torch.ones(len(windows.states), dtype=torch.bool)
    assert validation_error(Gives(windows.targets, failed), [part]) == pytest.approx(1.0)

    class Moves(Persistence):
        """Goes a share of every true move: (1 - share)^2 of persistence's error."""

        def __init__(self, shares):
            self.shares = shares

        def predict(self, states, lags_fs):
            windows = part.windows if states.start_id[0] in starts else other.windows
            rows = [windows.states.start_id.index(name) for name in states.start_id]
            still = states.positions[:, None]
            share = torch.tensor([self.shares.get(name, 0.0) for name in states.molecule])
            moved = still + share[:, None, None, None] * (windows.targets[rows] - still)
            return moved, torch.zeros(len(rows), dtype=torch.bool)

    starts = set(windows.states.start_id)
    names = sorted(set(windows.states.molecule))
    halfway = dict.fromkeys(names, 0.5)
    assert validation_error(Moves(halfway), [part]) == pytest.approx(0.25, rel=1e-4)
    one = validation_error(Moves({names[0]: 0.9}), [part])
    assert one == pytest.approx(0.01 ** (1 / len(names)), rel=1e-3)
    # The molecules of the other part stay where they are.
    assert validation_error(Moves(halfway), [part, other]) == pytest.approx(0.5, rel=1e-4)


def test_what_is_not_scored_may_be_anything(data):
    part = data.parts["test_id"]
    hydrogens = ~part.windows.states.score_mask[:, None, :, None]
    positions = torch.where(hydrogens, torch.nan, part.windows.targets)
    errors = predict_errors(Gives(positions), part.windows)
    assert not errors.failed.any() and np.all(errors.raw == 0)


def test_references_legal_in_each_part():
    seen = {model.id for model in references_of("test_time", toys.TASK)}
    assert seen == {"persistence", "ballistic", "centroid", "mean-structure", "blend"}
    for part in ("val", "test_id", "test_ood"):
        unseen = {model.id for model in references_of(part, toys.TASK)}
        assert unseen == {"persistence", "ballistic", "centroid", "relaxed-structure", "blend"}


def test_the_best_reference_is_chosen_for_each_molecule_and_lag(data, references):
    part = data.parts["test_time"]
    best = references.best(part.name, part.windows).raw
    tables = [
        metrics.per_molecule(
            predict_errors(references.models[r.id], part.windows).raw, part.windows.states.molecule
        )
        for r in references_of("test_time", toys.TASK)
    ]
    for name, values in best.items():
        np.testing.assert_array_equal(values, np.min([t[name] for t in tables], axis=0))


RELEASE = toys.TASK.model_copy(update={"reference": ChosenOn.VALIDATION})


def test_the_reference_of_a_release_task_is_chosen_on_validation_data():
    data = toys.toy_data(task=RELEASE)
    references = fit_references(data)
    # All test windows replaced by noise: the same are chosen.
    other = fit_references(toys.toy_data(disturbed(val_time=False), task=RELEASE))
    for name, part in data.parts.items():
        seen = name == "test_time"
        validation = "val_time" if seen else "val"
        windows = next(p for p in data.training.validation if p.name == validation).windows
        legal = {r.id for r in references_of(name, RELEASE)}
        assert ("fitted-harmonic" in legal) == seen
        tables = {
            i: metrics.per_molecule(
                predict_errors(references.models[i], windows).raw, windows.states.molecule
            )
            for i in legal
        }
        best = references.best(name, part.windows).raw
        for p, lag in enumerate(RELEASE.lags_fs):
            least = min(legal, key=lambda i: np.prod([v[p] for v in tables[i].values()]))
            assert references.chosen(name, lag).raw == least == other.chosen(name, lag).raw
            errors = predict_errors(references.models[least], part.windows).raw
            mine = metrics.per_molecule(errors, part.windows.states.molecule)
            for molecule, values in best.items():
                assert values[p] == mine[molecule][p]
    # At other lags the nearest decides.
    assert references.chosen("test_time", 1000.0) == references.chosen("test_time", 90.0)


def test_references_predict_once_however_many_models_are_scored(data, monkeypatch):
    references = fit_references(data)
    asked = []
    for name, model in references.models.items():

        def count(states, lags_fs, predict=model.predict, name=name):
            asked.append((name, states.start_id, lags_fs.shape[1]))
            return predict(states, lags_fs)

        monkeypatch.setattr(model, "predict", count)
    first = score(Persistence(), data, references)
    legal = sum(len(references_of(part, toys.TASK)) for part in data.parts)
    # At the task's lags and at those of the curve.
    assert len(asked) == len(set(asked)) == 2 * legal
    again = score(Persistence(), data, references)
    assert len(asked) == 2 * legal
    alone = score(Persistence(), data, fit_references(data))
    for one, two, three in zip(first, again, alone, strict=True):
        assert rows_of(one) == rows_of(two) == rows_of(three)


class Learns(Persistence):
    trains = True


class Turns(Learns):
    equivariance = "none"


def test_only_models_that_learn_orientation_are_scored_in_the_stored_frame(data, references):
    part = data.parts["test_id"]
    scored = {m: score_part(m(), part, references) for m in (Persistence, Learns, Turns)}
    assert [m for m, found in scored.items() if found.stored_frame is not None] == [Turns]
    canonical, stored = scored[Turns].task.raw, scored[Turns].stored_frame.raw
    # What is left out is the same number: persistence follows rotations exactly.
    np.testing.assert_allclose(canonical, stored, rtol=1e-4)


def test_skill_of_a_reference_is_never_above_zero(data, references):
    for result in score(references.models["blend"], data, references):
        skills = [v.value for v in rows_of(result) if v.metric == Metric.SKILL]
        assert skills and max(skills) <= 1e-12
        # At the lags of the curve as well.
        lags = {v.lag_fs for v in rows_of(result) if v.metric == Metric.SKILL}
        assert len(lags) == len(toys.TASK.lags_fs) + len(toys.TASK.curve_lags_fs)


def test_models_of_seen_molecules_leave_the_others_out(data, references):
    scored = {s.part for s in score(references.models["mean-structure"], data, references)}
    assert scored == {"test_time"}
    assert {s.part for s in score(references.models["blend"], data, references)} == set(data.parts)


def test_averages_agree_with_the_errors(data, references):
    result = score_part(references.models["persistence"], data.parts["test_ood"], references)
    rows = {(v.molecule, v.metric, v.lag_fs): v for v in rows_of(result)}
    names = np.array(result.molecules)
    for name in toys.TEST_OOD:
        mine = result.task.raw[names == name]
        assert rows[name, Metric.S2S, None].value == pytest.approx(mine[:, -1].mean())
        assert rows[name, Metric.S2T, None].value == pytest.approx(mine.mean())
        assert rows[name, Metric.MSE, 30.0].value == pytest.approx(mine[:, 0].mean())
        assert rows[name, Metric.MSE, 30.0].n == (names == name).sum()
    by_molecule = [rows[name, Metric.S2S, None].value for name in toys.TEST_OOD]
    assert rows[MEAN, Metric.S2S, None].value == pytest.approx(np.mean(by_molecule))
    assert rows[POOLED, Metric.S2S, None].value == pytest.approx(result.task.raw[:, -1].mean())
    assert (MEAN, Metric.MSE, 10.0) in rows  # the curve's lag


def disturbed(val_time=True):
    """The toys with every frame but the train blocks' of training molecules replaced by noise.

    Validation molecules stay: they choose the weights that are kept. So does `val_time` if wanted.
    """
    rng = np.random.default_rng(0)
    result = []
    for trajectory in toys.toy_trajectories():
        positions, velocities = trajectory.positions.copy(), trajectory.velocities.copy()
        share = 0.6 if val_time else 0.755
        first = int(share * (toys.N_FRAMES - 1)) + 1 if trajectory.name in toys.TRAIN else 0
        if trajectory.name not in toys.VAL:
            positions[first:] += rng.normal(size=positions[first:].shape)
            velocities[first:] += rng.normal(size=velocities[first:].shape)
        result.append(replace(trajectory, positions=positions, velocities=velocities))
    return result


@pytest.mark.parametrize("model_id", ["atom", "blend", "mean-structure", "relaxed-structure"])
def test_no_test_frame_reaches_a_model(data, tmp_path, model_id):
    settings = toys.TINY_ATOM if model_id == "atom" else {}
    other = toys.toy_data(disturbed())
    states = data.parts["test_time"].windows.states
    assert (
        float((other.parts["test_time"].windows.states.positions - states.positions).abs().max())
        > 1
    )
    lags = torch.tensor(toys.TASK.lags_fs).expand(len(states), -1)
    found = []
    for name, source in (("clean", data), ("disturbed", other)):
        model = make_model(model_id, **settings)
        model.fit(source.training, budget=Budget(epochs=2), seed=0, out=tmp_path / name)
        found.append(model.predict(states, lags)[0])
    torch.testing.assert_close(found[0], found[1], atol=0, rtol=0)
