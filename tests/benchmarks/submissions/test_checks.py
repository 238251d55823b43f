"""Predictions in another unit show on real molecules, and poor models are not taken for them."""

import numpy as np
import pytest

from benchmarks.submissions.checks import check_plausible
from benchmarks.submissions.template import issue
from benchmarks.tasks.data import load_benchmark
from benchmarks.tasks.tasks import get_task
from tests.benchmarks.submissions import outside
from tg80.errors import UserError

RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def issued(mini):
    return issue(mini)


def flight(issued, time_fs):
    """A flight that comes to rest after so many fs."""
    template = issued.template
    way = time_fs * (1 - np.exp(-template.lags_fs / time_fs))
    return template.positions[:, None] + way[:, None, None] * template.velocities[:, None]


def check(issued, predictions, **options):
    failed = options.get("failed", np.zeros(len(predictions), dtype=bool))
    check_plausible(issued.template, predictions, failed)


def noisy(width):
    def predict(issued, truth):
        return outside.still(issued) + width * RANDOM.normal(size=issued.template.shape)

    return predict


MODELS = {
    "persistence": lambda issued, truth: outside.still(issued),
    "ballistic": lambda issued, truth: outside.flying(issued),
    "short flight": lambda issued, truth: flight(issued, 5.0),
    "long flight": lambda issued, truth: flight(issued, 100.0),
    "flies off": lambda issued, truth: (
        issued.template.positions[:, None] + 10 * (outside.flying(issued) - outside.still(issued))),
    "centroid": lambda issued, truth: 0.0 * outside.still(issued),
    "truth": lambda issued, truth: truth,
    "noise of 0.1 A": noisy(0.1),
    "noise of 0.5 A": noisy(0.5),
    "noise of 3 A": noisy(3.0),
    # What a relaxed or mean structure looks like: all lags alike, somewhat off the start.
    "one structure": lambda issued, truth: np.repeat(
        truth.mean(1, keepdims=True), truth.shape[1], axis=1),
    "to the end too soon": lambda issued, truth: np.repeat(truth[:, -1:], truth.shape[1], axis=1),
    "noisy truth": lambda issued, truth: truth + 0.2 * RANDOM.normal(size=truth.shape),
}  # fmt: skip
TASKS = [
    ("mini-xtb-v1", 2, "canonical"), ("mini-xtb-v1", 3, "all-atom"),
    # Two heavy atoms, which come back to their start within two lags.
    ("mini-xtb-singletask/formaldehyde", None, "canonical"),
    ("mini-xtb-singletask/methanol", None, "canonical"),
    ("mini-dft-v1", 1, "canonical"),
]  # fmt: skip


@pytest.fixture(scope="module", params=TASKS, ids=[f"{t} {track}" for t, _, track in TASKS])
def known(request):
    task, fold, track = request.param
    data = load_benchmark(get_task(task, track), fold)
    made = issue(data)
    return made, outside.truth(made, data)


@pytest.mark.parametrize("model", MODELS)
def test_models_good_and_bad_are_taken(model, known):
    issued, truth = known
    check(issued, MODELS[model](issued, truth))


# Angstrom taken for another unit and the reverse: nm, pm, bohr, bohr in nm, metre; and the scale of
# a network that was forgotten.
FACTORS = [0.1, 10.0, 0.01, 100.0, 0.529177, 1.889726, 0.0529177, 18.89726, 1e-10, 3.5711, 0.7, 1.5]


@pytest.mark.parametrize("factor", FACTORS)
def test_predictions_in_another_unit_are_refused(factor, known):
    issued, truth = known
    for model in ("persistence", "short flight", "truth", "one structure", "noise of 0.1 A"):
        predictions = factor * MODELS[model](issued, truth)
        with pytest.raises(UserError, match=r"of their start times .*: positions in another unit"):
            check(issued, predictions)


def test_one_part_in_another_unit_is_refused(issued):
    predictions, part = flight(issued, 30.0), issued.template.part
    predictions[part == "test_ood"] *= 0.529177
    with pytest.raises(UserError, match=r"molecules of test_ood at 10 fs .* times 0\.53"):
        check(issued, predictions)


@pytest.mark.parametrize("factor", [0.529177, 1.889726, 0.1, 10.0])
def test_a_poor_model_in_another_unit_is_refused(factor, issued):
    for model in ("noise of 0.5 A", "flies off"):
        with pytest.raises(UserError, match="in another unit"):
            check(issued, factor * MODELS[model](issued, None))


def test_entries_that_failed_are_not_looked_at(issued):
    predictions = flight(issued, 30.0)
    wrong = np.arange(len(predictions)) % 2 == 0
    for filling in (np.nan, predictions[wrong] / 10):
        predictions[wrong] = filling
        check(issued, predictions, failed=wrong)


@pytest.mark.parametrize("filling", [np.nan, np.inf, 1e308])
def test_atoms_that_are_not_scored_may_be_anything(filling, issued):
    mask = np.broadcast_to(issued.template.score_mask[:, None, :, None], issued.template.shape)
    check(issued, np.where(mask, flight(issued, 30.0), filling))
