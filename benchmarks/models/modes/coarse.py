"""What `atom-modes` learns from where frames are too far apart to measure forces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import huber_loss

from atom import ATOM
from atom.alignment import kabsch_rotation, superpose, weighted_centroid
from atom.loss import masked_loss
from atom.valence.batches import terms_of_each
from atom.valence.head import Linearised
from atom.valence.stiffness import Geometry, Layout
from atom.valence.topology import topologies_of
from benchmarks.models.modes.shared import parameters_of, relative_error
from benchmarks.models.trivial import mean_structures
from benchmarks.tasks.states import score_mask_of
from benchmarks.training.batches import MicroBatch
from tg80.constants import ACCELERATION, BOLTZMANN_EV_PER_K, masses_of
from tg80.windows.trajectories import Trajectory
from tg80.windows.windows import WindowBatch

_KT = BOLTZMANN_EV_PER_K * 300 * ACCELERATION  # u (A/fs)^2
_VIRIAL_WEIGHT = 0.3
# Forces at a mean structure stiffen or soften its slowest modes; the rest structure, about which
# motion is predicted, has none. Beyond the second number, kT by thermal amplitude, they weigh by
# size, not by its square: bonds to hydrogen, whose mean is not their rest, keep what they need.
_STRAIN_WEIGHT, _LARGE_STRAIN = 1.0, 0.02
# One window in so many is corrected by attention, in one of eight steps: where a coin that the
# batch holds, a standard normal number, is beyond this in either direction.
_CORRECTED, _OFTEN = 8, 1.534
# Of motion linearised about starts: how many of a batch, and up to which lag, fs.
_N_STARTS, _LONGEST_SHORT_FS = 4, 60.0
# Frames that say which atoms are bonded, at least.
_N_LOOKED_AT = 32
# Of the largest variance of a molecule's positions: what varies less is rigid motion.
_LEAST_VARIANCE = 1e-6


@dataclass(frozen=True)
class Reference:
    """What the train blocks say of M molecules, padded to the largest.

    Attributes:
        rows: molecule -> its number.
        geometries: of the mean structures, or of frames near them.
        root: (M, D, D) root of the covariance of mass-weighted positions about them.
        kinetic: (M, D, D) inverse of that root, times covariance of mass-weighted velocities, times
            the root: what the virial theorem makes of the stiffness between two roots.
        n_modes: (M,) directions in which a molecule moves.
    """

    rows: dict[str, int]
    geometries: tuple[Geometry, ...]
    root: Tensor
    kinetic: Tensor
    n_modes: Tensor

    def of(self, molecules: Iterable[str]) -> Reference:
        """That of some of the molecules, each once, padded to the largest of these."""
        rows = {name: i for i, name in enumerate(dict.fromkeys(molecules))}
        own = [self.rows[name] for name in rows]
        geometries = tuple(self.geometries[i] for i in own)
        size = max(geometry.layout.size for geometry in geometries)
        root, kinetic = (part[own, :size, :size] for part in (self.root, self.kinetic))
        return Reference(rows, geometries, root, kinetic, self.n_modes[own])


def reference_of(blocks: Sequence[Trajectory], device: torch.device) -> Reference:
    """The reference of train blocks."""
    structures = {n: torch.from_numpy(x).double() for n, x in mean_structures(blocks).items()}
    members = {name: [block for block in blocks if block.name == name] for name in structures}
    geometries = tuple(_geometry_of(structures[n], own, device) for n, own in members.items())
    size = max(geometry.layout.size for geometry in geometries)
    root, kinetic = torch.zeros(2, len(members), size, size, dtype=torch.float64)
    n_modes = torch.zeros(len(members), dtype=torch.float64)
    for row, (name, own) in enumerate(members.items()):
        n = structures[name].numel()
        root[row, :n, :n], kinetic[row, :n, :n], n_modes[row] = _virial_of(structures[name], own)
    rows = {name: i for i, name in enumerate(members)}
    virial = (tensor.to(device) for tensor in (root, kinetic, n_modes))
    return Reference(rows, geometries, *virial)


def _geometry_of(mean: Tensor, blocks: Sequence[Trajectory], device: torch.device) -> Geometry:
    """That of the mean structure; if most frames have other bonds, of the nearest one of them.

    The hydrogen atoms of a methyl group that turns fall together in the mean.
    """
    masses = torch.from_numpy(masses_of(blocks[0].atomic_numbers))
    frames = torch.from_numpy(np.concatenate([block.positions for block in blocks]))
    frames = frames[:: max(1, len(frames) // _N_LOOKED_AT)].double()
    numbers = torch.from_numpy(blocks[0].atomic_numbers).expand(len(frames), -1)
    bonded = topologies_of(frames, numbers)
    usual = max(bonded, key=bonded.count)
    structure = mean
    if topologies_of(mean[None], numbers[:1])[0] is not usual:
        those = frames[[one is usual for one in bonded]]
        laid = superpose(those, mean.expand_as(those), masses.expand(len(those), -1))
        structure = laid[((laid - mean).square().sum(2) * masses).sum(1).argmin()]
    return Geometry.of(structure.to(device), Layout(usual.to(device)))


def _virial_of(structure: Tensor, blocks: Sequence[Trajectory]) -> tuple[Tensor, Tensor, int]:
    """`root`, `kinetic` and `n_modes` of one molecule."""
    masses = torch.from_numpy(masses_of(blocks[0].atomic_numbers))
    structure = structure - weighted_centroid(structure, masses)
    x, v = (
        torch.from_numpy(np.concatenate([getattr(block, name) for block in blocks])).double()
        for name in ("positions", "velocities")
    )
    weights = masses.expand(len(x), -1)
    centred = x - weighted_centroid(x, weights)
    turn = kabsch_rotation(centred, structure.expand_as(x), weights).transpose(1, 2)
    away, speed = (
        (part * masses.sqrt()[:, None]).flatten(1)
        for part in (centred @ turn - structure, v @ turn)
    )
    away = away - away.mean(0)
    variance, axes = torch.linalg.eigh(away.T @ away / len(away))
    moves = variance > _LEAST_VARIANCE * variance[-1]
    size, axes = variance[moves].sqrt(), axes[:, moves]
    kinetic = (axes / size).T @ (speed.T @ speed / len(speed)) @ (axes * size)
    return (axes * size) @ axes.T, axes @ (kinetic + kinetic.T) @ axes.T / 2, int(moves.sum())


@dataclass(frozen=True)
class VirialLoss:
    """Errors of the modes, of their virial and strain, and of what attention adds to them.

    The modes learn from relative errors of all atoms at all lags, and from the virial theorem,
    which no lag enters: A <dx dx^T> = <v v^T>; and mean structures are held at rest. Attention
    learns the rest of the way of a share of the windows, the modes held fixed, so that it takes
    nothing from them.

    Attributes:
        reference: of the training molecules.
        atoms: "heavy" or "all", which atoms attention is scored on.
    """

    reference: Reference
    atoms: str

    def __call__(self, module: nn.Module, micro_batch: MicroBatch) -> tuple[Tensor, Tensor]:
        assert isinstance(module, ATOM) and module.modes is not None
        batch = micro_batch.windows
        known = self.reference.of(batch.molecule)
        geometry = Geometry.join(known.geometries)
        parameters = parameters_of(module)(geometry.layout.topology)
        lines = module.modes.linearise(geometry, parameters)
        rows = [known.rows[name] for name in batch.molecule]
        owner = torch.tensor(rows, device=batch.positions.device)
        valid = ~batch.lags_fs.isnan()
        lags = batch.lags_fs.where(valid, 0.0)
        moved = module.modes.move(lines, owner, batch.positions, batch.velocities, lags)
        start, target = batch.positions[:, None].double(), batch.targets.double()
        masses = module.modes.masses_of(batch.atomic_numbers)[:, None, :, None].expand_as(start)
        loss = relative_error(moved - target, target - start, masses, valid)
        loss = loss + _VIRIAL_WEIGHT * _virial(lines, known)
        loss = loss + _STRAIN_WEIGHT * _strain(lines, known)
        coin = float(micro_batch.noise.positions[0, 0, 0])
        if abs(coin) > _OFTEN:
            loss = loss + self._correction(module, micro_batch, moved.detach())
        if coin > 0:  # as dear as the modes themselves
            loss = loss + self._from_starts(module, batch)
        count = loss.new_tensor(float(len(owner)))
        return loss * count, count

    def _from_starts(self, module: ATOM, batch: WindowBatch) -> Tensor:
        """Relative errors at short lags of motion linearised about a few of the starts."""
        assert module.modes is not None
        short = batch.lags_fs <= _LONGEST_SHORT_FS
        candidates = short.any(1).nonzero()[:, 0]
        if not len(candidates):
            return batch.positions.new_zeros(())
        few = torch.linspace(0, len(candidates) - 1, min(_N_STARTS, len(candidates))).long()
        rows = candidates[few]
        x, v, target = (
            part[rows].double() for part in (batch.positions, batch.velocities, batch.targets)
        )
        numbers, valid = batch.atomic_numbers[rows], short[rows]
        topologies = [
            self.reference.geometries[self.reference.rows[batch.molecule[row]]].layout.topology
            for row in rows.tolist()
        ]
        topology, parameters = terms_of_each(topologies, parameters_of(module), x.device)
        geometry = Geometry.of(x[numbers > 0], Layout(topology))
        lines = module.modes.linearise(geometry, parameters)
        lags = batch.lags_fs[rows].where(valid, 0.0)
        moved = module.modes.move(lines, torch.arange(len(x), device=x.device), x, v, lags)
        flown = x[:, None] + lags[..., None, None] * v[:, None]
        masses = module.modes.masses_of(numbers)[:, None, :, None].expand_as(target)
        return relative_error(moved - target, target - flown, masses, valid)

    def _correction(self, module: ATOM, micro_batch: MicroBatch, moved: Tensor) -> Tensor:
        """Error of what attention makes of some windows that the modes have moved."""
        batch = micro_batch.windows
        rows = torch.arange(0, len(moved), _CORRECTED, device=moved.device)
        numbers, lags = batch.atomic_numbers[rows], batch.lags_fs[rows]
        predicted = module(
            batch.positions[rows], batch.velocities[rows], numbers, lags, harmonic=moved[rows]
        )
        scored = score_mask_of(numbers, self.atoms)
        return masked_loss(predicted, batch.targets[rows], scored, ~lags.isnan(), kind="rmse")


def _virial(lines: Linearised, known: Reference) -> Tensor:
    """Mean over molecules and modes of how far the virial theorem is violated, in kT."""
    off = (known.root @ lines.stiffness @ known.root - known.kinetic) / _KT
    size = (off.square().sum(2) + 1e-12).sqrt()
    by_mode = 2 * huber_loss(size, torch.zeros_like(size), reduction="none")
    return (by_mode.sum(1) / known.n_modes).mean()


def _strain(lines: Linearised, known: Reference) -> Tensor:
    """Mean over molecules and modes of forces at the mean structure, in kT by thermal amplitude."""
    size = (known.root @ lines.acceleration[..., None])[..., 0] / _KT
    none = torch.zeros_like(size)
    by_mode = huber_loss(size, none, reduction="none", delta=_LARGE_STRAIN) / _LARGE_STRAIN
    return (by_mode.sum(1) / known.n_modes).mean()
