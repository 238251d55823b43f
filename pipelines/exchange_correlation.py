"""Exchange-correlation energy, potential and gradient of a pure GGA on a numerical grid.

Basis functions are evaluated once per geometry and kept, in blocks small enough for the processor's
cache; the density comes from the occupied orbitals (n_occupied rows, not n_basis), and the gradient
is contracted straight to atoms.

References:
    Pople, Gill, Johnson, doi:10.1016/0009-2614(92)85009-Y (GGA potential and gradient).
"""

from collections.abc import Iterator

import numpy as np
from pyscf import dft, gto

from tg80.errors import UserError

_BLOCK_POINTS = 1024
# Component of the basis functions' second derivative along (first, second) direction, in the order
# of PySCF's GTOval_sph_deriv2: value, x, y, z, xx, xy, xz, yy, yz, zz.
_SECOND = ((4, 5, 6), (5, 7, 8), (6, 8, 9))


def check_functional(functional: str) -> None:
    """Refuse what is not a pure GGA.

    Raises:
        UserError: unknown to libxc, hybrid, non-local, LDA or meta-GGA.
    """
    try:
        kind = dft.libxc.xc_type(functional)
        pure = not dft.libxc.is_hybrid_xc(functional) and not dft.libxc.is_nlc(functional)
    except (KeyError, ValueError):
        raise UserError(f"functional {functional!r} is not known to libxc") from None
    if kind != "GGA" or not pure:
        raise UserError(f"functional {functional!r} is no pure GGA, such as PBE")


class GridFunctional:
    """A pure GGA on the grid of the present geometry.

    Args:
        molecule: PySCF molecule, moved by its owner.
        functional: libxc name.
        max_bytes: memory for basis functions on the grid; what doesn't fit is evaluated anew.
    """

    def __init__(self, molecule: gto.Mole, functional: str, max_bytes: float):
        check_functional(functional)
        self._molecule = molecule
        self._functional = functional
        self._max_bytes = max_bytes
        self._library = dft.numint.NumInt()
        self._coordinates = np.empty((0, 3))
        self._weights = np.empty(0)
        self._blocks: list[slice] = []
        self._values: list[np.ndarray] = []
        self._kept = -1

    def move(self, coordinates: np.ndarray, weights: np.ndarray) -> None:
        """Take the grid of a new geometry: coordinates (n_points, 3) bohr, weights (n_points,)."""
        if len(weights) != len(self._weights):
            starts = range(0, len(weights), _BLOCK_POINTS)
            self._blocks = [slice(i, min(i + _BLOCK_POINTS, len(weights))) for i in starts]
            self._values = []
        self._coordinates, self._weights = coordinates, weights
        self._kept = self._derivatives_that_fit()
        if self._kept < 0:
            return
        # The memory of the last geometry is written over: fresh pages would cost as much time as
        # the functions themselves.
        old = self._values or [None] * len(self._blocks)
        pairs = zip(self._blocks, old, strict=True)
        self._values = [self._evaluate(block, self._kept, out) for block, out in pairs]

    def _derivatives_that_fit(self) -> int:
        """Highest derivative of the basis functions that fits in memory: 2, 1 or -1 (nothing)."""
        one = 8.0 * self._molecule.nao * len(self._weights)
        if 10 * one <= self._max_bytes:
            return 2
        return 1 if 4 * one <= self._max_bytes else -1

    def _evaluate(self, block: slice, derivatives: int, out: np.ndarray | None = None):
        """Basis functions and derivatives (n_components, n_basis, n_points) on a block."""
        name = f"GTOval_sph_deriv{derivatives}"
        values = self._molecule.eval_gto(name, self._coordinates[block], out=out)
        return values.transpose(0, 2, 1)

    def _loop(self, derivatives: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for i, block in enumerate(self._blocks):
            if self._kept >= derivatives:
                yield self._values[i], self._weights[block]
            else:
                yield self._evaluate(block, derivatives), self._weights[block]

    def _density(self, transposed: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Orbitals (4, n_occupied, n_points) with first derivatives; density (4, n_points)."""
        orbitals = transposed @ values[:4]
        density = 4.0 * np.einsum("ip,xip->xp", orbitals[0], orbitals)
        density[0] *= 0.5
        return orbitals, density

    def _potential(self, density: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
        """Energy of a block and the weighted potential (4, n_points) of density and gradient."""
        energy, potential = self._library.eval_xc_eff(
            self._functional, density, deriv=1, xctype="GGA", spin=0
        )[:2]
        return float(np.dot(weights * density[0], energy)), potential * weights

    def fock(self, occupied: np.ndarray) -> tuple[float, np.ndarray]:
        """Energy (hartree) and potential matrix of occupied orbitals (n_basis, n_occupied)."""
        transposed = np.ascontiguousarray(occupied.T)
        matrix = np.zeros((len(occupied), len(occupied)))
        energy = 0.0
        for values, weights in self._loop(1):
            _, density = self._density(transposed, values)
            part, potential = self._potential(density, weights)
            energy += part
            potential[0] *= 0.5  # the transpose is added at the end
            weighted = np.einsum("xp,xmp->mp", potential, values[:4])
            matrix += values[0] @ weighted.T
        return energy, matrix + matrix.T

    def gradient(self, occupied: np.ndarray) -> np.ndarray:
        """Gradient (n_atoms, 3), hartree/bohr; the grid's own movement is left out, as usual."""
        transposed = np.ascontiguousarray(occupied.T)
        by_function = np.zeros((3, len(occupied)))
        for values, weights in self._loop(2):
            orbitals, density = self._density(transposed, values)
            _, potential = self._potential(density, weights)
            # Density matrix times functions, times potential: 2 C (v C^T phi).
            plain = occupied @ orbitals[0]
            mixed = occupied @ np.einsum("xp,xip->ip", potential, orbitals)
            directed = potential[1:, None, :] * plain
            for x in range(3):
                by_function[x] += np.einsum("mp,mp->m", values[1 + x], mixed)
                for y in range(3):
                    by_function[x] += np.einsum("mp,mp->m", values[_SECOND[x][y]], directed[y])
        ranges = self._molecule.aoslice_by_atom()[:, 2:]
        return np.array([-4.0 * by_function[:, start:stop].sum(axis=1) for start, stop in ranges])
