"""Which engine evaluates a level of theory."""

import numpy as np

from pipelines.engines.engine import Engine, Resources
from pipelines.engines.memory import keep_freed_memory
from tg80.theory import Level, get_level


def make_engine(
    level: str | Level, atomic_numbers, charge: int = 0, resources: Resources | None = None
) -> Engine:
    """The engine of one molecule at one level of theory.

    Args:
        level: a level or its name.
        atomic_numbers: (n_atoms,) int.
        charge: total charge, e.
        resources: threads, memory and device; one CPU thread if None.

    Raises:
        UserError: unknown level, uncovered element, not a closed shell, or no usable GPU where
            one is asked for.
    """
    level = get_level(level) if isinstance(level, str) else level
    numbers = np.asarray(atomic_numbers, dtype=int)
    level.check_molecule(numbers, charge)
    resources = resources or Resources()
    resources.check()
    keep_freed_memory()
    if level.method == "xtb":  # on the CPU, whatever the device
        from pipelines.engines.xtb import XtbEngine

        return XtbEngine(level, numbers, charge, threads=resources.threads)
    # PySCF takes a second to import and the xTB tier never needs it.
    from pipelines.engines.dft.scf import KohnShamEngine

    if resources.device == "cuda":
        from pipelines.engines.dft.gpu import LibraryHamiltonian, gpu4pyscf_library

        held_bytes = 1e9 * resources.memory_gb
        hamiltonian = LibraryHamiltonian(level, numbers, charge, gpu4pyscf_library(), held_bytes)
    else:
        from pipelines.engines.dft.kohn_sham import KohnShamHamiltonian

        hamiltonian = KohnShamHamiltonian(
            level, numbers, charge, resources.memory_gb, resources.threads
        )
    return KohnShamEngine(hamiltonian, resources.threads)
