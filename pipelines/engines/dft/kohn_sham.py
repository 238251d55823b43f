"""Energy, Fock matrix and gradient of restricted Kohn-Sham theory on the CPU.

What depends on the geometry alone is computed once in `move`.
"""

from typing import Any

import numpy as np
from pyscf import dft, gto
from pyscf.grad.rks import Gradients

from pipelines.engines.dft.coulomb import FittedCoulomb
from pipelines.engines.dft.exchange_correlation import GradientTerm, GridFunctional
from pipelines.engines.dft.grids import OrderedGrid
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
        super().__init__(level, atomic_numbers, charge, threads)
        budget = max(1e9 * memory_gb - _BASE_BYTES, _LEAST_CACHE_BYTES)
        self._coulomb_fit: FittedCoulomb | None = None
        auxiliary = auxiliary_basis_of(level, self.molecule)
        if auxiliary is not None:
            self._coulomb_fit = FittedCoulomb(self.molecule, auxiliary, budget, threads)
            # Ten Coulomb matrices from integrals evaluated anew cost more than two fine grids.
            self.has_coarse_grid = self.has_coarse_grid and self._coulomb_fit.keeps_integrals
        self._mean_field = make_mean_field(dft.RKS, level, self.molecule, only_dfj=True)
        self._grid = OrderedGrid(self._mean_field.grids)
        self._functional = GridFunctional(self.molecule, level.functional, threads)

    @property
    def mean_field(self) -> Any:
        """PySCF's own object at the present geometry."""
        return self._mean_field

    def _move(self, grid_geometry: np.ndarray) -> np.ndarray:
        self._mean_field.reset(self.molecule)
        with self.stopwatch("grid"):
            self._functional.move(*self._grid.points(grid_geometry))
        if self._coulomb_fit is not None:
            with self.stopwatch("three-centre integrals"):
                self._coulomb_fit.move()
        with self.stopwatch("one-electron integrals"):
            return self._mean_field.get_hcore()

    def _potential(self, density: Any) -> np.ndarray:
        return np.asarray(self._mean_field.get_veff(self.molecule, density))

    def fock(self, occupied: np.ndarray, *, with_gradient: bool = False) -> FockBuild:
        """Energy and Fock matrix of occupied orbitals on the level's grid.

        Args:
            occupied: (n_basis, n_occupied), orthonormal.
            with_gradient: find the exchange-correlation gradient of these orbitals, too.
        """
        density = self.density(occupied)
        with self.stopwatch("Fock: Coulomb"):
            coulomb = self._coulomb(density)
        with self.stopwatch("Fock: exchange-correlation"):
            exchange_energy, exchange, potential, gradient = self._functional.fock(
                occupied, with_gradient=with_gradient
            )
        energy = self._energy(density, coulomb, exchange_energy)
        return FockBuild(energy, self._core + coulomb + exchange, potential, gradient)

    def _coulomb(self, density: np.ndarray) -> np.ndarray:
        if self._coulomb_fit is not None:
            return self._coulomb_fit.matrix(density)
        return np.asarray(self._mean_field.get_j(self.molecule, density, hermi=1))

    def gradient(self, build: FockBuild, occupied: np.ndarray) -> np.ndarray:
        """Nuclear gradient (n_atoms, 3), hartree/bohr, with the auxiliary basis's response.

        Args:
            build: of these very orbitals.
            occupied: (n_basis, n_occupied), orthonormal.
        """
        density = self.density(occupied)
        gradient = build.exchange_gradient
        if gradient is None:
            assert build.potential is not None
            with self.stopwatch("gradient: exchange-correlation"):
                gradient = self._functional.gradient(GradientTerm(occupied, build.potential))
        if build.coarse_terms:
            with self.stopwatch("coarse: gradient"):
                gradient = gradient + self._coarse.gradient(*build.coarse_terms)
        with self.stopwatch("gradient: Coulomb"):
            gradient = gradient + self._coulomb_gradient(density)
        with self.stopwatch("gradient: one-electron"):
            return gradient + self._one_electron_gradient(build.matrix, occupied, density)

    def _coulomb_gradient(self, density: np.ndarray) -> np.ndarray:
        """Of the Coulomb energy, and of the attraction by the nuclei."""
        if self._coulomb_fit is not None:
            return self._coulomb_fit.gradient(density)
        potential = Gradients(self._mean_field).get_j(self.molecule, density)
        attraction = self._potential_gradient(
            "int1e_ipnuc", "int1e_iprinv", -self.molecule.atom_charges(), density
        )
        return attraction + 2.0 * self._by_atom(potential, density)

    def _one_electron_gradient(
        self, fock: np.ndarray, occupied: np.ndarray, density: np.ndarray
    ) -> np.ndarray:
        """Nuclear repulsion, kinetic energy, core potentials, and orbitals kept orthonormal."""
        # The energy-weighted density of the very orbitals the energy belongs to.
        weighted = 2.0 * occupied @ (occupied.T @ fock @ occupied) @ occupied.T
        gradient = np.array(Gradients(self._mean_field).grad_nuc(self.molecule))
        gradient += 2.0 * self._by_atom(self.molecule.intor("int1e_ipovlp"), weighted)
        gradient -= 2.0 * self._by_atom(self.molecule.intor("int1e_ipkin"), density)
        if self.molecule.has_ecp():
            cores = np.isin(np.arange(self.molecule.natm), self.molecule._ecpbas[:, gto.ATOM_OF])
            gradient += self._potential_gradient(
                "ECPscalar_ipnuc", "ECPscalar_iprinv", 1.0 * cores, density
            )
        return gradient

    def _potential_gradient(
        self, of_all: str, of_one: str, factors: np.ndarray, density: np.ndarray
    ) -> np.ndarray:
        """Gradient (n_atoms, 3) of electrons in a potential that each atom has a part of.

        Args:
            of_all: PySCF's name of the integrals of orbitals' derivatives over the potential.
            of_one: the same over one atom's part, but for its factor.
            factors: (n_atoms,).
            density: (n_basis, n_basis).
        """
        molecule = self.molecule
        gradient = -2.0 * self._by_atom(molecule.intor(of_all), density)
        for atom in np.nonzero(factors)[0]:
            with molecule.with_rinv_at_nucleus(atom):
                pull = np.einsum("xij,ij->x", molecule.intor(of_one), density)
            gradient[atom] += 2.0 * factors[atom] * pull
        return gradient

    def _by_atom(self, derivatives: np.ndarray, density: np.ndarray) -> np.ndarray:
        """sum_j D_ij (d phi_i | phi_j), (3, n_basis, n_basis) to (n_atoms, 3), by the atom of i."""
        pulls = np.einsum("xij,ij->xi", derivatives, density)
        ranges = self.molecule.aoslice_by_atom()[:, 2:]
        return np.array([pulls[:, i:j].sum(axis=1) for i, j in ranges])
