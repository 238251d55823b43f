"""The self-consistency loop: occupied orbitals that reproduce their own Fock matrix."""

from dataclasses import dataclass

import numpy as np

from pipelines.kohn_sham import FockBuild, KohnShamHamiltonian

_DIIS_SPACE = 8


@dataclass(frozen=True)
class Solution:
    """Where a self-consistency loop ended.

    Attributes:
        build: energy and Fock matrix of `occupied`.
        occupied: (n_basis, n_occupied), orthonormal.
        cycles: Fock matrices built.
        gradient_norm: norm of the orbital gradient, hartree.
        energy_change: of the last cycle, hartree.
        converged: energy change and gradient both below their thresholds.
    """

    build: FockBuild
    occupied: np.ndarray
    cycles: int
    gradient_norm: float
    energy_change: float
    converged: bool


class _Diis:
    """Direct inversion in the iterative subspace on Fock matrices in the Loewdin basis.

    References:
        Pulay, doi:10.1002/jcc.540030413.
    """

    def __init__(self):
        self._focks: list[np.ndarray] = []
        self._errors: list[np.ndarray] = []

    def extrapolate(self, fock: np.ndarray, error: np.ndarray) -> np.ndarray:
        self._focks = [*self._focks, fock][-_DIIS_SPACE:]
        self._errors = [*self._errors, error.ravel()][-_DIIS_SPACE:]
        n = len(self._errors)
        errors = np.stack(self._errors)
        system = np.zeros((n + 1, n + 1))
        system[:n, :n] = errors @ errors.T
        # Scaled to order one: near convergence the raw products vanish below the constraint row.
        system[:n, :n] /= max(float(np.diag(system)[:n].max()), 1e-300)
        system[n, :n] = system[:n, n] = 1.0
        right = np.zeros(n + 1)
        right[n] = 1.0
        weights = np.linalg.lstsq(system, right, rcond=1e-14)[0][:n]
        return np.tensordot(weights, np.stack(self._focks), axes=1)


def orbital_gradient(fock: np.ndarray, occupied: np.ndarray) -> np.ndarray:
    """Commutator of Fock and density in an orthonormal basis, (n_basis, n_basis), hartree.

    Its Frobenius norm is sqrt(2) times that of the occupied-virtual block.
    """
    product = fock @ (occupied @ occupied.T)
    return product - product.T


def gradient_norm(fock: np.ndarray, occupied: np.ndarray) -> float:
    """Norm of the orbital gradient as PySCF defines it, 2 |F_vo|, orthonormal basis, hartree."""
    return float(np.sqrt(2.0) * np.linalg.norm(orbital_gradient(fock, occupied)))


def solve(
    hamiltonian: KohnShamHamiltonian,
    occupied: np.ndarray,
    *,
    max_cycles: int | None = None,
    level_shift: float = 0.0,
    damping: float = 0.0,
) -> Solution:
    """Iterate from occupied orbitals until energy and orbital gradient have converged.

    Args:
        hamiltonian: at the geometry wanted; its level holds the thresholds.
        occupied: (n_basis, n_occupied) orthonormal start.
        max_cycles: Fock builds allowed; the level's number if None.
        level_shift: raises the virtual orbitals, hartree.
        damping: share of the last Fock matrix that is kept.

    Returns:
        The converged solution, or where the last cycle ended with `converged` False.
    """
    level = hamiltonian.level
    energy_limit, gradient_limit = level.energy_threshold_hartree, level.gradient_threshold
    assert energy_limit is not None and gradient_limit is not None, "not a Kohn-Sham level"
    limit = level.max_cycles if max_cycles is None else max_cycles
    root, inverse_root = hamiltonian.overlap_root, hamiltonian.overlap_inverse_root
    orbitals = root @ occupied
    diis = _Diis()
    last_energy, last_fock = np.inf, None
    for cycle in range(1, limit + 1):
        occupied = inverse_root @ orbitals
        build = hamiltonian.fock(occupied)
        fock = inverse_root @ build.matrix @ inverse_root
        norm = gradient_norm(fock, orbitals)
        change = build.energy - last_energy
        converged = abs(change) < energy_limit and norm < gradient_limit
        if converged or cycle == limit:
            return Solution(build, occupied, cycle, norm, change, converged)
        last_energy = build.energy
        mixed = diis.extrapolate(fock, orbital_gradient(fock, orbitals))
        if damping and last_fock is not None:
            mixed = (1.0 - damping) * mixed + damping * last_fock
        last_fock = mixed
        if level_shift:
            mixed = mixed + level_shift * (np.eye(len(fock)) - orbitals @ orbitals.T)
        orbitals = np.linalg.eigh(mixed)[1][:, : hamiltonian.n_occupied]
    raise ValueError("max_cycles must be 1 or more")
