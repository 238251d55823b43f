"""What stands beside the errors: costs, quality, and how older records read."""

import json

import pytest

from benchmarks.cli import main
from benchmarks.leaderboard import leaderboard
from benchmarks.leaderboard.leaderboard import View, boards
from benchmarks.leaderboard.lines import entries
from benchmarks.leaderboard.pareto import front_lags, on_front
from benchmarks.leaderboard.web.content import PageRecord, page_content
from benchmarks.models import Budget, make_model
from benchmarks.models.cards import read_card
from benchmarks.runs.evaluation import fit_references
from benchmarks.runs.records import Record, read_records
from benchmarks.runs.runner import run_once
from benchmarks.scoring.metrics import Metric
from benchmarks.tasks.tasks import ChosenOn
from tests.support import toys


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    out, references = tmp_path_factory.mktemp("runs"), fit_references(data)
    settings = {"atom": toys.TINY_ATOM, "egnn": toys.TINY_EGNN}
    for name, seed in (("persistence", None), ("egnn", 0), ("atom", 0), ("atom", 1)):
        model = make_model(name, **settings.get(name, {}))
        run_once(model, data, seed=seed, budget=Budget(epochs=2), out=out, references=references)
    return out


@pytest.fixture(scope="module")
def records(runs):
    return read_records(runs)


def of(records, model):
    return [record for record in records if record.model == model]


def test_records_hold_what_was_seen_and_what_it_cost(records, data):
    for record in records:
        card = read_card(record.model)
        assert (record.inputs, record.labels) == (card.inputs, card.labels)
        assert record.format_version == 2
        n = sum(len(data.parts[part].windows.states) for part in record.parts)
        assert record.prediction.n_windows == n and record.prediction.seconds > 0
    (still,), atoms = of(records, "persistence"), of(records, "atom")
    assert still.fit.n_samples == 0
    # Two epochs of four windows of each of four molecules.
    assert {record.fit.n_samples for record in atoms} == {2 * 4 * len(toys.TRAIN)}


def test_a_release_task_names_what_skill_is_against(records, tmp_path, capsys):
    task = toys.TASK.model_copy(update={"reference": ChosenOn.VALIDATION})
    data = toys.toy_data(task=task)
    references = fit_references(data)
    run_once(
        make_model("persistence"), data, seed=None, budget=Budget(epochs=1), out=tmp_path,
        references=references,
    )  # fmt: skip
    (record,) = read_records(tmp_path)
    used = {(one.part, one.lag_fs): (one.raw, one.aligned) for one in record.references}
    assert {part for part, _ in used} == set(data.parts)
    assert {lag for _, lag in used} == {*task.lags_fs, *task.curve_lags_fs}
    for (part, lag), ids in used.items():
        assert ids == references.chosen(part, lag)
    lines = {line.part: line.references for line in entries([record])}
    name = used["test_time", task.lags_fs[-1]][0]
    assert lines["test_time"][task.lags_fs[-1]] == (name,)
    for view in (View.ERRORS, View.SKILL, View.SUMMARY):
        notes = [note for board in boards(entries([record]), view) for note in board.notes]
        assert any("test_time: skill is against" in n and name in n for n in notes)
    assert main(["leaderboard", str(tmp_path), "--json"]) == 0
    (one,) = (e for e in json.loads(capsys.readouterr().out) if e["part"] == "test_time")
    assert one["references"][str(task.lags_fs[-1])] == [name]
    (board,) = page_content([PageRecord(record, tmp_path, "")])["tasks"]
    (part,) = (p for p in board["folds"][0]["parts"] if p["part"] == "test_time")
    assert name in part["skill_reference"]
    # Other tasks choose for each molecule, and records of before name nothing.
    assert all(not record.references for record in records)


def test_lines_hold_costs_and_quality(records):
    lines = {e.model: e for e in entries(records) if e.part == "test_ood"}
    atom, egnn, still = (lines[name] for name in ("atom", "egnn", "persistence"))
    own = [r.prediction.seconds / r.prediction.n_windows for r in of(records, "atom")]
    assert atom.costs.seconds_per_trajectory == pytest.approx(sum(own) / 2)
    assert atom.costs.training_seconds > still.costs.training_seconds == 0
    assert still.costs.labels == () and atom.costs.labels == ("positions",)
    ratios = [
        r.value("test_ood", "s2s", "mean-over-molecules")
        / r.value("test_ood", "s2s_stored_frame", "mean-over-molecules")
        for r in of(records, "atom")
    ]
    assert atom.quality.robustness == pytest.approx(sum(ratios) / 2)
    # What follows every rotation needs no second score.
    assert egnn.quality.robustness == still.quality.robustness == 1.0
    assert of(records, "egnn")[0].value("test_ood", "s2s_stored_frame", "pooled") is None


def test_spread_is_two_sigma(records):
    own = [r.value("val", "s2s", "mean-over-molecules") for r in of(records, "atom")]
    (line,) = [e for e in entries(records) if (e.model, e.part) == ("atom", "val")]
    # The standard deviation of two values is their difference over the root of two.
    assert line.s2s_spread == pytest.approx(2 * abs(own[0] - own[1]) / 2**0.5)


def test_tables_of_costs_stand_once_and_of_quality_for_every_part(records):
    lines = entries(records)
    (costs,) = boards(lines, View.COSTS)
    assert sorted(row[0] for row in costs.rows) == ["atom", "egnn", "persistence"]
    assert all(len(row) == len(costs.heading) for row in costs.rows)
    quality = boards(lines, View.QUALITY)
    assert len(quality) == 4
    assert all(len(row) == len(b.heading) for b in quality for row in b.rows)


def test_the_front_holds_whom_no_cheaper_model_beats():
    costs = [0.0, 1.0, 2.0, 3.0, None, 0.0, 3.0]
    skills = [0.0, 0.5, 0.4, 0.9, 1.0, -1.0, 0.9]
    assert on_front(costs, skills) == [True, True, False, True, False, False, True]
    assert on_front([1.0, 2.0], [None, 0.1]) == [False, True]
    # Of one budget, and a jitter of the clock: the better one alone.
    assert on_front([1200.054, 1200.058], [0.19, 0.26]) == [False, True]
    assert on_front([100.0, 110.0], [0.19, 0.26]) == [True, True]
    assert front_lags([375.0 * i for i in range(1, 9)]) == [375.0, 1125.0]
    assert front_lags([120.0 * i for i in range(1, 9)]) == [120.0, 480.0, 960.0]


def changed(record, **changes):
    return record.model_copy(update=changes)


def test_a_line_says_what_it_learnt_from(records):
    (egnn,), (atom, other) = of(records, "egnn"), of(records, "atom")
    few = changed(egnn, settings=egnn.settings | {"lessons": {"molecules": 8}})
    begun = changed(egnn, settings=egnn.settings | {"pretrained_on": "tg80-xtb-v1"})
    wide = changed(other, settings=other.settings | {"preset": "small"})
    lines = entries([egnn, few, begun, atom, wide])
    (table, *_) = boards(lines, View.SKILL)
    names = sorted(row[0] for row in table.rows)
    assert names[:2] == sorted(f"atom [{leaderboard.settings_key(r)}]" for r in (atom, wide))
    assert names[2:] == ["egnn", "egnn, 8 molecules", "egnn, from tg80-xtb-v1"]


def test_folds_weigh_alike_in_quality_and_the_fewest_seeds_are_told(records):
    first, second = of(records, "atom")
    rows = [r._replace(value=0.0) if r.metric == Metric.VALID else r for r in second.rows]
    elsewhere = changed(second, fold=first.fold + 1, rows=rows)
    runs = [changed(first, seed=seed) for seed in (0, 1, 2)] + [elsewhere]
    line = entries(runs)[0]
    assert line.seeds == 1 and line.s2s_spread is None
    assert line.quality.valid == pytest.approx(first.value(line.part, Metric.VALID) / 2)


def test_lines_of_other_data_are_told(records):
    (egnn,), (atom, _) = of(records, "egnn"), of(records, "atom")
    said = "lines are of 2 versions of the data or split: don't compare them"
    for view in View:
        assert not any(said in t.notes for t in boards(entries([egnn, atom]), view))
        mixed = boards(entries([egnn, changed(atom, manifest_sha256="0" * 64)]), view)
        assert all(said in table.notes for table in mixed)


def test_lines_say_where_they_are_on_the_front(records):
    (still,) = of(records, "persistence")
    oracle = still.model_copy(update={"model": "harmonic", "oracle": True})
    for part in ("test_id", "test_ood"):
        lines = [e for e in entries([*records, oracle]) if e.part == part]
        lags = front_lags(list(lines[0].mse))
        for name in ("seconds_per_trajectory", "training_seconds"):
            for lag in lags:
                here = [e for e in lines if lag in getattr(e.fronts, name)]
                rivals = [e for e in lines if not e.oracle]
                best = max(rivals, key=lambda e: (e.skills[lag], -getattr(e.costs, name)))
                assert best in here and all(not e.oracle for e in here)
    (table,) = [b for b in boards(lines, View.PARETO)]
    assert table.heading[:3] == ("model", "s per trajectory", "training / CPU min")
    assert len(table.heading) == 5 + len(lags)


def test_the_command_shows_them(runs, capsys):
    assert main(["leaderboard", str(runs), "--costs", "--quality", "--format", "markdown"]) == 0
    shown = capsys.readouterr().out
    assert "toy-v1, canonical, all parts: what a run takes" in shown
    assert "| positions, velocities, atomic numbers, lags | positions |" in shown
    assert "toy-v1, canonical, test_ood: predicted structures" in shown
    assert main(["leaderboard", str(runs), "--json"]) == 0
    lines = json.loads(capsys.readouterr().out)
    assert all({"labels", "seconds_per_trajectory"} < line["costs"].keys() for line in lines)
    assert all("valid" in line["quality"] for line in lines)
    assert any(line["fronts"]["training_seconds"] for line in lines)
    assert main(["leaderboard", str(runs), "--pareto", "--format", "markdown"]) == 0
    assert "| front by time | front by training |" in capsys.readouterr().out


def test_records_of_before_are_read_and_say_what_they_know(records):
    record = of(records, "atom")[0]
    document = json.loads(record.model_dump_json())
    for name in ("inputs", "labels", "prediction"):
        del document[name]
    del document["fit"]["n_samples"]
    document["format_version"] = 1
    document["rows"] = [r for r in document["rows"] if "valid" not in r[3] and "bond" not in r[3]]
    old = Record.model_validate_json(json.dumps(document))
    (line,) = [e for e in entries([old]) if e.part == "val"]
    assert line.costs.inputs == record.inputs and line.costs.n_samples is None
    assert line.costs.seconds_per_trajectory is None and line.quality.valid is None
    (table,) = [b for b in boards([line], View.QUALITY)]
    assert table.rows[0][1:5] == ["-"] * 4
    # Both stand on one line: nothing about them says that they are other runs.
    assert leaderboard.settings_key(old) == leaderboard.settings_key(record)


def test_figures_with_leaks_are_marked(records):
    (record,) = of(records, "persistence")
    marked = record.model_copy(update={"task": "md17/aspirin@published"})
    titles = [board.title for board in boards(entries([record, marked]))]
    leaks = [title for title in titles if "as published: with leaks" in title]
    assert len(leaks) == 4 and all("aspirin@published" in title for title in leaks)


def test_error_against_lag_is_drawn_into_a_file(runs, tmp_path, capsys):
    argv = ["leaderboard", str(runs), "--plot"]
    for name, start in (("a.svg", b"<?xml"), ("a.png", b"\x89PNG")):
        assert main([*argv, str(tmp_path / name)]) == 0
        assert (tmp_path / name).read_bytes().startswith(start)
    assert b"atom" in (tmp_path / "a.svg").read_bytes()
    for wrong in (["a.pdf"], ["no/a.svg"], ["a.svg", "--json"], ["a.svg", "--costs"]):
        capsys.readouterr()
        assert main([*argv, *wrong]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
