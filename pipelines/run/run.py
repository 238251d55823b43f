"""A whole run: open the folder, work through all molecules, say what came of it."""

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from distributed import Client

from pipelines.dynamics.parts import WORK, work_folder
from pipelines.engines.engine import Resources
from pipelines.recipe import Recipe
from pipelines.run.cluster.workers import Order
from pipelines.run.folder import LEFT_OUT, begin_session, is_run, locked, open_run, read_run
from pipelines.run.progress import RunProgress
from pipelines.run.resume import Resumption
from pipelines.run.schedule import Schedule
from pipelines.run.task import Ticket, installed_versions
from pipelines.trajectory import Trajectory
from tg80.chemistry.lists import MoleculeList
from tg80.console import Table
from tg80.files import check_inside, make_folder
from tg80.shards.shard import Shard
from tg80.theory import Level
from tg80.untrusted.tables import Console

STOPPED = 130


class Place(Protocol):
    """Where the workers are; see `pipelines.run.cluster.workers`."""

    def check(self, level: Level, device: str) -> None:
        """Refuse a run that can't succeed here, before anything is written for it."""
        ...

    def open(self, order: Order) -> AbstractContextManager[Client]: ...

    def tend(self, n_tasks: int) -> None: ...


class TrajectoryEnd(NamedTuple):
    """How one trajectory ended, or where it stands."""

    name: str
    replica: int
    stage: str
    frames: int
    length_fs: float
    failure: str | None


@dataclass(frozen=True)
class Summary:
    """How a run ended.

    Attributes:
        folder: output folder.
        rows: one a trajectory.
        stopped: whether it ended before its work was done, by Ctrl-C or `--stop-after`.
        on_time: whether that was `--stop-after`.
        warnings: lines about damaged files that were set aside.
        left_out: rows of the list that were not used: line, text, reason.
    """

    folder: Path
    rows: list[TrajectoryEnd]
    stopped: bool
    on_time: bool
    warnings: list[str]
    left_out: list[dict[str, Any]]

    @property
    def exit_code(self) -> int:
        """0 if none failed, 1 if one did, 130 if Ctrl-C interrupted the run."""
        if any(row.failure for row in self.rows):
            return 1
        return STOPPED if self.stopped and not self.on_time else 0

    def as_dict(self) -> dict[str, Any]:
        """The summary for `--json`."""
        return {
            "folder": str(self.folder),
            "stopped": self.stopped,
            "trajectories": [row._asdict() for row in self.rows],
            "warnings": self.warnings,
            "left_out": self.left_out,
        }

    def show(self, console: Console) -> None:
        """Print the summary for people."""
        rows = []
        for row in self.rows:
            name, end = f"{row.name}-r{row.replica}", row.failure or row.stage
            rows.append((name, end, str(row.frames), f"{row.length_fs:g}"))
        Table("", ("trajectory", "end", "frames", "fs"), rows).print(console)
        if self.left_out:
            n = len(self.left_out)
            path = self.folder / LEFT_OUT
            console.print(f"{n} bad row{'s' * (n > 1)} left out, see {path}", highlight=False)
        for warning in self.warnings:
            console.print(f"warning: {warning}", highlight=False)
        for row in self.rows:
            if row.failure:
                console.print(f"failed: {row.failure}", highlight=False, soft_wrap=True)
        if self.stopped:
            console.print("stopped; run the same command again to resume")


def run_generation(
    folder: Path,
    recipe: Recipe,
    listed: MoleculeList,
    n_replicas: int,
    place: Place,
    console: Console,
    resources: Resources | None = None,
    stop_after_s: float | None = None,
) -> Summary:
    """Make the trajectories of all molecules, resuming unfinished ones.

    Args:
        folder: output folder.
        recipe: settings.
        listed: compounds, in the order they are to be done.
        n_replicas: trajectories a compound.
        place: where the workers are.
        console: where progress is shown.
        resources: what each evaluation may use.
        stop_after_s: wall time after which no segment begins; None for no limit.

    Raises:
        UserError: the folder belongs to another run, another process works in it, or what is to
            compute is not there; nothing has been written then.
        Tg80Error: no scheduler answers (nothing has been written), or something stopped the run
            for all molecules, such as a full disk or a lost scheduler.
    """
    stop_at = None if stop_after_s is None else time.monotonic() + stop_after_s
    resources = resources or Resources()
    resources.check()
    level = recipe.resolved_level()
    molecules = listed.molecules
    for molecule in molecules:
        level.check_molecule(molecule.atomic_numbers, molecule.charge)
    if not is_run(folder):  # one that is there may be done, and need no worker any more
        place.check(level, resources.device)
    make_folder(folder, "--out")
    for below in (folder / WORK, *(folder / WORK).glob("*")):
        check_inside(below)
    with locked(folder), RunProgress(console) as progress:
        for line in open_run(folder, recipe, listed):
            progress.say(line)
        ticket = Ticket(begin_session(folder, n_replicas, listed), installed_versions())
        resumption = Resumption(folder, recipe, molecules, n_replicas, resources, ticket)
        lanes = resumption.lanes
        schedule = Schedule(
            resumption.tasks(),
            lambda schedule: progress.update(lanes, schedule.n_slots, schedule.stopping),
            progress.say,
            stop_at,
        )
        if schedule.n_unfinished:
            n_tasks = len(lanes)
            order = Order(folder, ticket, n_tasks, level, molecules, resources.device, progress.say)
            with place.open(order) as client:
                schedule.run(client, place.tend)
    rows = [
        TrajectoryEnd(
            lane.molecule.name,
            lane.replica,
            lane.stage.name,
            lane.n_frames,
            lane.stage.time_fs if lane.n_frames else 0.0,
            lane.failure,
        )
        for lane in lanes
    ]
    warnings = [warning for lane in lanes for warning in lane.warnings]
    return Summary(
        folder,
        rows,
        schedule.stopping,
        schedule.stopped_on_time,
        warnings,
        listed.left_out_records(),
    )


def collect_run(folder: Path) -> list[tuple[Path, float]]:
    """Write shards from the committed parts of all unfinished trajectories.

    Returns:
        Path and length (fs) of each shard written.

    Raises:
        UserError: no run in this folder, or one is going on there.
        CorruptFile: a part is damaged; the message names it.
    """
    recipe, molecules = read_run(folder)
    written = []
    with locked(folder):
        for molecule in molecules:
            for work in sorted(work_folder(folder, molecule.name).glob("r[0-9]*")):
                trajectory = Trajectory(folder, molecule, recipe, int(work.name[1:]))
                if trajectory.write_shard(trajectory.shard_path, end="collected before its end"):
                    with Shard(trajectory.shard_path) as shard:
                        written.append((trajectory.shard_path, shard.metadata.length_fs))
    return written
