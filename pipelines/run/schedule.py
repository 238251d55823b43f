"""Hands segments to Dask workers, one task a segment, and keeps going until all is done.

A task is told by (molecule, replica) and finds on disk what comes next, so that a task lost with
its worker is simply done again. No array travels to the scheduler.
"""

import queue
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distributed import Client, Future, KilledWorker

from pipelines.engines.engine import Resources
from pipelines.recipe import Recipe
from pipelines.run.cluster.workers import (
    lost_scheduler,
    refuse_threads,
    scheduler_address,
    worker_threads,
)
from pipelines.run.folder import failure_path
from pipelines.run.task import Report, Ticket, do_piece
from pipelines.trajectory import StageReport, Trajectory
from tg80.chemistry.molecule import Molecule
from tg80.errors import CorruptFile, RunFailed, Tg80Error
from tg80.files import write_atomically

# A scheduler gives up on a task after some deaths of its workers (3 by default); it is handed in
# again this often before the molecule is taken to be the cause.
MAX_RESUBMISSIONS = 5
_POLL_S = 1.0
_RESULT_TIMEOUT_S = 10.0


@dataclass
class Lane:
    """One trajectory on its way, as the live table shows it.

    Attributes:
        molecule, replica: which trajectory.
        order: its place in the queue; earlier ones go first.
        stage: the last thing done.
        done_fs: simulated time done in this session, per stage name.
        busy_s: worker seconds in this session, per stage name.
        failure: why it ended early, or None.
        warnings: lines about what was mended on the way.
        deaths: how often its task was given up in a row because workers died.
    """

    molecule: Molecule
    replica: int
    order: int
    stage: StageReport
    done_fs: dict[str, float] = field(default_factory=dict)
    busy_s: dict[str, float] = field(default_factory=dict)
    failure: str | None = None
    warnings: list[str] = field(default_factory=list)
    deaths: int = 0

    def record(self, report: Report) -> None:
        """Note what a task did."""
        name = report.stage.name
        self.done_fs[name] = self.done_fs.get(name, 0.0) + report.worked_fs
        self.busy_s[name] = self.busy_s.get(name, 0.0) + report.seconds
        self.warnings.extend(w for w in report.stage.warnings if w not in self.warnings)
        self.stage = report.stage


class Schedule:
    """All trajectories of a run and the tasks in flight.

    Args:
        folder: output folder.
        recipe: settings.
        molecules: compounds, in the order they are to be done.
        n_replicas: trajectories a compound.
        resources: what each task may use.
        ticket: goes with each task.
        on_change: called whenever something was finished.
        say: shows a line.
    """

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        molecules: list[Molecule],
        n_replicas: int,
        resources: Resources,
        ticket: Ticket,
        on_change: Callable[["Schedule"], None] = lambda schedule: None,
        say: Callable[[str], None] = lambda line: None,
    ):
        self.folder = folder
        self.recipe = recipe
        self.resources = resources
        self.ticket = ticket
        self.on_change = on_change
        self.say = say
        self.stopping = False
        self.n_slots = 1
        self.fatal: Tg80Error | None = None
        self._ready: list[tuple[Lane, bool]] = []
        self._flights: dict[Future, tuple[Lane, bool]] = {}
        self._landings: queue.SimpleQueue[Future] = queue.SimpleQueue()
        self.lanes = [
            Lane(molecule, replica, order, _waiting(replica, recipe))
            for order, molecule in enumerate(molecules)
            for replica in range(n_replicas)
        ]

    def enter(self) -> bool:
        """Tells from the disk what is done already; whether anything is left to do."""
        for lane in self.lanes:
            if lane.replica == 0:
                self._enter(lane)
        return bool(self._ready)

    @property
    def n_unfinished(self) -> int:
        """Trajectories that can still use a worker."""
        return len(self._ready) + len(self._flights)

    def run(self, client: Client, tend: Callable[[int], None] = lambda n_tasks: None) -> None:
        """Works until every trajectory is done, has failed, or a stop was asked for.

        Args:
            client: of the cluster that does the work.
            tend: called every second or so with the number of tasks that want a worker.

        Raises:
            Tg80Error: something that meets every molecule alike, such as a full disk.
        """
        self._client = client
        with self._graceful_interrupt():
            self.on_change(self)
            while self.n_unfinished and not (self.stopping and not self._flights):
                self._fill()
                with suppress(queue.Empty):
                    self._landed(self._landings.get(timeout=_POLL_S))
                tend(self.n_unfinished)
                self.on_change(self)
        if self.fatal is not None:
            raise self.fatal

    def _fill(self) -> None:
        """Keep as many tasks in flight as there are workers, none waiting behind them.

        A molecule under way goes before one that waits, and a stop has nothing to call back.
        """
        if self._client.status != "running":
            self._give_up(lost_scheduler(self._client))
            return
        threads = worker_threads(self._client)
        try:
            refuse_threads(threads)
        except Tg80Error as error:
            self._stop_for(error)
        if not threads and self.stopping:
            self._flights.clear()  # nobody is left to finish them
        if not threads and self.n_slots and not self.stopping:
            self.say(f"no worker left at {scheduler_address(self._client)}; waiting for one")
        self.n_slots = len(threads)
        while self._ready and len(self._flights) < self.n_slots and not self.stopping:
            self._ready.sort(key=lambda item: (item[0].order, item[0].replica))
            try:
                self._submit(*self._ready.pop(0))
            except Exception:
                if self._client.status == "running":
                    raise
                self._give_up(lost_scheduler(self._client))

    def _submit(self, lane: Lane, prepare: bool) -> None:
        future = self._client.submit(
            do_piece,
            str(self.folder.resolve()),
            lane.molecule,
            self.recipe,
            lane.replica,
            prepare,
            self.resources,
            self.ticket,
            pure=False,
        )
        self._flights[future] = (lane, prepare)
        future.add_done_callback(self._landings.put)

    def _enter(self, lane: Lane) -> None:
        """Start a lane; one that is done already is checked and makes way for the next replica."""
        trajectory = Trajectory(self.folder, lane.molecule, self.recipe, lane.replica)
        if not trajectory.is_done():
            self._ready.append((lane, True))
            return
        try:
            lane.stage = trajectory.finished_stage()
        except CorruptFile as error:
            lane.failure = str(error)
        self._enter_next_replica(lane)

    def _enter_next_replica(self, lane: Lane) -> None:
        for other in self.lanes:
            if other.order == lane.order and other.replica == lane.replica + 1:
                self._enter(other)

    def _landed(self, future: Future) -> None:
        if future not in self._flights:
            return
        lane, prepare = self._flights.pop(future)
        if future.status in ("cancelled", "lost"):
            self._give_up(lost_scheduler(self._client))
            return
        try:
            error: Any = future.exception(timeout=_RESULT_TIMEOUT_S)
            report: Any = future.result(timeout=_RESULT_TIMEOUT_S) if error is None else None
        except (OSError, TimeoutError, CancelledError):
            # The worker died with its report, or the scheduler did, which shows next. What was
            # committed is found on disk.
            self._ready.append((lane, prepare))
            return
        if isinstance(error, KilledWorker):
            self._workers_died(lane, prepare, error)
        elif error is not None:
            self._failed(lane, prepare, error)
        else:
            self._advanced(lane, prepare, report)

    def _advanced(self, lane: Lane, prepare: bool, report: Report) -> None:
        lane.record(report)
        lane.deaths = 0
        if report.stage.name == "prepared":
            self._ready.append((lane, False))
            self._enter_next_replica(lane)
        elif report.stage.name != "done":
            self._ready.append((lane, prepare))
        lane.failure = report.stage.failure

    def _workers_died(self, lane: Lane, prepare: bool, error: KilledWorker) -> None:
        """Lost workers are the machines' fault, until it is always the same task's workers."""
        lane.deaths += 1
        if lane.deaths <= MAX_RESUBMISSIONS:
            self._ready.append((lane, prepare))
            return
        deaths = lane.deaths * (error.allowed_failures + 1)
        lane.failure = (
            f"{lane.molecule.name}-r{lane.replica}: {deaths} workers in a row died of the same "
            "segment; look into their logs (too little memory?) and run the same command again"
        )
        self._note_failure(lane)

    def _failed(self, lane: Lane, prepare: bool, error: BaseException) -> None:
        lane.failure = str(error) or type(error).__name__
        if isinstance(error, RunFailed | CorruptFile):
            if prepare:
                self._fail_later_replicas(lane)
            return
        # A full disk or a bug meets every molecule alike: stop, keeping what is committed.
        if not isinstance(error, Tg80Error):
            error = Tg80Error(f"{lane.molecule.name}: {type(error).__name__}: {lane.failure}")
        self._stop_for(error)

    def _fail_later_replicas(self, lane: Lane) -> None:
        """Those that start from what could not be prepared have failed, too."""
        for other in self.lanes:
            if other.order == lane.order and other.replica > lane.replica:
                other.failure = lane.failure
                self._note_failure(other)

    def _note_failure(self, lane: Lane) -> None:
        """Leaves the reason on disk, as a task does that fails by itself."""
        note = failure_path(self.folder, lane.molecule.name, lane.replica)
        write_atomically(note, f"{lane.failure}\n".encode())

    def _stop_for(self, error: Tg80Error) -> None:
        """Lets the segments in flight end and commit, then ends the run with this error."""
        self.stopping = True
        self.fatal = self.fatal or error

    def _give_up(self, error: Tg80Error) -> None:
        """End the run at once: no segment in flight can be heard of any more."""
        self._stop_for(error)
        self._flights.clear()

    @contextmanager
    def _graceful_interrupt(self) -> Iterator[None]:
        """The first Ctrl-C lets the segments in flight end and commit; the second stops at once."""

        def stop(number, frame):
            if self.stopping:
                raise KeyboardInterrupt
            self.stopping = True
            self.on_change(self)

        previous = signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)


def _waiting(replica: int, recipe: Recipe) -> StageReport:
    return StageReport("waiting", replica, 0.0, recipe.of_replica(replica).length_fs)
