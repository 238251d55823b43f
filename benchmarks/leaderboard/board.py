"""What stands beside the errors of a line: what it cost, and what its structures are like."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.models import MODELS
from benchmarks.models.cards import read_card
from benchmarks.runs.records import Record
from benchmarks.scoring.metrics import Metric


@dataclass(frozen=True)
class Costs:
    """What a line took; means over its runs, None where records do not say.

    Attributes:
        inputs, labels: what the model predicts from, and learns from.
        n_samples: windows learnt from, repetitions counted.
        training_seconds, prediction_seconds: CPU time (wall time on a GPU) of a run.
        seconds_per_trajectory: the latter for one window, which is all lags from one start.
    """

    inputs: tuple[str, ...]
    labels: tuple[str, ...]
    n_parameters: float | None
    n_samples: float | None
    training_seconds: float | None
    prediction_seconds: float | None
    seconds_per_trajectory: float | None


@dataclass(frozen=True)
class Quality:
    """What a line's predicted structures are like; means over molecules and runs.

    Attributes:
        valid, valid_all_atoms: shares. bond_distance, bond_distance_all_atoms: A.
        robustness: S2S of turned windows over that of the same as stored; exactly 1 for models
            that follow every rotation.
    """

    valid: float | None
    valid_all_atoms: float | None
    bond_distance: float | None
    bond_distance_all_atoms: float | None
    robustness: float | None


def costs_of(records: Sequence[Record]) -> Costs:
    """Costs of the records of one line."""
    first = records[0]
    inputs, labels = first.inputs, first.labels
    if not inputs and first.model in MODELS:
        # Written before records held them.
        card = read_card(first.model)
        inputs, labels = card.inputs, card.labels
    fits = [record.fit for record in records]
    asked = [record.prediction for record in records if record.prediction]
    trains = any(fit.get("n_steps") for fit in fits)
    return Costs(
        inputs=inputs,
        labels=labels,
        n_parameters=_mean(fit.get("n_parameters") for fit in fits),
        # Records of before count no samples: not known is not none.
        n_samples=_mean(fit.get("n_samples") or (None if trains else 0) for fit in fits),
        training_seconds=_mean(fit.get("cpu_seconds") for fit in fits),
        prediction_seconds=_mean(cost["seconds"] for cost in asked),
        seconds_per_trajectory=_mean(cost["seconds"] / cost["n_windows"] for cost in asked),
    )


def quality_of(records: Sequence[Record], part: str) -> Quality:
    """Quality of the records of one line in a part."""

    def mean(metric: Metric) -> float | None:
        return _mean(record.value(part, metric) for record in records)

    ratios = [
        turned / stored
        for record in records
        if (turned := record.value(part, Metric.S2S)) is not None
        and (stored := record.value(part, Metric.S2S_STORED_FRAME))
    ]
    known = MODELS.get(records[0].model)
    follows = known is not None and known.equivariance != "none"
    return Quality(
        valid=mean(Metric.VALID),
        valid_all_atoms=mean(Metric.VALID_ALL_ATOMS),
        bond_distance=mean(Metric.BOND_DISTANCE),
        bond_distance_all_atoms=mean(Metric.BOND_DISTANCE_ALL_ATOMS),
        robustness=1.0 if follows else _mean(ratios),
    )


COST_HEADING = (
    "model", "inputs", "labels", "parameters", "samples seen", "training / CPU s",
    "prediction / CPU s", "s per trajectory",
)  # fmt: skip
QUALITY_HEADING = (
    "model", "valid / %", "bond distance / A", "valid, all atoms / %", "bond distance, all / A",
    "turned / stored",
)  # fmt: skip


def cost_cells(costs: Costs) -> list[str]:
    """One line under `COST_HEADING`, less the name."""
    return [
        ", ".join(name.replace("_", " ") for name in costs.inputs) or "-",
        ", ".join(costs.labels) or "none",
        _number(costs.n_parameters),
        _number(costs.n_samples),
        _number(costs.training_seconds),
        _number(costs.prediction_seconds),
        "-" if costs.seconds_per_trajectory is None else f"{costs.seconds_per_trajectory:.2g}",
    ]


def quality_cells(quality: Quality) -> list[str]:
    """One line under `QUALITY_HEADING`, less the name."""
    return [
        _share(quality.valid),
        _length(quality.bond_distance),
        _share(quality.valid_all_atoms),
        _length(quality.bond_distance_all_atoms),
        "-" if quality.robustness is None else f"{quality.robustness:.2f}",
    ]


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value == 0 or value >= 100 else f"{value:.2g}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _length(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}" if value < 1 else f"{value:.2f}"


def _mean(values: Iterable[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None
