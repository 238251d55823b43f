"""Means and drifts of correlated time series, each with an error bar that means 95 % at two."""

import math

import numpy as np
from scipy.special import stdtrit

# Below this many blocks a straight line fitted through them says nothing about its own error.
FEWEST_BLOCKS = 4


def drift_with_error(
    times_fs: np.ndarray, values: np.ndarray, block_fs: float = 100.0
) -> tuple[float, float]:
    """Slope of a straight line through a time series and its standard error.

    The series is averaged over blocks longer than the vibrations that correlate it; the line is
    fitted through the block means and the error taken from their scatter. The error is widened by
    Student's factor, so that two of it hold 95 % however few the blocks are.

    Args:
        times_fs: (n_frames,) fs.
        values: (n_frames,), any unit.
        block_fs: length of a block.

    Returns:
        Slope and standard error, per ps. The error is infinite (and the slope that of the plain
        frames) where the series has fewer than `FEWEST_BLOCKS` whole blocks.
    """
    times, values = np.asarray(times_fs, dtype=float), np.asarray(values, dtype=float)
    if len(times) < 2:
        return 0.0, math.inf
    per_block = max(1, round(block_fs / (times[1] - times[0])))
    n_blocks = len(times) // per_block
    if n_blocks < FEWEST_BLOCKS:
        return float(np.polyfit(times / 1000, values - values.mean(), 1)[0]), math.inf
    used = n_blocks * per_block
    x = times[:used].reshape(n_blocks, per_block).mean(axis=1) / 1000
    y = values[:used].reshape(n_blocks, per_block).mean(axis=1)
    x, y = x - x.mean(), y - y.mean()
    slope = x @ y / (x @ x)
    n_free = n_blocks - 2
    error = math.sqrt(np.sum((y - slope * x) ** 2) / n_free / (x @ x))
    return float(slope), error * float(stdtrit(n_free, 0.975)) / 1.96


def block_mean(values: np.ndarray, n_blocks: int = 10) -> tuple[float, float]:
    """Mean of a correlated series and its standard error from the scatter of block means.

    Args:
        values: (n_frames,), evenly spaced in time.
        n_blocks: blocks the series is cut into; frames left over count in the mean only.

    Returns:
        Mean and standard error, widened by Student's factor as in `drift_with_error`; the error is
        infinite where there are fewer frames than blocks.

    References:
        H. Flyvbjerg, H. G. Petersen, eq. (27), doi:10.1063/1.457480
    """
    values = np.asarray(values, dtype=float)
    per_block = len(values) // n_blocks
    if per_block == 0:
        return float(values.mean()), math.inf
    means = values[: n_blocks * per_block].reshape(n_blocks, per_block).mean(axis=1)
    error = means.std(ddof=1) / math.sqrt(n_blocks)
    return float(values.mean()), float(error * stdtrit(n_blocks - 1, 0.975) / 1.96)
