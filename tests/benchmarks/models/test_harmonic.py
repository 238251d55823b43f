"""Normal modes against a solution known otherwise, and on the set that ships along."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from benchmarks.interface import CannotPredict
from benchmarks.models import Budget, make_model
from benchmarks.models.harmonic import Swings
from benchmarks.models.normal_modes import modes_of, propagate
from benchmarks.scoring.errors import predict_errors
from tests.support import toys
from tg80.constants import ACCELERATION, masses_of
from tg80.windows.rotations import uniform_rotations
from tg80.windows.trajectories import FrameLabels, Trajectory, condensed_hessian

STIFF = ("ethylene", "acetonitrile", "furan", "imidazole", "thiophene", "chlorobenzene")


def fit(data, name="harmonic"):
    model = make_model(name)
    model.fit(data.training, budget=Budget(epochs=1), seed=0, out=None)
    return model


def springs(n_atoms=5, seed=0):
    """Rest structure, masses and Hessian of atoms on springs."""
    rng = np.random.default_rng(seed)
    rest = rng.normal(size=(n_atoms, 3)) * 1.5
    masses = rng.uniform(1, 16, size=n_atoms)
    return rest - masses @ rest / masses.sum(), masses, toys.spring_hessian(rest)


def vibration(rest, masses, hessian, seed=1):
    """A displacement and a velocity without shift and rotation, (N, 3)."""
    modes = modes_of(rest, hessian, masses)
    rng = np.random.default_rng(seed)
    root = np.repeat(np.sqrt(masses), 3)
    inner = modes.vectors.numpy()
    draws = [
        (inner @ (inner.T @ rng.normal(size=3 * len(rest))) / root).reshape(-1, 3) for _ in "xv"
    ]
    return 0.005 * draws[0], 0.001 * draws[1]


def test_a_harmonic_system_is_predicted_to_rounding():
    """Against a solution of M x'' = -K (x - rest) by an integrator; the centre flies."""
    rest, masses, hessian = springs()
    displacement, velocity = vibration(rest, masses, hessian)
    flight = np.array([1e-3, -2e-3, 5e-4])
    stiffness = ACCELERATION * hessian / np.repeat(masses, 3)[:, None]

    def motion(_, y):
        x, v = np.split(y, 2)
        return np.concatenate([v, -stiffness @ x])

    lags = [0.0, 3.0, 47.0, 300.0]
    start = np.concatenate([displacement.ravel(), velocity.ravel()])
    found = solve_ivp(motion, (0, 300), start, t_eval=lags, rtol=1e-12, atol=1e-14, method="DOP853")
    moved = found.y[: 3 * len(rest)].T.reshape(len(lags), -1, 3)
    expected = rest + moved + np.array(lags)[:, None, None] * flight
    predicted = propagate(
        modes_of(rest, hessian, masses),
        torch.from_numpy(rest + displacement)[None],
        torch.from_numpy(velocity + flight)[None],
        torch.tensor([lags], dtype=torch.float64),
    )[0]
    np.testing.assert_allclose(predicted, expected, atol=1e-9)
    assert np.abs(moved[1:] - moved[0]).max() > 5e-3


def test_it_turns_and_shifts_with_the_start():
    rest, masses, hessian = springs()
    displacement, velocity = vibration(rest, masses, hessian)
    modes, lags = modes_of(rest, hessian, masses), torch.tensor([[20.0, 100.0]]).double()
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).double()).Q
    turn = turn * turn.det().sign()
    x, v = (torch.from_numpy(a)[None] for a in (rest + displacement, velocity))
    plain = propagate(modes, x, v, lags)
    torch.testing.assert_close(
        propagate(modes, x @ turn.T + 7, v @ turn.T, lags), plain @ turn.T + 7, atol=1e-10, rtol=0
    )


def test_soft_modes_and_those_far_from_the_well_stay_where_they_started():
    rest, masses, hessian = springs()
    displacement, velocity = vibration(rest, masses, hessian)
    lags = torch.tensor([[50.0, 500.0]])
    x, v = (torch.from_numpy(a)[None] for a in (rest + displacement, velocity))
    for flat in (1e-9 * hessian, -hessian):
        still = propagate(modes_of(rest, flat, masses), x, v, lags)
        torch.testing.assert_close(still, x[:, None].expand(-1, 2, -1, -1), atol=1e-10, rtol=0)
    far = torch.from_numpy(rest + 500 * displacement)[None]
    predicted = propagate(modes_of(rest, hessian, masses), far, v, lags)
    # Without the bound on the energy of a mode it would swing as far to the other side.
    assert float((predicted - far[:, None]).norm()) < 0.5 * float((far - torch.tensor(rest)).norm())


@pytest.mark.parametrize("n_atoms", [1, 2, 3])
def test_small_and_linear_molecules_have_their_number_of_modes(n_atoms):
    rest = np.arange(n_atoms)[:, None] * np.array([[1.2, 0.0, 0.0]])
    hessian = toys.spring_hessian(rest) if n_atoms > 1 else np.zeros((3, 3))
    modes = modes_of(rest, hessian, np.ones(n_atoms))
    assert modes.vectors.shape == (3 * n_atoms, max(0, 3 * n_atoms - 5))


def test_a_hessian_of_the_data_s_own_level_makes_an_oracle(data, tmp_path):
    model = fit(data)
    assert model.oracle
    other = replace(data.training, task=data.task.model_copy(update={"level": "pbe-def2svp"}))
    model.fit(other)
    assert not model.oracle
    model.save(tmp_path)
    assert not type(model).load(tmp_path).oracle


def test_data_without_hessians_is_refused(data):
    with pytest.raises(CannotPredict, match="harmonic needs Hessians of GFN2-xTB"):
        make_model("harmonic").fit(replace(data.training, hessians={}))


def test_hydrogens_that_follow_leave_shifts_and_rotations_free():
    rest, masses, hessian = springs(6)
    kept = np.array([True, True, True, True, False, False])
    condensed = condensed_hessian(hessian, kept)
    # As stiff as the whole with the others at rest where they feel no force.
    moved = np.zeros((6, 3))
    moved[:4] = np.random.default_rng(0).normal(size=(4, 3))
    others = np.repeat(~kept, 3)
    inner, coupling = hessian[np.ix_(others, others)], hessian[np.ix_(others, ~others)]
    moved[4:] = -np.linalg.solve(inner, coupling @ moved[:4].ravel()).reshape(2, 3)
    whole = moved.ravel() @ hessian @ moved.ravel()
    assert moved[:4].ravel() @ condensed @ moved[:4].ravel() == pytest.approx(whole)
    modes = modes_of(rest[:4] - masses[:4] @ rest[:4] / masses[:4].sum(), condensed, masses[:4])
    assert modes.vectors.shape[1] == 6 and float(modes.rates.min()) > 0


def test_stiff_molecules_are_predicted_far_better_than_by_flying_on(mini):
    """10 fs ahead, where nothing but the forces at the start matters yet."""
    model, ballistic = fit(mini), make_model("ballistic")
    windows = mini.parts["test_time"].curve
    rows = [i for i, name in enumerate(windows.states.molecule) if name in STIFF]
    assert len(rows) >= len(STIFF)
    assert windows.lags_fs[0, 0] == 10
    ours, theirs = (predict_errors(m, windows).raw[rows, 0] for m in (model, ballistic))
    assert np.median(ours / theirs) < 0.05


def test_the_hessian_of_harmonic_forces_is_found_whatever_the_frame():
    """Frames are shifted and turned at random; two molecules' worth of blocks are one fit."""
    rest, masses, hessian = springs()
    numbers = np.array([6, 8, 7, 1, 16])
    masses = masses_of(numbers)
    rest -= masses @ rest / masses.sum()
    rng = np.random.default_rng(3)
    inner = modes_of(rest, hessian, masses).vectors.numpy()
    draws = 0.01 * rng.normal(size=(400, inner.shape[1]))
    moved = (draws @ inner.T / np.sqrt(np.repeat(masses, 3))).reshape(-1, 5, 3)
    turns = uniform_rotations(rng, len(moved))
    forces = -(moved.reshape(len(moved), -1) @ hessian).reshape(moved.shape) @ turns
    x = ((rest + moved) @ turns + rng.normal(size=(len(moved), 1, 3))).astype("f4")
    blocks = [
        Trajectory(
            "a", 0, x[rows], x[rows], numbers, None, 1.0,
            labels=FrameLabels(lambda i, j, f=forces[rows]: (np.zeros(j - i), f[i:j]), 0, 200),
        )
        for rows in (slice(200), slice(200, 400))
    ]  # fmt: skip
    swings = Swings.of(blocks)
    found = modes_of(swings.structure, swings.hessian(), masses).rates
    torch.testing.assert_close(found, modes_of(rest, hessian, masses).rates, rtol=1e-3, atol=0)
    # The prior is turned into this frame, and stands where the frames say nothing.
    prior = swings.weighted(rest, hessian)
    for share in (0.0, 1e9):
        kept = modes_of(swings.structure, swings.hessian(prior, share), masses).rates
        torch.testing.assert_close(kept, modes_of(rest, hessian, masses).rates, rtol=1e-3, atol=0)


def test_the_hessian_of_another_level_is_scaled_and_corrected(mini):
    """Told Hessians of half the size, it finds the factor, also for unseen molecules."""
    whole, half = fit(mini, "delta-harmonic"), make_model("delta-harmonic")
    weak = {name: hessian / 2 for name, hessian in mini.training.hessians.items()}
    half.fit(replace(mini.training, hessians=weak))
    assert whole.oracle and half.oracle
    seen, unseen = "furan", mini.parts["test_id"].windows.states.molecule[0]
    np.testing.assert_allclose(half.hessians[unseen], whole.hessians[unseen], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(half.hessians[seen], whole.hessians[seen], rtol=1e-6, atol=1e-6)
    factor = whole.hessians[unseen][0, 0] / mini.training.hessians[unseen][0, 0]
    assert 0.8 < factor < 1.1
    windows = mini.parts["test_time"].curve
    ours, fitted = (predict_errors(m, windows).raw for m in (whole, fit(mini, "fitted-harmonic")))
    assert np.median(ours) < 1.2 * np.median(fitted)


def test_a_fitted_hessian_predicts_as_well_as_the_one_of_the_minimum(mini, tmp_path):
    model, minimum = fit(mini, "fitted-harmonic"), fit(mini)
    assert not model.oracle
    part = mini.parts["test_time"]
    for windows in (part.curve, part.windows):
        ours, theirs = (np.median(predict_errors(m, windows).raw, axis=0) for m in (model, minimum))
        assert (ours < 1.5 * theirs).all()
    states = part.windows.states.select([0, 1])
    model.save(tmp_path)
    again = type(model).load(tmp_path).predict(states, part.windows.lags_fs[:2])[0]
    torch.testing.assert_close(again, model.predict(states, part.windows.lags_fs[:2])[0])


def test_forces_of_all_atoms_are_needed_to_fit(data):
    blocks = tuple(t.heavy_atoms() for t in data.training.trajectories)
    with pytest.raises(CannotPredict, match="energies and forces of all atoms"):
        make_model("fitted-harmonic").fit(replace(data.training, trajectories=blocks))
