"""What of a molecule's bond graph a valence force field has terms for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from atom.walk import bonded_pairs

Row = tuple[int, ...]
RING_SIZES = (3, 4, 5, 6, 7)
LONGEST_SEPARATION = 6
"""Bonds between two atoms beyond which their number makes no difference."""
# Bonds between the middles of two coordinates that are coupled, and most atoms that they share.
_REACH, _MOST_SHARED = 1, 4
N_RELATIONS = (_REACH + 1) * (_MOST_SHARED + 1)
"""Ways in which two coupled coordinates lie to each other."""


@dataclass(frozen=True, eq=False)
class Topology:
    """The terms of one molecule, or of several one after another; all tensors are int64.

    Two are equal if they are the same object; `topology_of` makes one of each molecule.

    Attributes:
        numbers: (n,) atomic numbers.
        molecule: (n,) number of the molecule that an atom is of.
        rings: (n, 5) 1 where the atom is in a smallest ring of 3, 4, 5, 6 or 7 atoms.
        bonds: (n_bonds, 2) atoms.
        angles: (n_angles, 3) atoms, the centre in the middle.
        linear: (n_angles,) 1 where the centre is a carbon of two neighbours (sp).
        torsions: (n_torsions, 4) atoms along three bonds, none of whose angles is linear.
        torsion_bond: (n_torsions,) the middle bond.
        torsion_angles: (n_torsions, 2) angles.
        planes: (n_planes, 4) centre of three neighbours, and these.
        pairs: (n_pairs, 2) atoms three or more bonds apart.
        separation: (n_pairs, 1) bonds between them, `LONGEST_SEPARATION` at most.
        bond_bond: (n, 3) two bonds near each other, and their relation, below `N_RELATIONS`.
        bond_angle: (n, 3) bond, angle and relation.
        angle_angle: (n, 3) two angles and relation.
        twist_twist: (n, 3) two torsions and relation.
    """

    numbers: Tensor
    molecule: Tensor
    rings: Tensor
    bonds: Tensor
    angles: Tensor
    linear: Tensor
    torsions: Tensor
    torsion_bond: Tensor
    torsion_angles: Tensor
    planes: Tensor
    pairs: Tensor
    separation: Tensor
    bond_bond: Tensor
    bond_angle: Tensor
    angle_angle: Tensor
    twist_twist: Tensor

    @property
    def n_molecules(self) -> int:
        """Number of molecules."""
        return int(self.molecule[-1]) + 1

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Rows of each field, and the number of molecules."""
        return (*(len(getattr(self, name)) for name in _FIELDS), self.n_molecules)

    def to(self, device: torch.device) -> Topology:
        """The topology with its tensors on a device."""
        if self.numbers.device == device:
            return self
        return Topology(*(getattr(self, name).to(device) for name in _FIELDS))

    def degrees(self) -> Tensor:
        """Number of bonds (n,) of each atom."""
        return torch.bincount(self.bonds.flatten(), minlength=len(self.numbers))


TERMS = (
    "bonds", "angles", "torsions", "planes", "pairs", "bond_bond", "bond_angle", "angle_angle",
    "twist_twist",
)  # fmt: skip
"""Fields of a topology whose rows have parameters, in the order of these."""
# What the numbers in the columns of a field count, to renumber them where molecules are joined.
_COUNTED = {
    "molecule": ("molecules",), "bonds": ("numbers",), "angles": ("numbers",),
    "torsions": ("numbers",), "planes": ("numbers",), "pairs": ("numbers",),
    "torsion_bond": ("bonds",), "torsion_angles": ("angles",),
    "bond_bond": ("bonds", "bonds", None), "bond_angle": ("bonds", "angles", None),
    "angle_angle": ("angles", "angles", None), "twist_twist": ("torsions", "torsions", None),
}  # fmt: skip
_FIELDS = tuple(field.name for field in fields(Topology))
_COLUMN_OF: dict[str | None, int] = {
    name: column for column, name in enumerate((*_FIELDS, "molecules", None))
}


def join(topologies: Sequence[Topology]) -> Topology:
    """Several molecules, one after another, as one topology."""
    sizes, first = _sizes(topologies)
    joined = {}
    for column, name in enumerate(_FIELDS):
        rows = torch.cat([getattr(topology, name) for topology in topologies])
        if name in _COUNTED:
            shifts = first[:, [_COLUMN_OF[counted] for counted in _COUNTED[name]]]
            shift = torch.from_numpy(np.repeat(shifts, sizes[:, column], axis=0)).to(rows.device)
            rows += shift if rows.ndim == 2 else shift[:, 0]
        joined[name] = rows
    return Topology(**joined)


def topology_of(atomic_numbers: Tensor, bonded: Tensor) -> Topology:
    """The terms of one molecule.

    Args:
        atomic_numbers: (n,).
        bonded: (n, n) bool, symmetric.
    """
    return _topology(tuple(atomic_numbers.tolist()), bonded.numpy().tobytes())


@lru_cache(maxsize=4096)
def _topology(numbers: tuple[int, ...], bonded: bytes) -> Topology:
    n = len(numbers)
    adjacency = np.frombuffer(bonded, dtype=bool).reshape(n, n)
    near = [np.flatnonzero(row).tolist() for row in adjacency]
    apart = _bonds_between(adjacency)
    bonds = [(i, j) for i in range(n) for j in near[i] if i < j]
    angles = [(i, j, k) for j in range(n) for i, k in combinations(near[j], 2)]
    bond_of = {bond: row for row, bond in enumerate(bonds)}
    angle_of = {(frozenset((i, k)), j): row for row, (i, j, k) in enumerate(angles)}

    def angle(i: int, j: int, k: int) -> int:
        return angle_of[frozenset((i, k)), j]

    def is_linear(atom: int) -> bool:
        return numbers[atom] == 6 and len(near[atom]) == 2

    torsions = [
        (i, j, k, m)
        for j, k in bonds
        if not is_linear(j) and not is_linear(k)
        for i in near[j]
        if i != k
        for m in near[k]
        if m not in (j, i)
    ]
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n) if apart[i, j] >= 3]
    rings = np.zeros((n, len(RING_SIZES)), dtype=np.int64)
    for i, j in bonds:
        size = _smallest_ring(adjacency, i, j)
        if size in RING_SIZES:
            rings[[i, j], RING_SIZES.index(size)] = 1
    return Topology(
        numbers=torch.tensor(numbers),
        molecule=torch.zeros(n, dtype=torch.long),
        rings=torch.from_numpy(rings),
        bonds=_rows(bonds, 2),
        angles=_rows(angles, 3),
        linear=torch.tensor([int(is_linear(j)) for _, j, _ in angles], dtype=torch.long),
        torsions=_rows(torsions, 4),
        torsion_bond=torch.tensor([bond_of[j, k] for _, j, k, _ in torsions], dtype=torch.long),
        torsion_angles=_rows([(angle(i, j, k), angle(j, k, m)) for i, j, k, m in torsions], 2),
        planes=_rows([(j, *near[j]) for j in range(n) if len(near[j]) == 3], 4),
        pairs=_rows(pairs, 2),
        separation=_rows([(min(int(apart[i, j]), LONGEST_SEPARATION),) for i, j in pairs], 1),
        bond_bond=_couplings(bonds, bonds, apart),
        bond_angle=_couplings(bonds, angles, apart),
        angle_angle=_couplings(angles, angles, apart),
        twist_twist=_couplings(torsions, torsions, apart),
    )


def topologies_of(positions: Tensor, atomic_numbers: Tensor) -> list[Topology]:
    """The topology of each row (B, N) from its bond lengths; padding stands last."""
    positions, atomic_numbers = positions.float().cpu(), atomic_numbers.cpu()
    return topologies_of_bonds(bonded_pairs(positions, atomic_numbers), atomic_numbers)


def topologies_of_bonds(bonded: Tensor, atomic_numbers: Tensor) -> list[Topology]:
    """The topology of each row of bonds (B, N, N) and atomic_numbers (B, N)."""
    sizes = (atomic_numbers > 0).sum(1).tolist()
    return [
        topology_of(z[:n], bonds[:n, :n].contiguous())
        for z, bonds, n in zip(atomic_numbers.cpu(), bonded.cpu(), sizes, strict=True)
    ]


def rows_of_terms(unique: Sequence[Topology], order: Sequence[int]) -> list[Tensor]:
    """For each kind of term, the rows of the unique topologies' parameters in this order."""
    sizes, first = _sizes(unique)
    rows = []
    for column in (_COLUMN_OF[name] for name in TERMS):
        lengths = sizes[order, column]
        before = np.cumsum(lengths) - lengths
        shifts = np.repeat(first[order, column] - before, lengths)
        rows.append(torch.from_numpy(shifts + np.arange(len(shifts))))
    return rows


def _sizes(topologies: Sequence[Topology]) -> tuple[np.ndarray, np.ndarray]:
    """`Topology.sizes` of each, and the sums of those before it; of the last column none."""
    sizes = np.array([topology.sizes for topology in topologies])
    return sizes, np.pad(np.cumsum(sizes, axis=0) - sizes, ((0, 0), (0, 1)))


def _rows(rows: Sequence[Sequence[int]], width: int) -> Tensor:
    return torch.tensor(rows, dtype=torch.long).reshape(-1, width)


def _couplings(one: Sequence[Row], other: Sequence[Row], apart: np.ndarray) -> Tensor:
    """Rows of two kinds of coordinates whose middles are near each other, and their relation.

    Those of one kind with each other are listed once.
    """
    if not one or not other:
        return torch.empty(0, 3, dtype=torch.long)
    between = np.min(
        [apart[np.ix_(a, b)] for a in _middles(one) for b in _middles(other)],
        axis=0,
    )
    shared = _holds(one, len(apart)) @ _holds(other, len(apart)).T
    near = between <= _REACH
    if one is other:
        near &= np.triu(np.ones_like(near), 1)
    first, second = np.nonzero(near)
    relation = (_MOST_SHARED + 1) * between[near] + shared[near]
    return torch.from_numpy(np.stack([first, second, relation], axis=1))


def _middles(rows: Sequence[Row]) -> np.ndarray:
    """Central atoms (1 or 2, n) of bonds, angles or torsions."""
    atoms = np.array(rows).T
    return atoms if len(atoms) == 2 else atoms[1:-1]


def _holds(rows: Sequence[Row], n_atoms: int) -> np.ndarray:
    """Which atoms each row is of, (n, n_atoms) 0 or 1."""
    held = np.zeros((len(rows), n_atoms), dtype=np.int64)
    np.put_along_axis(held, np.array(rows), 1, axis=1)
    return held


def _bonds_between(adjacency: np.ndarray) -> np.ndarray:
    """Number of bonds (n, n) on the shortest way; 2 n where there is none."""
    n = len(adjacency)
    apart = np.full((n, n), 2 * n)
    np.fill_diagonal(apart, 0)
    reached = np.eye(n, dtype=bool)
    for step in range(1, n):
        reached_now = reached @ adjacency | reached
        apart[reached_now & ~reached] = step
        if (reached_now == reached).all():
            break
        reached = reached_now
    return apart


def _smallest_ring(adjacency: np.ndarray, i: int, j: int) -> int:
    """Atoms of the smallest ring that the bond i-j is in; more than n where it is in none."""
    without = adjacency.copy()
    without[i, j] = without[j, i] = False
    return 1 + int(_bonds_between(without)[i, j])
