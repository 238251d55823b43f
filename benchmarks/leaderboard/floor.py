"""The predictability floor of a task's errors, from twins of its data.

Twins start from one stored state, each a little displaced; their unbiased variance is the expected
squared error of the best predictor of a state that is known so well (docs/pipeline/twins.md). No
model and no reference: it stands beside both, and is never ranked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks.leaderboard.lines import panels
from benchmarks.runs.evaluation import AVERAGES, MEAN, Row
from benchmarks.runs.records import Record
from benchmarks.scoring.metrics import Metric
from benchmarks.tasks.data import manifest_sha256, shipped_name
from benchmarks.tasks.tasks import TaskSpec, Track
from tg80.dataset import shipped_folder
from tg80.errors import CorruptFile, UserError
from tg80.shards.shard import find_shards
from tg80.shards.twins import Twins, find_twins, floor, read_twins, shipped_twins


@dataclass(frozen=True)
class MoleculeFloor:
    """Floor of one molecule for one way to displace its twins.

    Attributes:
        values: lag in fs -> A^2, mean over the starts.
        n_starts: number of starts.
        n_twins: number of twins of each.
    """

    displacement_angstrom: float
    molecule: str
    values: dict[float, float]
    n_starts: int
    n_twins: int


@dataclass(frozen=True)
class PartFloor:
    """Floor of one table, as its errors are averaged: over molecules, then folds.

    Attributes:
        mse: lag in fs -> A^2, of the task's lags.
        s2t: their mean.
        s2s: the last of them.
        molecules: those that have twins, with their own floors.
        n_molecules: number of molecules of the part.
    """

    task: str
    track: str
    part: str
    displacement_angstrom: float
    mse: dict[float, float]
    s2t: float
    s2s: float
    molecules: dict[str, dict[float, float]]
    n_molecules: int
    folds: tuple[int, ...]

    @property
    def is_complete(self) -> bool:
        """Whether all molecules of the part have twins."""
        return len(self.molecules) == self.n_molecules

    @property
    def label(self) -> str:
        """What stands in a table."""
        return f"floor ({self.displacement_angstrom:g} A)"

    @property
    def note(self) -> str:
        """What stands below it."""
        return (
            f"{self.label}: variance of twins displaced by {self.displacement_angstrom:g} A, of "
            f"{len(self.molecules)} of {self.n_molecules} molecules; not ranked"
        )


def molecule_floors(folder: Path, task: TaskSpec, lags_fs: Sequence[float]) -> list[MoleculeFloor]:
    """Floors of the molecules that have twins, by displacement, then name.

    Twins of the canonical and the all-atom track know all that a model is given; those of the
    heavy-input track must have hydrogen velocities of their own, since a model does not know them.

    Args:
        folder: holds files of twins.
        task: the task, with its track.
        lags_fs: wanted lags; lags that are not stored are left out, and so are molecules without
            any.

    Raises:
        UserError: no such folder, no twins in it, or a file that cannot be read.
    """
    found: dict[tuple[float, str], list[tuple[Twins, dict[float, float]]]] = {}
    for path in find_twins(folder):
        twins = _read(path)
        settings = twins.metadata.settings
        if settings.resample_hydrogens != (task.track == Track.HEAVY_INPUT):
            continue
        if twins.metadata.level != task.level:
            continue
        if values := _at(twins, task, lags_fs):
            key = settings.perturbation_angstrom, twins.metadata.name
            found.setdefault(key, []).append((twins, values))
    return [_merged(*key, found[key]) for key in sorted(found)]


@cache
def _read(path: Path) -> Twins:
    try:
        return read_twins(path)
    except CorruptFile as error:
        raise UserError(str(error)) from error


def _at(twins: Twins, task: TaskSpec, lags_fs: Sequence[float]) -> dict[float, float]:
    stored = [lag for lag in lags_fs if np.abs(twins.times_fs - lag).min() < 1e-6 * max(1.0, lag)]
    if not stored or not (twins.atomic_numbers > (1 if task.score == "heavy" else 0)).any():
        return {}
    _, values = floor(twins, task.score, stored)
    return dict(zip(stored, values.mean(axis=0).tolist(), strict=True))


def _merged(
    displacement: float, molecule: str, parts: Sequence[tuple[Twins, dict[float, float]]]
) -> MoleculeFloor:
    """Replicas together: every start counts alike."""
    weights = [twins.n_starts for twins, _ in parts]
    shared = [lag for lag in parts[0][1] if all(lag in values for _, values in parts)]
    values = {
        lag: float(np.average([values[lag] for _, values in parts], weights=weights))
        for lag in shared
    }
    n_twins = min(twins.n_twins for twins, _ in parts)
    return MoleculeFloor(displacement, molecule, values, sum(weights), n_twins)


def part_floors(records: Iterable[Record], twins: Path | None = None) -> list[PartFloor]:
    """Floors of all tables of these records, for every displacement there are twins of.

    Args:
        records: of any models and tasks.
        twins: folder of twins; None for the shipped ones, which fit records of the shipped data
            only.

    Raises:
        UserError: as of `molecule_floors`.
    """
    groups = [
        (part, [record for record in panel if part in record.parts])
        for panel in panels(records, lambda record: record)
        for part in dict.fromkeys(part for record in panel for part in record.parts)
    ]
    return [one for part, group in groups for one in _floors(group, part, twins)]


def _floors(records: Sequence[Record], part: str, twins: Path | None) -> list[PartFloor]:
    if twins is None:
        records = [record for record in records if _is_of_shipped_data(record)]
        if not records:
            return []
    task = records[0].spec
    folder = twins or shipped_twins(shipped_name(task))
    lags_fs = _task_lags(records[0], part)
    folds = {record.fold: _molecules(record, part) for record in records}
    floors = molecule_floors(folder, task, lags_fs)
    found = []
    for displacement in sorted({one.displacement_angstrom for one in floors}):
        of = {one.molecule: one.values for one in floors
              if one.displacement_angstrom == displacement}  # fmt: skip
        if made := _part_floor(records[0], part, displacement, lags_fs, folds, of):
            found.append(made)
    return found


def _part_floor(
    record: Record,
    part: str,
    displacement: float,
    lags_fs: Sequence[float],
    folds: Mapping[int, Sequence[str]],
    floors: Mapping[str, dict[float, float]],
) -> PartFloor | None:
    asked = dict.fromkeys(name for names in folds.values() for name in names)
    whole = {name: floors[name] for name in asked if set(floors.get(name, ())) >= set(lags_fs)}
    per_fold = [
        [[whole[name][lag] for lag in lags_fs] for name in names if name in whole]
        for names in folds.values()
    ]
    if not all(per_fold):
        return None
    mse = np.mean([np.mean(rows, axis=0) for rows in per_fold], axis=0)
    return PartFloor(
        task=record.task, track=record.track, part=part, displacement_angstrom=displacement,
        mse=dict(zip(lags_fs, mse.tolist(), strict=True)), s2t=float(mse.mean()),
        s2s=float(mse[-1]), molecules=whole, n_molecules=len(asked), folds=tuple(sorted(folds)),
    )  # fmt: skip


def _task_lags(record: Record, part: str) -> list[float]:
    """The task's lags as they really were: further ones belong to the curve."""
    known = [lag for lag in record.by_lag(part, Metric.MSE) if lag is not None]
    return sorted({min(known, key=lambda x: abs(x - lag)) for lag in record.spec.lags_fs})


def _molecules(record: Record, part: str) -> list[str]:
    names = dict.fromkeys(row.molecule for row in record.rows if row.part == part)
    return [name for name in names if name not in AVERAGES]


def _is_of_shipped_data(record: Record) -> bool:
    task = record.spec
    try:
        shipped_twins(shipped_name(task))
        manifests = _shipped_manifests(shipped_name(task))
    except UserError:
        return False
    key = task.molecule if record.manifest_sha256 != manifests[""] else ""
    return manifests.get(key or "") == record.manifest_sha256


@cache
def _shipped_manifests(name: str) -> dict[str, str]:
    """Hash of a shipped set as a whole under "", and of each molecule's first trajectory."""
    shards = find_shards(shipped_folder(name))
    alone = {path.name.rsplit("-r", 1)[0]: manifest_sha256([path]) for path in reversed(shards)}
    return {"": manifest_sha256(shards), **alone}


def on_molecules(record: Record, molecules: Iterable[str]) -> Record:
    """The record as if a part had these molecules only, to stand beside a floor of some.

    Means over molecules are made anew; pooled figures and skills are left out.
    """
    kept = set(molecules)
    rows = [row for row in record.rows if row.molecule in kept]
    groups: dict[tuple[str, float | None, str], list[Row]] = {}
    for row in rows:
        if not row.metric.startswith("skill"):
            groups.setdefault((row.part, row.lag_fs, row.metric), []).append(row)
    means = [
        group[0]._replace(
            molecule=MEAN,
            value=float(np.mean([row.value for row in group])),
            n=sum(row.n for row in group),
            n_failed=sum(row.n_failed for row in group),
        )
        for group in groups.values()
    ]
    return record.model_copy(update={"rows": rows + means})
