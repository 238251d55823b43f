"""Permutations of like atoms that the motion of a molecule can bring about.

The energy does not change when like atoms trade places. Of all such permutations that keep the
bonds, those are feasible that also keep the handedness of every tetrahedral atom, or invert that
of all at once, as in the mirror image: methyl groups that turn, rings that flip, the symmetry of
the molecule at rest. They form the molecular symmetry group.

References:
    Longuet-Higgins, Mol. Phys. 6, 445 (1963), doi:10.1080/00268976300100501.
"""

import numpy as np
from rdkit import Chem

from tg80.chemistry.molecule import Molecule

MOST_PERMUTATIONS = 54
"""Of a larger group those are taken that move no heavy atom, if they are no more than this."""
_MOST_MATCHES = 50_000  # of the graph with itself; with more, the list would not be a group


def feasible_permutations(molecule: Molecule, positions: np.ndarray) -> np.ndarray:
    """A group of feasible permutations, (n, n_atoms), the identity first.

    Args:
        molecule: whose bonds are kept; their orders don't matter.
        positions: (n_atoms, 3) A, any geometry with these bonds.

    Returns:
        Row p says that the atom p[i] can take the place of the atom i.
    """
    graph = _bonded_graph(molecule)
    matches = graph.GetSubstructMatches(graph, uniquify=False, maxMatches=_MOST_MATCHES)
    identity = np.arange(molecule.n_atoms)
    if len(matches) == _MOST_MATCHES:
        return identity[None]
    centres = [atom.GetIdx() for atom in graph.GetAtoms() if atom.GetDegree() == 4]
    around = [[other.GetIdx() for other in graph.GetAtomWithIdx(i).GetNeighbors()] for i in centres]
    hands = _handedness(positions, np.array(around, dtype=int).reshape(-1, 4))
    found = []
    for match in sorted(matches):
        images = np.array(match)[around].reshape(-1, 4) if around else np.empty((0, 4), dtype=int)
        if len(np.unique(_handedness(positions, images) * hands)) <= 1:
            found.append(match)
    group = np.array(found)
    if len(group) > MOST_PERMUTATIONS:
        heavy = np.array(molecule.atomic_numbers) > 1
        group = group[(group[:, heavy] == identity[heavy]).all(axis=1)]
    return group if len(group) <= MOST_PERMUTATIONS else identity[None]


def _bonded_graph(molecule: Molecule) -> Chem.Mol:
    """Elements and which atoms are bonded: resonance makes bonds equal that a drawing does not."""
    graph = Chem.RWMol()
    for number in molecule.atomic_numbers:
        graph.AddAtom(Chem.Atom(int(number)))
    for i, j, _ in molecule.bonds:
        graph.AddBond(i, j, Chem.BondType.SINGLE)
    return graph.GetMol()


def _handedness(positions: np.ndarray, around: np.ndarray) -> np.ndarray:
    """(n,) signs of the volumes spanned by the neighbours (n, 4) of tetrahedral atoms."""
    corners = positions[around]
    return np.sign(np.linalg.det(corners[:, 1:] - corners[:, :1]))
