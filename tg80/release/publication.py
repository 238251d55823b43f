"""One version of a data set as it is to be published: which files, which folds, who made it.

Paths are those of the manifest: below the version's folder, with `/`. Hosts that know no folders
(Zenodo) get flat names, `--` in place of each `/`; names of compounds have no double hyphens.
"""

from dataclasses import dataclass
from functools import cached_property

from tg80.errors import UserError
from tg80.release.manifest import flat_path
from tg80.release.survey import ShardFacts
from tg80.shards.shard import SUFFIX
from tg80.splits.split import PARTS, Split


@dataclass(frozen=True)
class Publication:
    """What the catalogue, the card and the Croissant description are made of.

    Attributes:
        name, version: of the publication.
        created: ISO date.
        licence: SPDX id of all shards.
        authors: who made the data.
        facts: the shards, sorted.
        split: the split whose folds are listed; None without one.
        about: Markdown put at the top of the card.
        url: where the version's folder will be served, without a slash at the end; "" if not known.
        flat: whether all files lie in one folder.
    """

    name: str
    version: str
    created: str
    licence: str
    authors: tuple[str, ...]
    facts: tuple[ShardFacts, ...]
    split: Split | None
    about: str = ""
    url: str = ""
    flat: bool = False

    def place(self, path: str) -> str:
        """Path of a file below the version's folder."""
        return flat_path(path) if self.flat else path

    def shard_path(self, fact: ShardFacts) -> str:
        """Path of a shard: LEVEL/NAME-rK.h5md."""
        return self.place(f"{fact.metadata.level}/{fact.id}{SUFFIX}")

    def address(self, path: str) -> str:
        """URL of a file; relative to the version's folder while that has no address."""
        return f"{self.url}/{path}" if self.url else path

    @cached_property
    def folds(self) -> dict[int, dict[str, list[str]]]:
        """Paths of the shards in each part of each fold, as the split deals their compounds."""
        if self.split is None:
            return {}
        paths: dict[str, list[str]] = {}
        for fact in self.facts:
            paths.setdefault(fact.metadata.name, []).append(self.shard_path(fact))
        return {
            fold.index: {
                part: sorted(path for name in fold.part(part) for path in paths.get(name, []))
                for part in PARTS
            }
            for fold in self.split.folds
        }

    @cached_property
    def outside(self) -> dict[str, str]:
        """Compounds that are in no fold, with what they share with the split ("" if nothing).

        Raises:
            UserError: a name means another compound in the split, or a compound has another name
                there: readers would put it in the wrong part.
        """
        if self.split is None:
            return {}
        name_of = {compound.inchikey: name for name, compound in self.split.molecules.items()}
        blocks = {compound.inchikey[:14]: n for n, compound in self.split.molecules.items()}
        found: dict[str, str] = {}
        for fact in self.facts:
            name, key = fact.metadata.name, fact.metadata.inchikey
            known = self.split.molecules.get(name)
            if known is not None and known.inchikey != key:
                raise UserError(
                    f"{fact.path}: {name} is another compound in split {self.split.version}; "
                    "rename it or publish with another --split"
                )
            if known is None and key in name_of:
                raise UserError(
                    f"{fact.path}: this compound is called {name_of[key]} in split "
                    f"{self.split.version}, and readers know it by its name; make it under that one"
                )
            if known is None:
                found[name] = blocks.get(key[:14], "")
        if len(found) == len({fact.metadata.name for fact in self.facts}):
            raise UserError(
                f"none of the compounds is in split {self.split.version}; make a split of them "
                "with `tg80 split --data DIR --out FILE`, or publish with --split none"
            )
        return found
