"""How cost grows with size, from a few timings."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PowerLaw:
    """cost = exp(intercept) * size^exponent, fitted by least squares in the logarithms.

    Attributes:
        intercept, exponent: the fit; exponent 0 if all sizes are equal.
        scatter: standard deviation of ln(cost) about the line; None from fewer than three sizes.
        covariance: (2, 2) of intercept and exponent; zero where the scatter is not known.
    """

    intercept: float
    exponent: float
    scatter: float | None
    covariance: np.ndarray

    def __call__(self, size: float) -> float:
        return float(np.exp(self.intercept) * size**self.exponent)

    def relative_error_of_sum(
        self, sizes: Sequence[float], own_errors: Sequence[float | None]
    ) -> float | None:
        """Relative standard error of the sum of the costs of several molecules.

        Args:
            sizes: of every molecule.
            own_errors: relative error of a molecule's own timing, None where the fit is its price.

        Returns:
            None if the scatter is needed and not known.
        """
        cost = np.array([self(size) for size in sizes])
        guessed = np.where([error is None for error in own_errors], cost, 0.0)
        if self.scatter is None and guessed.any():
            return None
        slope = np.array([guessed.sum(), guessed @ np.log(np.asarray(sizes, dtype=float))])
        variance = slope @ self.covariance @ slope
        errors = [self.scatter if error is None else error for error in own_errors]
        variance += sum((c * e) ** 2 for c, e in zip(cost, errors, strict=True) if e is not None)
        return float(np.sqrt(variance) / cost.sum())


def fit_power_law(sizes: Sequence[float], costs: Sequence[float]) -> PowerLaw:
    """The power law through timings; costs that are zero count as a microsecond."""
    x = np.log(np.asarray(sizes, dtype=float))
    y = np.log(np.maximum(np.asarray(costs, dtype=float), 1e-6))
    if np.ptp(x) == 0:
        return PowerLaw(float(y.mean()), 0.0, None, np.zeros((2, 2)))
    design = np.stack([np.ones_like(x), x], axis=1)
    (intercept, exponent), *_ = np.linalg.lstsq(design, y, rcond=None)
    n_free = len(x) - 2
    if n_free < 1:
        return PowerLaw(float(intercept), float(exponent), None, np.zeros((2, 2)))
    residuals = y - design @ [intercept, exponent]
    scatter = float(np.sqrt(residuals @ residuals / n_free))
    covariance = scatter**2 * np.linalg.inv(design.T @ design)
    return PowerLaw(float(intercept), float(exponent), scatter, covariance)
