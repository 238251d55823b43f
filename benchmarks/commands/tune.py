"""`atom-bench tune`: settings of a model, compared in validation alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.commands.options import (
    BudgetOption,
    DataOption,
    DeviceOption,
    EpochsOption,
    MarkdownOption,
    PresetOption,
    SetOption,
    SplitOption,
    TaskOption,
    TrackOption,
    parse_budget,
    parse_model_settings,
    progress_bars,
    teller,
)
from tg80.console import JsonOption
from tg80.files import make_folder
from tg80.untrusted.limits import MOST_SEED


def tune(
    model: Annotated[str, typer.Option(help="Id of a model that trains.")],
    change: Annotated[
        list[str] | None,
        typer.Option(
            help="Settings of a trial, as in --set, separated by spaces; may be repeated."
        ),
    ] = None,
    fold: Annotated[
        int | None,
        typer.Option(
            help="Fold of the split; default: 1, where the settings of all folds are chosen.",
            show_default=False,
        ),
    ] = None,
    data: DataOption = None,
    task: TaskOption = "mini-xtb-v1",
    track: TrackOption = "canonical",
    preset: PresetOption = None,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of every trial.")] = 0,
    most: Annotated[
        int,
        typer.Option(
            min=1, help="Largest number of trials of a model, with those already in --out."
        ),
    ] = 8,
    epochs: EpochsOption = None,
    budget_cpu_minutes: BudgetOption = None,
    out: Annotated[Path, typer.Option(help="Folder of trials.")] = Path("tuning"),
    device: DeviceOption = "auto",
    split: SplitOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
    as_markdown: MarkdownOption = False,
) -> None:
    """Train a model unchanged and with each change, and print the validation errors.

    No test part is used. Run the same command again to resume; finished trials are reused. The
    number of trials is limited equally for all models.

    Example: atom-bench tune --model egno --change training.learning_rate=0.003 --change
    "model.width=96 model.n_layers=3"
    """
    from benchmarks.studies.tune import TUNING_FOLD, candidates, run_trials, tables
    from benchmarks.tasks.data import load_benchmark
    from benchmarks.tasks.tasks import get_task
    from tg80.console import print_report

    budget = parse_budget(epochs, budget_cpu_minutes)
    chosen_task = get_task(task, track)
    chosen = candidates(model, parse_model_settings(settings, device, preset), change or ())
    if fold is None and chosen_task.has_folds:
        fold = TUNING_FOLD
    benchmark = load_benchmark(chosen_task, fold, data, split)
    make_folder(out, "--out")
    with progress_bars() as progress:
        trials = run_trials(
            chosen, benchmark, seed=seed, budget=budget, out=out, most=most, progress=progress,
            tell=teller(progress),
        )  # fmt: skip
    report = [trial.model_dump(mode="json") for trial in trials]
    print_report(report, tables(trials), as_json=as_json, as_markdown=as_markdown)
