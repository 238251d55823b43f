"""The figure of the clusters; UMAP itself runs in the slow test alone."""

import re

import numpy as np
import pytest

from pipelines.cli import run
from tg80.errors import UserError
from tg80.splits import clusters
from tg80.splits.plot import plot_clusters
from tg80.splits.split import load_split

FROZEN = load_split("tg80-v1")


@pytest.fixture
def frozen_map(monkeypatch):
    """A map on which every cluster is a heap of its own; `spread` moves its first compound away."""

    def plane(spread):
        def found(bits, settings, seed):
            assert seed == FROZEN.umap_seed
            numbers = np.array([FROZEN.clusters[name] for name in sorted(FROZEN.clusters)])
            places = np.stack([10.0 * numbers, np.zeros(len(numbers))], axis=1)
            places[0] += spread
            return places + 1e-3 * np.random.default_rng(0).normal(size=places.shape)

        monkeypatch.setattr(clusters, "umap_plane", found)

    plane(0.0)
    return plane


def texts(path) -> list[str]:
    """What is written in an SVG figure."""
    return [text.strip() for text in re.findall(r"<!-- (.*?) -->", path.read_text(), re.DOTALL)]


def test_the_figure_names_every_cluster_and_its_fold(frozen_map, tmp_path):
    assert plot_clusters(FROZEN, tmp_path / "map.svg")
    written = texts(tmp_path / "map.svg")
    assert "tg80-v1: 80 compounds in 10 clusters, UMAP seed 0" in written
    assert {int(text.split()[0]) for text in written if re.match(r"\d+ \(", text)} == {
        *range(1, 11)
    }
    assert "4 (13, 1) acetonitrile, chloroform, methanol" in written


def test_the_figure_says_if_the_clusters_found_now_differ(frozen_map, tmp_path):
    frozen_map(spread=35.0)
    assert not plot_clusters(FROZEN, tmp_path / "map.svg")
    assert any("those shown are the frozen ones" in text for text in texts(tmp_path / "map.svg"))


def test_a_restriction_is_drawn_on_the_map_of_the_whole(frozen_map, tmp_path):
    small = FROZEN.restrict(["methanol", "ethylene"])
    assert plot_clusters(small, tmp_path / "map.svg")
    assert any(f"filled: the 2 of {small.version}" in text for text in texts(tmp_path / "map.svg"))
    stranger = small.model_copy(update={"subset_of": "custom-12345678"})
    with pytest.raises(UserError, match="a restriction of custom-12345678, which is not in this"):
        plot_clusters(stranger, tmp_path / "map.svg")


def test_the_command_draws_what_it_proved(frozen_map, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["split", "--check", "--no-recompute", "--plot"]
    assert run([*command, "map.png"]) == 0
    assert "map written to map.png; clusters found on it: equal" in capsys.readouterr().out
    content = (tmp_path / "map.png").read_bytes()
    assert content.startswith(b"\x89PNG") and len(content) < 200_000
    for wrong in ("map.txt", "nowhere/map.png"):
        assert run([*command, wrong]) == 2
        error = capsys.readouterr().err
        assert wrong in error and error.count("\n") == 1


@pytest.mark.slow
def test_the_map_of_the_documentation_is_drawn_again(tmp_path):
    assert run(["split", "--check", "--no-recompute", "--plot", str(tmp_path / "map.png")]) == 0
    assert 20_000 < (tmp_path / "map.png").stat().st_size < 200_000


def test_structures_are_drawn_by_cluster(tmp_path, capsys):
    path = tmp_path / "structures.svg"
    words = ["split", "--check", "--no-recompute", "--structures"]
    assert run([*words, str(path)]) == 0
    text = path.read_text()
    assert text.count("text-anchor='middle'") >= 80
    for name in FROZEN.molecules:
        assert f">{name}</text>" in text
    assert all(f">cluster {number}, fold" in text for number in range(1, 11))
    capsys.readouterr()
    assert run([*words, str(path)]) == 2 and "exists already" in capsys.readouterr().err
    assert run([*words, str(tmp_path / "a.png")]) == 2
    assert "structures are drawn as .svg" in capsys.readouterr().err
