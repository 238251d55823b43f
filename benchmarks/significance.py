"""Whether a difference between two models is more than chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def paired_interval(
    differences: np.ndarray,
    molecules: Sequence[str],
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Bootstrap interval of the mean over molecules of paired differences.

    Molecules are drawn with replacement first, and then the windows of each that was drawn: they
    stand more than a horizon apart, so each is a time block of its own.

    Args:
        differences: (n_windows,) of one model less the other on the same windows; NaN left out.
        molecules: n_windows names.

    Returns:
        Lower and upper end, in the unit of `differences`.

    References:
        Davison and Hinkley, Bootstrap Methods and their Application (1997), section 3.8:
        hierarchical data are resampled from the top.
    """
    values, names = np.asarray(differences, dtype=float), np.asarray(molecules)
    groups = [values[(names == name) & ~np.isnan(values)] for name in dict.fromkeys(molecules)]
    groups = [group for group in groups if group.size]
    rng = np.random.default_rng(seed)
    shape = (resamples, len(groups))
    # means[m] holds, for every place of every resample, a mean of molecule m's drawn windows.
    means = np.stack([rng.choice(group, (*shape, group.size)).mean(-1) for group in groups])
    drawn = rng.integers(len(groups), size=shape)
    picked = np.take_along_axis(means, drawn[None], axis=0)[0].mean(-1)
    tail = 50 * (1 - confidence)
    low, high = np.percentile(picked, [tail, 100 - tail])
    return float(low), float(high)
