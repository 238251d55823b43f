"""Rules of a split see the leak that is planted against them.

`test_leaks` plants leaks in files, as `tg80 split --check` meets them, and looks for their names;
what is planted there is not planted here again.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tg80.chemistry.molecule import molecule_from_smiles
from tg80.splits.certificate import check_split
from tg80.splits.rules import check_rules
from tg80.splits.split import PARTS, Split, compound_of, list_sha256, load_split, mini_names

FROZEN = load_split("tg80-v1")
FIRST = FROZEN.fold(1)


def changed(**update) -> Split:
    return Split.model_validate({**FROZEN.model_dump(), **update})


def with_fold(index, **update) -> Split:
    folds = [fold.model_dump() for fold in FROZEN.folds]
    folds[index - 1] |= update
    return changed(folds=folds)


def without(names, gone):
    return tuple(name for name in names if name not in gone)


def broken(split) -> set[str]:
    """Broken rules but that of the published version, which every change breaks."""
    found = {rule.name for rule in check_rules(split) if not rule.holds}
    return found - {"a published version is as it was published"}


def test_a_tautomer_or_stereoisomer_across_parts_is_found():
    """Another name and another SMILES of one connectivity block, told by the SMILES alone."""
    uracil_fold = next(fold for fold in FROZEN.folds if "uracil" in fold.train)
    twin = compound_of(molecule_from_smiles("Oc1ccnc(O)n1", "dihydroxypyrimidine"))
    folds = [fold.model_dump() for fold in FROZEN.folds]
    for fold in folds:
        part = "test_ood" if FROZEN.clusters["uracil"] in fold["ood_clusters"] else "test_id"
        fold[part] = (*fold[part], "dihydroxypyrimidine")
    molecules = {**FROZEN.molecules, "dihydroxypyrimidine": twin}
    clusters = {**FROZEN.clusters, "dihydroxypyrimidine": FROZEN.clusters["uracil"]}
    leak = Split.model_validate(
        {
            **FROZEN.model_dump(),
            "version": "custom-test",
            "molecules": molecules,
            "clusters": clusters,
            "folds": folds,
            "molecules_sha256": list_sha256(molecules),
        }
    )
    certificate = check_split(leak)
    # A tautomer is a compound of its own, but must not stand in another part.
    assert {rule.name for rule in certificate.rules if not rule.holds} == {
        "no InChIKey connectivity block in two parts"
    }
    figures = certificate.folds[uracil_fold.index - 1]
    assert figures.connectivity_blocks_in_two_parts == 1


def test_three_clusters_in_one_fold_are_found():
    second = FROZEN.fold(2)
    folds = [fold.model_dump() for fold in FROZEN.folds]
    folds[0]["ood_clusters"] = (*FIRST.ood_clusters, second.ood_clusters[0])
    folds[1]["ood_clusters"] = second.ood_clusters[1:]
    assert "each cluster is out of distribution exactly once" in broken(changed(folds=folds))


def test_a_seen_cluster_without_training_compound_is_found():
    cluster = FROZEN.clusters[FIRST.train[0]]
    moved = [name for name in FIRST.train if FROZEN.clusters[name] == cluster]
    leak = with_fold(1, train=without(FIRST.train, moved), val=(*FIRST.val, *moved))
    assert "each seen cluster has a training compound" in broken(leak)
    assert "val and test_id have the right sizes" in broken(leak)


def test_a_needless_drop_is_found():
    drop = {"name": FIRST.val[0], "part": "val", "reason": "no Xx in train"}
    leak = with_fold(1, val=FIRST.val[1:], dropped=(drop,))
    assert broken(leak) == {"only what train can't stand for is dropped"}


@pytest.mark.parametrize(
    "blocks",
    [
        {"train": (0.0, 0.6), "val_time": (0.635, 0.755), "test_time": (0.79, 1.1)},
        {"train": (0.0, 0.6), "test_time": (0.79, 1.0)},
        {"train": (-0.1, 0.6), "val_time": (0.635, 0.755), "test_time": (0.79, 1.0)},
    ],
)
def test_bad_time_blocks_are_found(blocks):
    assert "time blocks are apart" in broken(changed(time_blocks=blocks))


def test_a_forged_list_is_found():
    molecules = {k: v.model_dump() for k, v in FROZEN.molecules.items()}
    molecules["ethanol"]["smiles"] = "CCCC#N"
    found = broken(changed(molecules=molecules))
    assert "every SMILES is a compound with the InChIKey stated" in found
    assert "the molecule list is the one stated" in found
    molecules["ethanol"]["smiles"] = "not one"
    assert "every SMILES is a compound with the InChIKey stated" in broken(
        changed(molecules=molecules)
    )


def test_missing_and_merged_clusters_are_found():
    fewer = {n: c for n, c in FROZEN.clusters.items() if n != FIRST.train[0]}
    assert "clusters are disjoint, complete and large enough" in broken(changed(clusters=fewer))
    merged = {n: 1 if c == 2 else c for n, c in FROZEN.clusters.items()}
    assert "clusters are disjoint, complete and large enough" in broken(changed(clusters=merged))


def test_an_unusable_mini_set_is_found():
    mini = set(mini_names(FROZEN.molecules, FROZEN.clusters))
    moved = [name for name in FIRST.val if name in mini]
    leak = with_fold(1, val=without(FIRST.val, moved), train=(*FIRST.train, *moved))
    assert "the mini set has its parts" in broken(leak)


@given(st.sampled_from(FROZEN.folds), st.data())
@settings(max_examples=20, deadline=None)
def test_any_compound_moved_into_a_second_part_is_found(fold, data):
    source, target = data.draw(st.permutations(PARTS))[:2]
    name = data.draw(st.sampled_from(fold.part(source)))
    leak = with_fold(fold.index, **{target: (*fold.part(target), name)})
    assert "no InChIKey connectivity block in two parts" in broken(leak)
