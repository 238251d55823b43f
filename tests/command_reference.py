"""Writes docs/reference/commands.md from the help: python -m tests.command_reference"""

import contextlib
import io
import os
from functools import partial
from pathlib import Path

import typer

from tg80.console import run_app

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "commands.md"
_INTRODUCTION = """# Commands

The help of every command, as `--help` prints it. Made by `python -m tests.command_reference`.

Exit codes: 0 all is well, 1 something failed (a computation, a check), 2 the input is at fault, 130
stopped with Ctrl-C, 143 with SIGTERM, 141 the reader of the output went away. An error is one line
on standard error; `--debug` shows where it came from. `--json` prints one JSON document, in which
`null` stands for what is no finite number.
"""


def programs():
    """Name, typer app and runner of both programs."""
    from benchmarks.cli import app as bench
    from pipelines.cli import app as data

    apps = {"tg80": data, "atom-bench": bench}
    return [(name, app, partial(run_app, app, prog=name)) for name, app in apps.items()]


def command_names(app: typer.Typer) -> list[str]:
    """All commands of an app in the order of its help; one of a group as `group command`."""
    names = []
    for name, command in getattr(typer.main.get_command(app), "commands", {}).items():
        inner = getattr(command, "commands", None)
        names += [name] if inner is None else [f"{name} {each}" for each in inner]
    return names


def help_text(run, arguments: list[str]) -> str:
    """What a command prints for --help, 88 columns wide."""
    os.environ["COLUMNS"] = os.environ["TERMINAL_WIDTH"] = "88"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        code = run([*arguments, "--help"])
    if code != 0:
        raise RuntimeError(f"{arguments} --help gave exit code {code}")
    return "\n".join(line.rstrip() for line in printed.getvalue().splitlines()).strip()


def reference() -> str:
    """The whole page."""
    sections = [_INTRODUCTION]
    for name, app, run in programs():
        for command in command_names(app):
            sections.append(
                f"## {name} {command}\n\n```text\n{help_text(run, command.split())}\n```\n"
            )
    return "\n".join(sections)


if __name__ == "__main__":
    PAGE.write_text(reference())
