"""Energy, Fock matrix and gradient of restricted Kohn-Sham theory at one geometry after another.

The self-consistency loop and the dynamics know only this interface: `move`, `fock`, `gradient`,
in hartree and bohr. What depends on the geometry alone is computed once in `move`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from pyscf import df, dft, gto
from pyscf.grad.rks import Gradients

from pipelines.coulomb import FittedCoulomb
from pipelines.exchange_correlation import GridFunctional, grid_order
from pipelines.timing import Stopwatch
from tg80.theory import EVEN_TEMPERED, Level, symbols_of

# What a worker needs besides what it keeps of a geometry: libraries and passing arrays, bytes.
_BASE_BYTES = 0.6e9
_LEAST_CACHE_BYTES = 0.05e9
# The order of the grid points is found anew once an atom has moved this far, bohr.
_GRID_REACH = 2.0


@dataclass(frozen=True)
class FockBuild:
    """Energy and Fock matrix of one set of occupied orbitals.

    Attributes:
        energy: total energy, hartree.
        matrix: Fock matrix (n_basis, n_basis), hartree.
    """

    energy: float
    matrix: np.ndarray


class KohnShamHamiltonian:
    """One molecule at a Kohn-Sham level, moved from geometry to geometry.

    Args:
        level: a Kohn-Sham level.
        atomic_numbers: (n_atoms,) int.
        charge: total charge, e.
        memory_gb: memory the whole process may take, 1e9 bytes; three-centre integrals that don't
            fit are evaluated anew whenever they are needed.
        threads: CPU threads.

    Attributes:
        n_occupied: doubly occupied orbitals.
        overlap: (n_basis, n_basis) at the present geometry.
        overlap_root, overlap_inverse_root: S^1/2 and S^-1/2.
        grid_geometry: (n_atoms, 3) bohr, for which the grid's points were put in order; None
            before the first geometry. Sums run in that order, so it belongs to an engine's state.
        stopwatch: seconds by part of the work.
    """

    def __init__(
        self, level: Level, atomic_numbers, charge: int, memory_gb: float = 2.0, threads: int = 1
    ):
        self.level = level
        self.stopwatch = Stopwatch()
        # Placed on a line for the build alone: every geometry comes through `move`.
        atoms = [
            (symbol, (0.0, 0.0, 3.0 * i)) for i, symbol in enumerate(symbols_of(atomic_numbers))
        ]
        self.molecule = gto.M(
            atom=atoms, unit="Bohr", basis=level.basis, charge=charge, spin=0, verbose=0,
            symmetry=False, parse_arg=False, dump_input=False,
        )  # fmt: skip
        self.n_occupied = self.molecule.nelectron // 2
        self.grid_geometry: np.ndarray | None = None
        self._ordered_for: np.ndarray | None = None
        self._order = np.empty(0, dtype=int)
        self._core = np.empty(0)
        self._nuclear_repulsion = 0.0
        budget = max(1e9 * memory_gb - _BASE_BYTES, _LEAST_CACHE_BYTES)
        self._coulomb_fit: FittedCoulomb | None = None
        if level.auxiliary_basis is not None:
            auxiliary: Any = level.auxiliary_basis
            if auxiliary == EVEN_TEMPERED:
                auxiliary = df.aug_etb(self.molecule, beta=level.even_tempered_beta)
            self._coulomb_fit = FittedCoulomb(self.molecule, auxiliary, budget, threads)
        self.mean_field: Any = self._make_mean_field()
        self._functional = GridFunctional(self.molecule, level.functional, threads)

    def _make_mean_field(self) -> Any:
        # PySCF mixes classes at run time, so that no static type describes its objects.
        mean_field: Any = dft.RKS(self.molecule, xc=self.level.functional)
        mean_field.grids.level = self.level.grid_level
        mean_field.small_rho_cutoff = self.level.small_rho_cutoff
        mean_field.chkfile = None
        if self.level.auxiliary_basis is None:
            return mean_field
        auxiliary = self.level.auxiliary_basis
        if auxiliary == EVEN_TEMPERED:
            auxiliary = df.aug_etb(self.molecule, beta=self.level.even_tempered_beta)
        # A pure functional needs no exchange: only_dfj fits the Coulomb energy alone (RI-J).
        return mean_field.density_fit(auxbasis=auxiliary, only_dfj=True)

    def move(self, positions_bohr: np.ndarray) -> None:
        """Take a new geometry (n_atoms, 3), bohr; forget all integrals of the last one."""
        self.molecule.set_geom_(np.asarray(positions_bohr), unit="Bohr")
        self.mean_field.reset(self.molecule)
        with self.stopwatch("grid"):
            grid = self.mean_field.grids.build(sort_grids=False)
            order = self._grid_order(positions_bohr)
        with self.stopwatch("grid"):
            self._functional.move(grid.coords[order], grid.weights[order])
        with self.stopwatch("one-electron integrals"):
            self.overlap = self.mean_field.get_ovlp()
            values, vectors = np.linalg.eigh(self.overlap)
            self.overlap_root = (vectors * np.sqrt(values)) @ vectors.T
            self.overlap_inverse_root = (vectors / np.sqrt(values)) @ vectors.T
            self._core = self.mean_field.get_hcore()
            self._nuclear_repulsion = float(self.molecule.energy_nuc())
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

    def guess(self) -> np.ndarray:
        """Occupied orbitals (n_basis, n_occupied) from atomic densities, without any history."""
        density = self.mean_field.get_init_guess(self.molecule, "minao")
        potential = self.mean_field.get_veff(self.molecule, density)
        fock = self._core + np.asarray(potential)
        _, orbitals = scipy.linalg.eigh(fock, self.overlap)
        return orbitals[:, : self.n_occupied]

    def density(self, occupied: np.ndarray) -> np.ndarray:
        """Density matrix 2 C C^T of occupied orbitals (n_basis, n_occupied)."""
        return 2.0 * (occupied @ occupied.T)

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
        return np.asarray(self.mean_field.get_j(self.molecule, density, hermi=1))

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
        potential = Gradients(self.mean_field).get_j(self.molecule, density)
        ranges = self.molecule.aoslice_by_atom()[:, 2:]
        pulls = np.einsum("xij,ij->xi", potential, density)
        return 2.0 * np.array([pulls[:, i:j].sum(axis=1) for i, j in ranges])

    def _one_electron_gradient(
        self, fock: np.ndarray, occupied: np.ndarray, density: np.ndarray
    ) -> np.ndarray:
        """Nuclear repulsion, kinetic energy, attraction, and orbitals kept orthonormal."""
        method = Gradients(self.mean_field)
        core_derivative = method.hcore_generator(self.molecule)
        # The energy-weighted density of the very orbitals the energy belongs to.
        weighted = 2.0 * occupied @ (occupied.T @ fock @ occupied) @ occupied.T
        pulls = -2.0 * np.einsum("xij,ij->xi", method.get_ovlp(self.molecule), weighted)
        gradient = np.array(method.grad_nuc(self.molecule))
        for atom, (start, stop) in enumerate(self.molecule.aoslice_by_atom()[:, 2:]):
            gradient[atom] += np.einsum("xij,ij->x", core_derivative(atom), density)
            gradient[atom] += pulls[:, start:stop].sum(axis=1)
        return gradient

    def mulliken_charges(self, occupied: np.ndarray) -> np.ndarray:
        """Mulliken charges (n_atoms,), e."""
        density = self.density(occupied)
        _, charges = self.mean_field.mulliken_pop(self.molecule, density, self.overlap, verbose=0)
        return charges

    def dipole(self, occupied: np.ndarray) -> np.ndarray:
        """Dipole moment (3,) about the origin of the coordinates, e bohr."""
        density = self.density(occupied)
        return self.mean_field.dip_moment(self.molecule, density, unit="AU", verbose=0)
