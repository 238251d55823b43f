"""A molecule's integration grids, their points in an order that lasts while atoms move a little."""

from typing import Any

import numpy as np
from pyscf import dft, gto
from pyscf.dft.gen_grid import arg_group_grids

# Radial and angular points of the coarse grid, on hydrogen and on heavier atoms.
_ON_HYDROGEN = (15, 50)
_ON_OTHERS = (25, 110)


def grid_order(molecule: gto.Mole, coordinates: np.ndarray) -> np.ndarray:
    """Permutation (n_points,) that puts neighbouring grid points side by side.

    It costs more than the grid itself; atoms that move a little may keep it.
    """
    return np.asarray(arg_group_grids(molecule, coordinates))


def coarse_grid(molecule: gto.Mole) -> Any:
    """PySCF's object of a grid with a twelfth of the points of level 3.

    Treutler's pruning saves a third of them for nothing. Level 0 has nearly as many, too few of
    them radial, and leaves over ten times the error; 26 angular points on hydrogen as well.
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
        grid: PySCF's object, which holds the molecule that its owner moves.
    """

    def __init__(self, grid: Any):
        self._grid = grid
        self._ordered_for: np.ndarray | None = None
        self._order = np.empty(0, dtype=int)

    def points(self, geometry: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates (n_points, 3) bohr and weights (n_points,) bohr^3 at the molecule's place.

        Args:
            geometry: (n_atoms, 3) bohr, for which the points are put in order.
        """
        molecule = self._grid.mol
        if self._ordered_for is None or not np.array_equal(self._ordered_for, geometry):
            there = molecule.set_geom_(geometry, unit="Bohr", inplace=False)
            grid = self._grid.copy().reset(there).build(sort_grids=False)
            self._order = grid_order(there, grid.coords)
            self._ordered_for = np.array(geometry)
        grid = self._grid.reset(molecule).build(sort_grids=False)
        return grid.coords[self._order], grid.weights[self._order]
