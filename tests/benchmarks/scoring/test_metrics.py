import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atom.alignment import kabsch_rotation, superpose
from benchmarks.scoring import metrics
from benchmarks.scoring.metrics import Metric
from tg80.windows.rotations import uniform_rotations


def tensors(seed, batch=3, steps=4, atoms=6):
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(batch, steps, atoms, 3, generator=generator, dtype=torch.float64)
    predicted = target + 0.1 * torch.randn(target.shape, generator=generator, dtype=torch.float64)
    mask = torch.ones(batch, atoms, dtype=torch.bool)
    mask[0, 4:] = False
    lags = torch.arange(1.0, steps + 1).expand(batch, steps).clone()
    lags[1, 2:] = torch.nan
    return predicted, target, mask, lags


def test_squared_errors_by_hand():
    target = torch.zeros(1, 2, 3, 3)
    predicted = target.clone()
    predicted[0, 0, 0] = torch.tensor([1.0, 2.0, 3.0])
    predicted[0, 1, 1, 0] = 6.0
    predicted[0, :, 2] = 100.0  # not scored
    mask = torch.tensor([[True, True, False]])
    errors = metrics.squared_errors(predicted, target, mask, torch.tensor([[1.0, 2.0]]))
    np.testing.assert_allclose(errors, [[14 / 6, 36 / 6]])
    np.testing.assert_allclose(metrics.s2t(errors), [(14 / 6 + 6) / 2])
    np.testing.assert_allclose(metrics.s2s(errors), [6.0])


def test_squared_errors_against_loops():
    predicted, target, mask, lags = tensors(0)
    errors = metrics.squared_errors(predicted, target, mask, lags)
    for b in range(3):
        for p in range(4):
            terms = [
                float(predicted[b, p, n, k] - target[b, p, n, k]) ** 2
                for n in range(6) if mask[b, n] for k in range(3)
            ]  # fmt: skip
            if torch.isnan(lags[b, p]):
                assert np.isnan(errors[b, p])
            else:
                assert errors[b, p] == pytest.approx(np.mean(terms))


def test_padding_is_left_out_of_s2t_and_s2s():
    errors = np.array([[1.0, 3.0, np.nan], [1.0, 2.0, 6.0]])
    np.testing.assert_allclose(metrics.s2t(errors), [2.0, 3.0])
    np.testing.assert_allclose(metrics.s2s(errors), [3.0, 6.0])


def test_molecules_count_once_and_the_pooled_figure_does_not():
    errors = np.array([[1.0], [1.0], [1.0], [5.0]])
    table = metrics.per_molecule(errors, ["a", "a", "a", "b"])
    assert table["a"] == 1 and table["b"] == 5
    assert metrics.mean_over_molecules(table) == 3
    assert metrics.pooled(errors) == 2
    assert metrics.median_over_molecules(table) == 3


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_aligned_errors_ignore_rigid_motion_and_are_never_larger(seed):
    predicted, target, mask, lags = tensors(seed)
    rng = np.random.default_rng(seed)
    turns = torch.from_numpy(uniform_rotations(rng, 12)).reshape(3, 4, 3, 3)
    shift = torch.from_numpy(rng.normal(size=(3, 4, 1, 3)))
    moved = predicted @ turns.transpose(-1, -2) + shift
    plain = metrics.aligned_squared_errors(predicted, target, mask, lags)
    np.testing.assert_allclose(
        metrics.aligned_squared_errors(moved, target, mask, lags), plain, atol=1e-10
    )
    raw = metrics.squared_errors(predicted, target, mask, lags)
    valid = ~np.isnan(raw)
    assert np.all(plain[valid] <= raw[valid] + 1e-12)
    assert np.array_equal(np.isnan(plain), np.isnan(raw))


def test_a_perfect_prediction_scores_zero():
    _, target, mask, lags = tensors(1)
    for measure in (metrics.squared_errors, metrics.aligned_squared_errors):
        assert np.nanmax(measure(target, target, mask, lags)) < 1e-28


def test_a_mirror_image_is_not_a_rotation():
    generator = torch.Generator().manual_seed(2)
    target = torch.randn(1, 1, 5, 3, generator=generator, dtype=torch.float64)
    mirrored = target * torch.tensor([1.0, 1.0, -1.0])
    mask, lags = torch.ones(1, 5, dtype=torch.bool), torch.ones(1, 1)
    assert metrics.aligned_squared_errors(mirrored, target, mask, lags)[0, 0] > 0.05
    centred = target - target.mean(-2, keepdim=True)
    rotation = kabsch_rotation(centred * torch.tensor([1.0, 1.0, -1.0]), centred)
    assert torch.linalg.det(rotation).item() == pytest.approx(1.0)


def test_molecules_with_fewer_than_three_scored_atoms_have_no_aligned_error():
    predicted, target, mask, lags = tensors(3)
    mask[2, 2:] = False
    errors = metrics.aligned_squared_errors(predicted, target, mask, lags)
    assert np.isnan(errors[2]).all() and not np.isnan(errors[0]).any()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_kabsch_is_the_best_rotation_of_many(seed):
    rng = np.random.default_rng(seed)
    mobile, target = torch.from_numpy(rng.normal(size=(2, 5, 3)))
    weights = torch.from_numpy(rng.uniform(0.1, 2.0, size=5))

    def cost(moved):
        return float((weights * (moved - target).square().sum(-1)).sum())

    best = superpose(mobile, target, weights)
    centre_m = (weights[:, None] * mobile).sum(0) / weights.sum()
    centre_t = (weights[:, None] * target).sum(0) / weights.sum()
    for turn in torch.from_numpy(uniform_rotations(rng, 200)):
        assert cost(best) <= cost((mobile - centre_m) @ turn.T + centre_t) + 1e-9


def test_skill_is_against_the_best_reference_of_each_molecule_and_lag():
    references = {
        "one": {"a": np.array([1.0, 4.0]), "b": np.array([2.0, 0.0])},
        "two": {"a": np.array([2.0, 2.0]), "b": np.array([1.0, 0.0])},
    }
    best = metrics.best_reference(references)
    np.testing.assert_array_equal(best["a"], [1.0, 2.0])
    found = metrics.skill({"a": np.array([0.5, 4.0]), "b": np.array([0.0, 1.0])}, best)
    np.testing.assert_allclose(found["a"], [0.5, -1.0])
    np.testing.assert_allclose(found["b"], [1.0, np.nan])
    np.testing.assert_allclose(metrics.median_over_molecules(found), [0.75, -1.0])


def test_every_metric_says_what_it_is():
    assert all(metric.description for metric in Metric)
    assert Metric.S2S.unit == "A^2" and Metric.SKILL.unit == "1"
