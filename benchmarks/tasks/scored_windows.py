"""Scored windows: the 16 starts of a molecule and part, each turned by a rotation of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.tasks.states import StartStates, start_states
from benchmarks.tasks.tasks import TaskSpec
from tg80.windows.rotations import uniform_rotations
from tg80.windows.starts import scored_starts
from tg80.windows.trajectories import Trajectory
from tg80.windows.windows import cut_windows

Start = tuple[Trajectory, int]


@dataclass(frozen=True)
class Windows:
    """Start states and the truth later.

    Attributes:
        states: B start states.
        lags_fs: (B, P) fs, NaN = padding.
        targets: (B, P, N, 3) A.
    """

    states: StartStates
    lags_fs: torch.Tensor
    targets: torch.Tensor


@dataclass(frozen=True)
class Part:
    """The scored windows of one part, the same starts throughout.

    Attributes:
        name: of the part.
        windows: at the task's lags, turned.
        curve: at its further lags, None without such.
        stored_frame: `windows` before they were turned, the diagnostic of orientation; None where
            nothing is turned or scored.
    """

    name: str
    windows: Windows
    curve: Windows | None = None
    stored_frame: Windows | None = None


def window_rotation(task_id: str, start_id: str) -> np.ndarray:
    """Return the rotation (3, 3) of one scored window: uniform, and fixed by the two names."""
    digest = hashlib.sha256(f"{task_id}\n{start_id}".encode()).digest()
    seed = np.frombuffer(digest[:16], dtype="<u4").tolist()
    return uniform_rotations(np.random.default_rng(seed), 1)[0]


def starts_of(
    blocks: Iterable[Trajectory], horizon_fs: float, part: str, task: TaskSpec
) -> list[Start]:
    """List the frames of a part's blocks that windows start from.

    Raises:
        UserError: the horizon is longer than a block.
    """
    return [
        (t, int(start)) for t in blocks for start in scored_starts(t, horizon_fs, part, task.starts)
    ]


def scored_windows(
    starts: Sequence[Start], lags_fs: Sequence[float], task: TaskSpec, turn: bool
) -> Windows:
    """Cut windows, turned or as they are stored."""
    turns = [window_rotation(task.id, block.start_id(start)) for block, start in starts]
    blocks, frames = [block for block, _ in starts], [start for _, start in starts]
    batch = cut_windows(blocks, frames, lags_fs, np.array(turns) if turn else None)
    return Windows(start_states(batch, task.score), batch.lags_fs, batch.targets)


def scored_part(name: str, blocks: Sequence[Trajectory], task: TaskSpec) -> Part:
    """Cut the windows of a part from its blocks.

    Raises:
        UserError: the task's horizon is longer than a block.
    """
    starts = starts_of(blocks, task.horizon_fs, name, task)
    return Part(
        name=name,
        windows=scored_windows(starts, task.lags_fs, task, True),
        curve=_curve(starts, task),
        stored_frame=scored_windows(starts, task.lags_fs, task, False),
    )


def _curve(starts: Sequence[Start], task: TaskSpec) -> Windows | None:
    return scored_windows(starts, task.curve_lags_fs, task, True) if task.curve_lags_fs else None


def validation_at_later_times(blocks: Iterable[Trajectory], task: TaskSpec) -> list[Part]:
    """Cut `val_time` at the lags of early stopping; nothing where they are longer than a block."""
    lags_fs = task.validation_lags_fs or task.lags_fs
    members = [block for block in blocks if block.length_fs > lags_fs[-1]]
    if not members:
        return []
    starts = starts_of(members, lags_fs[-1], "val_time", task)
    windows = scored_windows(starts, lags_fs, task, True)
    return [Part("val_time", windows, _curve(starts, task))]
