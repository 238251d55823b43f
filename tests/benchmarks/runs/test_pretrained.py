"""Training that begins with the weights of another run."""

import shutil

import pytest
import torch

from benchmarks.cli import main
from benchmarks.interface import Budget
from benchmarks.leaderboard.lines import entries
from benchmarks.models import make_model
from benchmarks.models.learnt import Origin
from benchmarks.runs.pretrained import find_begin
from benchmarks.runs.records import read_records, settings_key
from benchmarks.runs.saved import cases
from benchmarks.tasks.data import load_benchmark
from benchmarks.tasks.tasks import get_task
from tests.support import toys
from tests.support.factories import make_dataset
from tg80.errors import UserError

SIZE = ["--set", "model.n_blocks=1", "--set", "model.width=16", "--set", "model.n_heads=2",
    "--set", "model.feedforward_width=16"]  # fmt: skip
SHORT = ["--set", "training.windows_per_trajectory=4", "--epochs", "1", "--device", "cpu"]
STILL = ["--set", "training.learning_rate=1e-12"]


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
    model = make_model("valence", **small, **given).begin_with(
        first.trained(), Origin("elsewhere", "abc", 3.0)
    )
    model.fit(data.training, budget=Budget(epochs=1), seed=0, out=tmp_path)
    for mine, theirs in zip(
        model.trained().parameters(), first.trained().parameters(), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-7)
    model.save(tmp_path / "model")
    told = type(model).load(tmp_path / "model").settings()
    assert len(told["pretrained"]) == 64 and told["pretrained_by"] == "abc"
    assert (told["pretrained_on"], told["pretrained_seconds"]) == ("elsewhere", 3.0)
    other = make_model("valence", model={"width": 4}).begin_with(first.trained())
    with pytest.raises(UserError, match="of another shape"):
        other.initialise(data.training, seed=0)


def test_a_run_that_will_not_do_is_refused(shards, finished):
    with pytest.raises(UserError, match=r"no runs of atom .*, fold \(5\) .* the folder of one"):
        find_begin(finished, "atom", data_of(shards, 5))
    with pytest.raises(UserError, match="no runs of valence"):
        find_begin(finished, "valence", data_of(shards))
    with pytest.raises(UserError, match="no runs of atom"):
        find_begin(finished, "atom", data_of(shards, track="all-atom"))
    for model in ("persistence", "flashmd"):
        with pytest.raises(UserError, match=f"--from is not for {model}"):
            find_begin(finished, model, data_of(shards))
    begin = find_begin(finished, "atom", data_of(shards))
    with pytest.raises(UserError, match="setting model: the run of --from decides on it"):
        begin.settings({"model": {"width": 8}})


def test_what_may_have_seen_a_test_is_refused(shards, finished, tmp_path):
    """Longer data of the same level: its train blocks may hold frames of test blocks."""
    longer = tmp_path / "longer"
    make_dataset(longer, toys.SMALL, n_frames=601, store_every_fs=10.0, time_step_fs=1.0)
    with pytest.raises(UserError, match="no runs of atom"):
        find_begin(finished, "atom", data_of(longer))
    # Fine-tuning has learnt from a molecule that its fold holds out.
    (begin,) = finished.rglob("fold2/atom/*/record.json")
    tune = ["finetune", "formaldehyde", "--from", str(begin.parent), "--frames", "40"]
    out = tmp_path / "tuned"
    assert main([*tune, "--data", str(shards), "--out", str(out), *SHORT]) == 0
    assert {r.fold for r in read_records(out) if r.model == "atom"} == {2}
    with pytest.raises(UserError, match="no runs of atom"):
        find_begin(out, "atom", data_of(shards))


def test_the_way_to_the_weights_tells_lines_apart(shards, finished, tmp_path):
    """A second step from the first; each counts the time of all before it."""
    run = ["run", "--fold", "2", "--data", str(shards), *SHORT, "--set", "training.patience=7"]
    first, second = tmp_path / "first", tmp_path / "second"
    assert main([*run, "--from", str(finished), "--out", str(first)]) == 0
    assert main([*run, "--from", str(first), "--out", str(second)]) == 0
    records = [r for out in (finished, first, second) for r in read_records(out)]
    chain = [r for r in records if r.model == "atom" and r.fold == 2]
    assert len({settings_key(r) for r in chain}) == 3
    seconds = [r.fit.cpu_seconds for r in chain]
    told = [r.settings.get("pretrained_seconds") for r in chain]
    assert told == [None, seconds[0], pytest.approx(seconds[0] + seconds[1])]
    costs = {e.settings: e.costs.training_seconds for e in entries(chain) if e.part == "test_time"}
    assert costs[settings_key(chain[2])] == pytest.approx(sum(seconds))
    # The same command again, its own result beside what it began with.
    both = tmp_path / "both"
    shutil.copytree(finished, both)
    again = [*run, "--from", str(both), "--out", str(both)]
    assert main(again) == main(again) == 0


def test_initial_weights_of_such_runs_can_be_looked_at(shards, finished, tmp_path):
    out, data = tmp_path / "runs", data_of(shards)
    run = ["run", "--fold", "2", "--data", str(shards), "--out", str(out), *SHORT]
    assert main([*run, "--from", str(finished)]) == 0
    assert main([*run, *SIZE, "--molecules", "2"]) == 0
    found = cases(data, out, models=["atom"])
    assert {case.state for case in found} == {"untrained", "trained"}
    for case in found:
        case.load(data)


def test_the_command_refuses_in_one_line(shards, finished, capsys):
    run = ["run", "--fold", "2", "--data", str(shards), "--from", str(finished), *SHORT]
    for more in (SIZE, ["--preset", "mini"], ["--model", "egno"], ["--from", "nowhere"]):
        assert main([*run, *more]) == 2
        error = capsys.readouterr().err.strip()
        assert error.count("\n") == 0 and error.startswith("error: ")
