"""The same weights asked for other lags."""

import io
import json

import matplotlib.image
import numpy as np
import pytest
import torch

from benchmarks.cli import main
from benchmarks.interface import FitReport
from benchmarks.runs.evaluation import MEAN
from benchmarks.runs.saved import saved_runs
from benchmarks.studies.horizons import (
    TrainedRange,
    dependence,
    document,
    figure,
    questions,
    study,
    tables,
    trained_range,
)

HORIZON = 960.0


@pytest.fixture(scope="module")
def found(mini, mini_runs):
    """A small study of atom-start, and its record."""
    asked, refused = questions(
        mini, steps=[1, 8], horizons_fs=[240.0, HORIZON, 3840.0], irregular=1
    )
    runs = saved_runs(mini_runs, mini, models=["atom-start"])
    return study(runs, mini, asked, refused), runs[0].record


def answer_to(found, part, kind, n_steps, horizon_fs=HORIZON):
    """Question, the model's answer, and persistence's."""
    for i, question in enumerate(found.questions):
        key = (question.part, question.kind, len(question.lags_fs))
        if key == (part, kind, n_steps) and (
            kind == "irregular" or question.lags_fs[-1] == horizon_fs
        ):
            return question, found.curves[0].answers[i], found.references["persistence"][i]
    raise AssertionError((part, kind, n_steps, horizon_fs))


def test_the_tasks_own_lags_give_the_recorded_errors(found):
    result, record = found
    for part in ("test_time", "test_id", "test_ood"):
        for kind in ("steps", "horizons"):
            _, answer, _ = answer_to(result, part, kind, 8)
            assert answer.lags_fs == pytest.approx([120.0 * i for i in range(1, 9)])
            recorded = [record.value(part, "mse", MEAN, lag) for lag in answer.lags_fs]
            assert answer.mse == pytest.approx(recorded)
            skill = record.value(part, "skill", "median-over-molecules", HORIZON)
            assert answer.skill[-1] == pytest.approx(skill)


def test_start_attention_gives_one_lag_alike_alone_and_in_company(found):
    result, _ = found
    _, alone, _ = answer_to(result, "test_id", "steps", 1)
    _, together, _ = answer_to(result, "test_id", "steps", 8)
    assert alone.mse[-1] == pytest.approx(together.mse[-1], rel=1e-5)
    hangs = result.curves[0].dependence
    assert hangs.largest < 1e-5 < 1e-3 < hangs.displacement


def test_joint_attention_does_not(mini, mini_runs):
    run = saved_runs(mini_runs, mini, models=["atom"], seeds=[0])[0]
    hangs = dependence(run.load(), mini)
    assert min(hangs.alone_8, hangs.alone_32, hangs.eight_32) > 1e-4
    assert hangs.largest > hangs.alone_8


def test_persistence_errs_as_far_as_atoms_move(found, mini):
    question, _, still = answer_to(found[0], "test_id", "irregular", 8)
    windows = question.windows
    move = (windows.targets - windows.states.positions[:, None]).double().square().mean(-1)
    scored = windows.states.score_mask[:, None, :].expand_as(move)
    per_window = torch.where(scored, move, 0.0).sum(-1) / scored.sum(-1)
    names = np.array(windows.states.molecule)
    expected = [per_window[names == name].mean(0).numpy() for name in sorted(set(names))]
    assert still.mse == pytest.approx(np.mean(expected, axis=0), rel=1e-4)
    assert still.skill is None
    lags = np.array(question.lags_fs)
    assert (lags == np.round(lags / 10) * 10).all() and lags.max() <= HORIZON


def test_horizons_longer_than_a_block_are_refused_there_alone(found):
    result, _ = found
    assert len(result.refused) == 1
    assert "horizon 3840 fs is longer than the test_time block" in result.refused[0]
    asked = {(q.part, q.lags_fs[-1]) for q in result.questions if q.kind == "horizons"}
    assert ("test_id", 3840.0) in asked and ("test_time", 3840.0) not in asked
    assert "val" not in {q.part for q in result.questions}


def test_what_was_trained_for(found):
    _, record = found
    trained = trained_range(record, 10.0)
    assert (trained.shortest_fs, trained.longest_fs) == (10.0, HORIZON)
    kinds = [trained.kind(lag) for lag in (5.0, 10.0, 120.0, 130.0, 970.0)]
    outside, inside = "extrapolation", "interpolation"
    assert kinds == [outside, inside, "trained", inside, outside]
    settings = record.settings | {"training": {"fixed_lag_fraction": 1.0}}
    fit = FitReport(longest_lag_fs=HORIZON)
    fixed = record.model_copy(update={"settings": settings, "fit": fit})
    alone = trained_range(fixed, 10.0)
    assert alone == TrainedRange(120.0, HORIZON, trained.fixed_lags_fs)
    assert alone.kind(100.0) == alone.kind(1000.0) == "extrapolation"


def test_report(found):
    result, _ = found
    report = json.loads(json.dumps(document(result)))
    rows = [r for r in report["rows"] if r["model"] == "atom-start"]
    assert len(rows) == len(result.questions) == len(report["rows"]) / 3
    beyond = [r for r in rows if r["kind"] == "horizons" and r["horizon_fs"] == 3840.0]
    assert {r["part"] for r in beyond} == {"test_id", "test_ood"}
    expected = ["trained", "trained", *["extrapolation"] * 6]  # 480, 960, 1440 .. 3840 fs
    assert all(r["lag_kinds"] == expected for r in beyond)
    assert report["refused"] == list(result.refused)
    titles = [sheet.title for sheet in tables(result)]
    assert len(titles) == 10 and titles[0].startswith("test_time: error at the horizon")
    (row,) = tables(result)[-1].rows
    assert row[0] == "atom-start"


def test_figure_shows_what_is_beyond_without_colour(found):
    result, _ = found
    png = figure(result, "atom-start")
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    pixels = matplotlib.image.imread(io.BytesIO(png))[..., :3]
    assert pixels.shape[0] > 700 and pixels.std() > 0.05


def test_command(mini_runs, tmp_path, capsys):
    out = tmp_path / "figures"
    argv = ["horizons", "--fold", "2", "--from", str(mini_runs), "--model", "atom", "--seeds", "1"]
    asked = ["--steps", "1,2", "--horizons-fs", "60,3840", "--irregular", "0", "--out", str(out)]
    assert main([*argv, *asked, "--json"]) == 0
    shown = capsys.readouterr()
    report = json.loads(shown.out)
    assert report == json.loads((out / "horizons.json").read_text())
    assert [m["seed"] for m in report["models"]] == [0]
    assert "refused: test_time: horizon 3840 fs is longer than the test_time block" in shown.err
    assert (out / "horizons-atom.png").stat().st_size > 10_000
    # 7.5 fs rounds to one frame, 15 and 22.5 to two: what falls together is asked once.
    short = next(r for r in report["rows"] if r["horizon_fs"] == 60 and r["model"] == "atom")
    assert short["lags_fs"] == [10.0, 20.0, 30.0, 40.0, 50.0, 60.0]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--steps", "1.5", "--steps wants whole numbers"),
        ("--steps", "x", "--steps wants whole numbers"),
        ("--horizons-fs", "0", "--horizons-fs wants positive numbers"),
        ("--horizons-fs", "60,60", "--horizons-fs wants positive numbers"),
        ("--model", "atm", "unknown model 'atm'"),
        ("--from", "/nowhere", "/nowhere: no such folder"),
    ],
)
def test_mistakes_are_named(option, value, message, capsys):
    assert main(["horizons", "--fold", "2", option, value]) == 2
    assert message in capsys.readouterr().err
