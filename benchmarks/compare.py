"""Whether model A beats model B: their errors on the same windows, and an interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import metrics, results
from benchmarks.leaderboard import PART_ORDER, settings_key
from benchmarks.results import ERRORS, RECORD, Record
from benchmarks.sheets import Sheet
from benchmarks.significance import paired_interval
from benchmarks.tasks import Protocol, TaskSpec
from tg80.errors import UserError
from tg80.public_sets import PUBLIC_SETS

CONFIDENCE = 0.95
_SCORES = {"s2t": metrics.s2t, "s2s": metrics.s2s}


@dataclass(frozen=True)
class Comparison:
    """One score of two models on the same windows.

    Attributes:
        a_error, b_error: A^2, mean over molecules, of the mean over seeds.
        low, high: interval of a_error - b_error at 95 % confidence.
        folds, seeds: of A and of B alike, and of each.
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

    @property
    def verdict(self) -> str:
        """Who has the smaller error, if the interval says so."""
        if self.high < 0:
            return f"{self.a} beats {self.b}"
        return f"{self.b} beats {self.a}" if self.low > 0 else "not told apart"


@dataclass(frozen=True)
class _Run:
    record: Record
    errors: dict[str, np.ndarray]


@dataclass(frozen=True)
class _Windows:
    """Mean over seeds of one model's scores on the windows of one fold and part."""

    start_ids: tuple[str, ...]
    molecules: tuple[str, ...]
    scores: dict[str, np.ndarray]


def compare(
    folder: Path, a: str, b: str, *, part: str | None = None, resamples: int = 2000
) -> list[Comparison]:
    """Compare two models on every task, track and part that both were run on.

    Args:
        a, b: model id, or MODEL[HASH] as in the leaderboard where there are several settings.
        part: only this one.

    Raises:
        UserError: no such records; several settings to choose from; folds, data or windows that
            differ; nothing that both have.
    """
    found = [(path.parent, results.read_record(path.parent)) for path in _records(folder)]
    chosen = [[(p, r) for p, r in found if r is not None and _is(r, name)] for name in (a, b)]
    for name, runs in zip((a, b), chosen, strict=True):
        if not runs:
            known = ", ".join(sorted({r.model for _, r in found if r is not None}))
            raise UserError(f"{folder}: no record of {name}; there are {known}")
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
        raise UserError(f"{folder}: {a} and {b} have no {what} in common")
    return comparisons


def settings_only(name: str) -> tuple[str, str | None]:
    """Model id and hash of settings of `MODEL` or `MODEL[HASH]`."""
    model, bracket, rest = name.replace(" ", "").partition("[")
    return model, rest.removesuffix("]") if bracket else None


def _records(folder: Path) -> list[Path]:
    paths = sorted(folder.rglob(RECORD))
    if not paths:
        results.read_records(folder)  # Says what is wrong with the folder.
    return paths


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
    folds = [sorted({record.fold for _, record in runs}) for runs in sides]
    if folds[0] != folds[1]:
        raise UserError(
            f"{names[0]} has folds {_listed(folds[0])} of {first.task}, {names[1]} has "
            f"{_listed(folds[1])}: they are compared on the same ones; run what is missing"
        )
    shared = [
        p for p in PART_ORDER if all(p in record.parts for _, record in [*sides[0], *sides[1]])
    ]
    parts = [p for p in shared if part in (None, p)]
    loaded = [[_Run(record, _errors(path)) for path, record in runs] for runs in sides]
    return [c for p in parts for c in _compare_part(names, loaded, p, folds[0], resamples)]


def _check_same(names: tuple[str, str], first: Record, other: Record) -> None:
    for field, what in (("manifest_sha256", "data"), ("split_sha256", "split")):
        if getattr(first, field) != getattr(other, field):
            raise UserError(f"{names[0]} and {names[1]} ran {first.task} on different {what}")
    specs = [TaskSpec.model_validate(record.task_spec) for record in (first, other)]
    if specs[0] != specs[1]:
        raise UserError(f"{names[0]} and {names[1]} ran different versions of {first.task}")


def _listed(folds: Sequence[int]) -> str:
    return ",".join(map(str, folds))


def _errors(folder: Path) -> dict[str, np.ndarray]:
    path = folder / ERRORS
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: cannot be read ({error}); remove its folder") from error


def _compare_part(
    names: tuple[str, str],
    sides: Sequence[Sequence[_Run]],
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
    found = []
    for score in _SCORES:
        a, b = (np.concatenate([t[fold].scores[score] for fold in folds]) for t in tables)
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
            )
        )
    return found


def _mean_of_seeds(runs: Sequence[_Run], part: str) -> _Windows:
    first = runs[0].errors
    starts, molecules = (
        tuple(map(str, first[f"{part}/{name}"])) for name in ("start_id", "molecule")
    )
    for run in runs:
        if tuple(map(str, run.errors[f"{part}/start_id"])) != starts:
            raise UserError(f"runs of {run.record.model}: other windows in {part}")
    scores = {
        name: np.mean([score(run.errors[f"{part}/task/raw"]) for run in runs], axis=0)
        for name, score in _SCORES.items()
    }
    return _Windows(starts, molecules, scores)


def _mean_over_molecules(errors: np.ndarray, molecules: Sequence[str]) -> float:
    return float(metrics.mean_over_molecules(metrics.per_molecule(errors, molecules)))


def _time_blocks(record: Record, start_ids: Sequence[str]) -> list[str] | None:
    """Names of the blocks of windows; None where each stands alone.

    Windows of public sets overlap: those that start within one horizon are a block.
    """
    task = TaskSpec.model_validate(record.task_spec)
    if task.protocol != Protocol.PUBLIC:
        return None
    frame_fs = PUBLIC_SETS[task.id.partition("/")[0]].frame_fs
    horizon = round(task.horizon_fs / frame_fs)
    return [str(int(start.rsplit("@", 1)[1]) // horizon) for start in start_ids]


def sheet(comparisons: Sequence[Comparison]) -> Sheet:
    """The comparisons as a table, errors and intervals x 1e-2 A^2."""
    scale = metrics.PRINTED_SCALE
    heading = ("task", "part", "score", "A", "B", "A - B, 95 %", "molecules", "windows", "verdict")
    rows = [
        (
            f"{c.task}, {c.track}", c.part, c.score.upper(),
            f"{scale * c.a_error:.3g}", f"{scale * c.b_error:.3g}",
            f"{scale * c.low:+.3g} to {scale * c.high:+.3g}",
            str(c.molecules), str(c.windows), c.verdict,
        )
        for c in comparisons
    ]  # fmt: skip
    a, b = comparisons[0].a, comparisons[0].b
    return Sheet(f"A = {a}, B = {b}: MSE x 1e-2 A^2, mean of seeds", heading, rows)


def document(comparisons: Sequence[Comparison]) -> list[Mapping[str, Any]]:
    """The comparisons as JSON-able dictionaries, errors in A^2."""
    return [
        vars(one) | {"verdict": one.verdict, "confidence": CONFIDENCE, "unit": "A^2"}
        for one in comparisons
    ]
