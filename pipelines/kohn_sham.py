"""Energy, Fock matrix and gradient of restricted Kohn-Sham theory at one geometry after another.

The self-consistency loop and the dynamics know only this interface: `move`, `fock`, `gradient`,
in hartree and bohr. What depends on the geometry alone is computed once in `move`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from pyscf import df, dft, gto
from pyscf.df.grad.rks import Gradients as FittedGradients
from pyscf.grad.rks import Gradients as ExactGradients
from pyscf.lib import pack_tril, tag_array, unpack_tril

from pipelines.exchange_correlation import GridFunctional
from tg80.theory import EVEN_TEMPERED, Level, symbols_of

# Larger sets of three-centre integrals, or of basis functions on the grid, are not kept for a
# geometry but evaluated anew whenever they are needed.
_MAX_CACHE_BYTES = 1_000_000_000


class _FittedCoulombGradient(FittedGradients):
    """PySCF's gradient with the fitted Coulomb term alone; exchange-correlation is added to it."""

    def get_veff(self, mol=None, dm=None):
        coulomb = self.get_j(mol, dm)
        return tag_array(coulomb, aux=coulomb.aux.sum((0, 1)))


class _ExactCoulombGradient(ExactGradients):
    """The same with the exact Coulomb term."""

    def get_veff(self, mol=None, dm=None):
        return self.get_j(mol, dm)


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

    Attributes:
        n_occupied: doubly occupied orbitals.
        overlap: (n_basis, n_basis) at the present geometry.
        overlap_root, overlap_inverse_root: S^1/2 and S^-1/2.
    """

    def __init__(self, level: Level, atomic_numbers, charge: int):
        self.level = level
        # Placed on a line for the build alone: every geometry comes through `move`.
        atoms = [
            (symbol, (0.0, 0.0, 3.0 * i)) for i, symbol in enumerate(symbols_of(atomic_numbers))
        ]
        self.molecule = gto.M(
            atom=atoms, unit="Bohr", basis=level.basis, charge=charge, spin=0, verbose=0,
            symmetry=False, parse_arg=False, dump_input=False,
        )  # fmt: skip
        self.n_occupied = self.molecule.nelectron // 2
        self._core = np.empty(0)
        self._nuclear_repulsion = 0.0
        self._three_centre: Any = None  # (n_pairs, n_auxiliary), or None if not kept
        self._auxiliary_metric: Any = None
        self.mean_field: Any = self._make_mean_field()
        self._functional = GridFunctional(self.molecule, level.functional, _MAX_CACHE_BYTES)

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
        grid = self.mean_field.grids.build(sort_grids=False)
        self._functional.move(grid.coords, grid.weights)
        self.overlap = self.mean_field.get_ovlp()
        values, vectors = np.linalg.eigh(self.overlap)
        self.overlap_root = (vectors * np.sqrt(values)) @ vectors.T
        self.overlap_inverse_root = (vectors / np.sqrt(values)) @ vectors.T
        self._core = self.mean_field.get_hcore()
        self._nuclear_repulsion = float(self.molecule.energy_nuc())
        self._fit_coulomb()

    def _fit_coulomb(self) -> None:
        self._three_centre = self._auxiliary_metric = None
        if self.level.auxiliary_basis is None:
            return
        fit = self.mean_field.with_df
        fit.auxmol = df.addons.make_auxmol(self.molecule, fit.auxbasis)
        n_pairs = self.molecule.nao * (self.molecule.nao + 1) // 2
        if 8 * n_pairs * fit.auxmol.nao > _MAX_CACHE_BYTES:
            return
        integrals = df.incore.aux_e2(self.molecule, fit.auxmol, "int3c2e", aosym="s2ij")
        self._three_centre = integrals
        self._auxiliary_metric = scipy.linalg.cho_factor(fit.auxmol.intor("int2c2e"), lower=True)

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
        coulomb = self._coulomb(density)
        exchange_energy, exchange = self._functional.fock(occupied)
        energy = (
            np.vdot(self._core, density)
            + 0.5 * np.vdot(coulomb, density)
            + exchange_energy
            + self._nuclear_repulsion
        )
        return FockBuild(float(energy), self._core + coulomb + exchange)

    def _coulomb(self, density: np.ndarray) -> np.ndarray:
        """Coulomb matrix: fitted from the integrals in memory, else by PySCF.

        References:
            RI-J: Eichkorn et al., doi:10.1016/0009-2614(95)00621-A.
        """
        if self._three_centre is None:
            return np.asarray(self.mean_field.get_j(self.molecule, density, hermi=1))
        # Off-diagonal pairs are stored once and count twice.
        packed = pack_tril(2.0 * density - np.diag(np.diag(density)))
        fitted = scipy.linalg.cho_solve(self._auxiliary_metric, packed @ self._three_centre)
        return unpack_tril(self._three_centre @ fitted)

    def gradient(self, fock: np.ndarray, occupied: np.ndarray) -> np.ndarray:
        """Nuclear gradient (n_atoms, 3), hartree/bohr, with the auxiliary basis's response.

        Args:
            fock: Fock matrix of these very orbitals.
            occupied: (n_basis, n_occupied), orthonormal.
        """
        # Canonical within the occupied space: the energy-weighted density is then that of the
        # orbitals the energy belongs to, not of the next iterate.
        energies, rotation = np.linalg.eigh(occupied.T @ fock @ occupied)
        orbitals = np.ascontiguousarray(occupied @ rotation)
        fitted = self.level.auxiliary_basis is not None
        method = (_FittedCoulombGradient if fitted else _ExactCoulombGradient)(self.mean_field)
        coulomb = method.kernel(energies, orbitals, np.full(self.n_occupied, 2.0))
        return coulomb + self._functional.gradient(orbitals)

    def mulliken_charges(self, occupied: np.ndarray) -> np.ndarray:
        """Mulliken charges (n_atoms,), e."""
        density = self.density(occupied)
        _, charges = self.mean_field.mulliken_pop(self.molecule, density, self.overlap, verbose=0)
        return charges

    def dipole(self, occupied: np.ndarray) -> np.ndarray:
        """Dipole moment (3,) about the origin of the coordinates, e bohr."""
        density = self.density(occupied)
        return self.mean_field.dip_moment(self.molecule, density, unit="AU", verbose=0)
