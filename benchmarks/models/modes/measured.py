"""Forces measured from positions, where frames stand near enough to each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from benchmarks.models.force_fields.frames import FrameBatch, TrainingFrames
from tg80.constants import ACCELERATION, masses_of
from tg80.windows.trajectories import FrameLabels, Trajectory
from tg80.windows.windows import TrainingWindows, WindowBatch

LONGEST_INTERVAL_FS = 3.0
"""Between frames: of a C-H stretch, whose period is 10.5 fs, forces are then 2 % too small."""
# Nearer frames are taken so far apart: stored positions are rounded, and what is left of that in
# the second derivative grows with the inverse square of the interval.
_INTERVAL_FS = 2.0
# Of nine values: their sum over the square of the spacing is the second derivative in the middle.
_STENCIL = (-1 / 560, 8 / 315, -1 / 5, 8 / 5, -205 / 72, 8 / 5, -1 / 5, 8 / 315, -1 / 560)
FRAMES_A_WINDOW = 2


def with_measured_forces(blocks: Iterable[Trajectory]) -> list[Trajectory]:
    """The blocks whose frames are near enough, with measured forces for labels.

    The second derivative of the polynomial of eighth degree through nine positions: of a motion of
    frequency w and frames h apart, all but (w h)^8/3150. Stored velocities play no part: those of
    velocity Verlet are (w dt)^2/6 smaller than the slope of the path. The ends of a block have no
    neighbours, and are left out.

    References:
        Fornberg (1988), doi:10.1090/S0025-5718-1988-0935077-0.
    """
    return [
        _measured(block)
        for block in blocks
        if block.frame_fs <= LONGEST_INTERVAL_FS
        and block.n_frames > _frames_apart(block) * len(_STENCIL)
    ]


def _frames_apart(block: Trajectory) -> int:
    """Number of frames between those that a force is measured from."""
    return max(1, round(_INTERVAL_FS / block.frame_fs))


def _measured(block: Trajectory) -> Trajectory:
    every, x = _frames_apart(block), np.asarray(block.positions, dtype=np.float64)
    reach = every * (len(_STENCIL) // 2)
    n_inner = block.n_frames - 2 * reach
    around = (c * x[every * i :][:n_inner] for i, c in enumerate(_STENCIL))
    bend = sum(around) / (every * block.frame_fs) ** 2
    forces = masses_of(block.atomic_numbers)[:, None] * bend / ACCELERATION
    labels = partial(_labels, forces.astype(np.float32))
    inner = block.frames(reach, block.n_frames - reach)
    return replace(inner, labels=FrameLabels(labels, 0, len(forces)))


def _labels(forces: np.ndarray, first: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(stop - first), forces[first:stop]  # energies are not measured


@dataclass(frozen=True)
class MotionBatch(WindowBatch):
    """Windows, and frames with forces beside them.

    Attributes:
        frames: `FRAMES_A_WINDOW` for each window, of any training molecules.
    """

    frames: FrameBatch


class MotionWindows(TrainingWindows):
    """Windows with frames beside them.

    Args:
        windows: the windows.
        frames: blocks with forces.
    """

    def __init__(self, windows: TrainingWindows, frames: Sequence[Trajectory]) -> None:
        self.plain = windows
        self.trajectories, self.lags = windows.trajectories, windows.lags
        self.seed, self.rotate = windows.seed, windows.rotate
        self.windows_per_trajectory = windows.windows_per_trajectory
        self.frames = TrainingFrames(
            frames, {}, seed=windows.seed, windows_per_trajectory=windows.windows_per_trajectory
        )

    def __getitems__(self, numbers: Sequence[int]) -> MotionBatch:
        """The batch of these items; torch's loader asks for it under this name."""
        batch = self.plain.__getitems__(numbers)
        beside = [FRAMES_A_WINDOW * n + i for n in numbers for i in range(FRAMES_A_WINDOW)]
        return MotionBatch(**vars(batch), frames=self.frames.__getitems__(beside))


def frames_on(batch: MotionBatch, device: torch.device) -> FrameBatch:
    """The frames of a batch, on a device."""
    x, z = batch.frames.positions.to(device), batch.frames.atomic_numbers.to(device)
    return replace(batch.frames, positions=x, atomic_numbers=z)
