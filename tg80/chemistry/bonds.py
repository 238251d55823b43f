"""What happens to a molecule's bond graph along a trajectory, and when.

A bond is broken while it is longer than 1.5 times the sum of the covalent radii. A hydrogen belongs
to its nearest heavy atom; if that is another one than in the SMILES it is transferred, not broken.
A double bond has turned when the cosine of a dihedral about it has changed its sign. Any of these
counts once it lasts 20 fs: a single vibration that overshoots is not a reaction.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tg80.elements import COVALENT_RADII

Bonds = Sequence[tuple[int, int, float]]

STRETCH = 1.5
MINIMUM_FS = 20.0


@dataclass(frozen=True)
class GraphChange:
    """One departure from the bond graph.

    Attributes:
        kind: `bond_broken`, `hydrogen_transferred` or `stereo_changed` (names of QUALITY_FLAGS).
        atoms: the bond (i, j); hydrogen, old and new owner; or the dihedral (k, i, j, l).
        start_fs, end_fs: times of the first and the last frame it is seen in.
    """

    kind: str
    atoms: tuple[int, ...]
    start_fs: float
    end_fs: float

    def __str__(self) -> str:
        atoms = "-".join(str(atom) for atom in self.atoms)
        kind = self.kind.replace("_", " ")
        return f"{kind} (atoms {atoms}) from {self.start_fs:g} to {self.end_fs:g} fs"


def graph_changes(
    times_fs: np.ndarray,
    positions: np.ndarray,
    atomic_numbers: np.ndarray,
    bonds: Bonds,
    reference_positions: np.ndarray,
    *,
    stretch: float = STRETCH,
    minimum_fs: float = MINIMUM_FS,
) -> list[GraphChange]:
    """Every departure from the bond graph that lasts, ordered by its start.

    Args:
        times_fs: (n_frames,) fs, evenly spaced.
        positions: (n_frames, n_atoms, 3) A.
        atomic_numbers: (n_atoms,).
        bonds: (i, j, order) of the SMILES.
        reference_positions: (n_atoms, 3) A, a geometry whose double bonds stand as they should.
        stretch: share of the sum of covalent radii beyond which a bond is broken.
        minimum_fs: time a departure must last to count.
    """
    numbers = np.asarray(atomic_numbers)
    positions = np.asarray(positions, dtype=float)
    changes: list[GraphChange] = []

    def record(kind: str, atoms: tuple[int, ...], away: np.ndarray) -> None:
        for first, last in _lasting(away, times_fs, minimum_fs):
            start, end = float(times_fs[first]), float(times_fs[last])
            changes.append(GraphChange(kind, atoms, start, end))

    heavy = np.flatnonzero(numbers > 1)
    for i, j, _ in bonds:
        limit = stretch * (COVALENT_RADII[numbers[i]] + COVALENT_RADII[numbers[j]])
        distance = np.linalg.norm(positions[:, i] - positions[:, j], axis=1)
        if (numbers[i] > 1) == (numbers[j] > 1):
            record("bond_broken", (i, j), distance > limit)
            continue
        hydrogen, owner = (j, i) if numbers[j] == 1 else (i, j)
        nearest, far = _nearest_heavy(positions, numbers, hydrogen, heavy, stretch)
        record("bond_broken", (i, j), far)
        for other in np.unique(nearest[(nearest != owner) & ~far]).tolist():
            moved = (nearest == other) & ~far
            record("hydrogen_transferred", (hydrogen, owner, other), moved)
    for dihedral in stereo_dihedrals(numbers, bonds):
        should = _cosine_sign(np.asarray(reference_positions, dtype=float)[None], dihedral)
        turned = _cosine_sign(positions, dihedral) != should
        record("stereo_changed", dihedral, turned)
    return sorted(changes, key=lambda change: (change.start_fs, change.kind, change.atoms))


def change_mask(changes: Sequence[GraphChange], kind: str, times_fs: np.ndarray) -> np.ndarray:
    """(n_frames,) bool: the frames in which a change of this kind holds."""
    mask = np.zeros(len(times_fs), dtype=bool)
    for change in changes:
        if change.kind == kind:
            mask |= (times_fs >= change.start_fs) & (times_fs <= change.end_fs)
    return mask


def _lasting(
    away: np.ndarray, times_fs: np.ndarray, minimum_fs: float
) -> Iterator[tuple[int, int]]:
    """First and last frame of each run of True that lasts; a frame stands for one spacing."""
    spacing = times_fs[1] - times_fs[0] if len(times_fs) > 1 else 0.0
    edges = np.flatnonzero(np.diff(np.concatenate([[0], away.astype(int), [0]])))
    for first, behind in edges.reshape(-1, 2).tolist():
        if (behind - first) * spacing >= minimum_fs:
            yield first, behind - 1


def _nearest_heavy(
    positions: np.ndarray, numbers: np.ndarray, hydrogen: int, heavy: np.ndarray, stretch: float
) -> tuple[np.ndarray, np.ndarray]:
    """Nearest heavy atom of a hydrogen in each frame, and whether it is out of its reach."""
    distances = np.linalg.norm(positions[:, heavy] - positions[:, hydrogen, None], axis=2)
    closest = distances.argmin(axis=1)
    nearest = heavy[closest]
    limit = stretch * (COVALENT_RADII[numbers[nearest]] + COVALENT_RADII[1])
    return nearest, distances[np.arange(len(distances)), closest] > limit


def stereo_dihedrals(atomic_numbers: np.ndarray, bonds: Bonds) -> list[tuple[int, int, int, int]]:
    """One dihedral (k, i, j, l) for each double bond i=j outside rings whose ends tell E from Z."""
    numbers = np.asarray(atomic_numbers)
    neighbours: dict[int, dict[int, float]] = {atom: {} for atom in range(len(numbers))}
    for i, j, order in bonds:
        neighbours[i][j] = neighbours[j][i] = order
    classes = _symmetry_classes(numbers, neighbours)
    dihedrals = []
    for i, j, order in bonds:
        ends = [_distinct_substituent(a, b, neighbours, classes) for a, b in ((i, j), (j, i))]
        if order == 2.0 and None not in ends and not _in_ring(i, j, neighbours):
            dihedrals.append((ends[0], i, j, ends[1]))
    return dihedrals


def _distinct_substituent(
    atom: int, partner: int, neighbours: dict[int, dict[int, float]], classes: list[int]
) -> int | None:
    """A neighbour of a double bond's end that fixes its side, or None if both are alike."""
    others = [other for other in neighbours[atom] if other != partner]
    cumulated = any(neighbours[atom][other] == 2.0 for other in others)
    if cumulated or len({classes[other] for other in others}) != len(others) or len(others) > 2:
        return None
    return min(others, default=None)


def _symmetry_classes(numbers: np.ndarray, neighbours: dict[int, dict[int, float]]) -> list[int]:
    """Class of each atom: equal for atoms the graph cannot tell apart (Morgan's refinement)."""
    classes = [int(number) for number in numbers]
    for _ in range(len(classes)):
        keys = [
            (classes[a], *sorted((order, classes[b]) for b, order in neighbours[a].items()))
            for a in range(len(classes))
        ]
        classes = [sorted(set(keys)).index(key) for key in keys]
    return classes


def _in_ring(i: int, j: int, neighbours: dict[int, dict[int, float]]) -> bool:
    """Whether j can be reached from i without their bond."""
    seen, front = {i}, [other for other in neighbours[i] if other != j]
    while front:
        atom = front.pop()
        if atom == j:
            return True
        if atom not in seen:
            seen.add(atom)
            front.extend(neighbours[atom])
    return False


def _cosine_sign(positions: np.ndarray, dihedral: tuple[int, int, int, int]) -> np.ndarray:
    """(n_frames,) bool: whether the dihedral is nearer to 0 than to 180 degrees."""
    k, i, j, m = dihedral
    axis = positions[:, j] - positions[:, i]
    left = np.cross(positions[:, k] - positions[:, i], axis)
    right = np.cross(positions[:, m] - positions[:, j], axis)
    return np.einsum("ij,ij->i", left, right) > 0
