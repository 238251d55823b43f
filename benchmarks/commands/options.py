"""Options that several commands of `atom-bench` share, and how they are read."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tg80.errors import UserError
from tg80.untrusted.limits import MOST_SEED
from tg80.untrusted.tables import Console

if TYPE_CHECKING:
    from benchmarks.interface import Budget

_MOST_SEEDS = 1000
_LONGEST_NAME = 255
DEFAULT_CPU_MINUTES = 5.0  # The matched budget.

FoldOption = Annotated[
    int | None,
    typer.Option(
        help="Fold of the split, 1 to 5; tasks on one molecule have their own.",
        show_default=False,
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder of shards, or of npz files of a public data set; default: the shipped data."
    ),
]
TaskOption = Annotated[
    str, typer.Option(help="Task id, such as tg80-multitask, tg80-zero-shot/furan or md17/aspirin.")
]
TrackOption = Annotated[str, typer.Option(help="canonical, heavy-input, all-atom or extra-data.")]
SplitOption = Annotated[
    str | None, typer.Option(help="Split, by name or file; default: that of the task.")
]
SeedsOption = Annotated[str, typer.Option(help="Number of seeds, or a list such as 0,1,2.")]
FromOption = Annotated[
    Path | None,
    typer.Option("--from", help="Folder of results of `atom-bench run` with trained models."),
]
PresetOption = Annotated[
    str | None,
    typer.Option(help="Size of ATOM: mini, public or paper; of EGNO and EGNN: mini or published."),
]
EpochsOption = Annotated[int | None, typer.Option(help="Training budget in epochs.")]
BudgetOption = Annotated[
    float | None,
    typer.Option(
        help="Training budget per seed in CPU minutes (wall minutes on a GPU) of all processes; "
        f"{DEFAULT_CPU_MINUTES:g} if neither budget is given."
    ),
]
OutOption = Annotated[Path, typer.Option(help="Folder of results.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a setting, such as training.batch_size=8."),
]
MarkdownOption = Annotated[bool, typer.Option("--markdown", help="Print the tables as Markdown.")]


def parse_seeds(text: str) -> list[int]:
    """ "3" is three seeds 0, 1, 2; "4,7" are these two; "5," is the one seed 5.

    Raises:
        UserError: something else.
    """
    try:
        if "," not in text:
            seeds = list(range(min(int(text), _MOST_SEEDS + 1)))
        else:
            seeds = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        seeds = []
    wrong = not seeds or min(seeds) < 0 or max(seeds) > MOST_SEED or len(seeds) > _MOST_SEEDS
    if wrong or len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds wants a count such as 3 or a list such as 0,1,2, not {text!r}")
    return seeds


def parse_budget(epochs: int | None, cpu_minutes: float | None) -> Budget:
    """The budget asked for, or the matched one if neither is given."""
    from benchmarks.interface import Budget

    if epochs is None and cpu_minutes is None:
        cpu_minutes = DEFAULT_CPU_MINUTES
    return Budget(epochs=epochs, cpu_minutes=cpu_minutes)


def parse_model_settings(
    pairs: list[str] | None, device: str, preset: str | None
) -> dict[str, Any]:
    """Settings of a model that trains, from --set, --device and --preset."""
    from benchmarks.models.settings import parse_overrides

    given = parse_overrides(pairs or []) | {"device": device}
    return given | ({"preset": preset} if preset else {})


def teller(progress: Progress) -> Callable[[str], None]:
    """A function that prints one line above the bars."""
    return partial(progress.console.print, soft_wrap=True, highlight=False, markup=False)


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


def parse_numbers(text: str, option: str, *, whole: bool = False) -> list[float]:
    """Positive numbers of a comma-separated list, none twice.

    Raises:
        UserError: something else.
    """
    try:
        found = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = []
    wrong = not found or len(set(found)) < len(found) or not all(0 < x < 1e9 for x in found)
    if wrong or (whole and any(x != round(x) for x in found)):
        kind = "whole numbers such as 1,8,32" if whole else "positive numbers such as 240,960"
        raise UserError(f"{option} wants {kind}, not {text!r}")
    return found


def check_output_file(path: Path, option: str, *, replace: bool) -> None:
    """Refuse a file that cannot be written, or exists and is not to be replaced."""
    check_name(path, option)
    if not path.parent.is_dir():
        raise UserError(f"{option} {path}: no folder {path.parent}; make it first")
    if path.is_dir():
        raise UserError(f"{option} {path}: a folder; name a file")
    if path.exists() and not replace:
        raise UserError(f"{option} {path}: exists; choose another name, or --force to replace it")
    check_writable(path.parent, option)


def check_name(path: Path, option: str) -> None:
    """Refuse names that no file system takes; asked of them, it fails."""
    # A file is first written under a longer name beside it.
    most = _LONGEST_NAME - 25
    if any(len(os.fsencode(part)) > most for part in path.parts):
        raise UserError(f"{option}: a name of more than {most} bytes; choose a shorter one")
    if not str(path).isprintable():
        raise UserError(f"{option} {str(path)!r}: contains control characters; choose another name")


def check_writable(folder: Path, option: str) -> None:
    """Refuse a folder that cannot be written, or made, before any work is done.

    Rights do not tell: a disk may be mounted read-only.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{option} {there}: cannot be written ({reason}); choose another") from None
