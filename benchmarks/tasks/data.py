"""A task's data in memory: training blocks, and the windows of every part.

What a model may learn from is cut out before the model sees it: `TrainingData` holds the train
blocks only, so that no test frame can leak however a model is written.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from benchmarks.tasks.public import read_public_task
from benchmarks.tasks.scored_windows import (
    Part,
    Windows,
    scored_part,
    scored_windows,
    starts_of,
    validation_at_later_times,
)
from benchmarks.tasks.tasks import ChosenOn, Kind, TaskSpec
from tg80.dataset import Dataset, load, shipped_folder
from tg80.errors import CorruptFile, UserError
from tg80.shards.shard import Shard
from tg80.splits.split import ALL_PARTS, PARTS, TIME_PARTS, Fold, Split, load_split
from tg80.windows.trajectories import Trajectory, read_trajectory
from tg80.windows.windows import TrainingWindows

N_FOLDS = 5
# Number in records of tasks without folds.
NO_FOLD = 0
# Parts of molecules that the training set holds: their own train block may be used as a reference.
SEEN_PARTS = TIME_PARTS
SCORED_PARTS = ("val", "test_time", "test_id", "test_ood")


@dataclass(frozen=True)
class TrainingData:
    """What a model may learn from.

    Attributes:
        trajectories: the train blocks of the training molecules.
        validation: what chooses the weights that are kept: windows of unseen molecules (`val`) and
            of later times of the training molecules (`val_time`), those that the data has.
        relaxed_positions: molecule -> (n_atoms, 3) A, GFN2-xTB, of every molecule that has them:
            no trajectory is needed to know these. Public sets have none.
        hessians: molecule -> (3 n_atoms, 3 n_atoms) eV/A^2 at those, likewise.
        validation_blocks: the trajectories, or blocks, that the windows of `validation` are from,
            for the energies and forces of their start states.
        finer: further trajectories of the training molecules, whole, with frames at other, shorter
            intervals than `trajectories`. Nothing is scored on them.
        windows: makes random windows of train blocks, called as `TrainingWindows` is.
    """

    task: TaskSpec
    trajectories: tuple[Trajectory, ...]
    validation: tuple[Part, ...]
    relaxed_positions: dict[str, np.ndarray]
    hessians: dict[str, np.ndarray] = field(default_factory=dict)
    validation_blocks: tuple[Trajectory, ...] = ()
    finer: tuple[Trajectory, ...] = ()
    windows: Callable[..., TrainingWindows] = TrainingWindows

    @property
    def molecules(self) -> tuple[str, ...]:
        """The training molecules."""
        return tuple(dict.fromkeys(t.name for t in self.trajectories))


class ReadOnce(Dataset):
    """A data set that keeps each trajectory in memory once it is read."""

    @cached_property
    def _read(self) -> dict[tuple[str, int], Trajectory]:
        return {key: super(ReadOnce, self).trajectory(*key) for key in self.trajectories}

    def trajectory(self, name: str, replica: int | None = None) -> Trajectory:
        return self._read[name, self[name].metadata.replica if replica is None else replica]


@dataclass(frozen=True)
class BenchmarkData:
    """One fold of one task on one data set.

    Attributes:
        blocks: the trajectories, or time blocks of them, that each part is scored on.
        whole: all trajectories, for what is known of molecules in evaluation.
        bonds: molecule -> pairs of atoms, of those whose graph is known. No model sees them.
        lessons: what models that train learn from; None: `training`.
        about: what sets the lessons apart, for records.
    """

    task: TaskSpec
    fold: int
    training: TrainingData
    parts: dict[str, Part]
    blocks: dict[str, tuple[Trajectory, ...]]
    manifest_sha256: str
    split_sha256: str
    whole: tuple[Trajectory, ...] = ()
    bonds: Mapping[str, Sequence[tuple[int, int]]] = field(default_factory=dict)
    lessons: TrainingData | None = None
    about: Mapping[str, str | int] = field(default_factory=dict)


def load_benchmark(
    task: TaskSpec,
    fold: int | None = None,
    folder: Path | None = None,
    split: str | Path | None = None,
) -> BenchmarkData:
    """Read a task's data and cut it into parts.

    Args:
        task: what is asked.
        fold: 1 to 5; None where the task decides.
        folder: data, None for those that ship along.
        split: a frozen split by name or file, None for the task's own.

    Raises:
        UserError: no such fold, or not the task's; folder missing or empty, or without molecules
            that the task needs; a file that cannot be read, is at another level of theory, or holds
            a molecule that is not in the split; a horizon that is longer than a block.
    """
    if task.kind == Kind.PUBLIC:
        fold = _fold_of(task, fold, None)
        if split is not None:
            raise UserError(f"task {task.id} has no split; leave --split out")
        return _public_data(task, folder)
    if task.kind == Kind.SPLIT and fold is not None and not 1 <= fold <= N_FOLDS:
        raise UserError(f"fold must be 1 to {N_FOLDS}, not {fold}")
    frozen = load_split(split or task.split)
    fold = _fold_of(task, fold, frozen)
    if task.kind == Kind.SINGLE:
        return molecule_data(task, fold, frozen, folder)
    with users_data():
        data = load(_folder_of(task, folder), split=frozen, level=task.level)
        if task.complete:
            _check_complete(task, frozen.fold(fold), data)
        return _cut_shards(list(data.trajectories.values()), data.split, task, fold, frozen.sha256)


def _check_complete(task: TaskSpec, fold: Fold, data: Dataset) -> None:
    wanted = [name for part in PARTS for name in fold.part(part)]
    missing = [name for name in wanted if name not in data]
    if missing:
        more = ", ..." if len(missing) > 3 else ""
        raise UserError(
            f"fold {fold.index} of {task.id} lacks {len(missing)} of its {len(wanted)} molecules "
            f"in the data ({', '.join(missing[:3])}{more}); complete the data"
        )


@contextmanager
def users_data() -> Iterator[None]:
    """Blame the user for files that cannot be read: they chose the data."""
    try:
        yield
    except CorruptFile as error:
        raise UserError(str(error)) from error


def _fold_of(task: TaskSpec, fold: int | None, split: Split | None) -> int:
    """The fold that is run: the one asked for, or the task's own."""
    if not task.has_folds:
        if fold not in (None, NO_FOLD):
            raise UserError(f"task {task.id} has no folds; leave --fold out")
        return NO_FOLD
    if task.kind == Kind.ZERO_SHOT:
        assert split is not None and task.molecule is not None
        own = split.zero_shot_fold(task.molecule).index
        if fold not in (None, own):
            raise UserError(
                f"fold {fold} does not hold {task.molecule} out of distribution, fold {own} does; "
                "leave --fold out"
            )
        return own
    if fold is None:
        raise UserError(f"task {task.id} has folds; give --fold, 1 to {N_FOLDS}")
    return fold


def molecule_data(
    task: TaskSpec, fold: int, split: Split, folder: Path | None = None
) -> BenchmarkData:
    """Train block, `val_time` and `test_time` of the task's molecule, replica 0.

    Raises:
        UserError: no such data or molecule, or a block too short for the task.
    """
    assert task.molecule is not None
    with users_data():
        data = load(_folder_of(task, folder), level=task.level)
        if task.molecule not in data:
            raise UserError(f"{task.id}: no shard of {task.molecule} in {folder or 'the data'}")
        alone = Fold(
            index=fold, ood_clusters=(), train=(task.molecule,), val=(), test_id=(), test_ood=()
        )
        single = split.restrict([task.molecule]).model_copy(update={"folds": (alone,)})
        shards = data.replicas(task.molecule)[:1]
        found = _cut_shards(shards, single, task, fold, split.sha256)
    if not found.training.validation:
        raise UserError(
            f"no window of {task.id} fits into val_time of {task.molecule}, a trajectory of "
            f"{found.whole[0].length_fs:g} fs; choose longer data"
        )
    return found


def _folder_of(task: TaskSpec, folder: Path | None) -> Path:
    if folder is not None:
        return folder
    try:
        return shipped_folder(shipped_name(task))
    except UserError:
        reason = f"the data of task {task.id} are not here; download them or give --data"
        raise UserError(reason) from None


def shipped_name(task: TaskSpec) -> str:
    """Name of a task's own data: mini-xtb of mini-xtb-zero-shot/furan."""
    if task.dataset is not None:
        return task.dataset
    family = task.id.partition("/")[0]
    return re.sub(r"-(v\d+|finetune|singletask|zero-shot)$", "", family)


def scored_shards(shards: Iterable[Shard]) -> list[Shard]:
    """The trajectories that tasks are scored on, of those of a data set in order of their replica.

    Replicas that are stored at another interval than the first of their molecule are left out.
    """
    interval: dict[str, float] = {}
    return [s for s in shards if interval.setdefault(s.metadata.name, s.frame_fs) == s.frame_fs]


def _cut_shards(
    shards: Sequence[Shard], split: Split | None, task: TaskSpec, fold: int, split_sha256: str
) -> BenchmarkData:
    scored = scored_shards(shards)
    data = ReadOnce(scored, split)
    manifest = manifest_sha256([shard.path for shard in shards])
    bonds = {m.name: [(i, j) for i, j, _ in m.bonds] for m in data.molecules.values()}
    found = cut(data, task, fold, manifest=manifest, split_sha256=split_sha256, bonds=bonds)
    known = found.training.molecules
    finer = [read_trajectory(s) for s in shards if s not in scored and s.metadata.name in known]
    if task.inputs == "heavy":
        finer = [trajectory.heavy_atoms() for trajectory in finer]
    return replace(found, training=replace(found.training, finer=tuple(finer)))


def cut(
    data: Dataset,
    task: TaskSpec,
    fold: int,
    *,
    manifest: str,
    split_sha256: str,
    bonds: Mapping[str, Sequence[tuple[int, int]]],
) -> BenchmarkData:
    """Cut a data set into the parts of one fold of its split.

    Args:
        data: the trajectories with their split.
        task: what is asked of them.
        fold: index of the fold.
        manifest: hash of the shards, for records.
        split_sha256: of the whole split, for records.
        bonds: pairs of atoms of each molecule.

    Raises:
        UserError: There is no molecule of a part that the task needs, or a horizon is longer than
            a block.
    """
    assert data.split is not None
    whole = tuple(data.trajectory(*key) for key in data.trajectories)
    frames = {t.frame_fs for t in whole}
    if len(frames) > 1:
        raise UserError(f"shards are stored at different intervals: {sorted(frames)} fs")
    blocks = {name: tuple(data.part(fold, name, atoms=task.inputs)) for name in ALL_PARTS}
    if not blocks["train"]:
        raise UserError(f"fold {fold} of split {data.split.version} has no training molecule here")
    if task.kind == Kind.ZERO_SHOT:
        blocks["test_time"] = blocks["test_id"] = ()
        blocks["test_ood"] = tuple(t for t in blocks["test_ood"] if t.name == task.molecule)
        if not blocks["test_ood"]:
            raise UserError(f"{task.id}: no trajectory of {task.molecule} in the data")
    if task.reference == ChosenOn.VALIDATION:
        for name in ALL_PARTS:
            if not blocks[name]:
                raise UserError(f"fold {fold} of {task.id} has no molecule of {name} in the data")
    parts = {name: scored_part(name, blocks[name], task) for name in SCORED_PARTS if blocks[name]}
    later = validation_at_later_times(blocks["val_time"], task)
    if task.reference == ChosenOn.VALIDATION and not later:
        raise UserError(f"no window of {task.id} fits into val_time; choose longer data")
    given = tuple(t.heavy_atoms() for t in whole) if task.inputs == "heavy" else whole
    training = TrainingData(
        task=task,
        trajectories=blocks["train"],
        validation=(
            *(part for name, part in parts.items() if name == "val"),
            *later,
        ),
        relaxed_positions={
            t.name: t.relaxed_positions for t in given if t.relaxed_positions is not None
        },
        hessians={t.name: t.hessian for t in given if t.hessian is not None},
        validation_blocks=(*blocks["val"], *blocks["val_time"]),
    )
    if task.kind == Kind.ZERO_SHOT:
        parts.pop(
            "val", None
        )  # The molecules that choose the weights are not part of the question.
    return BenchmarkData(
        task=task,
        fold=fold,
        training=training,
        parts=parts,
        blocks={name: blocks[name] for name in parts},
        manifest_sha256=manifest,
        split_sha256=split_sha256,
        whole=given,
        bonds=bonds,
    )


def _public_data(task: TaskSpec, folder: Path | None) -> BenchmarkData:
    found = read_public_task(task, folder)
    starts = {
        part: [(found.trajectory, int(start)) for start in found.starts[part]]
        for part in ("val_time", "test_time")
    }
    turn = not task.as_published
    test = Part(
        "test_time",
        windows=scored_windows(starts["test_time"], task.lags_fs, task, turn),
        stored_frame=scored_windows(starts["test_time"], task.lags_fs, task, False)
        if turn
        else None,
    )
    validation = Part("val_time", scored_windows(starts["val_time"], task.lags_fs, task, turn))
    training = TrainingData(task, found.blocks, (validation,), {})
    return BenchmarkData(
        task, NO_FOLD, training, {"test_time": test}, {"test_time": (found.test_block,)},
        manifest_sha256([found.path]), found.sha256, (found.trajectory,),
    )  # fmt: skip


def windows_at(data: BenchmarkData, part: str, lags_fs: Sequence[float]) -> Windows:
    """The windows of a part at other lags than the task's, increasing.

    They are the task's windows as long as its horizon is not exceeded; else as many starts are
    taken as fit more than the longest lag apart.

    Raises:
        UserError: the longest lag is longer than a block.
    """
    horizon_fs = max(*lags_fs, data.task.horizon_fs)
    starts = starts_of(data.blocks[part], horizon_fs, part, data.task)
    return scored_windows(starts, lags_fs, data.task, not data.task.as_published)


def manifest_sha256(paths: Sequence[Path]) -> str:
    """One hash for a set of shards: of the sorted lines "sha256  name".

    Raises:
        UserError: a shard is not what the checksum beside it says.
    """
    lines = []
    for path in paths:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        beside = Path(f"{path}.sha256")
        if beside.exists() and beside.read_text().split()[:1] != [digest]:
            raise UserError(f"{path}: not what {beside.name} says; the file is damaged or changed")
        lines.append(f"{digest}  {path.name}\n")
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()
