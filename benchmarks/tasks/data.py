"""A task's data in memory: training blocks, and the scored windows of every part.

What a model may learn from is cut out before the model sees it: `TrainingData` holds the train
blocks only, so that no test frame can leak however a model is written.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from benchmarks.scoring.validity import Geometries, Pairs
from benchmarks.tasks.public import read_public_task
from benchmarks.tasks.states import StartStates, start_states
from benchmarks.tasks.tasks import Protocol, TaskSpec
from tg80.chemistry.molecule import Molecule, molecule_from_smiles
from tg80.dataset import cut_part, load, shipped_folder
from tg80.errors import CorruptFile, UserError
from tg80.splits.split import TIME_PARTS, Fold, Split, load_split
from tg80.windows.rotations import window_rotation
from tg80.windows.starts import scored_starts
from tg80.windows.trajectories import Trajectory, read_trajectory
from tg80.windows.windows import collate, cut_window

N_FOLDS = 5
# Number in records of tasks without folds.
NO_FOLD = 0
# Parts of molecules that the training set holds: their own train block may be used as a reference.
SEEN_PARTS = TIME_PARTS
SCORED_PARTS = ("val", "test_time", "test_id", "test_ood")


@dataclass(frozen=True)
class Windows:
    """Start states and the truth at lags_fs (B, P), NaN = padding: targets (B, P, N, 3) A."""

    states: StartStates
    lags_fs: torch.Tensor
    targets: torch.Tensor


@dataclass(frozen=True)
class Part:
    """The scored windows of one part, the same starts throughout.

    Attributes:
        windows: at the task's lags, turned. curve: at its further lags, None without such.
        stored_frame: `windows` before they were turned, the diagnostic of orientation; None where
            nothing is turned or scored.
    """

    name: str
    windows: Windows
    curve: Windows | None = None
    stored_frame: Windows | None = None


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
    """

    task: TaskSpec
    trajectories: tuple[Trajectory, ...]
    validation: tuple[Part, ...]
    relaxed_positions: dict[str, np.ndarray]
    hessians: dict[str, np.ndarray] = field(default_factory=dict)
    validation_blocks: tuple[Trajectory, ...] = ()

    @property
    def molecules(self) -> tuple[str, ...]:
        """The training molecules."""
        return tuple(dict.fromkeys(t.name for t in self.trajectories))


@dataclass(frozen=True)
class BenchmarkData:
    """One fold of one task on one data set.

    Attributes:
        blocks: the trajectories, or time blocks of them, that each part is scored on.
        whole: all trajectories, for what is known of molecules in evaluation. bonds: molecule ->
            pairs of atoms, of those whose graph is known.
    """

    task: TaskSpec
    fold: int
    training: TrainingData
    parts: dict[str, Part]
    blocks: dict[str, tuple[Trajectory, ...]]
    manifest_sha256: str
    split_sha256: str
    whole: tuple[Trajectory, ...] = ()
    bonds: Mapping[str, Pairs] = field(default_factory=dict)

    @cached_property
    def geometries(self) -> Geometries:
        """Ranges of bond lengths and angles; no model sees them."""
        return Geometries(self.whole, self.bonds)


def load_benchmark(
    task: TaskSpec,
    fold: int | None = None,
    folder: Path | None = None,
    split: str | Path | None = None,
) -> BenchmarkData:
    """Read a task's data and cut it into parts.

    Args:
        fold: 1 to 5; None where the task decides. folder: data, None for those that ship along.
        split: a frozen split by name or file, None for the task's own.

    Raises:
        UserError: no such fold, or not the task's; folder missing or empty; a file that cannot be
            read, is at another level of theory, or holds a molecule that is not in the split; a
            horizon that is longer than a block.
    """
    if task.protocol == Protocol.PUBLIC:
        fold = _fold_of(task, fold, None)
        if split is not None:
            raise UserError(f"task {task.id} has no split; leave --split out")
        return _public_data(task, folder)
    if task.protocol == Protocol.SPLIT and fold is not None and not 1 <= fold <= N_FOLDS:
        raise UserError(f"fold must be 1 to {N_FOLDS}, not {fold}")
    frozen = load_split(split or task.split)
    fold = _fold_of(task, fold, frozen)
    if task.protocol == Protocol.SINGLE:
        return molecule_data(task, fold, frozen, folder)
    try:
        data = load(_shipped(task) if folder is None else folder, level=task.level)
        trajectories = [data.trajectory(*key) for key in data.trajectories]
    except CorruptFile as error:
        raise UserError(str(error)) from error  # the data are the user's choice
    paths = [shard.path for shard in data.trajectories.values()]
    found = cut(trajectories, task, fold, frozen, manifest_sha256(paths))
    return replace(found, bonds=_bonds(data.molecules.values()))


def _fold_of(task: TaskSpec, fold: int | None, split: Split | None) -> int:
    """The fold that is run: the one asked for, or the task's own."""
    if not task.has_folds:
        if fold not in (None, NO_FOLD):
            raise UserError(f"task {task.id} has no folds; leave --fold out")
        return NO_FOLD
    if task.protocol == Protocol.ZERO_SHOT:
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
    data = load(_shipped(task) if folder is None else folder, level=task.level)
    if task.molecule not in data:
        raise UserError(f"{task.id}: no shard of {task.molecule} in {folder or 'the data'}")
    shard = data.replicas(task.molecule)[0]
    try:
        trajectory = read_trajectory(shard)
    except CorruptFile as error:
        raise UserError(str(error)) from error
    alone = Fold(
        index=fold, ood_clusters=(), train=(task.molecule,), val=(), test_id=(), test_ood=()
    )
    single = split.restrict([task.molecule]).model_copy(update={"folds": (alone,)})
    whole = cut([trajectory], task, fold, single, manifest_sha256([shard.path]))
    if not whole.training.validation:
        raise UserError(
            f"no window of {task.id} fits into val_time of {task.molecule}, a trajectory of "
            f"{trajectory.length_fs:g} fs; choose longer data"
        )
    bonds = _bonds([molecule_from_smiles(shard.metadata.smiles, task.molecule)])
    return replace(whole, split_sha256=split.sha256, bonds=bonds)


def _bonds(molecules: Iterable[Molecule]) -> dict[str, Pairs]:
    return {m.name: [(i, j) for i, j, _ in m.bonds] for m in molecules}


def _shipped(task: TaskSpec) -> Path:
    try:
        return shipped_folder(shipped_name(task))
    except UserError:
        reason = f"task {task.id} has no data that ships along; name its folder by --data"
        raise UserError(reason) from None


def shipped_name(task: TaskSpec) -> str:
    """Name that a task's data have where they ship along: mini-xtb of mini-xtb-zero-shot/furan."""
    family = task.id.partition("/")[0]
    return re.sub(r"-(v\d+|finetune|singletask|zero-shot)$", "", family)


def cut(
    trajectories: Sequence[Trajectory], task: TaskSpec, fold: int, split: Split, manifest: str
) -> BenchmarkData:
    """Divide trajectories into the parts of one fold of `split`.

    Raises:
        UserError: a molecule that is not in the split, or none of a part that the task needs; a
            horizon that is longer than a block.
    """
    names = {t.name for t in trajectories}
    unknown = sorted(names - set(split.clusters))
    if unknown:
        raise UserError(f"not in split {split.version}: {', '.join(unknown[:5])}")
    frames = {t.frame_fs for t in trajectories}
    if len(frames) > 1:
        raise UserError(f"shards are stored at different intervals: {sorted(frames)} fs")
    chosen = split.restrict(names)
    if task.inputs == "heavy":
        trajectories = [t.heavy_atoms() for t in trajectories]
    blocks = {
        name: tuple(cut_part(trajectories, chosen, fold, name)) for name in ("train", *SCORED_PARTS)
    }
    if not blocks["train"]:
        raise UserError(f"fold {fold} of split {split.version} has no training molecule here")
    if task.protocol == Protocol.ZERO_SHOT:
        blocks["test_time"] = blocks["test_id"] = ()
        blocks["test_ood"] = tuple(t for t in blocks["test_ood"] if t.name == task.molecule)
        if not blocks["test_ood"]:
            raise UserError(f"{task.id}: no trajectory of {task.molecule} in the data")
    scored = {name: members for name, members in blocks.items() if members and name != "train"}
    parts = {name: _part(name, members, task) for name, members in scored.items()}
    later = _later_times(cut_part(trajectories, chosen, fold, "val_time"), task)
    training = TrainingData(
        task=task,
        trajectories=blocks["train"],
        validation=(*([parts["val"]] if "val" in parts else []), *later),
        relaxed_positions={
            t.name: t.relaxed_positions for t in trajectories if t.relaxed_positions is not None
        },
        hessians={t.name: t.hessian for t in trajectories if t.hessian is not None},
        validation_blocks=(
            *blocks["val"], *cut_part(trajectories, chosen, fold, "val_time"),
        ),
    )  # fmt: skip
    if task.protocol == Protocol.ZERO_SHOT:
        # The molecules that choose the weights are no part of what is asked.
        parts.pop("val", None)
        scored.pop("val", None)
    return BenchmarkData(
        task, fold, training, parts, scored, manifest, split.sha256, tuple(trajectories)
    )


def _public_data(task: TaskSpec, folder: Path | None) -> BenchmarkData:
    found = read_public_task(task, folder)
    lags_fs, turn = task.lags_fs, not task.as_published

    def windows(part: str, turned: bool) -> Windows:
        starts = [(found.trajectory, int(start)) for start in found.starts[part]]
        return _windows(starts, lags_fs, task, turned)

    test = Part(
        "test_time", windows("test_time", turn), None, windows("test_time", False) if turn else None
    )
    training = TrainingData(task, found.blocks, (Part("val_time", windows("val_time", turn)),), {})
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
    starts = _starts(data.blocks[part], horizon_fs, part, data.task)
    return _windows(starts, lags_fs, data.task, not data.task.as_published)


def _later_times(blocks: Iterable[Trajectory], task: TaskSpec) -> list[Part]:
    """`val_time` at the lags of early stopping, left out where they are longer than a block."""
    lags_fs = task.validation_lags_fs or task.lags_fs
    members = [block for block in blocks if block.length_fs > lags_fs[-1]]
    if not members:
        return []
    starts = _starts(members, lags_fs[-1], "val_time", task)
    return [Part("val_time", _windows(starts, lags_fs, task, True))]


def _part(name: str, blocks: Sequence[Trajectory], task: TaskSpec) -> Part:
    starts = _starts(blocks, task.horizon_fs, name, task)
    curve = _windows(starts, task.curve_lags_fs, task, True) if task.curve_lags_fs else None
    return Part(
        name=name,
        windows=_windows(starts, task.lags_fs, task, True),
        curve=curve,
        stored_frame=_windows(starts, task.lags_fs, task, False),
    )


def _starts(
    blocks: Sequence[Trajectory], horizon_fs: float, part: str, task: TaskSpec
) -> list[tuple[Trajectory, int]]:
    return [
        (t, int(start)) for t in blocks for start in scored_starts(t, horizon_fs, part, task.starts)
    ]


def _windows(
    starts: Sequence[tuple[Trajectory, int]], lags_fs: Sequence[float], task: TaskSpec, turn: bool
) -> Windows:
    batch = collate(
        [
            cut_window(t, s, lags_fs, window_rotation(task.id, t.start_id(s)) if turn else None)
            for t, s in starts
        ]
    )
    return Windows(start_states(batch, task.score), batch.lags_fs, batch.targets)


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
