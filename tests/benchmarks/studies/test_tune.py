"""Tuning: which trials are made and reused, and that no test part is looked at."""

import dataclasses
import json

import pytest
from rich.progress import Progress

from benchmarks.cli import main
from benchmarks.models import Budget, make_model
from benchmarks.runs.evaluation import References
from benchmarks.runs.runner import run_once
from benchmarks.studies.tune import BASE, TRIAL, candidates, run_trials, tables
from tests.support import toys
from tg80.errors import UserError

FASTER = "training.learning_rate=0.02"
WIDER = "model.width=12 training.learning_rate=0.005"


def tune(data, out, changes=(FASTER, WIDER), **options):
    """Trials of a tiny EGNN on the toys without their test parts, and the lines told."""
    lines = []
    trials = run_trials(
        candidates("egnn", toys.TINY_EGNN, changes),
        dataclasses.replace(data, parts={}),  # What is not there cannot be looked at.
        seed=0, budget=Budget(epochs=2), out=out, progress=Progress(disable=True),
        tell=lines.append, **options,
    )  # fmt: skip
    return trials, lines


@pytest.fixture(scope="module")
def tuned(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("tuning")
    return out, *tune(data, out)


def test_every_trial_changes_what_it_says_and_nothing_else():
    found = candidates("egnn", toys.TINY_EGNN, [FASTER, WIDER, FASTER])
    assert list(found) == [BASE, FASTER, WIDER]
    base, faster, wider = (model.settings() for model in found.values())
    assert faster["model"] == base["model"] and faster["training"]["learning_rate"] == 0.02
    assert (
        faster["training"] | {"learning_rate": base["training"]["learning_rate"]}
        == (base["training"])
    )
    assert wider["model"] == base["model"] | {"width": 12}
    assert wider["training"] == base["training"] | {"learning_rate": 0.005}


@pytest.mark.parametrize(
    ("model", "change", "message"),
    [
        ("egnn", "training.speed=3", "unknown setting training.speed"),
        ("egnn", "model.width=0", "setting model.width"),
        ("egnn", "faster", "--change wants NAME=VALUE"),
        ("egnn", " ", "--change wants NAME=VALUE"),
        ("persistence", "a=1", "not trained"),
        ("egon", "a=1", "unknown model 'egon'"),
    ],
)
def test_what_cannot_be_tried_is_refused(model, change, message):
    with pytest.raises(UserError, match=message):
        candidates(model, {}, [change])


def test_trials_tell_the_error_that_a_run_keeps_its_weights_by(data, tuned, tmp_path):
    _, trials, lines = tuned
    assert [trial.change for trial in trials] == [BASE, FASTER, WIDER]
    assert len({trial.error for trial in trials}) == 3
    assert lines[1] == f"[2/3] {FASTER}: validation {trials[1].error:.4g}"
    given = {**toys.TINY_EGNN, "training": toys.TINY_EGNN["training"] | {"learning_rate": 0.02}}
    record = run_once(
        make_model("egnn", **given), dataclasses.replace(data, parts={}),
        seed=0, budget=Budget(epochs=2), out=tmp_path, references=References({}),
    )  # fmt: skip
    assert record.fit.best_validation == trials[1].error
    assert record.key == trials[1].key
    errors = [entry["validation_error"] for entry in trials[1].fit.history]
    assert min(errors) == trials[1].error


def test_finished_trials_are_reused(data, tuned):
    out, trials, _ = tuned
    again, _ = tune(data, out, changes=[WIDER, "training.learning_rate=0.001"])
    assert again[0] == trials[0] and again[1] == trials[2]
    # The rate of the base, said once more: no trial of its own.
    assert again[2].error == trials[0].error and again[2].change != BASE
    assert len(list(out.rglob(TRIAL))) == 3


def test_a_model_has_so_many_trials_and_no_more(data, tuned):
    out, _, _ = tuned
    more = [FASTER, "training.learning_rate=0.03", "training.learning_rate=0.04"]
    with pytest.raises(UserError, match=r"^that makes 5 trials in .*/egnn, but a model has 4;"):
        tune(data, out, changes=more, most=4)
    assert len(list(out.rglob(TRIAL))) == 3
    trials, _ = tune(data, out, changes=[FASTER], most=3)
    assert len(trials) == 2


def test_a_damaged_trial_is_named(data, tmp_path):
    tune(data, tmp_path, changes=())
    (path,) = tmp_path.rglob(TRIAL)
    path.write_text(path.read_text()[:100])
    with pytest.raises(UserError, match=r"trial\.json: .*not a trial of this version"):
        tune(data, tmp_path, changes=())


def test_the_table_has_the_best_first(tuned):
    _, trials, _ = tuned
    (shown,) = tables(trials)
    assert shown.title.startswith("toy-v1, canonical, fold 2: egnn, seed 0, 2 epochs")
    assert [row[0] for row in shown.rows] == [
        trial.change for trial in sorted(trials, key=lambda trial: trial.error)
    ]
    assert {row[4] for row in shown.rows} <= {"4", "8"}


def test_the_command_tunes_on_the_first_fold(tmp_path, capsys):
    small = [
        "--set", "model.n_layers=1", "--set", "model.width=8",
        "--set", "training.windows_per_trajectory=2", "--set", "training.validations=1",
    ]  # fmt: skip
    command = ["tune", "--model", "egnn", "--epochs", "1", "--out", str(tmp_path), *small]
    assert main([*command, "--change", FASTER, "--json"]) == 0
    trials = json.loads(capsys.readouterr().out)
    assert [(trial["fold"], trial["change"]) for trial in trials] == [(1, BASE), (1, FASTER)]
    assert all(trial["fit"]["best_validation"] > 0 for trial in trials)
    assert main([*command, "--markdown"]) == 0
    assert "| base | " in capsys.readouterr().out
    assert main([*command, "--change", FASTER, "--most", "1"]) == 2
    assert "ask for fewer, or say --most N" in capsys.readouterr().err
