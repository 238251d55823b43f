"""`atom-bench finetune`: what pretraining on many molecules buys on one more."""

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
    OutOption,
    SeedsOption,
    SetOption,
    SplitOption,
    TrackOption,
    parse_budget,
    parse_model_settings,
    parse_numbers,
    parse_seeds,
    progress_bars,
)
from tg80.console import JsonOption
from tg80.errors import UserError
from tg80.files import make_folder
from tg80.untrusted.tables import Console


def finetune(
    name: Annotated[str, typer.Argument(help="Molecule not seen in pretraining.")],
    pretrained: Annotated[
        Path,
        typer.Option(
            "--from",
            help="Results of `atom-bench run`, one of its runs, or a checkpoint.",
            show_default=False,
        ),
    ],
    frames: Annotated[str, typer.Option(help="Numbers of training frames.")] = "32,128,512",
    task: Annotated[
        str, typer.Option(help="Family of tasks: mini-xtb-finetune or tg80-finetune.")
    ] = "mini-xtb-finetune",
    data: DataOption = None,
    track: TrackOption = "canonical",
    seeds: SeedsOption = "1",
    epochs: EpochsOption = None,
    budget_cpu_minutes: BudgetOption = None,
    out: OutOption = Path("runs"),
    device: DeviceOption = "auto",
    split: SplitOption = None,
    settings: SetOption = None,
    allow_seen: Annotated[
        bool,
        typer.Option(
            "--allow-seen", help="Accept a model that may have seen NAME; its rows are marked."
        ),
    ] = False,
    as_json: JsonOption = False,
    as_markdown: MarkdownOption = False,
) -> None:
    """Fine-tune a trained ATOM on few frames of one molecule, and compare with training from
    scratch.

    Both use the same frames, budget and settings, and are scored on test_time of the molecule; a
    figure is written to the folder of results. Finished runs are reused.

    Example: atom-bench finetune ethanol --from runs --frames 32,128,512 --seeds 3
    """  # fmt: skip
    from benchmarks.studies.finetune import document, figure, find_pretraining, study, tables
    from benchmarks.tasks.data import molecule_data
    from benchmarks.tasks.tasks import get_task
    from benchmarks.training import distributed
    from tg80.console import print_report
    from tg80.files import write_atomically
    from tg80.splits.split import load_split

    with distributed.session(device):
        with distributed.together():
            budget = parse_budget(epochs, budget_cpu_minutes)
            chosen_task, chosen_seeds = get_task(f"{task}/{name}", track), parse_seeds(seeds)
            given = parse_model_settings(settings, device, None)
            if unknown := given.keys() - {"training", "device"}:
                raise UserError(
                    f"--set {min(unknown)}: the pretrained model decides on all but training.*"
                )
            numbers = sorted(map(int, parse_numbers(frames, "--frames", whole=True)))
            frozen = load_split(split or chosen_task.split)
            begin = find_pretraining(pretrained, chosen_task, frozen, allow_seen=allow_seen)
            molecule = molecule_data(chosen_task, begin.fold, frozen, data)
            make_folder(out, "--out")
        with progress_bars() as progress:
            found = study(
                begin, molecule, frames=numbers, seeds=chosen_seeds, budget=budget,
                settings=given, out=out, progress=progress if distributed.is_main() else None,
            )  # fmt: skip
        if not distributed.is_main():
            return
    drawing = out / chosen_task.id / f"{chosen_task.track}-fold{begin.fold}.png"
    write_atomically(drawing, figure(found))
    report = document(found) | {"figure": str(drawing)}
    print_report(report, tables(found), as_json=as_json, as_markdown=as_markdown)
    if not as_json:
        Console(stderr=True).print(f"figure: {drawing.resolve()}", soft_wrap=True)
