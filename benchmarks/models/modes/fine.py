"""What `atom-modes` learns from where forces can be measured."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from atom import ATOM
from atom.loss import masked_loss
from atom.valence.batches import forces_of, terms_of_each
from atom.valence.topology import topologies_of
from benchmarks.models.force_fields.losses import ForceLoss
from benchmarks.models.modes.measured import MotionBatch, frames_on
from benchmarks.models.modes.shared import parameters_of, relative_error
from benchmarks.tasks.states import score_mask_of
from benchmarks.training.batches import MicroBatch
from tg80.windows.windows import WindowBatch

# Forces are much cheaper than windows. A coin that the batch holds, a standard normal number, says
# when these are learnt from: beyond this in either direction, in one of 64 steps each; where
# attention corrects the closed form, which needs it more, in an eighth of all.
_SELDOM, _OFTEN = 2.154, 1.15
# Of windows that the modes learn from: every second one. Of those that attention corrects where
# steps of time have moved them: the short ones, fs, and few of these, as each takes many steps.
_EVERY, _LONGEST_STEPPED_FS, _N_STEPPED = 2, 120.0, 8


@dataclass(frozen=True)
class MeasuredLoss:
    """Errors of forces, of the modes, and of what attention adds to the motion.

    Attention learns the rest of the way, the motion held fixed, so that it takes nothing from that.

    Attributes:
        atoms: "heavy" or "all", which atoms attention is scored on.
        forces: the loss of measured forces.
    """

    atoms: str
    forces: ForceLoss

    def __call__(self, module: nn.Module, micro_batch: MicroBatch) -> tuple[Tensor, Tensor]:
        assert isinstance(module, ATOM) and module.modes is not None
        batch = micro_batch.windows
        assert isinstance(batch, MotionBatch)
        frames = frames_on(batch, batch.positions.device)
        found = forces_of(
            frames.positions, frames.atomic_numbers, parameters_of(module), differentiable=True
        )
        loss = self.forces(frames, found).sqrt().mean()
        coin, steps = float(micro_batch.noise.positions[0, 0, 0]), module.config.output == "steps"
        if coin > (_SELDOM if steps else _OFTEN):
            loss = loss + self._of_windows(module, chosen(batch, slice(None, None, _EVERY)))
        if steps and coin < -_SELDOM:
            longest = torch.nan_to_num(batch.lags_fs, nan=0.0).amax(1)
            short = (longest <= _LONGEST_STEPPED_FS).nonzero()[:_N_STEPPED, 0]
            if len(short):
                loss = loss + self._of_steps(module, chosen(batch, short))
        count = loss.new_tensor(float(len(batch.molecule)))
        return loss * count, count

    def _of_windows(self, module: ATOM, batch: WindowBatch) -> Tensor:
        """Relative errors of the modes, and errors of what attention makes of them."""
        assert module.modes is not None
        x, v, target = (y.double() for y in (batch.positions, batch.velocities, batch.targets))
        z, real, valid = batch.atomic_numbers, batch.atomic_numbers > 0, ~batch.lags_fs.isnan()
        topology, parameters = terms_of_each(
            topologies_of(batch.positions, z), parameters_of(module), x.device
        )
        lines, pull = module.modes.at_rest(topology, parameters, x[real])
        pull = torch.zeros_like(x).masked_scatter(real[..., None], pull)
        owner = torch.arange(len(x), device=x.device)
        moved = module.modes.move(lines, owner, x, v, batch.lags_fs.where(valid, 0.0), pull)
        masses = module.modes.masses_of(z)[:, None, :, None].expand_as(target)
        error = relative_error(moved - target, target - x[:, None], masses, valid)
        if module.config.output == "steps":
            return error
        return error + self._corrected(module, batch, moved)

    def _of_steps(self, module: ATOM, batch: WindowBatch) -> Tensor:
        """Errors of what attention makes of motion in steps of time."""
        assert module.modes is not None
        x, z = batch.positions, batch.atomic_numbers
        was_training = module.modes.training
        module.modes.eval()  # as in prediction: without dropout
        with torch.no_grad():
            moved = module.modes(
                x, batch.velocities, z, torch.nan_to_num(batch.lags_fs, nan=0.0),
                topologies_of(x, z), module.lifting.embedding, steps=True,
            )  # fmt: skip
        module.modes.train(was_training)
        return self._corrected(module, batch, moved)

    def _corrected(self, module: ATOM, batch: WindowBatch, moved: Tensor) -> Tensor:
        """Errors of windows that were moved and that attention corrects."""
        predicted = module(
            batch.positions, batch.velocities, batch.atomic_numbers, batch.lags_fs,
            harmonic=moved.detach(),
        )  # fmt: skip
        scored = score_mask_of(batch.atomic_numbers, self.atoms)
        valid = ~batch.lags_fs.isnan()
        return masked_loss(predicted, batch.targets, scored, valid, kind="rmse")


def chosen(batch: WindowBatch, rows: slice | Tensor) -> WindowBatch:
    """Some windows of a batch."""
    every = torch.arange(len(batch.molecule), device=batch.positions.device)
    numbers = every[rows].tolist()
    molecule, start_id = (
        tuple(names[i] for i in numbers) for names in (batch.molecule, batch.start_id)
    )
    return WindowBatch(
        batch.positions[rows],
        batch.velocities[rows],
        batch.atomic_numbers[rows],
        batch.lags_fs[rows],
        batch.targets[rows],
        molecule,
        start_id,
    )
