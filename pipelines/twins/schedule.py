"""A whole run of `tg80 twin`: all twins of all shards, side by side, resumable."""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from pipelines.dynamics.parts import WORK
from pipelines.engines.engine import Resources
from pipelines.run.cluster.this_machine import local_client
from pipelines.run.folder import locked
from pipelines.run.run import STOPPED
from pipelines.run.schedule import Schedule
from pipelines.run.task import Task
from pipelines.twins.twins import Twin, TwinRun, TwinTask, do_segment
from tg80.files import make_folder, remove_temporary_files
from tg80.shards.twins import floor, persistence, read_twins
from tg80.untrusted.tables import Console

LINE_EVERY_S = 30.0


class TwinWork:
    """The twins of all shards, and which segment of each comes next.

    Args:
        runs: the shards' twins, in the order they are to be done.
        resources: what each task may use.
        on_progress: called with the fs that a segment has added.
    """

    def __init__(
        self, runs: list[TwinRun], resources: Resources, on_progress: Callable[[float], None]
    ):
        self.runs = runs
        self.resources = resources
        self.on_progress = on_progress
        self.failures: dict[str, str] = {}
        self.total_fs = self.present_fs = 0.0
        self._left: Counter[str] = Counter()

    def tasks(self) -> list[Task]:
        """Tell from the disk what is done already; the tasks to begin with.

        Raises:
            UserError: other twins are in the output folder, or a shard is too short.
            CorruptFile: a file there is damaged.
        """
        tasks = []
        for order, run in enumerate(self.runs):
            if run.is_done():
                continue
            twins = run.tasks()
            step_fs, length_fs = run.source.recipe.first_step_fs, run.settings.length_fs
            for number, twin in enumerate(twins):
                progress = Twin(run.source, twin).progress()
                present_fs = progress.step * step_fs if progress else 0.0
                self.total_fs += length_fs
                self.present_fs += present_fs
                if present_fs < length_fs - 1e-6:
                    tasks.append(self._task(run, twins, number, (order, number)))
                    self._left[run.source.stem] += 1
            if not self._left[run.source.stem]:
                run.assemble(twins)
        return tasks

    def _task(
        self, run: TwinRun, twins: list[TwinTask], number: int, order: tuple[int, ...]
    ) -> Task:
        stem = run.source.stem

        def advanced(report: tuple[float, float]) -> list[Task]:
            time_fs, added_fs = report
            self.on_progress(added_fs)
            if stem in self.failures:
                return []
            if time_fs < run.settings.length_fs - 1e-6:
                return [self._task(run, twins, number, order)]
            self._left[stem] -= 1
            if not self._left[stem]:
                run.assemble(twins)
            return []

        call = (do_segment, twins[number], self.resources)
        return Task(stem, order, call, advanced, partial(self.failures.__setitem__, stem))


class _TwinProgress:
    """A bar over the simulated time on a terminal, now and then a line in a log file."""

    def __init__(self, console: Console):
        left = (TextColumn("{task.completed:.0f}/{task.total:.0f} fs, left"), TimeRemainingColumn())
        columns = (TextColumn("twins"), BarColumn(), *left)
        self.bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self.bar.add_task("twins")
        self._last_line = time.monotonic()

    def begin(self, total_fs: float, present_fs: float) -> None:
        self.bar.reset(self._task, total=total_fs, completed=int(present_fs))

    def add(self, added_fs: float) -> None:
        self.bar.advance(self._task, added_fs)
        task, now = self.bar.tasks[0], time.monotonic()
        if self.bar.disable and now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            self.bar.console.print(f"{task.completed:g}/{task.total:g} fs", highlight=False)


def run_twins(
    out: Path,
    runs: list[TwinRun],
    n_workers: int,
    console: Console,
    resources: Resources | None = None,
) -> tuple[list[dict[str, Any]], int]:
    """Make the twins of all shards, resuming unfinished ones.

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
        work = TwinWork(runs, resources or Resources(), progress.add)
        schedule = Schedule(work.tasks())
        if schedule.n_unfinished:
            progress.begin(work.total_fs, work.present_fs)
            n_workers = min(n_workers, schedule.n_unfinished)
            with progress.bar, local_client(n_workers, out) as client:
                schedule.run(client)
        with suppress(OSError):  # something unfinished is in it
            (out / WORK).rmdir()
    rows = [describe(run, work.failures.get(run.source.stem)) for run in runs]
    if any(row["failure"] for row in rows):
        return rows, 1
    return rows, STOPPED if any(row["path"] is None for row in rows) else 0


def describe(run: TwinRun, failure: str | None) -> dict[str, Any]:
    """One row of the summary: shard, file, starts, twins, and the curve of the floor."""
    row: dict[str, Any] = {"shard": run.source.stem, "path": None, "failure": failure}
    if not run.path.exists() or failure:
        return row
    twins = read_twins(run.path)
    score = "heavy" if (twins.atomic_numbers > 1).any() else "all"
    lags = _summary_lags(twins.times_fs)
    return row | {
        "path": str(run.path),
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
