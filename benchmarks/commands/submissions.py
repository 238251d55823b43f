"""`atom-bench template`, `score` and `submit`: joining the leaderboard from outside."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.commands.leaderboard import print_records
from benchmarks.commands.options import (
    DataOption,
    FoldOption,
    OutOption,
    SplitOption,
    TaskOption,
    TrackOption,
    check_name,
    check_output_file,
    check_writable,
)
from tg80.console import JsonOption
from tg80.errors import UserError
from tg80.files import check_folder, make_folder
from tg80.untrusted.documents import print_json
from tg80.untrusted.tables import Console

ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")]
AsIsOption = Annotated[
    bool,
    typer.Option(
        "--as-is", help="Accept positions that look like another unit or coordinate frame."
    ),
]
FileArgument = Annotated[Path, typer.Argument(help="Filled template, or archive of `submit`.")]


def template(
    out: Annotated[Path, typer.Option(help="HDF5 file to write.", show_default=False)],
    fold: FoldOption = None,
    data: DataOption = None,
    task: TaskOption = "mini-xtb-v1",
    part: Annotated[
        list[str] | None, typer.Option(help="Part; may be repeated; default: the test parts.")
    ] = None,
    track: TrackOption = "canonical",
    split: SplitOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write the start states and lags of the test parts, without targets, to a file to fill in.

    Fill in the dataset `predictions` and the attributes of `submission`, then run `atom-bench
    score` or `atom-bench submit`. docs/benchmark/joining.md has an example.

    Example: atom-bench template --task mini-xtb-v1 --fold 2 --out template.h5
    """
    from dataclasses import asdict

    from benchmarks.submissions.layout import write_template
    from benchmarks.submissions.template import issue, task_of
    from benchmarks.tasks.data import load_benchmark

    check_output_file(out, "--out", replace=force)
    made = issue(load_benchmark(task_of(task, track), fold, data, split), part).template
    write_template(out, made)
    facts = {
        "file": str(out), "id": made.id, **asdict(made.header), "parts": made.parts,
        "shape": list(made.shape), "lags_fs": made.lags_fs.tolist(),
    }  # fmt: skip
    if as_json:
        print_json(facts)
    else:
        n_entries, n_lags, n_atoms, _ = made.shape
        print(f"{out}: template {made.id}")
        print(f"{n_entries} entries of {', '.join(made.parts)}, {n_lags} lags, {n_atoms} atoms")


def score(
    file: FileArgument,
    data: DataOption = None,
    split: SplitOption = None,
    out: OutOption = Path("runs"),
    as_is: AsIsOption = False,
    as_json: JsonOption = False,
) -> None:
    """Check a filled template, score it like a model of the benchmark, and write a record.

    Its row is named submitted/NAME. A wrong file is refused in one line with exit code 2.

    Example: atom-bench score template.h5 --out runs
    """
    from benchmarks.submissions.packing import opened
    from benchmarks.submissions.scoring import TRUE_TO, load_data_of, score_submission

    check_name(out, "--out")
    check_folder(out, "--out")
    check_writable(out, "--out")
    with opened(file, as_is=as_is) as submission:
        loaded = load_data_of(submission, data, split)
        make_folder(out, "--out")
        record = score_submission(submission, loaded, out)
    if n_true := record.equal_to_truth:
        asked = f"{n_true} entries equal the truth to {TRUE_TO:g} A: were targets looked up?"
        print(f"note: {asked}", file=sys.stderr)
    if as_json:
        print_json(record.model_dump(mode="json"))
    else:
        print_records([record], "terminal")
        Console(stderr=True).print(f"records: {out.resolve()}", soft_wrap=True)


def submit(
    file: FileArgument,
    out: Annotated[Path, typer.Option(help="Archive to write, NAME.zip.", show_default=False)],
    data: DataOption = None,
    split: SplitOption = None,
    as_is: AsIsOption = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Check a filled template and pack it with its card and checksums into an archive to send.

    If the test data are available (shipped, or by --data), start states are compared with them.
    docs/benchmark/joining.md says where to send the archive.

    Example: atom-bench submit template.h5 --out my-net-fold2.zip
    """
    from benchmarks.submissions.packing import opened, pack
    from benchmarks.submissions.scoring import check_with_data

    if out.suffix != ".zip":
        raise UserError(f"--out {out}: name an archive that ends in .zip")
    check_output_file(out, "--out", replace=force)
    with opened(file, as_is=as_is) as submission:
        compared = check_with_data(submission, data, split)
        pack(submission, out)
    facts = {
        "archive": str(out), "template": submission.template.id, "model": submission.card.model,
        "bytes": out.stat().st_size, "compared_with_data": compared,
    }  # fmt: skip
    if as_json:
        print_json(facts)
    else:
        print(f"{out}: {facts['bytes']} bytes, ready to send")
        if not compared:
            print("start states were not compared: the test data are not here")
