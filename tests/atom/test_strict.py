"""The strictly equivariant model is equivariant to the last digit; the default is not."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atom import ATOM, PRESETS, ATOMConfig
from tests.atom.cases import (
    EXACT,
    MODES,
    STRICT,
    VISIBLE_A,
    config,
    difference,
    lags,
    orthogonal,
    ragged,
    randomised,
    start,
)

REPRESENTATIVES = [*STRICT, {"symmetry": "strict", "neighbours": "bonded", "output": "absolute"}]


def exact(variant) -> ATOM:
    """A copy in float64."""
    model = ATOM(config(**variant)).double().eval()
    model.load_state_dict(randomised(**variant).state_dict())
    return model


@pytest.fixture(
    scope="module", params=REPRESENTATIVES, ids=lambda v: "-".join(map(str, v.values()))
)
def strict(request):
    return exact(request.param)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**16), reflect=st.booleans())
def test_rotations_and_reflections_are_exact(strict, seed, reflect):
    batch, matrix = ragged((6, 4), seed), orthogonal(seed, reflect=reflect)
    positions, velocities = batch.positions.double(), batch.velocities.double()
    times = lags(40.0, 900.0, 5000.0).double()
    still = strict(positions, velocities, batch.atomic_numbers, times)
    turned = strict(positions @ matrix.T, velocities @ matrix.T, batch.atomic_numbers, times)
    assert difference(turned, still @ matrix.T) < EXACT
    # It does something, and not along the positions alone.
    assert difference(still, positions[:, None]) > VISIBLE_A


def test_translations_are_exact(strict):
    batch, times = start(2, 5), lags(100.0, 2000.0).double()
    positions, velocities = batch.positions.double(), batch.velocities.double()
    shift = torch.tensor([30.0, -7.0, 12.5], dtype=torch.float64)
    still = strict(positions, velocities, batch.atomic_numbers, times)
    moved = strict(positions + shift, velocities, batch.atomic_numbers, times) - shift
    assert difference(moved, still) < EXACT


@pytest.mark.parametrize("mode", MODES)
def test_the_default_model_is_far_from_it(mode):
    model, matrix = exact({"time_attention": mode}), orthogonal(1, reflect=False)
    batch, times = start(), lags(100.0, 2000.0).double()
    positions, velocities = batch.positions.double(), batch.velocities.double()
    still = model(positions, velocities, batch.atomic_numbers, times)
    turned = model(positions @ matrix.T, velocities @ matrix.T, batch.atomic_numbers, times)
    assert difference(turned, still @ matrix.T) > VISIBLE_A


def test_turned_scalars_are_what_shows_the_lag():
    model = randomised(symmetry="strict", lag_embedding=False, lag_gate_fs=None)
    predicted = model(*start(), lags(10.0, 3000.0))
    assert difference(predicted[:, 0], predicted[:, 1]) > VISIBLE_A


@pytest.mark.parametrize("preset", PRESETS)
def test_it_has_about_the_default_models_parameters(preset):
    counts = [
        ATOM(ATOMConfig.preset(preset, symmetry=symmetry)).n_parameters
        for symmetry in ("quasi", "strict")
    ]
    assert counts[1] == pytest.approx(counts[0], rel=0.06)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"lifting": "linear"}, "lifting"),
        ({"attention": "gat"}, "gat"),
    ],
)
def test_what_would_break_it_is_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        config(symmetry="strict", **overrides)
