"""The `tg80` command."""

import sys
from typing import Annotated

import typer

import tg80
from pipelines.commands.download import download
from pipelines.commands.export import export
from pipelines.commands.generate import collect, generate
from pipelines.commands.info import info
from pipelines.commands.plan import plan
from pipelines.commands.public import public
from pipelines.commands.publish import publish
from pipelines.commands.singlepoint import singlepoint
from pipelines.commands.split import split
from pipelines.commands.status import status
from pipelines.commands.twin import twin
from pipelines.commands.validate import validate
from tg80.console import run_app

app = typer.Typer(
    name="tg80",
    help="Makes, checks and splits TG80: ab initio molecular dynamics of organic compounds.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"tg80 {tg80.__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool,
        # Eager: it is done before a command is asked for.
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    pass


for command in (
    generate,
    status,
    collect,
    singlepoint,
    validate,
    info,
    split,
    twin,
    plan,
    export,
    download,
    public,
    publish,
):
    app.command()(command)


def run(argv: list[str] | None = None) -> int:
    """Run the command line `argv` and return its exit code."""
    return run_app(app, argv, "tg80")


if __name__ == "__main__":
    sys.exit(run())
