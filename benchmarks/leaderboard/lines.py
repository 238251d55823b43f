"""Lines of the leaderboard: the records of one model with one set of settings, averaged.

Seeds are averaged within folds first; models stand in one table if they ran on the same folds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import groupby
from typing import NamedTuple, TypeVar

import numpy as np

from benchmarks.leaderboard.pareto import Fronts, front_lags, on_front
from benchmarks.models import MODELS
from benchmarks.models.cards import read_card
from benchmarks.runs.evaluation import MEAN, MEDIAN
from benchmarks.runs.records import LESSONS, SUBMITTED, Record, run_key, settings_key
from benchmarks.scoring.metrics import Metric
from benchmarks.scoring.significance import two_sigma

PART_ORDER = ("test_time", "test_id", "test_ood", "val", "val_time", "train")

Run = TypeVar("Run")


@dataclass(frozen=True)
class Costs:
    """What a line took; means over its runs, None where records do not say.

    Attributes:
        inputs: what the model predicts from.
        labels: what it learns from.
        n_parameters: number of trained parameters.
        n_samples: windows learnt from, repetitions counted.
        training_seconds: CPU time (wall time on a GPU) of a training, and of those it began with.
        prediction_seconds: the same of the predictions of a run.
        seconds_per_trajectory: the same for one window, which is all lags from one start.
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
        valid: share of structures whose scored atoms have all bonds and angles within range.
        valid_all_atoms: the same of all atoms.
        bond_distance: from the bond lengths of the data, of bonds among scored atoms, A.
        bond_distance_all_atoms: the same of all bonds, A.
        robustness: S2S of turned windows over that of the same as stored; exactly 1 for models
            that follow every rotation.
    """

    valid: float | None
    valid_all_atoms: float | None
    bond_distance: float | None
    bond_distance_all_atoms: float | None
    robustness: float | None


@dataclass(frozen=True)
class Entry:
    """One line: one model with one set of settings on one part.

    Attributes:
        mse: lag in fs -> error, task lags only. All errors in A^2, means over molecules, folds and
            seeds.
        s2s_spread: twice the standard deviation over seeds; None with one seed.
        skill: median over molecules at the horizon, mean over folds and seeds.
        skills: lag in fs -> the same at every lag, those of the curve too.
        references: lag in fs -> the references that `skills` are against, one for each fold that
            chose another; empty where each molecule has its own.
        seeds: of the fold that has fewest.
        lessons: what it learnt from if not the task's own data alone, in words; else empty.
        data: hash of the data and the split it ran on.
        n: number of windows.
        n_failed: windows whose prediction failed.
        equal_to_truth: entries of submissions that equal the truth, all parts together.
        costs: of runs, all their parts together.
        quality: of the predicted structures.
        fronts: where it is on the Pareto front among the lines of its table.
    """

    task: str
    track: str
    part: str
    model: str
    settings: str
    lessons: str
    data: str
    oracle: bool
    folds: tuple[int, ...]
    seeds: int
    mse: dict[float, float]
    s2t: float
    s2s: float
    s2s_spread: float | None
    s2s_aligned: float | None
    skill: float | None
    skills: dict[float, float]
    references: dict[float, tuple[str, ...]]
    n: int
    n_failed: int
    equal_to_truth: int
    costs: Costs
    quality: Quality
    fronts: Fronts = field(default_factory=Fronts)

    @property
    def key(self) -> LineKey:
        """Key of its records in `grouped`."""
        return LineKey(self.task, self.track, self.part, self.model, self.settings)


def entries(records: Iterable[Record]) -> list[Entry]:
    """Lines sorted by task, track, part, folds (most first) and S2S.

    Records of one model that differ in settings, budget or data are lines of their own. Lines of
    one task, track and part that have the same folds make a table; see `panels`.
    """
    lines: list[Entry] = []
    for panel in panels(records, lambda record: record):
        tables: dict[str, list[Entry]] = {}
        for key, members in grouped(panel).items():
            tables.setdefault(key.part, []).append(_entry(members, key.part, key.settings))
        for table in tables.values():
            lines += _with_fronts(table)
    order = {part: i for i, part in enumerate(PART_ORDER)}
    last = len(order)
    return sorted(
        lines,
        key=lambda e: (
            e.task, e.track, order.get(e.part, last), e.part, -len(e.folds), e.folds, e.s2s
        ),
    )  # fmt: skip


def _with_fronts(table: Sequence[Entry]) -> list[Entry]:
    """The lines of a table, told where they are on the front.

    Oracles and submissions, whose costs were not measured here, are not compared.
    """
    compared = [not line.oracle and not line.model.startswith(SUBMITTED) for line in table]
    found: list[dict[str, tuple[float, ...]]] = [{} for _ in table]
    for name in (one.name for one in fields(Fronts)):
        costs = [
            getattr(line.costs, name) if counts else None
            for line, counts in zip(table, compared, strict=True)
        ]
        for lag in front_lags(list(table[0].mse)):
            best = on_front(costs, [line.skills.get(lag) for line in table])
            for lags, is_best in zip(found, best, strict=True):
                lags[name] = lags.get(name, ()) + ((lag,) if is_best else ())
    return [replace(line, fronts=Fronts(**lags)) for line, lags in zip(table, found, strict=True)]


class LineKey(NamedTuple):
    """What the records of one line have in common."""

    task: str
    track: str
    part: str
    model: str
    settings: str


def grouped(records: Iterable[Record]) -> dict[LineKey, list[Record]]:
    """The records behind each line."""
    groups: dict[LineKey, list[Record]] = {}
    for record in records:
        settings = settings_key(record)
        for part in record.parts:
            key = LineKey(record.task, record.track, part, record.model, settings)
            groups.setdefault(key, []).append(record)
    return groups


def line_labels(lines: Sequence[Entry]) -> list[str]:
    """Names that tell the lines of a table apart: what they learnt from, or a hash of settings."""
    names = [", ".join(filter(None, (line.model, line.lessons))) for line in lines]
    return [
        name + (f" [{line.settings}]" if names.count(name) > 1 else "")
        for name, line in zip(names, lines, strict=True)
    ]


def lessons_told(record: Record) -> str:
    """What a run learnt from if not the task's own data alone, in words; else empty."""
    begun_on = record.settings.get("pretrained_on")
    n_molecules = record.settings.get(LESSONS, {}).get("molecules")
    told = [f"from {begun_on}"] if begun_on else []
    told += [f"{n_molecules} molecule{'s' * (n_molecules != 1)}"] if n_molecules else []
    return ", ".join(told)


def panels(runs: Iterable[Run], record_of: Callable[[Run], Record]) -> list[list[Run]]:
    """Group runs that are compared on the same folds, by task and track; most folds first.

    Folds differ in difficulty by more than models do. Where models have run on different ones there
    is a table for each set of folds, of all models that have run on every one of them.
    """
    by_task: dict[tuple[str, str], list[tuple[Run, Record, str]]] = {}
    for run in runs:
        record = record_of(run)
        line = f"{record.model} {settings_key(record)}"
        by_task.setdefault((record.task, record.track), []).append((run, record, line))
    found = []
    for members in by_task.values():
        folds: dict[str, set[int]] = {}
        for _, record, line in members:
            folds.setdefault(line, set()).add(record.fold)
        sets = {frozenset(one) for one in folds.values()}
        found += [
            [
                run
                for run, record, line in members
                if folds[line] >= wanted and record.fold in wanted
            ]
            for wanted in sorted(sets, key=lambda one: (-len(one), sorted(one)))
        ]
    return found


def _entry(records: Sequence[Record], part: str, settings: str) -> Entry:
    first = records[0]
    lags = list(first.spec.lags_fs)

    def mean(metric: Metric) -> float | None:
        return over_runs(records, [r.value(part, metric) for r in records])

    counted = [r.by_lag(part, Metric.S2S)[None] for r in records]
    return Entry(
        task=first.task,
        track=first.track,
        part=part,
        model=first.model,
        settings=settings,
        lessons=lessons_told(first),
        data=run_key(split=first.split_sha256, manifest=first.manifest_sha256),
        oracle=first.oracle,
        folds=tuple(sorted({r.fold for r in records})),
        seeds=min(Counter(fold for fold, _ in {(r.fold, r.seed) for r in records}).values()),
        mse=_curve(records, part, lags),
        s2t=mean(Metric.S2T) or 0.0,
        s2s=mean(Metric.S2S) or 0.0,
        s2s_spread=spread_over_seeds(records, [r.value(part, Metric.S2S) for r in records]),
        s2s_aligned=mean(Metric.S2S_ALIGNED),
        skill=over_runs(records, [horizon_skill(r, part) for r in records]),
        skills=skills_by_lag(records, part),
        references=_references(records, part),
        n=sum(row.n for row in counted),
        n_failed=sum(row.n_failed for row in counted),
        equal_to_truth=sum(r.equal_to_truth or 0 for r in records),
        costs=_costs(records),
        quality=_quality(records, part),
    )


def skill_reference(lines: Sequence[Entry]) -> str:
    """What the skill of lines of one part is against, where validation data chose it; else empty.

    Args:
        lines: of one task, track, part and set of folds, which share their references.
    """
    used = next((line.references for line in lines if line.references), {})
    runs = [
        (names, [lag for lag, _ in group])
        for names, group in groupby(used.items(), key=lambda item: item[1])
    ]
    spans = [
        f"{' or '.join(names)} at {lags[0]:g}{f' to {lags[-1]:g}' if lags[1:] else ''} fs"
        for names, lags in runs
    ]
    return f"{', '.join(spans)}, as chosen on validation data" if spans else ""


def notes_on_data(lines: Sequence[Entry]) -> list[str]:
    """A warning where lines of one table are not of the same data."""
    n = len({line.data for line in lines})
    return [f"lines are of {n} versions of the data or split: don't compare them"] if n > 1 else []


def _references(records: Sequence[Record], part: str) -> dict[float, tuple[str, ...]]:
    used = [one for record in records for one in record.references if one.part == part]
    return {
        lag: tuple(sorted({one.raw for one in used if one.lag_fs == lag}))
        for lag in sorted({one.lag_fs for one in used})
    }


def _costs(records: Sequence[Record]) -> Costs:
    """Costs of the records of one line."""
    first = records[0]
    inputs, labels = first.inputs, first.labels
    if not inputs and first.model in MODELS:
        # Written before records held them.
        card = read_card(first.model)
        inputs, labels = card.inputs, card.labels
    trains = any(record.fit.n_steps for record in records)

    def mean(value_of: Callable[[Record], float | None]) -> float | None:
        return over_runs(records, [value_of(record) for record in records])

    return Costs(
        inputs=inputs,
        labels=labels,
        n_parameters=mean(lambda r: r.fit.n_parameters),
        # Records of before count no samples: not known is not none.
        n_samples=mean(lambda r: r.fit.n_samples or (None if trains else 0)),
        training_seconds=mean(
            lambda r: r.fit.cpu_seconds + r.settings.get("pretrained_seconds", 0.0)
        ),
        prediction_seconds=mean(lambda r: r.prediction and r.prediction.seconds),
        seconds_per_trajectory=mean(
            lambda r: r.prediction and r.prediction.seconds / r.prediction.n_windows
        ),
    )


def _quality(records: Sequence[Record], part: str) -> Quality:
    """Quality of the records of one line in a part."""

    def mean(metric: Metric) -> float | None:
        return over_runs(records, [record.value(part, metric) for record in records])

    def ratio(record: Record) -> float | None:
        turned, stored = (
            record.value(part, metric) for metric in (Metric.S2S, Metric.S2S_STORED_FRAME)
        )
        return turned / stored if turned is not None and stored else None

    known = MODELS.get(records[0].model)
    follows = known is not None and known.equivariance != "none"
    return Quality(
        valid=mean(Metric.VALID),
        valid_all_atoms=mean(Metric.VALID_ALL_ATOMS),
        bond_distance=mean(Metric.BOND_DISTANCE),
        bond_distance_all_atoms=mean(Metric.BOND_DISTANCE_ALL_ATOMS),
        robustness=1.0 if follows else over_runs(records, [ratio(record) for record in records]),
    )


def _by_lag(
    records: Sequence[Record], part: str, average: str, metric: Metric
) -> dict[float, float]:
    """Lag in fs -> mean over runs, in order of time."""
    own = [
        {lag: row.value for lag, row in r.by_lag(part, metric, average).items() if lag is not None}
        for r in records
    ]
    found = {
        lag: over_runs(records, [values.get(lag) for values in own])
        for lag in sorted({lag for values in own for lag in values})
    }
    return {lag: value for lag, value in found.items() if value is not None}


def _curve(records: Sequence[Record], part: str, lags: Sequence[float]) -> dict[float, float]:
    # Lags were rounded to stored frames; rows name the real ones.
    found = errors_by_lag(records, part)
    real = [min(found, key=lambda at: abs(at - lag)) for lag in lags]
    return {at: found[at] for at in real}


def errors_by_lag(records: Sequence[Record], part: str) -> dict[float, float]:
    """MSE at every lag in order of time, A^2, mean over molecules and runs."""
    return _by_lag(records, part, MEAN, Metric.MSE)


def horizon_skill(record: Record, part: str) -> float | None:
    """Skill at the longest lag, median over molecules; None where it was not scored."""
    skills = skills_by_lag([record], part)
    return skills[max(skills)] if skills else None


def skills_by_lag(records: Sequence[Record], part: str) -> dict[float, float]:
    """Skill at every lag in order of time, median over molecules, mean over runs."""
    return _by_lag(records, part, MEDIAN, Metric.SKILL)


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
