"""Groups of feasible permutations: known orders, closure, and energies that don't feel them."""

import numpy as np
import pytest

from pipelines.conformers import start_geometry
from pipelines.engines.registry import make_engine
from tg80.chemistry.molecule import molecule_from_smiles
from tg80.chemistry.permutations import MOST_PERMUTATIONS, feasible_permutations


def group_of(smiles: str):
    molecule = molecule_from_smiles(smiles)
    start = start_geometry(molecule, n_conformers=1, n_relaxed=1, choice="lowest",
                           temperature_k=300.0, seed=1)  # fmt: skip
    return molecule, start.positions, feasible_permutations(molecule, start.positions)


@pytest.mark.parametrize(
    ("smiles", "order"),
    [
        ("C=O", 2),
        ("c1ccccc1", 12),
        ("C1CC1", 12),  # D3h; the 36 others would turn a CH2 inside out
        ("CCO", 6),  # of 12: the methyl group turns, and the mirror image
        ("C", 24),  # of 24: proper and improper alike keep or invert the one centre
        ("C[N+](=O)[O-]", 12),  # both oxygens are alike, however they are drawn
        ("CCCC", 36),
        ("C[C@H](O)F", 3),  # nothing turns a chiral molecule into its mirror image
        ("CC(C)C", 27),  # of 162: those that move no heavy atom
        ("N#C", 1),
    ],
)
def test_the_order_of_the_group(smiles, order):
    _, _, group = group_of(smiles)
    assert len(group) == order <= MOST_PERMUTATIONS
    assert np.array_equal(group[0], np.arange(group.shape[1]))


@pytest.mark.parametrize("smiles", ["c1ccccc1", "CCO", "CC(C)C", "COC"])
def test_it_is_a_group_of_like_atoms(smiles):
    molecule, _, group = group_of(smiles)
    rows = {tuple(row) for row in group}
    assert len(rows) == len(group)
    assert {tuple(one[other]) for one in group for other in group} == rows
    numbers = np.array(molecule.atomic_numbers)
    assert (numbers[group] == numbers).all()


def test_the_energy_does_not_feel_them():
    molecule, positions, group = group_of("CCO")
    positions = positions + 0.05 * np.random.default_rng(0).normal(size=positions.shape)
    engine = make_engine("gfn2-xtb", molecule.atomic_numbers)
    energies = []
    for row in group:
        engine.reset()
        energies.append(engine.evaluate(positions[row]).energy)
    assert np.ptp(energies) < 1e-6


def test_too_many_of_them_leave_the_identity():
    _, _, group = group_of("CC(C)(C)C")
    assert len(group) == 1
