"""The live table of a run: one row a trajectory that is under way, and how long it will take."""

import time

from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipelines.run.schedule import Lane, Schedule
from tg80.untrusted.tables import Console

MAX_ROWS = 20
LINE_EVERY_S = 30.0


class RunProgress:
    """Shows a schedule: a live table on a terminal, now and then a line in a log file.

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

    def update(self, schedule: Schedule) -> None:
        """Show how the schedule stands now."""
        if self._live is not None:
            self._live.update(progress_table(schedule), refresh=True)
            return
        now = time.monotonic()
        if now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            self._console.print(progress_line(schedule), highlight=False)


def progress_line(schedule: Schedule) -> str:
    """One line: trajectories done, frames, time left."""
    done = sum(lane.stage.name == "done" for lane in schedule.lanes)
    under_way = [
        f"{lane.molecule.name}-r{lane.replica} {lane.stage.name} "
        f"{lane.stage.time_fs:g}/{lane.stage.length_fs:g} fs"
        for lane in schedule.lanes
        if lane.stage.name not in ("waiting", "done") and lane.failure is None
    ]
    left = format_duration(time_left_s(schedule))
    return f"{done}/{len(schedule.lanes)} done; {'; '.join(under_way) or 'starting'}; left {left}"


def progress_table(schedule: Schedule) -> Table:
    """All trajectories that are not waiting, the unfinished ones first."""
    title = "stopping after the segments in flight" if schedule.stopping else None
    table = Table(title=title, title_style="yellow", expand=False)
    for name in ("trajectory", "stage", "fs", "frames", "ps/day", "left"):
        table.add_column(name, justify="left" if name in ("trajectory", "stage") else "right")
    lanes = [lane for lane in schedule.lanes if lane.stage.name != "waiting"]
    lanes.sort(key=lambda lane: (lane.stage.name == "done", lane.order))
    for lane in lanes[:MAX_ROWS]:
        table.add_row(*_row(schedule, lane))
    done = sum(lane.stage.name == "done" for lane in schedule.lanes)
    left = format_duration(time_left_s(schedule))
    hidden = f", {len(lanes) - MAX_ROWS} not shown" if len(lanes) > MAX_ROWS else ""
    table.caption = f"{done}/{len(schedule.lanes)} trajectories done{hidden}; time left {left}"
    return table


def _row(schedule: Schedule, lane: Lane) -> tuple[str | Text, ...]:
    stage = lane.stage
    name = f"{lane.molecule.name}-r{lane.replica}"
    if lane.failure is not None:
        return (name, Text(f"{stage.name}: {lane.failure[:60]}", "red"), "", "", "", "")
    rate = ps_per_day(lane)
    return (
        name,
        stage.name,
        f"{stage.time_fs:g}/{stage.length_fs:g}",
        str(n_frames(schedule, lane)),
        f"{rate:.1f}" if rate else "-",
        format_duration(lane_seconds_left(schedule, lane)),
    )


def n_frames(schedule: Schedule, lane: Lane) -> int:
    """Committed frames of the production."""
    if lane.stage.name not in ("production", "done"):
        return 0
    recipe = schedule.recipe.of_replica(lane.replica)
    return int(lane.stage.time_fs / recipe.store_every_fs + 1e-9) + 1


def ps_per_day(lane: Lane) -> float | None:
    """Simulated ps a day of one worker at the level, from this session; None if not known yet."""
    names = [name for name in ("equilibration", "production", "done") if lane.busy_s.get(name)]
    seconds = sum(lane.busy_s[name] for name in names)
    done = sum(lane.done_fs.get(name, 0.0) for name in names)
    return done / seconds * 86.4 if seconds and done else None


def lane_seconds_left(schedule: Schedule, lane: Lane) -> float | None:
    """Worker seconds a trajectory still needs; None if its rate is not known."""
    if lane.stage.name == "done" or lane.failure is not None:
        return 0.0
    rate = ps_per_day(lane)
    if rate is None:
        return None
    left_fs = schedule.recipe.of_replica(lane.replica).length_fs
    if lane.stage.name == "production":
        left_fs -= lane.stage.time_fs
    elif lane.stage.name == "equilibration":
        left_fs += lane.stage.length_fs - lane.stage.time_fs
    return left_fs / rate * 86.4


def time_left_s(schedule: Schedule) -> float | None:
    """Wall time left, taking trajectories whose rate is not known for as dear as the mean atom.

    The cost of a step is taken to grow with the square of the number of atoms.
    """
    known = [(lane, lane_seconds_left(schedule, lane)) for lane in schedule.lanes]
    priced = [
        (86.4 / rate / lane.molecule.n_atoms**2)
        for lane in schedule.lanes
        if (rate := ps_per_day(lane))
    ]
    if not priced:
        return 0.0 if all(left == 0.0 for _, left in known) else None
    price = sum(priced) / len(priced)
    total = 0.0
    for lane, left in known:
        recipe = schedule.recipe.of_replica(lane.replica)
        before = recipe.replica_spacing_fs if lane.replica else recipe.equilibration_fs
        fs = recipe.length_fs + before
        total += left if left is not None else price * lane.molecule.n_atoms**2 * fs
    return total / max(1, schedule.n_slots)


def format_duration(seconds: float | None) -> str:
    """A time span for people: `45 s`, `12 min`, `3.5 h`, `12 d`; `?` if not known."""
    if seconds is None:
        return "?"
    for limit, unit, size in ((90, "s", 1), (5400, "min", 60), (172800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}" if unit != "h" else f"{seconds / size:.1f} h"
    return f"{seconds / 86400:.0f} d"
