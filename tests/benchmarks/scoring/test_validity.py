"""Bond lengths and angles of predictions, against what the data have."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks.models.trivial import Centroid, Persistence
from benchmarks.runs.evaluation import MEAN, fit_references, rows_of, score_part
from benchmarks.scoring.metrics import Metric
from benchmarks.scoring.validity import (
    COVERED,
    Geometries,
    angles_of,
    geometry_of,
    measure,
    near_pairs,
    validity_of,
)
from benchmarks.tasks.data import load_benchmark
from benchmarks.tasks.tasks import get_task
from tests.support import toys
from tg80.windows.rotations import uniform_rotations

WATER = np.array([[0.0, 0, 0], [0.96, 0, 0], [0, 0.96, 0]])


def test_lengths_and_angles_of_a_known_structure():
    angles = angles_of([(0, 1), (0, 2)])
    assert angles == [(1, 0, 2)]
    values = measure(WATER[None], np.array([(0, 1), (0, 2)]), np.array(angles))
    np.testing.assert_allclose(values, [[0.96, 0.96, 90.0]])
    # Six angles at a carbon with four bonds.
    assert len(angles_of([(0, i) for i in range(1, 5)])) == 6


def wobbling(seed, n_frames=4000, n_atoms=6, width=0.05):
    """A chain whose atoms all wobble independently."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(size=(n_atoms, 3))
    steps[:, 0] += 1.5
    chain = np.cumsum(steps, axis=0)
    x = chain + width * rng.normal(size=(n_frames, n_atoms, 3))
    one = toys.toy_trajectory("urea")
    return replace(
        one, positions=x.astype("f4"), velocities=x.astype("f4"), atomic_numbers=np.full(n_atoms, 6)
    ), [(i, i + 1) for i in range(n_atoms - 1)]


@given(seed=st.integers(0, 10_000), n_atoms=st.integers(2, 9))
@settings(max_examples=15, deadline=None)
def test_the_data_are_valid_as_often_as_the_definition_says(seed, n_atoms):
    trajectory, bonds = wobbling(seed, n_atoms=n_atoms)
    geometry = geometry_of([trajectory], bonds, range(n_atoms))
    own = geometry.is_valid(trajectory.positions).mean()
    assert COVERED <= own <= COVERED + 0.0015
    other, _ = wobbling(seed, n_frames=8000, n_atoms=n_atoms)
    assert geometry.is_valid(other.positions[4000:]).mean() > 0.99
    assert geometry.bond_distance(trajectory.positions, trajectory.positions) == 0
    # Neither turning nor shifting changes what is internal.
    turn = uniform_rotations(np.random.default_rng(seed), 1)[0]
    turned = trajectory.positions.astype(float) @ turn.T + 5
    assert geometry.is_valid(turned).mean() == pytest.approx(own, abs=0.001)
    assert geometry.bond_distance(turned, trajectory.positions) < 1e-5


@given(seed=st.integers(0, 10_000), stretch=st.floats(1.01, 3.0))
@example(seed=71, stretch=1.375)
@settings(max_examples=10, deadline=None)
def test_one_stretched_bond_or_closed_angle_is_enough(seed, stretch):
    trajectory, bonds = wobbling(seed)
    geometry = geometry_of([trajectory], bonds, range(6))
    x = trajectory.positions[:50].astype(float)
    lengths = np.linalg.norm(x[:, 5] - x[:, 4], axis=-1)
    factor = stretch * geometry.high[bonds.index((4, 5))] / lengths.min()
    long = x.copy()
    long[:, 5] = x[:, 4] + factor * (x[:, 5] - x[:, 4])
    assert not geometry.is_valid(long).any()
    # Its own length alone has changed: by so much, and a fifth of that in the mean over five bonds.
    added = lengths.mean() * (factor - 1) / 5
    assert geometry.bond_distance(long, x) == pytest.approx(added, rel=1e-6)


def test_what_is_no_number_is_not_valid():
    trajectory, bonds = wobbling(0)
    geometry = geometry_of([trajectory], bonds, range(6))
    x = trajectory.positions[:4].astype(float)
    x[0], x[1, 3], x[2, 0, 0] = 0.0, np.nan, np.inf
    assert geometry.is_valid(x).tolist() == [False, False, False, True]
    assert np.isfinite(geometry.bond_distance(x, trajectory.positions[:4]))
    assert np.isnan(geometry.bond_distance(np.full_like(x, np.nan), trajectory.positions[:4]))


def test_a_molecule_without_bonds_among_the_atoms_has_no_validity():
    trajectory, _ = wobbling(0)
    assert geometry_of([trajectory], [(0, 5)], range(3)) is None
    shape = (2, 3, 6, 3)
    found = validity_of(
        np.zeros(shape), np.zeros(shape), np.ones((2, 3)), np.zeros(2, bool), ("urea", "urea"),
        np.ones((2, 6), bool), Geometries([trajectory], {"urea": []}), starts=np.zeros((2, 6, 3)),
    )  # fmt: skip
    assert np.isnan(found.valid).all() and not found.bond_distance


def test_failed_and_padded_windows_count_as_invalid_and_not_at_all():
    trajectory, bonds = wobbling(0)
    x = trajectory.positions[:6].reshape(2, 3, 6, 3)
    lags = np.array([[1.0, 2.0, np.nan]] * 2)
    found = validity_of(
        x, x, lags, np.array([False, True]), ("urea", "urea"), np.ones((2, 6), bool),
        Geometries([trajectory], {"urea": bonds}), starts=x[:, 0],
    )  # fmt: skip
    np.testing.assert_array_equal(found.valid, [[1, 1, np.nan], [0, 0, np.nan]])


def test_bonds_of_a_failed_window_are_those_of_its_start():
    """Who marks what is bad as failed gains nothing: it counts as persistence."""
    trajectory, bonds = wobbling(0)
    targets = trajectory.positions[: 2 * 3 * 20].reshape(40, 3, 6, 3).astype(float)
    starts = 1.1 * trajectory.positions[-40:].astype(float)
    predicted = np.where(np.arange(40)[:, None, None, None] < 20, targets, np.nan)
    known = "urea", np.ones((40, 6), bool), Geometries([trajectory], {"urea": bonds})

    def distance(positions, failed):
        found = validity_of(
            positions, targets, np.ones((40, 3)), failed, (known[0],) * 40, *known[1:], starts
        )
        return float(found.bond_distance["urea"])

    still = np.where(np.isnan(predicted), starts[:, None], predicted)
    failed, none = np.arange(40) >= 20, np.zeros(40, dtype=bool)
    assert distance(predicted, failed) == pytest.approx(distance(still, none))
    assert distance(predicted, failed) > 0.02 > distance(targets, none) == 0


def test_near_atoms_are_the_bonds_of_the_mini_set(mini):
    assert set(mini.bonds) == {t.name for t in mini.whole} and len(mini.bonds) == 30
    for trajectory in mini.whole:
        near = near_pairs(trajectory.relaxed_positions, trajectory.atomic_numbers)
        assert sorted(near) == sorted(mini.bonds[trajectory.name])


class Truth(Persistence):
    def __init__(self, windows):
        self.of = {tuple(w.lags_fs[0].tolist()): w for w in windows}

    def predict(self, states, lags_fs):
        windows = self.of[tuple(lags_fs[0].tolist())]
        places = {name: row for row, name in enumerate(windows.states.start_id)}
        return windows.targets[[places[i] for i in states.start_id]], states.positions[
            :, 0, 0
        ] > 1e9


@pytest.fixture(scope="module")
def scored(mini):
    references = fit_references(mini)

    def rows(model, part):
        found = score_part(model, mini.parts[part], references)
        return {
            (v.molecule, v.metric, v.lag_fs): v.value
            for v in rows_of(found)
            if "valid" in v.metric or "bond" in v.metric
        }

    return rows


@pytest.mark.parametrize("part", ["test_time", "test_ood"])
def test_validity_of_known_predictors_on_the_mini_set(mini, scored, part):
    windows = mini.parts[part]
    truth = scored(Truth([windows.windows, windows.curve]), part)
    still, centroid = scored(Persistence(), part), scored(Centroid(), part)
    for share in (Metric.VALID, Metric.VALID_ALL_ATOMS):
        assert truth[MEAN, share, None] > 0.985 and still[MEAN, share, None] > 0.97
        assert centroid[MEAN, share, None] == 0
    for distance in (Metric.BOND_DISTANCE, Metric.BOND_DISTANCE_ALL_ATOMS):
        assert truth[MEAN, distance, None] == 0
        assert 0 < still[MEAN, distance, None] < 0.05 < 1 < centroid[MEAN, distance, None]
    lags = {lag for name, metric, lag in truth if metric == Metric.VALID and lag}
    assert lags == {120.0 * i for i in range(1, 9)}
    # At single lags there are means over molecules only: records stay small.
    assert {name for name, _, lag in truth if lag} == {MEAN}


def test_where_all_given_atoms_are_scored_they_stand_once():
    data = load_benchmark(get_task("mini-xtb-singletask/furan", "heavy-input"))
    references = fit_references(data)
    found = score_part(Persistence(), data.parts["test_time"], references)
    assert found.validity_all_atoms is None
    values = {v.metric: v.value for v in rows_of(found) if v.molecule == "furan" and not v.lag_fs}
    assert values[Metric.VALID] > 0.9 and Metric.VALID_ALL_ATOMS not in values
