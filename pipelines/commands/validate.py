"""`tg80 validate`: are these files what they say they are?"""

from pathlib import Path
from typing import Annotated

import typer

from tg80.console import JsonOption, console
from tg80.release.intact import check_versions
from tg80.shards.validate import files_to_check
from tg80.shards.validate import validate as validate_path
from tg80.untrusted.documents import print_json


def validate(
    paths: Annotated[
        list[Path],
        # One that cannot be read is a finding, as it is in a folder.
        typer.Argument(
            readable=False, help="Shards (.h5md), files of twins, or folders with them."
        ),
    ],
    json_output: JsonOption = False,
) -> None:
    """Check shards: checksum, structure, units, metadata, physics.

    A folder without shards is searched recursively. Files of twins are checked as well, and the
    files of a published version must be those of its manifest. Prints one
    line for each problem. Exit code 0 without errors (warnings are allowed), 1 with errors, 2 if a
    path holds nothing to check.

    Example: tg80 validate runs/ethanol-r0.h5md
    """
    n_files = sum(
        len(files_to_check(path)) for path in paths
    )  # a bad path stops it before any work
    problems = [p for path in paths for p in (*validate_path(path), *check_versions(path))]
    n_errors = sum(problem.level == "error" for problem in problems)
    if json_output:
        report = {
            "n_files": n_files,
            "n_errors": n_errors,
            "n_warnings": len(problems) - n_errors,
            "problems": [problem.as_dict() for problem in problems],
        }
        print_json(report, indent=2)
    else:
        for problem in problems:
            print(problem)
        files = "1 file" if n_files == 1 else f"{n_files} files"
        n_warnings = len(problems) - n_errors
        console.print(f"{files}: {n_errors} errors, {n_warnings} warnings", highlight=False)
    if n_errors:
        raise typer.Exit(1)
