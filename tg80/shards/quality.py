"""What makes a trajectory bad: the rules by which the pipeline writes and `tg80 validate` checks.

Every figure is computed from the frames, with its error bar, threshold and verdict. Nothing is
filtered out: frames are flagged, trajectories get verdicts.

A verdict is `error` only where the data proves the fault: a drift of a few tens of fs has no error
bar and is called inconclusive, a warning.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field
from scipy.special import stdtrit

from tg80.chemistry import mechanics
from tg80.chemistry.bonds import MINIMUM_FS, STRETCH, GraphChange, change_mask, graph_changes
from tg80.shards.fields import QUALITY_FLAGS, evaluated_frames
from tg80.shards.metadata import ShardMetadata
from tg80.untrusted.limits import BoundedModel

Verdict = Literal["ok", "warning", "error"]
Frames = Mapping[str, np.ndarray]


class QualityThresholds(BoundedModel):
    """Limits of the quality checks."""

    drift_mev_per_atom_ps: float = Field(
        default=0.05, gt=0, description="largest drift of the conserved quantity"
    )
    drift_error_mev_per_atom_ps: float = Field(
        default=0.025, gt=0, description="a drift with a larger error bar is inconclusive"
    )
    drift_total_mev_per_atom: float = Field(
        default=2.0, gt=0, description="largest change of the conserved quantity over a trajectory"
    )
    temperature_tolerance_k: float = Field(
        default=10.0, gt=0, description="largest distance of the mean temperature from the target"
    )
    temperature_length_fs: float = Field(
        default=5000.0, ge=0, description="the temperature of shorter trajectories is not judged"
    )
    bond_stretch: float = Field(
        default=STRETCH,
        gt=1,
        description="a longer bond, over the sum of covalent radii, is broken",
    )
    bond_minimum_fs: float = Field(
        default=MINIMUM_FS, ge=0, description="shorter changes of the bond graph do not count"
    )
    gap_ev: float = Field(default=0.5, ge=0, description="smallest HOMO-LUMO gap")
    net_force_ev_per_a: float = Field(
        default=0.05, gt=0, description="largest net force before projection"
    )
    net_torque_ev: float = Field(
        default=0.15, gt=0, description="largest net torque before projection"
    )


def thresholds_of(recipe: Mapping[str, Any]) -> QualityThresholds:
    """The limits a recipe sets; those it does not name are the default ones.

    Raises:
        ValidationError: what it says are no limits.
    """
    return QualityThresholds.model_validate(recipe.get("quality", {}))


@dataclass(frozen=True)
class Check:
    """One figure of a trajectory and what it means.

    Attributes:
        value: the figure.
        error: its standard error; None if it is unknown or has none.
        unit: of value, error and threshold.
        threshold: the limit it is judged by.
        verdict: `error` where the data proves a fault.
        message: figure and verdict in words.
        target: of the temperature, K.
        judged: whether the temperature is judged.
        max: largest net force or torque.
        n_frames: frames with a small gap.
        changes: of the bond graph.
    """

    value: float
    error: float | None
    unit: str
    threshold: float
    verdict: Verdict
    message: str
    target: float | None = None
    judged: bool | None = None
    max: float | None = None
    n_frames: int | None = None
    changes: list[GraphChange] | None = None

    def as_dict(self) -> dict[str, Any]:
        """As it is stored in the metadata of a shard: without what this check does not have."""
        return {k: v for k, v in asdict(self).items() if v is not None or k == "error"}


@dataclass(frozen=True)
class Quality:
    """A whole trajectory as judged.

    Attributes:
        checks: by name.
        flags: (n_frames,) uint32 bits of `QUALITY_FLAGS`.
    """

    checks: dict[str, Check]
    flags: np.ndarray

    @property
    def n_flagged(self) -> dict[str, int]:
        """Number of frames by flag."""
        return count_flags(self.flags)

    def statistics(self) -> dict[str, Any]:
        """JSON-able, for `ShardMetadata.statistics`."""
        checks = {name: check.as_dict() for name, check in self.checks.items()}
        return {**checks, "n_flagged": self.n_flagged}


def count_flags(flags: np.ndarray) -> dict[str, int]:
    """Number of frames by flag."""
    return {name: int(np.sum((flags & bit) != 0)) for name, bit in QUALITY_FLAGS.items()}


def judge(frames: Frames, static: Frames, metadata: ShardMetadata) -> Quality:
    """Judge a whole trajectory by the limits of its recipe.

    Changes of the bond graph count by how long they last, so a segment alone would be judged
    wrongly at its ends. The mean temperature should be the target in a thermostatted run or one
    scaled to the mean energy; that of a canonical energy in NVE spreads.

    Args:
        frames: arrays by field name in the units of the code, with `time` in fs.
        static: `atomic_numbers` and `relaxed_positions`, whose double bonds stand as they should.
        metadata: of the shard; its statistics do not count.

    Raises:
        ValidationError: the recipe has no valid limits.
    """
    thresholds = thresholds_of(metadata.recipe)
    times, n_degrees = frames["time"], metadata.degrees_of_freedom
    evaluated = evaluated_frames(frames)
    n_atoms = frames["positions"].shape[1]
    conserved = 1000.0 * np.asarray(frames["conserved_quantity"], dtype=float) / n_atoms
    series = times[evaluated], conserved[evaluated]
    kelvin = np.asarray(mechanics.temperature(frames["kinetic_energy"], n_degrees))
    is_set = metadata.start == "mean-energy" or metadata.ensemble != "nve"
    judged = is_set and times[-1] - times[0] >= thresholds.temperature_length_fs
    changes = graph_changes(
        times, frames["positions"], static["atomic_numbers"], metadata.bonds,
        static["relaxed_positions"], stretch=thresholds.bond_stretch,
        minimum_fs=thresholds.bond_minimum_fs,
    )  # fmt: skip
    force, torque = (frames[name][evaluated] for name in ("raw_net_force", "raw_net_torque"))
    checks = {
        "drift": judge_drift(*series, thresholds),
        "drift_total": _judge_total_drift(*series, thresholds),
        "temperature": _judge_temperature(
            kelvin, metadata.temperature_k, judged, thresholds, n_degrees
        ),
        "gap": _judge_gap(frames["homo_lumo_gap"][evaluated], thresholds),
        "scf": _judge_scf(frames["scf_converged"][evaluated]),
        "net_force": _judge_net(force, "eV/A", thresholds.net_force_ev_per_a, "net force"),
        "net_torque": _judge_net(torque, "eV", thresholds.net_torque_ev, "net torque"),
        "bond_graph": _judge_graph(changes),
    }
    return Quality(checks, _frame_flags(frames, changes, thresholds))


def _frame_flags(
    frames: Frames, changes: list[GraphChange], thresholds: QualityThresholds
) -> np.ndarray:
    masks = {
        "scf_not_converged": (frames["scf_converged"] == 0) & evaluated_frames(frames),
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


def judge_drift(times: np.ndarray, conserved: np.ndarray, thresholds: QualityThresholds) -> Check:
    """Judge the drift of the conserved quantity.

    Args:
        times: (n_frames,) fs.
        conserved: (n_frames,) meV per atom.
        thresholds: limits.
    """
    slope, error = drift_with_error(times, conserved)
    limit, unit = thresholds.drift_mev_per_atom_ps, "meV/atom/ps"
    text = f"drift {slope:.3g} +- {error:.2g} {unit}"
    verdict: Verdict = "warning"
    if math.isinf(error):
        text = f"drift inconclusive: {times[-1] - times[0]:g} fs are too short for an error bar"
    elif abs(slope) - 2 * error > limit:
        verdict, text = "error", f"{text} is above {limit:g}"
    elif error > thresholds.drift_error_mev_per_atom_ps:
        text += " is inconclusive"
    elif abs(slope) > limit:
        text += f" may be above {limit:g}"
    else:
        verdict = "ok"
    return Check(slope, _known(error), unit, limit, verdict, text)


def _known(error: float) -> float | None:
    return None if math.isinf(error) else error


def _judge_total_drift(
    times: np.ndarray, conserved: np.ndarray, thresholds: QualityThresholds
) -> Check:
    """Change from the first to the last quarter: it also sees a jump that no line fits."""
    quarter = max(1, len(conserved) // 4)
    change = float(conserved[-quarter:].mean() - conserved[:quarter].mean())
    limit, unit = thresholds.drift_total_mev_per_atom, "meV/atom"
    _, slope_error = drift_with_error(times, conserved)
    error = slope_error * float(times[-1] - times[0]) / 1000 if len(times) > 1 else math.inf
    text = f"the conserved quantity changes by {change:.3g} {unit}"
    verdict: Verdict = "ok"
    if not abs(change) <= limit:
        # A jump widens the error of the line through it, so the change is not set against that.
        verdict = "warning" if math.isinf(error) else "error"
        text += f", more than {limit:g}"
    return Check(change, _known(error), unit, limit, verdict, text)


def _judge_temperature(
    kelvin: np.ndarray,
    target: float,
    judged: bool,
    thresholds: QualityThresholds,
    degrees_of_freedom: int,
) -> Check:
    mean, error = block_mean(kelvin)
    limit, off = thresholds.temperature_tolerance_k, abs(mean - target)
    spread = "" if math.isinf(error) else f" +- {error:.2g}"
    text = f"mean temperature {mean:.4g}{spread} K"
    verdict: Verdict = "ok"
    if judged and off > limit:
        # A methyl group that turns almost freely may keep its energy throughout. It has no
        # potential energy to share, so what its kinetic energy (spread kT / sqrt 2) exceeds its
        # mean by shifts the mean of all by half of that.
        rotor = target / math.sqrt(2) / degrees_of_freedom
        verdict = "error" if off - 2 * error > limit + 2 * rotor else "warning"
        text += f" is more than {limit:g} K from {target:g} K"
    return Check(mean, _known(error), "K", limit, verdict, text, target=target, judged=bool(judged))


def _judge_gap(gaps: np.ndarray, thresholds: QualityThresholds) -> Check:
    smallest, n_small = float(gaps.min()), int(np.sum(gaps < thresholds.gap_ev))
    text = f"smallest HOMO-LUMO gap {smallest:.3g} eV"
    if n_small:
        text += f"; {n_small} frames are below {thresholds.gap_ev:g} eV"
    verdict: Verdict = "warning" if n_small else "ok"
    return Check(smallest, None, "eV", thresholds.gap_ev, verdict, text, n_frames=n_small)


def _judge_scf(converged: np.ndarray) -> Check:
    n_bad = int(np.sum(np.asarray(converged) == 0))
    verdict: Verdict = "warning" if n_bad else "ok"
    return Check(n_bad, None, "frames", 0, verdict, f"{n_bad} frames are not self-consistent")


def _judge_net(vectors: np.ndarray, unit: str, limit: float, what: str) -> Check:
    length = _lengths(vectors)
    rms, largest = float(np.sqrt(np.mean(length**2))), float(length.max())
    text = f"{what} before projection: RMS {rms:.2g}, largest {largest:.2g} {unit}"
    verdict: Verdict = "ok"
    if largest > limit:
        verdict, text = "warning", f"{text}, above {limit:g}"
    return Check(rms, None, unit, limit, verdict, text, max=largest)


def _judge_graph(changes: list[GraphChange]) -> Check:
    """A broken bond means another compound; a hydrogen that moved is worth a look."""
    broken = any(change.kind == "bond_broken" for change in changes)
    verdict: Verdict = "error" if broken else "warning" if changes else "ok"
    shown = "; ".join(str(change) for change in changes[:3])
    more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
    message = f"{shown}{more}" if changes else "the bond graph is kept"
    return Check(len(changes), None, "changes", 0, verdict, message, changes=changes)


# --- means and drifts of correlated series, with an error bar of which two hold 95 % ---

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
        times_fs: (n_frames,) fs; not evenly spaced where values are missing.
        values: (n_frames,), any unit.
        block_fs: length of a block.

    Returns:
        Slope and standard error, per ps. The error is infinite (and the slope that of the plain
        frames) where the series has fewer than `FEWEST_BLOCKS` whole blocks.
    """
    times, values = np.asarray(times_fs, dtype=float), np.asarray(values, dtype=float)
    if len(times) < 2:
        return 0.0, math.inf
    spacing = np.diff(times).min()
    per_block = max(1, round(block_fs / spacing))
    places = np.floor((times - times[0]) / spacing + 1e-6).astype(int)
    whole = places < (places[-1] + 1) // per_block * per_block
    starts = np.unique(places[whole] // per_block, return_index=True)[1][1:]
    if len(starts) + 1 < FEWEST_BLOCKS:
        return float(np.polyfit(times / 1000, values - values.mean(), 1)[0]), math.inf
    x, y = (
        np.array([block.mean() for block in np.split(series[whole], starts)])
        for series in (times, values)
    )
    x = x / 1000
    x, y = x - x.mean(), y - y.mean()
    slope = x @ y / (x @ x)
    n_free = len(x) - 2
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
