"""The single-task protocol on a molecule of MD17 or MD22, as the harness needs it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.tasks.tasks import TaskSpec
from tg80.errors import UserError
from tg80.exchange.md17 import read_public
from tg80.exchange.md17_sets import PUBLIC_SETS, recognise
from tg80.exchange.single_task import HORIZON_FRAMES, N_LAGS, SingleTaskStarts, single_task
from tg80.splits.split import time_blocks
from tg80.windows.trajectories import Trajectory


@dataclass(frozen=True)
class PublicTask:
    """One molecule of a public set, cut.

    Attributes:
        path: the file. trajectory: all of it that is used, with the protocol's velocities.
        blocks: one for each training window: its start and the frames of its lags, nothing else.
        starts: part -> frames of `trajectory`, of `val_time` and `test_time`.
        test_block: the frames that test windows lie in.
        sha256: of the starts of all parts.
    """

    path: Path
    trajectory: Trajectory
    blocks: tuple[Trajectory, ...]
    starts: Mapping[str, np.ndarray]
    test_block: Trajectory
    sha256: str


def read_public_task(task: TaskSpec, folder: Path | None) -> PublicTask:
    """Read the file of the task's molecule and cut it as the task says.

    Args:
        folder: the file itself, or the folder that holds it.

    Raises:
        UserError: no such file, or one that cannot be read or is too short.
    """
    assert task.molecule is not None
    set_id = task.id.partition("/")[0]
    path = _file(set_id, task.molecule, folder)
    data = read_public(path, set_id=set_id, molecule=task.molecule)
    protocol = "as-published" if task.as_published else "leak-free"
    heavy = task.inputs == "heavy"
    counts = {"train": task.train_windows or task.starts}
    counts |= {"val_time": task.starts, "test_time": task.starts}
    cut = single_task(data, protocol, heavy=heavy, n_starts=counts)
    starts = {part: np.sort(frames) for part, frames in cut.starts.items()}
    trajectory, length_fs = cut.trajectory, cut.trajectory.length_fs
    test_block = trajectory
    if not task.as_published:
        test_block = trajectory.block(*time_blocks(length_fs)["test_time"])
    return PublicTask(
        path=path,
        trajectory=trajectory,
        blocks=tuple(_training_window(trajectory, int(start)) for start in starts["train"]),
        starts={part: starts[part] for part in ("val_time", "test_time")},
        test_block=test_block,
        sha256=_starts_sha256(cut),
    )


def _file(set_id: str, molecule: str, folder: Path | None) -> Path:
    name = PUBLIC_SETS[set_id].molecule(molecule).file
    advice = f"`tg80 public {set_id}/{molecule} --fetch FOLDER` fetches {name}"
    if folder is None:
        raise UserError(f"{set_id}/{molecule} does not ship along: {advice}; then give --data")
    if not folder.is_dir():
        return folder
    found = []
    for path in sorted(folder.glob("*.npz")):
        known = recognise(path.stem, "sgdml")
        if known and (known[0].id, known[1].name) == (set_id, molecule):
            found.append(path)
    if len(found) != 1:
        reason = f"{len(found)} files of {molecule}, name one" if found else f"no {name}; {advice}"
        raise UserError(f"{folder}: {reason}")
    return found[0]


def _training_window(trajectory: Trajectory, start: int) -> Trajectory:
    """A block of the start and the frames of the lags, so far apart as the lags are.

    Frames between them are not among what the protocol trains on.
    """
    step = HORIZON_FRAMES // N_LAGS
    frames = slice(start, start + HORIZON_FRAMES + 1, step)
    return replace(
        trajectory,
        positions=trajectory.positions[frames],
        velocities=trajectory.velocities[frames],
        frame_fs=trajectory.frame_fs * step,
        first_frame=trajectory.first_frame + start,
    )


def _starts_sha256(cut: SingleTaskStarts) -> str:
    """What stands in records for a split: the starts of every part."""
    digest = hashlib.sha256(cut.protocol.encode())
    for part in sorted(cut.starts):
        digest.update(part.encode() + cut.starts[part].astype("<i8").tobytes())
    return digest.hexdigest()
