"""A figure of the clusters of a split on their UMAP map."""

import io
from pathlib import Path

import numpy as np

from tg80.errors import UserError
from tg80.files import write_atomically
from tg80.splits.clusters import map_molecules
from tg80.splits.split import Split, frozen_names, load_split, mini_names

SUFFIXES = (".png", ".svg", ".pdf")
# Colour, shape and number tell a cluster, so that any one of them will do.
MARKERS = "osD^vP*X<>"


def check_plot_path(path: Path) -> None:
    """Refuse a file that no figure can be written to."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: a figure ends in {', '.join(SUFFIXES)}")


def plot_clusters(split: Split, path: Path) -> bool:
    """Draw the compounds of a split on the UMAP map, recomputed with the frozen seed.

    The clusters drawn are the frozen ones. A restriction is drawn on the map of the whole split,
    its own compounds filled.

    Returns:
        Whether the clusters found on the map now are the frozen ones; the title says so too.

    Raises:
        UserError: a restriction of a split that is not in this package.
        Tg80Error: the file cannot be written.
    """
    if split.subset_of not in (None, *frozen_names()):
        raise UserError(
            f"{split.version} is a restriction of {split.subset_of}, which is not in this package; "
            "plot the whole split instead"
        )
    whole = split if split.subset_of is None else load_split(split.subset_of)
    places, labels = map_molecules(
        whole.molecules, whole.fingerprint, whole.umap, whole.clustering, whole.umap_seed
    )
    equal = labels == whole.clusters
    buffer = io.BytesIO()
    figure = _figure(split, whole, places, equal)
    figure.savefig(buffer, format=path.suffix.lower()[1:], dpi=110)
    write_atomically(path, buffer.getvalue())
    return equal


def _figure(split: Split, whole: Split, places: dict[str, tuple[float, ...]], equal: bool):
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.patheffects import withStroke

    figure = Figure(figsize=(10, 6), layout="constrained")
    axes = figure.subplots()
    colours = [colormaps["tab10"](i) for i in range(10)]
    numbers = sorted(set(whole.clusters.values()))
    named = set(mini_names(whole.molecules, whole.clusters))
    for i, number in enumerate(numbers):
        members = [name for name, cluster in whole.clusters.items() if cluster == number]
        place = np.array([places[name] for name in members])
        colour, marker = colours[i % 10], MARKERS[i % 10]
        filled = [colour if name in split.molecules else "none" for name in members]
        axes.scatter(*place.T, marker=marker, s=28, facecolors=filled, edgecolors=[colour])
        axes.scatter([], [], marker=marker, color=colour, label=_label(whole, number, named))
        axes.annotate(
            str(number), (place[:, 0].max(), np.median(place[:, 1])), (7, 0),
            textcoords="offset points", fontsize=13, fontweight="bold", va="center",
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )  # fmt: skip
    axes.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
    axes.set_title(_title(split, whole, equal))
    figure.legend(loc="outside right upper", fontsize=8, title="cluster (compounds, fold)")
    return figure


def _label(whole: Split, number: int, named: set[str]) -> str:
    members = sorted(name for name, cluster in whole.clusters.items() if cluster == number)
    fold = next((f.index for f in whole.folds if number in f.ood_clusters), "-")
    some = [name for name in members if name in named]
    return f"{number} ({len(members)}, {fold}) {', '.join(some)}"


def _title(split: Split, whole: Split, equal: bool) -> str:
    n_clusters = len(set(whole.clusters.values()))
    title = f"{whole.version}: {len(whole.molecules)} compounds in {n_clusters} clusters"
    title += f", UMAP seed {whole.umap_seed}"
    if not equal:
        title += "\nclusters found on this map now differ: those shown are the frozen ones"
    if split is not whole:
        title += f"\nfilled: the {len(split.molecules)} of {split.version}"
    return title
