"""`atom-bench ablate`: ATOM without each of its parts, at a matched budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.commands.options import (
    BudgetOption,
    DataOption,
    DeviceOption,
    EpochsOption,
    FoldOption,
    MarkdownOption,
    OutOption,
    PresetOption,
    SeedsOption,
    SetOption,
    SplitOption,
    TaskOption,
    TrackOption,
    parse_budget,
    parse_model_settings,
    parse_seeds,
    progress_bars,
    teller,
)
from tg80.console import JsonOption
from tg80.files import make_folder


def ablate(
    fold: FoldOption = None,
    data: DataOption = None,
    task: TaskOption = "mini-xtb-v1",
    model: Annotated[str, typer.Option(help="Base model: atom or atom-start.")] = "atom",
    track: TrackOption = "canonical",
    preset: PresetOption = None,
    seeds: SeedsOption = "3",
    only: Annotated[
        str | None,
        typer.Option(
            help="Names of ablations, separated by commas; default: all, or none with --change."
        ),
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option(help="A setting, as in --set, that makes another variant; may be repeated."),
    ] = None,
    epochs: EpochsOption = None,
    budget_cpu_minutes: BudgetOption = None,
    out: OutOption = Path("runs"),
    device: DeviceOption = "auto",
    split: SplitOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
    as_markdown: MarkdownOption = False,
) -> None:
    """Train ATOM without each of its parts at the same budget, and print the contribution of each.

    Values are means over seeds with twice their standard deviation; differences from the base have
    twice their standard error and a 95 % interval over molecules. "clear" marks a difference in S2S
    beyond both. Run the same command again to resume; finished runs are reused.

    Example: atom-bench ablate --fold 2 --seeds 3 --only no-rope,gat --budget-cpu-minutes 3

    Example: atom-bench ablate --fold 2 --change training.loss=mse --change model.n_blocks=3
    """
    from benchmarks.studies.ablate import document, run_all, tables, variants
    from benchmarks.tasks.data import load_benchmark
    from benchmarks.tasks.tasks import get_task
    from tg80.console import print_report

    budget = parse_budget(epochs, budget_cpu_minutes)
    chosen_task, chosen_seeds = get_task(task, track), parse_seeds(seeds)
    given = parse_model_settings(settings, device, preset)
    names = [name.strip() for name in (only or "").split(",") if name.strip()]
    chosen = variants(model, given, names, change or ())
    benchmark = load_benchmark(chosen_task, fold, data, split)
    make_folder(out, "--out")
    with progress_bars() as progress:
        done = run_all(
            chosen, benchmark, seeds=chosen_seeds, budget=budget, out=out, progress=progress,
            tell=teller(progress),
        )  # fmt: skip
    about = {
        "task": task,
        "track": track,
        "fold": benchmark.fold,
        "base": model,
        "seeds": chosen_seeds,
    }
    report = about | document(chosen, done)
    print_report(report, tables(chosen, done), as_json=as_json, as_markdown=as_markdown)
