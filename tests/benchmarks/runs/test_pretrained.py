"""Training that begins with the weights of another run."""

import pytest
import torch

from benchmarks.cli import main
from benchmarks.interface import Budget
from benchmarks.models import make_model
from benchmarks.runs.pretrained import find_begin
from benchmarks.runs.records import read_records, settings_key
from benchmarks.tasks.data import load_benchmark
from benchmarks.tasks.tasks import get_task
from tests.support.factories import make_dataset
from tg80.errors import UserError

SMALL = ("ethylene", "acetonitrile", "chloroform", "formaldehyde", "methanol", "chlorobenzene")
SIZE = ["--set", "model.n_blocks=1", "--set", "model.width=16", "--set", "model.n_heads=2",
    "--set", "model.feedforward_width=16"]  # fmt: skip
SHORT = ["--set", "training.windows_per_trajectory=4", "--epochs", "1", "--device", "cpu"]
STILL = ["--set", "training.learning_rate=1e-12"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    make_dataset(folder, SMALL, n_frames=501, store_every_fs=10.0, time_step_fs=1.0)
    return folder


@pytest.fixture(scope="module")
def finished(shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    for fold in ("2", "3"):
        run = ["run", "--fold", fold, "--data", str(shards), "--out", str(out), *SIZE, *SHORT]
        assert main(run) == 0
    return out


def data_of(shards, fold=2, track="canonical"):
    return load_benchmark(get_task("mini-xtb-v1", track), fold, shards)


def test_training_begins_with_the_weights_and_says_so(shards, finished, tmp_path):
    run = ["run", "--data", str(shards), "--out", str(tmp_path), *SHORT, *STILL]
    for fold in ("2", "3"):
        assert main([*run, "--fold", fold, "--from", str(finished)]) == 0
    begun = [r for r in read_records(tmp_path) if r.model == "atom"]
    before = {r.fold: r for r in read_records(finished) if r.model == "atom"}
    for record in begun:
        assert record.settings["pretrained_on"] == "mini-xtb-v1"
        assert record.settings["model"] == before[record.fold].settings["model"]
        # At this rate no weight moves.
        value, first = (r.value("test_time", "s2s") for r in (record, before[record.fold]))
        assert value == pytest.approx(first, rel=1e-5)
    # Other weights in each fold, yet one line of the leaderboard; not that of random weights.
    assert len({r.settings["pretrained"] for r in begun}) == 2
    assert len({settings_key(r) for r in begun}) == 1
    assert settings_key(begun[0]) != settings_key(before[2])


def test_a_force_field_begins_with_its_weights(shards, tmp_path):
    data, small = data_of(shards), {"model": {"width": 8, "n_rounds": 1}}
    given = {"training": {"windows_per_trajectory": 4, "learning_rate": 1e-12}}
    first = make_model("valence", **small)
    first.initialise(data.training, seed=5)
    model = make_model("valence", **small, **given).begin_with(first.trained(), on="elsewhere")
    model.fit(data.training, budget=Budget(epochs=1), seed=0, out=tmp_path)
    for mine, theirs in zip(
        model.trained().parameters(), first.trained().parameters(), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-7)
    model.save(tmp_path / "model")
    told = type(model).load(tmp_path / "model").settings()
    assert told["pretrained_on"] == "elsewhere" and len(told["pretrained"]) == 64
    other = make_model("valence", model={"width": 4}).begin_with(first.trained())
    with pytest.raises(UserError, match="of another shape"):
        other.initialise(data.training, seed=0)


def test_a_run_that_will_not_do_is_refused(shards, finished):
    with pytest.raises(UserError, match=r"no runs of atom on fold 5 .* wants the folder of one"):
        find_begin(finished, "atom", data_of(shards, 5))
    with pytest.raises(UserError, match="no runs of valence on fold 2"):
        find_begin(finished, "valence", data_of(shards))
    with pytest.raises(UserError, match="no runs of atom on fold 2 of this split, track all-atom"):
        find_begin(finished, "atom", data_of(shards, track="all-atom"))
    with pytest.raises(UserError, match="leave it out for persistence"):
        find_begin(finished, "persistence", data_of(shards))
    begin = find_begin(finished, "atom", data_of(shards))
    with pytest.raises(UserError, match="setting model: the run of --from decides on it"):
        begin.settings({"model": {"width": 8}})


def test_the_command_refuses_in_one_line(shards, finished, capsys):
    run = ["run", "--fold", "2", "--data", str(shards), "--from", str(finished), *SHORT]
    for more in (SIZE, ["--preset", "mini"], ["--model", "egno"], ["--from", "nowhere"]):
        assert main([*run, *more]) == 2
        error = capsys.readouterr().err.strip()
        assert error.count("\n") == 0 and error.startswith("error: ")
