"""The 16 starts: the frames from which scored windows begin."""

from __future__ import annotations

import numpy as np

from tg80.errors import UserError
from tg80.windows.lags import lag_frames
from tg80.windows.trajectories import Trajectory

MAX_STARTS = 16


def start_frames(n_frames: int, horizon_frames: int, max_starts: int = MAX_STARTS) -> np.ndarray:
    """Return the start frames of scored windows: as many as fit more than a horizon apart.

    There are at most `max_starts`, spread evenly from the first frame to the last one whose window
    ends in the block.

    Args:
        n_frames: frames of the block.
        horizon_frames: the longest lag, in frames.
        max_starts: most starts of a block.

    Returns:
        (n_starts,) increasing; empty if the horizon is longer than the block.
    """
    slack = n_frames - 1 - horizon_frames
    if slack < 0:
        return np.zeros(0, dtype=np.int64)
    count = min(max_starts, slack // (horizon_frames + 1) + 1)
    if count == 1:
        return np.zeros(1, dtype=np.int64)
    return np.arange(count, dtype=np.int64) * slack // (count - 1)


def scored_starts(
    trajectory: Trajectory, horizon_fs: float, part: str, max_starts: int = MAX_STARTS
) -> np.ndarray:
    """Return the `start_frames` of one block.

    Args:
        trajectory: the block.
        horizon_fs: the longest lag.
        part: name of the part, for the message.
        max_starts: most starts of a block.

    Raises:
        UserError: The horizon is longer than the block. It is never shortened silently.
    """
    frames, _ = lag_frames([horizon_fs], trajectory.frame_fs)
    starts = start_frames(trajectory.n_frames, int(frames[0]), max_starts)
    if starts.size == 0:
        raise UserError(
            f"horizon {horizon_fs:g} fs is longer than the {part} block of {trajectory.name} "
            f"({max(trajectory.length_fs, 0):g} fs); choose a shorter horizon or longer data"
        )
    return starts
