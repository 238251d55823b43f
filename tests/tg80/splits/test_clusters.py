"""Fingerprints, similarities and clusters."""

import numpy as np
import pytest

from tg80.chemistry.lists import tg80_molecules
from tg80.chemistry.molecule import molecule_from_smiles
from tg80.errors import UserError
from tg80.splits import clusters
from tg80.splits.clusters import (
    agglomerate,
    cluster_molecules,
    fingerprints,
    nearest_similarity,
    tanimoto,
)
from tg80.splits.split import ClusteringSettings, FingerprintSettings, UmapSettings, compound_of

SETTINGS = (FingerprintSettings(), UmapSettings())
FIRST = {molecule.name: compound_of(molecule) for molecule in tg80_molecules()[:12]}


def test_fingerprints_are_2048_morgan_bits_without_chirality():
    bits = fingerprints(["CCO", "OCC", "C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O", "c1ccccc1"])
    assert bits.shape == (5, 2048) and bits.dtype == bool
    assert (bits[0] == bits[1]).all() and (bits[2] == bits[3]).all()
    # Ethanol: three atoms at radius 0, three at radius 1, no new environment at radius 2.
    assert bits[0].sum() == 6


def test_tanimoto_is_shared_over_all_bits():
    first = np.array([[1, 1, 0, 0], [0, 0, 0, 0]], dtype=bool)
    second = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]], dtype=bool)
    np.testing.assert_allclose(tanimoto(first, second), [[1, 1 / 3, 0], [0, 0, 0]])
    np.testing.assert_allclose(nearest_similarity(first, second), [1, 0])
    assert nearest_similarity(first, second[:0]).shape == (0,)


def test_agglomeration_finds_blobs():
    rng = np.random.default_rng(0)
    centres = np.array([[0, 0], [10, 0], [0, 10]])
    truth = np.repeat([0, 1, 2], 6)
    labels = agglomerate(
        centres[truth] + rng.normal(scale=0.1, size=(18, 2)), ClusteringSettings(n_clusters=3)
    )
    assert len({(a, b) for a, b in zip(truth, labels, strict=True)}) == 3


@pytest.fixture
def seeds_tried(monkeypatch):
    """UMAP replaced by a plane known in advance; what is tested is the scan of seeds around it."""
    tried = []

    def plane(bits, settings, seed):
        tried.append(seed)
        n_outliers = max(0, 3 - seed)  # seed 0 leaves a cluster of 3, seed 1 of 2, ...
        x = np.linspace(0, 1, len(bits))
        x[: n_outliers or len(bits) // 2] += 100
        return np.column_stack([x, np.zeros_like(x)])

    monkeypatch.setattr(clusters, "umap_plane", plane)
    return tried


def test_the_first_seed_with_large_enough_clusters_is_taken(seeds_tried):
    found = cluster_molecules(
        FIRST, *SETTINGS, ClusteringSettings(n_clusters=2, min_cluster_size=4)
    )
    assert (found.umap_seed, found.smallest, seeds_tried) == (3, 6, [0, 1, 2, 3])


def test_without_such_a_seed_the_best_of_those_tried_is_taken(seeds_tried):
    settings = ClusteringSettings(n_clusters=2, min_cluster_size=4, max_seeds=3)
    found = cluster_molecules(FIRST, *SETTINGS, settings)
    assert (found.umap_seed, found.smallest, seeds_tried) == (0, 3, [0, 1, 2])


def test_the_order_of_the_list_does_not_matter(seeds_tried):
    settings = ClusteringSettings(n_clusters=2)
    forward = cluster_molecules(FIRST, *SETTINGS, settings)
    backward = dict(reversed(FIRST.items()))
    assert cluster_molecules(backward, *SETTINGS, settings) == forward
    assert forward.labels[min(forward.labels)] == 1  # numbered by the first name


def test_stereoisomers_share_a_cluster(seeds_tried):
    pair = [molecule_from_smiles(s) for s in ("C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O")]
    both = FIRST | {molecule.name: compound_of(molecule) for molecule in pair}
    found = cluster_molecules(both, *SETTINGS, ClusteringSettings(n_clusters=2))
    assert len({found.labels[molecule.name] for molecule in pair}) == 1


def test_stereoisomers_of_one_compound_are_not_a_list():
    sugars = ["OC[C@H](O)[C@H](O)C=O", "OC[C@@H](O)[C@H](O)C=O", "OC[C@H](O)[C@@H](O)C=O"]
    compounds = {smiles: compound_of(molecule_from_smiles(smiles)) for smiles in sugars}
    with pytest.raises(UserError, match="differ in more than stereo"):
        cluster_molecules(compounds, *SETTINGS, ClusteringSettings(n_clusters=2))
