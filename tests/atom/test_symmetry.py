"""The symmetry laboratory: it sees what is there, and nothing where there is nothing."""

import pytest
import torch

from atom import (
    ATOM,
    layer_equivariance,
    permutation_error,
    quasi_equivariance,
    random_orders,
    translation_error,
)
from tests.atom.cases import MODES, ROUNDING_A, VISIBLE_A, config, lags, ragged, randomised

BATCH, LAGS = ragged((6, 3, 5)), lags(100.0, 900.0, n_samples=3)
ROUNDING = 2e-6  # of features, relative
both_kinds = pytest.mark.parametrize("improper", [False, True], ids=["proper", "improper"])


def layers(model, improper=False):
    return layer_equivariance(model, *BATCH, LAGS, n_rotations=4, improper=improper)


@both_kinds
@pytest.mark.parametrize("mode", MODES)
def test_the_lifting_is_equivariant_and_the_blocks_are_not(mode, improper):
    found = layers(randomised(time_attention=mode), improper)
    assert list(found) == ["X", "V", "Z", "block 1", "block 2", "block 3"]
    for name, error in found.items():
        assert error.scale > 0.1
        if name in "XVZ":
            assert error.relative < ROUNDING and error.paper < ROUNDING * error.scale
        else:
            assert error.relative > 0.05 and error.paper > 0.01


def with_idle_blocks() -> ATOM:
    """A model whose blocks leave Z as the lifting made it, in the order of the heads."""
    torch.manual_seed(0)
    model = ATOM(config(lag_embedding=False))
    with torch.no_grad():
        for name, parameter in model.decoder.blocks.named_parameters():
            if "gamma" in name or "feedforward.outer" in name:
                parameter.zero_()
    return model


@both_kinds
def test_blocks_that_are_equivariant_are_seen_to_be(improper):
    found = layers(with_idle_blocks(), improper)
    assert all(error.relative < ROUNDING for error in found.values())


def test_the_layer_that_breaks_the_symmetry_is_named():
    model = with_idle_blocks()
    with torch.no_grad():
        model.decoder.blocks[1].get_parameter("feedforward.outer.bias").add_(0.1)
    found = layers(model)
    assert found["block 1"].relative < ROUNDING < 1e-3 < found["block 2"].relative


def test_measuring_leaves_no_hook_behind():
    model = randomised()
    layers(model)
    assert not any(module._forward_hooks for module in model.modules())


def test_reflections_are_told_from_rotations():
    def spiral(positions, velocities, atomic_numbers, lags_fs):
        """Pushed along x cross v: true under rotations, wrong under reflections."""
        push = 10 * torch.linalg.cross(positions, velocities)
        return positions[:, None] + push[:, None].expand(-1, lags_fs.shape[1], -1, -1)

    assert quasi_equivariance(spiral, *BATCH, LAGS, n_rotations=4).point < ROUNDING_A
    assert quasi_equivariance(spiral, *BATCH, LAGS, n_rotations=4, improper=True).point > VISIBLE_A


def test_padding_does_not_count():
    def wild_at_padding(positions, velocities, atomic_numbers, lags_fs):
        junk = torch.randn(len(positions), lags_fs.shape[1], positions.shape[1], 3)
        real = (atomic_numbers > 0)[:, None, :, None]
        return torch.where(real, positions[:, None], junk)

    assert quasi_equivariance(wild_at_padding, *BATCH, LAGS, n_rotations=4).point < ROUNDING_A
    assert translation_error(wild_at_padding, *BATCH, LAGS) == 0
    orders = random_orders(BATCH.atomic_numbers)
    assert permutation_error(wild_at_padding, *BATCH, LAGS, orders) == 0


@pytest.mark.parametrize("mode", MODES)
def test_shifts_and_orders_of_atoms_are_exact(mode):
    model = randomised(time_attention=mode)
    assert translation_error(model, *BATCH, LAGS) < 1e-5
    generator = torch.Generator().manual_seed(3)
    orders = random_orders(BATCH.atomic_numbers, generator)
    assert permutation_error(model, *BATCH, LAGS, orders) < 1e-5


def test_faults_in_shifts_and_orders_are_seen():
    def about_the_origin(positions, velocities, atomic_numbers, lags_fs):
        return 1.01 * positions[:, None].expand(-1, lags_fs.shape[1], -1, -1)

    def by_place(positions, velocities, atomic_numbers, lags_fs):
        place = torch.arange(positions.shape[1])[:, None]
        return (positions + place)[:, None].expand(-1, lags_fs.shape[1], -1, -1)

    assert translation_error(about_the_origin, *BATCH, LAGS) == pytest.approx(0.41, rel=1e-3)
    orders = torch.tensor([[1, 0, 2, 3, 4, 5]] * 3)
    assert permutation_error(by_place, *BATCH, LAGS, orders) == pytest.approx(1.0)


def test_random_orders_keep_padding_at_the_end():
    orders = random_orders(BATCH.atomic_numbers, torch.Generator().manual_seed(0))
    for row, size in zip(orders.tolist(), (6, 3, 5), strict=True):
        assert sorted(row[:size]) == list(range(size))
        assert row[size:] == list(range(size, 6))
    assert len({tuple(row) for row in orders.tolist()}) > 1
