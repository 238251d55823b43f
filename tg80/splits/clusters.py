"""Clusters of alike compounds: ECFP-4 fingerprints -> UMAP -> agglomerative clustering.

UMAP's numbers depend on library versions and processors, so what is computed here is frozen in a
JSON file once (`tg80.splits.split`) and only recomputed for comparison.

References:
    ECFP: Rogers and Hahn, doi:10.1021/ci100050t. UMAP: McInnes et al., arXiv:1802.03426.
    UMAP clusters as splits: Guo et al., doi:10.1007/978-3-031-72359-9_5.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator

from tg80.errors import UserError
from tg80.splits.split import ClusteringSettings, Compound, FingerprintSettings, UmapSettings

LIBRARIES = ("numpy", "rdkit", "scikit-learn", "scipy", "umap-learn", "numba", "pynndescent")


@dataclass(frozen=True)
class Clusters:
    """Clusters of a list of compounds.

    Attributes:
        labels: cluster number, from 1 on, of each name; clusters are numbered by their first name.
        umap_seed: the first seed whose clusters are all large enough.
        smallest: compounds in the smallest cluster.
    """

    labels: dict[str, int]
    umap_seed: int
    smallest: int


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that the clusters depend on."""
    return {name: version(name) for name in LIBRARIES}


def fingerprints(smiles: Sequence[str], settings: FingerprintSettings | None = None) -> np.ndarray:
    """Compute Morgan bits, shape (n_molecules, n_bits), bool."""
    settings = settings or FingerprintSettings()
    generator = GetMorganGenerator(
        radius=settings.radius,
        fpSize=settings.n_bits,
        includeChirality=settings.use_chirality,
    )
    with rdBase.BlockLogs():
        graphs = [Chem.MolFromSmiles(text) for text in smiles]
    return np.array([generator.GetFingerprintAsNumPy(graph) for graph in graphs], dtype=bool)


def tanimoto(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Compute the Tanimoto similarity of every pair: (n, n_bits) and (m, n_bits) bool -> (n, m)."""
    a, b = first.astype(float), second.astype(float)
    shared = a @ b.T
    total = a.sum(1)[:, None] + b.sum(1)[None, :] - shared
    return np.divide(shared, total, out=np.zeros_like(shared), where=total > 0)


def nearest_similarity(test: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Compute the similarity of each test compound to its nearest training compound, (n_test,)."""
    return tanimoto(test, train).max(axis=1) if len(test) and len(train) else np.zeros(0)


def umap_plane(bits: np.ndarray, settings: UmapSettings, seed: int) -> np.ndarray:
    """Compute UMAP coordinates, shape (n_molecules, n_components), of fingerprints."""
    import umap  # its compiler costs seconds, so only who clusters pays

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reducer = umap.UMAP(**settings.model_dump(), random_state=seed, n_jobs=1)
        return np.asarray(reducer.fit_transform(bits), dtype=float)


def agglomerate(plane: np.ndarray, settings: ClusteringSettings) -> np.ndarray:
    """Find cluster labels from 0 on, shape (n_molecules,)."""
    from sklearn.cluster import AgglomerativeClustering

    model = AgglomerativeClustering(n_clusters=settings.n_clusters, linkage=settings.linkage)
    return model.fit_predict(plane)


def cluster_molecules(
    compounds: Mapping[str, Compound],
    fingerprint: FingerprintSettings,
    umap: UmapSettings,
    clustering: ClusteringSettings,
) -> Clusters:
    """Cluster compounds, the same for every order of the list.

    UMAP seeds 0, 1, ... are tried and the first is taken whose clusters all have
    `min_cluster_size` compounds; if `max_seeds` of them have not, the one whose smallest cluster is
    largest. Stereoisomers (one InChIKey connectivity block) are one point and share a cluster.

    Raises:
        UserError: Too few compounds differ in more than stereo.
    """
    n_points, least = len(_points(compounds)), 2 * clustering.n_clusters
    if n_points < least:
        raise UserError(
            f"{n_points} compounds that differ in more than stereo are too few for "
            f"{clustering.n_clusters} clusters; give {least} or more"
        )
    best = Clusters(labels={}, umap_seed=-1, smallest=-1)
    for seed in range(clustering.max_seeds):
        _, labels = map_molecules(compounds, fingerprint, umap, clustering, seed)
        smallest = min(Counter(labels.values()).values())
        if smallest > best.smallest:
            best = Clusters(labels, seed, smallest)
        if smallest >= clustering.min_cluster_size:
            break
    return best


def map_molecules(
    compounds: Mapping[str, Compound],
    fingerprint: FingerprintSettings,
    umap: UmapSettings,
    clustering: ClusteringSettings,
    seed: int,
) -> tuple[dict[str, tuple[float, ...]], dict[str, int]]:
    """Lay compounds out in the UMAP plane of one seed, and cluster them there.

    Returns:
        The place of each name in the plane, and its cluster number.
    """
    points = _points(compounds)
    plane = umap_plane(fingerprints([c.smiles for c in points.values()], fingerprint), umap, seed)
    places = dict(zip(points, map(tuple, plane[:, :2].tolist()), strict=True))
    labels = dict(zip(points, agglomerate(plane, clustering).tolist(), strict=True))
    return (
        {name: places[compound.block] for name, compound in compounds.items()},
        _renumbered({name: labels[compound.block] for name, compound in compounds.items()}),
    )


def _points(compounds: Mapping[str, Compound]) -> dict[str, Compound]:
    """One compound of each InChIKey connectivity block, the same for every order of the list."""
    points: dict[str, Compound] = {}
    for name in sorted(compounds):
        points.setdefault(compounds[name].block, compounds[name])
    return points


def _renumbered(labels: dict[str, int]) -> dict[str, int]:
    """Labels from 1 on, in alphabetical order of the names and numbered as they appear."""
    numbers: dict[int, int] = {}
    return {name: numbers.setdefault(labels[name], len(numbers) + 1) for name in sorted(labels)}
