"""Quasi-Newton acceleration of self-consistency, remembered from one geometry to the next."""

import numpy as np

from tg80.errors import RunFailed

# Methanol at 1 fs steps needs 3.6 Fock matrices with 16 pairs and 3.1 with 24.
_DEPTH = 24
_TIKHONOV = 1e-3


class SecantPairs:
    """Differences of Fock matrices with those of their errors, carried from geometry to geometry.

    In the Loewdin basis the response of the Fock matrix to the density changes little from one
    step of the dynamics to the next, so that pairs seen before make a quasi-Newton method of the
    first cycle. Within one geometry this is direct inversion in the iterative subspace.

    Attributes:
        depth: pairs remembered.

    References:
        Pulay, doi:10.1002/jcc.540030413 (DIIS); Anderson, doi:10.1145/321296.321305.
    """

    def __init__(self, depth: int = _DEPTH):
        self.depth = depth
        self._focks: list[np.ndarray] = []
        self._errors: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self._focks)

    def append(self, fock: np.ndarray, error: np.ndarray) -> None:
        """Add a pair of differences, both (n_basis, n_basis) in the Loewdin basis, hartree."""
        self._focks.insert(0, np.array(fock, order="C"))
        self._errors.insert(0, np.array(error, order="C"))
        del self._focks[self.depth :], self._errors[self.depth :]

    def improve(self, fock: np.ndarray, error: np.ndarray) -> np.ndarray:
        """The Fock matrix, near this one, that the pairs expect to have the smallest error."""
        if not self._focks:
            return fock
        errors = np.stack([pair.ravel() for pair in self._errors])
        # Pairs of any length count alike; the Tikhonov term keeps nearly equal ones in bounds.
        lengths = np.maximum(np.linalg.norm(errors, axis=1), 1e-300)
        unit = errors / lengths[:, None]
        system = unit @ unit.T + _TIKHONOV * np.eye(len(unit))
        weights = np.linalg.solve(system, -unit @ error.ravel()) / lengths
        return fock + np.tensordot(weights, np.stack(self._focks), axes=1)

    def clear(self) -> None:
        """Forget all pairs."""
        self._focks.clear()
        self._errors.clear()

    def state(self) -> dict[str, np.ndarray]:
        """The whole memory: `pair_focks` and `pair_errors` (n_pairs, n_basis, n_basis)."""
        if not self._focks:
            return {"pair_focks": np.zeros((0, 0, 0)), "pair_errors": np.zeros((0, 0, 0))}
        return {"pair_focks": np.stack(self._focks), "pair_errors": np.stack(self._errors)}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Continue from a `state`.

        Raises:
            RunFailed: the arrays are not such a state.
        """
        focks, errors = np.asarray(state["pair_focks"]), np.asarray(state["pair_errors"])
        double = focks.dtype == np.float64 and errors.dtype == np.float64
        if focks.ndim != 3 or focks.shape != errors.shape or not double:
            raise RunFailed("the checkpoint's secant pairs have unexpected shapes or types")
        self._focks = [np.array(matrix, order="C") for matrix in focks[: self.depth]]
        self._errors = [np.array(matrix, order="C") for matrix in errors[: self.depth]]
