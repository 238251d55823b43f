"""`atom-bench speed`: side-by-side timings, run by hand on a quiet machine.

Every command is a class of settings and the module of its name, with two functions:
`measure(settings, results)` and `tables(settings, results)`. A module whose `--json` also holds
what follows from the results has `rows(settings, results)`.
"""

import inspect
import sys
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from benchmarks.speed.settings import COMMANDS, Settings
from tg80.console import JsonOption, print_tables
from tg80.errors import UserError
from tg80.untrusted.documents import print_json
from tg80.untrusted.tables import Console

app = typer.Typer(
    help="Time our engine side by side with stock PySCF, integrators with each other, "
    "processes with each other.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

MarkdownOption = Annotated[bool, typer.Option("--markdown", help="Print the tables as Markdown.")]
OutOption = Annotated[
    Path | None,
    typer.Option(help="Results file, written after each part; the same command resumes from it."),
]


def _add_command(name: str, kind: type[Settings]) -> None:
    def command(
        *,
        out: OutOption = None,
        as_json: JsonOption = False,
        as_markdown: MarkdownOption = False,
        **options: Any,
    ) -> None:
        settings = checked(kind, options)
        module = import_module(f"benchmarks.speed.{name}")
        from benchmarks.speed.scaffold import Results

        results = Results(out, name, settings)
        module.measure(settings, results)
        if as_json:
            document = results.document.model_dump(mode="json")
            if hasattr(module, "rows"):
                document["rows"] = [asdict(row) for row in module.rows(settings, results)]
            print_json(document)
            return
        console = Console(width=None if sys.stdout.isatty() else 160)
        tables = [table for table in module.tables(settings, results) if table.rows]
        print_tables(tables, as_markdown=as_markdown, console=console)
        console.print(results.document.machine.line(), soft_wrap=True, highlight=False)

    own = [_option(name, field) for name, field in kind.model_fields.items() if field.description]
    shared = list(inspect.signature(command).parameters.values())[:-1]
    command.__signature__ = inspect.Signature(own + shared)  # type: ignore[attr-defined]
    command.__doc__ = kind.__doc__
    app.command(name)(command)


def _option(name: str, field: FieldInfo) -> inspect.Parameter:
    """The option of a field; what is neither number, flag nor path is read from a text."""
    limits: dict[str, Any] = {}
    for constraint in field.metadata if field.annotation in (int, float) else ():
        for typers, pydantics in (("min", "ge"), ("max", "le")):
            if hasattr(constraint, pydantics):
                limits[typers] = getattr(constraint, pydantics)
    plain = field.annotation in (int, float, bool, Path | None)
    kind: Any = Annotated[
        field.annotation if plain else str, typer.Option(help=field.description, **limits)
    ]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=kind
    )


def checked(kind: type[Settings], options: dict[str, Any]) -> Settings:
    """The settings.

    Raises:
        UserError: an option can't be so; names the first.
    """
    try:
        return kind.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0]).replace("_", "-")
        raise UserError(f"--{option}: {first['msg'].removeprefix('Value error, ')}") from None


for _name, _kind in COMMANDS.items():
    _add_command(_name, _kind)
