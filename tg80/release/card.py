"""Data cards: what a person has to know before using a data set, made from its shards.

`site_card` is the README.md of a publication, in the form the Hugging Face hub reads. The folders
that ship with this package have a README.md of which the part between two marks is made here:

    python -m tg80.release.card tg80/data/mini-xtb
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tg80.errors import Tg80Error
from tg80.files import write_atomically
from tg80.release import card_sections as sections
from tg80.release.citation import data_bibtex, software_bibtex
from tg80.release.publication import Publication
from tg80.release.survey import ShardFacts, survey
from tg80.shards.fields import fields_table, flags_table
from tg80.splits.split import PARTS
from tg80.untrusted.tables import markdown_text

CARD_NAME = "README.md"
PLOTS = {
    "temperature": "Mean temperature of every trajectory beside its target",
    "drift": "Drift of the conserved quantity of every trajectory beside its limit",
    "net-force": "Net force before projection of every trajectory",
    "bond-lengths": "Histogram of the bond lengths of every kind of bond",
}
BEGIN = "<!-- facts: begin (made by `python -m tg80.release.card`) -->"
END = "<!-- facts: end -->"
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M"))


def site_card(publication: Publication) -> str:
    """The data card of a publication, with YAML front matter."""
    publication = replace(publication, facts=[_shown(fact) for fact in publication.facts])
    facts = publication.facts
    parts = [
        _front_matter(publication),
        f"# {publication.name} {publication.version}",
        publication.about.strip(),
        "Molecular dynamics of organic molecules, one H5MD 1.1 (HDF5) file a trajectory.\n\n"
        + sections.contents(facts),
        "## Getting it\n\n" + _getting(publication),
        "## Physics\n\n" + sections.physics(facts),
        "## Cost and hardware\n\n" + sections.cost(facts),
        "## Fields\n\n" + fields_table() + "\n\nBits of `quality_flags`:\n\n" + flags_table(),
        "## Folds\n\n" + _folds(publication),
        "## Quality\n\n" + sections.quality_table(facts) + "\n\n" + _pictures(publication),
        "## Warnings\n\n" + sections.warnings(facts),
        "## Known flaws\n\n" + sections.flaws(facts),
        f"## Licence\n\n{publication.licence}",
        "## Citation\n\n" + _citation(publication),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def plot_path(publication: Publication, level: str, plot: str) -> str:
    """Where a plot lies below the version's folder."""
    return publication.place(f"plots/{level}/{plot}.png")


def folder_facts(facts: Sequence[ShardFacts]) -> str:
    """The short form, for the README.md of a folder that ships with the package."""
    facts = [_shown(fact) for fact in facts]
    licences = ", ".join(sorted({fact.metadata.licence for fact in facts}))
    return "\n\n".join(
        [
            sections.contents(facts),
            "## Physics\n\n" + sections.physics(facts),
            "## Cost and hardware\n\n" + sections.cost(facts),
            "## Quality\n\n" + sections.quality_ranges(facts),
            "## Warnings\n\n" + sections.warnings(facts),
            "## Known flaws\n\n" + sections.flaws(facts),
            f"## Licence\n\n{licences}",
        ]
    )


def folder_card(text: str, facts: Sequence[ShardFacts]) -> str:
    """A README.md with the part between the marks made anew; it is put at the end if not there."""
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    made = f"{before.rstrip()}\n\n{BEGIN}\n{folder_facts(facts)}\n{END}\n"
    return made + (f"\n{after.strip()}\n" if after.strip() else "")


def _shown(fact: ShardFacts) -> ShardFacts:
    """The facts with every text as Markdown shows it as it stands: shards may be a stranger's."""
    metadata = {name: _texts(value) for name, value in dict(fact.metadata).items()}
    warnings = tuple(map(markdown_text, fact.warnings))
    return replace(fact, metadata=fact.metadata.model_copy(update=metadata), warnings=warnings)


def _texts(value: Any) -> Any:
    if isinstance(value, str):
        return markdown_text(value)
    if isinstance(value, dict):
        return {_texts(key): _texts(inner) for key, inner in value.items()}
    return [_texts(inner) for inner in value] if isinstance(value, list) else value


def _front_matter(publication: Publication) -> str:
    """What the Hugging Face hub reads; JSON strings are YAML strings."""
    n_frames = sum(fact.metadata.n_frames for fact in publication.facts)
    size = next((name for limit, name in _SIZES if n_frames < limit), "1M<n<10M")
    levels = sorted({fact.metadata.level for fact in publication.facts})
    lines = [
        f"license: {publication.licence.lower()}",
        f"pretty_name: {json.dumps(f'{publication.name} {publication.version}')}",
        "task_categories:\n- graph-ml",
        "tags:",
        *(f"- {json.dumps(tag)}" for tag in ("chemistry", "molecular-dynamics", "hdf5", *levels)),
        f"size_categories:\n- {size}",
        "viewer: false",
    ]
    return "\n".join(["---", *lines, "---"])


def _getting(publication: Publication) -> str:
    source, first = publication.url or "URL_OF_THIS_FOLDER", publication.facts[0].metadata
    commands = [f"tg80 download --source {source} --to DIR"]
    if publication.folds:
        commands.append(f"tg80 download --source {source} --fold 1 --part train --to DIR")
    several = len({fact.metadata.level for fact in publication.facts}) > 1
    choice = f", level={json.dumps(first.level)}" if several else ""
    code = [
        "import tg80\n",
        f'data = tg80.load("DIR"{choice})',
        f'positions = data["{first.name}"].read("positions")  # (n_frames, n_atoms, 3) angstrom',
    ]
    return (
        "```sh\n" + "\n".join([*commands, "tg80 validate DIR"]) + "\n```\n\n"
        "or any other way: the files are plain HDF5, and beside each lies its SHA-256"
        " (`sha256sum --check FILE.sha256`). `manifest.json` lists them all.\n\n"
        "```python\n" + "\n".join(code) + "\n```"
    )


def _folds(publication: Publication) -> str:
    split = publication.split
    if split is None:
        return "This version comes without a split."
    rows = []
    for fold in split.folds:
        parts = publication.folds[fold.index]
        held = ", ".join(map(str, fold.ood_clusters))
        rows.append((str(fold.index), held, *(str(len(parts[part])) for part in PARTS)))
    lists = publication.place("folds/fold-K.json")
    text = (
        f"Shards in each part of the folds of `{split.version}`; `{lists}` names them. Scores"
        " belong to a fold: train on its `train` alone. `val_time` and `test_time` are later"
        " stretches of the trajectories of `train`.\n\n"
        + sections.table(("fold", "clusters held out", *PARTS), rows)
    )
    if publication.outside:
        listed = ", ".join(
            f"`{name}`" + (f" (same connectivity as `{twin}`)" if twin else "")
            for name, twin in publication.outside.items()
        )
        text += f"\n\nOutside the folds, because the split does not hold them: {listed}."
    return text


def _pictures(publication: Publication) -> str:
    levels = sorted({fact.metadata.level for fact in publication.facts})
    return "\n".join(
        f"![{text}, {level}]({plot_path(publication, level, plot)})"
        for level in levels
        for plot, text in PLOTS.items()
    )


def _citation(publication: Publication) -> str:
    data = data_bibtex(
        publication.name,
        publication.version,
        publication.authors,
        publication.created,
        publication.url,
    )
    blocks = [f"```bibtex\n{entry}\n```" for entry in (data, software_bibtex())]
    return f"The data:\n\n{blocks[0]}\n\nThe programs:\n\n{blocks[1]}"


def main(arguments: Iterable[str] | None = None) -> None:
    """Make the card of a folder anew."""
    parser = argparse.ArgumentParser(description="Make the data card of a folder of shards anew.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(arguments).folder
    path = folder / CARD_NAME
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else f"# {folder.resolve().name}\n"
        write_atomically(path, folder_card(text, survey(folder)).encode())
    except Tg80Error as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
