"""Tables of text, for a terminal or as Markdown."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from tg80.untrusted.tables import Console, markdown_table, markdown_text


@dataclass(frozen=True)
class Sheet:
    """One table: a title, column heads, and rows of text; the first column names the row."""

    title: str
    heading: Sequence[str]
    rows: Sequence[Sequence[str]]


def print_sheets(
    sheets: Sequence[Sheet], *, as_markdown: bool, console: Console | None = None
) -> None:
    """Print tables one after another."""
    # A pipe has no width of its own, and a table squeezed to 80 columns is unreadable.
    console = console or Console(width=None if sys.stdout.isatty() else 160)
    for sheet in sheets:
        if as_markdown:
            print(markdown(sheet))
            continue
        table = Table(title=sheet.title, title_justify="left")
        for i, head in enumerate(sheet.heading):
            table.add_column(head, justify="left" if i == 0 else "right")
        for row in sheet.rows:
            table.add_row(*row)
        console.print(table)


def markdown(sheet: Sheet) -> str:
    """A table as Markdown, its title above it."""
    return f"{markdown_text(sheet.title)}\n\n{markdown_table(sheet.heading, sheet.rows)}\n"
