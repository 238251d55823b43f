"""The `atom-bench` command."""

from __future__ import annotations

import sys

import typer

from benchmarks.commands.ablate import ablate
from benchmarks.commands.compare import compare
from benchmarks.commands.finetune import finetune
from benchmarks.commands.harmonic_trial import harmonic_trial
from benchmarks.commands.horizons import horizons
from benchmarks.commands.leaderboard import leaderboard
from benchmarks.commands.run import run
from benchmarks.commands.submissions import score, submit, template
from benchmarks.commands.symmetry import symmetry
from benchmarks.commands.tune import tune
from benchmarks.speed.commands import app as speed_app
from tg80.console import run_app

app = typer.Typer(
    help="Train and score models of molecular dynamics on TG80, and keep their leaderboard.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(speed_app, name="speed")
for command in (
    run, leaderboard, symmetry, finetune, horizons, ablate, tune, harmonic_trial, compare, template,
    score, submit,
):  # fmt: skip
    app.command()(command)


def main(argv: list[str] | None = None) -> int:
    """Console script; returns the exit code."""
    return run_app(app, argv, "atom-bench")


if __name__ == "__main__":
    sys.exit(main())
