"""`valence`: the valence force field as a model, trained on forces, integrated from every start."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from atom.valence.batches import forces_of
from atom.valence.terms import (
    DROPOUT,
    Parameters,
    ValenceNetwork,
    energy,
    energy_and_forces,
)
from atom.valence.topology import Topology, join, topologies_of
from benchmarks.models.force_fields.frames import FrameBatch
from benchmarks.models.force_fields.learnt import LearntForceField
from benchmarks.models.force_fields.losses import ForceLoss, relative_forces_of, whitening_of
from benchmarks.models.force_fields.rollout import ForceField
from benchmarks.models.learnt import Preset
from benchmarks.models.normal_modes import modes_of, propagate
from benchmarks.tasks.data import TrainingData
from benchmarks.tasks.states import StartStates
from benchmarks.training.batches import MicroBatch
from benchmarks.training.trainer import LossFunction
from tg80.constants import masses_of
from tg80.untrusted.limits import BoundedModel


class ValenceConfig(BoundedModel):
    """Settings of the network and of its loss."""

    width: int = Field(default=64, ge=1, description="features of an atom")
    n_rounds: int = Field(default=4, ge=0, description="messages along the bonds")
    dropout: float = Field(
        default=DROPOUT,
        ge=0,
        lt=1,
        description="share of the features of a message's update that training leaves out",
    )
    whitened: bool = Field(
        default=True,
        description="loss of forces in which soft motions count as much as stiff ones; "
        "false: squared errors over the molecule's mean square force",
    )
    propagator: Literal["verlet", "modes"] = Field(
        default="verlet",
        description="Newton's equations step by step, or normal modes about the nearest minimum",
    )


class Valence(LearntForceField[ValenceNetwork, ValenceConfig]):
    """A force field of bonds, angles and torsions, its parameters predicted from the bond graph.

    The bond graph is that of the start state, by covalent radii, and stays: no bond breaks.
    Trained on forces alone.
    """

    id: ClassVar[str] = "valence"
    config_class: type[ValenceConfig] = ValenceConfig
    presets: ClassVar[dict[str, Preset]] = {
        "mini": Preset(
            training={
                "learning_rate": 1e-3,
                "weight_decay": 1e-4,
                "batch_size": 64,
                "ema_decay": 0.998,
                "validations": 20,
            }
        )
    }

    _force_loss: ForceLoss

    def build(self) -> ValenceNetwork:
        """A network with random weights."""
        return ValenceNetwork(self.config.width, self.config.n_rounds, self.config.dropout)

    def initialise(self, data: TrainingData, *, seed: int) -> None:
        """Take the scale of forces from the train blocks, and draw the weights of this seed."""
        make = whitening_of if self.config.whitened else relative_forces_of
        self._force_loss = make(self.blocks(data))
        super().initialise(data, seed=seed)

    def loss(self, atoms: str) -> LossFunction:
        """Squared errors of forces, whitened or relative; all atoms count."""

        def loss(module: nn.Module, batch: MicroBatch) -> tuple[Tensor, Tensor]:
            frames = batch.windows
            assert isinstance(frames, FrameBatch)
            losses = self._force_loss(
                frames,
                forces_of(frames.positions, frames.atomic_numbers, module, differentiable=True),
            )
            return losses.sum(), losses.new_tensor(float(len(losses)))

        return loss

    def forces(self, module: nn.Module, frames: FrameBatch) -> Tensor:
        """Forces (B, N, 3) eV/A of frames, on the CPU."""
        x, z = frames.positions.to(self.device), frames.atomic_numbers.to(self.device)
        return forces_of(x, z, module).cpu()

    @torch.no_grad()
    def predict(self, states: StartStates, lags_fs: Tensor) -> tuple[Tensor, Tensor]:
        """Positions (B, P, N, 3) A at lags_fs (B, P), and the rollouts that failed (B,)."""
        if self.config.propagator == "verlet":
            return super().predict(states, lags_fs)
        rows = [self._swing(states.select([i]), lags_fs[i : i + 1]) for i in range(len(states))]
        positions = torch.cat(rows)
        failed = ~torch.isfinite(torch.where(lags_fs[..., None, None].isnan(), 0.0, positions))
        failed = failed.flatten(1).any(1)
        return torch.where(failed[:, None, None, None], 0.0, positions).float(), failed

    def force_field(self, states: StartStates) -> ForceField:
        """The force field of these start states, in float64, which knows their bond graphs."""
        topologies = topologies_of(states.positions, states.atomic_numbers)
        known = {t: self._parameters(t) for t in dict.fromkeys(topologies)}
        return BoundField(tuple(topologies), tuple(known[t] for t in topologies))

    def _parameters(self, topology: Topology) -> Parameters:
        """Those of one molecule, float64, on the CPU."""
        found = self.trained()(topology.to(self.device))
        return Parameters(*(tensor.double().cpu() for tensor in found))

    def _swing(self, state: StartStates, lags_fs: Tensor) -> Tensor:
        """Normal modes about the minimum nearest to one start state."""
        n = int(state.atom_mask.sum())
        x, v = state.positions[:, :n].double(), state.velocities[:, :n].double()
        topology = topologies_of(state.positions, state.atomic_numbers)[0]
        parameters = self._parameters(topology)
        masses = masses_of(state.atomic_numbers[0, :n].numpy())
        minimum, hessian = _nearest_minimum(x[0], topology, parameters, masses)
        modes = modes_of(minimum.numpy(), hessian.numpy(), masses)
        moved = state.positions[:, None].double().repeat(1, lags_fs.shape[1], 1, 1)
        moved[:, :, :n] = propagate(modes, x, v, lags_fs.double())
        return moved


@dataclass(frozen=True)
class BoundField:
    """The force field of the rows of a batch, whose topologies are fixed.

    Attributes:
        topologies: one a row.
        parameters: one a row, float64.
    """

    topologies: tuple[Topology, ...]
    parameters: tuple[Parameters, ...]

    @cached_property
    def _joined(self) -> tuple[Topology, Parameters]:
        """Those of all rows one after another."""
        parts = zip(*self.parameters, strict=True)
        return join(self.topologies), Parameters(*(torch.cat(part) for part in parts))

    def __call__(self, positions: Tensor, atomic_numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Energies (B,) eV and forces (B, N, 3) eV/A."""
        real = atomic_numbers > 0
        energies, found = energy_and_forces(positions[real], *self._joined)
        forces = torch.zeros_like(positions)
        forces[real] = found
        return energies, forces

    def select(self, kept: Tensor) -> BoundField:
        """The field of the rows that are kept (B,)."""
        rows = kept.nonzero()[:, 0].tolist()
        return BoundField(
            tuple(self.topologies[i] for i in rows), tuple(self.parameters[i] for i in rows)
        )


def _nearest_minimum(
    x: Tensor, topology: Topology, parameters: Parameters, masses: np.ndarray, n_steps: int = 5
) -> tuple[Tensor, Tensor]:
    """A few damped Newton steps from x (n, 3): where they lead, and the Hessian (3n, 3n) there."""
    root = torch.from_numpy(np.repeat(masses, 3)).sqrt()

    def of_flat(flat: Tensor) -> Tensor:
        return energy(flat.view(-1, 3), topology, parameters).sum()

    def hessian_at(flat: Tensor) -> Tensor:
        found = torch.autograd.functional.hessian(of_flat, flat)
        assert isinstance(found, Tensor)
        return found

    y = x.flatten()
    for _ in range(n_steps):
        hessian = hessian_at(y)
        _, forces = energy_and_forces(y.view(-1, 3), topology, parameters)
        values, vectors = torch.linalg.eigh(hessian / root[:, None] / root)
        along = (vectors.T @ (forces.flatten() / root)) / values.abs().clamp(min=0.15)
        step = (vectors @ along) / root
        y = y + step * (0.25 / step.abs().max().clamp(min=0.25))
    return y.view(-1, 3), hessian_at(y)
