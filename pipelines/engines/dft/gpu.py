"""The Kohn-Sham Hamiltonian of a geometry by PySCF's own classes, on the CPU or on a GPU.

GPU4PySCF mirrors PySCF's classes with CuPy arrays. So one Hamiltonian serves both; what differs
between the two is a `KohnShamLibrary`. Fock matrices and gradients are built on the device;
everything between them (extrapolation, orthogonalisation, convergence) is the CPU engine's own
code on matrices of a few hundred rows, which a GPU would do no faster and which several
trajectories would otherwise queue up for.

What is used of GPU4PySCF: `dft.rks.RKS`, `density_fit`, `reset`, `get_hcore`, `get_j`, `get_veff`
with its `ecoul` and `exc`, `nuc_grad_method().kernel(mo_energy, mo_coeff, mo_occ)` and `tag_array`.
Its own SCF loop is not: its level shift accepts an energy change *or* a gradient below threshold,
and its damping acts only on the cycles before DIIS starts.

References:
    Wu et al., doi:10.48550/arXiv.2404.09452 (GPU4PySCF).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from pyscf import dft, lib

from pipelines.engines.dft.exchange_correlation import check_functional
from pipelines.engines.dft.gpu_devices import find_gpus, take_gpu
from pipelines.engines.dft.hamiltonian import FockBuild, Hamiltonian, make_mean_field
from pipelines.engines.engine import formula
from tg80.errors import RunFailed
from tg80.theory import Level


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


class LibraryHamiltonian(Hamiltonian):
    """A Hamiltonian whose Fock matrices and gradients come from a library's own classes.

    The mean-field object is kept and only reset between geometries. All arrays that come in or
    go out are NumPy arrays, hartree and bohr. The library puts its grid in order itself; only the
    coarse one has the order of `grid_geometry`. The gradient evaluates its own potential, on the
    fine grid and at the very orbitals. The stopwatch tells only the coarse grid's parts apart.

    A GPU sums in no fixed order: the same geometries give the same energies to 1e-8 hartree, not
    to the bit. The engine's state knows of no device, so a checkpoint written on a CPU goes on on
    a GPU and back, to within the convergence thresholds.

    Args:
        level: a Kohn-Sham level.
        atomic_numbers: (n_atoms,) int.
        charge: total charge, e.
        library: whose classes. With PySCF's own, the same code runs on the CPU, which is how it is
            tested where there is no GPU.
        held_bytes: device memory that this process may keep between evaluations.
    """

    def __init__(
        self,
        level: Level,
        atomic_numbers,
        charge: int,
        library: KohnShamLibrary,
        held_bytes: float = 2e9,
    ):
        check_functional(level.functional)
        super().__init__(level, atomic_numbers, charge)
        self._library = library
        self._held_bytes = held_bytes
        self._device: Any = make_mean_field(library.rks, level, self.molecule)

    @property
    def mean_field(self) -> Any:
        """PySCF's own object at the present geometry, for what is rare and not worth a GPU."""
        return make_mean_field(dft.RKS, self.level, self.molecule)

    def _move(self, grid_geometry: np.ndarray) -> np.ndarray:
        self._device.reset(self.molecule)
        return self._library.to_host(self._device.get_hcore())

    def _potential(self, density: Any) -> np.ndarray:
        potential = self._device.get_veff(self.molecule, self._library.to_device(density))
        return self._library.to_host(potential)

    def _coulomb(self, density: np.ndarray) -> np.ndarray:
        coulomb = self._device.get_j(self.molecule, self._library.to_device(density), hermi=1)
        return self._library.to_host(coulomb)

    def fock(self, occupied: np.ndarray, *, with_gradient: bool = False) -> FockBuild:
        """Energy and Fock matrix of occupied orbitals on the level's grid.

        Args:
            occupied: (n_basis, n_occupied), orthonormal.
            with_gradient: changes nothing here.
        """
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

    def gradient(self, build: FockBuild, occupied: np.ndarray) -> np.ndarray:
        """Nuclear gradient (n_atoms, 3), hartree/bohr, with the auxiliary basis's response.

        Args:
            build: of these very orbitals.
            occupied: (n_basis, n_occupied), orthonormal.
        """
        energies, rotation = np.linalg.eigh(occupied.T @ build.matrix @ occupied)
        send = self._library.to_device
        mean_field = self._device
        mean_field.mo_energy = send(energies)
        mean_field.mo_coeff = send(occupied @ rotation)
        mean_field.mo_occ = send(np.full(self.n_occupied, 2.0))
        method = mean_field.nuc_grad_method()
        method.verbose = 0
        method.grid_response = True
        gradient = method.kernel(mean_field.mo_energy, mean_field.mo_coeff, mean_field.mo_occ)
        return self._library.to_host(gradient)

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Name what the device fails at, and give back the memory it keeps for itself.

        Raises:
            RunFailed: the GPU is out of memory or failed.
        """
        name = f"{formula(self.atomic_numbers)} at {self.level.name}"
        try:
            yield
        except MemoryError as error:  # CuPy's own is one
            raise RunFailed(
                f"{name}: out of GPU memory ({_one_line(error)}); lower --gpu-trajectories"
            ) from error
        except RuntimeError as error:  # what CUDA and GPU4PySCF's kernels raise
            raise RunFailed(f"{name}: {self._library.name} failed: {_one_line(error)}") from error
        # CuPy keeps freed memory for itself, and others share this GPU.
        if self._library.held_bytes() > self._held_bytes:
            self._library.release()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
