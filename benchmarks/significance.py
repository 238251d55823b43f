"""How far a figure can be trusted: its spread over seeds, and whether a difference is chance."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np


def two_sigma(values: Sequence[float]) -> float | None:
    """Twice the standard deviation over seeds, what `±` means everywhere; None with one seed."""
    return 2 * float(np.std(values, ddof=1)) if len(values) > 1 else None


def with_spread(values: Sequence[float]) -> str:
    """Mean over seeds, and `± two_sigma` where there are several, as text."""
    spread = two_sigma(values)
    return f"{np.mean(values):.3g}" + ("" if spread is None else f" ± {spread:.1g}")


def paired_interval(
    differences: np.ndarray,
    molecules: Sequence[str],
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    blocks: Sequence[Hashable] | None = None,
) -> tuple[float, float]:
    """Bootstrap interval of the mean over molecules of paired differences.

    Molecules are drawn with replacement first, and then the time blocks of each that was drawn.

    Args:
        differences: (n_windows,) of one model less the other on the same windows; NaN left out.
        molecules: n_windows names.
        blocks: n_windows names of time blocks; None where windows stand more than a horizon apart,
            so that each is a block of its own.

    Returns:
        Lower and upper end, in the unit of `differences`.

    References:
        Davison and Hinkley, Bootstrap Methods and their Application (1997), section 3.8:
        hierarchical data are resampled from the top.
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
    shape = (resamples, len(groups))
    # means[m] holds, for every place of every resample, a mean of molecule m's drawn blocks.
    means = np.stack([_drawn_means(group, shape, rng) for group in groups])
    drawn = rng.integers(len(groups), size=shape)
    picked = np.take_along_axis(means, drawn[None], axis=0)[0].mean(-1)
    tail = 50 * (1 - confidence)
    low, high = np.percentile(picked, [tail, 100 - tail])
    return float(low), float(high)


def _block_sums(values: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """Sum and number of the values of each block, (2, n_blocks), in order of their first value."""
    _, first, inverse = np.unique(blocks, return_index=True, return_inverse=True)
    sums = np.stack([np.bincount(inverse, values), np.bincount(inverse)]) if values.size else values
    return sums[..., np.argsort(first)]


def _drawn_means(sums: np.ndarray, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    drawn = rng.integers(sums.shape[1], size=(*shape, sums.shape[1]))
    return sums[0][drawn].sum(-1) / sums[1][drawn].sum(-1)
