"""Texts and tables of what others wrote: shown as it stands, and nothing in it is carried out.

A name in a shard or a record may hold escape sequences for the terminal, marks that turn the
direction of writing, Markdown, HTML or a formula of a spreadsheet.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

import rich.console
from rich.segment import Segment

_FORMULA = ("=", "+", "-", "@")
_MARKS = str.maketrans({mark: f"&#{ord(mark)};" for mark in "|`<"})


def printable(text: str, keep: str = "") -> str:
    """A text with control, zero-width and direction characters shown as escapes.

    Args:
        text: what to show.
        keep: characters that stay all the same, such as line ends.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)


def markdown_text(text: str) -> str:
    """A text that Markdown shows as it stands: no cell, code, HTML, link or picture in it."""
    return printable(text).translate(_MARKS).replace("](", "]&#40;")


def markdown_table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column names the row, numbers stand right."""
    rule = ["---", *["--:"] * (len(heading) - 1)]
    texts = ([markdown_text(cell) for cell in row] for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in (heading, rule, *texts))


def csv_table(heading: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A CSV table, in which no spreadsheet finds a formula."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(heading)
    writer.writerows([_csv_cell(cell) for cell in row] for row in rows)
    return stream.getvalue()


def _csv_cell(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    text = printable(cell)
    return f"'{text}" if text.startswith(_FORMULA) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


class Console(rich.console.Console):
    """Rich's, for texts of others: no markup in them, control characters shown as escapes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(printable(segment.text, "\n"), segment.style)


class PrintableStream:
    """A stream of text whose control characters are shown as escapes, but for what Rich writes.

    Rich moves the cursor and sets colours by them; `Console` looks after its texts.
    """

    def __init__(self, stream: TextIO, rich_proxied_file: Any = None) -> None:
        self._stream = stream
        self.rich_proxied_file = stream if rich_proxied_file is None else rich_proxied_file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        return self._stream.write(printable(text, "\n\t"))
