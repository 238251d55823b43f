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
from tg80.dataset import load
from tg80.errors import UserError
from tg80.shards.shard import Shard
from tg80.splits.extra import check_extra
from tg80.splits.split import Split
from tg80.windows.trajectories import Trajectory, read_trajectory


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
            held-out compound than its nearest training compound is.
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
        shards = _allowed(extra, data, split)
        further = tuple(read_trajectory(shard) for shard in shards)
        _check_lengths(further, data.task)
        lessons = replace(lessons, trajectories=(*lessons.trajectories, *further))
        about["extra_sha256"] = manifest_sha256([shard.path for shard in shards])
    if n_molecules is not None:
        lessons = _with_molecules(lessons, data.training.molecules, n_molecules)
    return replace(data, lessons=lessons, about={**about, "molecules": len(lessons.molecules)})


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


def _allowed(folder: Path, data: BenchmarkData, split: Split) -> list[Shard]:
    """The shards of a folder that the fold may learn from."""
    with users_data():
        found = load(folder, level=data.task.level)
        check = check_extra(split, list(found.molecules.values()))
    if check.problems:
        raise UserError(f"{folder}: {check.problems[0]}; leave it out")
    (fold,) = (fold for fold in check.folds if fold.fold == data.fold)
    return [shard for (name, _), shard in found.trajectories.items() if name in fold.allowed]


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
