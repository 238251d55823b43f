"""`atom-bench leaderboard`: the tables of all records, in a terminal, a file or a page."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tg80.cli_support import JsonOption
from tg80.errors import UserError

STYLES = ("terminal", "markdown", "json", "csv")


def leaderboard(
    folder: Annotated[Path, typer.Argument(help="Folder of results.")] = Path("runs"),
    style: Annotated[
        str, typer.Option("--format", help="terminal, markdown, json or csv.")
    ] = "terminal",
    skill: Annotated[
        bool, typer.Option("--skill", help="Skill at every lag in place of errors.")
    ] = False,
    published: Annotated[
        bool,
        typer.Option("--published", help="The figures that others printed, in place of records."),
    ] = False,
    html: Annotated[
        Path | None, typer.Option(help="Write a static page with all of it into this folder.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print the tables of all records below a folder, one for each task, track and part.

    CSV has one row for every number of every record: each seed, fold, molecule, lag and metric. The
    page opens without a server. Published figures never stand among measured ones.

    Example: atom-bench leaderboard runs --html site
    """
    if style not in STYLES:
        raise UserError(f"unknown format {style!r}; choose {', '.join(STYLES[:-1])} or csv")
    if html is not None and published:
        raise UserError("--html holds the published figures already; leave out --published")
    chosen = "json" if as_json else style
    if html is not None:
        _write_page(folder, html, as_json=as_json)
    elif published:
        _print_published(chosen)
    else:
        _print_records(folder, chosen, skill=skill)


def _write_page(folder: Path, site: Path, *, as_json: bool) -> None:
    from benchmarks.web.site import write_site

    page = write_site(folder, site)
    if as_json:
        print(json.dumps({"page": str(page.path), "records": page.n_records}))
        return
    note = "" if page.n_records else "; there is no record yet, and the page says so"
    print(f"{page.path}: {page.n_records} records{note}")


def _print_published(style: str) -> None:
    from benchmarks import published
    from benchmarks.sheets import print_sheets

    tables = published.read_published()
    if style == "json":
        print(json.dumps(published.as_json(tables)))
    elif style == "csv":
        print(published.as_csv(tables), end="")
    else:
        print_sheets(published.sheets(tables), as_markdown=style == "markdown")


def _print_records(folder: Path, style: str, *, skill: bool) -> None:
    from benchmarks.leaderboard import as_csv
    from benchmarks.results import read_records

    records = read_records(folder)
    if style == "csv":
        print(as_csv(records), end="")
    else:
        print_tables(records, style, skill=skill)


def print_tables(records: list, style: str, *, skill: bool = False) -> None:
    """Tables of records for the terminal, as Markdown or as JSON."""
    from benchmarks import leaderboard as tables

    lines = tables.entries(records)
    if style == "json":
        print(json.dumps(tables.as_json(lines)))
    elif style == "markdown":
        print(tables.markdown(lines, skill=skill), end="")
    else:
        # A pipe has no width of its own, and a table squeezed to 80 columns is unreadable.
        console = Console(width=None if sys.stdout.isatty() else 160)
        tables.print_tables(lines, console, skill=skill)
