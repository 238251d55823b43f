"""Messages between pairs: exactly equivariant, local, smooth at the cutoff."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atom.layers.pairs import PairGeometry, PairLifting
from tests.atom.cases import EXACT, config, difference, lags, orthogonal, randomised, start

N_INPUTS = 7


def lifting(seed=0, **overrides):
    torch.manual_seed(seed)
    return PairLifting(config(**{"pair_layers": 2} | overrides), N_INPUTS).double()


def inputs(seed=0, n_samples=2, n_atoms=5):
    batch = start(n_samples, n_atoms, seed)
    generator = torch.Generator().manual_seed(seed)
    scalars = torch.randn(n_samples, n_atoms, N_INPUTS, generator=generator).double()
    return batch.positions.double(), 200 * batch.velocities.double(), scalars


def everybody(positions):
    return torch.ones(positions.shape[:2], dtype=torch.bool)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**16), reflect=st.booleans())
def test_scalars_stay_and_vectors_turn_under_motions_and_reflections(seed, reflect):
    layers, m = lifting(seed), config().multiplicity
    positions, velocities, scalars = inputs(seed)
    rotation = orthogonal(seed, reflect=reflect)
    shift = torch.tensor([3.0, -1.0, 20.0], dtype=torch.float64)
    real = everybody(positions)
    before = layers(positions, velocities, scalars, real)
    after = layers(positions @ rotation.T + shift, velocities @ rotation.T, scalars, real)
    assert difference(before[..., :m], after[..., :m]) < EXACT
    vectors = before[..., m:].unflatten(-1, (m, 3)) @ rotation.T
    assert difference(vectors, after[..., m:].unflatten(-1, (m, 3))) < EXACT
    assert float(vectors.detach().abs().max()) > 0.1


def test_padding_and_the_order_of_atoms_change_nothing():
    layers = lifting()
    positions, velocities, scalars = inputs()
    real = everybody(positions)
    before = layers(positions, velocities, scalars, real)
    order = torch.tensor([3, 0, 4, 2, 1])
    permuted = layers(positions[:, order], velocities[:, order], scalars[:, order], real)
    assert difference(before[:, order], permuted) < EXACT
    # Whatever stands at padding, on top of a real atom too.
    padded = [torch.cat([t, t[:, :2] + 0.1], dim=1) for t in (positions, velocities, scalars)]
    shown = torch.cat([real, torch.zeros(2, 2, dtype=torch.bool)], dim=1)
    assert difference(before, layers(*padded, shown)[:, :5]) < EXACT


def test_a_message_ends_smoothly_at_the_cutoff_and_layers_carry_it_on():
    positions = torch.zeros(1, 3, 3, dtype=torch.float64)
    positions[0, :, 0] = torch.tensor([0.0, 2.5, 5.0])
    _, velocities, scalars = inputs(n_samples=1, n_atoms=3)
    real = everybody(positions)

    def first_atom(layers, end):
        moved = positions.clone()
        moved[0, 2, 0] = end
        return layers(moved, velocities, scalars, real)[0, 0]

    near, far = (lifting(pair_cutoff_angstrom=4.0, pair_layers=n) for n in (1, 2))
    # 0 and 2 are 5 A apart: one round does not reach, two do, through 1.
    assert difference(first_atom(near, 5.0), first_atom(near, 5.3)) == 0
    assert difference(first_atom(far, 5.0), first_atom(far, 5.3)) > 1e-3
    inside, outside = first_atom(near, 4.0 - 1e-4), first_atom(near, 4.0 + 1e-4)
    assert difference(inside, outside) < 1e-6
    assert difference(first_atom(near, 3.0), outside) > 1e-3


def test_a_bond_s_vibration_is_seen():
    positions = torch.tensor([[[0.0, 0, 0], [1.40, 0, 0]]])
    velocities = torch.zeros_like(positions)
    real = everybody(positions)
    short, long = (
        PairGeometry(positions * scale, velocities, real, 6.0).radial for scale in (1.0, 1.45 / 1.4)
    )
    assert difference(short[0, 0, 1], long[0, 0, 1]) > 0.1


def test_no_pair_no_message():
    layers = lifting()
    positions, velocities, scalars = inputs(n_samples=1, n_atoms=1)
    before = layers(positions, velocities, scalars, everybody(positions))
    after = layers(positions + 5.0, velocities, scalars, everybody(positions))
    assert torch.equal(before, after) and bool(before.isfinite().all())


def test_pairs_change_the_forward_and_go_with_the_equivariant_lifting_only():
    batch = start()
    with torch.no_grad():
        first, second = (
            randomised(pair_layers=2, pair_cutoff_angstrom=cutoff)(*batch, lags(50.0))
            for cutoff in (6.0, 1.5)
        )
    assert difference(first, second) > 1e-3
    with pytest.raises(ValueError, match="pair_layers go with lifting = equivariant"):
        config(pair_layers=1, lifting="linear")
