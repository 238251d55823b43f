"""The interface of all models."""

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
        n_parameters: number of trained parameters.
        n_steps: steps of the optimiser.
        n_epochs: epochs of the optimiser.
        cpu_seconds: CPU time (wall time on a GPU) of all processes and sessions, but validation.
        best_validation: validation error of the weights that were kept, in units of persistence's.
        stopped_early: whether some of the budget was left.
        longest_lag_fs: longest lag trained on; longer ones are extrapolation.
        n_samples: windows (or frames with labels) trained on, repetitions counted.
        history: one entry for each validation.
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
        id: key of the registry.
        trains: whether `fit` uses seed and budget.
        oracle: whether it uses test trajectories or a Hessian of the reference level. An oracle is
            never a reference. This may depend on the data, and is known once it is fitted.
        seen_only: whether it needs the molecule's own train block, so that it cannot predict other
            molecules.
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
        """Train on the training data. Resumes from a checkpoint in `out`.

        Args:
            data: trajectories of the train and validation parts.
            budget: when to stop.
            seed: of weights, batches and noise.
            out: folder for checkpoints.
            progress: where to show how far it is.
        """
        ...

    def predict(
        self, states: StartStates, lags_fs: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict the positions at the lags.

        Args:
            states: B start states.
            lags_fs: (B, P) fs, NaN = padding.

        Returns:
            Positions (B, P, N, 3) in A, with any values at padding; and (B,) bool, True where the
                model gave up: these are scored as persistence.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write everything that `load` needs."""
        ...

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        ...

    def settings(self) -> dict[str, Any]:
        """The resolved settings, which identify a run; JSON can hold them."""
        ...
