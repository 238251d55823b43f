"""The rules a split has to keep, and where one breaks them.

Nothing the file says about its compounds is believed: InChIKeys, elements and sizes are computed
from the SMILES again.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

from rdkit import Chem, rdBase

from tg80.chemistry.molecule import tg80_molecules
from tg80.chemistry.smiles import same_compound
from tg80.errors import UserError
from tg80.shards.metadata import ShardMetadata
from tg80.splits.folds import LARGE_LIST, MIN_MOLECULES, MINI_MIN_HELD, N_FOLDS
from tg80.splits.split import (
    HELD_PARTS,
    PARTS,
    TG80_VERSION,
    Fold,
    Split,
    compound_of,
    frozen_names,
    list_sha256,
    load_split,
    mini_names,
)

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


def check_rules(split: Split) -> tuple[Rule, ...]:
    """Every rule that applies to a split."""
    facts, unreadable = facts_of(split)
    return (
        Rule("every SMILES is a compound with the InChIKey stated", tuple(unreadable)),
        *(Rule(name, tuple(check(split, facts))) for name, check, scope in _RULES if scope(split)),
    )


@dataclass(frozen=True)
class Facts:
    """What the SMILES alone says about a compound: InChIKey and elements."""

    key: str
    elements: frozenset[str]
    n_atoms: int

    @property
    def block(self) -> str:
        """The connectivity block of the InChIKey, the same for all stereoisomers."""
        return self.key[:14]


def facts_of_smiles(smiles: str) -> Facts | None:
    """What RDKit says of a SMILES; None if it is invalid."""
    with rdBase.BlockLogs():
        graph = Chem.MolFromSmiles(smiles)
        if graph is None:
            return None
        full = Chem.AddHs(graph)
        elements = frozenset(atom.GetSymbol() for atom in full.GetAtoms())
        return Facts(Chem.MolToInchiKey(full), elements, full.GetNumAtoms())


def facts_of(split: Split) -> tuple[dict[str, Facts], list[str]]:
    """Facts of every compound by name, and what differs from them in the file."""
    facts: dict[str, Facts] = {}
    problems: list[str] = []
    for name, compound in split.molecules.items():
        found = facts_of_smiles(compound.smiles)
        if found is None:
            problems.append(f"{name}: invalid SMILES {compound.smiles}")
            continue
        facts[name] = found
        if found.key != compound.inchikey:
            problems.append(f"{name}: InChIKey {compound.inchikey}, its SMILES gives {found.key}")
        if found.n_atoms != compound.n_atoms or found.elements != compound.elements:
            problems.append(f"{name}: size or formula differ from its SMILES")
    return facts, problems


_Check = Callable[[Split, dict[str, Facts]], Iterator[str]]


def _list_is_stated(split: Split, facts: dict[str, Facts]) -> Iterator[str]:
    if list_sha256(split.molecules) != split.molecules_sha256:
        yield "sha256 of the molecule list differs from the one stated"
    if split.version == TG80_VERSION:
        expected = {m.name: compound_of(m) for m in tg80_molecules()}
        if list_sha256(expected) != split.molecules_sha256:
            yield "the list is not that of the 80 compounds"


def _version_is_the_frozen_one(split: Split, facts: dict[str, Facts]) -> Iterator[str]:
    """A split that bears a published version, or is called a part of it, has to be that."""
    if split.version in frozen_names():
        if split.sha256 != (known := load_split(split.version).sha256):
            yield f"sha256 {split.sha256}; {split.version} of this package has {known}"
    elif split.subset_of in frozen_names():
        whole = load_split(split.subset_of)
        names = set(split.molecules) & set(whole.molecules)
        if not names or whole.restrict(names).sha256 != split.sha256:
            yield f"not what restricting {split.subset_of} to these compounds gives"


def _clusters_are_whole(split: Split, facts: dict[str, Facts]) -> Iterator[str]:
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


def _each_cluster_held_once(split: Split, facts: dict[str, Facts]) -> Iterator[str]:
    if [fold.index for fold in split.folds] != list(range(1, N_FOLDS + 1)):
        yield f"folds {[fold.index for fold in split.folds]}; there should be 1 to {N_FOLDS}"
    held = Counter(cluster for fold in split.folds for cluster in fold.ood_clusters)
    for cluster in sorted(set(split.clusters.values()) | set(held)):
        if held[cluster] != 1 and not (split.subset_of and not held[cluster]):
            yield f"cluster {cluster} is out of distribution in {held[cluster]} folds"
    if len({len(fold.ood_clusters) for fold in split.folds}) > 1:
        yield "folds hold different numbers of clusters out"


def _parts_are_disjoint(split: Split, facts: dict[str, Facts]) -> Iterator[str]:
    for fold in split.folds:
        places = Counter(name for part in PARTS for name in fold.part(part))
        places.update({dropped.name for dropped in fold.dropped} - set(places))
        for name in sorted(set(split.molecules) | set(places)):
            if places[name] != 1 or name not in split.molecules:
                yield f"fold {fold.index}: {name} stands in {places[name]} parts"
        for dropped in fold.dropped:
            if any(dropped.name in fold.part(part) for part in PARTS):
                yield f"fold {fold.index}: {dropped.name} is said to be dropped and is not"


def _one_name_a_compound(split: Split, facts: dict[str, Facts]) -> Iterator[str]:
    """Replicas are told by the name of their compound, so a second name would part them."""
    names: dict[str, list[str]] = {}
    for name in sorted(facts):
        names.setdefault(facts[name].key, []).append(name)
    for key, same in sorted(names.items()):
        for name, other in combinations(same, 2):  # tautomers have one key, too
            if same_compound(split.molecules[name].smiles, split.molecules[other].smiles):
                yield f"{name}, {other} are one compound, {key}"


def _blocks_are_disjoint(split: Split, facts: dict[str, Facts]) -> Iterator[str]:
    for fold in split.folds:
        for block, places in sorted(shared_blocks(fold, facts).items()):
            where = " and ".join(f"{name} in {part}" for name, part in sorted(places))
            yield f"fold {fold.index}: connectivity {block} is that of {where}"


def shared_blocks(fold: Fold, facts: dict[str, Facts]) -> dict[str, set[tuple[str, str]]]:
    """Connectivity blocks that stand in two parts or more: (name, part) of each place."""
    places: dict[str, set[tuple[str, str]]] = {}
    for part in PARTS:
        for name in fold.part(part):
            if name in facts:
                places.setdefault(facts[name].block, set()).add((name, part))
    return {b: found for b, found in places.items() if len({part for _, part in found}) > 1}


def _ood_is_ood(split: Split, facts: dict[str, Facts]) -> Iterator[str]:
    for fold in split.folds:
        for part in PARTS:
            for name in fold.part(part):
                cluster = split.clusters.get(name)
                if (cluster in fold.ood_clusters) != (part == "test_ood"):
                    yield f"fold {fold.index}: {name} of cluster {cluster} in {part}"


def _seen_clusters_are_trained(split: Split, facts: dict[str, Facts]) -> Iterator[str]:
    for fold in split.folds:
        trained = {split.clusters.get(name) for name in fold.train}
        if split.subset_of is None:
            wanted = set(split.clusters.values()) - set(fold.ood_clusters)
        else:
            wanted = {split.clusters.get(name) for name in (*fold.val, *fold.test_id)}
        for cluster in sorted(c for c in wanted - trained if c is not None):
            yield f"fold {fold.index}: no compound of seen cluster {cluster} in train"


def _elements_are_trained(split: Split, facts: dict[str, Facts]) -> Iterator[str]:
    for fold in split.folds:
        known = elements_of(facts, fold.train)
        for part in HELD_PARTS:
            for name in fold.part(part):
                missing = sorted(facts[name].elements - known) if name in facts else []
                if missing:
                    yield f"fold {fold.index}: {name} of {part} has {', '.join(missing)}, train not"


def _drops_are_needed(split: Split, facts: dict[str, Facts]) -> Iterator[str]:
    for fold in split.folds:
        known = elements_of(facts, fold.train)
        trained = {split.clusters.get(name) for name in fold.train}
        for dropped in fold.dropped:
            if dropped.name not in facts:
                continue
            untrained = (
                dropped.part != "test_ood" and split.clusters.get(dropped.name) not in trained
            )
            if facts[dropped.name].elements <= known and not untrained:
                yield f"fold {fold.index}: {dropped.name} was dropped though train stands for it"


def _time_blocks_are_apart(split: Split, facts: dict[str, Facts]) -> Iterator[str]:
    blocks = sorted(split.time_blocks.items(), key=lambda item: item[1])
    if [name for name, _ in blocks] != ["train", "val_time", "test_time"]:
        yield f"time blocks {[name for name, _ in blocks]}; train, val_time, test_time are needed"
    for (first, (_, end)), (second, (begin, _)) in pairwise(blocks):
        if begin < end:
            yield f"time blocks {first} and {second} overlap"
        elif begin - end < MIN_GAP - 1e-9:
            yield f"only {begin - end:.1%} of the trajectory between {first} and {second}"
    for name, (begin, end) in blocks:
        if not begin < end:
            yield f"time block {name} ends before it begins"
    if blocks and (blocks[0][1][0] < 0 or max(end for _, (_, end) in blocks) > 1):
        yield "a time block lies outside of the trajectory"


def _sizes_are_right(split: Split, facts: dict[str, Facts]) -> Iterator[str]:
    for fold in split.folds:
        for part in ("val", "test_id"):
            size = len(fold.part(part))
            if split.version == TG80_VERSION and size not in TG80_HELD_RANGE:
                yield f"fold {fold.index}: {size} compounds in {part}; about 8 are needed"
            elif not size:
                yield f"fold {fold.index}: no compounds in {part}"


def _mini_set_works(split: Split, facts: dict[str, Facts]) -> Iterator[str]:
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
    ("a published version is as it was published", _version_is_the_frozen_one, _always),
    ("clusters are disjoint, complete and large enough", _clusters_are_whole, _always),
    ("each cluster is out of distribution exactly once", _each_cluster_held_once, _always),
    ("each compound is in one part of each fold", _parts_are_disjoint, _always),
    ("all replicas of a compound go by one name", _one_name_a_compound, _always),
    ("no InChIKey connectivity block in two parts", _blocks_are_disjoint, _always),
    ("test_ood holds the held-out clusters and nothing else", _ood_is_ood, _always),
    ("each seen cluster has a training compound", _seen_clusters_are_trained, _always),
    ("every element of a held part occurs in train", _elements_are_trained, _always),
    ("only what train can't stand for is dropped", _drops_are_needed, _always),
    ("time blocks are apart", _time_blocks_are_apart, _always),
    ("val and test_id have the right sizes", _sizes_are_right, _whole),
    ("the mini set has its parts", _mini_set_works, lambda split: split.version == TG80_VERSION),
)


def elements_of(facts: dict[str, Facts], names: tuple[str, ...]) -> frozenset[str]:
    """Elements of some compounds."""
    return frozenset().union(*(facts[name].elements for name in names if name in facts))


def check_trajectories(split: Split, trajectories: Sequence[ShardMetadata]) -> tuple[Rule, ...]:
    """Rules of the trajectories that a split is used on: is each where its compound belongs?

    Args:
        trajectories: what each shard says about itself. Its name decides its part, so the compound
            behind the name is found from its SMILES and compared.
    """
    labels = [f"{shard.name}-r{shard.replica}" for shard in trajectories]
    found = [facts_of_smiles(shard.smiles) for shard in trajectories]
    strangers, apart = [], []
    for label, shard, facts in zip(labels, trajectories, found, strict=True):
        compound = split.molecules.get(shard.name)
        if compound is None:
            strangers.append(f"{label}: no compound {shard.name} in the split")
        elif facts is None or facts.key != compound.inchikey:
            strangers.append(f"{label}: {shard.smiles} is not the {shard.name} of the split")
    for fold in split.folds:
        part_of = {name: part for part in PARTS for name in fold.part(part)}
        places: dict[str, dict[str, str]] = {}
        for label, shard, facts in zip(labels, trajectories, found, strict=True):
            if facts is not None and shard.name in part_of:
                places.setdefault(facts.block, {})[label] = part_of[shard.name]
        for parts in places.values():
            if len(set(parts.values())) > 1:
                where = " and ".join(f"{label} in {part}" for label, part in sorted(parts.items()))
                apart.append(f"fold {fold.index}: one compound, {where}")
    return (
        Rule("every trajectory is of the compound whose name it bears", tuple(strangers)),
        Rule("all trajectories of a compound are in one part", tuple(apart)),
    )
