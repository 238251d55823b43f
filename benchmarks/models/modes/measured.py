"""Forces measured from positions and velocities, where frames stand near enough to each other."""

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
"""Between frames: of a C-H stretch, whose period is 10.5 fs, forces are then 3 % too small."""
FRAMES_A_WINDOW = 2


def with_measured_forces(blocks: Iterable[Trajectory]) -> list[Trajectory]:
    """The blocks whose frames are near enough, with measured forces for labels.

    With frames h apart, a = 2 (x+ - 2 x + x-)/h^2 - (v+ - v-)/(2h), right to fourth order in h: of
    a motion of frequency w, all but (w h)^4/360. The ends of a block have no neighbour, and are
    left out.

    References:
        Compact (Hermitian) differences: Collatz, The Numerical Treatment of Differential Equations
        (1960), chapter 3.
    """
    return [
        _measured(block)
        for block in blocks
        if block.frame_fs <= LONGEST_INTERVAL_FS and block.n_frames > 2
    ]


def _measured(block: Trajectory) -> Trajectory:
    h = block.frame_fs
    x, v = (np.asarray(part, dtype=np.float64) for part in (block.positions, block.velocities))
    bend = 2 * (x[2:] - 2 * x[1:-1] + x[:-2]) / h**2 - (v[2:] - v[:-2]) / (2 * h)
    forces = masses_of(block.atomic_numbers)[:, None] * bend / ACCELERATION
    labels = partial(_labels, forces.astype(np.float32))
    inner = block.frames(1, block.n_frames - 1)
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
