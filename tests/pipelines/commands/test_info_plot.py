"""`tg80 info --plot`: one molecule as a picture."""

import json

import pytest

from pipelines.cli import run
from tests.support import factories


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Methanol with two replicas, at 10 and 2 fs, and a linear molecule."""
    folder = tmp_path_factory.mktemp("data")
    factories.make_shard(folder, "methanol", n_frames=300, store_every_fs=10.0)
    factories.make_shard(folder, "methanol", n_frames=300, store_every_fs=2.0, replica=1)
    factories.make_shard(folder, "C#N", n_frames=60)
    return folder


@pytest.mark.parametrize("form", ["svg", "png", "pdf"])
def test_one_molecule_is_drawn_the_same_each_time(folder, tmp_path, form):
    contents = []
    for name in ("a", "b"):
        path = tmp_path / f"{name}.{form}"
        words = ["info", str(folder), "--molecule", "methanol", "--plot", str(path), "--json"]
        assert run(words) == 0
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]
    assert contents[0].startswith({"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}[form])


def test_a_linear_molecule_and_frames_too_far_apart(folder, tmp_path):
    (linear,) = (path for path in folder.glob("*.h5md") if not path.name.startswith("methanol"))
    assert run(["info", str(linear), "--plot", str(tmp_path / "a.svg")]) == 0
    path = tmp_path / "b.svg"
    assert run(["info", str(folder / "methanol-r0.h5md"), "--plot", str(path)]) == 0


def test_frames_between_evaluations_are_left_out_of_energies(tmp_path, capsys):
    words = {"n_frames": 1001, "time_step_fs": 0.25}
    factories.make_shard(tmp_path / "a", "methanol", **words)
    partly = factories.make_shard(tmp_path / "b", "methanol", evaluated_every=5, **words)
    assert run(["info", str(partly), "--plot", str(tmp_path / "a.svg")]) == 0
    capsys.readouterr()
    assert run(["info", str(tmp_path), "--json"]) == 0
    one, other = json.loads(capsys.readouterr().out)
    assert (one["n_evaluated"], other["n_evaluated"], other["n_frames"]) == (1001, 201, 1001)
    assert one["temperature_k"] == other["temperature_k"]
    off = abs(one["drift_mev_per_atom_ps"] - other["drift_mev_per_atom_ps"])
    assert off < 3 * (one["drift_error_mev_per_atom_ps"] + other["drift_error_mev_per_atom_ps"])
    assert other["outer_step_fs"] == 5.0 and other["residual_force_ev_per_a"] > 0
    assert run(["info", str(partly)]) == 0
    assert "201 of 1001 frames have energies and forces" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--plot", "a.svg"], "one molecule at one level, not "),
        (["--plot", "a.txt", "--molecule", "methanol"], "a figure ends in"),
        (["--molecule", "ethanol"], "no molecule 'ethanol'"),
    ],
)
def test_what_cannot_be_drawn_is_refused(folder, options, reason, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert run(["info", str(folder), *options]) == 2
    assert reason in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
