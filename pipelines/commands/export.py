"""`tg80 export`: trajectories as files of other programs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from pipelines.commands.options import molecule_names
from tg80.console import JsonOption, console
from tg80.splits.split import TG80_VERSION
from tg80.untrusted.documents import print_json


def export(
    sources: Annotated[
        list[Path], typer.Argument(help="Shards (.h5md), or folders with shards in them.")
    ],
    to: Annotated[
        str,
        typer.Option(
            help="extxyz (one file, with the keys of mace_run_train), npz (layout of MD17 and "
            "sGDML) or upstream (layout of the public ATOM code)."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Output folder.")],
    fold: Annotated[
        int | None, typer.Option(help="With --part: only this part of this fold.")
    ] = None,
    part: Annotated[
        str | None,
        typer.Option(
            help="train, val, test_id, test_ood, val_time or test_time. train is the first 60 % "
            "of the training compounds' trajectories, as in the benchmark."
        ),
    ] = None,
    split: Annotated[
        str, typer.Option(help="Split of --fold: a version or a file.")
    ] = TG80_VERSION,
    molecules: Annotated[
        str | None, typer.Option(help="Only these molecules (names separated by commas).")
    ] = None,
    level: Annotated[
        str | None, typer.Option(help="Only this level of theory; required if there are several.")
    ] = None,
    every: Annotated[int, typer.Option(min=1, max=10**9, help="Take every n-th frame.")] = 1,
    frames: Annotated[
        int | None,
        typer.Option(min=1, help="Largest number of frames per trajectory, evenly spaced."),
    ] = None,
    separate: Annotated[
        bool,
        typer.Option(
            "--separate",
            help="extxyz: one file per trajectory, without isolated atoms, for viewers and "
            "MDAnalysis.",
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Write trajectories in the formats of other programs.

    Each file comes with a JSON file of its units, frame spacing, level of theory, split and the
    checksums of its shards. Replicas are never joined into one trajectory.

    Example: tg80 export data --to extxyz --fold 2 --part train --frames 100 --out mace

    Example: tg80 export data --to npz --molecules ethanol --out npz

    Example: tg80 export data --to upstream --out tg80_npz
    """
    from tg80.exchange.export import Selection, plan_export, write_export

    selection = Selection(
        molecules=molecule_names(molecules),
        level=level,
        split=split,
        fold=fold,
        part=part,
        every=every,
        frames=frames,
    )
    targets = plan_export(sources, to, out, selection, separate=separate, force=force)
    columns = (TextColumn("{task.completed}/{task.total} frames"), BarColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("", total=sum(target.n_frames for target in targets))
        written = write_export(targets, lambda n_frames: progress.advance(task, n_frames))
    if json_output:
        print_json(written, indent=2)
    else:
        _show(written)


def _show(written: Sequence[dict[str, Any]]) -> None:
    for file in written:
        rows = file["trajectories"]
        known = sorted({row["frame_fs"] for row in rows} - {None})
        apart = f" {', '.join(f'{fs:g}' for fs in known)} fs apart" if known else ""
        what = f"{len(rows)} trajectories" if len(rows) > 1 else rows[0]["molecule"]
        print(f"{file['path']}: {what}, {file['n_frames']} frames{apart}")
        for note in file["notes"]:
            print(f"  {note}")
