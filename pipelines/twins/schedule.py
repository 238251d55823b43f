"""A whole run of `tg80 twin`: all twins of all shards, side by side, resumable."""

import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from distributed import Client, Future, as_completed
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from pipelines.engines.engine import Resources
from pipelines.run.cluster.workers import local_client
from pipelines.run.folder import locked
from pipelines.run.run import STOPPED
from pipelines.twins.twins import TwinRun, TwinTask, do_segment, remove_empty_work, twin_progress
from tg80.errors import CorruptFile, RunFailed, Tg80Error
from tg80.files import make_folder, remove_temporary_files
from tg80.shards.twins import floor, persistence, read_twins
from tg80.untrusted.tables import Console

LINE_EVERY_S = 30.0


@dataclass
class Lane:
    """The twins of one shard on their way.

    Attributes:
        run: what is made. tasks: its twins, empty if the file was there already.
        left: twins that are not finished. failure: why it was given up, or None.
    """

    run: TwinRun
    tasks: list[TwinTask] = field(default_factory=list)
    left: int = 0
    failure: str | None = None


class TwinSchedule:
    """Hands one segment after another to the workers until every twin is done.

    Args:
        runs: the shards' twins, in the order they are to be done.
        resources: what each task may use.
        on_change: called with fs added whenever something was finished.
    """

    def __init__(
        self,
        runs: list[TwinRun],
        resources: Resources,
        on_change: Callable[[float], None] = lambda added_fs: None,
    ):
        self.resources = resources
        self.on_change = on_change
        self.stopping = False
        self.fatal: Tg80Error | None = None
        self.lanes = [Lane(run) for run in runs]
        self.total_fs = self.present_fs = 0.0
        self._ready: deque[tuple[Lane, TwinTask]] = deque()
        self._flights: dict[Future, tuple[Lane, TwinTask]] = {}

    def enter(self) -> bool:
        """Tells from the disk what is done already; whether anything is left to do.

        Raises:
            UserError: other twins are in the output folder, or a shard is too short.
            CorruptFile: what is there is damaged.
        """
        for lane in self.lanes:
            if lane.run.is_done():
                continue
            lane.tasks = lane.run.tasks()
            length = lane.run.settings.length_fs
            step_fs = lane.run.source.recipe.time_step_fs
            for task in lane.tasks:
                progress = twin_progress(lane.run.source, task)
                present = progress.step * step_fs if progress else 0.0
                self.total_fs += length
                self.present_fs += present
                if present < length - 1e-6:
                    self._ready.append((lane, task))
                    lane.left += 1
            if lane.left == 0:
                lane.run.assemble(lane.tasks)
        return bool(self._ready)

    def run(self, client: Client) -> None:
        """Works until every twin is done, has failed, or a stop was asked for.

        Raises:
            Tg80Error: something that meets every molecule alike, such as a full disk.
        """
        with _first_interrupt(self):
            queue = as_completed(loop=client.loop)
            self._fill(client, queue)
            for future in queue:
                self._landed(future)
                self._fill(client, queue)
        if self.fatal is not None:
            raise self.fatal

    def _fill(self, client: Client, queue) -> None:
        threads: Any = client.nthreads()  # a dictionary, as the client is synchronous
        slots = max(1, sum(threads.values()))
        while self._ready and len(self._flights) < slots and not self.stopping:
            lane, task = self._ready.popleft()
            if lane.failure is not None:
                continue
            future = client.submit(do_segment, task, self.resources, pure=False)
            self._flights[future] = (lane, task)
            queue.add(future)

    def _landed(self, future: Future) -> None:
        lane, task = self._flights.pop(future)
        error: Any = future.exception()
        if error is not None:
            self._failed(lane, error)
            return
        time_fs, added_fs = future.result()
        self.on_change(added_fs)
        if time_fs < task.settings.length_fs - 1e-6:
            self._ready.appendleft((lane, task))
            return
        lane.left -= 1
        if lane.left == 0:
            lane.run.assemble(lane.tasks)

    def _failed(self, lane: Lane, error: BaseException) -> None:
        lane.failure = str(error) or type(error).__name__
        if isinstance(error, RunFailed | CorruptFile):
            return
        self.stopping = True
        if self.fatal is None:
            kind = "" if isinstance(error, Tg80Error) else f"{type(error).__name__}: "
            self.fatal = Tg80Error(f"{lane.run.source.stem}: {kind}{lane.failure}")


@contextmanager
def _first_interrupt(schedule: TwinSchedule) -> Iterator[None]:
    """The first Ctrl-C lets the segments in flight end and commit; the second stops at once."""

    def stop(number, frame):
        if schedule.stopping:
            raise KeyboardInterrupt
        schedule.stopping = True

    previous = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


class _TwinProgress:
    """A bar over the simulated time on a terminal, now and then a line in a log file."""

    def __init__(self, console: Console):
        self._console = console
        columns = (
            TextColumn("twins"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} fs, left"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._last_line = time.monotonic()
        self._done = self._total = 0.0

    def begin(self, total_fs: float, present_fs: float) -> None:
        """Show the run before its first segment."""
        self._done, self._total = present_fs, total_fs
        self._task = self._bar.add_task("twins", total=total_fs, completed=int(present_fs))
        self._bar.start()

    def add(self, added_fs: float) -> None:
        """Show what a segment added."""
        self._done += added_fs
        self._bar.advance(self._task, added_fs)
        now = time.monotonic()
        if not self._console.is_terminal and now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            self._console.print(f"{self._done:g}/{self._total:g} fs", highlight=False)

    def end(self) -> None:
        """Leaves the last picture standing."""
        self._bar.stop()


def run_twins(
    out: Path,
    runs: list[TwinRun],
    n_workers: int,
    console: Console,
    resources: Resources | None = None,
) -> tuple[list[dict[str, Any]], int]:
    """Make the twins of all shards, resuming what is there.

    Returns:
        One row a shard (see `describe`) and the exit code: 0 if all twins are there, 1 if a shard
        failed, 130 if the run was interrupted.

    Raises:
        UserError: other twins are in the output folder, or another process works there.
        Tg80Error: something stopped the run for all shards, such as a full disk.
    """
    make_folder(out, "--out")
    progress = _TwinProgress(console)
    with locked(out):
        remove_temporary_files(out)
        schedule = TwinSchedule(runs, resources or Resources(), progress.add)
        if schedule.enter():
            progress.begin(schedule.total_fs, schedule.present_fs)
            n_tasks = sum(lane.left for lane in schedule.lanes)
            try:
                with local_client(min(n_workers, n_tasks), out) as client:
                    schedule.run(client)
            finally:
                progress.end()
        remove_empty_work(out)
    rows = [describe(lane) for lane in schedule.lanes]
    if any(row["failure"] for row in rows):
        return rows, 1
    return rows, STOPPED if any(row["path"] is None for row in rows) else 0


def describe(lane: Lane) -> dict[str, Any]:
    """One row of the summary: shard, file, starts, twins, and the curve of the floor."""
    row: dict[str, Any] = {"shard": lane.run.source.stem, "path": None, "failure": lane.failure}
    if not lane.run.path.exists() or lane.failure:
        return row
    twins = read_twins(lane.run.path)
    score = "heavy" if (twins.atomic_numbers > 1).any() else "all"
    lags = _summary_lags(twins.times_fs)
    return row | {
        "path": str(lane.run.path),
        "start_ids": list(twins.start_ids),
        "n_twins": twins.n_twins,
        "score": score,
        "lags_fs": lags,
        "floor_a2": floor(twins, score, lags)[1].mean(axis=0).tolist(),
        "persistence_a2": persistence(twins, score, lags)[1].mean(axis=0).tolist(),
    }


def _summary_lags(times_fs: np.ndarray) -> list[float]:
    """The lags that the benchmark's error curve has: four short ones and eight up to the end."""
    length = float(times_fs[-1])
    wanted = [*(10.0, 20.0, 50.0, 100.0), *(length * i / 8 for i in range(1, 9))]
    stored = {round(float(time), 6) for time in times_fs[1:]}
    return sorted({round(lag, 6) for lag in wanted} & stored)


def median_curve(rows: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Floor and persistence at each lag that all shards have: medians over the shards."""
    whole = [row for row in rows if row["path"] is not None]
    if not whole:
        return []
    lags = set.intersection(*(set(row["lags_fs"]) for row in whole))
    return [
        {"lag_fs": lag}
        | {
            name: float(np.median([row[name][row["lags_fs"].index(lag)] for row in whole]))
            for name in ("floor_a2", "persistence_a2")
        }
        for lag in sorted(lags)
    ]
