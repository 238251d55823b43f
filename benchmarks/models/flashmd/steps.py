"""Steps of one length: windows of one lag that know the velocities at its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from benchmarks.training.batches import DrawnLags
from tg80.windows.trajectories import Trajectory
from tg80.windows.windows import TrainingWindows, WindowBatch, cut_windows


@dataclass(frozen=True)
class StepBatch(WindowBatch):
    """Windows of one lag, the stride, and the velocities (B, N, 3) A/fs at its end."""

    later: Tensor


def _twins(blocks: Sequence[Trajectory]) -> list[Trajectory]:
    """Trajectories of velocities in the place of positions."""
    return [replace(block, positions=block.velocities) for block in blocks]


def steps_at(blocks: Sequence[Trajectory], starts: Sequence[int], stride_fs: float) -> StepBatch:
    """Steps from frames of B blocks."""
    later = cut_windows(_twins(blocks), starts, (stride_fs,)).targets[:, 0]
    return StepBatch(**vars(cut_windows(blocks, starts, (stride_fs,))), later=later)


class TrainingSteps(TrainingWindows):
    """Random steps of training blocks, turned at random."""

    def __init__(self, blocks: Sequence[Trajectory], lags: DrawnLags, **options: Any) -> None:
        super().__init__(blocks, lags, **options)
        # The same windows, turned alike.
        self._twin = TrainingWindows(_twins(blocks), lags, **options)

    def __getitems__(self, numbers: Sequence[int]) -> StepBatch:
        """The batch of these items; torch's loader asks for it under this name."""
        later = self._twin.__getitems__(numbers).targets[:, 0]
        return StepBatch(**vars(super().__getitems__(numbers)), later=later)
