"""Lags in fs as stored frames, and the frames from which scored windows start.

Lags count from the start state and are rounded to stored frames; the lag that was really used
travels with the window, so that no model is asked for one time and scored at another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tg80.errors import UserError
from tg80.trajectories import Trajectory

MAX_STARTS = 16


def lag_frames(
    lags_fs: Sequence[float] | np.ndarray, frame_fs: float
) -> tuple[np.ndarray, np.ndarray]:
    """Lags as stored frames, and the lags these frames really are.

    Rounded half up, at least one frame; a lag that falls on a frame already taken is dropped and
    the end padded.

    Args:
        lags_fs: (P,) fs, counted from the start state, increasing.
        frame_fs: time between stored frames.

    Returns:
        frames: (P,) int, 0 where padded. real_lags_fs: (P,) fs, NaN where padded.

    Raises:
        UserError: no lag, or lags that are not positive and increasing.
    """
    lags = np.asarray(lags_fs, dtype=float)
    if lags.size == 0 or not np.all(lags > 0) or not np.all(np.diff(lags) > 0):
        raise UserError(f"lags must be positive and increasing, not {list(lags_fs)}")
    # 1e-9: a quotient such as 2.4999999999 for 2.5 is a tie and goes up like one.
    kept = np.unique(np.maximum(1, np.floor(lags / frame_fs + 0.5 + 1e-9).astype(np.int64)))
    frames = np.zeros(lags.size, dtype=np.int64)
    frames[: kept.size] = kept
    real = np.full(lags.size, np.nan)
    real[: kept.size] = kept * frame_fs
    return frames, real


def start_frames(n_frames: int, horizon_frames: int, max_starts: int = MAX_STARTS) -> np.ndarray:
    """Starts of scored windows in a block: as many as fit more than a horizon apart, at most 16.

    They are spread evenly from the first frame to the last one whose window ends in the block.

    Args:
        n_frames: frames of the block. horizon_frames: the longest lag, in frames.

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
    """`start_frames` of one trajectory or block.

    Raises:
        UserError: the horizon is longer than the block; it is never shortened silently.
    """
    frames, _ = lag_frames([horizon_fs], trajectory.frame_fs)
    starts = start_frames(trajectory.n_frames, int(frames[0]), max_starts)
    if starts.size == 0:
        raise UserError(
            f"horizon {horizon_fs:g} fs is longer than the {part} block of {trajectory.name} "
            f"({max(trajectory.length_fs, 0):g} fs); choose a shorter horizon or longer data"
        )
    return starts


@dataclass(frozen=True)
class LagSampling:
    """Which lags training windows have.

    With probability `fixed_fraction` the fixed lags, else `n_lags` uniform lags to a horizon drawn
    log-uniformly from max(8 fs, one stored frame) to `longest_fs` (the block's length if None).
    """

    fixed_lags_fs: tuple[float, ...]
    fixed_fraction: float = 0.5
    longest_fs: float | None = None

    def draw(self, rng: np.random.Generator, frame_fs: float, length_fs: float) -> np.ndarray:
        """Lags (n_lags,) in fs for one window of a block `length_fs` long."""
        fixed = np.asarray(self.fixed_lags_fs, dtype=float)
        if rng.random() < self.fixed_fraction:
            return fixed
        shortest = max(8.0, frame_fs)
        longest = min(self.longest_fs or length_fs, length_fs)
        horizon = np.exp(rng.uniform(np.log(shortest), np.log(max(longest, shortest))))
        return horizon * np.arange(1, fixed.size + 1) / fixed.size
