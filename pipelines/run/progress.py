"""The live table of a run: one row a trajectory that is under way, and how long it will take."""

import time
from collections.abc import Sequence
from typing import NamedTuple

from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipelines.run.resume import Lane
from tg80.untrusted.tables import Console

MAX_ROWS = 20
LINE_EVERY_S = 30.0


class Left(NamedTuple):
    """What a trajectory still needs; `s_per_fs` is None where its pace is not known."""

    fs: float
    s_per_fs: float | None
    n_atoms: int


def worker_seconds_left(lefts: Sequence[Left]) -> float | None:
    """Work left of all trajectories; None where no pace is known.

    Where one is not known, it is taken from the others: the cost of a step grows about with the
    square of the number of atoms.
    """
    if not any(left.fs for left in lefts):
        return 0.0
    known = [left.s_per_fs / left.n_atoms**2 for left in lefts if left.s_per_fs is not None]
    if not known:
        return None
    usual = sum(known) / len(known)
    return sum(
        left.fs * (usual * left.n_atoms**2 if left.s_per_fs is None else left.s_per_fs)
        for left in lefts
    )


def format_duration(seconds: float | None) -> str:
    """A time span for people: `45 s`, `12 min`, `3.5 h`, `12 d`; `?` if not known."""
    if seconds is None:
        return "?"
    for limit, unit, size in ((90, "s", 1), (5400, "min", 60), (172800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}" if unit != "h" else f"{seconds / size:.1f} h"
    return f"{seconds / 86400:.0f} d"


class RunProgress:
    """The display of a run: a live table on a terminal, now and then a line in a log file.

    Args:
        console: where to show it.
    """

    def __init__(self, console: Console):
        self._console = console
        self._live: Live | None = None
        self._last_line = float("-inf")

    def __enter__(self) -> "RunProgress":
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, line: str) -> None:
        """Show a line that stays."""
        self._console.print(line, highlight=False, soft_wrap=True)

    def update(self, lanes: list[Lane], n_workers: int, stopping: bool) -> None:
        """Show how the trajectories stand now."""
        seconds = worker_seconds_left([_left(lane) for lane in lanes])
        left = format_duration(None if seconds is None else seconds / max(1, n_workers))
        done = f"{sum(lane.stage.name == 'done' for lane in lanes)}/{len(lanes)}"
        if self._live is not None:
            table = _table(lanes, f"{done} trajectories done", f"; time left {left}")
            table.title = "stopping after the segments in flight" if stopping else None
            self._live.update(table, refresh=True)
        elif time.monotonic() - self._last_line >= LINE_EVERY_S:
            self._last_line = time.monotonic()
            under_way = [
                f"{lane.name} {lane.stage.name} {_time(lane)} fs"
                for lane in lanes
                if lane.stage.name not in ("waiting", "done") and lane.failure is None
            ]
            line = f"{done} done; {'; '.join(under_way) or 'starting'}; left {left}"
            self._console.print(line, highlight=False)


def _table(lanes: list[Lane], done: str, left: str) -> Table:
    """All trajectories that are not waiting, the unfinished ones first."""
    table = Table(title_style="yellow", expand=False)
    for name in ("trajectory", "stage", "fs", "frames", "ps/day", "left"):
        table.add_column(name, justify="left" if name in ("trajectory", "stage") else "right")
    begun = [lane for lane in lanes if lane.stage.name != "waiting"]
    begun.sort(key=lambda lane: (lane.stage.name == "done", lane.order))
    for lane in begun[:MAX_ROWS]:
        table.add_row(*_row(lane))
    hidden = f", {len(begun) - MAX_ROWS} not shown" if len(begun) > MAX_ROWS else ""
    table.caption = f"{done}{hidden}{left}"
    return table


def _row(lane: Lane) -> tuple[str | Text, ...]:
    if lane.failure is not None:
        failed = Text(f"{lane.stage.name}: {lane.failure[:60]}", "red")
        return (lane.name, failed, "", "", "", "")
    pace, left = _s_per_fs(lane), _left(lane)
    return (
        lane.name,
        lane.stage.name,
        _time(lane),
        str(lane.n_frames),
        f"{86.4 / pace:.1f}" if pace else "-",
        format_duration(worker_seconds_left([left])),
    )


def _time(lane: Lane) -> str:
    return f"{lane.stage.time_fs:g}/{lane.stage.length_fs:g}"


def _s_per_fs(lane: Lane) -> float | None:
    """Worker seconds of a femtosecond at the level in this session; None if not known yet."""
    names = [name for name in ("equilibration", "production", "done") if lane.busy_s[name]]
    done_fs = sum(lane.done_fs[name] for name in names)
    return sum(lane.busy_s[name] for name in names) / done_fs if done_fs else None


def _left(lane: Lane) -> Left:
    recipe, stage = lane.recipe, lane.stage
    left_fs = recipe.length_fs
    if stage.name == "done" or lane.failure is not None:
        left_fs = 0.0
    elif stage.name == "production":
        left_fs -= stage.time_fs
    elif stage.name == "equilibration":
        left_fs += stage.length_fs - stage.time_fs
    elif stage.name != "prepared":
        left_fs += recipe.replica_spacing_fs if lane.replica else recipe.equilibration_fs
    return Left(left_fs, _s_per_fs(lane), lane.molecule.n_atoms)
