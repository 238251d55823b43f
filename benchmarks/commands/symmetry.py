"""`atom-bench symmetry`: how well models keep the symmetries of mechanics."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from typing import Annotated

import typer

from benchmarks.commands.options import (
    DataOption,
    FoldOption,
    FromOption,
    MarkdownOption,
    SplitOption,
    TaskOption,
    TrackOption,
    parse_seeds,
    progress_bars,
)
from tg80.console import JsonOption
from tg80.errors import RunFailed


def symmetry(
    fold: FoldOption = None,
    data: DataOption = None,
    task: TaskOption = "mini-xtb-v1",
    model: Annotated[
        list[str] | None, typer.Option(help="Model id; may be repeated; default: all models.")
    ] = None,
    track: TrackOption = "canonical",
    seeds: Annotated[
        str | None,
        typer.Option(
            help="Number of seeds, or a list such as 0,1,2; default: 1, or all in --from."
        ),
    ] = None,
    results: FromOption = None,
    part: Annotated[str, typer.Option(help="Part whose windows are rotated.")] = "test_time",
    windows: Annotated[int, typer.Option(min=1, help="Number of windows, evenly spaced.")] = 32,
    rotations: Annotated[int, typer.Option(min=2, help="Random rotations per window.")] = 32,
    split: SplitOption = None,
    as_json: JsonOption = False,
    as_markdown: MarkdownOption = False,
) -> None:
    """Measure errors under rotations, reflections, translations and permutations of atoms.

    Learned models are measured with initial weights and, with --from, with trained weights. Exit
    code 1 if a translation or permutation changes a prediction by more than rounding.

    Example: atom-bench symmetry --fold 2 --from runs --model atom
    """
    from benchmarks.interface import CannotPredict
    from benchmarks.models import model_class
    from benchmarks.runs.saved import cases
    from benchmarks.studies.symmetry import SymmetrySettings, document, measure, tables
    from benchmarks.tasks.data import load_benchmark
    from benchmarks.tasks.tasks import get_task
    from tg80.console import print_report

    chosen_task = get_task(task, track)
    chosen_seeds = None if seeds is None else parse_seeds(seeds)
    for name in model or ():
        model_class(name)
    settings = SymmetrySettings(part, windows, rotations)
    benchmark = load_benchmark(chosen_task, fold, data, split)
    chosen = cases(benchmark, results, models=model or (), seeds=chosen_seeds)
    found = []
    with progress_bars() as progress:
        bar = progress.add_task("symmetry", total=len(chosen))
        for case in chosen:
            progress.update(bar, description=f"{case.label}, {case.state}")
            with nullcontext() if model else suppress(CannotPredict):
                found.append(
                    measure(
                        case.load(benchmark), benchmark, settings,
                        label=case.label, state=case.state, seed=case.seed,
                    )
                )  # fmt: skip
            progress.advance(bar)
    about = {"task": chosen_task.id, "track": chosen_task.track, "fold": benchmark.fold}
    report = about | document(found, settings)
    print_report(report, tables(found, settings), as_json=as_json, as_markdown=as_markdown)
    wrong = sorted({one.label for one in found if not one.is_exact})
    if wrong:
        raise RunFailed(f"shifts or orders of atoms change the prediction of {', '.join(wrong)}")
