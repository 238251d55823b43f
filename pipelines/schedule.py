"""Hands segments to Dask workers, one task a segment, and keeps going until all is done.

Workers are single-threaded processes side by side. A task is told by (molecule, replica) and finds
on disk what comes next, so that a task lost with its worker is simply done again. No array travels
to the scheduler.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dask import config as dask_config
from distributed import Client, Future, LocalCluster, WorkerPlugin, as_completed
from filelock import FileLock

from pipelines.engine import Resources
from pipelines.recipe import Recipe
from pipelines.run_folder import work_folder
from pipelines.trajectory import Stage, Trajectory
from tg80.errors import CorruptFile, RunFailed, Tg80Error
from tg80.molecules import Molecule

# A worker that dies takes its task along; the task is only to blame after this many deaths.
ALLOWED_FAILURES = 10


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
    """

    molecule: Molecule
    replica: int
    order: int
    stage: Stage
    done_fs: dict[str, float] = field(default_factory=dict)
    busy_s: dict[str, float] = field(default_factory=dict)
    failure: str | None = None
    warnings: list[str] = field(default_factory=list)

    def record(self, report: "Report") -> None:
        """Notes what a task did."""
        name = report.stage.name
        self.done_fs[name] = self.done_fs.get(name, 0.0) + report.worked_fs
        self.busy_s[name] = self.busy_s.get(name, 0.0) + report.seconds
        self.warnings.extend(w for w in report.stage.warnings if w not in self.warnings)
        self.stage = report.stage


@dataclass(frozen=True)
class Report:
    """What one task did: the stage it led to, worker seconds, simulated fs."""

    stage: Stage
    seconds: float
    worked_fs: float


def do_piece(
    folder: str,
    molecule: Molecule,
    recipe: Recipe,
    replica: int,
    prepare: bool,
    resources: Resources,
) -> Report:
    """The task: one piece of preparation or one segment of production, found on disk.

    Safe to repeat and safe against a twin: the molecule's lock lets one process at a time work on
    its files.
    """
    began = time.perf_counter()
    work = work_folder(Path(folder), molecule.name)
    work.mkdir(parents=True, exist_ok=True)
    with FileLock(work / ".lock"):
        trajectory = Trajectory(Path(folder), molecule, recipe, replica, resources)
        stage = trajectory.prepare() if prepare else trajectory.produce()
    return Report(stage, time.perf_counter() - began, stage.worked_fs)


class _QuietWorker(WorkerPlugin):
    """Leaves Ctrl-C, which reaches the whole process group, and the telling of errors to the
    process that schedules."""

    name = "quiet-worker"

    def setup(self, worker) -> None:
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def local_client(n_workers: int) -> Iterator[Client]:
    """A Dask cluster of single-thread worker processes on this machine."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    with (
        dask_config.set(
            {
                "distributed.scheduler.allowed-failures": ALLOWED_FAILURES,
                # Its samples take the interpreter's lock 100 times a second.
                "distributed.worker.profile.enabled": False,
            }
        ),
        LocalCluster(
            n_workers=n_workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,  # pyright: ignore[reportArgumentType]
            memory_limit=0,
            silence_logs=logging.ERROR,
        ) as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(_QuietWorker())
        yield client


class Schedule:
    """All trajectories of a run and the tasks in flight.

    Args:
        folder: output folder.
        recipe: settings.
        molecules: compounds, in the order they are to be done.
        n_replicas: trajectories a compound.
        resources: what each task may use.
        on_change: called whenever something was finished.
    """

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        molecules: list[Molecule],
        n_replicas: int,
        resources: Resources,
        on_change: Callable[["Schedule"], None] = lambda schedule: None,
    ):
        self.folder = folder
        self.recipe = recipe
        self.resources = resources
        self.on_change = on_change
        self.stopping = False
        self.n_slots = 1
        self.fatal: Tg80Error | None = None
        self._ready: list[tuple[Lane, bool]] = []
        self._flights: dict[Future, tuple[Lane, bool]] = {}
        self.lanes = [
            Lane(molecule, replica, order, Stage("waiting", replica, 0.0, recipe.length_fs))
            for order, molecule in enumerate(molecules)
            for replica in range(n_replicas)
        ]

    def enter(self) -> bool:
        """Tells from the disk what is done already; whether anything is left to do."""
        for lane in self.lanes:
            if lane.replica == 0:
                self._enter(lane)
        return bool(self._ready)

    def run(self, client: Client) -> None:
        """Works until every trajectory is done, has failed, or a stop was asked for.

        Raises:
            Tg80Error: something that meets every molecule alike, such as a full disk.
        """
        self._client = client
        with self._graceful_interrupt():
            self.on_change(self)
            self._queue = as_completed(loop=client.loop)
            self._fill()
            for future in self._queue:
                self._landed(future)
                self._fill()
                self.on_change(self)
        if self.fatal is not None:
            raise self.fatal

    def _fill(self) -> None:
        """Keeps as many tasks in flight as there are worker threads, none waiting behind them.

        A molecule under way goes before one that waits, and a stop has nothing to call back.
        """
        threads: Any = self._client.nthreads()  # a dictionary, as the client is synchronous
        self.n_slots = max(1, sum(threads.values()))
        while self._ready and len(self._flights) < self.n_slots and not self.stopping:
            self._ready.sort(key=lambda item: (item[0].order, item[0].replica))
            lane, prepare = self._ready.pop(0)
            future = self._client.submit(
                do_piece,
                str(self.folder),
                lane.molecule,
                self.recipe,
                lane.replica,
                prepare,
                self.resources,
                pure=False,
            )
            self._flights[future] = (lane, prepare)
            self._queue.add(future)

    def _enter(self, lane: Lane) -> None:
        """Starts a lane; one that is done already is checked and makes way for the next replica."""
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
        lane, prepare = self._flights.pop(future)
        error: Any = future.exception()
        if error is not None:
            self._failed(lane, error)
            return
        report: Report = future.result()
        lane.record(report)
        if report.stage.name == "prepared":
            self._ready.append((lane, False))
            self._enter_next_replica(lane)
        elif report.stage.name != "done":
            self._ready.append((lane, prepare))
        lane.failure = report.stage.failure

    def _failed(self, lane: Lane, error: BaseException) -> None:
        lane.failure = str(error) or type(error).__name__
        if isinstance(error, RunFailed | CorruptFile):
            return
        # A full disk or a bug meets every molecule alike: stop, keeping what is committed.
        self.stopping = True
        if self.fatal is None:
            kind = "" if isinstance(error, Tg80Error) else f"{type(error).__name__}: "
            self.fatal = Tg80Error(f"{lane.molecule.name}: {kind}{lane.failure}")

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
