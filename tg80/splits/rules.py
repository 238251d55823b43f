"""The rules a split has to keep, and where one breaks them.

Nothing the file says about its compounds is believed: InChIKeys, elements and sizes are computed
from the SMILES again. `found` are the compounds that they give, by name.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

from rdkit import Chem, rdBase
from rdkit.Chem.rdMolDescriptors import CalcMolFormula

from tg80.chemistry.lists import tg80_molecules
from tg80.chemistry.smiles import same_compound
from tg80.errors import UserError
from tg80.shards.metadata import ShardMetadata
from tg80.splits.folds import LARGE_LIST, MIN_MOLECULES, MINI_MIN_HELD, N_FOLDS
from tg80.splits.split import (
    HELD_PARTS,
    PARTS,
    TG80_VERSION,
    TIME_PARTS,
    Compound,
    Fold,
    Split,
    compound_of,
    elements_of,
    frozen_names,
    list_sha256,
    load_split,
    mini_names,
)

MIN_GAP = 0.035
TG80_HELD_RANGE = range(6, 11)  # "about 8"

Found = Mapping[str, Compound]


@dataclass(frozen=True)
class Rule:
    """One rule and where it is broken: `problems` is empty if it holds."""

    name: str
    problems: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return not self.problems


def check_rules(split: Split) -> tuple[Rule, ...]:
    """Check every rule that applies to a split."""
    found, unreadable = recomputed_compounds(split)
    first = Rule("every SMILES is a compound with the InChIKey stated", tuple(unreadable))
    rules = [Rule(name, tuple(check(split, found))) for name, check in _RULES.items()]
    return (first, *rules)


def compound_from(smiles: str) -> Compound | None:
    """Compute what RDKit says of a SMILES; None if it is invalid."""
    with rdBase.BlockLogs():
        graph = Chem.MolFromSmiles(smiles)
        if graph is None:
            return None
        full = Chem.AddHs(graph)
        return Compound(
            smiles=smiles,
            inchikey=Chem.MolToInchiKey(full),
            formula=CalcMolFormula(full),
            n_atoms=full.GetNumAtoms(),
        )


def recomputed_compounds(split: Split) -> tuple[dict[str, Compound], list[str]]:
    """Compute every compound by name, and say what differs from them in the file."""
    found: dict[str, Compound] = {}
    problems: list[str] = []
    for name, stated in split.molecules.items():
        compound = compound_from(stated.smiles)
        if compound is None or not compound.inchikey:
            problems.append(f"{name}: invalid SMILES {stated.smiles}")
            continue
        found[name] = compound
        if compound.inchikey != stated.inchikey:
            problems.append(
                f"{name}: InChIKey {stated.inchikey}, its SMILES gives {compound.inchikey}"
            )
        if compound.n_atoms != stated.n_atoms or compound.elements != stated.elements:
            problems.append(f"{name}: size or formula differ from its SMILES")
    return found, problems


_Check = Callable[[Split, Found], Iterator[str]]


def _in_folds(check: Callable[[Split, Found, Fold], Iterator[str]]) -> _Check:
    """Make a check of all folds from a check of one."""

    def check_all(split: Split, found: Found) -> Iterator[str]:
        for fold in split.folds:
            yield from (f"fold {fold.index}: {problem}" for problem in check(split, found, fold))

    return check_all


def _list_is_stated(split: Split, found: Found) -> Iterator[str]:
    if list_sha256(split.molecules) != split.molecules_sha256:
        yield "sha256 of the molecule list differs from the one stated"
    if split.version == TG80_VERSION:
        expected = {m.name: compound_of(m) for m in tg80_molecules()}
        if list_sha256(expected) != split.molecules_sha256:
            yield "the list is not that of the 80 compounds"


def _version_is_the_frozen_one(split: Split, found: Found) -> Iterator[str]:
    """A split that bears a published version, or is called a part of it, has to be that."""
    if split.version in frozen_names():
        if split.sha256 != (known := load_split(split.version).sha256):
            yield f"sha256 {split.sha256}; {split.version} of this package has {known}"
    elif split.subset_of in frozen_names():
        whole = load_split(split.subset_of)
        names = set(split.molecules) & set(whole.molecules)
        if not names or whole.restrict(names).sha256 != split.sha256:
            yield f"not what restricting {split.subset_of} to these compounds gives"


def _clusters_are_whole(split: Split, found: Found) -> Iterator[str]:
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


def _each_cluster_held_once(split: Split, found: Found) -> Iterator[str]:
    if [fold.index for fold in split.folds] != list(range(1, N_FOLDS + 1)):
        yield f"folds {[fold.index for fold in split.folds]}; there should be 1 to {N_FOLDS}"
    held = Counter(cluster for fold in split.folds for cluster in fold.ood_clusters)
    for cluster in sorted(set(split.clusters.values()) | set(held)):
        if held[cluster] != 1 and not (split.subset_of and not held[cluster]):
            yield f"cluster {cluster} is out of distribution in {held[cluster]} folds"
    if len({len(fold.ood_clusters) for fold in split.folds}) > 1:
        yield "folds hold different numbers of clusters out"


@_in_folds
def _parts_are_disjoint(split: Split, found: Found, fold: Fold) -> Iterator[str]:
    parts = Counter(name for part in PARTS for name in fold.part(part))
    dropped = {one.name for one in fold.dropped}
    for name in sorted({*split.molecules, *parts, *dropped}):
        if parts[name] and name in dropped:
            yield f"{name} is said to be dropped and is not"
        elif parts[name] != (name not in dropped) or name not in split.molecules:
            yield f"{name} stands in {parts[name]} parts"


def _one_name_a_compound(split: Split, found: Found) -> Iterator[str]:
    """Replicas are identified by the name of their compound, so a second name would separate
    them.
    """
    names: dict[str, list[str]] = {}
    for name in sorted(found):
        names.setdefault(found[name].inchikey, []).append(name)
    for key, same in sorted(names.items()):
        for name, other in combinations(same, 2):  # tautomers have one key, too
            if same_compound(split.molecules[name].smiles, split.molecules[other].smiles):
                yield f"{name}, {other} are one compound, {key}"


@_in_folds
def _blocks_are_disjoint(split: Split, found: Found, fold: Fold) -> Iterator[str]:
    for block, places in sorted(shared_blocks(fold, found).items()):
        where = " and ".join(f"{name} in {part}" for name, part in sorted(places))
        yield f"connectivity {block} is that of {where}"


def shared_blocks(fold: Fold, found: Found) -> dict[str, set[tuple[str, str]]]:
    """Find connectivity blocks that stand in two parts or more: (name, part) of each place."""
    places: dict[str, set[tuple[str, str]]] = {}
    for part in PARTS:
        for name in fold.part(part):
            if name in found:
                places.setdefault(found[name].block, set()).add((name, part))
    return {b: where for b, where in places.items() if len({part for _, part in where}) > 1}


@_in_folds
def _ood_is_ood(split: Split, found: Found, fold: Fold) -> Iterator[str]:
    for part in PARTS:
        for name in fold.part(part):
            cluster = split.clusters.get(name)
            if (cluster in fold.ood_clusters) != (part == "test_ood"):
                yield f"{name} of cluster {cluster} in {part}"


def _clusters_of(split: Split, names: Iterable[str]) -> set[int]:
    return {split.clusters[name] for name in names if name in split.clusters}


@_in_folds
def _seen_clusters_are_trained(split: Split, found: Found, fold: Fold) -> Iterator[str]:
    wanted = _clusters_of(split, (*fold.val, *fold.test_id))
    if split.subset_of is None:
        wanted = set(split.clusters.values()) - set(fold.ood_clusters)
    for cluster in sorted(wanted - _clusters_of(split, fold.train)):
        yield f"no compound of seen cluster {cluster} in train"


def _trained_elements(found: Found, fold: Fold) -> frozenset[str]:
    return elements_of(found[name] for name in fold.train if name in found)


@_in_folds
def _elements_are_trained(split: Split, found: Found, fold: Fold) -> Iterator[str]:
    known = _trained_elements(found, fold)
    for part in HELD_PARTS:
        for name in fold.part(part):
            missing = sorted(found[name].elements - known) if name in found else []
            if missing:
                yield f"{name} of {part} has {', '.join(missing)}, train not"


@_in_folds
def _drops_are_needed(split: Split, found: Found, fold: Fold) -> Iterator[str]:
    known, trained = _trained_elements(found, fold), _clusters_of(split, fold.train)
    for dropped in fold.dropped:
        if dropped.name not in found:
            continue
        untrained = dropped.part != "test_ood" and split.clusters.get(dropped.name) not in trained
        if found[dropped.name].elements <= known and not untrained:
            yield f"{dropped.name} was dropped though train stands for it"


def _time_blocks_are_apart(split: Split, found: Found) -> Iterator[str]:
    blocks = sorted(split.time_blocks.items(), key=lambda item: item[1])
    names = [name for name, _ in blocks]
    if names != list(TIME_PARTS):
        yield f"time blocks {names}; {', '.join(TIME_PARTS)} are needed"
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


@_in_folds
def _sizes_are_right(split: Split, found: Found, fold: Fold) -> Iterator[str]:
    for part in ("val", "test_id") if split.subset_of is None else ():
        size = len(fold.part(part))
        if split.version == TG80_VERSION and size not in TG80_HELD_RANGE:
            yield f"{size} compounds in {part}; about 8 are needed"
        elif not size:
            yield f"no compounds in {part}"


def _mini_set_works(split: Split, found: Found) -> Iterator[str]:
    if split.version != TG80_VERSION:
        return
    try:
        mini = split.restrict(mini_names(split.molecules, split.clusters))
    except (UserError, KeyError):
        yield "the mini set can't be formed"
        return
    for fold in mini.folds:
        for part in ("val", "test_id"):
            size = len(fold.part(part))
            if size < MINI_MIN_HELD:
                yield f"mini set, fold {fold.index}: {size} compounds in {part}"
        seen = set(mini.clusters.values()) - set(fold.ood_clusters)
        for cluster in sorted(seen - _clusters_of(mini, fold.train)):
            yield f"mini set, fold {fold.index}: no compound of cluster {cluster} in train"
    yield from (f"mini set, {problem}" for problem in _elements_are_trained(mini, found))


_RULES: dict[str, _Check] = {
    "the molecule list is the one stated": _list_is_stated,
    "a published version is as it was published": _version_is_the_frozen_one,
    "clusters are disjoint, complete and large enough": _clusters_are_whole,
    "each cluster is out of distribution exactly once": _each_cluster_held_once,
    "each compound is in one part of each fold": _parts_are_disjoint,
    "all replicas of a compound go by one name": _one_name_a_compound,
    "no InChIKey connectivity block in two parts": _blocks_are_disjoint,
    "test_ood holds the held-out clusters and nothing else": _ood_is_ood,
    "each seen cluster has a training compound": _seen_clusters_are_trained,
    "every element of a held part occurs in train": _elements_are_trained,
    "only what train can't stand for is dropped": _drops_are_needed,
    "time blocks are apart": _time_blocks_are_apart,
    "val and test_id have the right sizes": _sizes_are_right,
    "the mini set has its parts": _mini_set_works,
}


def check_trajectories(split: Split, trajectories: Sequence[ShardMetadata]) -> tuple[Rule, ...]:
    """Check that each trajectory that a split is used on is where its compound belongs.

    Args:
        split: the split.
        trajectories: what each shard says about itself. Its name decides its part, so the compound
            behind the name is computed from its SMILES and compared.
    """
    strangers, apart = [], []
    blocks: dict[str, list[tuple[str, str]]] = {}  # of connectivity: label and name of each shard
    for shard in trajectories:
        label, stated = f"{shard.name}-r{shard.replica}", split.molecules.get(shard.name)
        found = compound_from(shard.smiles)
        if found is not None:
            blocks.setdefault(found.block, []).append((label, shard.name))
        if stated is None:
            strangers.append(f"{label}: no compound {shard.name} in the split")
        elif found is None or found.inchikey != stated.inchikey:
            strangers.append(f"{label}: {shard.smiles} is not the {shard.name} of the split")
    for fold in split.folds:
        part_of = {name: part for part in PARTS for name in fold.part(part)}
        for shards in blocks.values():
            parts = {label: part_of[name] for label, name in shards if name in part_of}
            if len(set(parts.values())) > 1:
                where = " and ".join(f"{label} in {part}" for label, part in sorted(parts.items()))
                apart.append(f"fold {fold.index}: one compound, {where}")
    return (
        Rule("every trajectory is of the compound whose name it bears", tuple(strangers)),
        Rule("all trajectories of a compound are in one part", tuple(apart)),
    )
