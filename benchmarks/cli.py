"""The `atom-bench` command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.commands.ablate import ablate
from benchmarks.commands.compare import compare
from benchmarks.commands.finetune import finetune
from benchmarks.commands.horizons import horizons
from benchmarks.commands.leaderboard import leaderboard, print_tables
from benchmarks.commands.options import (
    DEFAULT_CPU_MINUTES,
    BudgetOption,
    DataOption,
    DeviceOption,
    EpochsOption,
    FoldOption,
    OutOption,
    PresetOption,
    SeedsOption,
    SetOption,
    SplitOption,
    TaskOption,
    TrackOption,
    parse_seeds,
    progress_bars,
)
from benchmarks.commands.submissions import score, submit, template
from benchmarks.commands.symmetry import symmetry
from benchmarks.commands.tune import tune
from benchmarks.speed.commands import app as speed_app
from tg80.console import JsonOption, run_app
from tg80.errors import UserError
from tg80.files import make_folder
from tg80.untrusted.documents import print_json
from tg80.untrusted.tables import Console

app = typer.Typer(
    help="Train and score models of molecular dynamics on TG80, and keep their leaderboard.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(speed_app, name="speed")


@app.command()
def run(
    fold: FoldOption = None,
    data: DataOption = None,
    task: TaskOption = "mini-xtb-v1",
    model: Annotated[str, typer.Option(help="Model id.")] = "atom",
    track: TrackOption = "canonical",
    preset: PresetOption = None,
    seeds: SeedsOption = "1",
    epochs: EpochsOption = None,
    budget_cpu_minutes: BudgetOption = None,
    out: OutOption = Path("runs"),
    device: DeviceOption = "auto",
    split: SplitOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a model on one fold, score it on every part, and print the tables.

    The trivial predictors are scored beside a learnt model. The same command again reuses what is
    finished and goes on with what was killed; other settings get folders of their own. Started by
    torchrun, all processes train one model together: torchrun --nproc-per-node 2 -m benchmarks.cli
    run ...

    Example: atom-bench run --fold 2 --budget-cpu-minutes 3 --seeds 0,1,2
    """
    from benchmarks.interface import Budget
    from benchmarks.models import make_model, model_class
    from benchmarks.models.settings import parse_overrides
    from benchmarks.runs.runner import run_model
    from benchmarks.tasks.data import load_benchmark
    from benchmarks.tasks.tasks import get_task, is_fine_tuning
    from benchmarks.training import distributed

    if epochs is None and budget_cpu_minutes is None:
        budget_cpu_minutes = DEFAULT_CPU_MINUTES
    with distributed.session(device):
        with distributed.together():
            budget = Budget(epochs=epochs, cpu_minutes=budget_cpu_minutes)
            chosen_task, chosen_seeds = get_task(task, track), parse_seeds(seeds)
            if is_fine_tuning(chosen_task):
                raise UserError(f"task {task}: `atom-bench finetune` runs it")
            given: dict[str, Any] = parse_overrides(settings or [])
            if model_class(model).trains:
                given |= {"device": device} | ({"preset": preset} if preset else {})
            elif given or preset:
                raise UserError(f"model {model} takes neither --set nor --preset")
            make_model(model, **given)  # Wrong settings are told before any data is read.
            benchmark = load_benchmark(chosen_task, fold, data, split)
            make_folder(out, "--out")
        with progress_bars() as progress:
            records = run_model(
                model, benchmark, seeds=chosen_seeds, budget=budget, settings=given, out=out,
                progress=progress if distributed.is_main() else None,
            )  # fmt: skip
        if not distributed.is_main():
            return
    if as_json:
        print_json([record.model_dump(mode="json") for record in records])
    else:
        print_tables(records, "terminal")
        Console(stderr=True).print(f"records: {out.resolve()}", soft_wrap=True)


app.command()(leaderboard)
app.command()(symmetry)
app.command()(finetune)
app.command()(horizons)
app.command()(ablate)
app.command()(tune)
app.command()(compare)
app.command()(template)
app.command()(score)
app.command()(submit)


def main(argv: list[str] | None = None) -> int:
    """Console script; returns the exit code."""
    return run_app(app, argv, "atom-bench")


if __name__ == "__main__":
    sys.exit(main())
