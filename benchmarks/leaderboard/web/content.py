"""What the page shows: lines, curves, molecules and examples of all records, as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols, covalent_radii

from benchmarks.leaderboard.floor import PartFloor, part_floors
from benchmarks.leaderboard.lines import (
    PART_ORDER,
    Costs,
    Entry,
    Quality,
    entries,
    grouped,
    line_labels,
    notes_on_data,
    over_runs,
    panels,
    skill_reference,
)
from benchmarks.leaderboard.pareto import front_lags
from benchmarks.models import MODELS, TRIVIAL
from benchmarks.runs.evaluation import MEAN, MEDIAN, POOLED
from benchmarks.runs.examples import Example, read_examples
from benchmarks.runs.records import SUBMITTED, Record, settings_key
from benchmarks.scoring.metrics import Metric
from benchmarks.tasks.data import NO_FOLD
from benchmarks.tasks.tasks import AS_PUBLISHED

DIGITS = 4
BOND_FACTOR = 1.25
UNITS_PER_ANGSTROM = 100
# Far outside the picture already; a rollout that blew up would fill the page with digits.
_LIMIT = 100 * UNITS_PER_ANGSTROM
_AVERAGES = {MEAN, MEDIAN, POOLED}
_CURVES = (Metric.MSE, Metric.MSE_ALIGNED, Metric.SKILL)
_PER_MOLECULE = {"s2t": Metric.S2T, "s2s": Metric.S2S, "s2s_aligned": Metric.S2S_ALIGNED}


@dataclass(frozen=True)
class PageRecord:
    """A record, the folder it lies in, and its copy below the page."""

    record: Record
    folder: Path
    link: str

    @cached_property
    def numbers(self) -> dict[tuple[str, str], dict[tuple[float | None, str], float]]:
        """(part, molecule) -> (lag, metric) -> value."""
        found: dict[tuple[str, str], dict[tuple[float | None, str], float]] = {}
        for row in self.record.rows:
            found.setdefault((row.part, row.molecule), {})[row.lag_fs, row.metric] = row.value
        return found


def page_content(found: Sequence[PageRecord], twins: Path | None = None) -> dict[str, Any]:
    """All that the page's scripts draw; errors in A^2, rounded to what is shown.

    Args:
        found: the records, with what the page links to.
        twins: folder of twins for the floor; None for the shipped ones.
    """
    boards = []
    keys = [(one.record.task, one.record.track) for one in found]
    # The task with the most records comes first: it is the one that the page opens with.
    for key in sorted(set(keys), key=lambda key: (-keys.count(key), key)):
        members = [one for one, at in zip(found, keys, strict=True) if at == key]
        boards.append(_task(members, twins))
    return {
        "n_records": len(found),
        "commits": sorted({one.record.git_commit or "unknown" for one in found}),
        "tasks": boards,
    }


def _task(members: Sequence[PageRecord], twins: Path | None) -> dict[str, Any]:
    first = members[0].record
    folds = sorted({one.record.fold for one in members})
    # One fold's examples keep the page small: that which most runs share.
    shown = max(folds, key=lambda fold: sum(m.record.fold == fold for m in members))
    return {
        "task": first.task,
        "track": first.track,
        "description": first.spec.description,
        "leaks": first.task.endswith(AS_PUBLISHED),
        "lags_fs": first.spec.lags_fs,
        "folds": [
            {"fold": name, "parts": _parts(chosen, twins)} for name, chosen in _choices(members)
        ],
        "movies": movies([m for m in members if m.record.fold == shown], shown),
    }


def _choices(members: Sequence[PageRecord]) -> list[tuple[str, list[PageRecord]]]:
    """Folds that can be looked at: all that some models have run on, and each alone."""
    of = {
        tuple(sorted({one.record.fold for one in panel})): panel
        for panel in panels(members, lambda one: one.record)
    }
    for fold in sorted({one.record.fold for one in members}):
        of.setdefault((fold,), [one for one in members if one.record.fold == fold])

    def learnt(folds: tuple[int, ...]) -> int:
        return len({one.record.model for one in of[folds]} - set(TRIVIAL))

    # The page opens with the first: the one that compares most models, of as many folds as can be.
    order = sorted(of, key=lambda folds: (-learnt(folds), -len(folds), folds))
    every = tuple(sorted({one.record.fold for one in members}))
    return [("all" if folds == every else ", ".join(map(str, folds)), of[folds]) for folds in order]


def _parts(members: Sequence[PageRecord], twins: Path | None) -> list[dict[str, Any]]:
    own = {id(one.record): one for one in members}
    records = [one.record for one in members]
    behind = grouped(records)
    by_part: dict[str, list[Entry]] = {}
    for entry in entries(records):
        by_part.setdefault(entry.part, []).append(entry)
    floors = part_floors(records, twins)
    order = {part: i for i, part in enumerate(PART_ORDER)}
    parts = sorted(by_part, key=lambda part: (order.get(part, len(order)), part))
    return [
        {
            "part": part,
            "skill_reference": skill_reference(by_part[part]),
            "notes": notes_on_data(by_part[part]),
            "front_lags_fs": front_lags(list(by_part[part][0].mse)),
            "floors": [_floor(floor) for floor in floors if floor.part == part],
            "lines": [
                _line(entry, label, [own[id(record)] for record in behind[entry.key]])
                for entry, label in zip(by_part[part], line_labels(by_part[part]), strict=True)
            ],
        }
        for part in parts
    ]


def _floor(floor: PartFloor) -> dict[str, Any]:
    """A floor of some molecules is no floor of the mean over all: then only theirs are given."""
    return {
        "label": floor.label,
        "displacement_angstrom": floor.displacement_angstrom,
        "n_molecules": floor.n_molecules,
        "lags_fs": list(floor.mse),
        "mse": [short(value) for value in floor.mse.values()] if floor.is_complete else None,
        "molecules": {
            name: [short(values[lag]) for lag in floor.mse]
            for name, values in floor.molecules.items()
        },
    }


def kind_of(entry: Entry) -> str:
    """Whose line it is: "model", "reference", "oracle", or "submitted" from outside."""
    if entry.oracle:
        return "oracle"
    if entry.model.startswith(SUBMITTED) or entry.model not in MODELS:
        return "submitted"
    return "reference" if entry.model in TRIVIAL else "model"


def _line(entry: Entry, label: str, members: Sequence[PageRecord]) -> dict[str, Any]:
    failed = entry.n_failed
    return {
        "label": label,
        "model": entry.model,
        "settings": entry.settings,
        "kind": kind_of(entry),
        "folds": [fold for fold in entry.folds if fold != NO_FOLD],
        "seeds": entry.seeds,
        "s2t": short(entry.s2t),
        "s2s": short(entry.s2s),
        "s2s_spread": short(entry.s2s_spread),
        "s2t_aligned": short(_mean(members, entry.part, MEAN, None, Metric.S2T_ALIGNED)),
        "s2s_aligned": short(entry.s2s_aligned),
        "skill": short(entry.skill),
        "n": entry.n,
        "n_failed": failed,
        "costs": _facts(entry.costs),
        "quality": _facts(entry.quality),
        "fronts": asdict(entry.fronts),
        "curve": _curves(members, entry.part, MEAN),
        "molecules": _molecules(members, entry.part),
        "records": [[_run_name(one.record), one.link] for one in members],
    }


def _facts(facts: Costs | Quality) -> dict[str, Any]:
    """Numbers shortened, lists as text, None where nothing is known."""
    found = {}
    for name, value in asdict(facts).items():
        if isinstance(value, (list, tuple)):
            found[name] = ", ".join(str(item).replace("_", " ") for item in value) or None
        else:
            found[name] = short(value)
    return found


def _run_name(record: Record) -> str:
    fold = "" if record.fold == NO_FOLD else f"fold {record.fold}"
    seed = "" if record.seed is None else f"seed {record.seed}"
    return ", ".join(text for text in (fold, seed) if text) or "record"


def _molecules(members: Sequence[PageRecord], part: str) -> dict[str, Any]:
    names = {name for one in members for (at, name) in one.numbers if at == part}
    return {name: _molecule(members, part, name) for name in sorted(names - _AVERAGES)}


def _molecule(members: Sequence[PageRecord], part: str, name: str) -> dict[str, Any]:
    curve = _curves(members, part, name)
    scores: dict[str, Any] = {
        key: short(_mean(members, part, name, None, metric))
        for key, metric in _PER_MOLECULE.items()
    }
    skills = [value for value in curve[Metric.SKILL] if value is not None]
    return scores | {"skill": skills[-1] if skills else None, "curve": curve}


def _curves(members: Sequence[PageRecord], part: str, molecule: str) -> dict[str, Any]:
    """Lags in order, and a number or None for each of them in every curve."""
    # Skill is a median over molecules, errors are means.
    skill = MEDIAN if molecule == MEAN else molecule
    places = {m: skill if m is Metric.SKILL else molecule for m in _CURVES}
    lags = sorted(
        {
            lag
            for one in members
            for metric, place in places.items()
            for lag, found in one.numbers.get((part, place), {})
            if lag is not None and found == metric
        }
    )
    return {"lags_fs": lags} | {
        metric: [short(_mean(members, part, place, lag, metric)) for lag in lags]
        for metric, place in places.items()
    }


def _mean(
    members: Sequence[PageRecord], part: str, molecule: str, lag: float | None, metric: str
) -> float | None:
    values = [one.numbers.get((part, molecule), {}).get((lag, metric)) for one in members]
    return over_runs([one.record for one in members], values)


def short(value: float | None) -> float | None:
    """A number with no more digits than a reader can use."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{DIGITS}g}")


def summary(content: Mapping[str, Any]) -> str:
    """What stands on the page, in a line."""
    n = content["n_records"]
    if not n:
        return "No record lies here yet: run atom-bench run, and build the page again."
    tasks = sorted({task["task"] for task in content["tasks"]})
    return f"{n} record{'s' if n > 1 else ''} of {', '.join(tasks)}."


def movies(members: Sequence[PageRecord], fold: int | None) -> dict[str, Any]:
    """The examples of one fold, the predictions of all models for a window in one place.

    Of a model with several seeds or settings, each setting's lowest seed is shown.

    Returns:
        fold, and the cases in the order in which they were chosen: positions in 1/100 A.
    """
    cases: dict[tuple[str, str], dict[str, Any]] = {}
    shown: set[tuple[str, str]] = set()
    for one in sorted(members, key=lambda m: (m.record.model, m.record.seed or 0)):
        line = (one.record.model, settings_key(one.record))
        if line in shown:
            continue
        examples = read_examples(one.folder)
        if examples:
            shown.add(line)
        for example in examples:
            case = cases.setdefault((example.part, example.start_id), _case(example))
            if _same_window(case, example):
                case["predictions"].append(
                    {
                        "model": line[0], "settings": line[1], "seed": one.record.seed,
                        "failed": example.failed,
                        "positions": _whole(example.predicted @ _turn(example)),
                    }
                )  # fmt: skip
    return {"fold": fold, "cases": list(cases.values())}


def _case(example: Example) -> dict[str, Any]:
    turn = _turn(example)
    return {
        "part": example.part,
        "molecule": example.molecule,
        "start_id": example.start_id,
        "symbols": [chemical_symbols[z] for z in example.atomic_numbers],
        "scored": [int(i) for i in np.flatnonzero(example.scored)],
        "bonds": _bonds(example),
        "lags_fs": [float(f"{lag:.6g}") for lag in example.lags_fs],
        "start": _whole(example.start @ turn),
        "truth": _whole(example.truth @ turn),
        "predictions": [],
    }


def _same_window(case: dict[str, Any], example: Example) -> bool:
    """Whether a run was asked for the same lags of the same start, and not of other data."""
    return (
        len(case["lags_fs"]) == len(example.lags_fs)
        and np.allclose(case["lags_fs"], example.lags_fs)
        and case["start"] == _whole(example.start @ _turn(example))
    )


def _turn(example: Example) -> np.ndarray:
    """A rotation (3, 3), applied from the right, that shows the widest side of the scored atoms."""
    positions = example.start[example.scored]
    if len(positions) < 2:
        positions = example.start
    _, _, axes = np.linalg.svd(positions - positions.mean(axis=0))
    axes[2] *= np.sign(np.linalg.det(axes))
    return axes.T


def _bonds(example: Example) -> list[list[int]]:
    """Pairs of atoms closer than their covalent radii allow for strangers, in the start."""
    radii = covalent_radii[example.atomic_numbers]
    distances = np.linalg.norm(example.start[:, None] - example.start[None], axis=-1)
    near = np.triu(distances < BOND_FACTOR * (radii[:, None] + radii[None]), k=1)
    return np.argwhere(near).tolist()


def _whole(positions: np.ndarray) -> Any:
    steps = np.clip(np.round(UNITS_PER_ANGSTROM * positions), -_LIMIT, _LIMIT)
    return steps.astype(int).tolist()
