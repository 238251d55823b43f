"""`tg80 publish`: a folder of shards as a static tree for others to download."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tg80.console import JsonOption, console
from tg80.errors import UserError
from tg80.files import read_text
from tg80.untrusted.documents import print_json


def publish(
    folder: Annotated[Path, typer.Argument(help="Shards (.h5md), or a folder with shards.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder of the site; created if missing. Default: a folder NAME-VERSION of "
            "shards is published where it is.",
        ),
    ] = None,
    version: Annotated[
        str | None, typer.Option(help="Version of the data. Default: 1.0.0, with --out.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the data set. Default: that of the site or folder.")
    ] = None,
    split: Annotated[
        str, typer.Option(help="Split whose folds are listed: a version, a file, or none.")
    ] = "tg80-v1",
    author: Annotated[
        list[str] | None,
        typer.Option(help="Author; may be repeated. Default: as the shards state."),
    ] = None,
    about: Annotated[
        Path | None, typer.Option(help="Markdown file for the top of the data card.")
    ] = None,
    url: Annotated[str, typer.Option(help="Web address of the folder of this version.")] = "",
    flat: Annotated[
        bool, typer.Option("--flat", help="All files in one folder, for hosts such as Zenodo.")
    ] = False,
    json_output: JsonOption = False,
) -> None:
    """Publish shards as a static tree that any web server, S3 bucket or Zenodo record can serve.

    Writes OUT/VERSION with the shards by level of theory, a manifest with sizes and checksums, the
    folds, a data card, croissant.json and plots; and OUT/versions.json. Every shard is validated
    first; one with errors is refused. A published version is never changed.

    Without --out, the same files are written into FOLDER beside its shards, once it has all
    compounds of the split.

    Example: tg80 publish tg80/data/mini-xtb --out site --version 1.0.0

    Example: tg80 publish tg80/data/releases/tg80-xtb-v1
    """
    from tg80.release.publish import publish as publish_folder
    from tg80.release.publish import publish_here

    settings: dict[str, Any] = {
        "split": None if split == "none" else split,
        "authors": author or (),
        "about": "" if about is None else read_text(about, "a Markdown file"),
        "url": url,
        "tell": lambda line: console.print(line, style="dim", highlight=False, markup=False),
    }
    if out is not None:
        version = version or "1.0.0"
        done = publish_folder(folder, out, version=version, name=name, flat=flat, **settings)
    elif version or name or flat:
        raise UserError(
            "--version, --name and --flat go with --out; without it, the folder's name states both"
        )
    else:
        done = publish_here(folder, **settings)
    manifest = done.manifest
    n_bytes = sum(entry.n_bytes for entry in manifest.entries)
    if json_output:
        report = {
            "folder": str(done.folder),
            "name": manifest.name,
            "version": manifest.version,
            "n_shards": len(manifest.shards),
            "n_files": len(manifest.entries),
            "n_bytes": n_bytes,
            "n_warnings": done.warnings,
            "outside_the_folds": list(done.outside),
            "finished": done.finished,
        }
        print_json(report, indent=2)
        return
    what = "announced what an interrupted run had written" if done.finished else "published"
    print(
        f"{what}: {manifest.name} {manifest.version} in {done.folder}: "
        f"{len(manifest.shards)} shards, {n_bytes / 1e6:.1f} MB, "
        f"{done.warnings} warnings (in its README.md)"
    )
    if done.outside:
        print(f"outside the folds of {manifest.split}: {', '.join(done.outside)}")
