"""Tables over records, and their numbers as JSON and CSV."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from enum import StrEnum
from functools import partial
from itertools import groupby

from benchmarks.leaderboard.floor import PartFloor, on_molecules
from benchmarks.leaderboard.lines import Entry, entries, line_labels, notes_on_data, skill_reference
from benchmarks.leaderboard.pareto import front_lags
from benchmarks.runs.evaluation import Row
from benchmarks.runs.records import SUBMITTED, Record, settings_key
from benchmarks.scoring.metrics import PRINTED_SCALE
from benchmarks.tasks.data import NO_FOLD
from benchmarks.tasks.tasks import AS_PUBLISHED
from tg80.console import Table
from tg80.untrusted.tables import csv_table


class View(StrEnum):
    """What a table shows of its lines."""

    ERRORS = "errors"
    SUMMARY = "summary"
    SKILL = "skill"
    COSTS = "costs"
    QUALITY = "quality"
    PARETO = "pareto"


_TITLES = {
    View.ERRORS: "MSE x 1e-2 A^2, S2S ± 2 sigma over seeds",
    View.SUMMARY: "S2T and S2S x 1e-2 A^2, ± 2 sigma over seeds",
    View.SKILL: "skill, median over molecules",
    View.COSTS: "what a run takes",
    View.QUALITY: "predicted structures",
    View.PARETO: "median skill beside cost, and lags / fs at which no cheaper model is better",
}


Columns = dict[str, Callable[[Entry], str]]
"""Headings after the name of the model, and what stands below them; errors x 1e-2 A^2."""

_COSTS: Columns = {
    "inputs": lambda e: ", ".join(name.replace("_", " ") for name in e.costs.inputs) or "-",
    "labels": lambda e: ", ".join(e.costs.labels) or "none",
    "parameters": lambda e: _number(e.costs.n_parameters),
    "samples seen": lambda e: _number(e.costs.n_samples),
    "training / CPU s": lambda e: _number(e.costs.training_seconds),
    "prediction / CPU s": lambda e: _number(e.costs.prediction_seconds),
    "s per trajectory": lambda e: _formatted("{:.2g}", e.costs.seconds_per_trajectory),
}
_QUALITY: Columns = {
    "valid / %": lambda e: _percent(e.quality.valid),
    "bond distance / A": lambda e: _length(e.quality.bond_distance),
    "valid, all atoms / %": lambda e: _formatted("{:.1%}", e.quality.valid_all_atoms).removesuffix(
        "%"
    ),
    "bond distance, all / A": lambda e: _length(e.quality.bond_distance_all_atoms),
    "turned / stored": lambda e: _formatted("{:.2f}", e.quality.robustness),
}
_COST_OF_SKILL: Columns = {
    "s per trajectory": _COSTS["s per trajectory"],
    "training / CPU min": lambda e: _minutes(e.costs.training_seconds),
}
_FRONTS: Columns = {
    "front by time": lambda e: _lags(e.fronts.seconds_per_trajectory),
    "front by training": lambda e: _lags(e.fronts.training_seconds),
}
_SCORES: Columns = {
    "S2T": lambda e: _scaled(e.s2t),
    "S2S": lambda e: _with_spread(e),
    "S2S aligned": lambda e: _scaled(e.s2s_aligned),
    "skill": lambda e: _signed(e.skill),
}
_RUNS: Columns = {
    "folds": lambda e: _folds(e.folds),
    "seeds": lambda e: str(e.seeds),
    "failed": lambda e: f"{e.n_failed}/{e.n}",
}


def _columns(first: Entry, view: View) -> Columns:
    """The columns of a table whose first line is given."""
    if view == View.COSTS:
        return _COSTS
    if view == View.QUALITY:
        return _QUALITY
    if view == View.PARETO:
        skills = {f"{lag:g} fs": partial(_skill_at, lag) for lag in front_lags(list(first.mse))}
        return _COST_OF_SKILL | skills | _FRONTS
    if view == View.SKILL:
        return {f"{lag:g} fs": partial(_skill_at, lag) for lag in first.skills} | _RUNS
    return {f"{lag:g} fs": partial(_mse_at, lag) for lag in first.mse} | _SCORES | _RUNS


def _minutes(seconds: float | None) -> str:
    return _number(None if seconds is None else seconds / 60)


def _lags(lags: Iterable[float]) -> str:
    return ", ".join(f"{lag:g}" for lag in lags) or "-"


def _skill_at(lag: float, entry: Entry) -> str:
    return _signed(entry.skills.get(lag))


def _mse_at(lag: float, entry: Entry) -> str:
    return _scaled(entry.mse.get(lag))


def _formatted(template: str, value: float | None) -> str:
    return "-" if value is None else template.format(value)


def _number(value: float | None) -> str:
    return _formatted("{:,.0f}" if value == 0 or (value or 0) >= 100 else "{:.2g}", value)


def _percent(share: float | None) -> str:
    return _formatted("{:.1%}", share).removesuffix("%")


def _length(value: float | None) -> str:
    return _formatted("{:.4f}" if (value or 0) < 1 else "{:.2f}", value)


def _signed(skill: float | None) -> str:
    return _formatted("{:+.2f}" if abs(skill or 0) < 100 else "{:+.0f}", skill)


def _scaled(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{PRINTED_SCALE * value:.3g}" if value < 10 else f"{PRINTED_SCALE * value:.0f}"


def _with_spread(entry: Entry) -> str:
    spread = "" if entry.s2s_spread is None else f" ± {_scaled(entry.s2s_spread)}"
    return _scaled(entry.s2s) + spread


def _floor_cells(floor: PartFloor) -> list[str]:
    errors = [*floor.mse.values(), floor.s2t, floor.s2s]
    numbers = [f"{PRINTED_SCALE * value:.2g}" for value in errors]
    return [floor.label, *numbers, "-", "-", _folds(floor.folds), "-", "-"]


def _folds(folds: Iterable[int]) -> str:
    return ",".join("-" if fold == NO_FOLD else str(fold) for fold in folds)


def boards(
    lines: Sequence[Entry], view: View = View.ERRORS, floors: Sequence[PartFloor] = ()
) -> list[Table]:
    """A table for every task, track, part and set of folds: lines, best first, then floors.

    A summary has one table for all parts. What a model learnt from stands after its name if it is
    not the task's own data, and a hash where the same name has several settings.
    """
    if view == View.SUMMARY:
        return _summaries(lines, floors)
    result = []
    if view == View.COSTS:
        # Those of a run are the same in all its parts.
        runs = {
            (e.task, e.track, e.folds, e.model, e.settings): replace(e, part="all parts")
            for e in lines
        }
        lines = sorted(runs.values(), key=lambda e: (e.task, e.track, -len(e.folds), e.folds))
    several = _with_several_fold_sets(lines)
    for (task, track, part, folds), group in groupby(
        lines, key=lambda e: (e.task, e.track, e.part, e.folds)
    ):
        members = list(group)
        columns = _columns(members[0], view)
        rows = [
            [name, *(cell(line) for cell in columns.values())]
            for name, line in zip(_names(members), members, strict=True)
        ]
        key = task, track, part, folds
        mine = [f for f in floors if (f.task, f.track, f.part, f.folds) == key]
        notes = [f.note for f in mine] if view == View.ERRORS else []
        notes += _notes_on_references(members, view) + _notes_on_submissions(members, view)
        notes += notes_on_data(members)
        rows += [_floor_cells(f) for f in mine] if view == View.ERRORS else []
        on = f", folds {_folds(folds)}" if (task, track) in several else ""
        title = f"{_marked(task)}, {track}, {part}{on}: {_TITLES[view]}"
        result.append(Table(title, ("model", *columns), rows, notes))
    return result


def _summaries(lines: Sequence[Entry], floors: Sequence[PartFloor]) -> list[Table]:
    """S2T, S2S and skill of all test parts side by side, ordered by S2S in the first."""
    tables: dict[tuple[str, str, tuple[int, ...]], list[Entry]] = {}
    for line in lines:
        if line.part.startswith("test"):
            tables.setdefault((line.task, line.track, line.folds), []).append(line)
    return [
        _summary(key, members, [f for f in floors if (f.task, f.track, f.folds) == key])
        for key, members in tables.items()
    ]


def _summary(
    key: tuple[str, str, tuple[int, ...]], lines: Sequence[Entry], floors: Sequence[PartFloor]
) -> Table:
    task, track, folds = key
    models: dict[tuple[str, str], dict[str, Entry]] = {}
    for line in lines:
        models.setdefault((line.model, line.settings), {})[line.part] = line
    firsts = [next(iter(parts.values())) for parts in models.values()]
    parts = list(dict.fromkeys(line.part for line in lines))
    heading = [f"{part} {score}" for part in parts for score in ("S2T", "S2S", "skill")]
    rows = []
    for name, found in zip(_names(firsts), models.values(), strict=True):
        scores = [cell for part in parts for cell in _three(found.get(part))]
        n_failed, n = (sum(e.n_failed for e in found.values()), sum(e.n for e in found.values()))
        rows.append([name, *scores, str(next(iter(found.values())).seeds), f"{n_failed}/{n}"])
    whole = {(f.label, f.part): f for f in floors if f.is_complete}
    for label in sorted({label for label, _ in whole}):
        scores = [cell for part in parts for cell in _floor_scores(whole.get((label, part)))]
        rows.append([label, *scores, "-", "-"])
    on = "" if folds == (NO_FOLD,) else f", fold {_folds(folds)}"
    notes = [
        note
        for part in parts
        for note in _notes_on_references([e for e in lines if e.part == part], View.SUMMARY)
    ]
    return Table(
        f"{_marked(task)}, {track}{on}: {_TITLES[View.SUMMARY]}",
        ["model", *heading, "seeds", "failed"], rows,
        notes + _notes_on_submissions(firsts, View.SUMMARY) + notes_on_data(firsts),
    )  # fmt: skip


def _three(entry: Entry | None) -> tuple[str, str, str]:
    if entry is None:
        return "-", "-", "-"
    return _scaled(entry.s2t), _with_spread(entry), _signed(entry.skill)


def _floor_scores(floor: PartFloor | None) -> tuple[str, str, str]:
    if floor is None:
        return "-", "-", "-"
    return f"{PRINTED_SCALE * floor.s2t:.2g}", f"{PRINTED_SCALE * floor.s2s:.2g}", "-"


def _names(lines: Sequence[Entry]) -> list[str]:
    """What stands in the first column, oracles marked."""
    labels = zip(line_labels(lines), lines, strict=True)
    return [label + (" (oracle)" if line.oracle else "") for label, line in labels]


def _marked(task: str) -> str:
    return f"{task} (as published: with leaks)" if task.endswith(AS_PUBLISHED) else task


def _notes_on_references(lines: Sequence[Entry], view: View) -> list[str]:
    reference = skill_reference(lines)
    if view not in (View.ERRORS, View.SKILL, View.SUMMARY) or not reference:
        return []
    return [f"{lines[0].part}: skill is against {reference}"]


def _notes_on_submissions(lines: Sequence[Entry], view: View) -> list[str]:
    """What a reader must know of rows that were not run here."""
    submitted = [e for e in lines if e.model.startswith(SUBMITTED)]
    notes = [
        f"{e.model}: {e.equal_to_truth} entries equal the truth, all parts together"
        for e in submitted
        if e.equal_to_truth
    ]
    if submitted and view == View.COSTS:
        notes.append(f"{SUBMITTED}...: as their authors say, not measured here")
    return notes


def _with_several_fold_sets(lines: Iterable[Entry]) -> set[tuple[str, str]]:
    """Tasks and tracks whose models have not all run on the same folds."""
    sets: dict[tuple[str, str], set[tuple[int, ...]]] = {}
    for line in lines:
        sets.setdefault((line.task, line.track), set()).add(line.folds)
    return {key for key, found in sets.items() if len(found) > 1}


def boards_beside(records: Sequence[Record], floors: Sequence[PartFloor]) -> list[Table]:
    """Errors on the molecules that a floor is known of, where these are not all."""
    result = []
    for floor in floors:
        if not floor.is_complete:
            lines = entries(
                on_molecules(record, floor.molecules)
                for record in records
                if (record.task, record.track) == (floor.task, floor.track)
                and record.fold in floor.folds
            )
            mine = [e for e in lines if (e.part, e.folds) == (floor.part, floor.folds)]
            (board,) = boards(mine, floors=[floor])
            title = f"{board.title}, molecules with twins only"
            result.append(replace(board, title=title))
    return result


def as_json(lines: Sequence[Entry], floors: Sequence[PartFloor] = ()) -> list[Mapping]:
    """The lines as JSON-able dictionaries, errors in A^2; floors after them, as model "floor"."""
    nothing = dict.fromkeys(field.name for field in fields(Entry))
    marked = [nothing | {"model": "floor"} | asdict(floor) for floor in floors]
    return [entry | {"unit": "A^2"} for entry in [*(asdict(line) for line in lines), *marked]]


def as_csv(records: Iterable[Record]) -> str:
    """All numbers of all records, one a row, lags in fs and the unit of each value beside it."""
    run = ("task", "track", "model", "settings", "oracle", "seed", "fold")
    rows = (
        [r.task, r.track, r.model, settings_key(r), r.oracle, r.seed, r.fold, *row]
        for r in records
        for row in r.rows
    )
    return csv_table([*run, *Row._fields], rows)
