"""What makes a trajectory bad: one set of rules for the pipeline that writes and the checker that
reads. Every figure is computed from the frames, with its error bar, threshold and verdict.

A verdict is `error` only where the data proves the fault: a drift of a few tens of fs has no error
bar and is called inconclusive, a warning.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import Field

from tg80.chemistry import mechanics
from tg80.chemistry.bonds import MINIMUM_FS, STRETCH, Bonds, GraphChange, change_mask, graph_changes
from tg80.shards.fields import QUALITY_FLAGS
from tg80.shards.statistics import block_mean, drift_with_error
from tg80.untrusted.limits import BoundedModel

Verdict = Literal["ok", "warning", "error"]
Frames = Mapping[str, np.ndarray]


class QualityThresholds(BoundedModel):
    """Limits of the quality checks.

    Attributes:
        drift_mev_per_atom_ps: largest drift of the conserved quantity.
        drift_error_mev_per_atom_ps: a drift known no better than this is inconclusive.
        drift_total_mev_per_atom: largest change of the conserved quantity over a shard.
        temperature_tolerance_k: largest distance of the mean temperature from the target.
        temperature_length_fs: shorter trajectories are not judged by their temperature.
        bond_stretch: share of the sum of covalent radii beyond which a bond is broken.
        bond_minimum_fs: time a change of the bond graph must last to count.
        gap_ev: smallest HOMO-LUMO gap.
        net_force_ev_per_a, net_torque_ev: largest net force and torque before projection.
    """

    drift_mev_per_atom_ps: float = Field(0.05, gt=0)
    drift_error_mev_per_atom_ps: float = Field(0.025, gt=0)
    drift_total_mev_per_atom: float = Field(2.0, gt=0)
    temperature_tolerance_k: float = Field(10.0, gt=0)
    temperature_length_fs: float = Field(5000.0, ge=0)
    bond_stretch: float = Field(STRETCH, gt=1)
    bond_minimum_fs: float = Field(MINIMUM_FS, ge=0)
    gap_ev: float = Field(0.5, ge=0)
    net_force_ev_per_a: float = Field(0.05, gt=0)
    net_torque_ev: float = Field(0.15, gt=0)


def thresholds_of(recipe: Mapping[str, Any]) -> QualityThresholds:
    """The limits a recipe sets; those it does not name are the default ones.

    Raises:
        ValidationError: what it says are no limits.
    """
    return QualityThresholds.model_validate(recipe.get("quality", {}))


def find_changes(
    frames: Frames,
    atomic_numbers: np.ndarray,
    bonds: Bonds,
    reference_positions: np.ndarray,
    thresholds: QualityThresholds,
) -> list[GraphChange]:
    """Departures from the bond graph under these thresholds."""
    return graph_changes(
        frames["time"], frames["positions"], atomic_numbers, bonds, reference_positions,
        stretch=thresholds.bond_stretch, minimum_fs=thresholds.bond_minimum_fs,
    )  # fmt: skip


def frame_flags(
    frames: Frames, changes: list[GraphChange], thresholds: QualityThresholds
) -> np.ndarray:
    """(n_frames,) uint32 bits of `QUALITY_FLAGS`.

    Changes of the bond graph count by how long they last, so the flags of a segment alone would
    differ at its ends: give all frames at once.
    """
    masks = {
        "scf_not_converged": frames["scf_converged"] == 0,
        "small_gap": frames["homo_lumo_gap"] < thresholds.gap_ev,
        "net_force": _lengths(frames["raw_net_force"]) > thresholds.net_force_ev_per_a,
        "net_torque": _lengths(frames["raw_net_torque"]) > thresholds.net_torque_ev,
    }
    for kind in ("bond_broken", "hydrogen_transferred", "stereo_changed"):
        masks[kind] = change_mask(changes, kind, frames["time"])
    flags = np.zeros(len(frames["time"]), dtype=np.uint32)
    for name, mask in masks.items():
        flags[mask] |= np.uint32(QUALITY_FLAGS[name])
    return flags


def _lengths(vectors: np.ndarray) -> np.ndarray:
    return np.linalg.norm(np.asarray(vectors, dtype=float), axis=1)


def judge(
    frames: Frames,
    *,
    changes: list[GraphChange],
    degrees_of_freedom: int,
    temperature_k: float,
    temperature_is_set: bool,
    thresholds: QualityThresholds,
) -> dict[str, dict[str, Any]]:
    """All quality checks of one trajectory.

    Args:
        frames: arrays by field name in the units of the code, with `time` in fs.
        changes: from `find_changes`.
        degrees_of_freedom: internal ones, 3N-6 or 3N-5.
        temperature_k: target temperature.
        temperature_is_set: whether the mean should be the target: a thermostatted run or one
            scaled to the mean energy; the temperature of a canonical energy in NVE spreads.
        thresholds: limits.

    Returns:
        Check by name, each with value, error (None: unknown), unit, threshold, verdict, message.
    """
    n_atoms = frames["positions"].shape[1]
    times = frames["time"]
    conserved = 1000.0 * np.asarray(frames["conserved_quantity"], dtype=float) / n_atoms
    kelvin = np.asarray(mechanics.temperature(frames["kinetic_energy"], degrees_of_freedom))
    judged = temperature_is_set and times[-1] - times[0] >= thresholds.temperature_length_fs
    return {
        "drift": judge_drift(times, conserved, thresholds),
        "drift_total": _judge_total_drift(times, conserved, thresholds),
        "temperature": _judge_temperature(kelvin, temperature_k, judged, thresholds),
        "gap": _judge_gap(frames["homo_lumo_gap"], thresholds),
        "scf": _judge_scf(frames["scf_converged"]),
        "net_force": _judge_net(
            frames["raw_net_force"], "eV/A", thresholds.net_force_ev_per_a, "net force"
        ),
        "net_torque": _judge_net(
            frames["raw_net_torque"], "eV", thresholds.net_torque_ev, "net torque"
        ),
        "bond_graph": _judge_graph(changes),
    }


def _check(
    value: float,
    error: float | None,
    unit: str | None,
    threshold: float | None,
    verdict: Verdict,
    message: str,
    **more: Any,
) -> dict[str, Any]:
    return {
        "value": value,
        "error": None if error is None or math.isinf(error) else error,
        "unit": unit,
        "threshold": threshold,
        "verdict": verdict,
        "message": message,
        **more,
    }


def judge_drift(
    times: np.ndarray, conserved: np.ndarray, thresholds: QualityThresholds
) -> dict[str, Any]:
    """The drift of the conserved quantity: value, error, threshold, verdict, message.

    Args:
        times: (n_frames,) fs.
        conserved: (n_frames,) meV per atom.
        thresholds: limits.
    """
    slope, error = drift_with_error(times, conserved)
    limit, unit = thresholds.drift_mev_per_atom_ps, "meV/atom/ps"
    if math.isinf(error):
        message = f"drift inconclusive: {times[-1] - times[0]:g} fs are too short for an error bar"
        return _check(slope, error, unit, limit, "warning", message)
    text = f"drift {slope:.3g} +- {error:.2g} {unit}"
    if abs(slope) - 2 * error > limit:
        return _check(slope, error, unit, limit, "error", f"{text} is above {limit:g}")
    if error > thresholds.drift_error_mev_per_atom_ps:
        return _check(slope, error, unit, limit, "warning", f"{text} is inconclusive")
    if abs(slope) > limit:
        return _check(slope, error, unit, limit, "warning", f"{text} may be above {limit:g}")
    return _check(slope, error, unit, limit, "ok", text)


def _judge_total_drift(
    times: np.ndarray, conserved: np.ndarray, thresholds: QualityThresholds
) -> dict[str, Any]:
    """Change from the first to the last quarter: it also sees a jump that no line fits."""
    quarter = max(1, len(conserved) // 4)
    change = float(conserved[-quarter:].mean() - conserved[:quarter].mean())
    limit, unit = thresholds.drift_total_mev_per_atom, "meV/atom"
    _, slope_error = drift_with_error(times, conserved)
    error = slope_error * float(times[-1] - times[0]) / 1000 if len(times) > 1 else math.inf
    text = f"the conserved quantity changes by {change:.3g} {unit}"
    if abs(change) <= limit:
        return _check(change, error, unit, limit, "ok", text)
    # A jump widens the error of the line through it, so the change is not set against that.
    verdict: Verdict = "warning" if math.isinf(error) else "error"
    return _check(change, error, unit, limit, verdict, f"{text}, more than {limit:g}")


def _judge_temperature(
    kelvin: np.ndarray, target: float, judged: bool, thresholds: QualityThresholds
) -> dict[str, Any]:
    mean, error = block_mean(kelvin)
    limit, off = thresholds.temperature_tolerance_k, abs(mean - target)
    spread = "" if math.isinf(error) else f" +- {error:.2g}"
    text = f"mean temperature {mean:.4g}{spread} K"
    verdict: Verdict = "ok"
    if judged and off > limit:
        verdict = "error" if off - 2 * error > limit else "warning"
        text += f" is more than {limit:g} K from {target:g} K"
    return _check(mean, error, "K", limit, verdict, text, target=target, judged=bool(judged))


def _judge_gap(gaps: np.ndarray, thresholds: QualityThresholds) -> dict[str, Any]:
    smallest, n_small = float(gaps.min()), int(np.sum(gaps < thresholds.gap_ev))
    text = f"smallest HOMO-LUMO gap {smallest:.3g} eV"
    if n_small:
        text += f"; {n_small} frames are below {thresholds.gap_ev:g} eV"
    verdict: Verdict = "warning" if n_small else "ok"
    return _check(smallest, None, "eV", thresholds.gap_ev, verdict, text, n_frames=n_small)


def _judge_scf(converged: np.ndarray) -> dict[str, Any]:
    n_bad = int(np.sum(np.asarray(converged) == 0))
    verdict: Verdict = "warning" if n_bad else "ok"
    return _check(n_bad, None, "frames", 0, verdict, f"{n_bad} frames are not self-consistent")


def _judge_net(vectors: np.ndarray, unit: str, limit: float, what: str) -> dict[str, Any]:
    length = _lengths(vectors)
    rms, largest = float(np.sqrt(np.mean(length**2))), float(length.max())
    text = f"{what} before projection: RMS {rms:.2g}, largest {largest:.2g} {unit}"
    if largest > limit:
        return _check(rms, None, unit, limit, "warning", f"{text}, above {limit:g}", max=largest)
    return _check(rms, None, unit, limit, "ok", text, max=largest)


def _judge_graph(changes: list[GraphChange]) -> dict[str, Any]:
    """A broken bond means another compound; a hydrogen that moved is worth a look."""
    broken = any(change.kind == "bond_broken" for change in changes)
    verdict: Verdict = "error" if broken else "warning" if changes else "ok"
    shown = "; ".join(str(change) for change in changes[:3])
    more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
    message = f"{shown}{more}" if changes else "the bond graph is kept"
    listed = [change.as_dict() for change in changes]
    return _check(len(changes), None, "changes", 0, verdict, message, changes=listed)
