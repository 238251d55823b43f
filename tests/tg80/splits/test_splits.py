"""The frozen split, its restrictions, its file, and the deal that makes splits."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tg80.splits.test_split_rules import broken
from tg80.chemistry.lists import tg80_molecules
from tg80.errors import UserError
from tg80.splits.certificate import check_split
from tg80.splits.folds import clustering_settings, deal_folds, make_split
from tg80.splits.split import (
    PARTS,
    ClusteringSettings,
    Split,
    compound_of,
    list_sha256,
    load_split,
    mini_names,
    time_blocks,
)

FROZEN = load_split("tg80-v1")
MINI = mini_names(FROZEN.molecules, FROZEN.clusters)


def test_frozen_split_holds_every_cluster_out_once_and_whole():
    held = Counter(name for fold in FROZEN.folds for name in fold.test_ood)
    assert held == Counter(list(FROZEN.molecules))
    assert Counter(c for fold in FROZEN.folds for c in fold.ood_clusters) == Counter(range(1, 11))
    assert min(Counter(FROZEN.clusters.values()).values()) >= 4
    for fold in FROZEN.folds:
        assert len(fold.ood_clusters) == 2
        assert {FROZEN.clusters[name] for name in fold.test_ood} == set(fold.ood_clusters)
        assert len({FROZEN.clusters[name] for name in fold.train}) == 8
        assert (len(fold.val), len(fold.test_id)) == (8, 8)
        assert not fold.dropped


def test_mini_set_is_the_three_smallest_of_each_cluster_and_works():
    names = MINI
    assert len(names) == 30 and names == sorted(names)
    for cluster in range(1, 11):
        sizes = sorted(
            (FROZEN.molecules[n].n_atoms, n) for n, c in FROZEN.clusters.items() if c == cluster
        )
        assert {n for _, n in sizes[:3]} == {n for n in names if FROZEN.clusters[n] == cluster}
    mini = FROZEN.restrict(names)
    for fold in mini.folds:
        assert len(fold.val) >= 3 and len(fold.test_id) >= 3 and len(fold.test_ood) == 6
        assert len({mini.clusters[name] for name in fold.train}) == 8
        assert not fold.dropped
    assert check_split(mini).holds


def test_frozen_split_is_of_the_80_compounds_and_deals_again_alike():
    compounds = {m.name: compound_of(m) for m in tg80_molecules()}
    assert FROZEN.molecules == compounds
    assert FROZEN.molecules_sha256 == list_sha256(compounds)
    assert deal_folds(FROZEN.molecules, FROZEN.clusters) == FROZEN.folds


def test_frozen_split_holds_and_is_harder_than_random():
    certificate = check_split(FROZEN)
    assert certificate.holds
    assert len(certificate.rules) == 15
    random = certificate.random_similarity.mean
    for figures in certificate.folds:
        similarity = figures.nearest_train_tanimoto
        assert similarity["test_ood"].mean < similarity["test_id"].mean
        assert similarity["test_ood"].mean < random
    json.dumps(certificate.to_dict(), allow_nan=False)


# Restriction


@given(st.sets(st.sampled_from(sorted(FROZEN.molecules)), min_size=1, max_size=40))
@settings(max_examples=20, deadline=None)
def test_any_restriction_keeps_parts_and_rules(names):
    small = FROZEN.restrict(names)
    assert set(small.molecules) == set(small.clusters) == names
    for fold in small.folds:
        for part in PARTS:
            assert set(fold.part(part)) <= set(FROZEN.fold(fold.index).part(part))
        gone = {dropped.name for dropped in fold.dropped}
        assert {n for part in PARTS for n in fold.part(part)} | gone == names
    assert broken(small) == set()
    assert small.sha256 != FROZEN.sha256 and small.subset_of == "tg80-v1"


def test_restriction_lists_what_it_drops():
    # Without another chlorine compound, chloroform can't be tested.
    fold = FROZEN.zero_shot_fold("chloroform")
    others = [n for n, c in FROZEN.molecules.items() if "Cl" not in c.elements]
    small = FROZEN.restrict([*others, "chloroform"]).fold(fold.index)
    assert [(d.name, d.part, d.reason) for d in small.dropped] == [
        ("chloroform", "test_ood", "no Cl in train")
    ]


def test_restriction_to_everything_is_the_split_and_to_strangers_refused():
    assert FROZEN.restrict(FROZEN.molecules) is FROZEN
    with pytest.raises(UserError, match="no compound argon"):
        FROZEN.restrict(["argon"])
    with pytest.raises(UserError, match="name some"):
        FROZEN.restrict([])


# Reading


def test_zero_shot_fold_and_unknown_folds_and_parts():
    assert "1-butanol" in FROZEN.zero_shot_fold("1-butanol").test_ood
    for call in (
        lambda: FROZEN.zero_shot_fold("butanol"),
        lambda: FROZEN.fold(6),
        lambda: FROZEN.fold(1).part("test"),
    ):
        with pytest.raises(UserError):
            call()


def test_a_split_file_round_trips(tmp_path):
    path = tmp_path / "split.json"
    path.write_text(FROZEN.to_json())
    assert load_split(path) == FROZEN
    assert load_split(path).sha256 == FROZEN.sha256
    assert "folds" in Split.model_json_schema()["properties"]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", UserError),
        (b"{}", UserError),
        (b"\xff\x00", UserError),
        (FROZEN.to_json()[:500].encode(), UserError),
        (FROZEN.to_json().replace("tg80-split/1", "tg80-split/9").encode(), UserError),
        (FROZEN.to_json().replace('"umap_seed"', '"seed"').encode(), UserError),
    ],
)
def test_damaged_files_are_named_in_one_line(tmp_path, content, error):
    path = tmp_path / "split.json"
    path.write_bytes(content)
    with pytest.raises(error, match=r"split\.json") as caught:
        load_split(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(UserError, match="tg80-v1"):
        load_split("tg80-v0")
    with pytest.raises(UserError, match="is a folder"):
        load_split(tmp_path)


# Time blocks


@given(st.floats(1e-3, 1e9))
def test_time_blocks_are_the_stated_shares(length):
    blocks = time_blocks(length)
    shares = {part: (end - begin) / length for part, (begin, end) in blocks.items()}
    assert shares == pytest.approx({"train": 0.6, "val_time": 0.12, "test_time": 0.21})
    gaps = [blocks["val_time"][0] - blocks["train"][1], blocks["test_time"][0]]
    gaps[1] -= blocks["val_time"][1]
    assert gaps == pytest.approx([0.035 * length] * 2)
    assert blocks["train"][0] == 0 and blocks["test_time"][1] == length


@pytest.mark.parametrize("length", [0, -1, float("nan"), float("inf")])
def test_time_blocks_of_no_length_are_refused(length):
    with pytest.raises(UserError):
        time_blocks(length)


# The deal


def test_short_lists_are_refused_and_sizes_choose_the_clusters():
    with pytest.raises(UserError, match="19 compounds are too few"):
        make_split(tg80_molecules()[:19])
    assert clustering_settings(20).n_clusters == clustering_settings(79).n_clusters == 5
    assert clustering_settings(80) == ClusteringSettings(n_clusters=10, min_cluster_size=4)


def test_what_no_deal_can_keep_is_dropped_and_listed():
    """Every chlorine compound in one cluster: in its fold none of them can be tested."""
    chlorine = {n for n, c in FROZEN.molecules.items() if "Cl" in c.elements}
    clusters = dict(FROZEN.clusters)
    home = clusters["chloroform"]
    clusters |= dict.fromkeys(chlorine, home)
    folds = deal_folds(FROZEN.molecules, clusters)
    dropped = {(d.name, d.part) for fold in folds for d in fold.dropped}
    assert dropped == {(name, "test_ood") for name in chlorine}


@given(st.integers(20, 60), st.integers(0, 2**32 - 1))
@settings(max_examples=6, deadline=None)
def test_any_clusters_are_dealt_by_the_rules(n_molecules, seed):
    rng = np.random.default_rng(seed)
    names = sorted(rng.choice(sorted(FROZEN.molecules), n_molecules, replace=False).tolist())
    labels = np.concatenate([np.arange(1, 6), rng.integers(1, 6, n_molecules - 5)])
    molecules = {name: FROZEN.molecules[name] for name in names}
    clusters = dict(zip(names, labels.tolist(), strict=True))
    folds = deal_folds(molecules, clusters)
    assert folds == deal_folds(molecules, clusters)
    update = {"molecules": molecules, "clusters": clusters, "folds": folds}
    split = FROZEN.model_copy(
        update={**update, "version": "custom-x", "molecules_sha256": list_sha256(molecules)}
    )
    # A list of tiny clusters may leave val empty; nothing else may go wrong.
    assert broken(split) <= {"val and test_id have the right sizes"}


def test_a_list_of_40_is_split_from_smiles_to_folds_and_alike_again():
    """The one real UMAP run of the default tests."""
    molecules = tg80_molecules()[10:50]
    first = make_split(molecules)
    assert check_split(first).holds
    assert len(set(first.clusters.values())) == 5
    assert first.version == f"custom-{first.molecules_sha256[:8]}"
    assert make_split(molecules[::-1]) == first


@pytest.mark.slow
def test_the_frozen_split_is_recomputed():
    """Reported, never required: other library versions may cluster differently."""
    report = check_split(FROZEN, recompute=True)
    assert report.holds
    assert -1 <= report.recomputation.adjusted_rand_index <= 1
    if not report.recomputation.library_versions_changed:
        assert report.recomputation.clusters_equal
        assert report.recomputation.folds_equal
