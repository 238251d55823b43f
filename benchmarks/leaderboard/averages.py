"""Means over runs: which records may stand in one table, and how seeds and folds are averaged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np

from benchmarks.runs.records import Record, settings_key
from benchmarks.scoring.significance import two_sigma

Run = TypeVar("Run")


def panels(runs: Iterable[Run], record_of: Callable[[Run], Record]) -> list[list[Run]]:
    """Run that are compared on the same folds, for each task and track; most folds first.

    Folds differ in difficulty by more than models do. Where models have run on different ones there
    is a table for each set of folds, of all models that have run on every one of them.
    """
    by_task: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        record = record_of(run)
        by_task.setdefault((record.task, record.track), []).append(run)
    return [panel for members in by_task.values() for panel in _panels(members, record_of)]


def _panels(runs: Sequence[Run], record_of: Callable[[Run], Record]) -> list[list[Run]]:
    lines = [(record.model, settings_key(record)) for record in map(record_of, runs)]
    folds: dict[tuple[str, str], set[int]] = {}
    for line, run in zip(lines, runs, strict=True):
        folds.setdefault(line, set()).add(record_of(run).fold)
    sets = {frozenset(one) for one in folds.values()}
    return [
        [
            run
            for line, run in zip(lines, runs, strict=True)
            if folds[line] >= wanted and record_of(run).fold in wanted
        ]
        for wanted in sorted(sets, key=lambda one: (-len(one), sorted(one)))
    ]


def over_runs(records: Sequence[Record], values: Sequence[float | None]) -> float | None:
    """Mean over the seeds of each fold, then over folds: all folds weigh alike.

    Args:
        records: of one model.
        values: one value for each record, None where it has none.
    """
    folds: dict[int, list[float]] = {}
    for record, value in zip(records, values, strict=True):
        if value is not None:
            folds.setdefault(record.fold, []).append(value)
    return float(np.mean([np.mean(found) for found in folds.values()])) if folds else None


def spread_over_seeds(records: Sequence[Record], values: Sequence[float | None]) -> float | None:
    """Twice the standard deviation of the seeds' means over folds.

    Of seeds that have all folds, so that folds do not count as spread; None with fewer than two.
    """
    seeds: dict[int | None, dict[int, float]] = {}
    for record, value in zip(records, values, strict=True):
        if value is not None:
            seeds.setdefault(record.seed, {})[record.fold] = value
    n_folds = len({fold for found in seeds.values() for fold in found})
    complete = [found for found in seeds.values() if len(found) == n_folds]
    return two_sigma([float(np.mean(list(found.values()))) for found in complete])
