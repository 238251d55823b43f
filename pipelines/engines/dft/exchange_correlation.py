"""Exchange-correlation energy, potential and gradient of a pure GGA on a numerical grid.

Points stand in blocks of neighbours, and basis functions are evaluated only where they matter. The
density comes from the occupied orbitals, the gradient goes straight to atoms, and its potential is
that of the same orbitals' Fock matrix. PBE is compiled here, other functionals are libxc's.

The gradient is that of the energy as the grid gives it: points move with their atoms, and their
weights change. Without that the energy of the dynamics is not conserved (furan at grid level 3
gained 0.16 meV/atom in a ps), and the forces are farther from those of a fine grid.

Basis functions are evaluated for every Fock matrix, chunk by chunk: that takes as long as reading
them back from memory, which workers side by side would have to share.

References:
    Pople, Gill, Johnson, doi:10.1016/0009-2614(92)85009-Y (GGA potential and gradient).
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from pyscf import dft, gto, lib

from pipelines.engines.dft.grids import size_ratios
from pipelines.engines.dft.kernels import grid_kernels as kernels
from pipelines.engines.dft.kernels.basis import gaussian_basis, moved, reach_levels
from pipelines.engines.dft.kernels.becke import add_weight_response
from pipelines.engines.dft.kernels.grid_gradient import add_gradient
from pipelines.engines.dft.kernels.grid_kernels import BLOCK_POINTS, Blocks
from pipelines.engines.dft.kernels.pbe import LIBXC_PARTS, pbe
from tg80.errors import UserError

# Blocks handled at once: few enough for the processor's cache, many enough for libxc.
_CHUNK_BLOCKS = 8
# A point is left out where its weight times the square of the largest orbital is below this, and a
# basis function where its value times the weight times that orbital is.
# They change energies by 1e-9 hartree, Fock matrices and gradients by a few 1e-8.
_SMALLEST_POINT = 1e-11
_SMALLEST_VALUE = 1e-9


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
        raise UserError(f"functional {functional!r} is not a pure GGA, such as PBE")


class GradientTerm(NamedTuple):
    """A density whose gradient counts.

    Attributes:
        occupied: (n_basis, n_occupied).
        potential: (5, n_points) from its `GridFunctional.fock`.
        factor: of its gradient in the sum.
    """

    occupied: np.ndarray
    potential: np.ndarray
    factor: float = 1.0


class GridFunctional:
    """A pure GGA on the grid of the present geometry.

    Args:
        molecule: PySCF molecule, moved by its owner.
        functional: libxc name.
        threads: blocks worked on side by side.
        keep: keep the basis functions of a geometry, which takes memory.
        slack: factor of the bounds below which points and functions are left out.
    """

    def __init__(
        self,
        molecule: gto.Mole,
        functional: str,
        threads: int = 1,
        *,
        keep: bool = False,
        slack: float = 1.0,
    ):
        check_functional(functional)
        self._molecule = molecule
        self._functional = functional
        self._is_pbe = tuple(sorted(dft.libxc.parse_xc(functional)[1])) == LIBXC_PARTS
        self._library = dft.numint.NumInt()
        self._basis = gaussian_basis(molecule)
        self._blocks = Blocks(*[np.empty(0)] * 4)
        self._weights = np.empty((0, BLOCK_POINTS))
        self._owners = np.empty((0, BLOCK_POINTS), dtype=int)
        self._sizes = size_ratios(molecule)
        self._chunks: list[tuple[int, int]] = []
        self._slack = slack
        self._pool: Any = None
        self._kept: dict[int, np.ndarray] | None = {} if keep else None
        self._scratch = threading.local()
        if threads > 1:
            # PySCF's own loops inside a block stay single-threaded.
            self._pool = ThreadPoolExecutor(threads, initializer=lib.num_threads, initargs=(1,))

    def move(self, coordinates: np.ndarray, weights: np.ndarray, owners: np.ndarray) -> None:
        """Take the grid of a new geometry.

        Args:
            coordinates: (n_points, 3) bohr.
            weights: (n_points,) bohr^3.
            owners: (n_points,) atoms that the points belong to.
        """
        self._basis = moved(self._basis, self._molecule)
        coordinates = np.ascontiguousarray(coordinates)
        sizes = np.empty(len(weights))
        charges = self._molecule.atom_charges().astype(np.float64)
        kernels.orbital_sizes(self._basis.centres, charges, coordinates, sizes)
        contributions = np.abs(weights) * sizes
        counts = contributions * sizes > self._slack * _SMALLEST_POINT
        n_blocks = -(-int(counts.sum()) // BLOCK_POINTS)
        missing = n_blocks * BLOCK_POINTS - int(counts.sum())
        # The last block is filled up with copies of the last point that weigh nothing.
        points = np.pad(coordinates[counts], ((0, missing), (0, 0)), mode="edge")
        self._weights = np.pad(weights[counts], (0, missing)).reshape(n_blocks, BLOCK_POINTS)
        owners = np.pad(owners[counts], (0, missing), mode="edge")
        self._owners = owners.reshape(n_blocks, BLOCK_POINTS)
        points = np.ascontiguousarray(points.reshape(n_blocks, BLOCK_POINTS, 3).transpose(0, 2, 1))
        self._chunks = [
            (first, min(first + _CHUNK_BLOCKS, n_blocks))
            for first in range(0, n_blocks, _CHUNK_BLOCKS)
        ]
        levels = reach_levels(self._slack * _SMALLEST_VALUE / contributions[counts])
        levels = np.pad(levels, (0, missing)).reshape(n_blocks, BLOCK_POINTS)
        self._find_rows(points, levels)
        if self._kept is not None:
            self._kept.clear()

    def _find_rows(self, points: np.ndarray, levels: np.ndarray) -> None:
        basis = self._basis
        present = np.empty((len(points), len(basis.shells)), dtype=np.bool_)
        self._map(lambda i, j: kernels.find_present(basis, points[i:j], levels[i:j], present[i:j]))
        sizes = 2 * basis.shells[:, 1] + 1
        by_function = np.repeat(present, sizes, axis=1)
        row_starts = np.concatenate([[0], np.cumsum(by_function.sum(axis=1))])
        rows = np.nonzero(by_function)[1]
        self._blocks = Blocks(points, present, row_starts, rows)

    def _values(self, first: int, last: int) -> np.ndarray:
        """Basis functions on a chunk, in this thread's scratch: valid until the next call."""
        if self._kept is not None and first in self._kept:
            return self._kept[first]
        starts = self._blocks.row_starts
        size = 4 * BLOCK_POINTS * int(starts[last] - starts[first])
        if self._kept is not None:
            self._kept[first] = scratch = np.empty(size)
        else:
            scratch = getattr(self._scratch, "values", np.empty(0))
        if len(scratch) < size:
            self._scratch.values = scratch = np.empty(int(1.2 * size))
        kernels.basis_values(self._basis, self._blocks, first, last, scratch)
        return scratch

    def _map(self, work: Callable[[int, int], Any]) -> list[Any]:
        """Results of work(first, last) on the chunks, in their order whatever the threads."""
        if self._pool is None:
            return [work(*chunk) for chunk in self._chunks]
        return list(self._pool.map(work, *zip(*self._chunks, strict=True)))

    def fock(
        self, occupied: np.ndarray, *, with_gradient: bool = False
    ) -> tuple[float, np.ndarray, np.ndarray, np.ndarray | None]:
        """Energy, potential matrix, potential on the grid and gradient of occupied orbitals.

        Args:
            occupied: (n_basis, n_occupied).
            with_gradient: the gradient, too, while the basis functions are there.

        Returns:
            Hartree; (n_basis, n_basis) hartree; (5, n_points) weighted derivatives of the energy
            density by the density and its gradient, and the weighted energy density itself;
            (n_atoms, 3) hartree/bohr, or None.
        """
        occupied = np.ascontiguousarray(occupied)
        potential = np.empty((5, self._weights.size))

        def work(first: int, last: int) -> tuple[float, np.ndarray, np.ndarray | None]:
            values = self._values(first, last)
            projected = self._project(first, last, values, occupied)
            rho = np.empty((4, (last - first) * BLOCK_POINTS))
            kernels.density(self._blocks, first, last, values, projected, rho)
            here = self._potential(rho, self._weights[first:last].ravel())
            matrix = np.zeros((len(occupied), len(occupied)))
            kernels.add_potential(self._blocks, first, last, values, here, matrix)
            potential[:, first * BLOCK_POINTS : last * BLOCK_POINTS] = here
            gradient = None
            if with_gradient:
                gradient = self._gradient(
                    first, last, values, here[None], occupied[None], projected[None], np.ones(1)
                )
            return float(here[4].sum()), matrix, gradient

        energies, matrices, gradients = zip(*self._map(work), strict=True)
        matrix = np.zeros((len(occupied), len(occupied)))
        for part in matrices:
            matrix += part
        gradient = np.sum(gradients, axis=0) if with_gradient else None
        return float(sum(energies)), matrix + matrix.T, potential, gradient

    def _potential(self, rho: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Weighted potential and energy (5, n_points) of a density and its gradient."""
        potential = np.empty((5, len(weights)))
        if self._is_pbe:
            pbe(rho, weights, potential)
            return potential
        energy, derivatives = self._library.eval_xc(self._functional, rho, spin=0, deriv=1)[:2]
        potential[0] = weights * derivatives[0]
        potential[1:4] = (2.0 * weights * derivatives[1]) * rho[1:]
        potential[4] = weights * rho[0] * energy
        return potential

    def gradient(self, *terms: GradientTerm) -> np.ndarray:
        """Gradient (n_atoms, 3), hartree/bohr, with the response of the grid, summed over terms."""
        potentials = np.array([term.potential for term in terms])
        occupied = np.array([term.occupied for term in terms])
        factors = np.array([term.factor for term in terms])

        def work(first: int, last: int) -> np.ndarray:
            points = slice(first * BLOCK_POINTS, last * BLOCK_POINTS)
            # As it comes from a Fock matrix, so that one form is compiled.
            here = np.ascontiguousarray(potentials[:, :, points])
            values = self._values(first, last)
            projected = np.array([self._project(first, last, values, one) for one in occupied])
            return self._gradient(first, last, values, here, occupied, projected, factors)

        return np.sum(self._map(work), axis=0)

    def _project(
        self, first: int, last: int, values: np.ndarray, occupied: np.ndarray
    ) -> np.ndarray:
        """C C^T phi on a chunk; see `kernels.project`."""
        starts = self._blocks.row_starts
        projected = np.empty(BLOCK_POINTS * int(starts[last] - starts[first]))
        kernels.project(self._blocks, first, last, values, occupied, projected)
        return projected

    def _gradient(
        self,
        first: int,
        last: int,
        values: np.ndarray,
        potentials: np.ndarray,
        occupied: np.ndarray,
        projected: np.ndarray,
        factors: np.ndarray,
    ) -> np.ndarray:
        """The part of a chunk; see `add_gradient`."""
        gradient = np.zeros((len(self._basis.centres), 3))
        owners = self._owners
        add_gradient(
            self._basis, self._blocks, first, last, values, owners, potentials, occupied, projected,
            factors, gradient,
        )  # fmt: skip
        energies = (factors @ potentials[:, 4]).reshape(last - first, BLOCK_POINTS)
        add_weight_response(
            self._blocks.points[first:last], owners[first:last], energies, self._basis.centres,
            self._sizes, gradient,
        )  # fmt: skip
        return gradient
