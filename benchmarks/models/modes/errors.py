"""The error of motion that both trainings of `atom-modes` share."""

from torch import Tensor

# Errors and displacements below this, A, count as this.
_FLOOR_A = 0.01
# What a relative error counts at most.
_MOST_RELATIVE = 4.0


def relative_error(error: Tensor, unit: Tensor, masses: Tensor, valid: Tensor) -> Tensor:
    """Mean over windows of root mean square errors (B, P, N, 3) over a unit, weighted by mass.

    It saturates, so that a window that runs away does not drown the others.
    """
    total = masses.sum((2, 3))
    error, unit = ((masses * part.square()).sum((2, 3)) / total for part in (error, unit))
    relative = ((error + 1e-7) / (unit + _FLOOR_A**2)).sqrt()
    by_lag = relative / (1 + relative / _MOST_RELATIVE) * valid
    return by_lag.sum() / valid.sum().clamp(min=1)
