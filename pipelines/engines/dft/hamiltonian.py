"""What the Hamiltonians of the CPU and of the GPU have in common: a molecule that moves.

The self-consistency loops and the dynamics know only this interface: `move`, `fock`, `coarse_fock`
and `gradient`, in hartree and bohr. The coarse grid is too little work for a GPU: both Hamiltonians
have it here, on the CPU.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from pyscf import df, gto
from pyscf.scf import hf

from pipelines.engines.dft.exchange_correlation import GradientTerm, GridFunctional
from pipelines.engines.dft.grids import OrderedGrid, coarse_grid
from tg80.theory import EVEN_TEMPERED, Level, atomic_number_of, symbols_of

# The heaviest element all of whose electrons the def2 basis sets hold.
_LAST_WHOLE_ATOM = 36
# Levels of a smaller gradient threshold are reference levels: their fine grid alone decides.
_LEAST_FOR_TWO_GRIDS = 1e-5
# Only differences between two densities are asked of the coarse grid.
_COARSE_SLACK = 1e3
# The order of the grid points is found anew once an atom has moved this far, bohr.
_GRID_REACH = 2.0


@dataclass(frozen=True)
class FockBuild:
    """Energy and Fock matrix of one set of occupied orbitals, and what their gradient needs.

    Attributes:
        energy: total energy, hartree.
        matrix: Fock matrix (n_basis, n_basis), hartree.
        potential: exchange-correlation potential on the grid, (5, n_points); None where the
            Hamiltonian's gradient evaluates its own.
        exchange_gradient: gradient (n_atoms, 3) of the exchange-correlation energy, if it was
            asked for, hartree/bohr.
        coarse_terms: what the coarse grid adds to that gradient.
    """

    energy: float
    matrix: np.ndarray
    potential: np.ndarray | None = None
    exchange_gradient: np.ndarray | None = None
    coarse_terms: tuple[GradientTerm, ...] = ()


def auxiliary_basis_of(level: Level, molecule: gto.Mole) -> Any:
    """The basis the Coulomb energy is fitted in: a name or PySCF's dictionary; None without a fit.

    An even-tempered one is made from the molecule's own basis.
    """
    if level.auxiliary_basis == EVEN_TEMPERED:
        return df.aug_etb(molecule, beta=level.even_tempered_beta)
    return level.auxiliary_basis


def core_potentials_of(level: Level, symbols: Iterable[str]) -> dict[str, str | None]:
    """Effective core potentials that belong to the level's basis, as PySCF's `ecp`."""
    heavy = {symbol for symbol in symbols if atomic_number_of(symbol) > _LAST_WHOLE_ATOM}
    return dict.fromkeys(sorted(heavy), level.basis)


def make_mean_field(
    kind: Callable[..., Any], level: Level, molecule: gto.Mole, *, only_dfj: bool = False
) -> Any:
    """A mean-field object of the level.

    PySCF and GPU4PySCF mix classes at run time, so that no static type describes the result.

    Args:
        kind: class of the object: RKS or UKS of PySCF, RKS of GPU4PySCF.
        level: a Kohn-Sham level.
        molecule: of any geometry.
        only_dfj: fit the Coulomb energy alone (RI-J). A pure functional never asks for exchange,
            so that this changes no result; GPU4PySCF 1.9.0 can't do it: it then passes the
            molecule where the density matrix is expected.
    """
    mean_field: Any = kind(molecule, xc=level.functional)
    mean_field.grids.level = level.grid_level
    mean_field.small_rho_cutoff = level.small_rho_cutoff
    mean_field.chkfile = None
    auxiliary = auxiliary_basis_of(level, molecule)
    if auxiliary is None:
        return mean_field
    return mean_field.density_fit(auxbasis=auxiliary, only_dfj=only_dfj)


class Hamiltonian(ABC):
    """One molecule at a Kohn-Sham level, moved from geometry to geometry.

    Args:
        level: a Kohn-Sham level.
        atomic_numbers: (n_atoms,) int.
        charge: total charge, e.
        threads: CPU threads of the coarse grid.

    Attributes:
        level, atomic_numbers, charge: as given.
        molecule: PySCF's molecule at the present geometry.
        n_occupied: doubly occupied orbitals.
        overlap: (n_basis, n_basis) at the present geometry.
        overlap_root, overlap_inverse_root: S^1/2 and S^-1/2.
        grid_geometry: (n_atoms, 3) bohr, for which the grid's points were put in order; None
            before the first geometry. Sums run in that order, so it belongs to an engine's state.
        stopwatch: seconds by part of the work.
        has_coarse_grid: whether `coarse_fock` may be asked for.
    """

    overlap: np.ndarray
    overlap_root: np.ndarray
    overlap_inverse_root: np.ndarray

    def __init__(self, level: Level, atomic_numbers, charge: int, threads: int = 1):
        self.level = level
        self.atomic_numbers = np.asarray(atomic_numbers, dtype=int)
        self.charge = charge
        self.stopwatch = Stopwatch()
        # Placed on a line for the build alone: every geometry comes through `move`.
        symbols = symbols_of(atomic_numbers)
        atoms = [(symbol, (0.0, 0.0, 3.0 * i)) for i, symbol in enumerate(symbols)]
        self.molecule = gto.M(
            atom=atoms, unit="Bohr", basis=level.basis, charge=charge, spin=0, verbose=0,
            symmetry=False, parse_arg=False, dump_input=False,
            ecp=core_potentials_of(level, symbols),
        )  # fmt: skip
        self.n_occupied = self.molecule.nelectron // 2
        self.grid_geometry: np.ndarray | None = None
        self._core = np.empty(0)
        self._nuclear_repulsion = 0.0
        # Without a fit the Coulomb matrix, which both grids need, costs more than the fine grid.
        fitted, limit = level.auxiliary_basis is not None, level.gradient_threshold or 0.0
        self.has_coarse_grid = fitted and limit >= _LEAST_FOR_TWO_GRIDS
        self._coarse_grid = OrderedGrid(coarse_grid(self.molecule))
        self._coarse = GridFunctional(
            self.molecule, level.functional, threads, keep=True, slack=_COARSE_SLACK
        )

    def evaluation(self) -> AbstractContextManager[None]:
        """Enter this around everything that is asked of one geometry."""
        return nullcontext()

    @property
    @abstractmethod
    def mean_field(self) -> Any:
        """PySCF's own object at the present geometry."""

    def move(self, positions_bohr: np.ndarray) -> None:
        """Take a new geometry (n_atoms, 3), bohr; forget all integrals of the last one."""
        positions = np.array(positions_bohr, dtype=np.float64)
        self.molecule.set_geom_(positions, unit="Bohr")
        known = self.grid_geometry
        if known is None or np.abs(known - positions).max() > _GRID_REACH:
            self.grid_geometry = known = positions
        self._core = self._move(known)
        # The overlap is PySCF's on the GPU too: the history of orbitals refers to this very matrix.
        self.overlap = self.molecule.intor_symmetric("int1e_ovlp")
        values, vectors = np.linalg.eigh(self.overlap)
        self.overlap_root = (vectors * np.sqrt(values)) @ vectors.T
        self.overlap_inverse_root = (vectors / np.sqrt(values)) @ vectors.T
        self._nuclear_repulsion = float(self.molecule.energy_nuc())
        if self.has_coarse_grid:
            with self.stopwatch("coarse grid"):
                self._coarse.move(*self._coarse_grid.points(known))

    @abstractmethod
    def _move(self, grid_geometry: np.ndarray) -> np.ndarray:
        """Follow the molecule to its new geometry.

        Args:
            grid_geometry: (n_atoms, 3) bohr, for which grid points are to be put in order.

        Returns:
            The core Hamiltonian (n_basis, n_basis), hartree.
        """

    @abstractmethod
    def fock(self, occupied: np.ndarray, *, with_gradient: bool = False) -> FockBuild:
        """Energy and Fock matrix of occupied orbitals on the level's grid.

        Args:
            occupied: (n_basis, n_occupied), orthonormal.
            with_gradient: the gradient of these very orbitals will be wanted, or one of others
                with this potential: what is cheaper to find along with the Fock matrix is found.
        """

    def coarse_fock(self, occupied: np.ndarray) -> FockBuild:
        """Energy and Fock matrix of occupied orbitals (n_basis, n_occupied) on the coarse grid."""
        density = self.density(occupied)
        with self.stopwatch("coarse: Coulomb"):
            coulomb = self._coulomb(density)
        with self.stopwatch("coarse: exchange-correlation"):
            exchange_energy, exchange, potential, _ = self._coarse.fock(occupied)
        energy = self._energy(density, coulomb, exchange_energy)
        return FockBuild(energy, self._core + coulomb + exchange, potential)

    def _energy(self, density: np.ndarray, coulomb: np.ndarray, exchange: float) -> float:
        one_electron = float(np.vdot(self._core, density))
        repulsion = 0.5 * float(np.vdot(coulomb, density)) + self._nuclear_repulsion
        return one_electron + repulsion + exchange

    @abstractmethod
    def gradient(self, build: FockBuild, occupied: np.ndarray) -> np.ndarray:
        """Nuclear gradient (n_atoms, 3), hartree/bohr, with the auxiliary basis's response.

        Args:
            build: of these very orbitals.
            occupied: (n_basis, n_occupied), orthonormal.
        """

    @abstractmethod
    def _coulomb(self, density: np.ndarray) -> np.ndarray:
        """Coulomb matrix (n_basis, n_basis) of a density matrix."""

    @abstractmethod
    def _potential(self, density: Any) -> np.ndarray:
        """Coulomb and exchange-correlation matrix (n_basis, n_basis) of a density matrix."""

    def guess(self) -> np.ndarray:
        """Occupied orbitals (n_basis, n_occupied) from atomic densities, without any history."""
        fock = self._core + self._potential(hf.init_guess_by_minao(self.molecule))
        _, orbitals = scipy.linalg.eigh(fock, self.overlap)
        return orbitals[:, : self.n_occupied]

    def density(self, occupied: np.ndarray) -> np.ndarray:
        """Density matrix 2 C C^T of occupied orbitals (n_basis, n_occupied)."""
        return 2.0 * (occupied @ occupied.T)

    def mulliken_charges(self, occupied: np.ndarray) -> np.ndarray:
        """Mulliken charges (n_atoms,), e."""
        density = self.density(occupied)
        _, charges = hf.mulliken_pop(self.molecule, density, self.overlap, verbose=0)
        return np.asarray(charges)

    def dipole(self, occupied: np.ndarray) -> np.ndarray:
        """Dipole moment (3,) about the origin of the coordinates, e bohr."""
        return hf.dip_moment(self.molecule, self.density(occupied), unit="AU", verbose=0)


class Stopwatch:
    """Adds up wall-clock seconds under names.

    Attributes:
        seconds: by name, in the order the names first came.
    """

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count the time inside the `with` block under `name`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
