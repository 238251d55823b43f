"""`atom-bench speed`: side-by-side timings, run by hand on a quiet machine."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel, ValidationError

from tg80.console import JsonOption
from tg80.errors import UserError
from tg80.untrusted.documents import print_json
from tg80.untrusted.limits import MOST_SEED, MOST_THREADS
from tg80.untrusted.tables import Console

app = typer.Typer(
    help="Time our engine side by side with stock PySCF, integrators with each other, "
    "processes with each other.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

MoleculesOption = Annotated[
    str, typer.Option(help="Names of TG80 compounds or SMILES, separated by commas.")
]
ThreadsOption = Annotated[
    int, typer.Option(min=1, max=MOST_THREADS, help="CPU threads of both programs.")
]
LevelOption = Annotated[str, typer.Option(help="Level of theory.")]
MarkdownOption = Annotated[bool, typer.Option("--markdown", help="Print the tables as Markdown.")]
OutOption = Annotated[
    Path | None,
    typer.Option(help="Results file, written after each part; the same command resumes from it."),
]
SeedOption = Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of the starts.")]


@app.command()
def aimd(
    molecules: MoleculesOption = "ethanol,benzene,uracil",
    level: LevelOption = "pbe-def2svp",
    threads: ThreadsOption = 1,
    step_fs: Annotated[
        float, typer.Option(help="Velocity Verlet step of both programs, fs.")
    ] = 0.5,
    steps: Annotated[int, typer.Option(min=1, help="Timed steps per segment.")] = 10,
    repeats: Annotated[int, typer.Option(min=1, help="Segments of the trajectory.")] = 3,
    warm_up: Annotated[
        int,
        typer.Option(
            min=1, help="Untimed steps of our engine before each segment, to fill its history."
        ),
    ] = 12,
    outer_fs: Annotated[
        str,
        typer.Option(
            help="Also time multiple time stepping with these outer steps, fs; '' for none."
        ),
    ] = "1.0,2.0",
    checks: Annotated[
        int,
        typer.Option(
            min=0, help="Geometries at which forces are compared with the tightly converged level."
        ),
    ] = 6,
    references: Annotated[
        int, typer.Option(min=0, help="Number of these that are also compared with exact J.")
    ] = 2,
    equilibration_fs: Annotated[
        float, typer.Option(min=0, help="Length of the GFN2-xTB equilibration, fs.")
    ] = 500.0,
    stock_integrals: Annotated[
        str,
        typer.Option(
            help="RI-J integrals of stock PySCF: every-cycle (its default) or memory (faster)."
        ),
    ] = "every-cycle",
    seed: SeedOption = 0,
    out: OutOption = None,
    as_json: JsonOption = False,
    as_markdown: MarkdownOption = False,
) -> None:
    """Time stock PySCF and our engine alternately along one 300 K trajectory, and compare forces.

    Example: atom-bench speed aimd --molecules ethanol,benzene --threads 1 --json
    """
    from benchmarks.speed.aimd import AimdSettings, aimd_sheets, measure
    from tg80.theory import get_level

    if get_level(level).method != "rks":
        raise UserError(f"--level {level}: stock PySCF has no such method; choose a PBE level")
    settings = checked(
        AimdSettings, level=level, threads=threads, step_fs=step_fs, steps=steps,
        repeats=repeats, warm_up=warm_up, outer_fs=numbers(outer_fs, "--outer-fs"), checks=checks,
        references=references, equilibration_fs=equilibration_fs,
        stock_integrals=stock_integrals, seed=seed,
    )  # fmt: skip
    document = measure_each(molecules, "aimd", measure, settings, out)
    finish(document, aimd_sheets, as_json=as_json, as_markdown=as_markdown)


@app.command()
def gpu(
    molecules: MoleculesOption = "ethanol,naphthalene",
    level: LevelOption = "pbe-def2svp",
    trajectories: Annotated[
        str, typer.Option(help="Numbers of parallel trajectories; on the CPU at most one per core.")
    ] = "1,4,8,16",
    devices: Annotated[str, typer.Option(help="cpu, cuda, or both.")] = "cpu,cuda",
    seconds: Annotated[float, typer.Option(min=1, help="Wall time of each measurement, s.")] = 30.0,
    seed: SeedOption = 0,
    out: OutOption = None,
    as_json: JsonOption = False,
    as_markdown: MarkdownOption = False,
) -> None:
    """Count the steps of parallel trajectories on one GPU, and on the cores of the CPU.

    Example: atom-bench speed gpu --molecules ethanol --trajectories 1,8 --json
    """
    from benchmarks.speed import gpu as timing
    from tg80.theory import get_level

    settings = checked(
        timing.GpuSettings, level=get_level(level).name, seed=seed, seconds=seconds,
        trajectories=timing.parse_counts(trajectories), devices=timing.parse_devices(devices),
    )  # fmt: skip
    document = measure_each(molecules, "gpu", timing.measure, settings, out, timing.prepare)
    finish(document, timing.gpu_sheets, as_json=as_json, as_markdown=as_markdown)


@app.command()
def memory(
    molecules: MoleculesOption = "ethanol,naphthalene",
    level: LevelOption = "pbe-def2svp",
    memory_gb: Annotated[
        str, typer.Option(help="Memory budgets, GB; each in its own process.")
    ] = "2,1000",
    steps: Annotated[int, typer.Option(min=1, help="Outer steps of dynamics.")] = 15,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
    as_markdown: MarkdownOption = False,
) -> None:
    """Measure the peak memory of a worker that runs real dynamics.

    Example: atom-bench speed memory --molecules naphthalene --memory-gb 2,1000
    """
    from benchmarks.speed.memory import MemorySettings, measure, memory_sheets

    settings = checked(
        MemorySettings, level=level, memory_gb=numbers(memory_gb, "--memory-gb", needed=True),
        steps=steps, seed=seed,
    )  # fmt: skip
    document = measure_each(molecules, "memory", measure, settings)
    finish(document, memory_sheets, as_json=as_json, as_markdown=as_markdown)


@app.command()
def throughput(
    molecules: MoleculesOption = "ethanol",
    level: LevelOption = "pbe-def2svp",
    steps: Annotated[int, typer.Option(min=1, help="Outer steps per task.")] = 40,
    repeats: Annotated[int, typer.Option(min=1, help="Repeats.")] = 5,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
    as_markdown: MarkdownOption = False,
) -> None:
    """Compare two single-thread workers with one, as plain processes and with Dask.

    Example: atom-bench speed throughput --molecules ethanol --repeats 5 --json
    """
    from benchmarks.speed.throughput import ThroughputSettings, measure, throughput_sheets

    settings = checked(ThroughputSettings, level=level, steps=steps, repeats=repeats, seed=seed)
    document = measure_each(molecules, "throughput", measure, settings)
    finish(document, throughput_sheets, as_json=as_json, as_markdown=as_markdown)


@app.command()
def mts(
    molecules: MoleculesOption = "methanol,ethanol,ethanethiol,formaldehyde",
    integrators: Annotated[
        str, typer.Option(help="verlet:STEP or mts:OUTER, fs, separated by commas.")
    ] = "verlet:0.5,verlet:1.0,mts:1.0,mts:1.5,mts:2.0,mts:2.5",
    level: LevelOption = "pbe-def2svp",
    threads: ThreadsOption = 1,
    inner_fs: Annotated[
        float, typer.Option(help="Inner step, and Verlet step of the reference trajectory, fs.")
    ] = 0.25,
    length_fs: Annotated[float, typer.Option(help="Length of the comparison, fs.")] = 100.0,
    drift_fs: Annotated[
        float,
        typer.Option(min=0, help="Length of the trajectories that measure the drift, fs; 0: none."),
    ] = 0.0,
    equilibration_fs: Annotated[
        float, typer.Option(min=0, help="Length of the GFN2-xTB equilibration, fs.")
    ] = 500.0,
    seed: SeedOption = 0,
    aimd: Annotated[
        Path | None, typer.Option(help="JSON file of `speed aimd`, for the ratio to stock PySCF.")
    ] = None,
    out: OutOption = None,
    as_json: JsonOption = False,
    as_markdown: MarkdownOption = False,
) -> None:
    """Compare integrators: deviation from an accurate trajectory, energy, cost per fs.

    Example: atom-bench speed mts --molecules methanol --out mts.json --aimd aimd.json
    """
    from benchmarks.speed.mts import (
        MtsSettings,
        measure,
        mts_sheets,
        parse_integrators,
        summarise,
    )
    from benchmarks.speed.results_file import ResultsFile, read_document
    from benchmarks.speed.starts import find_molecules

    settings = checked(
        MtsSettings, level=level, threads=threads, inner_fs=inner_fs, length_fs=length_fs,
        equilibration_fs=equilibration_fs, seed=seed,
    )  # fmt: skip
    wanted = parse_integrators(integrators, inner_fs)
    stock = None if aimd is None else read_document(aimd, "aimd")
    chosen = find_molecules(molecules)
    store = ResultsFile(out, "mts", settings.model_dump(mode="json"))
    for molecule in chosen:
        measure(molecule, wanted, settings, drift_fs, store, say)
    document = store.document | {"rows": summarise(store.document, stock)}
    finish(document, mts_sheets, as_json=as_json, as_markdown=as_markdown)


@app.command()
def loader(
    data: Annotated[str, typer.Option(help="Shipped set or folder of shards.")] = "mini-xtb",
    presets: Annotated[
        str, typer.Option(help="Sizes of ATOM to train, separated by commas.")
    ] = "mini,public",
    workers: Annotated[str, typer.Option(help="Numbers of loader workers.")] = "0,2",
    batch_size: Annotated[int, typer.Option(min=1, help="Windows per batch.")] = 32,
    batches: Annotated[int, typer.Option(min=1, help="Batches per repeat.")] = 200,
    steps: Annotated[int, typer.Option(min=1, help="Training steps per repeat.")] = 4,
    repeats: Annotated[int, typer.Option(min=1, help="Turns.")] = 9,
    threads: Annotated[
        int, typer.Option(min=1, max=MOST_THREADS, help="CPU threads of the training.")
    ] = 1,
    cores: Annotated[
        int,
        typer.Option(
            min=1, help="Number of cores to which the training is extrapolated (perfect scaling)."
        ),
    ] = 2,
    seed: SeedOption = 0,
    out: OutOption = None,
    as_json: JsonOption = False,
    as_markdown: MarkdownOption = False,
) -> None:
    """Measure the windows per second that the loader delivers and that the training of ATOM uses,
    alternately.

    Example: atom-bench speed loader --repeats 9 --markdown
    """
    from benchmarks.speed import loader as timing
    from benchmarks.speed.results_file import ResultsFile

    settings = checked(
        timing.LoaderSettings, data=data, batch_size=batch_size, batches=batches, steps=steps,
        repeats=repeats, threads=threads, cores=cores, seed=seed,
        presets=tuple(name.strip() for name in presets.split(",")),
        workers=tuple(workers.split(",")),
    )  # fmt: skip
    store = ResultsFile(out, "loader", settings.model_dump(mode="json"))
    store.get("loader", lambda: timing.measure(settings, say))
    finish(store.document, timing.loader_sheets, as_json=as_json, as_markdown=as_markdown)


@app.command()
def model(
    preset: Annotated[str, typer.Option(help="Size of ATOM: mini, public or paper.")] = "public",
    modes: Annotated[
        str, typer.Option(help="Time attention: joint, start, or both separated by a comma.")
    ] = "joint,start",
    atoms: Annotated[str, typer.Option(help="Numbers of atoms N.")] = "12,20",
    batch_size: Annotated[int, typer.Option(min=1, help="Samples per batch B.")] = 32,
    lags: Annotated[int, typer.Option(min=1, help="Lags per sample P.")] = 8,
    repeats: Annotated[int, typer.Option(min=1, help="Repeats of each measurement.")] = 5,
    threads: Annotated[int, typer.Option(min=1, max=MOST_THREADS, help="CPU threads.")] = 1,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    plain: Annotated[bool, typer.Option(help="Also time the plain loops.")] = True,
    bf16: Annotated[bool, typer.Option("--bf16", help="Add rows with bf16 autocast.")] = False,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Add rows with torch.compile.")
    ] = False,
    scaling: Annotated[
        bool, typer.Option("--scaling", help="Also vary B, N and P one at a time.")
    ] = False,
    scaling_sizes: Annotated[
        str, typer.Option(help="Values of B, N and P, as three lists.")
    ] = "1,4,16,32,64;10,50,100,200,400;1,4,16,32,64",
    memory_gb: Annotated[
        float, typer.Option(help="Skip sizes that may need more memory than this, GB.")
    ] = 2.0,
    seed: SeedOption = 0,
    out: OutOption = None,
    as_json: JsonOption = False,
    as_markdown: MarkdownOption = False,
) -> None:
    """Time the forward and training steps of ATOM, and plain loops of the same equations.

    Example: atom-bench speed model --scaling --out model.json --markdown
    """
    from benchmarks.speed import model as timing
    from benchmarks.speed import model_scaling
    from benchmarks.speed.model_report import model_sheets
    from benchmarks.speed.results_file import ResultsFile
    from benchmarks.training.trainer import pick_device

    settings = checked(
        timing.ModelSettings, preset=preset, modes=tuple(modes.replace(" ", "").split(",")),
        atoms=tuple(atoms.split(",")), batch_size=batch_size, lags=lags, repeats=repeats,
        threads=threads, device=device, plain=plain, bf16=bf16, compile=compiled, seed=seed,
    )  # fmt: skip
    sizes = model_scaling.parse_sizes(scaling_sizes)
    growth = checked(model_scaling.ScalingSettings, **sizes, memory_gb=memory_gb)
    pick_device(device)
    store = ResultsFile(out, "model", settings.model_dump(mode="json"))
    timing.measure(settings, store.get, say)
    if scaling:
        model_scaling.measure_scaling(settings, growth, store.get, say)
    finish(store.document, model_sheets, as_json=as_json, as_markdown=as_markdown)


def checked(model: type[BaseModel], **values: Any) -> Any:
    """The settings, or a user's error that names the first that can't be."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = "--" + "-".join(str(first["loc"][0]).split("_")) if first["loc"] else "settings"
        raise UserError(f"{name}: {first['msg']}") from None


def measure_each(
    molecules: str,
    kind: str,
    measure: Callable[..., dict[str, Any]],
    settings: BaseModel,
    out: Path | None = None,
    prepare: Callable[..., None] | None = None,
) -> dict[str, Any]:
    """Measures one molecule after the other; the document of all results.

    Args:
        molecules: names or SMILES, separated by commas.
        kind: of the results file.
        measure: (molecule, settings, say) -> results of the molecule.
        settings: of the command.
        out: results file, to go on from.
        prepare: (molecules, settings, say), before the first measurement.
    """
    from benchmarks.speed.results_file import ResultsFile
    from benchmarks.speed.starts import find_molecules

    chosen = find_molecules(molecules)
    store = ResultsFile(out, kind, settings.model_dump(mode="json"))
    if prepare is not None:
        prepare(chosen, settings, say)
    for molecule in chosen:
        store.get(molecule.name, lambda molecule=molecule: measure(molecule, settings, say))
    return store.document


def numbers(text: str, option: str, *, needed: bool = False) -> tuple[float, ...]:
    """Positive numbers of a comma-separated list.

    Raises:
        UserError: something in it is none, or there is none and one is `needed`.
    """
    try:
        found = tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        found = (-1.0,)
    if any(not 0 < value < 1e6 for value in found) or (needed and not found):
        raise UserError(f"{option} wants positive numbers such as 1.0,2.0, not {text!r}")
    return found


def finish(
    document: dict[str, Any],
    sheets: Callable[[dict[str, Any]], Sequence[Any]],
    *,
    as_json: bool,
    as_markdown: bool,
) -> None:
    """Print a result as JSON, as Markdown or for a terminal."""
    from benchmarks.speed.timing import machine_line
    from tg80.console import print_tables

    if as_json:
        print_json(document)
        return
    console = Console(width=None if sys.stdout.isatty() else 160)
    print_tables(sheets(document), as_markdown=as_markdown, console=console)
    console.print(machine_line(document["machine"]), soft_wrap=True, highlight=False)


def say(text: str) -> None:
    """Tells on standard error what is being done; long measurements are silent otherwise."""
    print(text, file=sys.stderr, flush=True)
