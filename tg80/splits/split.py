"""Frozen splits: which compound is in which part of which fold.

A split is a JSON file of the schema `Split`. The file is the authority: nothing in it is recomputed
when it is read. `tg80.splits.folds` makes splits, and `tg80.splits.certificate` proves that one
keeps its rules.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Container, Iterable, Mapping
from functools import cached_property
from importlib import resources
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from tg80.errors import UserError
from tg80.files import read_bytes
from tg80.untrusted.documents import parse_model

if TYPE_CHECKING:
    from tg80.chemistry.molecule import Molecule

FORMAT = "tg80-split/1"
TG80_VERSION = "tg80-v1"
PARTS = ("train", "val", "test_id", "test_ood")
HELD_PARTS = ("val", "test_id", "test_ood")
MINI_PER_CLUSTER = 3
TIME_BLOCK_FRACTIONS: dict[str, tuple[float, float]] = {
    "train": (0.0, 0.6),
    "val_time": (0.635, 0.755),
    "test_time": (0.79, 1.0),
}
"""Parts of a training molecule's trajectory; what lies between them is in none."""
TIME_PARTS = tuple(TIME_BLOCK_FRACTIONS)
ALL_PARTS = tuple(dict.fromkeys((*PARTS, *TIME_PARTS)))


class Record(BaseModel):
    """A frozen record without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FingerprintSettings(Record):
    """ECFP-4: Morgan bits without chirality."""

    kind: str = "morgan"
    radius: int = 2
    n_bits: int = 2048
    use_chirality: bool = False


class UmapSettings(Record):
    """UMAP of fingerprints, single-threaded and seeded."""

    metric: str = "jaccard"
    n_neighbors: int = 5
    n_components: int = 2
    min_dist: float = 0.0
    init: str = "spectral"
    # Methanol or urea shares no bit with any other compound: at the default (1, Jaccard's maximum)
    # UMAP would cut it off and place it at NaN.
    disconnection_distance: float = 2.0


class ClusteringSettings(Record):
    """Agglomerative clustering of the UMAP plane."""

    linkage: str = "ward"
    n_clusters: int = 10
    min_cluster_size: int = 4
    max_seeds: int = 100


class Compound(Record):
    """One compound of a split."""

    smiles: str
    inchikey: str
    formula: str
    n_atoms: int

    @cached_property
    def elements(self) -> frozenset[str]:
        return frozenset(re.findall(r"[A-Z][a-z]?", self.formula))

    @property
    def block(self) -> str:
        """The connectivity block of the InChIKey, the same for all stereoisomers."""
        return self.inchikey[:14]


class Dropped(Record):
    """A compound left out of a part, and why."""

    name: str
    part: str
    reason: str


class Fold(Record):
    """One fold: names of compounds in each part.

    Attributes:
        index: from 1 on.
        ood_clusters: the clusters held out of distribution.
        train, val, test_id: compounds of the seen clusters.
        test_ood: compounds of the held-out clusters.
        dropped: compounds of this split that are in no part of this fold.
        deal_seed: seed of the deal of the seen clusters.
    """

    index: int
    ood_clusters: tuple[int, ...]
    train: tuple[str, ...]
    val: tuple[str, ...]
    test_id: tuple[str, ...]
    test_ood: tuple[str, ...]
    dropped: tuple[Dropped, ...] = ()
    deal_seed: int = 0

    def part(self, name: str) -> tuple[str, ...]:
        """Names in `train`, `val`, `test_id` or `test_ood`."""
        if name not in PARTS:
            raise UserError(f"no part {name!r} in a fold; parts are {', '.join(PARTS)}")
        return getattr(self, name)

    def keeping(self, names: Container[str]) -> Fold:
        """Return the fold with only some of its compounds, in the same parts."""
        parts = {part: tuple(n for n in self.part(part) if n in names) for part in PARTS}
        dropped = tuple(d for d in self.dropped if d.name in names)
        return self.model_copy(update={**parts, "dropped": dropped})


class Split(Record):
    """A frozen split of a list of compounds.

    Attributes:
        version: `tg80-v1`, or `custom-` and eight digits of `molecules_sha256`.
        molecules_sha256: of the list, as `list_sha256` computes it.
        molecules: the compounds by name.
        clusters: cluster number, from 1 on, of each name.
        folds: in order of their index.
        time_blocks: fractions of a trajectory, by part.
        umap_seed: seed of the UMAP run whose clusters these are.
        library_versions: what computed the clusters.
        subset_of: version of the split this is a restriction of.
    """

    format: str = FORMAT
    version: str
    molecules_sha256: str
    fingerprint: FingerprintSettings
    umap: UmapSettings
    clustering: ClusteringSettings
    umap_seed: int
    library_versions: dict[str, str]
    time_blocks: dict[str, tuple[float, float]]
    molecules: dict[str, Compound]
    clusters: dict[str, int]
    folds: tuple[Fold, ...]
    subset_of: str | None = None

    @cached_property
    def sha256(self) -> str:
        """Hash of the content, whatever the layout of the file."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def fold(self, index: int) -> Fold:
        """Return the fold with this index, from 1 on.

        Raises:
            UserError: There is none, or the index is not a whole number.
        """
        if not isinstance(index, Integral):
            raise UserError(f"fold must be a whole number, not {index!r}")
        folds = {fold.index: fold for fold in self.folds}
        if index not in folds:
            known = ", ".join(map(str, folds))
            raise UserError(f"split {self.version} has no fold {index}; folds are {known}")
        return folds[int(index)]

    def zero_shot_fold(self, name: str) -> Fold:
        """Return the fold that holds a compound out of distribution."""
        for fold in self.folds:
            if self.clusters.get(name) in fold.ood_clusters:
                return fold
        raise UserError(f"split {self.version} has no compound {name!r}")

    def restrict(self, names: Iterable[str]) -> Split:
        """Return this split with only some of its compounds, in the same parts.

        A compound of `val` or a test part with an element that no compound left in train has, and
        one of `val` or `test_id` whose cluster has no compound left in train, is dropped and
        listed.

        Raises:
            UserError: A name is not in the split, or none is given.
        """
        kept = set(names)
        unknown = sorted(kept - set(self.molecules))
        if unknown:
            raise UserError(f"split {self.version} has no compound {', '.join(unknown)}")
        if not kept:
            raise UserError(f"no compounds to restrict split {self.version} to; name some")
        if kept == set(self.molecules):
            return self
        molecules = {name: c for name, c in self.molecules.items() if name in kept}
        digest = list_sha256(molecules)
        whole = self.subset_of or self.version
        clusters = {name: c for name, c in self.clusters.items() if name in kept}
        folds = [settle_fold(f.keeping(kept), self.molecules, self.clusters) for f in self.folds]
        changed = {
            "version": f"{whole}-subset-{digest[:8]}", "subset_of": whole,
            "molecules_sha256": digest, "molecules": molecules, "clusters": clusters,
            "folds": tuple(folds),
        }  # fmt: skip
        return Split(**{key: getattr(self, key) for key in Split.model_fields} | changed)

    def to_json(self) -> str:
        """Return the text of the file."""
        return json.dumps(self.model_dump(mode="json"), indent=1) + "\n"


def settle_fold(fold: Fold, molecules: Mapping[str, Compound], clusters: Mapping[str, int]) -> Fold:
    """Drop what the train part of a fold can't stand for, and list it in `dropped`."""
    elements = elements_of(molecules[name] for name in fold.train)
    trained = {clusters[name] for name in fold.train}
    dropped = []
    for part in HELD_PARTS:
        for name in fold.part(part):
            missing = sorted(molecules[name].elements - elements)
            if missing:
                reason = f"no {', '.join(missing)} in train"
            elif part != "test_ood" and clusters[name] not in trained:
                reason = f"no compound of cluster {clusters[name]} in train"
            else:
                continue
            dropped.append(Dropped(name=name, part=part, reason=reason))
    gone = {(one.part, one.name) for one in dropped}
    parts = {p: tuple(n for n in fold.part(p) if (p, n) not in gone) for p in HELD_PARTS}
    return fold.model_copy(update={**parts, "dropped": (*fold.dropped, *dropped)})


def elements_of(compounds: Iterable[Compound]) -> frozenset[str]:
    """Return the elements of some compounds."""
    return frozenset().union(*(compound.elements for compound in compounds))


def compound_of(molecule: Molecule) -> Compound:
    """Return what a split keeps of a molecule."""
    return Compound(
        smiles=molecule.smiles,
        inchikey=molecule.inchikey,
        formula=molecule.formula,
        n_atoms=molecule.n_atoms,
    )


def list_sha256(molecules: Mapping[str, Compound]) -> str:
    """Return the sha256 of the sorted lines `NAME SMILES INCHIKEY`, whatever the list's layout."""
    lines = sorted(f"{name} {c.smiles} {c.inchikey}\n" for name, c in molecules.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def mini_names(molecules: Mapping[str, Compound], clusters: Mapping[str, int]) -> list[str]:
    """Return the mini set: the three smallest compounds of each cluster, names sorted."""
    by_size = sorted(clusters, key=lambda name: (molecules[name].n_atoms, name))
    members: dict[int, list[str]] = {}
    for name in by_size:
        members.setdefault(clusters[name], []).append(name)
    return sorted(name for names in members.values() for name in names[:MINI_PER_CLUSTER])


def time_blocks(
    length_fs: float, fractions: Mapping[str, tuple[float, float]] = TIME_BLOCK_FRACTIONS
) -> dict[str, tuple[float, float]]:
    """Return start and end in fs of `train`, `val_time`, `test_time` in a trajectory.

    Args:
        length_fs: time from the first frame to the last.
        fractions: `Split.time_blocks` of the split used; its default is that of `tg80-v1`.

    Raises:
        UserError: The length is not a positive number.
    """
    if not (math.isfinite(length_fs) and length_fs > 0):
        raise UserError(
            f"a trajectory must be longer than 0 fs to have time blocks, not {length_fs}"
        )
    return {part: (begin * length_fs, end * length_fs) for part, (begin, end) in fractions.items()}


def frozen_names() -> list[str]:
    """Return the versions of the splits that come with the package."""
    folder = resources.files("tg80") / "data" / "splits"
    return sorted(
        f.name.removesuffix(".json") for f in folder.iterdir() if f.name.endswith(".json")
    )


def load_split(source: str | Path) -> Split:
    """Load a split by its version (`tg80-v1`) or from a file.

    Raises:
        UserError: There is no such version and no such file, or the file is not a split.
    """
    if str(source) in frozen_names():
        path = resources.files("tg80") / "data" / "splits" / f"{source}.json"
        return _parse(path.read_bytes(), str(source))
    if not os.path.lexists(source):
        known = ", ".join(frozen_names())
        raise UserError(f"no split {source}: neither a file nor one of {known}")
    return _parse(read_bytes(source, "a split file"), str(source))


def _parse(data: bytes, label: str) -> Split:
    split = parse_model(Split, data, f"{label}: not a split file")
    if split.format != FORMAT:
        raise UserError(f"{label}: format {split.format!r}; this version reads {FORMAT!r}")
    return split
