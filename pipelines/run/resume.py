"""Resumes a run: tells from the disk what each trajectory still needs, and what follows each piece.

A molecule is prepared before its replicas are produced; the production of one replica and the NVT
before the next go side by side.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pipelines.engines.engine import Resources
from pipelines.recipe import Recipe
from pipelines.run.folder import failure_path
from pipelines.run.task import Report, Task, Ticket, do_piece
from pipelines.trajectory import StageReport, Trajectory
from tg80.chemistry.molecule import Molecule
from tg80.errors import CorruptFile
from tg80.files import write_atomically


@dataclass
class Lane:
    """One trajectory on its way.

    Attributes:
        molecule, replica: which trajectory.
        recipe: its settings.
        order: place of its molecule in the list.
        stage: the last thing done.
        done_fs: simulated time done in this session, per stage name.
        busy_s: worker seconds in this session, per stage name.
        failure: why it ended early, or None.
        warnings: lines about damaged files that were set aside.
    """

    molecule: Molecule
    replica: int
    recipe: Recipe
    order: int
    stage: StageReport
    done_fs: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    busy_s: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    failure: str | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """`NAME-rK`."""
        return f"{self.molecule.name}-r{self.replica}"

    @property
    def n_frames(self) -> int:
        """Committed frames of the production."""
        if self.stage.name not in ("production", "done"):
            return 0
        return int(self.stage.time_fs / self.recipe.store_every_fs + 1e-9) + 1


class Resumption:
    """All trajectories of a run, and which piece of each comes next.

    Args:
        folder: output folder.
        recipe: settings.
        molecules: compounds, in the order they are to be done.
        n_replicas: trajectories a compound.
        resources: what each task may use.
        ticket: goes with each task.
    """

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        molecules: list[Molecule],
        n_replicas: int,
        resources: Resources,
        ticket: Ticket,
    ):
        self.folder = folder
        self.recipe = recipe
        self.resources = resources
        self.ticket = ticket
        recipes = [recipe.of_replica(replica) for replica in range(n_replicas)]
        self.lanes = [
            Lane(molecule, replica, own, order, StageReport("waiting", replica, 0.0, own.length_fs))
            for order, molecule in enumerate(molecules)
            for replica, own in enumerate(recipes)
        ]

    def tasks(self) -> list[Task]:
        """Tell from the disk what is done already; the tasks to begin with."""
        first = [lane for lane in self.lanes if lane.replica == 0]
        return [task for lane in first for task in self._resume(lane)]

    def _resume(self, lane: Lane) -> list[Task]:
        """A trajectory that is done is checked; if long enough, the next replica follows."""
        trajectory = Trajectory(self.folder, lane.molecule, self.recipe, lane.replica)
        if not trajectory.is_done():
            return [self._task(lane, prepare=True)]
        try:
            lane.stage = trajectory.finished_stage()
        except CorruptFile as error:
            lane.failure = str(error)
        if lane.stage.name == "production":
            return [self._task(lane, prepare=True)]
        return self._resume_next_replica(lane)

    def _resume_next_replica(self, lane: Lane) -> list[Task]:
        return [task for later in self._later_replicas(lane)[:1] for task in self._resume(later)]

    def _later_replicas(self, lane: Lane) -> list[Lane]:
        return [
            other
            for other in self.lanes
            if other.order == lane.order and other.replica > lane.replica
        ]

    def _task(self, lane: Lane, prepare: bool) -> Task:
        folder = str(self.folder.resolve())
        about = (lane.molecule, self.recipe, lane.replica, prepare, self.resources, self.ticket)
        return Task(
            lane.name,
            order=(lane.order, lane.replica),
            call=(do_piece, folder, *about),
            on_report=partial(self._advanced, lane, prepare),
            on_failure=partial(self._failed, lane, prepare),
        )

    def _advanced(self, lane: Lane, prepare: bool, report: Report) -> list[Task]:
        stage = report.stage
        lane.done_fs[stage.name] += stage.worked_fs
        lane.busy_s[stage.name] += report.seconds
        lane.warnings += [line for line in stage.warnings if line not in lane.warnings]
        lane.stage, lane.failure = stage, stage.failure
        if stage.name == "prepared":
            return [self._task(lane, prepare=False), *self._resume_next_replica(lane)]
        return [] if stage.name == "done" else [self._task(lane, prepare)]

    def _failed(self, lane: Lane, prepare: bool, reason: str) -> None:
        """Replicas that start from what could not be prepared have failed, too."""
        for each in [lane, *(self._later_replicas(lane) if prepare else [])]:
            each.failure = reason
            note = failure_path(self.folder, each.molecule.name, each.replica)
            write_atomically(note, f"{reason}\n".encode())
