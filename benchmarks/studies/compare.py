"""Whether model A beats model B: their errors on the same windows, and an interval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.leaderboard.lines import PART_ORDER
from benchmarks.runs import records
from benchmarks.runs.records import Record, ScoredRun, settings_key
from benchmarks.scoring import metrics
from benchmarks.scoring.significance import FEWEST_UNITS, RESAMPLES, paired_interval
from benchmarks.tasks.data import NO_FOLD
from benchmarks.tasks.tasks import Kind
from tg80.console import Table
from tg80.errors import UserError
from tg80.exchange.md17_sets import PUBLIC_SETS

CONFIDENCE = 0.95
_SCORES = {"s2t": metrics.s2t, "s2s": metrics.s2s}


@dataclass(frozen=True)
class Comparison:
    """One score of two models on the same windows.

    Attributes:
        a_error, b_error: A^2, mean over seeds, then molecules, then folds, as in the leaderboard.
        low: lower end of the 95 % confidence interval of a_error - b_error.
        high: its upper end.
        folds: those that both have run on.
        units: what was drawn in the bootstrap: molecules, or blocks of windows of a single one.
    """

    task: str
    track: str
    part: str
    score: str
    a: str
    b: str
    a_error: float
    b_error: float
    low: float
    high: float
    folds: tuple[int, ...]
    a_seeds: int
    b_seeds: int
    molecules: int
    windows: int
    units: int

    @property
    def interval(self) -> str:
        """What is printed of it, x 1e-2 A^2."""
        scale = metrics.PRINTED_SCALE
        return f"{scale * self.low:+.3g} to {scale * self.high:+.3g}"

    @property
    def verdict(self) -> str:
        """Who has the smaller error, if the interval says so."""
        if self.units < FEWEST_UNITS:
            return "too few to tell"
        if self.high < 0:
            return f"{self.a} beats {self.b}"
        return f"{self.b} beats {self.a}" if self.low > 0 else "not told apart"


@dataclass(frozen=True)
class _Windows:
    """Mean over seeds of one model's scores on the windows of one fold and part."""

    start_ids: tuple[str, ...]
    molecules: tuple[str, ...]
    scores: dict[str, np.ndarray]


def compare(
    folder: Path,
    a: str,
    b: str,
    *,
    part: str | None = None,
    fold: int | None = None,
    resamples: int = RESAMPLES,
    bad: list[str] | None = None,
) -> list[Comparison]:
    """Compare two models on every task, track and part that both were run on.

    Args:
        folder: results of `atom-bench run`.
        a: model id, or MODEL[HASH] as in the leaderboard if there are several settings.
        b: the other model.
        part: only this part.
        fold: only this fold.
        resamples: resamples of the bootstrap.
        bad: as for `records.find_records`.

    Raises:
        UserError: no such records; several settings to choose from; data or windows that differ;
            no fold, part or anything else that both have.
    """
    found = records.find_records(folder, bad=bad)
    if not found:
        records.read_records(folder)  # Says what is wrong with the folder.
    found = [(path, record) for path, record in found if fold in (None, record.fold)]
    where = str(folder) if fold is None else f"{folder}, fold {fold}"
    return compare_records(found, a, b, part=part, resamples=resamples, where=where)


def compare_records(
    found: Sequence[tuple[Path, Record]],
    a: str,
    b: str,
    *,
    part: str | None = None,
    resamples: int = RESAMPLES,
    where: str = "these records",
) -> list[Comparison]:
    """Compare two models on every task, track and part that both have among some records.

    Args:
        found: records with their folders.
        a: as for `compare`.
        b: as for `compare`.
        part: only this part.
        resamples: resamples of the bootstrap.
        where: name of the records in error messages.

    Raises:
        UserError: as for `compare`.
    """
    chosen = [[(p, r) for p, r in found if _is(r, name)] for name in (a, b)]
    for name, runs in zip((a, b), chosen, strict=True):
        if not runs:
            known = ", ".join(sorted({r.model for _, r in found})) or "none"
            raise UserError(f"{where}: no record of {name}; there are {known}")
    if settings_only(a) == settings_only(b) and {p for p, _ in chosen[0]} == {
        p for p, _ in chosen[1]
    }:
        raise UserError(f"{a} and {b} are the same records; name two models")
    tables = [{(r.task, r.track) for _, r in runs} for runs in chosen]
    comparisons = []
    for task, track in sorted(tables[0] & tables[1]):
        sides = [[x for x in runs if (x[1].task, x[1].track) == (task, track)] for runs in chosen]
        comparisons += _compare_task((a, b), sides, part, resamples)
    if not comparisons:
        what = f"part {part}" if part else "task and part"
        raise UserError(f"{where}: {a} and {b} have no {what} in common")
    return comparisons


def settings_only(name: str) -> tuple[str, str | None]:
    """Model id and hash of settings of `MODEL` or `MODEL[HASH]`."""
    model, bracket, rest = name.replace(" ", "").partition("[")
    return model, rest.removesuffix("]") if bracket else None


def _is(record: Record, name: str) -> bool:
    model, settings = settings_only(name)
    return record.model == model and settings in (None, settings_key(record))


def _compare_task(
    names: tuple[str, str],
    sides: Sequence[Sequence[tuple[Path, Record]]],
    part: str | None,
    resamples: int,
) -> list[Comparison]:
    for name, runs in zip(names, sides, strict=True):
        settings = sorted({settings_key(record) for _, record in runs})
        if len(settings) > 1:
            model, first = settings_only(name)[0], runs[0][1]
            choices = ", ".join(f"{model}[{one}]" for one in settings)
            raise UserError(f"{name} stands on {first.task} with several settings: name {choices}")
    first, other = (runs[0][1] for runs in sides)
    _check_same(names, first, other)
    each = [{record.fold for _, record in runs} for runs in sides]
    folds = sorted(each[0] & each[1])
    if not folds:
        raise UserError(
            f"{names[0]} has folds {_listed(each[0])} of {first.task}, {names[1]} has "
            f"{_listed(each[1])}: they are compared on the same ones; run what is missing"
        )
    sides = [[(path, record) for path, record in runs if record.fold in folds] for runs in sides]
    shared = [
        p for p in PART_ORDER if all(p in record.parts for _, record in [*sides[0], *sides[1]])
    ]
    parts = [p for p in shared if part in (None, p)]
    loaded = [[ScoredRun.read(path, record) for path, record in runs] for runs in sides]
    return [c for p in parts for c in _compare_part(names, loaded, p, folds, resamples)]


def _check_same(names: tuple[str, str], first: Record, other: Record) -> None:
    for field, what in (("manifest_sha256", "data"), ("split_sha256", "split")):
        if getattr(first, field) != getattr(other, field):
            raise UserError(f"{names[0]} and {names[1]} ran {first.task} on different {what}")
    specs = [record.spec for record in (first, other)]
    if specs[0] != specs[1]:
        raise UserError(f"{names[0]} and {names[1]} ran different versions of {first.task}")


def _listed(folds: Iterable[int]) -> str:
    return ",".join(map(str, sorted(folds)))


def _compare_part(
    names: tuple[str, str],
    sides: Sequence[Sequence[ScoredRun]],
    part: str,
    folds: Sequence[int],
    resamples: int,
) -> list[Comparison]:
    record = sides[0][0].record
    tables = [
        {fold: _mean_of_seeds([r for r in runs if r.record.fold == fold], part) for fold in folds}
        for runs in sides
    ]
    for fold in folds:
        if tables[0][fold].start_ids != tables[1][fold].start_ids:
            raise UserError(f"{names[0]} and {names[1]}: other windows in {part} of fold {fold}")
    molecules = [name for fold in folds for name in tables[0][fold].molecules]
    starts = [start for fold in folds for start in tables[0][fold].start_ids]
    blocks = _time_blocks(record, starts)
    units = set(molecules) if len(set(molecules)) > 1 else set(blocks)
    weights = _weights([tables[0][fold].molecules for fold in folds])
    found = []
    for score in _SCORES:
        a, b = (
            np.concatenate([table[fold].scores[score] for fold in folds]) * weights
            for table in tables
        )
        low, high = paired_interval(
            a - b, molecules, resamples=resamples, confidence=CONFIDENCE, blocks=blocks
        )
        found.append(
            Comparison(
                task=record.task,
                track=record.track,
                part=part,
                score=score,
                a=names[0],
                b=names[1],
                a_error=_mean_over_molecules(a, molecules),
                b_error=_mean_over_molecules(b, molecules),
                low=low,
                high=high,
                folds=tuple(folds),
                a_seeds=len({run.record.seed for run in sides[0]}),
                b_seeds=len({run.record.seed for run in sides[1]}),
                molecules=len(set(molecules)),
                windows=len(a),
                units=len(units),
            )
        )
    return found


def _weights(folds: Sequence[Sequence[str]]) -> np.ndarray:
    """Factors of windows, so that a mean over molecules is one over molecules, then over folds.

    A molecule that stands in several folds is drawn once, with its windows of all of them.

    Args:
        folds: of each fold, the molecule of every window.
    """
    everywhere = Counter(name for names in folds for name in names)
    parts = []
    for names in folds:
        here = Counter(names)
        share = len(everywhere) / (len(folds) * len(here))
        parts.append([share * everywhere[name] / here[name] for name in names])
    return np.concatenate(parts)


def _mean_of_seeds(runs: Sequence[ScoredRun], part: str) -> _Windows:
    starts = runs[0].names(part, "start_id")
    for run in runs:
        if run.names(part, "start_id") != starts:
            raise UserError(f"runs of {run.record.model}: other windows in {part}")
    scores = {
        name: np.mean([score(run.raw(part)) for run in runs], axis=0)
        for name, score in _SCORES.items()
    }
    return _Windows(starts, runs[0].names(part, "molecule"), scores)


def _mean_over_molecules(errors: np.ndarray, molecules: Sequence[str]) -> float:
    return float(metrics.mean_over_molecules(metrics.per_molecule(errors, molecules)))


def _time_blocks(record: Record, start_ids: Sequence[str]) -> list[str]:
    """Names of the blocks of windows: the same window in several folds is one.

    Windows of public sets overlap: those that start within one horizon are a block.
    """
    task = record.spec
    if task.kind != Kind.PUBLIC:
        return list(start_ids)
    frame_fs = PUBLIC_SETS[task.id.partition("/")[0]].frame_fs
    horizon = round(task.horizon_fs / frame_fs)
    return [str(int(start.rsplit("@", 1)[1]) // horizon) for start in start_ids]


def tables(comparisons: Sequence[Comparison]) -> list[Table]:
    """The comparisons, errors and intervals x 1e-2 A^2."""
    columns = {
        "task": "{0.task}, {0.track}",
        "part": "{0.part}",
        "score": "{1}",
        "A": "{2:.3g}",
        "B": "{3:.3g}",
        "A - B, 95 %": "{0.interval}",
        "folds": "{4}",
        "molecules": "{0.molecules}",
        "windows": "{0.windows}",
        "verdict": "{0.verdict}",
    }
    scale = metrics.PRINTED_SCALE
    rows = [
        (
            one, one.score.upper(), scale * one.a_error, scale * one.b_error,
            _listed(fold for fold in one.folds if fold != NO_FOLD) or "-",
        )
        for one in comparisons
    ]  # fmt: skip
    a, b = comparisons[0].a, comparisons[0].b
    return [Table.of(f"A = {a}, B = {b}: MSE x 1e-2 A^2, mean of seeds", columns, rows)]


def document(comparisons: Sequence[Comparison]) -> list[Mapping[str, Any]]:
    """The comparisons as JSON-able dictionaries, errors in A^2."""
    return [
        vars(one) | {"verdict": one.verdict, "confidence": CONFIDENCE, "unit": "A^2"}
        for one in comparisons
    ]
