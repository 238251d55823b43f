"""Write the page and copies of the records into a folder."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from benchmarks.leaderboard.published import read_published
from benchmarks.leaderboard.web.content import PageRecord, page_content
from benchmarks.leaderboard.web.page import render
from benchmarks.runs.examples import read_examples
from benchmarks.runs.records import RECORD, find_records
from tg80.errors import UserError
from tg80.files import check_folder, make_folder, write_atomically

MARKER = "atom-bench-site.json"
INDEX = "index.html"
RECORDS = "records"


@dataclass(frozen=True)
class Written:
    """The page, its number of records, and one line for each record that could not be read."""

    path: Path
    n_records: int
    bad: tuple[str, ...] = ()


def write_site(folder: Path, site: Path, twins: Path | None = None) -> Written:
    """Build the page of all records below `folder`.

    Records lie under the hash of their content and the page is written after them, so that at any
    instant a page lies there whose links all lead somewhere. Records that it no longer shows are
    removed at the end; files of others are never touched.

    Args:
        folder: holds the records.
        site: folder of the page.
        twins: folder of twins for the floor; None for the shipped ones.

    Raises:
        UserError: no such folder of results; no record in it that can be read, but others; `site`
            holds files that are not a page's.
    """
    listed = _listed_files(site)
    found, copies, bad = [], {}, []
    for place, record in find_records(folder, leave_out=site, bad=bad):
        try:
            read_examples(place)
        except UserError as error:
            bad.append(str(error))
            continue
        content = (place / RECORD).read_bytes()
        link = f"{RECORDS}/{hashlib.sha256(content).hexdigest()[:20]}.json"
        found.append(PageRecord(record, place, link))
        copies[link] = content
    if bad and not found:
        raise UserError(*bad)
    page = render(page_content(found, twins), read_published())
    make_folder(site / RECORDS)
    wanted = {INDEX, *copies}
    _write_marker(site, wanted | listed)
    for link, content in copies.items():
        write_atomically(site / link, content)
    write_atomically(site / INDEX, page.encode())
    for stale in listed - wanted:
        (site / stale).unlink(missing_ok=True)
    _write_marker(site, wanted)
    return Written(site / INDEX, len(found), tuple(bad))


def _write_marker(site: Path, files: set[str]) -> None:
    document = {"made_by": "atom-bench leaderboard --html", "files": sorted(files)}
    write_atomically(site / MARKER, json.dumps(document, indent=1).encode())


def _listed_files(site: Path) -> set[str]:
    """Files of the page that lies there, none in a new folder.

    Raises:
        UserError: the folder holds files, but no page of ours.
    """
    check_folder(site, "--html")
    if not site.is_dir() or not any(site.iterdir()):
        return set()
    refusal = UserError(f"{site}: holds files, and no leaderboard; give --html another folder")
    try:
        files = set(json.loads((site / MARKER).read_bytes())["files"])
    except (OSError, ValueError, KeyError, TypeError):
        raise refusal from None
    # Only what this module names itself is ever removed, whatever the list says.
    return {name for name in files if _is_ours(name)}


def _is_ours(name: object) -> bool:
    if not isinstance(name, str):
        return False
    folder, _, file = name.rpartition("/")
    stem, _, suffix = file.rpartition(".")
    return name == INDEX or (folder == RECORDS and suffix == "json" and stem.isalnum())
