"""Ablations at a matched budget: which runs are made, reused and compared, and how."""

import json

import numpy as np
import pytest
from rich.progress import Progress

from atom.variants.ablations import ABLATIONS
from benchmarks.cli import main
from benchmarks.models import Budget, make_model
from benchmarks.runs.evaluation import MEAN, MEDIAN
from benchmarks.scoring.significance import paired_interval
from benchmarks.studies.ablate import BASE, document, effects, run_all, tables, variants
from tests.support import toys
from tg80.errors import UserError

CHOSEN = ("no-value-residual", "joint", "start")


def run(data, out, only=CHOSEN, seeds=(0, 1)):
    """Variants, their runs, and the lines told."""
    lines = []
    chosen = variants("atom", toys.TINY_ATOM, only)
    done = run_all(
        chosen, data, seeds=seeds, budget=Budget(epochs=1), out=out,
        progress=Progress(disable=True), tell=lines.append,
    )  # fmt: skip
    return chosen, done, lines


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("ablations")
    return out, *run(data, out)


@pytest.mark.parametrize("base", ["atom", "atom-start"])
def test_every_ablation_changes_what_it_says_and_nothing_else(base):
    chosen = variants(base, {"training": {"batch_size": 4}})
    assert [v.name for v in chosen] == [BASE, *ABLATIONS]
    plain = make_model(base, training={"batch_size": 4}).settings()
    same = {"atom": "joint", "atom-start": "start"}[base]
    for variant in chosen[1:]:
        model = make_model(variant.model, **variant.settings)
        settings = model.settings()
        changed = {k for k, v in settings["model"].items() if v != plain["model"][k]}
        assert changed <= set(ABLATIONS[variant.name].overrides)
        assert variant.is_base == (variant.name == same) == (not changed)
        assert settings["training"] == plain["training"]
    models = {v.name: v.model for v in chosen}
    other = {"atom": "atom-start", "atom-start": "atom"}[base]
    assert models["gat"] == "atom-gat" and models[same] == base
    assert models["start" if same == "joint" else "joint"] == other
    assert {m for n, m in models.items() if n not in ("gat", "joint", "start")} == {base}


def test_settings_of_choice_are_variants_as_well():
    changes = [
        "training.loss=mse",
        "model.time_attention=start",
        "model.width=64",
        "model.width=64",
    ]
    given = {"model": {"n_blocks": 1}, "training": {"batch_size": 4}}
    chosen = variants("atom", given, changes=changes)
    assert [v.name for v in chosen] == [BASE, *changes[:3]]
    assert [v.model for v in chosen] == ["atom", "atom", "atom-start", "atom"]
    assert [v.is_base for v in chosen] == [True, False, False, True]  # 64 is the width of `mini`
    base, other = (make_model(v.model, **v.settings).settings() for v in chosen[:2])
    assert other["training"]["loss"] == "mse" and other["training"]["batch_size"] == 4
    assert base["model"] == other["model"] and other["model"]["n_blocks"] == 1
    names = [v.name for v in variants("atom", given, ["no-rope"], ["training.loss=mse"])]
    assert names == [BASE, "no-rope", "training.loss=mse"]


@pytest.mark.parametrize("change", ["device=cpu", "model=3", "training.loss", "training.lost=mse"])
def test_settings_that_are_none_are_refused(change):
    with pytest.raises(UserError, match=r"loss|lost|--change wants model\.NAME=VALUE"):
        variants("atom", {}, changes=[change])


def test_all_are_run_at_the_same_budget_and_the_base_only_once(finished):
    out, _, done, lines = finished
    assert {name: len(runs) for name, runs in done.items()} == dict.fromkeys((BASE, *CHOSEN), 2)
    records = list(out.rglob("record.json"))
    assert len(records) == 6  # `joint` is the base
    assert done["joint"][1].record == done[BASE][1].record
    budgets = {json.dumps(r.record.budget) for runs in done.values() for r in runs}
    assert budgets == {'{"epochs": 1, "cpu_minutes": null}'}
    assert len(lines) == 8 and lines[0].startswith("[1/8] base, seed 0: S2S x 1e-2 A^2: test_time")


def test_finished_runs_are_reused_and_lost_ones_made_again(finished, data):
    out, _, done, _ = finished
    files = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    _, again, _ = run(data, out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == files
    lost = next(path for path in files if path.name == "record.json" and "atom-start" in str(path))
    rows = json.loads(lost.read_text())["rows"]
    lost.unlink()
    run(data, out)
    assert json.loads(lost.read_text())["rows"] == rows
    assert again[BASE][0].record == done[BASE][0].record


def test_effects_are_differences_of_the_recorded_figures(finished):
    _, _, done, _ = finished
    found = effects(done)
    assert "val" not in found[BASE]
    for name in CHOSEN:
        for part, figures in found[name].items():
            values = [[r.record.value(part, "s2s", MEAN) for r in done[n]] for n in (name, BASE)]
            s2s = figures.s2s
            assert s2s.values == tuple(values[0])
            assert s2s.difference == pytest.approx(np.mean(values[0]) - np.mean(values[1]))
            assert s2s.spread == pytest.approx(2 * np.std(values[0], ddof=1))
            error = 2 * np.sqrt(np.var(values[0], ddof=1) / 2 + np.var(values[1], ddof=1) / 2)
            assert s2s.error == pytest.approx(error)
            assert s2s.interval[0] <= s2s.difference <= s2s.interval[1]
            for key, lag in (("skill_short", 10.0), ("skill", 90.0)):
                values = [r.record.value(part, "skill", MEDIAN, lag) for r in done[name]]
                assert getattr(figures, key).values == tuple(values)
    same = found["joint"]["test_id"].s2s
    assert same.difference == 0 and same.interval == (0, 0) and not same.is_clear


def test_report(finished):
    _, chosen, done, _ = finished
    *parts, trained = tables(chosen, done)
    assert [sheet.title.split(":")[0] for sheet in parts] == ["test_time", "test_id", "test_ood"]
    names = [row[0] for row in parts[0].rows]
    assert names == [BASE, "no-value-residual", "joint = base", "start"]
    assert parts[0].rows[0][2] == "-" and parts[0].rows[1][-1] in ("yes", "no")
    assert trained.rows[1][-1] == ABLATIONS["no-value-residual"].description
    report = json.loads(json.dumps(document(chosen, done)))
    assert [v["name"] for v in report["variants"]] == [BASE, *CHOSEN]
    figures = report["variants"][3]["parts"]["test_ood"]["s2t"]
    assert len(figures["values"]) == 2 and len(figures["interval"]) == 2


def test_one_seed_has_no_spread(finished, data):
    out = finished[0]
    chosen, done, _ = run(data, out, only=["start"], seeds=[1])
    effect = effects(done)["start"]["test_id"].s2s
    assert effect.spread is None and effect.error is None and not effect.is_clear
    assert "±" not in "".join(tables(chosen, done)[0].rows[1])


def test_command_on_the_mini_set(tmp_path, capsys):
    argv = ["ablate", "--fold", "2", "--seeds", "1", "--only", "no-value-residual", "--epochs", "1"]
    small = ["model.n_blocks=2", "model.width=16", "model.n_heads=2", "model.feedforward_width=16"]
    small += ["training.windows_per_trajectory=2", "training.validations=1"]
    for setting in small:
        argv += ["--set", setting]
    argv += ["--device", "cpu", "--out", str(tmp_path)]
    assert main([*argv, "--json"]) == 0
    shown = capsys.readouterr()
    first, second = json.loads(shown.out)["variants"]
    assert second["overrides"] == {"value_residual": False}
    assert 0 < first["n_parameters"] - second["n_parameters"] <= 1
    assert first["n_steps"] == second["n_steps"] > 0
    assert "[2/2] no-value-residual, seed 0" in shown.err
    assert main([*argv, "--markdown"]) == 0
    assert "| no-value-residual | " in capsys.readouterr().out


def test_mistakes_are_named(capsys):
    with pytest.raises(UserError, match="no ablation 'rope'; choose from no-lifting"):
        variants("atom", {}, ["rope"])
    with pytest.raises(UserError, match="persistence has no ablations"):
        variants("persistence", {})
    with pytest.raises(UserError, match=r"unknown setting model\.depth"):
        variants("atom", {"model": {"depth": 3}})
    assert main(["ablate", "--fold", "2", "--only", "x"]) == 2
    assert "no ablation 'x'" in capsys.readouterr().err


def test_intervals_over_molecules():
    rng = np.random.default_rng(0)
    names = [f"m{i}" for i in range(40)]
    chance = rng.normal(0.0, 1.0, 40)
    low, high = paired_interval(chance, names)
    # One window a molecule: the interval of a mean of forty.
    assert high - low == pytest.approx(2 * 1.96 * chance.std() / np.sqrt(40), rel=0.1)
    assert low < chance.mean() < high
    assert paired_interval(chance + 5.0, names)[0] > 0
    # Windows of one molecule say little about others: forty alike are no more than one.
    few = paired_interval(np.repeat(chance[:5], 40), np.repeat(names[:5], 40).tolist())
    expected = 2 * 2.78 * chance[:5].std(ddof=1) / np.sqrt(5)  # Student's t of five.
    assert few[1] - few[0] == pytest.approx(expected, rel=0.2)
    constant = np.array([1.0, 3.0, np.nan])
    assert paired_interval(constant, ["a", "b", "b"])[1] <= 3.0
