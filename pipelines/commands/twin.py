"""`tg80 twin`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.options import WorkersOption
from tg80.console import JsonOption, Table, console, print_tables
from tg80.errors import UserError
from tg80.untrusted.documents import print_json
from tg80.untrusted.limits import MOST_SEED

ERRORS = ("floor_a2", "persistence_a2")


def twin(
    data: Annotated[
        Path, typer.Option("--data", metavar="DIR", help="Shards: a folder or a file.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Output folder.")] = Path(
        "twins"
    ),
    perturbation: Annotated[
        float,
        typer.Option(
            help="Standard deviation of the displacement of each coordinate, A; 0 displaces only "
            "within the rounding of the stored frame.",
        ),
    ] = 1e-3,
    noise: Annotated[
        bool, typer.Option("--noise", help="Different thermostat noise for every twin.")
    ] = False,
    resample_hydrogens: Annotated[
        bool,
        typer.Option("--resample-hydrogens", help="Draw new hydrogen velocities for every twin."),
    ] = False,
    starts: Annotated[int, typer.Option(min=1, max=16, help="Start states per shard.")] = 2,
    twins: Annotated[int, typer.Option(min=2, help="Twins per start state.")] = 4,
    length_fs: Annotated[
        float | None,
        typer.Option(help="Length of a twin. Default: 960 at gfn2-xtb, 3000 at the DFT levels."),
    ] = None,
    store_every_fs: Annotated[float, typer.Option(help="Time between stored frames.")] = 10.0,
    molecules: Annotated[
        str | None, typer.Option(help="Only these molecules (names separated by commas).")
    ] = None,
    replica: Annotated[
        int | None, typer.Option(min=0, help="Only this replica of each molecule.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Master seed.")] = 0,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Rerun segments of stored trajectories from nearby starts: the predictability floor.

    Twins use the level of theory, integrator and time step of their shard. They start where the
    windows of the test_time block do. Run the same command again to resume; finished work is not
    repeated.

    Example: tg80 twin --data tg80/data/mini-xtb --perturbation 1e-3 --out twins
    """
    from pydantic import ValidationError

    from pipelines.twins.schedule import median_curve, run_twins
    from pipelines.twins.twins import TwinRun, TwinSource
    from tg80.shards.twins import TwinSettings

    sources = [TwinSource(path) for path in _chosen(data, molecules, replica)]
    try:
        runs = [
            TwinRun(
                out,
                source,
                TwinSettings(
                    perturbation_angstrom=perturbation,
                    noise=noise,
                    resample_hydrogens=resample_hydrogens,
                    n_starts=starts,
                    n_twins=twins,
                    length_fs=length_fs or source.default_length_fs,
                    store_every_fs=store_every_fs,
                    seed=seed,
                ),
            )
            for source in sources
        ]
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    rows, exit_code = run_twins(out, runs, workers or os.cpu_count() or 1, console)
    if as_json:
        curve = median_curve(rows)
        print_json({"folder": str(out), "median": curve, "twins": rows}, indent=2)
    else:
        _show(rows, median_curve(rows), exit_code)
    raise typer.Exit(exit_code)


def _chosen(data: Path, molecules: str | None, replica: int | None) -> list[Path]:
    """The shards of the molecules and the replica asked for, in the order of their names."""
    from tg80.shards.shard import find_shards

    paths = find_shards(data)
    names = [path.name for path in paths]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        # In a tree of several levels of theory; their twins would overwrite each other.
        raise UserError(
            f"{data}: several shards are called {twice[0]}; name the folder of one level"
        )
    named = {path: path.stem.rpartition("-r") for path in paths}
    if molecules is not None:
        wanted = {name.strip() for name in molecules.split(",") if name.strip()}
        missing = sorted(wanted - {molecule for molecule, _, _ in named.values()})
        if missing or not wanted:
            raise UserError(f"{data}: no shard of {', '.join(missing) or 'no molecule'}")
        paths = [path for path in paths if named[path][0] in wanted]
    if replica is not None:
        paths = [path for path in paths if named[path][2] == str(replica)]
        if not paths:
            raise UserError(f"{data}: no shard of replica {replica}")
    return paths


def _show(rows: list[dict], curve: list[dict], exit_code: int) -> None:
    """Floors of the shards at the end of their twins, and the median curve."""
    tables = [
        Table(
            "errors at the end of the twins, 0.01 A^2",
            ("shard", "starts", "twins", "fs", "floor", "persistence"),
            [
                (
                    row["shard"],
                    str(len(row["start_ids"])),
                    str(row["n_twins"]),
                    f"{row['lags_fs'][-1]:g}",
                    *(f"{100 * row[name][-1]:.3g}" for name in ERRORS),
                )
                for row in rows
                if row["path"] is not None
            ],
        )
    ]
    if curve:
        medians = [
            (f"{point['lag_fs']:g}", *(f"{100 * point[name]:.3g}" for name in ERRORS))
            for point in curve
        ]
        title = "median over the shards, 0.01 A^2, heavy atoms"
        tables.append(Table(title, ("lag / fs", "floor", "persistence"), medians))
    print_tables(tables, console=console)
    for row in rows:
        if row["failure"]:
            console.print(f"failed: {row['shard']}: {row['failure']}", highlight=False)
    if exit_code == 130:
        console.print("stopped; run the same command again to resume")
