"""Kohn-Sham energies and forces on a GPU: the CPU engine with its Fock matrices from GPU4PySCF.

Extrapolation, self-consistency, failure ladder and state are `scf.KohnShamEngine`'s own, so a
checkpoint written on a CPU goes on on a GPU and back, to within the convergence thresholds.
"""

import numpy as np

from pipelines.engines.dft.gpu_devices import find_gpus
from pipelines.engines.dft.gpu_hamiltonian import (
    KohnShamLibrary,
    LibraryHamiltonian,
    gpu4pyscf_library,
)
from pipelines.engines.dft.scf import KohnShamEngine
from pipelines.engines.engine import Evaluation, Resources
from pipelines.engines.registry import formula
from pipelines.run.gpu_check import check_in_own_process, representatives
from tg80.chemistry.molecule import Molecule
from tg80.errors import RunFailed
from tg80.theory import Level, get_level

__all__ = ["GpuKohnShamEngine", "find_gpus", "prepare_run"]


class GpuKohnShamEngine(KohnShamEngine):
    """Energies, forces and properties of one molecule at a Kohn-Sham level, on one GPU.

    A GPU sums in no fixed order: the same geometries give the same energies to 1e-8 hartree, not
    to the bit.

    Args:
        level: a Kohn-Sham level.
        atomic_numbers: (n_atoms,) int.
        charge: total charge, e.
        resources: CPU threads for what is left on the CPU; `memory_gb` is what this process may
            keep of the GPU's memory between evaluations.
        library: whose classes to use; GPU4PySCF if None. With PySCF's own, the same code runs on
            the CPU, which is how it is tested where there is no GPU.

    Raises:
        UserError: no usable GPU4PySCF or no CUDA device.
    """

    _hamiltonian: LibraryHamiltonian

    def __init__(
        self,
        level: Level,
        atomic_numbers,
        charge: int = 0,
        resources: Resources | None = None,
        library: KohnShamLibrary | None = None,
    ):
        resources = resources or Resources(device="cuda")
        self._library = library or gpu4pyscf_library()
        self._held_bytes = 1e9 * resources.memory_gb
        super().__init__(level, atomic_numbers, charge, resources)

    def _make_hamiltonian(self, level: Level, resources: Resources) -> LibraryHamiltonian:
        return LibraryHamiltonian(level, self._numbers, self._charge, self._library)

    def evaluate(self, positions: np.ndarray) -> Evaluation:
        """Energy and forces at positions (n_atoms, 3) A.

        Raises:
            RunFailed: positions that are not finite, no self-consistency by any means, or the GPU
                is out of memory or failed.
        """
        name = f"{formula(self._numbers)} at {self.level}"
        try:
            evaluation = super().evaluate(positions)
        except MemoryError as error:  # CuPy's own is one
            raise RunFailed(
                f"{name}: out of GPU memory ({_one_line(error)}); lower --gpu-trajectories"
            ) from error
        except RuntimeError as error:  # what CUDA and GPU4PySCF's kernels raise
            raise RunFailed(f"{name}: {self._library.name} failed: {_one_line(error)}") from error
        # CuPy keeps freed memory for itself, and others share this GPU.
        self._hamiltonian.limit_memory(self._held_bytes)
        return evaluation


def prepare_run(level: str | Level, molecules: list[Molecule]) -> int:
    """Find the GPUs and hold one against the CPU before a run starts.

    Energy and forces are compared for the smallest molecules that together contain every element
    of the run, in a process of its own: the caller stays free of CUDA.

    Args:
        level: level of theory of the run.
        molecules: compounds of the run.

    Returns:
        Number of GPUs; 0 for GFN2-xTB, which runs on the CPU on any device.

    Raises:
        UserError: no usable GPU4PySCF or no CUDA device.
        RunFailed: GPU and CPU differ by more than 1e-6 hartree or 1e-5 hartree/bohr.
    """
    level = get_level(level) if isinstance(level, str) else level
    if level.method == "xtb":
        return 0
    n_gpus = find_gpus()
    check_in_own_process(level, representatives(molecules))
    return n_gpus


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
