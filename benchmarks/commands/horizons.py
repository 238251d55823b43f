"""`atom-bench horizons`: trained models asked for other lags than those of the task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.commands.options import (
    DataOption,
    FoldOption,
    MarkdownOption,
    SplitOption,
    TaskOption,
    TrackOption,
    parse_numbers,
    parse_seeds,
    progress_bars,
)
from tg80.console import JsonOption
from tg80.files import make_folder
from tg80.untrusted.documents import to_json
from tg80.untrusted.tables import Console


def horizons(
    fold: FoldOption = None,
    results: Annotated[
        Path, typer.Option("--from", help="Folder of results with trained models.")
    ] = Path("runs"),
    data: DataOption = None,
    task: TaskOption = "mini-xtb-v1",
    model: Annotated[
        list[str] | None, typer.Option(help="Model id; may be repeated; default: all models.")
    ] = None,
    track: TrackOption = "canonical",
    seeds: Annotated[
        str | None, typer.Option(help="Number of seeds, or a list such as 0,1,2; default: all.")
    ] = None,
    steps: Annotated[
        str, typer.Option(help="Numbers P of steps up to the horizon of the task.")
    ] = "1,2,4,8,16,32",
    horizons_fs: Annotated[
        str | None,
        typer.Option(
            help="Horizons, fs; default: that of the task, halved and doubled a few times."
        ),
    ] = None,
    irregular: Annotated[int, typer.Option(min=0, help="Number of lists of random lags.")] = 4,
    out: Annotated[
        Path | None, typer.Option(help="Folder for horizons.json and one figure per model.")
    ] = None,
    split: SplitOption = None,
    as_json: JsonOption = False,
    as_markdown: MarkdownOption = False,
) -> None:
    """Score trained models at other numbers of steps, other horizons and irregular lags.

    Shows error against lag, compared with persistence and blend; lags beyond those of the training
    are marked as extrapolation. A horizon longer than the block of a part is refused. How much a
    prediction depends on the other lags of the same call is measured as well.

    Example: atom-bench horizons --fold 2 --from runs --model atom --out figures
    """
    from benchmarks.models import model_class
    from benchmarks.runs.saved import saved_runs
    from benchmarks.studies.horizons import (
        HORIZON_FACTORS,
        by_label,
        document,
        figure,
        questions,
        study,
        tables,
    )
    from benchmarks.tasks.data import load_benchmark
    from benchmarks.tasks.tasks import get_task
    from tg80.console import print_report
    from tg80.files import write_atomically

    chosen_task = get_task(task, track)
    chosen_seeds = () if seeds is None else parse_seeds(seeds)
    for name in model or ():
        model_class(name)
    asked_steps = [int(p) for p in parse_numbers(steps, "--steps", whole=True)]
    asked_horizons = (
        [chosen_task.horizon_fs * factor for factor in HORIZON_FACTORS]
        if horizons_fs is None
        else parse_numbers(horizons_fs, "--horizons-fs")
    )
    benchmark = load_benchmark(chosen_task, fold, data, split)
    runs = saved_runs(results, benchmark, models=model or (), seeds=chosen_seeds)
    if out is not None:
        make_folder(out, "--out")
    asked, refused = questions(
        benchmark, steps=asked_steps, horizons_fs=asked_horizons, irregular=irregular
    )
    with progress_bars() as progress:
        bar = progress.add_task("horizons", total=len(runs) + 1)

        def tell(text: str) -> None:
            progress.update(bar, description=text, advance=1)

        found = study(runs, benchmark, asked, refused, tell=tell)
    report = {"task": task, "track": track, "fold": benchmark.fold} | document(found)
    if out is not None:
        write_atomically(out / "horizons.json", to_json(report).encode())
        for label in by_label(found):
            name = "".join(c if c.isalnum() or c in "-_.=" else "_" for c in label)
            write_atomically(out / f"horizons-{name}.png", figure(found, label))
    print_report(report, tables(found), as_json=as_json, as_markdown=as_markdown)
    console = Console(stderr=True)
    for line in refused:
        console.print(f"refused: {line}", soft_wrap=True, highlight=False)
    if out is not None:
        console.print(f"figures: {out.resolve()}", soft_wrap=True, highlight=False)
