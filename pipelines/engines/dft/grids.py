"""A molecule's integration grids, their points in an order that lasts while atoms move a little."""

from typing import Any

import numpy as np
from pyscf import dft, gto
from pyscf.dft.gen_grid import arg_group_grids

from pipelines.engines.dft.kernels.becke import becke_weights

# Radial and angular points of the coarse grid, on hydrogen and on heavier atoms. What it gets wrong
# of the potential's change lags behind the motion in the forces and drains the energy. Of twenty
# grids this does best for its size: with 20 x 86 and 35 x 146, of four fifths of the points, the
# error in benzene is four times as large; 146 angular points are worse than 110.
_ON_HYDROGEN = (16, 86)
_ON_OTHERS = (40, 194)


def grid_order(molecule: gto.Mole, coordinates: np.ndarray) -> np.ndarray:
    """Permutation (n_points,) that puts neighbouring grid points side by side.

    It costs more than the grid itself; atoms that move a little may keep it.
    """
    return np.asarray(arg_group_grids(molecule, coordinates))


def size_ratios(molecule: gto.Mole) -> np.ndarray:
    """Becke's a_BC of all pairs of atoms (n_atoms, n_atoms), as PySCF's grids take them."""
    adjust = dft.radi.treutler_atomic_radii_adjust(molecule, dft.radi.BRAGG_RADII)
    atoms = range(molecule.natm)
    return np.array([[adjust(b, c, 0.0) for c in atoms] for b in atoms])


def coarse_grid(molecule: gto.Mole) -> Any:
    """PySCF's object of a grid with a fifth of the points of level 3.

    Treutler's pruning saves a third of them for nothing.
    """
    grid = dft.Grids(molecule)
    grid.verbose = 0
    grid.prune = dft.gen_grid.treutler_prune
    grid.atom_grid = {
        symbol: _ON_HYDROGEN if symbol == "H" else _ON_OTHERS
        for symbol in {molecule.atom_pure_symbol(atom) for atom in range(molecule.natm)}
    }
    return grid


class OrderedGrid:
    """Points of a grid, neighbours side by side.

    Args:
        grid: PySCF's object, which says what points an atom has, and holds the molecule that its
            owner moves.
    """

    def __init__(self, grid: Any):
        molecule = self._molecule = grid.mol
        of_elements = grid.gen_atomic_grids(
            molecule, grid.atom_grid, grid.radi_method, grid.level, grid.prune
        )
        of_atoms = [of_elements[molecule.atom_symbol(atom)] for atom in range(molecule.natm)]
        # In the order of the atoms; `_order` takes them from there.
        self._from_owner = np.concatenate([points for points, _ in of_atoms])
        self._volumes = np.concatenate([volumes for _, volumes in of_atoms])
        self._owners = np.repeat(np.arange(molecule.natm), [len(v) for _, v in of_atoms])
        self._sizes = size_ratios(molecule)
        self._ordered_for: np.ndarray | None = None
        self._order = np.empty(0, dtype=int)

    def points(self, geometry: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The grid at the molecule's place.

        Args:
            geometry: (n_atoms, 3) bohr, for which the points are put in order.

        Returns:
            Coordinates (n_points, 3) bohr, weights (n_points,) bohr^3, and the atoms (n_points,)
            that the points belong to.
        """
        if self._ordered_for is None or not np.array_equal(self._ordered_for, geometry):
            there = self._molecule.set_geom_(geometry, unit="Bohr", inplace=False)
            self._order = grid_order(there, self._from_owner + geometry[self._owners])
            self._ordered_for = np.array(geometry)
        centres = self._molecule.atom_coords()
        owners = self._owners[self._order]
        coordinates = self._from_owner[self._order] + centres[owners]
        weights = np.empty(len(owners))
        volumes = self._volumes[self._order]
        becke_weights(coordinates, owners, volumes, centres, self._sizes, weights)
        return coordinates, weights, owners
