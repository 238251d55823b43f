"""Hands tasks to Dask workers, one at a time to each, until all are done.

A task finds on disk what comes next, so that one lost with its worker is simply done again (see
`pipelines.run.lost_workers`). No array travels to the scheduler.
"""

import queue
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from distributed import Client, Future

from pipelines.run.cluster.workers import (
    lost_scheduler,
    refuse_threads,
    scheduler_address,
    worker_threads,
)
from pipelines.run.lost_workers import WorkerLost, result_of
from pipelines.run.task import Task
from tg80.errors import CorruptFile, RunFailed, Tg80Error

_POLL_S = 1.0


class Schedule:
    """The tasks that are ready and those in flight.

    Args:
        tasks: to begin with; those that follow come from them.
        on_change: called whenever something may have changed.
        say: shows a line.
        stop_at: clock time (`time.monotonic`) at which the run stops, as after Ctrl-C; None for
            never.
    """

    def __init__(
        self,
        tasks: list[Task],
        on_change: Callable[["Schedule"], None] = lambda schedule: None,
        say: Callable[[str], None] = lambda line: None,
        stop_at: float | None = None,
    ):
        self.ready = tasks
        self.on_change = on_change
        self.say = say
        self.stop_at = stop_at
        self.stopping = False
        self.stopped_on_time = False
        self.n_slots = 1
        self._fatal: Tg80Error | None = None
        self._flights: dict[Future, Task] = {}
        self._landings: queue.SimpleQueue[Future] = queue.SimpleQueue()

    @property
    def n_unfinished(self) -> int:
        """Tasks that can use a worker, or have one."""
        return len(self.ready) + len(self._flights)

    def run(self, client: Client, tend: Callable[[int], None] = lambda n_tasks: None) -> None:
        """Work until every trajectory is done, has failed, or a stop was asked for.

        Args:
            client: of the cluster that does the work.
            tend: called every second or so with the number of tasks that want a worker.

        Raises:
            Tg80Error: something that meets every molecule alike, such as a full disk.
        """
        with self._graceful_interrupt():
            self._watch_clock()
            self.on_change(self)
            while self.n_unfinished and not (self.stopping and not self._flights):
                self._fill(client)
                with suppress(queue.Empty):
                    self._landed(self._landings.get(timeout=_POLL_S), client)
                tend(self.n_unfinished)
                self._watch_clock()
                self.on_change(self)
        if self._fatal is not None:
            raise self._fatal

    def _fill(self, client: Client) -> None:
        """Keep as many tasks in flight as there are workers, none waiting behind them.

        A molecule under way goes before one that waits, and a stop has nothing to call back.
        """
        if client.status != "running":
            self._give_up(client)
            return
        threads = worker_threads(client)
        try:
            refuse_threads(threads)
        except Tg80Error as error:
            self._stop_for(error)
        if not threads and self.stopping:
            self._flights.clear()  # nobody is left to finish them
        if not threads and self.n_slots and not self.stopping:
            self.say(f"no worker left at {scheduler_address(client)}; waiting for one")
        self.n_slots = len(threads)
        self.ready.sort(key=lambda task: task.order)
        while self.ready and len(self._flights) < self.n_slots and not self.stopping:
            task = self.ready.pop(0)
            try:
                future = client.submit(*task.call, pure=False)
            except Exception:
                if client.status == "running":
                    raise
                self._give_up(client)
            else:
                self._flights[future] = task
                future.add_done_callback(self._landings.put)

    def _landed(self, future: Future, client: Client) -> None:
        if future not in self._flights:
            return
        task = self._flights.pop(future)
        if future.status in ("cancelled", "lost"):
            self._give_up(client)
            return
        try:
            report = result_of(task, future)
        except WorkerLost:
            self.ready.append(task)
        except (RunFailed, CorruptFile) as error:
            self.ready = [other for other in self.ready if other.name != task.name]
            task.on_failure(str(error))
        except Tg80Error as error:
            self._stop_for(error)
        except Exception as error:
            what = str(error) or type(error).__name__
            self._stop_for(Tg80Error(f"{task.name}: {type(error).__name__}: {what}"))
        else:
            task.deaths = 0
            self.ready += task.on_report(report)

    def _watch_clock(self) -> None:
        if self.stop_at is None or self.stopping or time.monotonic() < self.stop_at:
            return
        if self.n_unfinished:
            self.stopping = self.stopped_on_time = True
            self.say("the time to stop has come; the segments in flight end first")

    def _stop_for(self, error: Tg80Error) -> None:
        """Let the tasks in flight end and commit, then end the run with this error.

        A full disk or a bug meets every molecule alike.
        """
        self.stopping = True
        self._fatal = self._fatal or error

    def _give_up(self, client: Client) -> None:
        """End the run at once: no task in flight can be heard of any more."""
        self._stop_for(lost_scheduler(client))
        self._flights.clear()

    @contextmanager
    def _graceful_interrupt(self) -> Iterator[None]:
        """The first Ctrl-C lets the tasks in flight end and commit; the second stops at once."""

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
