"""What models share that learn a force field from labelled frames and roll it out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from benchmarks.interface import FitReport
from benchmarks.models.force_fields.frames import (
    FrameBatch,
    TrainingFrames,
    validation_frames,
)
from benchmarks.models.force_fields.losses import whitened_validation, whitening_of
from benchmarks.models.force_fields.rollout import RolloutSettings, RollsOut
from benchmarks.models.learnt import Config, Learnt, LearntSettings, Module
from benchmarks.models.settings import parse_settings
from benchmarks.tasks.data import TrainingData
from benchmarks.training.batches import first_frames
from tg80.windows.trajectories import Trajectory


class LearntRolloutSettings(RolloutSettings):
    """Longer steps than by default: in validation, errors are the same at half the time."""

    time_step_fs: float = Field(default=1.0, gt=0, description="of velocity Verlet, fs")


class ForceFieldSettings(LearntSettings):
    """Settings of a run of a learnt force field."""

    rollout: dict[str, Any] = Field(
        default_factory=dict, description="fields of LearntRolloutSettings"
    )


class LearntForceField(RollsOut, Learnt[Module, Config]):
    """A force field that the one training loop trains on frames of the train blocks."""

    settings_class: ClassVar[type[LearntSettings]] = ForceFieldSettings

    def __init__(self, **settings: Any) -> None:
        """Make a model to be trained; settings as in `ForceFieldSettings`.

        Raises:
            UserError: a setting is unknown or out of range.
        """
        super().__init__(**settings)
        asked = settings.get("rollout", {})
        self.rollout = parse_settings(LearntRolloutSettings, asked, prefix="rollout.")

    def settings(self) -> dict[str, Any]:
        """The resolved settings."""
        return super().settings() | {"rollout": self.rollout.model_dump()}

    @abstractmethod
    def forces(self, module: nn.Module, frames: FrameBatch) -> Tensor:
        """Forces (B, N, 3) eV/A of a module at frames, on the CPU."""

    def isolated_energies(self) -> Mapping[int, float]:
        """Energies of isolated atoms by atomic number, eV, that labels are counted from."""
        return {}

    def blocks(self, data: TrainingData) -> Sequence[Trajectory]:
        """The train blocks, as many frames of them as are learnt from."""
        return first_frames(data.trajectories, self.training.train_frames)

    def fit(self, data: TrainingData, **asked: Any) -> FitReport:
        """Train on frames of the train blocks: no lag is learnt from."""
        return replace(super().fit(data, **asked), longest_lag_fs=None)

    def windows(self, data: TrainingData, seed: int) -> TrainingFrames:
        """Frames of the train blocks with their labels."""
        return TrainingFrames(
            self.blocks(data), self.isolated_energies(), seed=seed,
            windows_per_trajectory=self.training.windows_per_trajectory,
        )  # fmt: skip

    def validation(self, data: TrainingData) -> Callable[[nn.Module], float] | None:
        """The whitened error of forces on the frames that the validation windows start from."""
        parts = validation_frames(data, self.isolated_energies())
        if not parts:
            return None
        # A block of validation alone may be too short to know all directions of a molecule.
        looked_at = {block.name for block in data.validation_blocks}
        blocks = [block for block in self.blocks(data) if block.name in looked_at]
        whitening = whitening_of([*data.validation_blocks, *blocks])
        return whitened_validation(parts, whitening, self.forces)
