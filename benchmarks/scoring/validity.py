"""Whether predicted structures are molecules: bond lengths and angles within the data's range.

A squared error forgives structures that no molecule has: the mean of two conformations has the
smallest error of all, and broken bonds. What is looked at here is internal, and so the same in any
orientation. Ranges are those of the molecule's own trajectories, test frames included: they belong
to the evaluation and reach no model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from ase.data import covalent_radii
from scipy.stats import wasserstein_distance

from tg80.windows.trajectories import Trajectory

QUANTILES = (0.001, 0.999)
# Share of the data's own structures that is within the ranges, by their definition.
COVERED = QUANTILES[1] - QUANTILES[0]
# Atoms closer than this share of their covalent radii are bonded where no graph is known.
_BONDED = 1.25
# More frames than this change quantiles little.
_MOST_FRAMES = 20_000

Pairs = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Geometry:
    """Bonds and angles among some atoms of one molecule, and the ranges they are met in.

    Attributes:
        bonds: (n_bonds, 2) atoms.
        angles: (n_angles, 3) atoms, the apex in the middle.
        low: (n_bonds + n_angles,) lower ends of the ranges, A and degrees.
        high: (n_bonds + n_angles,) upper ends.
    """

    bonds: np.ndarray
    angles: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def is_valid(self, positions: np.ndarray) -> np.ndarray:
        """Whether all bonds and angles are within their ranges.

        Args:
            positions: (n_structures, n_atoms, 3) A; what is not finite is not valid.

        Returns:
            (n_structures,) bool.
        """
        values = measure(positions, self.bonds, self.angles)
        return np.all((values >= self.low) & (values <= self.high), axis=1)

    def bond_distance(self, predicted: np.ndarray, true: np.ndarray) -> float:
        """Compute the Wasserstein-1 distance of bond-length distributions in A, mean over bonds.

        Args:
            predicted: (n_structures, n_atoms, 3) A. Lengths that are not finite are left out; the
                result is NaN if a bond has no other.
            true: (n_structures, n_atoms, 3) A, of another number of structures if need be.
        """
        lengths = [measure(x, self.bonds, self.angles[:0]) for x in (predicted, true)]
        distances = []
        for mine, data in zip(lengths[0].T, lengths[1].T, strict=True):
            mine = mine[np.isfinite(mine)]
            distances.append(wasserstein_distance(mine, data) if mine.size else np.nan)
        return float(np.mean(distances))


def geometry_of(
    trajectories: Sequence[Trajectory], bonds: Pairs, atoms: Iterable[int]
) -> Geometry | None:
    """Find bonds and angles among some atoms of a molecule, with ranges from all frames it has.

    The range of each is that of the quantiles 0.1 and 99.9 %, stretched about its middle by one
    factor for the whole molecule, the smallest with which 99.8 % of the frames are valid: a
    molecule of 40 bonds and angles would else be invalid in one frame of thirteen.

    Args:
        trajectories: all frames of the molecule.
        bonds: pairs of atoms.
        atoms: those that are looked at.

    Returns:
        None where these atoms have no bond.
    """
    kept = set(atoms)
    pairs = [pair for pair in bonds if kept.issuperset(pair)]
    if not pairs:
        return None
    angles = angles_of(pairs)
    table = np.array(pairs, dtype=int), np.array(angles, dtype=int).reshape(-1, 3)
    values = np.concatenate([measure(_some(t.positions), *table) for t in trajectories])
    low, high = np.quantile(values, QUANTILES, axis=0)
    # A frozen length still has rounding.
    middle, half = (low + high) / 2, np.maximum((high - low) / 2, 1e-5)
    farthest = (np.abs(values - middle) / half).max(axis=1)
    stretch = max(1.0, float(np.quantile(farthest, COVERED, method="higher")))
    # Predictions are float32: what the data have must not fall out by rounding.
    half = stretch * half + 1e-5
    return Geometry(*table, middle - half, middle + half)


def _some(positions: np.ndarray) -> np.ndarray:
    return positions[:: max(1, -(-len(positions) // _MOST_FRAMES))]


def measure(positions: np.ndarray, bonds: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Measure bond lengths in A, then angles in degrees.

    Args:
        positions: (n_structures, n_atoms, 3) A.
        bonds: (n_bonds, 2) atoms.
        angles: (n_angles, 3) atoms.

    Returns:
        (n_structures, n_bonds + n_angles); NaN for an angle at atoms that coincide.
    """
    x = np.asarray(positions, dtype=float)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        lengths = np.linalg.norm(x[:, bonds[:, 0]] - x[:, bonds[:, 1]], axis=-1)
        one, other = (x[:, angles[:, end]] - x[:, angles[:, 1]] for end in (0, 2))
        norms = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
        cosines = np.clip((one * other).sum(-1) / norms, -1, 1)
        return np.concatenate([lengths, np.degrees(np.arccos(cosines))], axis=1)


def angles_of(bonds: Pairs) -> list[tuple[int, int, int]]:
    """List all angles (i, apex, k), i < k, between two bonds of an atom."""
    neighbours: dict[int, list[int]] = {}
    for i, j in bonds:
        neighbours.setdefault(i, []).append(j)
        neighbours.setdefault(j, []).append(i)
    return [
        (i, apex, k)
        for apex in sorted(neighbours)
        for i, k in combinations(sorted(neighbours[apex]), 2)
    ]


def near_pairs(positions: np.ndarray, atomic_numbers: np.ndarray) -> list[tuple[int, int]]:
    """Find atoms closer than 1.25 times the sum of their covalent radii, where no graph is known.

    Args:
        positions: (n_atoms, 3) A of one structure.
        atomic_numbers: (n_atoms,).
    """
    radii = np.asarray(covalent_radii)[atomic_numbers]
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    near = distances < _BONDED * (radii[:, None] + radii[None])
    return [(int(i), int(j)) for i, j in np.argwhere(np.triu(near, 1))]


class Geometries:
    """The geometries of all molecules of some data, made when they are asked for.

    Args:
        trajectories: all frames there are.
        bonds: molecule -> pairs of atoms. Molecules that are not in it have the pairs that are near
            in their first frame.
    """

    def __init__(self, trajectories: Iterable[Trajectory], bonds: Mapping[str, Pairs]) -> None:
        self._trajectories: dict[str, list[Trajectory]] = {}
        for trajectory in trajectories:
            self._trajectories.setdefault(trajectory.name, []).append(trajectory)
        self._bonds = dict(bonds)
        self._made: dict[tuple[str, tuple[int, ...]], Geometry | None] = {}

    def get(self, molecule: str, atoms: Sequence[int]) -> Geometry | None:
        """Return the geometry of some atoms of a molecule; None without bonds or data."""
        key = molecule, tuple(atoms)
        if key not in self._made:
            known = self._trajectories.get(molecule, [])
            self._made[key] = geometry_of(known, self._pairs(molecule), atoms) if known else None
        return self._made[key]

    def _pairs(self, molecule: str) -> Pairs:
        first = self._trajectories[molecule][0]
        if molecule in self._bonds:
            return [pair for pair in self._bonds[molecule] if max(pair) < first.n_atoms]
        return near_pairs(np.asarray(first.positions[0], dtype=float), first.atomic_numbers)


@dataclass(frozen=True)
class Validity:
    """Validity of one model's predictions for some windows, by molecule.

    Attributes:
        valid: (n_windows, P) 1 or 0, NaN where a lag is padding or the molecule has no bonds.
        bond_distance: molecule -> A, NaN where nothing is left to compare.
    """

    valid: np.ndarray
    bond_distance: dict[str, np.ndarray]


def validity_of(
    positions: np.ndarray,
    targets: np.ndarray,
    lags_fs: np.ndarray,
    failed: np.ndarray,
    molecules: Sequence[str],
    atom_mask: np.ndarray,
    geometries: Geometries,
    starts: np.ndarray,
) -> Validity:
    """Judge the validity of predictions.

    A failed prediction is not valid. Its bonds are those of its start, as its error is that of
    persistence: if it were left out, a model could choose what it is judged by.

    Args:
        positions: (B, P, N, 3) A, as predicted.
        targets: (B, P, N, 3) A.
        lags_fs: (B, P) fs, NaN = padding.
        failed: (B,) bool.
        molecules: B names.
        atom_mask: (B, N) bool, the atoms that are looked at.
        geometries: of the molecules.
        starts: (B, N, 3) A.
    """
    valid = np.full(lags_fs.shape, np.nan)
    distances: dict[str, np.ndarray] = {}
    names, asked = np.asarray(molecules), ~np.isnan(lags_fs)
    for name in dict.fromkeys(molecules):
        rows = np.flatnonzero(names == name)
        geometry = geometries.get(name, np.flatnonzero(atom_mask[rows[0]]).tolist())
        if geometry is None:
            continue
        place = asked & (names == name)[:, None]
        valid[place] = geometry.is_valid(positions[place])
        valid[place & failed[:, None]] = 0
        # Of the rows of this molecule alone: a copy of all windows would be large.
        still = np.where(failed[rows, None, None, None], starts[rows, None], positions[rows])
        distances[name] = np.asarray(geometry.bond_distance(still[asked[rows]], targets[place]))
    return Validity(valid, distances)
