"""Proof that a split keeps its rules, and the figures that say how hard its tests are.

Nothing the file says about its compounds is believed: InChIKeys, elements and sizes are computed
from the SMILES again. Whether today's libraries find the same clusters is reported and never a
fault: the frozen file is the authority.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from rdkit import Chem, rdBase

from tg80.clusters import (
    cluster_molecules,
    fingerprints,
    library_versions,
    nearest_similarity,
    tanimoto,
)
from tg80.deal import LARGE_LIST, MIN_MOLECULES, MINI_MIN_HELD, N_FOLDS, deal_folds
from tg80.errors import UserError
from tg80.molecules import molecule_from_smiles, tg80_molecules
from tg80.splits import (
    HELD_PARTS,
    PARTS,
    TG80_VERSION,
    Fold,
    Split,
    compound_of,
    list_sha256,
    mini_names,
)

RANDOM_SPLITS = 200
MIN_GAP = 0.035
TG80_HELD_RANGE = range(6, 11)  # "about 8"


@dataclass(frozen=True)
class Rule:
    """One rule and where it is broken: `problems` is empty if it holds."""

    name: str
    problems: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return not self.problems


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


def check_rules(split: Split) -> tuple[Rule, ...]:
    """Every rule that applies to a split, without the figures."""
    facts, unreadable = _facts(split)
    return (
        Rule("every SMILES is a compound with the InChIKey stated", tuple(unreadable)),
        *(Rule(name, tuple(check(split, facts))) for name, check, scope in _RULES if scope(split)),
    )


def check_split(split: Split, recompute: bool = False) -> Certificate:
    """Checks every rule of a split.

    Args:
        split: what to check.
        recompute: also cluster and deal again with the libraries installed (takes a minute).
    """
    facts, _ = _facts(split)
    rules = check_rules(split)
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


@dataclass(frozen=True)
class _Facts:
    """What the SMILES alone says about a compound."""

    block: str
    elements: frozenset[str]


def _facts(split: Split) -> tuple[dict[str, _Facts], list[str]]:
    facts: dict[str, _Facts] = {}
    problems: list[str] = []
    with rdBase.BlockLogs():
        for name, compound in split.molecules.items():
            graph = Chem.MolFromSmiles(compound.smiles)
            if graph is None:
                problems.append(f"{name}: invalid SMILES {compound.smiles}")
                continue
            full = Chem.AddHs(graph)
            key = Chem.MolToInchiKey(full)
            elements = frozenset(atom.GetSymbol() for atom in full.GetAtoms())
            facts[name] = _Facts(key[:14], elements)
            if key != compound.inchikey:
                problems.append(f"{name}: InChIKey {compound.inchikey}, its SMILES gives {key}")
            if full.GetNumAtoms() != compound.n_atoms or elements != compound.elements:
                problems.append(f"{name}: size or formula differ from its SMILES")
    return facts, problems


_Check = Callable[[Split, dict[str, _Facts]], Iterator[str]]


def _list_is_stated(split: Split, facts: dict[str, _Facts]) -> Iterator[str]:
    if list_sha256(split.molecules) != split.molecules_sha256:
        yield "sha256 of the molecule list differs from the one stated"
    if split.version == TG80_VERSION:
        expected = {m.name: compound_of(m) for m in tg80_molecules()}
        if list_sha256(expected) != split.molecules_sha256:
            yield "the list is not that of the 80 compounds"


def _clusters_are_whole(split: Split, facts: dict[str, _Facts]) -> Iterator[str]:
    for name in sorted(set(split.molecules) ^ set(split.clusters)):
        yield f"{name} is a compound without a cluster, or in a cluster without being a compound"
    sizes = Counter(split.clusters.values())
    if split.subset_of is not None:
        return
    n_clusters = N_FOLDS if len(split.molecules) < LARGE_LIST else 2 * N_FOLDS
    if len(split.molecules) < MIN_MOLECULES:
        yield f"{len(split.molecules)} compounds; {MIN_MOLECULES} or more are needed"
    if sorted(sizes) != list(range(1, n_clusters + 1)):
        yield f"clusters {sorted(sizes)}; there should be {n_clusters}, numbered from 1"
    for cluster, size in sorted(sizes.items()):
        if split.version == TG80_VERSION and size < 4:
            yield f"cluster {cluster} has {size} compounds; 4 or more are needed"


def _each_cluster_held_once(split: Split, facts: dict[str, _Facts]) -> Iterator[str]:
    if [fold.index for fold in split.folds] != list(range(1, N_FOLDS + 1)):
        yield f"folds {[fold.index for fold in split.folds]}; there should be 1 to {N_FOLDS}"
    held = Counter(cluster for fold in split.folds for cluster in fold.ood_clusters)
    for cluster in sorted(set(split.clusters.values()) | set(held)):
        if held[cluster] != 1 and not (split.subset_of and not held[cluster]):
            yield f"cluster {cluster} is out of distribution in {held[cluster]} folds"
    if len({len(fold.ood_clusters) for fold in split.folds}) > 1:
        yield "folds hold different numbers of clusters out"


def _parts_are_disjoint(split: Split, facts: dict[str, _Facts]) -> Iterator[str]:
    for fold in split.folds:
        places = Counter(name for part in PARTS for name in fold.part(part))
        places.update({dropped.name for dropped in fold.dropped} - set(places))
        for name in sorted(set(split.molecules) | set(places)):
            if places[name] != 1 or name not in split.molecules:
                yield f"fold {fold.index}: {name} stands in {places[name]} parts"
        for dropped in fold.dropped:
            if any(dropped.name in fold.part(part) for part in PARTS):
                yield f"fold {fold.index}: {dropped.name} is said to be dropped and is not"


def _blocks_are_disjoint(split: Split, facts: dict[str, _Facts]) -> Iterator[str]:
    for fold in split.folds:
        for block, parts in sorted(_shared_blocks(fold, facts).items()):
            yield f"fold {fold.index}: connectivity {block} in {' and '.join(sorted(parts))}"


def _shared_blocks(fold: Fold, facts: dict[str, _Facts]) -> dict[str, set[str]]:
    """Connectivity blocks that stand in two parts or more, with those parts."""
    parts_of: dict[str, set[str]] = {}
    for part in PARTS:
        for name in fold.part(part):
            if name in facts:
                parts_of.setdefault(facts[name].block, set()).add(part)
    return {block: parts for block, parts in parts_of.items() if len(parts) > 1}


def _ood_is_ood(split: Split, facts: dict[str, _Facts]) -> Iterator[str]:
    for fold in split.folds:
        for part in PARTS:
            for name in fold.part(part):
                cluster = split.clusters.get(name)
                if (cluster in fold.ood_clusters) != (part == "test_ood"):
                    yield f"fold {fold.index}: {name} of cluster {cluster} in {part}"


def _seen_clusters_are_trained(split: Split, facts: dict[str, _Facts]) -> Iterator[str]:
    for fold in split.folds:
        trained = {split.clusters.get(name) for name in fold.train}
        if split.subset_of is None:
            wanted = set(split.clusters.values()) - set(fold.ood_clusters)
        else:
            wanted = {split.clusters.get(name) for name in (*fold.val, *fold.test_id)}
        for cluster in sorted(c for c in wanted - trained if c is not None):
            yield f"fold {fold.index}: no compound of seen cluster {cluster} in train"


def _elements_are_trained(split: Split, facts: dict[str, _Facts]) -> Iterator[str]:
    for fold in split.folds:
        known = _elements_of(facts, fold.train)
        for part in HELD_PARTS:
            for name in fold.part(part):
                missing = sorted(facts[name].elements - known) if name in facts else []
                if missing:
                    yield f"fold {fold.index}: {name} of {part} has {', '.join(missing)}, train not"


def _drops_are_needed(split: Split, facts: dict[str, _Facts]) -> Iterator[str]:
    for fold in split.folds:
        known = _elements_of(facts, fold.train)
        trained = {split.clusters.get(name) for name in fold.train}
        for dropped in fold.dropped:
            if dropped.name not in facts:
                continue
            untrained = (
                dropped.part != "test_ood" and split.clusters.get(dropped.name) not in trained
            )
            if facts[dropped.name].elements <= known and not untrained:
                yield f"fold {fold.index}: {dropped.name} was dropped though train stands for it"


def _time_blocks_are_apart(split: Split, facts: dict[str, _Facts]) -> Iterator[str]:
    blocks = sorted(split.time_blocks.items(), key=lambda item: item[1])
    if [name for name, _ in blocks] != ["train", "val_time", "test_time"]:
        yield f"time blocks {[name for name, _ in blocks]}; train, val_time, test_time are needed"
    for (first, (_, end)), (second, (begin, _)) in pairwise(blocks):
        if begin < end:
            yield f"time blocks {first} and {second} overlap"
        elif begin - end < MIN_GAP - 1e-9:
            yield f"only {begin - end:.1%} of the trajectory between {first} and {second}"
    for name, (begin, end) in blocks:
        if begin >= end:
            yield f"time block {name} ends before it begins"
    if blocks and (blocks[0][1][0] < 0 or max(end for _, (_, end) in blocks) > 1):
        yield "a time block lies outside of the trajectory"


def _sizes_are_right(split: Split, facts: dict[str, _Facts]) -> Iterator[str]:
    for fold in split.folds:
        for part in ("val", "test_id"):
            size = len(fold.part(part))
            if split.version == TG80_VERSION and size not in TG80_HELD_RANGE:
                yield f"fold {fold.index}: {size} compounds in {part}; about 8 are needed"
            elif not size:
                yield f"fold {fold.index}: no compounds in {part}"


def _mini_set_works(split: Split, facts: dict[str, _Facts]) -> Iterator[str]:
    try:
        mini = split.restrict(mini_names(split))
    except (UserError, KeyError):
        yield "the mini set can't be formed"
        return
    for fold in mini.folds:
        for part in ("val", "test_id"):
            size = len(fold.part(part))
            if size < MINI_MIN_HELD:
                yield f"fold {fold.index}: {size} compounds in {part} of the mini set"
        seen = set(mini.clusters.values()) - set(fold.ood_clusters)
        for cluster in sorted(seen - {mini.clusters[name] for name in fold.train}):
            yield f"fold {fold.index}: no compound of cluster {cluster} in train of the mini set"
    yield from (f"mini set, {problem}" for problem in _elements_are_trained(mini, facts))


def _always(split: Split) -> bool:
    return True


def _whole(split: Split) -> bool:
    return split.subset_of is None


_RULES: tuple[tuple[str, _Check, Callable[[Split], bool]], ...] = (
    ("the molecule list is the one stated", _list_is_stated, _always),
    ("clusters are disjoint, complete and large enough", _clusters_are_whole, _always),
    ("each cluster is out of distribution exactly once", _each_cluster_held_once, _always),
    ("each compound is in one part of each fold", _parts_are_disjoint, _always),
    ("no InChIKey connectivity block in two parts", _blocks_are_disjoint, _always),
    ("test_ood holds the held-out clusters and nothing else", _ood_is_ood, _always),
    ("each seen cluster has a training compound", _seen_clusters_are_trained, _always),
    ("every element of a held part occurs in train", _elements_are_trained, _always),
    ("only what train can't stand for is dropped", _drops_are_needed, _always),
    ("time blocks are apart", _time_blocks_are_apart, _always),
    ("val and test_id have the right sizes", _sizes_are_right, _whole),
    ("the mini set has its parts", _mini_set_works, lambda split: split.version == TG80_VERSION),
)


def _elements_of(facts: dict[str, _Facts], names: tuple[str, ...]) -> frozenset[str]:
    return frozenset().union(*(facts[name].elements for name in names if name in facts))


def _figures(split: Split, facts: dict[str, _Facts]) -> Iterator[dict[str, Any]]:
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
            "elements": {part: sorted(_elements_of(facts, fold.part(part))) for part in PARTS},
            "connectivity_blocks_in_two_parts": len(_shared_blocks(fold, facts)),
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
