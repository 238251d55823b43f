"""What models learn from where it is not the task's own training data: fewer molecules, or more.

The references of skill stay those of the task's own data, so that results can be compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from benchmarks.tasks.data import BenchmarkData, TrainingData, manifest_sha256, users_data
from benchmarks.tasks.tasks import TaskSpec, Track
from tg80.chemistry.molecule import molecule_from_smiles
from tg80.dataset import Dataset, load
from tg80.errors import UserError
from tg80.splits.extra import check_extra
from tg80.splits.split import Split
from tg80.windows.trajectories import Trajectory


def learning_from(
    data: BenchmarkData,
    split: Split | None,
    extra: Path | None = None,
    n_molecules: int | None = None,
) -> BenchmarkData:
    """The data of a fold, with other lessons for models that train.

    Args:
        data: of a task on its own data, on the track `extra-data` if there is `extra`.
        split: of the task, which decides what a fold may learn from; None if it has no folds.
        extra: folder of shards of further compounds; those are left out that are nearer to a
            compound of `test_ood` than its nearest training compound is.
        n_molecules: training molecules, of the task first; which, their names alone decide. None:
            all.

    Raises:
        UserError: `extra` without the track or the other way round, a folder that cannot be used,
            fewer molecules than asked for, or a task without folds.
    """
    if (extra is not None) != data.task.extra_data:
        raise UserError(
            f"--extra-data and --track {Track.EXTRA_DATA.value} go together: give both or neither"
        )
    if extra is None and n_molecules is None:
        return data
    if split is None:
        raise UserError(f"task {data.task.id} has no folds; leave --molecules out")
    lessons, about = data.training, dict[str, str | int]()
    if extra is not None:
        with users_data():
            found = load(extra, level=data.task.level)
            allowed = _allowed(extra, found, data, split)
            further = tuple(
                found.trajectory(*key) for key in found.trajectories if key[0] in allowed
            )
        _check_lengths(further, data.task)
        lessons = replace(lessons, trajectories=(*lessons.trajectories, *further))
        # Of the whole folder, so that the runs of all folds are one line of the leaderboard.
        about["extra_sha256"] = manifest_sha256([s.path for s in found.trajectories.values()])
    if n_molecules is not None:
        lessons = _with_molecules(lessons, data.training.molecules, n_molecules)
        about["molecules"] = n_molecules
    return replace(data, lessons=lessons, about=about)


def lessons_of(data: BenchmarkData) -> TrainingData:
    """What models that train learn from.

    Raises:
        UserError: further compounds, as the track has it, and there are none.
    """
    if data.task.extra_data and data.lessons is None:
        raise UserError(
            f"track {Track.EXTRA_DATA.value}: only `atom-bench run --extra-data DIR` trains on it"
        )
    return data.lessons or data.training


def _allowed(folder: Path, extra: Dataset, data: BenchmarkData, split: Split) -> set[str]:
    """The compounds of a folder that the fold may learn from."""
    molecules = extra.molecules
    for shard in extra.trajectories.values():
        facts = shard.metadata
        drawn = molecule_from_smiles(facts.smiles, facts.name)
        if not drawn.is_same_compound(molecules[facts.name]):
            raise UserError(f"{shard.path}: another tautomer than other replicas of {facts.name}")
    check = check_extra(split, list(molecules.values()))
    if check.problems:
        raise UserError(f"{folder}: {check.problems[0]}; leave it out")
    # Near is what is nearer than training compounds that are really here.
    here = split.restrict({t.name for t in data.whole})
    folds = check_extra(here, list(molecules.values())).folds
    (allowed,) = (set(fold.allowed) for fold in folds if fold.fold == data.fold)
    if not allowed:
        raise UserError(f"{folder}: all is too near to test_ood of fold {data.fold}")
    return allowed


def _check_lengths(blocks: Iterable[Trajectory], task: TaskSpec) -> None:
    for block in blocks:
        if block.length_fs < task.horizon_fs:
            raise UserError(
                f"{block.name} of the further compounds: {block.length_fs:g} fs are shorter than "
                f"the horizon of {task.id}, {task.horizon_fs:g} fs; make longer trajectories"
            )


def _with_molecules(lessons: TrainingData, own: Iterable[str], n_molecules: int) -> TrainingData:
    """The lessons of so many molecules, the task's own first."""
    own = set(own)
    order = sorted(lessons.molecules, key=lambda name: (name not in own, _lot(name)))
    if not 1 <= n_molecules <= len(order):
        raise UserError(f"--molecules wants 1 to {len(order)} here, not {n_molecules}")
    kept = set(order[:n_molecules])
    trajectories, finer = (
        tuple(t for t in blocks if t.name in kept)
        for blocks in (lessons.trajectories, lessons.finer)
    )
    return replace(lessons, trajectories=trajectories, finer=finer)


def _lot(name: str) -> bytes:
    """A number drawn for a name."""
    return hashlib.sha256(name.encode()).digest()
