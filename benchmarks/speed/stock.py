"""Stock PySCF at a level of theory, used as its manual says: what our engine is timed against."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from pyscf import df, dft, gto

from benchmarks.speed.scaffold import SameThreads
from benchmarks.speed.settings import Integrals
from pipelines.engines.dft.hamiltonian import auxiliary_basis_of, core_potentials_of
from pipelines.engines.engine import Evaluation
from tg80.constants import (
    ANGSTROM_PER_BOHR,
    EV_PER_ANGSTROM_PER_HARTREE_PER_BOHR,
    EV_PER_HARTREE,
)
from tg80.errors import RunFailed
from tg80.theory import Level, symbols_of

# Larger three-centre integrals are left to PySCF, which then evaluates them in every cycle.
_MAX_INTEGRAL_BYTES = 2e9
# Converged far beyond the level's thresholds: a difference from it is the SCF's own error.
TIGHT = {"energy_threshold_hartree": 1e-11, "gradient_threshold": 2e-8}


@dataclass(frozen=True)
class StockResult:
    """Energy (hartree), forces (n_atoms, 3) hartree/bohr, and the cycles they took."""

    energy: float
    forces: np.ndarray
    cycles: int


def in_hartree(evaluation: Evaluation) -> StockResult:
    """What our engine gave, in the units of PySCF."""
    forces = evaluation.forces / EV_PER_ANGSTROM_PER_HARTREE_PER_BOHR
    return StockResult(evaluation.energy / EV_PER_HARTREE, forces, evaluation.scf_cycles)


@dataclass(frozen=True)
class Difference:
    """Largest differences in energy (hartree) and forces (hartree/bohr), and their RMS."""

    energy_max: float
    force_max: float
    force_rms: float

    @classmethod
    def of(cls, pairs: list[tuple[StockResult, StockResult]]) -> "Difference":
        """That of the first of each pair from the second."""
        forces = np.stack([one.forces - other.forces for one, other in pairs])
        energies = [abs(one.energy - other.energy) for one, other in pairs]
        rms = float(np.sqrt(np.mean(forces**2)))
        return cls(max(energies), float(np.abs(forces).max()), rms)


class StockPySCF:
    """One molecule in PySCF's own objects, kept from geometry to geometry.

    In its favour: the objects are reused (`set_geom_`, `reset`), the last density starts the next
    self-consistency, and convergence is PySCF's own for `energy_threshold`, with its square root
    for the orbital gradient, which is looser than ours.

    Args:
        level: level of theory.
        atomic_numbers: (n_atoms,) int.
        charge: total charge, e.
        n_threads: CPU threads.
        energy_threshold: hartree; PySCF's `conv_tol`.
        gradient_threshold: hartree; PySCF's `conv_tol_grad`.
        integrals: of a fitted Coulomb energy: `memory` builds them once a geometry, by one call of
            the user's (`with_df.build()`), which is the faster way; `every-cycle` is what PySCF
            does unasked.
    """

    def __init__(
        self,
        level: Level,
        atomic_numbers,
        charge: int = 0,
        *,
        n_threads: int = 1,
        energy_threshold: float = 1e-8,
        gradient_threshold: float | None = None,
        integrals: Integrals = "every-cycle",
    ):
        self._integrals = integrals
        self._threads = SameThreads(n_threads)
        self._density: Any = None
        with self._threads:
            symbols = symbols_of(atomic_numbers)
            self._molecule = gto.M(
                # Placed on a line for the build alone: every geometry comes through `evaluate`.
                atom=[(symbol, (0, 0, 3.0 * i)) for i, symbol in enumerate(symbols)], unit="Bohr",
                basis=level.basis, charge=charge, verbose=0, parse_arg=False, dump_input=False,
                ecp=core_potentials_of(level, symbols),
            )  # fmt: skip
            self._field: Any = self._mean_field(level)
        self._field.conv_tol = energy_threshold
        self._field.conv_tol_grad = gradient_threshold
        self._field.max_cycle = level.max_cycles

    def _mean_field(self, level: Level) -> Any:
        field: Any = dft.RKS(self._molecule, xc=level.functional)
        field.grids.level = level.grid_level
        field.small_rho_cutoff = level.small_rho_cutoff
        field.chkfile = None
        auxiliary = auxiliary_basis_of(level, self._molecule)
        if auxiliary is None:
            return field
        return field.density_fit(auxbasis=auxiliary, only_dfj=True)

    def evaluate(self, positions: np.ndarray) -> StockResult:
        """Energy and forces at positions (n_atoms, 3) A.

        Raises:
            RunFailed: PySCF did not converge.
        """
        field = self._field
        with self._threads:
            self._molecule.set_geom_(positions / ANGSTROM_PER_BOHR, unit="Bohr")
            field.reset(self._molecule)
            self._keep_integrals()
            field.kernel(dm0=self._density)
            if not field.converged:
                raise RunFailed("stock PySCF did not converge; nothing to compare with")
            self._density = field.make_rdm1()
            gradient = field.nuc_grad_method().kernel()
        return StockResult(float(field.e_tot), -np.asarray(gradient), int(field.cycles))

    def _keep_integrals(self) -> None:
        fit = getattr(self._field, "with_df", None)
        if fit is None or self._integrals == "every-cycle":
            return
        n_basis = self._molecule.nao
        n_auxiliary = df.addons.make_auxmol(self._molecule, fit.auxbasis).nao
        if 8.0 * n_auxiliary * n_basis * (n_basis + 1) / 2 <= _MAX_INTEGRAL_BYTES:
            fit.build()
