"""Lifting is exactly O(3)-equivariant; the walk encoding knows bonds of every element."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atom import bonded_pairs, random_walk_encoding
from atom.elements import ATOMIC_MASSES, COVALENT_RADII, MAX_ATOMIC_NUMBER
from atom.layers.lifting import Lifting, safe_norm
from atom.layers.rope import rotate, time_rotation
from tests.atom.cases import EXACT, config, difference, orthogonal, start


def lifted_and_phase(lifting, batch, rotation):
    positions, velocities = (t.double() @ rotation.T for t in (batch.positions, batch.velocities))
    bonds = bonded_pairs(positions, batch.atomic_numbers)
    walk = random_walk_encoding(bonds, 16).double()
    return lifting(positions, velocities * 200, batch.atomic_numbers, walk)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**16), reflect=st.booleans())
def test_lifting_turns_with_its_input(seed, reflect):
    torch.manual_seed(seed)
    settings_ = config()
    lifting, m = Lifting(settings_).double(), settings_.multiplicity
    with torch.no_grad():
        for parameter in lifting.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    batch, rotation = start(2, 5, seed), orthogonal(seed, reflect=reflect)
    still = lifted_and_phase(lifting, batch, torch.eye(3, dtype=torch.float64))
    turned = lifted_and_phase(lifting, batch, rotation)
    for before, after in zip(still, turned, strict=True):
        assert difference(before[..., :m], after[..., :m]) < EXACT
        vectors = before[..., m:].unflatten(-1, (m, 3)) @ rotation.T
        assert difference(vectors, after[..., m:].unflatten(-1, (m, 3))) < EXACT
        assert float(vectors.abs().max()) > 0.1


def test_norm_has_a_gradient_at_zero():
    vector = torch.zeros(3, requires_grad=True)
    safe_norm(vector).sum().backward()
    assert vector.grad is not None and torch.all(vector.grad == 0)
    assert float(safe_norm(torch.tensor([3.0, 4.0, 0.0]))) == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("numbers", "distance", "expected"),
    [
        ((6, 17), 1.78, True),  # C-Cl
        ((6, 16), 1.82, True),  # C-S
        ((6, 6), 1.54, True),
        ((6, 1), 1.09, True),
        ((6, 35), 1.94, True),
        ((6, 6), 2.5, False),  # second neighbours
        ((1, 1), 1.78, False),  # hydrogens of a methyl group
        ((6, 1), 2.1, False),
    ],
)
def test_bonds_by_covalent_radii(numbers, distance, expected):
    positions = torch.tensor([[[0.0, 0.0, 0.0], [distance, 0.0, 0.0]]])
    bonds = bonded_pairs(positions, torch.tensor([numbers]))
    assert bool(bonds[0, 0, 1]) is expected and bool(bonds[0, 1, 0]) is expected
    walk = random_walk_encoding(bonds, 16)
    # On one bond the walk is back after every even number of steps.
    back = [0.0, 1.0] * 8 if expected else [0.0] * 16
    assert walk[0, 0].tolist() == back


def test_walk_on_a_triangle_with_a_tail():
    # Atoms 0-1-2 form a ring, 3 hangs on 2; probabilities by hand.
    bonds = torch.zeros(1, 4, 4, dtype=torch.bool)
    for i, j in ((0, 1), (1, 2), (0, 2), (2, 3)):
        bonds[0, i, j] = bonds[0, j, i] = True
    walk = random_walk_encoding(bonds, 3)[0]
    expected = torch.tensor(
        [
            [0.0, 1 / 4 + 1 / 6, 1 / 12 + 1 / 12],
            [0.0, 1 / 4 + 1 / 6, 1 / 12 + 1 / 12],
            [0.0, 1 / 6 + 1 / 6 + 1 / 3, 1 / 12 + 1 / 12],
            [0.0, 1 / 3, 0.0],
        ]
    )
    assert difference(walk, expected) < 1e-6


@pytest.mark.parametrize("n_steps", [1, 5, 16])
def test_walk_powers_match_repeated_products(n_steps):
    batch = start(3, 7)
    bonds = bonded_pairs(batch.positions, batch.atomic_numbers)
    adjacency = bonds.double()
    step = adjacency / adjacency.sum(-1, keepdim=True).clamp(min=1)
    expected = torch.stack(
        [
            torch.linalg.matrix_power(step, k).diagonal(dim1=1, dim2=2)
            for k in range(1, n_steps + 1)
        ],
        dim=-1,
    )
    assert bonds.any()
    assert difference(random_walk_encoding(bonds, n_steps).double(), expected) < 1e-6


def test_padding_has_no_bonds():
    bonds = bonded_pairs(torch.zeros(1, 3, 3), torch.tensor([[6, 6, 0]]))
    assert bonds.sum() == 2 and not bonds[0, 2].any()


def test_element_tables_are_whole():
    assert len(ATOMIC_MASSES) == len(COVALENT_RADII) == MAX_ATOMIC_NUMBER + 1
    assert min(ATOMIC_MASSES[1:]) > 1 and min(COVALENT_RADII[1:]) > 0.2


def test_rope_depends_on_time_differences_alone():
    query, key = torch.randn(2, 1, 1, 1, 1, 8, dtype=torch.float64)

    def logit(query_fs, key_fs):
        turned = [
            rotate(t, time_rotation(torch.tensor([[fs]]), 8, 8.0, 1e4, torch.float64))
            for t, fs in ((query, query_fs), (key, key_fs))
        ]
        return float((turned[0] * turned[1]).sum())

    assert logit(1300.0, 1000.0) == pytest.approx(logit(300.0, 0.0), abs=EXACT)
    assert abs(logit(1300.0, 1000.0) - logit(1400.0, 1000.0)) > 1e-3
    # omega_0 = 1: one turn in 2 pi tau.
    assert float(time_rotation(torch.tensor([[8.0]]), 8, 8.0, 1e4, torch.float64).cos[0, 0, 0]) == (
        pytest.approx(0.5403023058681398)
    )
