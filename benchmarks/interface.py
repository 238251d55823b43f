"""What every model is to the harness."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self

import torch
from rich.progress import Progress

from benchmarks.tasks.data import TrainingData
from benchmarks.tasks.states import StartStates
from tg80.errors import UserError


class CannotPredict(UserError):
    """The data lack what a model needs; beside a learnt model it is left out."""


Equivariance = Literal["none", "SE(3)", "E(3)"]
"""What a prediction follows exactly: shifts only; proper rotations too; reflections too."""


@dataclass(frozen=True)
class Budget:
    """How long a model may train: in epochs, or in CPU minutes (wall minutes on a GPU).

    Minutes are those of all processes together.
    """

    epochs: int | None = None
    cpu_minutes: float | None = None

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.cpu_minutes is None):
            raise UserError("give one of --epochs and --budget-cpu-minutes")
        if not 0 < (self.epochs or self.cpu_minutes or 0) < math.inf:
            raise UserError("a training budget must be a positive number")


@dataclass(frozen=True)
class FitReport:
    """What fitting did.

    Attributes:
        n_parameters: numbers learnt. n_steps, n_epochs: of the optimiser. n_samples: windows (or
            frames with labels) learnt from, repetitions counted. cpu_seconds: CPU time
            (wall time on a GPU) of all processes over all sittings, validation apart.
        best_validation: error in validation, persistence's being 1, of the model that was kept.
        stopped_early: the budget was not used up. longest_lag_fs: that was learnt from; longer ones
            are extrapolation. history: one entry a validation.
    """

    n_parameters: int = 0
    n_steps: int = 0
    n_epochs: int = 0
    cpu_seconds: float = 0.0
    best_validation: float | None = None
    stopped_early: bool = False
    longest_lag_fs: float | None = None
    n_samples: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


class Model(Protocol):
    """A predictor of positions at given lags.

    Attributes:
        id: key of the registry. trains: whether `fit` uses seed and budget.
        oracle: it uses test trajectories or a Hessian of the reference level; never a reference.
            That may hang on the data, and is known once it is fitted.
        seen_only: it needs the molecule's own train block, and so cannot predict other molecules.
        equivariance: which motions of the start the prediction follows exactly.
    """

    id: ClassVar[str]
    trains: ClassVar[bool]
    oracle: bool
    seen_only: ClassVar[bool]
    equivariance: ClassVar[Equivariance]

    def initialise(self, data: TrainingData, *, seed: int) -> None:
        """Make the model ready to predict without training.

        A model that trains draws the weights that training with this seed begins with; one that
        does not is fitted.
        """
        ...

    def fit(
        self,
        data: TrainingData,
        *,
        budget: Budget,
        seed: int,
        out: Path,
        progress: Progress | None = None,
    ) -> FitReport:
        """Learn from the training data. What is in `out` from a killed run is gone on with."""
        ...

    def predict(
        self, states: StartStates, lags_fs: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions at the lags.

        Args:
            lags_fs: (B, P) fs, NaN = padding.

        Returns:
            positions: (B, P, N, 3) A, anything where padded. failed: (B,) bool, True where the
            model gave up; those are scored as persistence.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write all that `load` needs."""
        ...

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        ...

    def settings(self) -> dict[str, Any]:
        """The resolved settings, JSON-able: they identify a run."""
        ...
