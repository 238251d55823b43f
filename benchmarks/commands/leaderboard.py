"""`atom-bench leaderboard`: the tables of all records, in a terminal, a file or a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmarks.commands.options import check_output_file
from tg80.console import JsonOption, print_tables
from tg80.errors import Tg80Error, UserError
from tg80.files import write_atomically
from tg80.untrusted.documents import print_json

if TYPE_CHECKING:
    from benchmarks.leaderboard.floor import PartFloor
    from benchmarks.leaderboard.leaderboard import View
    from benchmarks.runs.records import Record

STYLES = ("terminal", "markdown", "json", "csv")


def leaderboard(
    folder: Annotated[Path, typer.Argument(help="Folder of results.")] = Path("runs"),
    style: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="terminal, markdown, json or csv.  [default: terminal]",
            show_default=False,
        ),
    ] = None,
    summary: Annotated[
        bool, typer.Option("--summary", help="S2T, S2S and skill of all parts in one table.")
    ] = False,
    skill: Annotated[
        bool, typer.Option("--skill", help="Skill at every lag instead of errors.")
    ] = False,
    costs: Annotated[
        bool, typer.Option("--costs", help="Inputs, labels and CPU time instead of errors.")
    ] = False,
    quality: Annotated[
        bool,
        typer.Option("--quality", help="Validity and robustness under rotation instead of errors."),
    ] = False,
    pareto: Annotated[
        bool,
        typer.Option("--pareto", help="Skill beside cost and the Pareto front instead of errors."),
    ] = False,
    fold: Annotated[int | None, typer.Option(help="Only records of this fold.")] = None,
    twins: Annotated[
        Path | None,
        typer.Option(help="Folder of twins for the floor; default: those shipped with the data."),
    ] = None,
    published: Annotated[
        bool,
        typer.Option("--published", help="Published figures instead of records."),
    ] = False,
    html: Annotated[
        Path | None, typer.Option(help="Write a static page with all tables into this folder.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Only plot error against lag into this file, .svg or .png."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print the results below a folder: one table for each task, track, part and set of folds.

    CSV has one row for each number: seed, fold, molecule, lag and metric. The page of --html needs
    no server. Published figures are never mixed with measured ones. Unreadable records are reported
    and skipped; the exit code is then 1.

    Example: atom-bench leaderboard runs --html site
    """
    if style is not None and style not in STYLES:
        raise UserError(f"unknown format {style!r}; choose {', '.join(STYLES[:-1])} or csv")
    if as_json and style not in (None, "json"):
        raise UserError(f"--json and --format {style} contradict; leave one out")
    chosen = "json" if as_json else style or "terminal"
    views = {
        "--summary": summary, "--skill": skill, "--costs": costs, "--quality": quality,
        "--pareto": pareto,
    }  # fmt: skip
    given = views | {
        "--fold": fold is not None, "--published": published, "--format": style is not None
    }  # fmt: skip
    if plot is not None:
        others = {"--html": html is not None, "--json": as_json, **given, "--fold": False}
        _refuse(others, others, "--plot draws errors")
        _write_plot(folder, plot, fold, twins)
        return
    if html is not None:
        _refuse(given, given, "--html holds all of it")
    elif published:
        _refuse(given, (*views, "--fold"), "--published has errors only")
    elif chosen in ("json", "csv"):
        _refuse(given, views, f"{chosen} holds all of it")
    from benchmarks.leaderboard.leaderboard import View

    if html is not None:
        _write_page(folder, html, twins, as_json=as_json)
    elif published:
        _print_published(chosen)
    else:
        asked = [View(name.removeprefix("--")) for name, wanted in views.items() if wanted]
        _print_records(folder, chosen, asked, fold, twins)


def _refuse(given: Mapping[str, bool], names: Iterable[str], reason: str) -> None:
    """Name the first option that would be ignored."""
    for name in names:
        if given[name]:
            raise UserError(f"{reason}; leave out {name}")


def _write_plot(folder: Path, path: Path, fold: int | None, twins: Path | None) -> None:
    from benchmarks.leaderboard.floor import part_floors
    from benchmarks.leaderboard.plot import error_against_lag

    suffix = path.suffix.removeprefix(".")
    if suffix not in ("svg", "png"):
        raise UserError(f"--plot {path}: name a file that ends in .svg or .png")
    check_output_file(path, "--plot", replace=True)
    bad: list[str] = []
    records = _records(folder, fold, bad)
    write_atomically(path, error_against_lag(records, part_floors(records, twins), suffix))
    print(f"{path}: {len(records)} records")
    if bad:
        raise Tg80Error(*bad)


def _records(folder: Path, fold: int | None, bad: list[str]) -> list[Record]:
    from benchmarks.runs.records import read_records

    records = [record for record in read_records(folder, bad) if fold in (None, record.fold)]
    if not records:
        raise UserError(f"{folder}: no record of fold {fold}")
    return records


def _write_page(folder: Path, site: Path, twins: Path | None, *, as_json: bool) -> None:
    from benchmarks.leaderboard.web.site import write_site

    page = write_site(folder, site, twins)
    if as_json:
        print_json({"page": str(page.path), "records": page.n_records})
    else:
        note = "" if page.n_records else "; there is no record yet, and the page says so"
        print(f"{page.path}: {page.n_records} records{note}")
    if page.bad:
        raise Tg80Error(*page.bad)


def _print_published(style: str) -> None:
    from benchmarks.leaderboard import published

    found = published.read_published()
    if style == "json":
        print_json(published.as_json(found))
    elif style == "csv":
        print(published.as_csv(found), end="")
    else:
        print_tables(published.tables(found), as_markdown=style == "markdown")


def _print_records(
    folder: Path, style: str, views: Sequence[View], fold: int | None, twins: Path | None
) -> None:
    from benchmarks.leaderboard.floor import part_floors
    from benchmarks.leaderboard.leaderboard import as_csv

    bad: list[str] = []
    records = _records(folder, fold, bad)
    if style == "csv":
        print(as_csv(records), end="")
    else:
        print_records(records, style, views, part_floors(records, twins))
    if bad:
        raise Tg80Error(*bad)


def print_records(
    records: list[Record],
    style: str,
    views: Sequence[View] = (),
    floors: Sequence[PartFloor] = (),
) -> None:
    """Tables of records for the terminal, as Markdown or as JSON."""
    from benchmarks.leaderboard.leaderboard import View, as_json, boards, boards_beside
    from benchmarks.leaderboard.lines import entries

    lines = entries(records)
    if style == "json":
        print_json(as_json(lines, floors))
        return
    for view in views or [View.ERRORS]:
        beside = boards_beside(records, floors) if view == View.ERRORS else []
        tables = [*boards(lines, view, floors), *beside]
        print_tables(tables, as_markdown=style == "markdown")
