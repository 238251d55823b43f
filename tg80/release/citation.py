"""How to cite this software and what was published with it, as BibTeX.

The facts are those of CITATION.cff, which is not part of an installed package; a test compares.
"""

import re
from collections.abc import Sequence

TITLE = (
    "TG80 and atom-bench: ab initio molecular dynamics of 80 organic compounds and a fair benchmark"
    " of learned dynamics"
)
AUTHORS = ("The TG80 authors",)
YEAR = "2026"
VERSION = "0.1.0"


def software_bibtex() -> str:
    """The entry of the programs."""
    return _entry("software", "tg80", TITLE, AUTHORS, YEAR, VERSION, "")


def data_bibtex(
    name: str, version: str, authors: Sequence[str], created: str, url: str = ""
) -> str:
    """The entry of a published data set; `created` is an ISO date."""
    key = re.sub(r"[^a-z0-9]+", "", f"{name}{version}".lower())
    title = f"{name}: molecular dynamics trajectories in the TG80 format"
    return _entry("misc", key, title, authors, created[:4], version, url)


def _entry(
    kind: str, key: str, title: str, authors: Sequence[str], year: str, version: str, url: str
) -> str:
    # Doubled braces: neither the case of a title nor a group's name is to be taken apart.
    names = " and ".join(f"{{{name}}}" for name in authors)
    lines = [f"title = {{{{{title}}}}}", f"author = {{{names}}}", f"year = {{{year}}}"]
    lines += [f"version = {{{version}}}"] + ([f"url = {{{url}}}"] if url else [])
    body = ",\n".join(f"  {line}" for line in lines)
    return f"@{kind}{{{key},\n{body}\n}}"
