"""`atom-bench harmonic-trial`: a model on molecules whose motion is known exactly."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.commands.options import (
    DeviceOption,
    MarkdownOption,
    PresetOption,
    SetOption,
    parse_model_settings,
    progress_bars,
    teller,
)
from tg80.console import JsonOption
from tg80.files import make_folder
from tg80.untrusted.limits import MOST_SEED


def harmonic_trial(
    model: Annotated[str, typer.Option(help="Id of a model.")] = "atom",
    molecule: Annotated[
        list[str] | None,
        typer.Option(
            help="Molecule to learn, may be repeated; default: furan and benzoic-acid.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of shards with its Hessian; default: the shipped mini set."),
    ] = None,
    minutes: Annotated[
        float, typer.Option(help="CPU minutes of a training (wall minutes on a GPU).")
    ] = 1.0,
    preset: PresetOption = None,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of the training.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder of checkpoints.")] = Path("trials"),
    device: DeviceOption = "auto",
    settings: SetOption = None,
    as_json: JsonOption = False,
    as_markdown: MarkdownOption = False,
) -> None:
    """Train a model on exactly harmonic molecules, and print its errors over those of persistence.

    Molecules follow their GFN2-xTB Hessian at 300 K; every training window is fresh, at lags of 10
    to 960 fs. A model that fails here cannot represent how a molecule moves with time. Run the
    same command again to resume.

    Example: atom-bench harmonic-trial --model atom --minutes 0.7 --set model.sigma_positions=0
    """
    from benchmarks.interface import Budget
    from benchmarks.models import model_class
    from benchmarks.studies.harmonic_trial import MOLECULES, harmonic_molecule, run_trial, tables
    from tg80.console import print_report

    budget = Budget(cpu_minutes=minutes)
    given = {}
    if model_class(model).trains:
        given = parse_model_settings(settings, device, preset)
    chosen = [harmonic_molecule(name, data) for name in dict.fromkeys(molecule or MOLECULES)]
    make_folder(out, "--out")
    results = []
    with progress_bars() as progress:
        tell = teller(progress)
        for one in chosen:
            results.append(
                run_trial(model, given, one, budget=budget, seed=seed, out=out, progress=progress)
            )
            tell(f"[{len(results)}/{len(chosen)}] {one.source.name}: {results[-1].at(120.0):.4f} "
                 "of persistence at 120 fs")  # fmt: skip
    report = [dataclasses.asdict(result) for result in results]
    print_report(report, tables(results), as_json=as_json, as_markdown=as_markdown)
