"""Normal modes of a Hessian, and their motion in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from atom.alignment import kabsch_rotation, weighted_centroid
from tg80.constants import ACCELERATION, BOLTZMANN_EV_PER_K

# Softer modes, imaginary ones too, have no use as oscillators: one period of 20 cm-1 is 1.7 ps.
SOFTEST_PER_CM = 20.0
# A mode that holds more in the start is not in the well that the Hessian is of: thermal ones hold
# 10 kT once in 100 000 times.
MOST_ENERGY_EV = 10 * BOLTZMANN_EV_PER_K * 300
_RADIANS_PER_FS = 2 * math.pi * 2.99792458e-5  # of 1 cm-1


@dataclass(frozen=True)
class Modes:
    """The vibrations of one molecule.

    Attributes:
        structure: (N, 3) A, centre of mass at the origin.
        masses: (N,) u.
        vectors: (3N, M) orthonormal, mass-weighted.
        rates: (M,) rad/fs, 0 where a mode is softer than `SOFTEST_PER_CM` or imaginary.
    """

    structure: Tensor
    masses: Tensor
    vectors: Tensor
    rates: Tensor


def modes_of(structure: np.ndarray, hessian: np.ndarray, masses: np.ndarray) -> Modes:
    """Normal modes without shifts and rotations.

    Args:
        structure: (N, 3) A.
        hessian: (3N, 3N) eV/A^2 at this structure.
        masses: (N,) u.
    """
    centred = structure - masses @ structure / masses.sum()
    root = np.sqrt(np.repeat(masses, 3))
    inner = inner_directions(structure, masses)
    weighted = (hessian + hessian.T) / 2 / np.outer(root, root)
    squares, vectors = np.linalg.eigh(inner.T @ weighted @ inner)
    rates = np.sqrt(np.clip(squares * ACCELERATION, 0, None))
    rates[rates < SOFTEST_PER_CM * _RADIANS_PER_FS] = 0
    return Modes(*map(torch.from_numpy, (centred, masses, inner @ vectors, rates)))


def inner_directions(structure: np.ndarray, masses: np.ndarray) -> np.ndarray:
    """Orthonormal mass-weighted directions (3N, M) that are neither shifts nor rotations.

    Args:
        structure: (N, 3) A.
        masses: (N,) u.
    """
    centred = structure - masses @ structure / masses.sum()
    rigid = _rigid_motions(centred) * np.sqrt(np.repeat(masses, 3))[:, None]
    u, size, _ = np.linalg.svd(rigid, full_matrices=True)
    # Linear molecules have one rotation less, a single atom none.
    return u[:, int((size > 1e-6 * size[0]).sum()) :]


def _rigid_motions(x: np.ndarray) -> np.ndarray:
    """Shifts and rotations about the origin of x (N, 3), as columns (3N, 6)."""
    columns = [np.tile(axis, (len(x), 1)).ravel() for axis in np.eye(3)]
    columns += [np.cross(axis, x).ravel() for axis in np.eye(3)]
    return np.stack(columns, axis=1)


def propagate(modes: Modes, positions: Tensor, velocities: Tensor, lags_fs: Tensor) -> Tensor:
    """Positions (B, P, N, 3) A of harmonic motion.

    Args:
        modes: normal modes of the molecule.
        positions: (B, N, 3) A.
        velocities: (B, N, 3) A/fs.
        lags_fs: (B, P) fs.
    """
    masses = modes.masses.expand(len(positions), -1)
    centre = weighted_centroid(positions, masses)
    drift = weighted_centroid(velocities, masses)
    rest = modes.structure.expand_as(positions)
    turn = kabsch_rotation(rest, positions - centre, masses)
    root = modes.masses.sqrt()[:, None]

    def weighted(x: Tensor) -> Tensor:
        return (root * x).flatten(1)

    displacement = weighted((positions - centre) @ turn - modes.structure)
    q = displacement @ modes.vectors
    p = weighted((velocities - drift) @ turn) @ modes.vectors
    swings = (q * modes.rates).square() / (2 * ACCELERATION) < MOST_ENERGY_EV
    q, p = torch.where(swings, q, 0.0), torch.where(swings, p, 0.0)
    held = displacement - q @ modes.vectors.T
    angle = lags_fs[:, :, None] * modes.rates
    swing = torch.where(modes.rates > 0, angle.sin() / modes.rates.clamp(min=1e-12), 0.0)
    amplitudes = q[:, None] * angle.cos() + p[:, None] * swing
    moved = (amplitudes @ modes.vectors.T + held[:, None]).unflatten(2, (-1, 3)) / root
    frame = (modes.structure + moved) @ turn.transpose(1, 2)[:, None]
    return frame + centre[:, None] + lags_fs[:, :, None, None] * drift[:, None]
