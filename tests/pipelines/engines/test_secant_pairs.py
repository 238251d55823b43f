"""What self-consistency remembers from geometry to geometry, and how it survives a checkpoint."""

import numpy as np
import pytest

from pipelines.engines.dft.self_consistency import SecantPairs
from tg80.errors import RunFailed

N_BASIS = 5


def filled(n: int, depth: int = 8, seed: int = 0) -> SecantPairs:
    """As many pairs of one linear map as were appended, or as fit."""
    rng = np.random.default_rng(seed)
    pairs = SecantPairs(depth)
    for _ in range(n):
        fock = rng.normal(size=(N_BASIS, N_BASIS))
        pairs.append(fock, 0.5 * fock)
    return pairs


@pytest.mark.parametrize("n", [0, 3, 8, 21])
def test_a_checkpoint_goes_on_bit_for_bit(n):
    """When there is room as well as when each pair takes the place of another."""
    pairs, other = filled(n), SecantPairs(8)
    other.load_state(pairs.state())
    rng = np.random.default_rng(1)
    for _ in range(10):
        fock, error, change = rng.normal(size=(3, N_BASIS, N_BASIS))
        assert np.array_equal(pairs.improve(fock, error), other.improve(fock, error))
        for one in (pairs, other):
            one.append(change, 0.5 * change)
    assert len(pairs) == len(other) == 8


def test_known_errors_are_taken_away():
    pairs = SecantPairs(N_BASIS**2)
    for one in np.eye(N_BASIS**2).reshape(-1, N_BASIS, N_BASIS):
        pairs.append(one, 0.5 * one)
    fock = np.random.default_rng(2).normal(size=(N_BASIS, N_BASIS))
    assert np.abs(pairs.improve(fock, 0.5 * fock)).max() < 0.002 * np.abs(fock).max()


def test_pairs_of_a_former_checkpoint_are_known_and_the_oldest_goes_first():
    focks = np.random.default_rng(3).normal(size=(8, N_BASIS, N_BASIS))  # newest first
    pairs = SecantPairs(8)
    pairs.load_state({"pair_focks": focks, "pair_errors": 0.5 * focks})
    assert len(pairs) == 8
    pairs.append(np.ones((N_BASIS, N_BASIS)), np.ones((N_BASIS, N_BASIS)))
    kept = pairs.state()["pair_focks"]
    assert not any(np.array_equal(one, focks[-1].astype(np.float32)) for one in kept)
    assert any(np.array_equal(one, focks[0].astype(np.float32)) for one in kept)


@pytest.mark.parametrize(
    "change",
    [
        {"pair_next": np.array(1)},
        {"pair_next": np.array([3])},
        {"pair_products": np.zeros((2, 2))},
        {"pair_errors": np.zeros((2, N_BASIS, N_BASIS), dtype=np.float32)},
        {"pair_focks": np.zeros((3, N_BASIS, N_BASIS), dtype=int)},
    ],
)
def test_an_unsound_state_is_refused_and_nothing_is_lost(change):
    pairs = filled(2, seed=4)
    before = pairs.state()
    with pytest.raises(RunFailed, match="secant pairs"):
        pairs.load_state(filled(3).state() | change)
    for name, array in pairs.state().items():
        assert np.array_equal(array, before[name])
