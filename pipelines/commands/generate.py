"""`tg80 generate` and `tg80 collect`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from pipelines.commands.options import (
    EquilibrationOption,
    IntegratorOption,
    LengthOption,
    LevelOption,
    ListOption,
    MemoryOption,
    OverridesOption,
    RecipeOption,
    ReplicasOption,
    RunArgument,
    SkipBadOption,
    StereoOption,
    StoreOption,
    WorkersOption,
    seconds,
)
from tg80.console import JsonOption, console
from tg80.errors import UserError
from tg80.untrusted.documents import print_json
from tg80.untrusted.limits import MOST_SEED


def generate(
    molecule_list: ListOption = "tg80",
    stereo: StereoOption = "given",
    skip_bad: SkipBadOption = False,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Output folder.")] = Path("tg80-data"),
    level: LevelOption = None,
    length_fs: LengthOption = None,
    equilibration_fs: EquilibrationOption = None,
    temperature: Annotated[float | None, typer.Option(help="Temperature, K. Default 300.")] = None,
    thermostat: Annotated[
        str | None,
        typer.Option(help="Ensemble of the production: nve (default), bussi or langevin."),
    ] = None,
    integrator: IntegratorOption = None,
    store_every_fs: StoreOption = None,
    conformers: Annotated[
        str | None, typer.Option(help="Start conformer: lowest (default) or boltzmann.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=MOST_SEED, help="Master seed. Default 0.")
    ] = None,
    replicas: ReplicasOption = 1,
    order: Annotated[
        Literal["list", "cheapest", "longest"],
        typer.Option(
            help="Which molecules start first: as listed, those with the fewest basis functions "
            "(gfn2-xtb: atoms), or those with the most."
        ),
    ] = "list",
    stop_after: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Stop after this time, e.g. 90s, 150min or 2h: segments in flight end, then the "
            "exit code is 0. Run the same command again to resume.",
        ),
    ] = None,
    workers: WorkersOption = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Join a running Dask scheduler: tls://HOST:PORT, its scheduler file, or a TOML "
            "file with address, tls_ca, tls_cert, tls_key.",
        ),
    ] = None,
    tls_ca: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="With --scheduler: the certificate authority of the scheduler."
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --scheduler: your certificate.")
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Key of --tls-cert, if it is not in the same file."),
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure",
            help="Join a tcp:// scheduler on another machine. Anyone who can reach it can run code"
            " as you.",
        ),
    ] = False,
    cluster: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="TOML profile of a batch queue (Slurm, PBS, ...) to submit to."
        ),
    ] = None,
    dashboard: Annotated[
        bool,
        typer.Option(
            "--dashboard",
            help="Show Dask's web pages on this machine, to all its users (needs bokeh).",
        ),
    ] = False,
    memory_gb: MemoryOption = None,
    device: Annotated[
        str, typer.Option(help="Where the DFT levels are evaluated: cpu (default) or cuda.")
    ] = "cpu",
    gpu_trajectories: Annotated[
        int | None,
        typer.Option(min=1, help="With --device cuda: trajectories on each GPU. Default 1."),
    ] = None,
    recipe: RecipeOption = None,
    overrides: OverridesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run ab initio molecular dynamics of every molecule in a list.

    Run the same command again to resume; finished work is not repeated. With a larger --length-fs
    finished trajectories go on, too.

    Rows that --skip-bad leaves out are listed in left-out.csv of the output folder.

    Example: tg80 generate --molecule-list smiles.txt --out data --length-fs 1000

    Example: tg80 generate --molecule-list esol.csv --stereo first --skip-bad --out data
    """
    # Heavy imports wait until the options are known to be good.
    from pipelines.commands.molecules import listed_molecules
    from pipelines.recipe import load_recipe
    from pipelines.run.places import choose_place
    from pipelines.run.run import run_generation

    options = {
        "level": level,
        "length_fs": length_fs,
        "equilibration_fs": equilibration_fs,
        "temperature_k": temperature,
        "thermostat": thermostat,
        "integrator": integrator,
        "store_every_fs": store_every_fs,
        "conformers": conformers,
        "seed": seed,
    }
    stop_after_s = seconds(stop_after)
    tls_files = {"ca": tls_ca, "cert": tls_cert, "key": tls_key}
    settings = load_recipe(recipe, options, overrides)
    listed = listed_molecules(molecule_list, stereo, skip_bad, settings.resolved_level())
    if order != "list":
        from pipelines.plan.plan import by_size

        level_used = settings.resolved_level()
        molecules = by_size(listed.molecules, level_used, largest_first=order == "longest")
        listed = replace(listed, molecules=molecules)
    resources, place = choose_place(
        workers=workers,
        scheduler=scheduler,
        profile=cluster,
        memory_gb=memory_gb,
        device=device,
        gpu_trajectories=gpu_trajectories,
        tls={name: path for name, path in tls_files.items() if path is not None},
        insecure=insecure,
        dashboard=dashboard,
    )
    summary = run_generation(
        out, settings, listed, replicas, place, console, resources, stop_after_s
    )
    if as_json:
        print_json(summary.as_dict(), indent=2)
    else:
        summary.show(console)
    raise typer.Exit(summary.exit_code)


def collect(
    folder: RunArgument,
    as_json: JsonOption = False,
) -> None:
    """Write shards from the committed segments of unfinished trajectories.

    The run can resume afterwards; complete shards then replace these.

    Example: tg80 collect data
    """
    from pipelines.run.run import collect_run

    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the --out of `tg80 generate`")
    written = collect_run(folder)
    if as_json:
        print_json({"shards": [{"path": str(p), "length_fs": t} for p, t in written]})
        return
    for path, length_fs in written:
        console.print(f"{path}: {length_fs:g} fs", highlight=False)
    if not written:
        console.print("nothing to collect: every trajectory is finished or has no frame yet")
