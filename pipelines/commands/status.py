"""`tg80 status`: how does this run stand?"""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from pipelines.commands.options import RunArgument
from tg80.console import JsonOption
from tg80.errors import UserError
from tg80.untrusted.documents import print_json
from tg80.untrusted.tables import Console

if TYPE_CHECKING:
    from pipelines.run.status import RunStatus, TrajectoryStatus

MAX_ROWS = 20
_ORDER = ("production", "equilibration", "pre-equilibration", "geometry", "done", "waiting")


def status(
    folder: RunArgument,
    verify: Annotated[
        bool, typer.Option("--verify", help="Also verify the checksums of part files and shards.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help=f"Show all trajectories, instead of at most {MAX_ROWS}.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show the progress of a run from its files; works during a run and after it was killed.

    Read-only. Exit code 0 if nothing failed, 1 if a trajectory failed or a file is damaged, 2 if
    the folder holds no run.

    Example: tg80 status data
    """
    from pipelines.run.status import run_status

    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the --out of `tg80 generate`")
    found = run_status(folder, verify)
    if as_json:
        print_json(found.as_dict(), indent=2)
    else:
        _show(found, everything)
    totals = found.totals
    if totals["failed"] or totals["damaged_files"]:
        raise typer.Exit(1)


def _show(found: "RunStatus", everything: bool) -> None:
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(_headline(found), highlight=False, soft_wrap=True)
    # What needs attention first, then what is under way, then what is done.
    lanes = sorted(found.trajectories, key=_rank)
    shown = lanes if everything else lanes[:MAX_ROWS]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("trajectory", "stage", "fs", "frames", "last commit (UTC)", "quality"):
        table.add_column(name, justify="right" if name in ("fs", "frames") else "left")
    for lane in shown:
        table.add_row(*_cells(lane))
    console.print(table)
    if len(shown) < len(lanes):
        console.print(f"{len(lanes) - len(shown)} more; --all shows them", highlight=False)
    for line in _complaints(found):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(_totals(found), highlight=False, soft_wrap=True)


def _headline(found: "RunStatus") -> str:
    session = found.session
    where = f"{session['host']}, process {session['pid']}" if "pid" in session else "?"
    since = session.get("started", "?")
    state = {
        True: f"a run holds it: {where}, since {since}",
        False: f"no run holds it; the last one began {since} on {where}",
        None: "this file system does not say whether a run holds it",
    }[found.running]
    return f"{found.folder} ({found.level}): {state}"


def _rank(lane: "TrajectoryStatus") -> tuple[bool, int, str, int]:
    fine = not (lane.failure or lane.damaged)
    return (fine, _ORDER.index(lane.stage), lane.name, lane.replica)


def _cells(lane: "TrajectoryStatus") -> tuple[str, ...]:
    stage = lane.stage
    if lane.failure or lane.damaged:
        stage += ", failed" if lane.failure else ", damaged"
    quality = lane.quality or ""
    if lane.quality_checks:
        quality += f" ({', '.join(lane.quality_checks)})"
    length = f"{lane.stage_fs:g}/{lane.stage_length_fs:g}" if lane.stage_length_fs else ""
    commit = (lane.last_commit or "").replace("+00:00", "").replace("T", " ")
    return (
        f"{lane.name}-r{lane.replica}", stage, length, str(lane.n_frames or ""), commit, quality,
    )  # fmt: skip


def _complaints(found: "RunStatus") -> list[str]:
    from pipelines.run.folder import LEFT_OUT

    lines = []
    for lane in found.trajectories:
        if lane.failure:
            lines.append(f"failed: {lane.name}-r{lane.replica}: {lane.failure}")
        lines += [f"damaged: {what}" for what in lane.damaged]
    if found.left_out:
        n = len(found.left_out)
        lines.append(f"{n} bad row{'s' * (n > 1)} of the molecule list left out, see {LEFT_OUT}")
    return lines


def _totals(found: "RunStatus") -> str:
    from pipelines.run.progress import format_duration

    totals: dict[str, Any] = found.totals
    text = (
        f"{totals['done']}/{totals['trajectories']} trajectories done, {totals['under_way']} under "
        f"way, {totals['waiting']} waiting, {totals['failed']} failed; {totals['done_fs']:g} of "
        f"{totals['length_fs']:g} fs, {totals['n_frames']} frames; time left "
    )
    if found.seconds_left is not None:
        return text + format_duration(found.seconds_left)
    if found.worker_seconds_left == 0:
        return text + "none"
    if found.worker_seconds_left is not None:
        return text + f"{format_duration(found.worker_seconds_left)} for one worker"
    return text + "?"
