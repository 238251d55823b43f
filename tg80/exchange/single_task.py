"""The single-task protocol on a public set: one molecule, heavy atoms, 8 lags to 3000 frames.

Two forms. `as-published` is what the published figures were made with, faults included: starts
drawn at random, so that test windows overlap training windows in time; velocities from the frame
after the start, which is the future; every molecule in the orientation in which it is stored.
`leak-free` takes starts from disjoint blocks of time, velocities from the frame before the start,
and turns every window. Figures of the two are never to be compared.

References:
    EGNO: arXiv:2401.11037. The published draw is that of the public ATOM code, which follows EGNO:
    np.random.seed(100), 10, 5 and 5 % of the frames, of which the first 500, 2000, 2000 are used.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tg80.errors import UserError
from tg80.exchange.md17 import PublicData
from tg80.exchange.md17_sets import PUBLIC_SETS
from tg80.splits.split import TIME_BLOCK_FRACTIONS, time_blocks
from tg80.windows.trajectories import Trajectory, block_frames

Protocol = Literal["as-published", "leak-free"]
PROTOCOLS: tuple[Protocol, ...] = ("as-published", "leak-free")
HORIZON_FRAMES = 3000
N_LAGS = 8
N_STARTS: dict[str, int] = {"train": 500, "val_time": 2000, "test_time": 2000}
PUBLISHED_SEED = 100
_PUBLISHED_SHARES = {"train": 0.1, "val_time": 0.05, "test_time": 0.05}


@dataclass(frozen=True)
class SingleTaskStarts:
    """A molecule's trajectory, and the frames at which its windows start.

    Attributes:
        protocol: as-published or leak-free.
        trajectory: the whole stretch that is used, with the protocol's velocities.
        lags_fs: (n_lags,) fs, whole frames of the trajectory.
        starts: part -> frames of `trajectory`; train, val_time, test_time. As published these are
            random draws from all of it; leak-free they lie with their windows in a time block each.
        velocities: how the velocities were made.
        random_rotations: whether each window is to be turned by a rotation of its own.
        remarks: what a table with results must say beside them.
    """

    protocol: Protocol
    trajectory: Trajectory
    lags_fs: np.ndarray
    starts: dict[str, np.ndarray]
    velocities: str
    random_rotations: bool
    remarks: tuple[str, ...]


def single_task(
    data: PublicData,
    protocol: Protocol,
    *,
    heavy: bool = True,
    horizon_frames: int = HORIZON_FRAMES,
    n_lags: int = N_LAGS,
    n_starts: Mapping[str, int] = N_STARTS,
    seed: int = PUBLISHED_SEED,
) -> SingleTaskStarts:
    """Trajectory and starts of one molecule.

    Args:
        data: from `read_public`.
        protocol: one of `PROTOCOLS`.
        heavy: leave the hydrogens out, as published results do.
        horizon_frames: the longest lag, a multiple of `n_lags`. n_starts: of each part.
        seed: of the published draw; leak-free starts are not drawn but evenly spread.

    Raises:
        UserError: no such protocol; too few consecutive frames; as-published on rMD17.
    """
    if protocol not in PROTOCOLS:
        raise UserError(f"no protocol {protocol!r}; protocols are {', '.join(PROTOCOLS)}")
    if n_lags < 1 or horizon_frames < n_lags or horizon_frames % n_lags:
        raise UserError(f"a horizon of {horizon_frames} frames has no {n_lags} uniform lags")
    make = _as_published if protocol == "as-published" else _leak_free
    trajectory, starts, remarks = make(data, horizon_frames, dict(n_starts), seed)
    lags = np.arange(1, n_lags + 1) * (horizon_frames // n_lags)
    published = protocol == "as-published"
    return SingleTaskStarts(
        protocol=protocol,
        trajectory=trajectory.heavy_atoms() if heavy else trajectory,
        lags_fs=lags * data.frame_fs,
        starts=starts,
        velocities="(x[t+1] - x[t]) / dt" if published else "(x[t] - x[t-1]) / dt",
        random_rotations=not published,
        remarks=remarks,
    )


_Made = tuple[Trajectory, dict[str, np.ndarray], tuple[str, ...]]


def _as_published(data: PublicData, horizon: int, n_starts: dict[str, int], seed: int) -> _Made:
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
        raise _too_short(data, data.n_frames, least, "as-published", horizon, n_starts)
    # The legacy generator, because it is the one whose draws were published.
    random = np.random.RandomState(seed)
    free = np.ones(stop - first, dtype=bool)
    starts = {}
    for part, count in n_starts.items():
        chosen = random.choice(np.flatnonzero(free), size=drawn[part], replace=False)
        free[chosen] = False
        starts[part] = chosen[:count] + first
    positions = data.positions
    velocities = np.diff(positions, axis=0) / data.frame_fs
    remarks = [
        "as published: starts at random, test windows overlap training windows in time",
        "as published: velocities from the frame after the start",
        "as published: stored orientation",
    ]
    if not margin:
        remarks.append("no published margin is known for this set: none is left out at the ends")
    if data.longest_stretch != (0, data.n_frames):
        remarks.append(f"the frames are not consecutive: {len(data.stretches)} stretches")
    return _trajectory(data, positions[:-1], velocities, 0), starts, tuple(remarks)


def _leak_free(data: PublicData, horizon: int, n_starts: dict[str, int], _seed: int) -> _Made:
    first, stop = data.longest_stretch
    positions = data.positions[first:stop]
    velocities = np.diff(positions, axis=0) / data.frame_fs
    trajectory = _trajectory(data, positions[1:], velocities, first + 1)
    starts = {}
    blocks = time_blocks(trajectory.length_fs) if trajectory.n_frames > 1 else {}
    for part, count in n_starts.items():
        begin, end = block_frames(*blocks[part], data.frame_fs) if blocks else (0, 0)
        slack = end - begin - 1 - horizon
        if slack + 1 < count:
            least = _least_frames(horizon, n_starts)
            raise _too_short(data, stop - first, least, "leak-free", horizon, n_starts)
        starts[part] = begin + np.arange(count) * slack // max(count - 1, 1)
    remarks = []
    if (first, stop) != (0, data.n_frames):
        remarks.append(
            f"frames {first} to {stop - 1} of {data.n_frames}: the longest stretch of consecutive "
            "ones"
        )
    return trajectory, starts, tuple(remarks)


def _least_frames(horizon: int, n_starts: Mapping[str, int]) -> int:
    """So many consecutive frames are enough for the leak-free form, give or take a few."""
    shares = {part: end - begin for part, (begin, end) in TIME_BLOCK_FRACTIONS.items()}
    return 2 + max(int(np.ceil((horizon + n) / shares[part])) for part, n in n_starts.items())


def _too_short(
    data: PublicData, n_frames: int, least: int, protocol: Protocol, horizon: int, n_starts
) -> UserError:
    counts = "/".join(str(count) for count in n_starts.values())
    found = f"{n_frames} consecutive frames" if protocol == "leak-free" else f"{n_frames} frames"
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
