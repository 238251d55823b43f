"""What of a molecule's bond graph a valence force field has terms for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from atom.walk import bonded_pairs

RING_SIZES = (3, 4, 5, 6, 7)
LONGEST_SEPARATION = 6
"""Bonds between two atoms beyond which their number makes no difference."""


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
        angle_bonds: (n_angles, 2) bonds that are its legs.
        linear: (n_angles,) 1 where the centre is a carbon of two neighbours (sp).
        bends: (n_bends, 4) centre, shared leg, and the two other legs of angles that share one.
        bend_angles: (n_bends, 2) those angles.
        torsions: (n_torsions, 4) atoms along three bonds, none of whose angles is linear.
        torsion_bonds: (n_torsions, 3) first, last and middle bond.
        torsion_angles: (n_torsions, 2) angles.
        planes: (n_planes, 4) centre of three neighbours, and these.
        pairs: (n_pairs, 2) atoms three or more bonds apart.
        separation: (n_pairs, 1) bonds between them, `LONGEST_SEPARATION` at most.
    """

    numbers: Tensor
    molecule: Tensor
    rings: Tensor
    bonds: Tensor
    angles: Tensor
    angle_bonds: Tensor
    linear: Tensor
    bends: Tensor
    bend_angles: Tensor
    torsions: Tensor
    torsion_bonds: Tensor
    torsion_angles: Tensor
    planes: Tensor
    pairs: Tensor
    separation: Tensor

    @property
    def n_molecules(self) -> int:
        """Number of molecules."""
        return int(self.molecule[-1]) + 1

    def to(self, device: torch.device) -> Topology:
        """The topology with its tensors on a device."""
        if self.numbers.device == device:
            return self
        return Topology(*(getattr(self, f.name).to(device) for f in fields(self)))

    def degrees(self) -> Tensor:
        """Number of bonds (n,) of each atom."""
        return torch.bincount(self.bonds.flatten(), minlength=len(self.numbers))


# What the numbers in a field count, to renumber them where molecules are joined.
_COUNTED = {
    "bonds": "numbers", "angles": "numbers", "bends": "numbers", "torsions": "numbers",
    "planes": "numbers", "pairs": "numbers", "angle_bonds": "bonds", "torsion_bonds": "bonds",
    "bend_angles": "angles", "torsion_angles": "angles",
}  # fmt: skip


def join(topologies: Sequence[Topology]) -> Topology:
    """Several molecules, one after another, as one topology."""
    joined = {}
    for name in (field.name for field in fields(Topology)):
        parts = [getattr(topology, name) for topology in topologies]
        if name == "molecule":
            counts = [topology.n_molecules for topology in topologies]
        else:
            counted = _COUNTED.get(name)
            counts = [len(getattr(t, counted)) if counted else 0 for t in topologies]
        first = np.cumsum([0, *counts[:-1]]).tolist()
        joined[name] = torch.cat([part + n for part, n in zip(parts, first, strict=True)])
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
    bond_of = {frozenset(bond): row for row, bond in enumerate(bonds)}
    angle_of = {(frozenset((i, k)), j): row for row, (i, j, k) in enumerate(angles)}

    def bond(i: int, j: int) -> int:
        return bond_of[frozenset((i, j))]

    def angle(i: int, j: int, k: int) -> int:
        return angle_of[frozenset((i, k)), j]

    def is_linear(atom: int) -> bool:
        return numbers[atom] == 6 and len(near[atom]) == 2

    bends = [
        (j, shared, *others)
        for j in range(n)
        for shared in near[j]
        for others in combinations([x for x in near[j] if x != shared], 2)
    ]
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
        angle_bonds=_rows([(bond(i, j), bond(j, k)) for i, j, k in angles], 2),
        linear=torch.tensor([int(is_linear(j)) for _, j, _ in angles], dtype=torch.long),
        bends=_rows(bends, 4),
        bend_angles=_rows([(angle(s, j, x), angle(s, j, y)) for j, s, x, y in bends], 2),
        torsions=_rows(torsions, 4),
        torsion_bonds=_rows([(bond(i, j), bond(k, m), bond(j, k)) for i, j, k, m in torsions], 3),
        torsion_angles=_rows([(angle(i, j, k), angle(j, k, m)) for i, j, k, m in torsions], 2),
        planes=_rows([(j, *near[j]) for j in range(n) if len(near[j]) == 3], 4),
        pairs=_rows(pairs, 2),
        separation=_rows([(min(int(apart[i, j]), LONGEST_SEPARATION),) for i, j in pairs], 1),
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
    rows = []
    for name in ("bonds", "angles", "bends", "torsions", "planes", "pairs"):
        counts = [len(getattr(topology, name)) for topology in unique]
        first = np.cumsum([0, *counts])
        own = [np.arange(first[i], first[i + 1]) for i in order]
        rows.append(torch.from_numpy(np.concatenate(own)))
    return rows


def _rows(rows: Sequence[Sequence[int]], width: int) -> Tensor:
    return torch.tensor(rows, dtype=torch.long).reshape(-1, width)


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
