"""What makes a frame or a trajectory bad, as it is written into the shard.

The rules themselves are in `tg80.judgement`, so that `tg80 validate` judges by the same ones.
Nothing is filtered out: frames are flagged, trajectories get figures with error bars and verdicts.
"""

from typing import Any

import numpy as np

from tg80.bonds import Bonds, change_mask
from tg80.fields import QUALITY_FLAGS
from tg80.judgement import Frames, QualityThresholds, find_changes, judge

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

    Changes of the bond graph count by how long they last, so the flags of a segment alone would
    differ at its ends: give all frames at once.

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
    masks = {
        "scf_not_converged": frames["scf_converged"] == 0,
        "small_gap": frames["homo_lumo_gap"] < thresholds.gap_ev,
        "net_force": _length(frames["raw_net_force"]) > thresholds.net_force_ev_per_a,
        "net_torque": _length(frames["raw_net_torque"]) > thresholds.net_torque_ev,
    }
    for kind in ("bond_broken", "hydrogen_transferred", "stereo_changed"):
        masks[kind] = change_mask(changes, kind, frames["time"])
    flags = np.zeros(len(frames["time"]), dtype=np.uint32)
    for name, mask in masks.items():
        flags[mask] |= np.uint32(QUALITY_FLAGS[name])
    return flags


def _length(vectors: np.ndarray) -> np.ndarray:
    return np.linalg.norm(np.asarray(vectors, dtype=float), axis=1)


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
    flags = frame_flags(
        frames, atomic_numbers=atomic_numbers, bonds=bonds,
        reference_positions=reference_positions, thresholds=thresholds,
    )  # fmt: skip
    counts = {name: int(np.sum((flags & bit) != 0)) for name, bit in QUALITY_FLAGS.items()}
    statistics["n_flagged"] = counts
    return statistics
