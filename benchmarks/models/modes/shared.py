"""What both trainings of `atom-modes` share."""

from functools import partial

from torch import Tensor

from atom import ATOM
from atom.valence.batches import ParametersOf

# Errors and displacements below this, A, count as this.
_FLOOR_A = 0.01
# What a relative error counts at most.
_MOST_RELATIVE = 4.0


def parameters_of(module: ATOM) -> ParametersOf:
    """What the module says of the terms of topologies."""
    assert module.modes is not None
    return partial(module.modes.parameters_of, elements=module.lifting.embedding)


def relative_error(error: Tensor, unit: Tensor, masses: Tensor, valid: Tensor) -> Tensor:
    """Mean over valid lags of root mean square errors (B, P, N, 3) over a unit, weighted by mass.

    It saturates, so that a window that runs away does not drown the others.
    """
    total = masses.sum((2, 3))
    error, unit = ((masses * part.square()).sum((2, 3)) / total for part in (error, unit))
    relative = ((error + 1e-7) / (unit + _FLOOR_A**2)).sqrt()
    by_lag = relative / (1 + relative / _MOST_RELATIVE) * valid
    return by_lag.sum() / valid.sum().clamp(min=1)
