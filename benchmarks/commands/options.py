"""Options that several commands of `atom-bench` share, and how they are read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tg80.errors import UserError

FoldOption = Annotated[int, typer.Option(help="Fold of the split, 1 to 5.", show_default=False)]
DataOption = Annotated[
    Path | None, typer.Option(help="Folder of shards; default: the data that ships along.")
]
TaskOption = Annotated[str, typer.Option(help="Task id.")]
TrackOption = Annotated[str, typer.Option(help="canonical, heavy-input or all-atom.")]
SplitOption = Annotated[
    str | None, typer.Option(help="Frozen split by name or file; default: the task's.")
]
SeedsOption = Annotated[str, typer.Option(help="A count, or a list such as 0,1,2.")]
FromOption = Annotated[
    Path | None,
    typer.Option("--from", help="Folder of results of `atom-bench run`, whose models are taken."),
]
MarkdownOption = Annotated[bool, typer.Option("--markdown", help="Print the tables as Markdown.")]


def parse_seeds(text: str) -> list[int]:
    """ "3" is three seeds 0, 1, 2; "4,7" are these two; "5," is the one seed 5.

    Raises:
        UserError: something else.
    """
    try:
        if "," not in text:
            seeds = list(range(int(text)))
        else:
            seeds = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds wants a count such as 3 or a list such as 0,1,2, not {text!r}")
    return seeds


def progress_bars() -> Progress:
    """Bars on standard error, where someone looks at them."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )


def make_folder(path: Path, option: str) -> None:
    """Make the folder that results go to.

    Raises:
        UserError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{option} {path}: cannot be made ({reason}); choose another") from None
