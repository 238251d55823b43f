"""One molecule of MD17 or MD22: the single-task protocol, as published and leak-free.

As published is what the published figures were made with, faults included: starts drawn at random,
so that test windows overlap training windows in time; velocities from the frame after the start,
which is the future; every molecule in the orientation in which it is stored. The leak-free form
takes starts from disjoint blocks of time and velocities from the frame before the start, and turns
every window. Figures of the two are never to be compared.

References:
    EGNO: arXiv:2401.11037. The published draw is that of the public ATOM code, which follows EGNO:
    np.random.seed(100), 10, 5 and 5 % of the frames, of which the first 500, 2000, 2000 are used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.tasks.tasks import HORIZON_FRAMES, N_LAGS, N_STARTS, TaskSpec
from tg80.errors import UserError
from tg80.exchange.md17 import PublicData, read_public
from tg80.exchange.md17_sets import PUBLIC_SETS, recognise
from tg80.splits.split import TIME_BLOCK_FRACTIONS, time_blocks
from tg80.windows.trajectories import Trajectory, block_frames

PUBLISHED_SEED = 100
_PUBLISHED_SHARES = {"train": 0.1, "val_time": 0.05, "test_time": 0.05}


@dataclass(frozen=True)
class PublicTask:
    """One molecule of a public set, cut.

    Attributes:
        path: the file.
        trajectory: all of it that is used, with the velocities of the protocol.
        blocks: one for each training window: its start and the frames of its lags, nothing else.
        starts: part -> frames of `trajectory`, of `val_time` and `test_time`.
        test_block: the frames that test windows lie in.
        sha256: of the starts of all parts, for records in place of that of a split.
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
        task: one of the public kind.
        folder: the file itself, or the folder that holds it.

    Raises:
        UserError: There is no such file, or it cannot be read or is too short.
    """
    assert task.molecule is not None
    set_id = task.id.partition("/")[0]
    path = _file(set_id, task.molecule, folder)
    data = read_public(path, set_id=set_id, molecule=task.molecule)
    counts = {"train": task.train_windows or task.starts}
    counts |= {"val_time": task.starts, "test_time": task.starts}
    make = as_published if task.as_published else leak_free
    trajectory, drawn = make(data, counts)
    if task.inputs == "heavy":
        trajectory = trajectory.heavy_atoms()
    starts = {part: np.sort(frames) for part, frames in drawn.items()}
    test_block = trajectory
    if not task.as_published:
        test_block = trajectory.block(*time_blocks(trajectory.length_fs)["test_time"])
    digest = hashlib.sha256(b"as-published" if task.as_published else b"leak-free")
    for part in sorted(drawn):
        digest.update(part.encode() + drawn[part].astype("<i8").tobytes())
    return PublicTask(
        path=path,
        trajectory=trajectory,
        blocks=tuple(_training_window(trajectory, int(start)) for start in starts["train"]),
        starts={part: starts[part] for part in ("val_time", "test_time")},
        test_block=test_block,
        sha256=digest.hexdigest(),
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


class Starts(NamedTuple):
    """A molecule's trajectory with its velocities, and the frames where windows start, by part."""

    trajectory: Trajectory
    frames: dict[str, np.ndarray]


def as_published(
    data: PublicData, n_starts: Mapping[str, int] = N_STARTS, horizon: int = HORIZON_FRAMES
) -> Starts:
    """Draw starts at random from the whole run, and take velocities from the frame after each.

    Args:
        data: the file.
        n_starts: number of windows of each part.
        horizon: the longest lag, in frames.

    Raises:
        UserError: There are too few frames, or the file is one of rMD17.
    """
    if data.set_id == "rmd17":
        raise UserError(
            f"{data.path}: published runs took the file order of rMD17 for time, so their "
            "velocities and targets mean nothing; use md17, or leak-free"
        )
    known = PUBLIC_SETS.get(data.set_id)
    margin = known.margin_frames if known else 0
    n_frames = data.n_frames - 1  # the last one has no frame after it
    # Their last start has its last target on the frame before the margin, or on the last frame.
    first, stop = margin, min(n_frames - margin - horizon + 1, n_frames - horizon)
    shares = {part: int(share * max(stop - first, 0)) for part, share in _PUBLISHED_SHARES.items()}
    drawn = {part: max(shares[part], n_starts[part]) for part in n_starts}
    if stop - first < sum(drawn.values()):
        least = sum(n_starts.values()) + 2 * margin + horizon + 1
        raise _too_short(data, f"{data.n_frames} frames", "as-published", horizon, n_starts, least)
    # The legacy generator, because it is the one whose draws were published.
    random = np.random.RandomState(PUBLISHED_SEED)
    free = np.ones(stop - first, dtype=bool)
    frames = {}
    for part, count in n_starts.items():
        chosen = random.choice(np.flatnonzero(free), size=drawn[part], replace=False)
        free[chosen] = False
        frames[part] = chosen[:count] + first
    velocities = np.diff(data.positions, axis=0) / data.frame_fs
    return Starts(_trajectory(data, data.positions[:-1], velocities, 0), frames)


def leak_free(
    data: PublicData, n_starts: Mapping[str, int] = N_STARTS, horizon: int = HORIZON_FRAMES
) -> Starts:
    """Spread starts over disjoint blocks of time, and take velocities from the frame before each.

    The longest segment of consecutive frames is used.

    Args:
        data: the file.
        n_starts: number of windows of each part.
        horizon: the longest lag, in frames.

    Raises:
        UserError: There are too few consecutive frames.
    """
    first, stop = data.longest_segment
    positions = data.positions[first:stop]
    velocities = np.diff(positions, axis=0) / data.frame_fs
    trajectory = _trajectory(data, positions[1:], velocities, first + 1)
    blocks = time_blocks(trajectory.length_fs) if trajectory.n_frames > 1 else {}
    frames = {}
    for part, count in n_starts.items():
        begin, end = block_frames(*blocks[part], data.frame_fs) if blocks else (0, 0)
        slack = end - begin - 1 - horizon
        if slack + 1 < count:
            shares = {part: end - begin for part, (begin, end) in TIME_BLOCK_FRACTIONS.items()}
            needed = (int(np.ceil((horizon + n) / shares[part])) for part, n in n_starts.items())
            found = f"{stop - first} consecutive frames"
            raise _too_short(data, found, "leak-free", horizon, n_starts, 2 + max(needed))
        frames[part] = begin + np.arange(count) * slack // max(count - 1, 1)
    return Starts(trajectory, frames)


def _too_short(
    data: PublicData,
    found: str,
    protocol: str,
    horizon: int,
    n_starts: Mapping[str, int],
    least: int,
) -> UserError:
    counts = "/".join(str(count) for count in n_starts.values())
    return UserError(
        f"{data.path}: {found} are too few for the {protocol} single-task protocol "
        f"({horizon} frames horizon, {counts} starts); it takes about {least}"
    )


def _trajectory(
    data: PublicData, positions: np.ndarray, velocities: np.ndarray, first_frame: int
) -> Trajectory:
    return Trajectory(
        name=data.molecule,
        replica=0,
        positions=positions.astype("f4"),
        velocities=velocities.astype("f4"),
        atomic_numbers=data.atomic_numbers,
        relaxed_positions=None,
        frame_fs=data.frame_fs,
        first_frame=first_frame,
    )
