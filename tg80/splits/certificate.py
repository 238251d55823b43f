"""Proof that a split keeps its rules, and the figures that say how hard its tests are.

The rules are in `tg80.splits.rules`. Whether today's libraries find the same clusters is reported
and never a fault: the frozen file is the authority.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tg80.chemistry.molecule import molecule_from_smiles
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
    Facts,
    Rule,
    check_rules,
    check_trajectories,
    elements_of,
    facts_of,
    shared_blocks,
)
from tg80.splits.split import HELD_PARTS, PARTS, Fold, Split

RANDOM_SPLITS = 200


@dataclass(frozen=True)
class Certificate:
    """What `check_split` found.

    Attributes:
        version, sha256: of the split.
        rules: every rule that applies.
        folds: figures of each fold, JSON-able.
        random_similarity: mean nearest-neighbour Tanimoto similarity of test to train in random
            molecule splits of the same sizes, with its standard deviation over splits.
        recomputation: agreement with clusters computed now, empty if that was not asked for.
    """

    version: str
    sha256: str
    rules: tuple[Rule, ...]
    folds: tuple[dict[str, Any], ...] = ()
    random_similarity: dict[str, float] = field(default_factory=dict)
    recomputation: dict[str, Any] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        return all(rule.holds for rule in self.rules)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            "version": self.version,
            "sha256": self.sha256,
            "holds": self.holds,
            "rules": {rule.name: list(rule.problems) for rule in self.rules},
            "folds": list(self.folds),
            "random_molecule_splits": self.random_similarity,
            "recomputation": self.recomputation,
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
    facts, _ = facts_of(split)
    rules = check_rules(split)
    if trajectories:
        rules += check_trajectories(split, trajectories)
    structure_holds = set(facts) == set(split.molecules) and all(
        name in facts for fold in split.folds for part in PARTS for name in fold.part(part)
    )
    if not structure_holds:
        return Certificate(split.version, split.sha256, rules)
    return Certificate(
        version=split.version,
        sha256=split.sha256,
        rules=rules,
        folds=tuple(_figures(split, facts)),
        random_similarity=_random_similarity(split),
        recomputation=_recomputed(split) if recompute else {},
    )


def _figures(split: Split, facts: dict[str, Facts]) -> Iterator[dict[str, Any]]:
    names = list(split.molecules)
    bits = fingerprints([split.molecules[n].smiles for n in names], split.fingerprint)
    row = {name: i for i, name in enumerate(names)}

    def bits_of(part: tuple[str, ...]) -> np.ndarray:
        return bits[[row[name] for name in part]]

    for fold in split.folds:
        similarity = {}
        for part in HELD_PARTS:
            nearest = nearest_similarity(bits_of(fold.part(part)), bits_of(fold.train))
            if len(nearest):
                similarity[part] = {"mean": float(nearest.mean()), "max": float(nearest.max())}
        yield {
            "fold": fold.index,
            "ood_clusters": list(fold.ood_clusters),
            "n": {part: len(fold.part(part)) for part in PARTS},
            "elements": {part: sorted(elements_of(facts, fold.part(part))) for part in PARTS},
            "connectivity_blocks_in_two_parts": len(shared_blocks(fold, facts)),
            "dropped": [dropped.model_dump() for dropped in fold.dropped],
            "nearest_train_tanimoto": similarity,
        }


def _random_similarity(split: Split) -> dict[str, float]:
    """Mean nearest-neighbour Tanimoto of test to train where molecules are dealt at random.

    Sizes are those of the folds' `test_ood` and `train`.
    """
    bits = fingerprints([c.smiles for c in split.molecules.values()], split.fingerprint)
    similarity = tanimoto(bits, bits)
    rng = np.random.default_rng(0)
    means = []
    for i in range(RANDOM_SPLITS):
        fold: Fold = split.folds[i % len(split.folds)]
        order = rng.permutation(len(bits))
        n_test, n_train = len(fold.test_ood), len(fold.train)
        test, train = order[:n_test], order[n_test : n_test + n_train]
        if n_test and n_train:
            means.append(similarity[np.ix_(test, train)].max(axis=1).mean())
    if not means:
        return {}
    return {"mean": float(np.mean(means)), "sd": float(np.std(means)), "n_splits": len(means)}


def _recomputed(split: Split) -> dict[str, Any]:
    """How far clusters and folds made now are from the frozen ones; never a rule."""
    if split.subset_of is not None:
        return {"note": f"not done for a restriction; check {split.subset_of}"}
    from sklearn.metrics import adjusted_rand_score

    molecules = [molecule_from_smiles(c.smiles, name) for name, c in split.molecules.items()]
    found = cluster_molecules(molecules, split.fingerprint, split.umap, split.clustering)
    names = sorted(split.molecules)
    index = adjusted_rand_score(
        [split.clusters[name] for name in names], [found.labels[name] for name in names]
    )
    now = library_versions()
    changed = {k: [v, now.get(k)] for k, v in split.library_versions.items() if v != now.get(k)}
    return {
        "clusters_equal": bool(index == 1.0),
        "adjusted_rand_index": float(index),
        "umap_seed": found.umap_seed,
        "folds_equal": deal_folds(split.molecules, split.clusters) == split.folds,
        "library_versions_changed": changed,
    }
