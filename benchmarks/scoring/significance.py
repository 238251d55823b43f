"""Significance: spread over seeds, and bootstrap intervals of paired differences."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from scipy import stats

RESAMPLES = 10_000  # The expanded interval of five molecules ends at the ten outermost.
FEWEST_UNITS = 5  # Fewer molecules (or blocks of a single one) give no meaningful interval.


def two_sigma(values: Sequence[float]) -> float | None:
    """Return twice the standard deviation over seeds, which `±` stands for; None with one seed."""
    return 2 * float(np.std(values, ddof=1)) if len(values) > 1 else None


def with_spread(values: Sequence[float]) -> str:
    """Format the mean over seeds, with `± two_sigma` where there are several."""
    spread = two_sigma(values)
    return f"{np.mean(values):.3g}" + ("" if spread is None else f" ± {spread:.1g}")


def paired_interval(
    differences: np.ndarray,
    molecules: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
    blocks: Sequence[Hashable] | None = None,
) -> tuple[float, float]:
    """Bootstrap an interval of the mean over molecules of paired differences.

    Molecules are drawn with replacement first, and then the time blocks of each that was drawn. The
    percentiles are expanded: plain ones of a handful of molecules find a difference between equal
    models in one of five to ten cases.

    Args:
        differences: (n_windows,) of one model less the other on the same windows; NaN left out.
        molecules: n_windows names.
        resamples: number of bootstrap samples.
        confidence: probability that the interval should hold the mean.
        seed: of the draws.
        blocks: n_windows names of time blocks; None where windows stand more than a horizon apart,
            so that each is a block of its own.

    Returns:
        Lower and upper end, in the unit of `differences`.

    References:
        Davison and Hinkley, Bootstrap Methods and their Application (1997), section 3.8:
        hierarchical data are resampled from the top. Hesterberg, doi:10.1080/00031305.2015.1089789,
        section 5.2: the expanded percentile interval.
    """
    values, names = np.asarray(differences, dtype=float), np.asarray(molecules)
    own = range(len(values)) if blocks is None else blocks
    numbers = np.unique([str(block) for block in own], return_inverse=True)[1]
    present = ~np.isnan(values)
    groups = [
        _block_sums(values[(names == name) & present], numbers[(names == name) & present])
        for name in dict.fromkeys(molecules)
    ]
    groups = [group for group in groups if group.size]
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(groups), size=(resamples, len(groups)))
    means = np.empty(drawn.shape)
    for number, group in enumerate(groups):
        places = drawn == number
        means[places] = _drawn_means(group, int(places.sum()), rng)
    # One molecule alone is judged by its blocks.
    n_units = len(groups) if len(groups) > 1 else groups[0].shape[1]
    tail = 100 * _tail(n_units, confidence)
    low, high = np.percentile(means.mean(1), [tail, 100 - tail])
    return float(low), float(high)


def _tail(n_units: int, confidence: float) -> float:
    """Share of the resamples outside one end of the expanded interval."""
    if n_units < 2:
        return 0.0
    quantile = stats.t.ppf((1 + confidence) / 2, n_units - 1)
    return float(stats.norm.cdf(-quantile * np.sqrt(n_units / (n_units - 1))))


def _block_sums(values: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """Sum and number of the values of each block, (2, n_blocks), in order of their first value."""
    _, first, inverse = np.unique(blocks, return_index=True, return_inverse=True)
    sums = np.stack([np.bincount(inverse, values), np.bincount(inverse)]) if values.size else values
    return sums[..., np.argsort(first)]


def _drawn_means(sums: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Means (n,) of as many blocks as there are, drawn with replacement each time."""
    drawn = rng.integers(sums.shape[1], size=(n, sums.shape[1]))
    return sums[0][drawn].sum(-1) / sums[1][drawn].sum(-1)
