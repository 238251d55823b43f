"""The yardstick of `atom-bench speed model` computes what the model computes."""

import pytest
import torch

from benchmarks.speed.plain_atom import PlainATOM
from tests.atom.cases import ROUNDING_A, VISIBLE_A, config, difference, lags, ragged, randomised

CASES = [
    {"time_attention": mode, "lifted_keys": keys}
    for mode in ("joint", "start")
    for keys in ("steps", "start")
] + [
    {"neighbours": "bonded", "output_heads": 3},
    {"attention": "standard", "value_residual": False, "rope": "none"},
    {"rope": "index", "lag_embedding": False, "normalise_lifted": False, "output": "absolute"},
]


def batch():
    """Samples of several sizes, one of them with a padded lag."""
    times = lags(30.0, 900.0, 200.0, n_samples=3)
    times[1, 2] = float("nan")
    return *ragged((5, 3, 4)), times


@pytest.mark.parametrize("overrides", CASES, ids=str)
def test_it_predicts_the_same(overrides):
    model = randomised(**overrides)
    plain = PlainATOM.of(model)
    predicted, expected = model(*batch()), plain(*batch())
    assert difference(predicted, expected) < ROUNDING_A
    # What is compared is no persistence.
    assert difference(predicted, batch()[0][:, None]) > VISIBLE_A


@pytest.mark.parametrize("mode", ["joint", "start"])
def test_its_gradients_are_the_same(mode):
    model = randomised(time_attention=mode, lifted_keys="start")
    names, parameters = zip(*model.named_parameters(), strict=True)
    expected = torch.autograd.grad(model(*batch()).square().sum(), parameters)
    plain = PlainATOM.of(model)
    found = torch.autograd.grad(plain(*batch()).square().sum(), [*plain.parameters()])
    for name, one, other in zip(names, expected, found, strict=True):
        assert difference(one, other) < 1e-4 * max(float(one.abs().max()), 1.0), name


@pytest.mark.parametrize("overrides", [{"symmetry": "strict"}, {"attention": "gat"}], ids=str)
def test_what_it_does_not_know_is_refused(overrides):
    with pytest.raises(ValueError, match="plain loop"):
        PlainATOM(config(**overrides))
