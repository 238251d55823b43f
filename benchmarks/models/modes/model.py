"""`atom-modes` as a model: its settings, and which loss its data allow."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from benchmarks.interface import CannotPredict
from benchmarks.models.atom import AtomJoint
from benchmarks.models.force_fields.losses import whitening_of
from benchmarks.models.learnt import Preset
from benchmarks.models.modes.coarse import VirialLoss, reference_of
from benchmarks.models.modes.fine import MeasuredLoss
from benchmarks.models.modes.measured import MotionWindows, with_measured_forces
from benchmarks.tasks.data import TrainingData
from benchmarks.tasks.tasks import Kind
from benchmarks.training.batches import first_frames
from benchmarks.training.trainer import LossFunction
from tg80.errors import UserError
from tg80.windows.trajectories import Trajectory
from tg80.windows.windows import TrainingWindows


def reversed_in_time(block: Trajectory) -> Trajectory:
    """The block run backwards: it obeys the same equations."""
    return replace(
        block, positions=np.ascontiguousarray(block.positions[::-1]),
        velocities=np.ascontiguousarray(-block.velocities[::-1]), labels=None,
    )  # fmt: skip


class AtomModes(AtomJoint):
    """ATOM whose steps stand on motion by the molecule's own force constants.

    These come from ATOM's embedding of the elements and messages along the bonds. Training knows
    the motion in closed form, in normal modes; prediction integrates it, once for all lags; and
    attention corrects it. Positions and velocities are all that is learnt from.
    """

    id: ClassVar[str] = "atom-modes"
    presets: ClassVar[dict[str, Preset]] = {
        name: Preset(
            {
                **preset.model,
                "output": "steps",
                "modes_rounds": 4,
                "sigma_positions": 0.0,
                "sigma_velocities": 0.0,
            },
            {
                "learning_rate": 2e-3,
                "ema_decay": 0.995,
                "weight_decay": 1e-4,
                "batch_size": 32,
                "fixed_lag_fraction": 0.0,
                # Each integrates all validation windows.
                "validations": 5,
            },
        )
        for name, preset in AtomJoint.presets.items()
    }
    fixed: ClassVar[dict[str, Any]] = AtomJoint.fixed | {"lag_gate_power": 2}

    _loss: VirialLoss | MeasuredLoss

    def __init__(self, **settings: Any) -> None:
        """Make a model to be trained; settings as in `LearntSettings`.

        Raises:
            UserError: a setting is unknown or out of range.
        """
        super().__init__(**settings)
        if not self.config.moves:
            raise UserError(f"model {self.id} is output = 'modes' or 'steps'")

    def initialise(self, data: TrainingData, *, seed: int) -> None:
        """Take what the loss needs of the train blocks, and draw the weights.

        Raises:
            CannotPredict: the task gives no hydrogen atoms, without which there is no bond graph.
        """
        if data.task.inputs != "all":
            raise CannotPredict(f"model {self.id} needs all atoms; {data.task.track} hides some")
        if finer := self._finer(data):
            self._loss = MeasuredLoss(data.task.score, whitening_of(finer))
        else:
            blocks = first_frames(data.trajectories, self.training.train_frames)
            self._loss = VirialLoss(reference_of(blocks, self.device), data.task.score)
        super().initialise(data, seed=seed)

    def _finer(self, data: TrainingData) -> list[Trajectory]:
        """Frames of every training molecule with measured forces, or none."""
        if self.training.train_frames is not None:
            return []
        blocks = with_measured_forces([*data.finer, *data.trajectories])
        return blocks if {b.name for b in blocks} == set(data.molecules) else []

    def windows(self, data: TrainingData, seed: int) -> TrainingWindows:
        """Windows of the train blocks, forwards and backwards in time, and frames with forces."""
        own = tuple(first_frames(data.trajectories, self.training.train_frames))
        # Velocities of public sets are differences to the frame before: backwards, from the future.
        back = () if data.task.kind == Kind.PUBLIC else tuple(map(reversed_in_time, own))
        windows = super().windows(replace(data, trajectories=(*own, *back)), seed)
        blocks = self._finer(data)
        return MotionWindows(windows, blocks) if blocks else windows

    def loss(self, atoms: str) -> LossFunction:
        """What training minimises."""
        return replace(self._loss, atoms=atoms)
