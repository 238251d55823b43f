"""The self-consistency loop: occupied orbitals that reproduce their own Fock matrix."""

from dataclasses import dataclass

import numpy as np

from pipelines.engines.dft.hamiltonian import FockBuild, Hamiltonian
from tg80.errors import RunFailed

# With 24 / 48 / 100 / 160 pairs geometries 2 fs apart need 6.2 / 5.2 / 4.3 / 4.2 Fock matrices on
# the coarse grid in uracil, and 5.1 / 4.4 / 4.0 / 4.0 in ethanol.
_DEPTH = 96
_TIKHONOV = 1e-3


class SecantPairs:
    """Differences of Fock matrices with those of their errors, carried from geometry to geometry.

    In the Loewdin basis the response of the Fock matrix to the density changes little from one
    step of the dynamics to the next, so that pairs seen before make a quasi-Newton method of the
    first cycle. Within one geometry this is direct inversion in the iterative subspace. Pairs are
    kept in single precision: they only say where to look.

    Attributes:
        depth: pairs remembered; a further one takes the place of the oldest.

    References:
        Pulay, doi:10.1002/jcc.540030413 (DIIS); Anderson, doi:10.1145/321296.321305.
    """

    def __init__(self, depth: int = _DEPTH):
        self.depth = depth
        self.clear()

    def __len__(self) -> int:
        return self._n

    def append(self, fock: np.ndarray, error: np.ndarray) -> None:
        """Add a pair of differences, both (n_basis, n_basis) in the Loewdin basis, hartree."""
        if not self._n:
            self._make_room(fock.shape)
        place, self._next = self._next, (self._next + 1) % self.depth
        self._n = min(self._n + 1, self.depth)
        self._focks[place], self._errors[place] = fock, error
        errors = self._errors[: self._n].reshape(self._n, -1)
        products = errors @ errors[place]
        self._products[place, : self._n] = self._products[: self._n, place] = products

    def improve(self, fock: np.ndarray, error: np.ndarray) -> np.ndarray:
        """The Fock matrix, near this one, that the pairs expect to have the smallest error."""
        n = self._n
        if not n:
            return fock
        products = self._products[:n, :n]
        # Pairs of any length count alike; the Tikhonov term keeps nearly equal ones in bounds.
        lengths = np.sqrt(np.maximum(np.diag(products), 1e-300))
        system = products / np.outer(lengths, lengths) + _TIKHONOV * np.eye(n)
        here = self._errors[:n].reshape(n, -1) @ error.ravel().astype(np.float32)
        weights = -np.linalg.solve(system, here / lengths) / lengths
        change = weights.astype(np.float32) @ self._focks[:n].reshape(n, -1)
        return fock + change.reshape(fock.shape)

    def clear(self) -> None:
        """Forget all pairs."""
        self._n = self._next = 0
        self._focks = self._errors = np.zeros((0, 0, 0), dtype=np.float32)
        self._products = np.zeros((self.depth, self.depth))

    def state(self) -> dict[str, np.ndarray]:
        """The whole memory.

        Returns:
            `pair_focks` and `pair_errors` (n_pairs, n_basis, n_basis) float32, `pair_products` of
            the errors (n_pairs, n_pairs), and `pair_next`, the place of the next pair.
        """
        n = self._n
        return {
            "pair_focks": self._focks[:n].copy(),
            "pair_errors": self._errors[:n].copy(),
            "pair_products": self._products[:n, :n].copy(),
            "pair_next": np.array(self._next),
        }

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Continue from a `state`; one from before there were 96 pairs lacks products and place.

        Raises:
            RunFailed: the arrays are not such a state.
        """
        focks, errors = np.asarray(state["pair_focks"]), np.asarray(state["pair_errors"])
        n, floats = len(focks), (np.float32, np.float64)
        sound = focks.ndim == 3 and focks.shape == errors.shape and n <= self.depth
        sound = sound and focks.dtype == errors.dtype and focks.dtype in floats
        products = np.asarray(state.get("pair_products", np.zeros((n, n))))
        place = np.asarray(state.get("pair_next", n % self.depth))
        possible = range(self.depth) if n == self.depth else (n,)
        if not sound or products.shape != (n, n) or place.ndim or place not in possible:
            raise RunFailed("the checkpoint's secant pairs have unexpected shapes or types")
        self.clear()
        if "pair_products" not in state:
            # Newest first.
            for fock, error in zip(focks[::-1], errors[::-1], strict=True):
                self.append(fock, error)
        elif n:
            self._make_room(focks.shape[1:])
            self._focks[:n], self._errors[:n] = focks, errors
            self._products[:n, :n], self._n, self._next = products, n, int(place)

    def _make_room(self, shape: tuple[int, ...]) -> None:
        self._focks = np.zeros((self.depth, *shape), dtype=np.float32)
        self._errors = np.zeros_like(self._focks)


@dataclass(frozen=True)
class Solution:
    """Where a self-consistency loop ended.

    Attributes:
        build: energy and Fock matrix of `occupied`.
        occupied: (n_basis, n_occupied), orthonormal.
        cycles: Fock matrices built on the level's grid.
        gradient_norm: norm of the orbital gradient, hartree; on two grids an upper bound.
        energy_change: of the last cycle, hartree.
        converged: energy change and gradient both below their thresholds.
        fock, error: Fock matrix and orbital gradient in the Loewdin basis, (n_basis, n_basis).
        correction: Fock matrix less that of the coarse grid, likewise; None where none was built.
        coarse_cycles: Fock matrices built on the coarse grid.
    """

    build: FockBuild
    occupied: np.ndarray
    cycles: int
    gradient_norm: float
    energy_change: float
    converged: bool
    fock: np.ndarray
    error: np.ndarray
    correction: np.ndarray | None = None
    coarse_cycles: int = 0


def orbital_gradient(fock: np.ndarray, occupied: np.ndarray) -> tuple[np.ndarray, float]:
    """Commutator of Fock and density in an orthonormal basis, and the gradient's norm.

    Returns:
        (n_basis, n_basis), hartree; 2 |F_vo| of the occupied-virtual block, as PySCF defines it,
        which is sqrt(2) times the commutator's norm.
    """
    product = fock @ (occupied @ occupied.T)
    error = product - product.T
    return error, float(np.sqrt(2.0) * np.linalg.norm(error))


def solve(
    hamiltonian: Hamiltonian,
    occupied: np.ndarray,
    pairs: SecantPairs | None = None,
    *,
    max_cycles: int | None = None,
    level_shift: float = 0.0,
    damping: float = 0.0,
) -> Solution:
    """Iterate from occupied orbitals until energy and orbital gradient have converged.

    Args:
        hamiltonian: at the geometry wanted; its level holds the thresholds.
        occupied: (n_basis, n_occupied) orthonormal start.
        pairs: what earlier geometries taught; this one's cycles are added.
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
    pairs = SecantPairs() if pairs is None else pairs
    last_energy, last_fock, last = np.inf, None, None
    for cycle in range(1, limit + 1):
        occupied = inverse_root @ orbitals
        build = hamiltonian.fock(occupied)
        fock = inverse_root @ build.matrix @ inverse_root
        error, norm = orbital_gradient(fock, orbitals)
        if last is not None:
            pairs.append(fock - last[0], error - last[1])
        last = fock, error
        change = build.energy - last_energy
        converged = abs(change) < energy_limit and norm < gradient_limit
        if converged or cycle == limit:
            return Solution(build, occupied, cycle, norm, change, converged, fock, error)
        last_energy = build.energy
        mixed = pairs.improve(fock, error)
        if damping and last_fock is not None:
            mixed = (1.0 - damping) * mixed + damping * last_fock
        last_fock = mixed
        if level_shift:
            mixed = mixed + level_shift * (np.eye(len(fock)) - orbitals @ orbitals.T)
        orbitals = np.linalg.eigh(mixed)[1][:, : hamiltonian.n_occupied]
    raise ValueError("max_cycles must be 1 or more")
