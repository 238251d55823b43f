"""Predicts the occupied orbitals of the next molecular-dynamics step from those of the last ones.

Orbitals are kept in the Loewdin basis (S^1/2 C, orthonormal there), which moves smoothly with the
geometry; each set is projected on the newest one, so that the arbitrary rotation among occupied
orbitals drops out.

References:
    Kolafa, J. Comput. Chem. 25, 335 (2004), doi:10.1002/jcc.10385 (always stable
    predictor-corrector, ASPC). VandeVondele et al., doi:10.1016/j.cpc.2004.12.014 (the projection
    of older orbitals on the newest ones).
"""

from math import comb

import numpy as np

from tg80.errors import RunFailed

# A prediction whose orbitals are this far from orthonormal reached across a jump of the geometry.
_SMOOTH = 0.05


def aspc_coefficients(order: int) -> np.ndarray:
    """Weights of the last order + 2 values, newest first, shape (order + 2,); they sum to one.

    References:
        doi:10.1002/jcc.10385; with n = k + 2 values B_j = (-1)^(j+1) j C(2n, n-j) / C(2n-2, n-1).
    """
    n = order + 2
    signed = [(-1) ** (j + 1) * j * comb(2 * n, n - j) for j in range(1, n + 1)]
    return np.array(signed) / comb(2 * n - 2, n - 1)


class OrbitalExtrapolation:
    """History of occupied orbitals and the ASPC predictor on it.

    Attributes:
        order: ASPC order k; k + 2 geometries are kept. Fewer known geometries lower the order.
    """

    def __init__(self, order: int = 3):
        self.order = order
        self._history: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self._history)

    def append(self, orbitals: np.ndarray) -> None:
        """Add the orbitals of a new geometry, (n_basis, n_occupied), orthonormal (Loewdin)."""
        # One memory layout always: BLAS may round differently on a transposed array.
        self._history.insert(0, np.array(orbitals, dtype=np.float64, order="C"))
        del self._history[self.order + 2 :]

    def predict(self) -> np.ndarray | None:
        """Orthonormal occupied orbitals for the next geometry, or None without history.

        After a jump of the geometry the polynomial through the history means nothing: then the
        newest orbitals are returned as they are and the older ones are forgotten.
        """
        if not self._history:
            return None
        newest = self._history[0]
        if len(self._history) == 1:
            return newest.copy()
        weights = aspc_coefficients(len(self._history) - 2)
        predicted = weights[0] * newest
        for weight, orbitals in zip(weights[1:], self._history[1:], strict=True):
            predicted += weight * (orbitals @ (orbitals.T @ newest))
        metric = predicted.T @ predicted
        values, vectors = np.linalg.eigh(metric)
        if np.abs(values - 1.0).max() > _SMOOTH:
            del self._history[1:]
            return newest.copy()
        return predicted @ ((vectors / np.sqrt(values)) @ vectors.T)

    def clear(self) -> None:
        """Forget all geometries."""
        self._history.clear()

    def state(self) -> dict[str, np.ndarray]:
        """The whole memory: `orbitals` (n_known, n_basis, n_occupied) float64, newest first."""
        if not self._history:
            return {"orbitals": np.zeros((0, 0, 0))}
        return {"orbitals": np.stack(self._history)}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Continue from a `state`.

        Raises:
            RunFailed: the arrays are not such a state.
        """
        orbitals = np.asarray(state.get("orbitals"))
        if set(state) != {"orbitals"} or orbitals.ndim != 3 or orbitals.dtype != np.float64:
            raise RunFailed("the checkpoint holds no orbital history of this engine")
        self._history = [np.array(block, order="C") for block in orbitals]
