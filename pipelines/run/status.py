"""The progress of a run, read from its folder alone: nothing is written, nothing is waited for.

This works for a run in progress, on another machine too, and for one that was killed.
"""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from pipelines.assembly import verified_metadata
from pipelines.dynamics.checkpoint import read_arrays
from pipelines.dynamics.parts import read_part, work_folder
from pipelines.recipe import Recipe
from pipelines.run.folder import failure_path, is_locked, read_left_out, read_run, read_session
from pipelines.run.progress import Left, worker_seconds_left
from pipelines.trajectory import COMPLETE, is_shorter
from tg80.chemistry.molecule import Molecule
from tg80.errors import CorruptFile
from tg80.files import checksum_path
from tg80.shards.shard import Shard

# A trajectory whose last commit is older than this many of its segments is not being worked on.
_ACTIVE_SEGMENTS = 4.0
_AT_THE_LEVEL = ("equilibration", "production")
_VERDICTS = ("ok", "warning", "error")


@dataclass
class TrajectoryStatus:
    """The progress of one trajectory.

    Attributes:
        name, replica: which one.
        n_atoms: atoms.
        stage: `waiting`, `geometry`, `pre-equilibration`, `equilibration`, `production`, `done`.
        stage_fs, stage_length_fs: how far the stage is, and its length.
        done_fs, length_fs: production committed, and asked for.
        n_frames: frames of it.
        last_commit: when something was committed last, UTC in ISO format; None for never.
        failure: why it ended early or could not go on when last tried.
        damaged: files that are not what their checksums say, or are missing.
        quality: `ok`, `warning` or `error` for a finished one, with the checks that say so.
        segment_s: median wall time between commits of the current stage; None if not known.
        segment_fs: simulated time between them.
    """

    name: str
    replica: int
    n_atoms: int
    length_fs: float
    stage: str = "waiting"
    stage_fs: float = 0.0
    stage_length_fs: float = 0.0
    done_fs: float = 0.0
    n_frames: int = 0
    last_commit: str | None = None
    failure: str | None = None
    damaged: list[str] = field(default_factory=list)
    quality: str | None = None
    quality_checks: list[str] = field(default_factory=list)
    segment_s: float | None = None
    segment_fs: float | None = None


@dataclass(frozen=True)
class RunStatus:
    """The progress of a run.

    Attributes:
        folder: its folder.
        level: level of theory.
        running: whether a run holds the folder's lock; None if the file system does not say.
        session: host, process and start of the last run.
        trajectories: one record each.
        seconds_left: wall time left at the pace of what is being worked on now; None if not known.
        worker_seconds_left: the same for one worker.
        left_out: rows of the molecule lists that were left out: list, line, text, reason.
    """

    folder: str
    level: str
    running: bool | None
    session: dict[str, Any]
    trajectories: list[TrajectoryStatus]
    seconds_left: float | None
    worker_seconds_left: float | None
    left_out: list[dict[str, str]]

    @property
    def totals(self) -> dict[str, Any]:
        """Sums over all trajectories."""
        lanes = self.trajectories
        stages = [lane.stage for lane in lanes if lane.failure is None]
        verdicts = Counter(lane.quality for lane in lanes)
        return {
            "trajectories": len(lanes),
            "done": stages.count("done"),
            "under_way": sum(stage not in ("done", "waiting") for stage in stages),
            "waiting": stages.count("waiting"),
            "failed": len(lanes) - len(stages),
            "damaged_files": sum(len(lane.damaged) for lane in lanes),
            **{f"quality_{verdict}": verdicts[verdict] for verdict in _VERDICTS},
            "n_frames": sum(lane.n_frames for lane in lanes),
            "done_fs": sum(lane.done_fs for lane in lanes),
            "length_fs": sum(lane.length_fs for lane in lanes),
        }

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self) | {"totals": self.totals}


def run_status(folder: Path, verify: bool = False) -> RunStatus:
    """The progress of the run in this folder.

    Args:
        folder: output folder of a run.
        verify: compare the checksums of parts and shards as well; checkpoints are always checked.

    Raises:
        UserError: no run in this folder.
        CorruptFile: its list of molecules or its recipe is damaged.
    """
    recipe, molecules = read_run(folder)
    session = read_session(folder)
    lanes = [
        _trajectory_status(folder, recipe, molecule, replica, verify)
        for molecule in molecules
        for replica in range(_n_replicas(folder, molecule.name, session))
    ]
    running = is_locked(folder)
    worker_seconds = worker_seconds_left([_left(lane, recipe) for lane in lanes])
    active = sum(map(_is_active, lanes)) if running is not False else 0
    return RunStatus(
        folder=str(folder),
        level=recipe.resolved_level().name,
        running=running,
        session=session,
        trajectories=lanes,
        seconds_left=worker_seconds / active if active and worker_seconds is not None else None,
        worker_seconds_left=worker_seconds,
        left_out=read_left_out(folder),
    )


def _n_replicas(folder: Path, name: str, session: dict[str, Any]) -> int:
    """What the last run asked for, or what is there if that is more."""
    stated = session.get("n_replicas")
    names = [path.stem for path in folder.glob(f"{name}-r*.h5md")]
    names += [path.name.split(".")[0] for path in work_folder(folder, name).glob("*r[0-9]*")]
    numbers = [int(text) for each in names if (text := each.rpartition("r")[2]).isdigit()]
    return max([*numbers, stated - 1 if isinstance(stated, int) else 0]) + 1


def _trajectory_status(
    folder: Path, recipe: Recipe, molecule: Molecule, replica: int, verify: bool
) -> TrajectoryStatus:
    name, work = molecule.name, work_folder(folder, molecule.name)
    recipe = recipe.of_replica(replica)
    lane = TrajectoryStatus(name, replica, molecule.n_atoms, recipe.length_fs)
    shard = folder / f"{name}-r{replica}.h5md"
    if shard.exists() and not (work / f"r{replica}").exists():
        _finished(lane, shard, verify)
    note = failure_path(folder, name, replica)
    if lane.stage != "done" and note.exists():
        lane.failure = note.read_text(errors="replace").strip()
    if lane.stage != "waiting":
        return lane
    if (work / "geometry.npz").exists():
        lane.stage = "geometry"
        lane.last_commit = _commit_time(work / "geometry.npz")
    nvt = ("equilibration", recipe.equilibration_fs)
    if replica:
        nvt = (f"equilibration-r{replica}", recipe.replica_spacing_fs)
    step_fs, cheap_fs = recipe.time_step_fs, recipe.verlet_step_fs
    for stage, (subfolder, length_fs), of_step_fs in (
        ("pre-equilibration", ("pre-equilibration", recipe.pre_equilibration_fs), cheap_fs),
        ("equilibration", nvt, step_fs),
        ("production", (f"r{replica}", recipe.length_fs), step_fs),
    ):
        _stage(lane, stage, work / subfolder, length_fs, of_step_fs, verify)
    if lane.stage == "production":
        lane.done_fs = lane.stage_fs
        lane.n_frames = int(lane.done_fs / recipe.store_every_fs + 1e-9) + 1
    return lane


def _finished(lane: TrajectoryStatus, shard: Path, verify: bool) -> None:
    lane.stage = "done"
    lane.last_commit = _commit_time(shard)
    try:
        if not checksum_path(shard).exists():
            raise CorruptFile(f"{shard}: its checksum file is missing")
        if verify:
            verified_metadata(shard)
        with Shard(shard) as opened:
            metadata = opened.metadata
    except CorruptFile as error:
        lane.damaged.append(str(error))
        return
    lane.stage_fs = lane.done_fs = metadata.length_fs
    if is_shorter(metadata, lane.length_fs):
        lane.stage = "production"  # of a run that was made longer
    lane.stage_length_fs = lane.length_fs
    lane.n_frames = metadata.n_frames
    lane.failure = None if metadata.end == COMPLETE else metadata.end
    verdicts = {
        check: facts["verdict"]
        for check, facts in metadata.statistics.items()
        if isinstance(facts, dict) and facts.get("verdict") in _VERDICTS
    }
    if verdicts:
        lane.quality = max(verdicts.values(), key=_VERDICTS.index)
        lane.quality_checks = sorted(check for check, said in verdicts.items() if said != "ok")


def _stage(
    lane: TrajectoryStatus, stage: str, folder: Path, length_fs: float, step_fs: float, verify: bool
) -> None:
    """Add the contents of the folder of one stage, if it has begun."""
    if length_fs <= 0 or not folder.is_dir():
        return
    lane.damaged += [f"{path}: was set aside" for path in sorted(folder.glob("*.corrupt"))]
    newest = None
    for path, found in _checkpoints(folder):
        if not isinstance(found, CorruptFile):
            newest = (path, found)
            break
        lane.damaged.append(str(found))
    if newest is None:
        return
    path, header = newest
    lane.last_commit = _commit_time(path)
    lane.stage, lane.stage_length_fs = stage, length_fs
    lane.stage_fs = header["step"] * step_fs
    times = []
    for name, digest in header["parts"]:
        path = folder / name
        try:
            times.append(path.stat().st_mtime)
            if verify:
                read_part(path, digest)
        except FileNotFoundError:
            if folder.is_dir():  # else it was assembled while we looked
                lane.damaged.append(f"{path}: part file is missing")
        except CorruptFile as error:
            lane.damaged.append(str(error))
    lane.segment_s = lane.segment_fs = None
    if len(times) >= 2:
        lane.segment_s = median(later - earlier for earlier, later in pairwise(times))
        lane.segment_fs = lane.stage_fs / (header["segment"] + 1)


def _checkpoints(folder: Path) -> Iterator[tuple[Path, dict[str, Any] | CorruptFile]]:
    """Headers of the checkpoints, newest first; an error in place of a damaged one."""
    for _ in range(3):  # a running worker may take away the ones that were listed
        paths = sorted(folder.glob("checkpoint-*.npz"), reverse=True)
        gone = 0
        for path in paths:
            try:
                yield path, read_arrays(path)[1]
            except FileNotFoundError:
                gone += 1
            except CorruptFile as error:
                yield path, error
        if gone < len(paths) or not paths:
            return


def _commit_time(path: Path) -> str | None:
    try:
        seconds = path.stat().st_mtime
    except OSError:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _is_active(lane: TrajectoryStatus) -> bool:
    if lane.stage in ("done", "waiting") or lane.last_commit is None:
        return False
    age = time.time() - datetime.fromisoformat(lane.last_commit).timestamp()
    return age < _ACTIVE_SEGMENTS * max(lane.segment_s or 0.0, 60.0)


def _left(lane: TrajectoryStatus, recipe: Recipe) -> Left:
    """What a trajectory still needs at the level, by the times between its commits there."""
    pace = None
    if lane.segment_s is not None and lane.segment_fs and lane.stage in _AT_THE_LEVEL:
        pace = lane.segment_s / lane.segment_fs
    left_fs = lane.length_fs - lane.done_fs
    if lane.stage == "done" or lane.failure:
        left_fs = 0.0
    elif lane.stage != "production":
        left_fs += recipe.replica_spacing_fs if lane.replica else recipe.equilibration_fs
        left_fs -= lane.stage_fs if lane.stage == "equilibration" else 0.0
    return Left(left_fs, pace, lane.n_atoms)
