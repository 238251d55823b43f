"""Losses of forces: relative to the molecule's own, or whitened.

Plain squared errors of forces are those of the stiffest bonds, while positions at long lags hang on
the softest modes. Whitened, the residual of a molecule's forces is turned into its mean frame,
mass-weighted, and multiplied by the inverse root of the covariance of the molecule's own training
forces, so that each of its 3n - 6 inner directions has unit size. An error of 1 is then that of a
model which predicts no force at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from atom.alignment import kabsch_rotation, weighted_centroid
from benchmarks.models.force_fields.frames import FrameBatch, labelled_states, labels_of
from benchmarks.models.normal_modes import inner_directions
from tg80.constants import masses_of
from tg80.windows.trajectories import Trajectory

ForceLoss = Callable[[FrameBatch, Tensor], Tensor]
"""(training frames, forces (B, N, 3) eV/A predicted) -> loss (B,); 1 for no force at all."""

# Of the largest eigenvalue: directions of less force are not blown up further.
_LEAST_SHARE = 1e-4
_MEAN_ROUNDS = 3
# Kinetic energies of modes count as no farther from the mean than by this factor.
_MOST_COOLED = 10.0


@dataclass(frozen=True)
class RelativeForces:
    """Squared errors over the molecule's mean square force.

    Attributes:
        scales: molecule -> mean square of its training forces, (eV/A)^2.
    """

    scales: dict[str, float]

    def __call__(self, frames: FrameBatch, forces: Tensor) -> Tensor:
        """Mean squared relative error (B,) of the forces (B, N, 3) of training frames."""
        scales = forces.new_tensor([self.scales[name] for name in frames.molecule])
        n_values = 3 * (frames.atomic_numbers > 0).sum(1)
        return (forces - frames.forces.to(forces)).square().sum((1, 2)) / (n_values * scales)


def relative_forces_of(blocks: Sequence[Trajectory]) -> RelativeForces:
    """The relative loss of training blocks.

    Raises:
        CannotPredict: a block has no forces.
    """
    return RelativeForces(
        {
            name: float(
                np.mean([np.square(labels_of(b).forces, dtype=np.float64).mean() for b in own])
            )
            for name, own in _by_molecule(blocks).items()
        }
    )


@dataclass(frozen=True)
class Whitening:
    """What whitens the forces of the training molecules.

    Attributes:
        rows: molecule -> its number.
        masses: (M, N) u, 1 = padding.
        structures: (M, N, 3) A, mean structures about their centre of mass.
        roots: (M, 3N, 3N) inverse roots of the covariance, over sqrt(3n - 6); 0 = padding.
    """

    rows: dict[str, int]
    masses: Tensor
    structures: Tensor
    roots: Tensor

    def __call__(self, frames: FrameBatch, forces: Tensor) -> Tensor:
        """Mean squared whitened error (B,) of the forces (B, N, 3) of training frames."""
        row = torch.tensor([self.rows[name] for name in frames.molecule])
        n = frames.positions.shape[1]
        masses = self.masses[row, :n].to(forces)
        structures = self.structures[row, :n].to(forces)
        real = (frames.atomic_numbers > 0).to(forces)
        turn = _turns(frames.positions.to(forces), structures, masses * real)
        residual = (forces - frames.forces.to(forces)) @ turn.transpose(1, 2)
        residual = (residual / masses.sqrt()[..., None]).flatten(1)
        roots = self.roots[row, : 3 * n, : 3 * n].to(forces)
        return torch.bmm(roots, residual[..., None]).square().sum((1, 2))


def whitening_of(blocks: Sequence[Trajectory]) -> Whitening:
    """The whitening of the forces of training blocks, one for each molecule.

    Raises:
        CannotPredict: a block has no forces.
    """
    by_molecule = _by_molecule(blocks)
    n_max = max(block.n_atoms for block in blocks)
    size = len(by_molecule)
    masses = torch.ones(size, n_max)
    structures = torch.zeros(size, n_max, 3)
    roots = torch.zeros(size, 3 * n_max, 3 * n_max)
    for row, members in enumerate(by_molecule.values()):
        n = members[0].n_atoms
        x, v, f = labelled_states(members)
        m = torch.from_numpy(masses_of(members[0].atomic_numbers)).double()
        structure, root = _whitening(x, v, f, m)
        masses[row, :n], structures[row, :n] = m.float(), structure.float()
        roots[row, : 3 * n, : 3 * n] = root.float()
    rows = {name: row for row, name in enumerate(by_molecule)}
    return Whitening(rows, masses, structures, roots)


def whitened_validation(
    parts: Mapping[str, Sequence[FrameBatch]],
    whitening: Whitening,
    forces_of: Callable[[nn.Module, FrameBatch], Tensor],
) -> Callable[[nn.Module], float]:
    """What says of a force field how far it errs.

    Whitened, since plain errors are those of stiff bonds, and may rise while motion at long lags
    gets better; the geometric mean over molecules, and over the parts, so that one molecule that
    fits badly does not choose the weights, and unseen molecules and later times count alike.

    Args:
        parts: `validation_frames`, at least one.
        whitening: of the molecules of all parts.
        forces_of: forces (B, N, 3) eV/A of a module at frames, on the CPU.
    """

    def validate(module: nn.Module) -> float:
        errors = [
            _whitened_error(batches, whitening, module, forces_of) for batches in parts.values()
        ]
        return float(np.exp(np.mean(np.log(errors))))

    return validate


def _whitened_error(
    batches: Sequence[FrameBatch],
    whitening: Whitening,
    module: nn.Module,
    forces_of: Callable[[nn.Module, FrameBatch], Tensor],
) -> float:
    """Root mean squared whitened error of each molecule, their geometric mean."""
    found: dict[str, list[float]] = {}
    for frames in batches:
        errors = whitening(frames, forces_of(module, frames)).tolist()
        for name, error in zip(frames.molecule, errors, strict=True):
            found.setdefault(name, []).append(error)
    return float(np.exp(np.mean([np.log(np.mean(own)) for own in found.values()]) / 2))


def _by_molecule(blocks: Sequence[Trajectory]) -> dict[str, list[Trajectory]]:
    found: dict[str, list[Trajectory]] = {}
    for block in blocks:
        found.setdefault(block.name, []).append(block)
    return found


def _whitening(
    x: Tensor, velocities: Tensor, forces: Tensor, masses: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean structure (n, 3) and inverse root (3n, 3n) of one molecule's frames (F, n, 3)."""
    weights = masses.expand(len(x), -1)
    centred = x - weighted_centroid(x, weights)
    structure = centred[0]
    for _ in range(_MEAN_ROUNDS):
        turn = kabsch_rotation(centred, structure.expand_as(centred), weights)
        structure = (centred @ turn.transpose(1, 2)).mean(0)
    turn = _turns(x, structure.expand_as(x), weights).transpose(1, 2)
    root = masses.sqrt()[:, None]
    # Forces have no torque about the frames that they act in, but they have one about the mean
    # structure, which may be more than the force along a soft mode.
    inner = torch.from_numpy(inner_directions(structure.numpy(), masses.numpy()))
    pull, speed = (
        part.flatten(1) @ inner for part in (forces @ turn / root, velocities @ turn * root)
    )
    values, vectors = torch.linalg.eigh(pull.T @ pull / len(pull))
    # Modes keep their energy for picoseconds: one that was cold has smaller forces than it usually
    # has, by the share that its kinetic energy is of the mean.
    kinetic = (speed @ vectors).square().mean(0)
    values = values / (kinetic / kinetic.mean()).clamp(1 / _MOST_COOLED, _MOST_COOLED)
    scale = values.clamp(min=_LEAST_SHARE * float(values.max())).rsqrt()
    vectors = inner @ vectors
    return structure, (vectors * scale) @ vectors.T / np.sqrt(len(values))


def _turns(x: Tensor, structures: Tensor, weights: Tensor) -> Tensor:
    """Rotations (B, 3, 3) of frames x (B, N, 3) onto structures about their centre."""
    return kabsch_rotation(x - weighted_centroid(x, weights), structures, weights)
