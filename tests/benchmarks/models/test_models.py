"""The suite that every registered model passes."""

import re
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.models import TRIVIAL, Budget, make_model, model_class
from benchmarks.models.learnt import Learnt
from benchmarks.models.trivial import Persistence
from benchmarks.tasks.states import StartStates
from benchmarks.testing import CHECKS, TOLERANCE_A, ask, check_model, starts
from tests.support import toys
from tg80.errors import UserError

SETTINGS = {name: toys.TINY_ATOM for name in ("atom", "atom-start", "atom-gat", "atom-modes")}
SETTINGS |= {name: toys.TINY_EGNN for name in ("egno", "egnn", "egnn-rollout")}
SETTINGS |= {"mace": toys.TINY_MACE, "nequip": toys.TINY_NEQUIP}
SETTINGS |= {"flashmd": toys.TINY_FLASHMD}
# Toy forces are no molecule's: a field that fits them more flies apart.
SETTINGS |= {"valence": {"model": {"width": 16}, "training": {"learning_rate": 1e-4}}}
STANDS_STILL = {"persistence", "centroid", "mean-structure", "relaxed-structure"}


@pytest.fixture(scope="module", params=toys.MODEL_PARAMS)
def fitted(request, data, tmp_path_factory):
    """A model after a short fit."""
    model = make_model(request.param, **SETTINGS.get(request.param, {}))
    out = tmp_path_factory.mktemp(request.param)
    model.fit(data.training, budget=Budget(epochs=2), seed=0, out=out)
    return model


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_it_keeps_what_every_model_keeps(fitted, data, check):
    check(fitted, data)


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (lambda states, positions: positions.double(), "float64"),
        (lambda states, positions: positions[:, :, :-1], "of shape"),
        (lambda states, positions: positions + positions.mean(), "a batch"),
        (lambda states, positions: 1.01 * positions, "shift"),
        (lambda states, positions: positions + torch.tensor([0.0, 0.0, 0.1]), "is stated"),
    ],
)
def test_the_suite_sees_what_a_model_does_wrong(data, fault, named):
    class Wrong(Persistence):
        def predict(self, states, lags_fs):
            positions, failed = super().predict(states, lags_fs)
            return fault(states, positions), failed

    with pytest.raises(AssertionError, match=named):
        check_model(Wrong(), data)


def test_the_order_of_atoms_does_not_matter(data, tmp_path, request, fitted):
    """Models that keep structures by molecule are fitted to data in the other order."""
    rng = np.random.default_rng(0)
    original = toys.toy_trajectories()
    orders = {t.name: rng.permutation(t.n_atoms) for t in original}
    shuffled = toys.toy_data([t.reordered(orders[t.name]) for t in original])
    model = fitted
    if not fitted.trains:
        model = make_model(fitted.id)
        model.fit(shuffled.training, budget=Budget(epochs=1), seed=0, out=tmp_path)
    states, other = starts(data, fitted), starts(shuffled, fitted)
    assert states.start_id == other.start_id
    plain, turned = ask(fitted, states), ask(model, other)
    for row, name in enumerate(states.molecule):
        order = torch.from_numpy(orders[name])
        torch.testing.assert_close(
            turned[row, :, : len(order)], plain[row][:, order], atol=TOLERANCE_A, rtol=0
        )


def test_lags_are_honoured(fitted, data):
    states = starts(data, fitted)
    positions = ask(fitted, states)
    spread = (positions - positions[:, :1]).abs().amax()
    if fitted.id in STANDS_STILL:
        assert float(spread) == 0
    else:
        assert float((positions[:, 1] - positions[:, 0]).abs().max()) > 1e-6
        assert float((positions[:, 2] - positions[:, 1]).abs().max()) > 1e-6


def test_initial_weights_depend_on_the_seed_alone(fitted, data):
    def initial(seed):
        model = make_model(fitted.id, **SETTINGS.get(fitted.id, {}))
        model.initialise(data.training, seed=seed)
        return ask(model, starts(data, model))

    first = initial(0)
    torch.testing.assert_close(first, initial(0), atol=0, rtol=0)
    reference = ask(fitted, starts(data, fitted))
    if isinstance(fitted, Learnt):
        assert not torch.equal(first, initial(1))
        assert not torch.equal(first, reference)
    elif not fitted.trains:
        torch.testing.assert_close(first, reference, atol=0, rtol=0)


def test_trivial_predictions_by_hand(data):
    states = data.parts["test_time"].windows.states.select([0])
    n = int(states.atom_mask.sum())
    start = states.positions[0, :n]
    fit = {"budget": Budget(epochs=1), "seed": 0, "out": None}
    found = {}
    for name in TRIVIAL:
        model = make_model(name)
        model.fit(data.training, **fit)
        found[name] = ask(model, states)[0, :, :n]
    torch.testing.assert_close(found["persistence"], start.expand(3, -1, -1))
    torch.testing.assert_close(found["ballistic"][2], start + 90 * states.velocities[0, :n])
    torch.testing.assert_close(found["centroid"][1], start.mean(0).expand(n, -1))
    for name in ("mean-structure", "relaxed-structure"):
        # A rigid copy of one structure, near the start.
        assert float((found[name][0] - start).abs().max()) < 0.5
        torch.testing.assert_close(found[name][0], found[name][2])


def test_the_mean_structure_is_the_mean_of_what_vibrates():
    from benchmarks.models.trivial import mean_structures

    trajectory = toys.toy_trajectory("furan", n_frames=2000)
    mean = mean_structures([trajectory])["furan"]

    def distances(x):
        return np.linalg.norm(x[:, None] - x[None], axis=-1)

    np.testing.assert_allclose(distances(mean), distances(trajectory.relaxed_positions), atol=0.02)


def test_blend_weights_are_least_squares_of_the_train_block(data):
    model = make_model("blend")
    model.fit(data.training, budget=Budget(epochs=1), seed=0, out=None)
    trajectory = data.training.trajectories[0]
    heavy = trajectory.atomic_numbers > 1
    lag = 6
    states = StartStates(
        positions=torch.from_numpy(trajectory.positions[:-lag]),
        velocities=torch.from_numpy(trajectory.velocities[:-lag]),
        atomic_numbers=torch.from_numpy(trajectory.atomic_numbers).expand(
            trajectory.n_frames - lag, -1
        ),
        score_mask=torch.from_numpy(heavy).expand(trajectory.n_frames - lag, -1),
        molecule=(trajectory.name,) * (trajectory.n_frames - lag),
        start_id=("",) * (trajectory.n_frames - lag),
    )
    truth = torch.from_numpy(trajectory.positions[lag:])

    def cost(weight):
        changed = deepcopy(model)
        changed.weights[trajectory.name] = np.full_like(model.lags_fs, weight)
        return float((ask(changed, states, (60.0,))[:, 0] - truth)[:, heavy].square().sum())

    best = float(np.interp(60.0, model.lags_fs, model.weights[trajectory.name]))
    assert cost(best) < min(cost(best - 0.05), cost(best + 0.05))


def test_settings_are_checked():
    with pytest.raises(UserError, match="unknown model 'atm'; choose one of atom"):
        model_class("atm")
    with pytest.raises(UserError, match=r"unknown setting training\.batchsize"):
        make_model("atom", training={"batchsize": 3})
    with pytest.raises(UserError, match=r"unknown setting model\.depth"):
        make_model("atom", model={"depth": 3})
    with pytest.raises(UserError, match="width must be a multiple"):
        make_model("atom", model={"width": 30})
    with pytest.raises(UserError, match="atom-start is time_attention"):
        make_model("atom-start", model={"time_attention": "joint"})
    with pytest.raises(UserError, match="unknown device"):
        make_model("atom", device="tpu")
    with pytest.raises(UserError, match=r"unknown setting model\.n_modes"):
        make_model("egnn", model={"n_modes": 2})
    with pytest.raises(UserError, match=r"unknown setting training\.batchsize"):
        make_model("egno", training={"batchsize": 3})
    with pytest.raises(UserError, match=r"setting model\.time_width"):
        make_model("egno", model={"time_width": 3})
    assert make_model("atom-start").settings()["model"]["time_attention"] == "start"


@pytest.mark.parametrize("wrong", [{}, {"epochs": 1, "cpu_minutes": 1.0}, {"epochs": 0}])
def test_a_budget_is_one_positive_number(wrong):
    with pytest.raises(UserError):
        Budget(**wrong)


def without_relaxed_structures():
    """The toys as a public set would give them."""
    return [replace(t, relaxed_positions=None) for t in toys.toy_trajectories()]


def test_relaxed_structures_that_are_not_known_are_named():
    data = toys.toy_data(trajectories=without_relaxed_structures())
    assert data.training.relaxed_positions == {}
    with pytest.raises(UserError, match="relaxed-structure needs structures relaxed with GFN2-xTB"):
        make_model("relaxed-structure").fit(
            data.training, budget=Budget(epochs=1), seed=0, out=None
        )


def test_a_blend_without_relaxed_structures_serves_for_training_molecules_only(data):
    bare = toys.toy_data(trajectories=without_relaxed_structures())
    model, whole = make_model("blend"), make_model("blend")
    for blend, source in ((model, bare), (whole, data)):
        blend.fit(source.training, budget=Budget(epochs=1), seed=0, out=None)
    windows = bare.parts["test_time"].windows
    np.testing.assert_array_equal(
        model.predict(windows.states, windows.lags_fs)[0],
        whole.predict(windows.states, windows.lags_fs)[0],
    )
    unseen = bare.parts["test_id"].windows
    with pytest.raises(UserError, match="no rest structure of"):
        model.predict(unseen.states, unseen.lags_fs)


def test_the_model_of_the_documentation_passes():
    page = Path(__file__).parents[3] / "docs" / "benchmark" / "new-model.md"
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        exec(compile(block, page.name, "exec"), names)
