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

# Beyond this standard normal number a step learns from its windows, in an eighth of all steps:
# forces are much cheaper; and then from every second one.
_OF_WINDOWS, _EVERY = 1.15, 2


@dataclass(frozen=True)
class MeasuredLoss:
    """Errors of the modes, of forces, and of what attention adds to the modes.

    Attention learns the rest of the way, the modes held fixed, so that it takes nothing from them.

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
        if float(micro_batch.noise.positions[0, 0, 0]) > _OF_WINDOWS:
            loss = loss + self._of_windows(module, some_of(batch, _EVERY))
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
        predicted = module(
            batch.positions, batch.velocities, z, batch.lags_fs, harmonic=moved.detach()
        )
        scored = score_mask_of(z, self.atoms)
        return error + masked_loss(predicted, batch.targets, scored, valid, kind="rmse")


def some_of(batch: WindowBatch, every: int) -> WindowBatch:
    """Every so-manieth window of a batch."""
    names = ("positions", "velocities", "atomic_numbers", "lags_fs", "targets")
    tensors = {name: getattr(batch, name)[::every] for name in names}
    own = {name: getattr(batch, name)[::every] for name in ("molecule", "start_id")}
    return WindowBatch(**tensors, **own)
