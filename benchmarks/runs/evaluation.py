"""Score a fitted model on the parts of a fold, the legal references beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
from annotated_types import Ge
from pydantic import AllowInfNan, Strict

from benchmarks.interface import Budget, Model
from benchmarks.models.harmonic import FittedHarmonic
from benchmarks.models.trivial import (
    Ballistic,
    Blend,
    Centroid,
    MeanStructure,
    Persistence,
    RelaxedStructure,
)
from benchmarks.scoring import metrics
from benchmarks.scoring.errors import Answer, Errors, ask, predict_errors
from benchmarks.scoring.metrics import Metric
from benchmarks.scoring.validity import Geometries, Validity, validity_of
from benchmarks.tasks.data import SEEN_PARTS, BenchmarkData
from benchmarks.tasks.scored_windows import Part, Windows
from benchmarks.tasks.tasks import ChosenOn, TaskSpec

# "Skill" in docs/benchmark/tasks.md. Only seen molecules have a train block.
_ANYWHERE = (Persistence, Ballistic, Centroid, Blend)
REFERENCES_SEEN = (*_ANYWHERE, MeanStructure)
REFERENCES_UNSEEN = (*_ANYWHERE, RelaxedStructure)


class Chosen(NamedTuple):
    """Ids of the references that are chosen at one lag, by plain and by aligned errors."""

    raw: str
    aligned: str


class Best(NamedTuple):
    """Errors of the reference of skill, molecule -> (P,) A^2, and which it is at each lag.

    `chosen` is empty where each molecule has a reference of its own.
    """

    raw: dict[str, np.ndarray]
    aligned: dict[str, np.ndarray]
    chosen: tuple[Chosen, ...] = ()


# reference -> molecule -> (P,) A^2
_ErrorsOf = Mapping[str, Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class PartScore:
    """One model on one part.

    Attributes:
        part: name of the part.
        molecules: of each window.
        start_ids: of each window.
        task: errors at the task's lags.
        curve: errors at the further lags.
        stored_frame: errors of windows as they are stored.
        reference: errors of the reference at the task's lags, for skill.
        curve_reference: the same at the further lags.
        validity: of the scored atoms at the task's lags.
        validity_all_atoms: of all atoms that are given, None where these are the same.
        seconds: CPU time of the predictions at the task's lags (wall time on a GPU).
    """

    part: str
    molecules: tuple[str, ...]
    start_ids: tuple[str, ...]
    task: Errors
    curve: Errors | None
    stored_frame: Errors | None
    reference: Best
    curve_reference: Best | None
    validity: Validity | None = None
    validity_all_atoms: Validity | None = None
    seconds: float | None = None


def references_of(part: str, task: TaskSpec) -> tuple[type[Model], ...]:
    """The references that are legal in a part of a task."""
    if part not in SEEN_PARTS:
        return REFERENCES_UNSEEN
    # Forces are those of all atoms.
    fitted = task.reference == ChosenOn.VALIDATION and task.inputs == "all"
    return (*REFERENCES_SEEN, FittedHarmonic) if fitted else REFERENCES_SEEN


@dataclass(frozen=True)
class References:
    """The fitted references, and their errors, computed once for all models scored.

    Attributes:
        models: references by id.
        data: what they are fitted on, None where nothing is scored.
        geometries: those of the molecules, None if validity is not asked for.
    """

    models: Mapping[str, Model]
    data: BenchmarkData | None = None
    geometries: Geometries | None = None
    _best: dict[tuple[str, tuple[str, ...], bytes], Best] = field(default_factory=dict)
    _chosen: dict[str, dict[float, Chosen]] = field(default_factory=dict)

    def best(self, part: str, windows: Windows) -> Best:
        """Errors of the reference in a part, per molecule and lag.

        That is the best of the legal ones on these windows, or the one chosen on validation data,
        as the task says.
        """
        key = part, windows.states.start_id, windows.lags_fs.numpy().tobytes()
        if key not in self._best:
            self._best[key] = self._compute(part, windows)
        return self._best[key]

    def _compute(self, part: str, windows: Windows) -> Best:
        assert self.data is not None
        raw, aligned = self._tables(part, windows)
        if self.data.task.reference == ChosenOn.SCORED:
            return Best(metrics.best_reference(raw), metrics.best_reference(aligned))
        chosen = [self.chosen(part, lag) for lag in windows.lags_fs[0].tolist()]
        return Best(
            _of_chosen(raw, [one.raw for one in chosen]),
            _of_chosen(aligned, [one.aligned for one in chosen]),
            tuple(chosen),
        )

    def _tables(self, part: str, windows: Windows) -> tuple[_ErrorsOf, _ErrorsOf]:
        assert self.data is not None
        names = windows.states.molecule
        raw, aligned = {}, {}
        for reference in references_of(part, self.data.task):
            errors = predict_errors(self.models[reference.id], windows)
            raw[reference.id] = metrics.per_molecule(errors.raw, names)
            aligned[reference.id] = metrics.per_molecule(errors.aligned, names)
        return raw, aligned

    def chosen(self, part: str, lag_fs: float) -> Chosen:
        """The reference that validation data choose for a part at the nearest of their lags.

        Molecules of the training set are judged at later times, others by those of `val`.
        """
        assert self.data is not None
        name = "val_time" if part in SEEN_PARTS else "val"
        if name not in self._chosen:
            (validation,) = (p for p in self.data.training.validation if p.name == name)
            known: dict[float, Chosen] = {}
            for windows in filter(None, (validation.curve, validation.windows)):
                ids = map(metrics.chosen_references, self._tables(name, windows))
                known |= zip(windows.lags_fs[0].tolist(), map(Chosen, *ids), strict=True)
            self._chosen[name] = known
        known = self._chosen[name]
        return known[min(known, key=lambda lag: abs(lag - lag_fs))]


def _of_chosen(table: _ErrorsOf, ids: Sequence[str]) -> dict[str, np.ndarray]:
    """Errors of one reference a lag."""
    molecules = table[ids[0]]
    return {name: np.array([table[i][name][p] for p, i in enumerate(ids)]) for name in molecules}


def fit_references(data: BenchmarkData) -> References:
    """All references that are legal in some part, fitted on the train blocks.

    They need neither budget nor seed.
    """
    fitted = {}
    legal = (references_of(part, data.task) for part in data.parts)
    for reference in dict.fromkeys(r for models in legal for r in models):
        model = reference()
        model.fit(data.training, budget=Budget(epochs=1), seed=0, out=Path())
        fitted[reference.id] = model
    return References(fitted, data, Geometries(data.whole, data.bonds))


def score_part(model: Model, part: Part, references: References) -> PartScore:
    """Score one part, its validity only if the references bring the molecules' geometries.

    The stored frame only for models that learn orientation from data: what follows rotations
    exactly errs alike in every frame.
    """
    learns_orientation = model.trains and model.equivariance == "none"
    stored_frame = part.stored_frame if learns_orientation else None
    best, geometries = partial(references.best, part.name), references.geometries
    answer = ask(model, part.windows)
    scored, every = part.windows.states.score_mask, part.windows.states.atom_mask
    more_than_scored = not torch.equal(scored, every)
    return PartScore(
        part=part.name,
        molecules=part.windows.states.molecule,
        start_ids=part.windows.states.start_id,
        task=answer.errors,
        curve=predict_errors(model, part.curve) if part.curve else None,
        stored_frame=predict_errors(model, stored_frame) if stored_frame else None,
        reference=best(part.windows),
        curve_reference=best(part.curve) if part.curve else None,
        validity=_validity(answer, part, scored, geometries),
        validity_all_atoms=_validity(answer, part, every, geometries) if more_than_scored else None,
        seconds=answer.seconds,
    )


def _validity(
    answer: Answer, part: Part, atoms: torch.Tensor, geometries: Geometries | None
) -> Validity | None:
    if geometries is None:
        return None
    windows, errors = part.windows, answer.errors
    return validity_of(
        answer.positions, windows.targets.numpy(), errors.lags_fs, errors.failed,
        windows.states.molecule, atoms.numpy(), geometries,
        starts=windows.states.positions.numpy(),
    )  # fmt: skip


def score(model: Model, data: BenchmarkData, references: References) -> list[PartScore]:
    """Score every part the model can predict: seen-only models leave out unseen molecules."""
    return [
        score_part(model, part, references)
        for name, part in data.parts.items()
        if name in SEEN_PARTS or not model.seen_only
    ]


MEAN, POOLED, MEDIAN = "mean-over-molecules", "pooled", "median-over-molecules"
AVERAGES = (MEAN, POOLED, MEDIAN)

Text = Annotated[str, Strict()]
Finite = Annotated[float, Strict(), AllowInfNan(False)]
Count = Annotated[int, Strict(), Ge(0)]


class Row(NamedTuple):
    """One number of a record, as it stands on disk in this order.

    Attributes:
        part: Part of the fold.
        molecule: Name of a molecule, or one of `AVERAGES`.
        lag_fs: Lag, None for scores over all lags.
        metric: Key of `Metric`.
        value: The number.
        unit: Unit of the number.
        n: Windows behind it.
        n_failed: How many of them have no valid prediction, and count as persistence.
    """

    part: Text
    molecule: Text
    lag_fs: Finite | None
    metric: Text
    value: Finite
    unit: Text
    n: Count
    n_failed: Count


class Reference(NamedTuple):
    """Which reference a skill is against, where validation data choose it."""

    part: Text
    lag_fs: Finite
    raw: Text
    aligned: Text


def references_used(score: PartScore) -> list[Reference]:
    """The chosen references of a part, at all its lags."""
    pairs = ((score.task, score.reference), (score.curve, score.curve_reference))
    return sorted(
        Reference(score.part, lag, *chosen)
        for errors, best in pairs
        if errors is not None and best is not None and best.chosen
        for lag, chosen in zip(errors.lags_fs[0].tolist(), best.chosen, strict=True)
        if np.isfinite(lag)
    )


def rows_of(score: PartScore) -> list[Row]:
    """All rows of a part: every molecule, the averages, every lag, S2T, S2S and skill."""
    table = _Rows(score)
    for errors, best in ((score.task, score.reference), (score.curve, score.curve_reference)):
        if errors is not None and best is not None:
            lags = errors.lags_fs
            table.add_errors(Metric.MSE, errors.raw, lags)
            table.add_errors(Metric.MSE_ALIGNED, errors.aligned, lags)
            table.add_skills(Metric.SKILL, errors.raw, best.raw, lags)
            table.add_skills(Metric.SKILL_ALIGNED, errors.aligned, best.aligned, lags)
    per_start = {
        Metric.S2T: metrics.s2t(score.task.raw),
        Metric.S2S: metrics.s2s(score.task.raw),
        Metric.S2T_ALIGNED: metrics.s2t(score.task.aligned),
        Metric.S2S_ALIGNED: metrics.s2s(score.task.aligned),
    }
    if score.stored_frame is not None:
        per_start[Metric.S2T_STORED_FRAME] = metrics.s2t(score.stored_frame.raw)
        per_start[Metric.S2S_STORED_FRAME] = metrics.s2s(score.stored_frame.raw)
    for metric, errors in per_start.items():
        table.add_errors(metric, errors[:, None], None)
    shares = (score.validity, Metric.VALID, Metric.BOND_DISTANCE)
    every = (score.validity_all_atoms, Metric.VALID_ALL_ATOMS, Metric.BOND_DISTANCE_ALL_ATOMS)
    for validity, share, distance in (shares, every):
        if validity is not None:
            table.add_validity(validity, share, distance, score.task.lags_fs)
    return table.rows


class _Rows:
    """The rows of a part, and how many windows there are, and failed, by molecule and in all."""

    def __init__(self, score: PartScore) -> None:
        self.rows: list[Row] = []
        self._part, self._molecules = score.part, score.molecules
        names, failed = np.asarray(score.molecules), score.task.failed
        self._counts = {
            name: (int((names == name).sum()), int(failed[names == name].sum()))
            for name in dict.fromkeys(score.molecules)
        }
        self._all = (len(names), int(failed.sum()))

    def add_errors(self, metric: Metric, errors: np.ndarray, lags_fs: np.ndarray | None) -> None:
        table = metrics.per_molecule(errors, self._molecules)
        averages = {MEAN: metrics.mean_over_molecules(table), POOLED: metrics.pooled(errors)}
        self._add(metric, table | averages, lags_fs)

    def add_skills(
        self,
        metric: Metric,
        errors: np.ndarray,
        reference: dict[str, np.ndarray],
        lags_fs: np.ndarray,
    ) -> None:
        table = metrics.skill(metrics.per_molecule(errors, self._molecules), reference)
        self._add(metric, table | {MEDIAN: metrics.median_over_molecules(table)}, lags_fs)

    def add_validity(
        self, validity: Validity, share: Metric, distance: Metric, lags_fs: np.ndarray
    ) -> None:
        """Shares over all lags of each molecule, and at each lag over all; distances over all."""
        over_lags = metrics.s2t(validity.valid)
        if np.isnan(over_lags).all():
            return
        self.add_errors(share, over_lags[:, None], None)
        by_molecule = metrics.per_molecule(validity.valid, self._molecules)
        self._add(share, {MEAN: metrics.mean_over_molecules(by_molecule)}, lags_fs)
        table = {name: number[None] for name, number in validity.bond_distance.items()}
        self._add(distance, table | {MEAN: metrics.mean_over_molecules(table)}, None)

    def _add(
        self, metric: Metric, table: Mapping[str, np.ndarray], lags_fs: np.ndarray | None
    ) -> None:
        for name, numbers in table.items():
            n, n_failed = self._counts.get(name, self._all)
            for step, number in enumerate(numbers):
                lag = None if lags_fs is None else float(lags_fs[0, step])
                # Padded lags, and aligned errors of molecules too small for them, have no row.
                if np.isnan(number) or (lag is not None and np.isnan(lag)):
                    continue
                value, unit = float(number), metric.unit
                self.rows.append(Row(self._part, name, lag, metric.value, value, unit, n, n_failed))
