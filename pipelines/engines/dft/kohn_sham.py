"""Energy, Fock matrix and gradient of restricted Kohn-Sham theory on the CPU.

What depends on the geometry alone is computed once in `move`.
"""

from typing import Any

import numpy as np
from pyscf import dft
from pyscf.grad.rks import Gradients

from pipelines.engines.dft.coulomb import FittedCoulomb
from pipelines.engines.dft.exchange_correlation import GridFunctional, grid_order
from pipelines.engines.dft.hamiltonian import (
    FockBuild,
    Hamiltonian,
    auxiliary_basis_of,
    make_mean_field,
)
from tg80.theory import Level

# What a worker takes besides three-centre integrals: libraries and passing arrays, bytes.
_BASE_BYTES = 0.6e9
_LEAST_CACHE_BYTES = 0.05e9
# The order of the grid points is found anew once an atom has moved this far, bohr.
_GRID_REACH = 2.0


class KohnShamHamiltonian(Hamiltonian):
    """A Hamiltonian whose grid and Coulomb work is done by compiled loops of our own.

    Args:
        level, atomic_numbers, charge: see `Hamiltonian`.
        memory_gb: three-centre integrals are kept if they fit into this less 0.6, else evaluated
            anew whenever they are needed, 1e9 bytes.
        threads: CPU threads.
    """

    def __init__(
        self, level: Level, atomic_numbers, charge: int, memory_gb: float = 2.0, threads: int = 1
    ):
        super().__init__(level, atomic_numbers, charge)
        self._ordered_for: np.ndarray | None = None
        self._order = np.empty(0, dtype=int)
        budget = max(1e9 * memory_gb - _BASE_BYTES, _LEAST_CACHE_BYTES)
        self._coulomb_fit: FittedCoulomb | None = None
        auxiliary = auxiliary_basis_of(level, self.molecule)
        if auxiliary is not None:
            self._coulomb_fit = FittedCoulomb(self.molecule, auxiliary, budget, threads)
        self._mean_field = make_mean_field(dft.RKS, level, self.molecule, only_dfj=True)
        self._functional = GridFunctional(self.molecule, level.functional, threads)

    @property
    def mean_field(self) -> Any:
        """PySCF's own object at the present geometry."""
        return self._mean_field

    def move(self, positions_bohr: np.ndarray) -> None:
        """Take a new geometry (n_atoms, 3), bohr; forget all integrals of the last one."""
        self.molecule.set_geom_(np.asarray(positions_bohr), unit="Bohr")
        self._mean_field.reset(self.molecule)
        with self.stopwatch("grid"):
            grid = self._mean_field.grids.build(sort_grids=False)
            order = self._grid_order(positions_bohr)
            self._functional.move(grid.coords[order], grid.weights[order])
        with self.stopwatch("one-electron integrals"):
            self._take_one_electron(self._mean_field.get_hcore())
        if self._coulomb_fit is not None:
            with self.stopwatch("three-centre integrals"):
                self._coulomb_fit.move()

    def _grid_order(self, positions: np.ndarray) -> np.ndarray:
        """The order that belongs to `grid_geometry`, which is brought up to date if need be."""
        known = self.grid_geometry
        if known is None or np.abs(known - positions).max() > _GRID_REACH:
            self.grid_geometry = known = np.array(positions, dtype=np.float64)
        if self._ordered_for is None or not np.array_equal(self._ordered_for, known):
            reference: Any = self.molecule.set_geom_(known, unit="Bohr", inplace=False)
            grid: Any = dft.Grids(reference)
            grid.level = self.level.grid_level
            self._order = grid_order(reference, grid.build(sort_grids=False).coords)
            self._ordered_for = known.copy()
        return self._order

    def _potential(self, density: Any) -> np.ndarray:
        return np.asarray(self._mean_field.get_veff(self.molecule, density))

    def fock(self, occupied: np.ndarray) -> FockBuild:
        """Energy and Fock matrix of orthonormal occupied orbitals (n_basis, n_occupied)."""
        density = self.density(occupied)
        with self.stopwatch("Fock: Coulomb"):
            coulomb = self._coulomb(density)
        with self.stopwatch("Fock: exchange-correlation"):
            exchange_energy, exchange = self._functional.fock(occupied)
        energy = (
            np.vdot(self._core, density)
            + 0.5 * np.vdot(coulomb, density)
            + exchange_energy
            + self._nuclear_repulsion
        )
        return FockBuild(float(energy), self._core + coulomb + exchange)

    def _coulomb(self, density: np.ndarray) -> np.ndarray:
        if self._coulomb_fit is not None:
            return self._coulomb_fit.matrix(density)
        return np.asarray(self._mean_field.get_j(self.molecule, density, hermi=1))

    def gradient(self, fock: np.ndarray, occupied: np.ndarray) -> np.ndarray:
        """Nuclear gradient (n_atoms, 3), hartree/bohr, with the auxiliary basis's response.

        Args:
            fock: Fock matrix of these very orbitals.
            occupied: (n_basis, n_occupied), orthonormal.
        """
        density = self.density(occupied)
        with self.stopwatch("gradient: exchange-correlation"):
            gradient = self._functional.gradient(occupied)
        with self.stopwatch("gradient: Coulomb"):
            gradient = gradient + self._coulomb_gradient(density)
        with self.stopwatch("gradient: one-electron"):
            return gradient + self._one_electron_gradient(fock, occupied, density)

    def _coulomb_gradient(self, density: np.ndarray) -> np.ndarray:
        if self._coulomb_fit is not None:
            return self._coulomb_fit.gradient(density)
        potential = Gradients(self._mean_field).get_j(self.molecule, density)
        ranges = self.molecule.aoslice_by_atom()[:, 2:]
        pulls = np.einsum("xij,ij->xi", potential, density)
        return 2.0 * np.array([pulls[:, i:j].sum(axis=1) for i, j in ranges])

    def _one_electron_gradient(
        self, fock: np.ndarray, occupied: np.ndarray, density: np.ndarray
    ) -> np.ndarray:
        """Nuclear repulsion, kinetic energy, attraction, and orbitals kept orthonormal."""
        method = Gradients(self._mean_field)
        core_derivative = method.hcore_generator(self.molecule)
        # The energy-weighted density of the very orbitals the energy belongs to.
        weighted = 2.0 * occupied @ (occupied.T @ fock @ occupied) @ occupied.T
        pulls = -2.0 * np.einsum("xij,ij->xi", method.get_ovlp(self.molecule), weighted)
        gradient = np.array(method.grad_nuc(self.molecule))
        for atom, (start, stop) in enumerate(self.molecule.aoslice_by_atom()[:, 2:]):
            gradient[atom] += np.einsum("xij,ij->x", core_derivative(atom), density)
            gradient[atom] += pulls[:, start:stop].sum(axis=1)
        return gradient
