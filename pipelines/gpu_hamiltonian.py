"""The Kohn-Sham Hamiltonian of a geometry by PySCF's own classes, on the CPU or on a GPU.

GPU4PySCF mirrors PySCF's classes with CuPy arrays. So one Hamiltonian serves both; what differs
between the two is a `KohnShamLibrary`. Fock matrices and gradients are built on the device;
everything between them (extrapolation, orthogonalisation, convergence) is the CPU engine's own
code on matrices of a few hundred rows, which a GPU would do no faster and which several
trajectories would otherwise queue up for.

What is used of GPU4PySCF: `dft.rks.RKS`, `density_fit`, `reset`, `get_hcore`, `get_veff` with its
`ecoul` and `exc`, `nuc_grad_method().kernel(mo_energy, mo_coeff, mo_occ)` and `tag_array`. Its
own SCF loop is not: its level shift accepts an energy change *or* a gradient below threshold, and
its damping acts only on the cycles before DIIS starts.

References:
    Wu et al., doi:10.48550/arXiv.2404.09452 (GPU4PySCF).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from pyscf import df, dft, gto, lib
from pyscf.scf import hf

from pipelines.exchange_correlation import check_functional
from pipelines.gpu_devices import find_gpus, take_gpu
from pipelines.kohn_sham import FockBuild
from pipelines.timing import Stopwatch
from tg80.theory import EVEN_TEMPERED, Level, symbols_of


@dataclass(frozen=True)
class KohnShamLibrary:
    """Restricted Kohn-Sham classes and the arrays they work on.

    Attributes:
        name: for messages.
        rks: (molecule, xc=functional) -> mean field.
        to_device: NumPy array -> array of the library.
        to_host: array of the library -> NumPy array.
        tag: (density matrix, mo_coeff=, mo_occ=) -> the density with its orbitals attached.
        held_bytes: device memory this process keeps for reuse.
        release: gives that memory back.
    """

    name: str
    rks: Callable[..., Any]
    to_device: Callable[[np.ndarray], Any]
    to_host: Callable[[Any], np.ndarray]
    tag: Callable[..., Any]
    held_bytes: Callable[[], int]
    release: Callable[[], None]


def pyscf_library() -> KohnShamLibrary:
    """PySCF itself, on the CPU: what the GPU is held against."""
    return KohnShamLibrary(
        name="PySCF",
        rks=dft.RKS,
        to_device=np.ascontiguousarray,
        to_host=np.asarray,
        tag=lib.tag_array,
        held_bytes=lambda: 0,
        release=lambda: None,
    )


def gpu4pyscf_library() -> KohnShamLibrary:
    """GPU4PySCF, on one CUDA device.

    Raises:
        UserError: it is not installed, can't be trusted, or there is no device.
    """
    take_gpu(find_gpus())
    # Importing them initialises the device: not before it is known to be there.
    import cupy  # pyright: ignore[reportMissingImports]
    from gpu4pyscf.dft import rks  # pyright: ignore[reportMissingImports]
    from gpu4pyscf.lib.cupy_helper import tag_array  # pyright: ignore[reportMissingImports]

    pool = cupy.get_default_memory_pool()
    return KohnShamLibrary(
        name="GPU4PySCF",
        rks=rks.RKS,
        to_device=lambda array: cupy.asarray(np.ascontiguousarray(array)),
        to_host=cupy.asnumpy,
        tag=tag_array,
        held_bytes=pool.total_bytes,
        release=pool.free_all_blocks,
    )


def make_mean_field(rks: Callable[..., Any], level: Level, molecule: gto.Mole) -> Any:
    """A mean-field object of the level, of PySCF or of GPU4PySCF.

    PySCF and GPU4PySCF mix classes at run time, so that no static type describes the result.
    """
    mean_field: Any = rks(molecule, xc=level.functional)
    mean_field.grids.level = level.grid_level
    mean_field.small_rho_cutoff = level.small_rho_cutoff
    mean_field.chkfile = None
    if level.auxiliary_basis is None:
        return mean_field
    auxiliary = level.auxiliary_basis
    if auxiliary == EVEN_TEMPERED:
        auxiliary = df.aug_etb(molecule, beta=level.even_tempered_beta)
    # A pure functional never asks for exchange, so that this is RI-J. `only_dfj=True` would say
    # so, but GPU4PySCF 1.9.0 then passes the molecule where the density matrix is expected.
    return mean_field.density_fit(auxbasis=auxiliary)


class LibraryHamiltonian:
    """One molecule at a Kohn-Sham level, moved from geometry to geometry; as KohnShamHamiltonian.

    The mean-field object is kept and only reset between geometries. All arrays that come in or
    go out are NumPy arrays, hartree and bohr.

    Attributes:
        level: the level of theory.
        molecule: PySCF's molecule at the present geometry.
        n_occupied: doubly occupied orbitals.
        overlap: (n_basis, n_basis) at the present geometry.
        overlap_root, overlap_inverse_root: S^1/2 and S^-1/2.
        stopwatch: seconds by part of the work; the parts are not told apart here.
        grid_geometry: of no use here, see KohnShamHamiltonian.
    """

    def __init__(self, level: Level, atomic_numbers, charge: int, library: KohnShamLibrary):
        check_functional(level.functional)
        self.level = level
        self.stopwatch = Stopwatch()
        self._library = library
        # Placed on a line for the build alone: every geometry comes through `move`.
        atoms = [
            (symbol, (0.0, 0.0, 3.0 * i)) for i, symbol in enumerate(symbols_of(atomic_numbers))
        ]
        self.molecule = gto.M(
            atom=atoms, unit="Bohr", basis=level.basis, charge=charge, spin=0, verbose=0,
            symmetry=False, parse_arg=False, dump_input=False,
        )  # fmt: skip
        self.n_occupied = self.molecule.nelectron // 2
        self._device: Any = make_mean_field(library.rks, level, self.molecule)
        self._core = np.empty(0)
        self._nuclear_repulsion = 0.0
        # The library orders its grid itself; the attribute keeps checkpoints of one form.
        self.grid_geometry: np.ndarray | None = None

    @property
    def mean_field(self) -> Any:
        """PySCF's own object at the present geometry, for what is rare and not worth a GPU."""
        return make_mean_field(dft.RKS, self.level, self.molecule)

    def move(self, positions_bohr: np.ndarray) -> None:
        """Take a new geometry (n_atoms, 3), bohr; forget all integrals of the last one."""
        self.molecule.set_geom_(np.asarray(positions_bohr), unit="Bohr")
        self._device.reset(self.molecule)
        # From the host in both libraries: the history of orbitals refers to this very matrix.
        self.overlap = self.molecule.intor_symmetric("int1e_ovlp")
        values, vectors = np.linalg.eigh(self.overlap)
        self.overlap_root = (vectors * np.sqrt(values)) @ vectors.T
        self.overlap_inverse_root = (vectors / np.sqrt(values)) @ vectors.T
        self._core = self._library.to_host(self._device.get_hcore())
        self._nuclear_repulsion = float(self.molecule.energy_nuc())

    def guess(self) -> np.ndarray:
        """Occupied orbitals (n_basis, n_occupied) from atomic densities, without any history."""
        # PySCF's in both libraries, so that a fresh start is the same start.
        density = np.asarray(hf.init_guess_by_minao(self.molecule))
        potential = self._device.get_veff(self.molecule, self._library.to_device(density))
        fock = self._core + self._library.to_host(potential)
        _, orbitals = scipy.linalg.eigh(fock, self.overlap)
        return orbitals[:, : self.n_occupied]

    def density(self, occupied: np.ndarray) -> np.ndarray:
        """Density matrix 2 C C^T of occupied orbitals (n_basis, n_occupied)."""
        return 2.0 * (occupied @ occupied.T)

    def fock(self, occupied: np.ndarray) -> FockBuild:
        """Energy and Fock matrix of orthonormal occupied orbitals (n_basis, n_occupied)."""
        density = self.density(occupied)
        send = self._library.to_device
        # The attached orbitals give the density on the grid at n_occupied / n_basis of the cost.
        tagged = self._library.tag(
            send(density), mo_coeff=send(occupied), mo_occ=send(np.full(self.n_occupied, 2.0))
        )
        potential = self._device.get_veff(self.molecule, tagged)
        energy = (
            float(np.vdot(self._core, density))
            + float(potential.ecoul)
            + float(potential.exc)
            + self._nuclear_repulsion
        )
        return FockBuild(energy, self._core + self._library.to_host(potential))

    def gradient(self, fock: np.ndarray, occupied: np.ndarray) -> np.ndarray:
        """Nuclear gradient (n_atoms, 3), hartree/bohr, with the auxiliary basis's response.

        Args:
            fock: Fock matrix of these very orbitals.
            occupied: (n_basis, n_occupied), orthonormal.
        """
        energies, rotation = np.linalg.eigh(occupied.T @ fock @ occupied)
        send = self._library.to_device
        mean_field = self._device
        mean_field.mo_energy = send(energies)
        mean_field.mo_coeff = send(occupied @ rotation)
        mean_field.mo_occ = send(np.full(self.n_occupied, 2.0))
        method = mean_field.nuc_grad_method()
        method.verbose = 0
        gradient = method.kernel(mean_field.mo_energy, mean_field.mo_coeff, mean_field.mo_occ)
        return self._library.to_host(gradient)

    def mulliken_charges(self, occupied: np.ndarray) -> np.ndarray:
        """Mulliken charges (n_atoms,), e."""
        density = self.density(occupied)
        _, charges = hf.mulliken_pop(self.molecule, density, self.overlap, verbose=0)
        return np.asarray(charges)

    def dipole(self, occupied: np.ndarray) -> np.ndarray:
        """Dipole moment (3,) about the origin of the coordinates, e bohr."""
        return hf.dip_moment(self.molecule, self.density(occupied), unit="AU", verbose=0)

    def limit_memory(self, n_bytes: float) -> None:
        """Give the device's unused memory back if this process holds more than n_bytes."""
        if self._library.held_bytes() > n_bytes:
            self._library.release()
