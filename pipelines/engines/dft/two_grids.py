"""Self-consistency on a coarse grid, put right by one Fock matrix on the level's own.

With the correction D = F_fine - F_coarse held fixed, the coarse grid's Fock matrix plus D is the
fine grid's to first order in the density. A geometry begins with the D that past geometries
predict, which leads to the density P0. Its fine Fock matrix gives the true D, and with it the
coarse grid leads on to P1. There

    E = E_fine(P0) + E_coarse(P1) - E_coarse(P0) + tr D (P1 - P0)

is stationary in P1. Its gradient takes P0 as fixed: that of E_fine(P0), found along with the Fock
matrix, and the coarse grid's at P1 less that at P0. Left out is how D changes as atoms move, which
acts on P1 - P0 only. The energy's error is of second order in P1 - P0 and the gradient's of first,
times what the coarse grid gets wrong of the potential's response, which is little.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from pipelines.engines.dft.exchange_correlation import GradientTerm
from pipelines.engines.dft.hamiltonian import FockBuild, Hamiltonian
from pipelines.engines.dft.self_consistency import SecantPairs, Solution, orbital_gradient

# A further fine Fock matrix is built while the last has a larger orbital gradient, hartree. At
# geometries 4 fs apart the first had 5e-4 to 2e-3 (ethanol, acetic acid, formaldehyde; 300 K).
TRUSTED_GRADIENT = 5e-3
# The share of that gradient which the fine grid still sees at the end, at most: 5e-4 was seen.
_LEFT_OVER = 1e-3
# Orbital gradient, hartree, to which the coarse grid converges before a fine Fock matrix.
_FIRST_LIMIT = 1e-3
# The same after the last one, as a share of the level's threshold; 0.1 makes no better forces.
_LAST_SHARE = 0.3
_MOST_FINE = 4


@dataclass(frozen=True)
class _CoarseEnd:
    """Where the iterations on the coarse grid ended.

    Attributes:
        orbitals: (n_basis, n_occupied) in the Loewdin basis.
        build: the coarse grid's own, without the correction.
        fock, error: Fock matrix with the correction and its orbital gradient, Loewdin basis.
        norm: of the orbital gradient, hartree.
        energy, energy_change: with the correction, hartree; the change in the last cycle.
        cycles: Fock matrices built.
    """

    orbitals: np.ndarray
    build: FockBuild
    fock: np.ndarray
    error: np.ndarray
    norm: float
    energy: float
    energy_change: float
    cycles: int


class _Known(NamedTuple):
    """Fock matrix and orbital gradient in the Loewdin basis, and energy, of some orbitals."""

    fock: np.ndarray
    error: np.ndarray
    energy: float


def solve_on_two_grids(
    hamiltonian: Hamiltonian, occupied: np.ndarray, correction: np.ndarray, pairs: SecantPairs
) -> Solution:
    """Iterate on the coarse grid with a correction that one or more fine Fock matrices put right.

    Args:
        hamiltonian: at the geometry wanted, with a coarse grid; its level holds the thresholds.
        occupied: (n_basis, n_occupied) orthonormal start.
        correction: as predicted, (n_basis, n_basis) in the Loewdin basis, hartree.
        pairs: what earlier geometries taught; this one's cycles are added.

    Returns:
        The solution at the coarse grid's last orbitals, whose energy and Fock matrix are the
        corrected ones and whose gradient norm is a bound on what the fine grid would see.
    """
    level = hamiltonian.level
    energy_limit, gradient_limit = level.energy_threshold_hartree, level.gradient_threshold
    assert energy_limit is not None and gradient_limit is not None, "not a Kohn-Sham level"
    root, inverse_root = hamiltonian.overlap_root, hamiltonian.overlap_inverse_root
    orbitals = root @ occupied
    coarse_cycles = n_fine = 0
    known = None
    while True:
        start = _iterate(hamiltonian, orbitals, correction, pairs, _FIRST_LIMIT, known)
        coarse_cycles += start.cycles
        n_fine += 1
        first = inverse_root @ start.orbitals
        fine = hamiltonian.fock(first, with_gradient=True)
        fock = inverse_root @ fine.matrix @ inverse_root
        error, norm = orbital_gradient(fock, start.orbitals)
        correction = correction + fock - start.fock
        before = start.build.energy + _expectation(correction, start.orbitals)
        known = _Known(fock, error, before)
        orbitals = _occupied(pairs.improve(fock, error), hamiltonian)
        if norm < TRUSTED_GRADIENT or n_fine == min(_MOST_FINE, level.max_cycles):
            break
    last_limit = _LAST_SHARE * gradient_limit
    end = _iterate(hamiltonian, orbitals, correction, pairs, last_limit, known, energy_limit)
    bound = end.norm + _LEFT_OVER * norm
    last = inverse_root @ end.orbitals
    assert start.build.potential is not None and end.build.potential is not None
    return Solution(
        build=replace(
            fine,
            energy=fine.energy + end.energy - before,
            matrix=end.build.matrix + root @ correction @ root,
            coarse_terms=(
                GradientTerm(last, end.build.potential),
                GradientTerm(first, start.build.potential, factor=-1.0),
            ),
        ),
        occupied=last,
        cycles=n_fine,
        gradient_norm=bound,
        energy_change=end.energy_change,
        converged=(
            norm < TRUSTED_GRADIENT
            and bound < gradient_limit
            and abs(end.energy_change) < energy_limit
        ),
        fock=end.fock,
        error=end.error,
        correction=correction,
        coarse_cycles=coarse_cycles + end.cycles,
    )


def _iterate(
    hamiltonian: Hamiltonian,
    orbitals: np.ndarray,
    correction: np.ndarray,
    pairs: SecantPairs,
    limit: float,
    before: _Known | None = None,
    energy_limit: float = np.inf,
) -> _CoarseEnd:
    """Iterate on the coarse grid with a fixed correction.

    Until the orbital gradient is below `limit`, hartree, and the energy changes by less than
    `energy_limit`. `before` is what led to the first orbitals, if that was with this correction.
    """
    inverse_root = hamiltonian.overlap_inverse_root
    last = before and (before.fock, before.error)
    energy = before.energy if before else np.inf
    cycles = 0
    while True:
        cycles += 1
        build = hamiltonian.coarse_fock(inverse_root @ orbitals)
        fock = inverse_root @ build.matrix @ inverse_root + correction
        error, norm = orbital_gradient(fock, orbitals)
        if last is not None:
            pairs.append(fock - last[0], error - last[1])
        last = fock, error
        energy, last_energy = build.energy + _expectation(correction, orbitals), energy
        change = energy - last_energy
        settled = norm < limit and abs(change) <= energy_limit
        if settled or cycles == hamiltonian.level.max_cycles:
            return _CoarseEnd(orbitals, build, fock, error, norm, energy, change, cycles)
        orbitals = _occupied(pairs.improve(fock, error), hamiltonian)


def _expectation(matrix: np.ndarray, orbitals: np.ndarray) -> float:
    return 2.0 * float(np.vdot(matrix @ orbitals, orbitals))


def _occupied(fock: np.ndarray, hamiltonian: Hamiltonian) -> np.ndarray:
    return np.linalg.eigh(fock)[1][:, : hamiltonian.n_occupied]
