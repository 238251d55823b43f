"""Proof that a split keeps its rules, and the figures that say how hard its tests are.

The rules are in `tg80.splits.rules`. Whether today's libraries find the same clusters is reported
and never a fault: the frozen file is the authority.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tg80.shards.metadata import ShardMetadata
from tg80.splits.clusters import (
    cluster_molecules,
    fingerprints,
    library_versions,
    nearest_similarity,
    tanimoto,
)
from tg80.splits.folds import deal_folds
from tg80.splits.rules import (
    Found,
    Rule,
    check_rules,
    check_trajectories,
    recomputed_compounds,
    shared_blocks,
)
from tg80.splits.split import HELD_PARTS, PARTS, Dropped, Record, Split, elements_of

RANDOM_SPLITS = 200


class Similarity(Record):
    """Tanimoto similarity of the compounds of a part to their nearest training compounds."""

    mean: float
    max: float


class FoldFigures(Record):
    """Figures of one fold: compounds and elements of each part, and how near train they are."""

    fold: int
    ood_clusters: tuple[int, ...]
    n: dict[str, int]
    elements: dict[str, list[str]]
    connectivity_blocks_in_two_parts: int
    dropped: tuple[Dropped, ...]
    nearest_train_tanimoto: dict[str, Similarity]


class RandomSimilarity(Record):
    """Similarity of test to train in random molecule splits, with its standard deviation."""

    mean: float
    sd: float
    n_splits: int


class Recomputation(Record):
    """How far clusters and folds made now are from the frozen ones; never a rule.

    Attributes:
        library_versions_changed: library -> (version that made the split, version now).
    """

    clusters_equal: bool
    adjusted_rand_index: float
    umap_seed: int
    folds_equal: bool
    library_versions_changed: dict[str, tuple[str, str | None]]


@dataclass(frozen=True)
class Certificate:
    """What `check_split` found.

    Attributes:
        split: what was checked.
        rules: every rule that applies.
        folds: figures of each fold; empty if the parts hold unknown compounds.
        random_similarity: of random splits of the same sizes, None if there are none.
        recomputation: None if it was not asked for, or the split is a restriction.
    """

    split: Split
    rules: tuple[Rule, ...]
    folds: tuple[FoldFigures, ...] = ()
    random_similarity: RandomSimilarity | None = None
    recomputation: Recomputation | None = None

    @property
    def holds(self) -> bool:
        return all(rule.holds for rule in self.rules)

    def mean_similarity(self, part: str) -> float | None:
        """Return the similarity of a part to train, the mean over compounds of all folds."""
        known = [f for f in self.folds if part in f.nearest_train_tanimoto]
        weights = [f.n[part] for f in known]
        means = [f.nearest_train_tanimoto[part].mean for f in known]
        return float(np.average(means, weights=weights)) if known else None

    def to_dict(self) -> dict[str, Any]:
        """Return a form for JSON."""
        random, recomputed = self.random_similarity, self.recomputation
        return {
            "version": self.split.version,
            "sha256": self.split.sha256,
            "holds": self.holds,
            "rules": {rule.name: rule.problems for rule in self.rules},
            "folds": [fold.model_dump() for fold in self.folds],
            "random_molecule_splits": random.model_dump() if random else {},
            "recomputation": recomputed.model_dump() if recomputed else {},
        }


def check_split(
    split: Split, recompute: bool = False, trajectories: Sequence[ShardMetadata] = ()
) -> Certificate:
    """Check every rule of a split.

    Args:
        split: what to check.
        recompute: also cluster and deal again with the libraries installed (takes a minute).
        trajectories: what the shards that the split is used on say about themselves.
    """
    found, _ = recomputed_compounds(split)
    rules = check_rules(split)
    if trajectories:
        rules += check_trajectories(split, trajectories)
    placed = {name for fold in split.folds for part in PARTS for name in fold.part(part)}
    if set(found) != set(split.molecules) or not placed <= set(found):
        return Certificate(split, rules)
    bits = fingerprints([c.smiles for c in split.molecules.values()], split.fingerprint)
    recomputed = recompute and split.subset_of is None
    return Certificate(
        split=split,
        rules=rules,
        folds=tuple(_figures(split, found, bits)),
        random_similarity=_random_similarity(split, bits),
        recomputation=_recomputed(split) if recomputed else None,
    )


def _figures(split: Split, found: Found, bits: np.ndarray) -> Iterator[FoldFigures]:
    row = {name: i for i, name in enumerate(split.molecules)}
    for fold in split.folds:
        of = {part: bits[[row[name] for name in fold.part(part)]] for part in PARTS}
        nearest = {part: nearest_similarity(of[part], of["train"]) for part in HELD_PARTS}
        yield FoldFigures(
            fold=fold.index,
            ood_clusters=fold.ood_clusters,
            n={part: len(fold.part(part)) for part in PARTS},
            elements={
                part: sorted(elements_of(found[name] for name in fold.part(part))) for part in PARTS
            },
            connectivity_blocks_in_two_parts=len(shared_blocks(fold, found)),
            dropped=fold.dropped,
            nearest_train_tanimoto={
                part: Similarity(mean=values.mean(), max=values.max())
                for part, values in nearest.items()
                if len(values)
            },
        )


def _random_similarity(split: Split, bits: np.ndarray) -> RandomSimilarity | None:
    """Deal molecules at random, in the sizes of the folds' `test_ood` and `train`."""
    similarity = tanimoto(bits, bits)
    rng = np.random.default_rng(0)
    means = []
    for i in range(RANDOM_SPLITS):
        fold = split.folds[i % len(split.folds)]
        order = rng.permutation(len(bits))
        n_test, n_train = len(fold.test_ood), len(fold.train)
        test, train = order[:n_test], order[n_test : n_test + n_train]
        if n_test and n_train:
            means.append(similarity[np.ix_(test, train)].max(axis=1).mean())
    if not means:
        return None
    return RandomSimilarity(
        mean=float(np.mean(means)), sd=float(np.std(means)), n_splits=len(means)
    )


def _recomputed(split: Split) -> Recomputation:
    from sklearn.metrics import adjusted_rand_score

    found = cluster_molecules(split.molecules, split.fingerprint, split.umap, split.clustering)
    names = sorted(split.molecules)
    index = adjusted_rand_score(
        [split.clusters[name] for name in names], [found.labels[name] for name in names]
    )
    now = library_versions()
    return Recomputation(
        clusters_equal=bool(index == 1.0),
        adjusted_rand_index=index,
        umap_seed=found.umap_seed,
        folds_equal=deal_folds(split.molecules, split.clusters) == split.folds,
        library_versions_changed={
            library: (version, now.get(library))
            for library, version in split.library_versions.items()
            if version != now.get(library)
        },
    )
