"""`tg80 download`: a published data set, or a part of it, checked byte for byte."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from pipelines.commands.options import molecule_names
from tg80.console import JsonOption, console, print_error
from tg80.release.download import DEFAULT_JOBS, Report
from tg80.release.download import download as download_release
from tg80.release.selection import Selection
from tg80.release.sources import Patience, Watcher
from tg80.untrusted.documents import print_json
from tg80.untrusted.tables import Console

LINE_EVERY_S = 30.0


def download(
    source: Annotated[
        str | None,
        typer.Option(
            metavar="URL|PATH",
            help="Published data set, or one version of it. Default: TG80_SOURCE.",
        ),
    ] = None,
    version: Annotated[str | None, typer.Option(help="Version. Default: the newest.")] = None,
    fold: Annotated[int | None, typer.Option(help="Only files of this fold.")] = None,
    part: Annotated[
        list[str] | None,
        typer.Option(
            help="With --fold, only this part: train, val, test_id, test_ood, val_time or "
            "test_time. May be repeated."
        ),
    ] = None,
    molecules: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Only these molecules.")
    ] = None,
    level: Annotated[str | None, typer.Option(help="Only this level of theory.")] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Output folder. Default: NAME-VERSION in TG80_DATA, else here."
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(help="Parallel downloads.")] = DEFAULT_JOBS,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=86400, help="Seconds to wait for the next bytes.")
    ] = Patience.stall_s,
    attempts: Annotated[
        int, typer.Option(min=1, help="Give up after this many attempts in a row without new data.")
    ] = Patience.attempts,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be downloaded.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Download a published data set, or a part of it.

    The SHA-256 of every file is verified. Correct files in DIR are kept, partial ones resumed,
    wrong ones downloaded again. `tg80.load("NAME-VERSION")` finds the set in the default folder.
    Exit code 1 if a file cannot be downloaded.

    Example: tg80 download --source https://example.org/tg80 --to tg80-1.0

    Example: tg80 download --fold 1 --part train --part val --to tg80-1.0

    Example: tg80 download --molecules ethanol,benzene --level pbe-def2svp --dry-run
    """
    selection = Selection(fold, tuple(part or ()), molecule_names(molecules) or (), level)
    shown = TransferProgress(console)
    try:
        with shown:
            report = download_release(
                source, to, version=version, selection=selection, jobs=jobs,
                patience=Patience(stall_s=timeout, attempts=attempts),
                dry_run=dry_run, watcher=shown,
            )  # fmt: skip
    except KeyboardInterrupt:
        console.print("the same command resumes from here", highlight=False)
        raise
    if as_json:
        print_json(report.as_dict(), indent=2)
    else:
        _show(report)
    for reason in report.failed.values():
        print_error(reason)
    if report.failed:
        raise typer.Exit(1)


class TransferProgress(Watcher):
    """Shows a download: bars on a terminal, now and then a line in a log file."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(),
            TransferSpeedColumn(), TimeRemainingColumn(),
            console=console, disable=not console.is_terminal,
        )  # fmt: skip
        self._task: TaskID | None = None
        self._last_line = time.monotonic()

    def __enter__(self) -> "TransferProgress":
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def begin(self, stage: str, n_bytes: int | None) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(stage, total=n_bytes)

    def advance(self, n_bytes: int) -> None:
        if self._task is None:
            return
        self._bars.advance(self._task, n_bytes)
        now = time.monotonic()
        if not self._console.is_terminal and now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            task = self._bars.tasks[0]
            self.say(f"{task.description}: {_mb(task.completed)} of {_mb(task.total or 0)}")

    def say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def _show(report: Report) -> None:
    n_fetched, n_kept = len(report.fetched), len(report.kept)
    fetched, kept = sum(report.fetched.values()), sum(report.kept.values())
    if report.dry_run:
        for path, n_bytes in sorted(report.fetched.items()):
            print(f"{n_bytes:>14,}  {path}")
    verb = "to fetch" if report.dry_run else "fetched"
    print(
        f"{report.name} {report.version}: {n_fetched} files ({_mb(fetched)}) {verb}, "
        f"{n_kept} ({_mb(kept)}) kept, {len(report.failed)} failed; {report.seconds:.1f} s"
    )
    if report.dry_run:
        return
    print(f"in {report.folder}")
    if not report.failed and report.molecules:
        level = f', level="{report.levels[0]}"' if len(report.levels) > 1 else ""
        print(
            f"\nimport tg80\ndata = tg80.load({json.dumps(report.folder)}{level})\n"
            f'positions = data["{report.molecules[0]}"].read("positions")'
        )


def _mb(n_bytes: float) -> str:
    return f"{n_bytes / 1e6:.1f} MB"
