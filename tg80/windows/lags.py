"""Lags in fs <-> stored frames, and the lags that training draws.

Lags count from the start state and are rounded to stored frames; the lag that was really used
travels with the window, so that no model is asked for one time and scored at another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tg80.errors import UserError

SHORTEST_FS = 8.0  # of horizons drawn for training
Spacing = Literal["uniform", "log-uniform"]


def lag_frames(
    lags_fs: Sequence[float] | np.ndarray, frame_fs: float | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Convert lags to stored frames, and to the lags that these frames really have.

    Lags are rounded half up, to at least one frame. A lag that falls on a frame already taken is
    dropped, and the end is padded.

    Args:
        lags_fs: (P,) fs, counted from the start state, increasing.
        frame_fs: time between stored frames; one number, or (B, 1) for many trajectories.

    Returns:
        The frames, (P,) or (B, P) int, 0 where padded, and their lags in fs, NaN where padded.

    Raises:
        UserError: There is no lag, or lags are not positive and increasing.
    """
    lags = np.asarray(lags_fs, dtype=float)
    if lags.size == 0 or not np.all(lags > 0) or not np.all(np.diff(lags) > 0):
        raise UserError(f"lags must be positive and increasing, not {list(lags_fs)}")
    return frames_of_lags(lags, frame_fs)


def frames_of_lags(
    lags_fs: np.ndarray, frame_fs: float | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Do as `lag_frames` for many windows at once, without checking the lags.

    Args:
        lags_fs: (..., P) fs, not decreasing.
        frame_fs: one number, or (..., 1).

    Returns:
        The frames, (..., P) int, 0 where padded, and their lags, (..., P) fs, NaN where padded.
    """
    # 1e-9: a quotient such as 2.4999999999 for 2.5 is a tie and goes up like one.
    frames = np.maximum(1, np.floor(lags_fs / frame_fs + 0.5 + 1e-9).astype(np.int64))
    repeated = np.zeros(frames.shape, dtype=bool)
    repeated[..., 1:] = frames[..., 1:] == frames[..., :-1]
    kept_first = np.argsort(repeated, axis=-1, kind="stable")
    frames = np.take_along_axis(frames, kept_first, axis=-1)
    repeated = np.take_along_axis(repeated, kept_first, axis=-1)
    return np.where(repeated, 0, frames), np.where(repeated, np.nan, frames * frame_fs)


def spaced_lags(
    horizon_fs: float | np.ndarray,
    n_lags: int = 8,
    spacing: Spacing = "uniform",
    shortest_fs: float | np.ndarray = SHORTEST_FS,
) -> np.ndarray:
    """Return lags up to a horizon, evenly spaced in time or in the logarithm of time.

    Args:
        horizon_fs: the last lag; one number, or (...).
        n_lags: how many.
        spacing: `uniform` or `log-uniform`.
        shortest_fs: the first lag of `log-uniform`; `uniform` begins at horizon_fs / n_lags.

    Returns:
        (..., n_lags) fs, increasing.

    Raises:
        UserError: The spacing is unknown, there is no lag, or a time is not above 0.
    """
    horizon = np.asarray(horizon_fs, dtype=float)[..., None]
    if n_lags < 1:
        raise UserError(f"{n_lags} lags: give 1 or more")
    for name, times in (("horizon", horizon), ("shortest lag", np.asarray(shortest_fs))):
        if not np.all((times > 0) & np.isfinite(times)):
            raise UserError(f"the {name} must be more than 0 fs, not {times.min():g}")
    if spacing == "uniform":
        return horizon * np.arange(1, n_lags + 1) / n_lags
    if spacing == "log-uniform":
        shortest = np.minimum(np.asarray(shortest_fs, dtype=float)[..., None], horizon)
        # Down from the horizon, so that a single lag is the horizon.
        return horizon * (shortest / horizon) ** np.linspace(0, 1, n_lags)[::-1]
    raise UserError(f"unknown spacing {spacing!r} of lags; choose uniform or log-uniform")


@dataclass(frozen=True)
class LagSampling:
    """Which lags training windows have.

    With probability `fixed_fraction` the fixed lags; else as many lags, spaced as `spacing` says,
    to a horizon drawn log-uniformly from max(8 fs, one stored frame) to `longest_fs` (the block's
    length if None).
    """

    fixed_lags_fs: tuple[float, ...]
    fixed_fraction: float = 0.5
    longest_fs: float | None = None
    spacing: Spacing = "uniform"

    def __post_init__(self) -> None:
        """Raise UserError for invalid lags, fraction or spacing."""
        if not 0 <= self.fixed_fraction <= 1:
            raise UserError(f"fixed_fraction is a share from 0 to 1, not {self.fixed_fraction}")
        if self.longest_fs is not None and not self.longest_fs > 0:
            raise UserError(f"longest_fs must be more than 0 fs, not {self.longest_fs}")
        lag_frames(self.fixed_lags_fs, 1.0)
        spaced_lags(1.0, spacing=self.spacing)

    def draw(self, uniforms: np.ndarray, frame_fs: np.ndarray, length_fs: np.ndarray) -> np.ndarray:
        """Draw the lags of many windows.

        Args:
            uniforms: (B, 2) random numbers in [0, 1).
            frame_fs: (B,) time between frames.
            length_fs: (B,) length of the windows' blocks.

        Returns:
            (B, n_lags) fs, not decreasing; none is longer than its block.
        """
        fixed = np.asarray(self.fixed_lags_fs, dtype=float)
        longest = length_fs if self.longest_fs is None else np.minimum(self.longest_fs, length_fs)
        shortest = np.minimum(np.maximum(SHORTEST_FS, frame_fs), length_fs)
        longest = np.maximum(longest, shortest)
        horizon = shortest * (longest / shortest) ** uniforms[:, 1]
        drawn = spaced_lags(horizon, fixed.size, self.spacing, shortest)
        return np.where(uniforms[:, :1] < self.fixed_fraction, fixed, drawn)
