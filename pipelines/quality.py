"""What makes a frame or a trajectory bad, as it is written into the shard.

The rules themselves are in `tg80.shards.quality`, so that `tg80 validate` judges by the same ones.
Nothing is filtered out: frames are flagged, trajectories get figures with error bars and verdicts.
"""

from typing import Any

import numpy as np

from tg80.chemistry.bonds import Bonds
from tg80.shards import quality
from tg80.shards.fields import QUALITY_FLAGS
from tg80.shards.quality import Frames, QualityThresholds, find_changes, judge

__all__ = ["QualityThresholds", "frame_flags", "trajectory_statistics"]


def frame_flags(
    frames: Frames,
    *,
    atomic_numbers: np.ndarray,
    bonds: Bonds,
    reference_positions: np.ndarray,
    thresholds: QualityThresholds,
) -> np.ndarray:
    """Bits of `QUALITY_FLAGS` of each frame of a whole trajectory.

    Args:
        frames: arrays by field name in the units of the code, with `time` in fs.
        atomic_numbers: (n_atoms,).
        bonds: (i, j, order).
        reference_positions: (n_atoms, 3) A, whose double bonds stand as they should.
        thresholds: limits.

    Returns:
        (n_frames,) uint32.
    """
    changes = find_changes(frames, atomic_numbers, bonds, reference_positions, thresholds)
    return quality.frame_flags(frames, changes, thresholds)


def trajectory_statistics(
    frames: Frames,
    *,
    atomic_numbers: np.ndarray,
    bonds: Bonds,
    reference_positions: np.ndarray,
    degrees_of_freedom: int,
    temperature_k: float,
    ensemble: str,
    start: str,
    thresholds: QualityThresholds,
) -> dict[str, Any]:
    """Figures and verdicts of a whole trajectory, JSON-able, for `ShardMetadata.statistics`.

    Args:
        frames, atomic_numbers, bonds, reference_positions, thresholds: as for `frame_flags`.
        degrees_of_freedom: internal ones.
        temperature_k: target temperature.
        ensemble: `nve`, `bussi` or `langevin`.
        start: `mean-energy` or `canonical`.

    Returns:
        By check: value, error (None where it is unknown), unit, threshold, verdict (`ok`,
        `warning` or `error`) and message; and under `n_flagged` the number of frames by flag.
    """
    changes = find_changes(frames, atomic_numbers, bonds, reference_positions, thresholds)
    statistics: dict[str, Any] = judge(
        frames,
        changes=changes,
        degrees_of_freedom=degrees_of_freedom,
        temperature_k=temperature_k,
        temperature_is_set=start == "mean-energy" or ensemble != "nve",
        thresholds=thresholds,
    )
    flags = quality.frame_flags(frames, changes, thresholds)
    counts = {name: int(np.sum((flags & bit) != 0)) for name, bit in QUALITY_FLAGS.items()}
    statistics["n_flagged"] = counts
    return statistics
