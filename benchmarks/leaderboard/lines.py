"""Lines of the leaderboard: the records of one model with one set of settings, averaged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.leaderboard.averages import over_runs, panels, spread_over_seeds
from benchmarks.leaderboard.board import Costs, Quality, costs_of, quality_of
from benchmarks.runs.evaluation import MEAN, MEDIAN
from benchmarks.runs.records import Record, settings_key
from benchmarks.scoring.metrics import Metric

PART_ORDER = ("test_time", "test_id", "test_ood", "val", "val_time", "train")


@dataclass(frozen=True)
class Entry:
    """One line: one model with one set of settings on one part.

    Attributes:
        mse: lag in fs -> error, task lags only. All errors in A^2: mean over molecules, folds and
            seeds; `s2s_spread` is twice the standard deviation over seeds, None with one seed.
        skill: median over molecules at the horizon, mean over folds and seeds. skills: lag in fs ->
            the same at every lag, those of the curve too.
        n_failed: windows whose prediction failed, of n.
        equal_to_truth: entries of submissions that equal the truth, all parts together.
        costs: of runs, all their parts together. quality: of the predicted structures.
    """

    task: str
    track: str
    part: str
    model: str
    settings: str
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
    n: int
    n_failed: int
    equal_to_truth: int
    costs: Costs
    quality: Quality

    @property
    def key(self) -> LineKey:
        """Key of its records in `grouped`."""
        return LineKey(self.task, self.track, self.part, self.model, self.settings)


def entries(records: Iterable[Record]) -> list[Entry]:
    """Lines sorted by task, track, part, folds (most first) and S2S.

    Records of one model that differ in settings, budget or data are lines of their own. Lines of
    one task, track and part that have the same folds make a table; see `panels`.
    """
    lines = [
        _entry(members, key.part, key.settings)
        for panel in panels(records, lambda record: record)
        for key, members in grouped(panel).items()
    ]
    order = {part: i for i, part in enumerate(PART_ORDER)}
    last = len(order)
    return sorted(
        lines,
        key=lambda e: (
            e.task, e.track, order.get(e.part, last), e.part, -len(e.folds), e.folds, e.s2s
        ),
    )  # fmt: skip


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
    """Names that tell the lines of a table apart: a hash tells settings of one model."""
    models = [line.model for line in lines]
    return [
        line.model + (f" [{line.settings}]" if models.count(line.model) > 1 else "")
        for line in lines
    ]


def _entry(records: Sequence[Record], part: str, settings: str) -> Entry:
    first = records[0]
    lags = [float(lag) for lag in first.task_spec["lags_fs"]]

    def mean(metric: Metric) -> float | None:
        return over_runs(records, [r.value(part, metric) for r in records])

    counted = [r.by_lag(part, Metric.S2S)[None] for r in records]
    return Entry(
        task=first.task,
        track=first.track,
        part=part,
        model=first.model,
        settings=settings,
        oracle=first.oracle,
        folds=tuple(sorted({r.fold for r in records})),
        seeds=len({r.seed for r in records}),
        mse=_curve(records, part, lags),
        s2t=mean(Metric.S2T) or 0.0,
        s2s=mean(Metric.S2S) or 0.0,
        s2s_spread=spread_over_seeds(records, [r.value(part, Metric.S2S) for r in records]),
        s2s_aligned=mean(Metric.S2S_ALIGNED),
        skill=over_runs(records, [horizon_skill(r, part) for r in records]),
        skills=skills_by_lag(records, part),
        n=sum(row.n for row in counted),
        n_failed=sum(row.n_failed for row in counted),
        equal_to_truth=sum(r.equal_to_truth or 0 for r in records),
        costs=costs_of(records),
        quality=quality_of(records, part),
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
