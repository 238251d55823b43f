"""What decides the folds: clusters are paired into folds, seen compounds dealt into parts.

In every fold one or two clusters are held out as `test_ood`; the compounds of the others go to
`train`, `val` and `test_id`, about a tenth each of the list to the last two. Deals are drawn with
seeds 0, 1, ... and the first is taken that loses no compound to the rule that every element met in
a held part occurs in train, in the fold and in its restriction to the mini set; if there is none,
the best of them. Folds are then chosen among all pairings of clusters so that the sum over folds is
best.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tg80.chemistry.lists import tg80_molecules
from tg80.chemistry.molecule import Molecule
from tg80.errors import UserError
from tg80.splits.clusters import (
    cluster_molecules,
    library_versions,
)
from tg80.splits.split import (
    HELD_PARTS,
    PARTS,
    TG80_VERSION,
    TIME_BLOCK_FRACTIONS,
    ClusteringSettings,
    Compound,
    FingerprintSettings,
    Fold,
    Split,
    UmapSettings,
    compound_of,
    frozen_names,
    list_sha256,
    load_split,
    mini_names,
    settle_fold,
)

N_FOLDS = 5
MIN_MOLECULES = 20
LARGE_LIST = 80
MINI_MIN_HELD = 3
MAX_DEAL_SEEDS = 300
_HELD_FRACTION = 0.1

Score = tuple[int, ...]


@dataclass(frozen=True)
class _List:
    """Compounds with their clusters, and what settles a fold of them."""

    molecules: Mapping[str, Compound]
    clusters: Mapping[str, int]
    mini: frozenset[str]  # empty where there is no mini set

    def groups(self, cluster: int) -> list[list[str]]:
        """Names of a cluster; stereoisomers (one connectivity block) stay together."""
        of_block: dict[str, list[str]] = {}
        for name in sorted(n for n, c in self.clusters.items() if c == cluster):
            of_block.setdefault(self.molecules[name].block, []).append(name)
        return list(of_block.values())

    def settled(self, fold: Fold) -> Fold:
        return settle_fold(fold, self.molecules, self.clusters)


def clustering_settings(n_molecules: int) -> ClusteringSettings:
    """Ask for 10 clusters of 4 compounds or more; for lists under 80, for 5 of 3 or more.

    Raises:
        UserError: The list has fewer than 20 compounds.
    """
    if n_molecules < MIN_MOLECULES:
        raise UserError(
            f"{n_molecules} compounds are too few for a cluster-level split; "
            f"give {MIN_MOLECULES} or more"
        )
    if n_molecules < LARGE_LIST:
        return ClusteringSettings(n_clusters=N_FOLDS, min_cluster_size=3)
    return ClusteringSettings()


def make_split(molecules: Sequence[Molecule]) -> Split:
    """Cluster compounds and deal them into five folds.

    Args:
        molecules: 20 compounds or more, in any order.

    Raises:
        UserError: There are too few compounds.
    """
    fingerprint, umap = FingerprintSettings(), UmapSettings()
    clustering = clustering_settings(len(molecules))
    compounds = {m.name: compound_of(m) for m in sorted(molecules, key=lambda m: m.name)}
    found = cluster_molecules(compounds, fingerprint, umap, clustering)
    folds = deal_folds(compounds, found.labels)
    return Split(
        version=_version_of(compounds, found.labels, folds),
        molecules_sha256=list_sha256(compounds),
        fingerprint=fingerprint,
        umap=umap,
        clustering=clustering,
        umap_seed=found.umap_seed,
        library_versions=library_versions(),
        time_blocks=TIME_BLOCK_FRACTIONS,
        molecules=compounds,
        clusters=found.labels,
        folds=folds,
    )


def _version_of(
    compounds: Mapping[str, Compound], clusters: Mapping[str, int], folds: tuple[Fold, ...]
) -> str:
    """`tg80-v1` for the 80 compounds, unless another outcome is frozen under that name."""
    digest = list_sha256(compounds)
    is_tg80 = list_sha256({m.name: compound_of(m) for m in tg80_molecules()}) == digest
    if is_tg80 and TG80_VERSION in frozen_names():
        frozen = load_split(TG80_VERSION)
        is_tg80 = frozen.clusters == clusters and frozen.folds == folds
    return TG80_VERSION if is_tg80 else f"custom-{digest[:8]}"


def deal_folds(molecules: Mapping[str, Compound], clusters: Mapping[str, int]) -> tuple[Fold, ...]:
    """Deal clustered compounds into five folds, the same for the same input."""
    numbers = sorted(set(clusters.values()))
    large = len(numbers) == 2 * N_FOLDS
    mini = frozenset(mini_names(molecules, clusters)) if large else frozenset()
    compounds = _List(molecules, clusters, mini)
    best: dict[tuple[int, ...], tuple[Score, Fold]] = {}
    candidates = list(_pairings(numbers)) if large else [[(number,) for number in numbers]]
    for held in {held for pairing in candidates for held in pairing}:
        best[held] = _best_deal(compounds, held)
    sizes = {number: list(clusters.values()).count(number) for number in numbers}

    def badness(pairing: list[tuple[int, ...]]) -> tuple:
        scores = np.sum([best[held][0] for held in pairing], axis=0)
        # Of equally good pairings, the one whose test_ood parts are most alike in size.
        return (*scores.tolist(), sum(sum(sizes[c] for c in held) ** 2 for held in pairing))

    chosen = min(candidates, key=badness)
    folds = [best[held][1] for held in chosen]
    return tuple(f.model_copy(update={"index": i}) for i, f in enumerate(folds, start=1))


def _pairings(numbers: list[int]) -> Iterator[list[tuple[int, ...]]]:
    """All ways to pair an even number of clusters: 945 for ten."""
    if not numbers:
        yield []
        return
    first, *others = numbers
    for partner in others:
        rest = [number for number in others if number != partner]
        for pairing in _pairings(rest):
            yield [(first, partner), *pairing]


def _best_deal(compounds: _List, held: tuple[int, ...]) -> tuple[Score, Fold]:
    best: tuple[Score, Fold] | None = None
    unavoidable = _score_of_no_deal(compounds, held)
    for seed in range(MAX_DEAL_SEEDS):
        fold = _deal(compounds, held, seed)
        score = _score(compounds, fold)
        if best is None or score < best[0]:
            best = (score, fold)
        if score == unavoidable:
            break
    assert best is not None
    return best


def _score_of_no_deal(compounds: _List, held: tuple[int, ...]) -> Score:
    """What is lost even if all compounds of the seen clusters are in train: no deal is better."""
    names = sorted(compounds.clusters)
    seen = tuple(name for name in names if compounds.clusters[name] not in held)
    rest = tuple(name for name in names if compounds.clusters[name] in held)
    everything = Fold(index=0, ood_clusters=held, train=seen, val=(), test_id=(), test_ood=rest)
    mini = everything.keeping(compounds.mini)
    return len(compounds.settled(everything).dropped), 0, len(compounds.settled(mini).dropped)


def _deal(compounds: _List, held: tuple[int, ...], seed: int) -> Fold:
    rng = np.random.default_rng([*held, seed])
    seen = [c for c in sorted(set(compounds.clusters.values())) if c not in held]
    target = max(1, round(_HELD_FRACTION * len(compounds.molecules)))
    shuffled = {c: _shuffled(compounds.groups(c), rng) for c in seen}
    limit = {c: max(1, len(groups) // 4) for c, groups in shuffled.items()}
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    taken = {(part, c): 0 for part in ("val", "test_id") for c in seen}
    order = _shuffled(seen, rng)
    progress = True
    while progress:
        progress = False
        for c in order:
            for part in _shuffled(["val", "test_id"], rng):
                room = len(shuffled[c]) > 1 and taken[part, c] < limit[c]
                if room and len(parts[part]) < target:
                    parts[part] += shuffled[c].pop()
                    taken[part, c] += 1
                    progress = True
    parts["train"] = [name for c in seen for group in shuffled[c] for name in group]
    parts["test_ood"] = [name for name, c in compounds.clusters.items() if c in held]
    dealt = {part: tuple(sorted(names)) for part, names in parts.items()}
    fold = {"index": 0, "ood_clusters": held, "deal_seed": seed, **dealt}
    return compounds.settled(Fold.model_validate(fold))


def _shuffled(items: list, rng: np.random.Generator) -> list:
    return [items[i] for i in rng.permutation(len(items))]


def _score(compounds: _List, fold: Fold) -> Score:
    """Compounds dropped; what the mini set lacks; compounds dropped from it. Zeros are best."""
    empty = sum(not fold.part(part) for part in ("val", "test_id"))
    if not compounds.mini:
        return (len(fold.dropped), empty, 0)
    mini = fold.keeping(compounds.mini)
    settled = compounds.settled(mini)
    lacking = sum(max(0, MINI_MIN_HELD - len(settled.part(p))) for p in ("val", "test_id"))
    seen = {c for c in compounds.clusters.values() if c not in fold.ood_clusters}
    untrained = len(seen - {compounds.clusters[name] for name in mini.train})
    lost = sum(len(mini.part(part)) - len(settled.part(part)) for part in HELD_PARTS)
    return (len(fold.dropped), lacking + untrained + empty, lost)
