"""`atom-bench compare`: whether one model beats another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.commands.options import MarkdownOption
from tg80.console import JsonOption
from tg80.errors import Tg80Error


def compare(
    folder: Annotated[Path, typer.Argument(help="Folder of results.")],
    a: Annotated[str, typer.Argument(help="Model id, or MODEL[HASH] as in the leaderboard.")],
    b: Annotated[str, typer.Argument(help="The other model.")],
    part: Annotated[
        str | None,
        typer.Option(help="Only this part, such as test_ood; default: all common parts."),
    ] = None,
    fold: Annotated[
        int | None, typer.Option(help="Only this fold; default: all common folds.")
    ] = None,
    resamples: Annotated[
        int, typer.Option(min=1000, max=1_000_000, help="Bootstrap resamples.")
    ] = 10_000,
    as_json: JsonOption = False,
    as_markdown: MarkdownOption = False,
) -> None:
    """Test whether model A beats model B: S2T and S2S on the same windows, averaged over seeds.

    The 95 % interval is a paired bootstrap over molecules, then over their time blocks. If it
    contains zero, the models cannot be distinguished. With fewer than five molecules there is no
    verdict.

    Example: atom-bench compare runs atom persistence --part test_time
    """
    from benchmarks.studies.compare import compare as compare_models
    from benchmarks.studies.compare import document, tables
    from tg80.console import print_report

    bad: list[str] = []
    found = compare_models(folder, a, b, part=part, fold=fold, resamples=resamples, bad=bad)
    print_report(document(found), tables(found), as_json=as_json, as_markdown=as_markdown)
    if bad:
        raise Tg80Error(*bad)
