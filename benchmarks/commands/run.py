"""`atom-bench run`: train a model on one fold and score it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.commands.leaderboard import print_records
from benchmarks.commands.options import (
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
    parse_budget,
    parse_model_settings,
    parse_seeds,
    progress_bars,
)
from tg80.console import JsonOption
from tg80.errors import UserError
from tg80.files import make_folder
from tg80.untrusted.documents import print_json
from tg80.untrusted.tables import Console


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
    extra_data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of shards of further training compounds, for --track extra-data; what is "
            "too near to compounds of test_ood is left out.",
            show_default=False,
        ),
    ] = None,
    molecules: Annotated[
        int | None,
        typer.Option(
            help="Learn from so many molecules only, the task's own first.", show_default=False
        ),
    ] = None,
    begin: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Go on with the weights of a run of the same model, split, fold and track.",
            show_default=False,
        ),
    ] = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a model on one fold, score it on every part, and print the tables.

    The trivial predictors are scored as well. Run the same command again to resume; finished runs
    are reused, other settings get their own folder. With torchrun, all processes train one model
    together: torchrun --nproc-per-node 2 -m benchmarks.cli run ...

    Example: atom-bench run --fold 2 --budget-cpu-minutes 3 --seeds 0,1,2
    """
    from benchmarks.models import make_model, model_class
    from benchmarks.runs.pretrained import find_begin
    from benchmarks.runs.runner import run_model
    from benchmarks.tasks.data import load_benchmark
    from benchmarks.tasks.lessons import learning_from
    from benchmarks.tasks.tasks import get_task, is_fine_tuning
    from benchmarks.training import distributed
    from tg80.splits.split import load_split

    with distributed.session(device):
        with distributed.together():
            budget = parse_budget(epochs, budget_cpu_minutes)
            chosen_task, chosen_seeds = get_task(task, track), parse_seeds(seeds)
            if is_fine_tuning(chosen_task):
                raise UserError(f"task {task}: `atom-bench finetune` runs it")
            given = parse_model_settings(settings, device, preset)
            if not model_class(model).trains:
                if settings or preset:
                    raise UserError(f"model {model} takes neither --set nor --preset")
                if extra_data or molecules or chosen_task.extra_data:
                    raise UserError(
                        f"model {model} learns from the task's own data: leave out --molecules, "
                        "--extra-data and its track"
                    )
                given = {}
            make_model(model, **given)  # Wrong settings are reported before any data are read.
            benchmark = load_benchmark(chosen_task, fold, data, split)
            frozen = load_split(split or chosen_task.split) if chosen_task.has_folds else None
            benchmark = learning_from(benchmark, frozen, extra_data, molecules)
            found = None if begin is None else find_begin(begin, model, benchmark)
            if found is not None:
                given = found.settings(given)
            make_folder(out, "--out")
        with progress_bars() as progress:
            records = run_model(
                model, benchmark, seeds=chosen_seeds, budget=budget, settings=given, out=out,
                prepare=found.prepare if found else None,
                progress=progress if distributed.is_main() else None,
            )  # fmt: skip
        if not distributed.is_main():
            return
    if as_json:
        print_json([record.model_dump(mode="json") for record in records])
    else:
        print_records(records, "terminal")
        Console(stderr=True).print(f"records: {out.resolve()}", soft_wrap=True)
