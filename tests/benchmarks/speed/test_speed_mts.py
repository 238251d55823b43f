"""Integrators compared: the figures, going on after a kill, and what is refused."""

import json

import numpy as np
import pytest

from benchmarks.cli import main
from benchmarks.speed.commands import checked
from benchmarks.speed.mts import summarise
from benchmarks.speed.scaffold import Results
from benchmarks.speed.settings import Integrator, MtsSettings
from pipelines.dynamics.learner import OUTER_STEPS
from tg80.errors import UserError

TINY = [
    "speed", "mts", "--molecules", "water", "--length-fs", "5", "--equilibration-fs", "5",
    "--integrators", "verlet:0.5,mts:1.0,learned:2.5", "--labels", "70",
]  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    path = tmp_path_factory.mktemp("speed") / "mts.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.dynamics.inner_potential.MOST_UNKNOWNS", 300)
        assert main([*TINY, "--out", str(path), "--json"]) == 0
    return path


def test_the_figures_of_every_integrator_are_there(results, capsys):
    assert main([*TINY, "--out", str(results), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["integrator"] for row in rows] == ["verlet 0.5", "mts 1", "learned 2.5"]
    assert [row["calls_per_fs"] for row in rows] == [2.0, 1.0, 0.4]
    for row in rows:
        (distance,) = row["distances"]
        assert distance["mark_fs"] == distance["time_fs"] == 5.0
        # The reference is really another trajectory, and a near one.
        assert 1e-7 < distance["rmsd"] < 1e-2
        costs = [row[name] for name in ("builds_per_fs", "s_per_fs", "cpu_s_per_fs")]
        assert np.isfinite(costs).all() and min(costs) > 0
        assert 0 < row["energy_std"] < 5
        assert row["drift"] is None
    assert rows[0]["rmsd_ratio"] == 1.0 and rows[0]["residual"] is None
    assert rows[2]["residual"] < 0.1 * rows[1]["residual"]


def test_a_killed_run_goes_on(results, tmp_path, capsys):
    """What is in the file is not measured again; what is missing is."""
    path = tmp_path / "mts.json"
    document = json.loads(results.read_text())
    lost = document["results"].pop("water/mts 1")
    document["results"]["water/verlet 0.5"]["energy_std"] = 1.25
    path.write_text(json.dumps(document))
    assert main([*TINY, "--out", str(path), "--markdown"]) == 0
    printed = capsys.readouterr()
    assert printed.err.split("\n")[0] == "water: mts 1"
    assert "| water | verlet 0.5 |" in printed.out
    found = json.loads(path.read_text())["results"]
    assert found["water/verlet 0.5"]["energy_std"] == 1.25
    assert found["water/mts 1"]["distances"][0]["rmsd"] == pytest.approx(
        lost["distances"][0]["rmsd"], rel=0.1
    )


def test_a_correction_of_another_kernel_is_refused(results, tmp_path, capsys):
    document = json.loads(results.read_text())
    document["results"]["water/learning"]["kernel"] = "Gaussian"
    changed = tmp_path / "mts.json"
    changed.write_text(json.dumps(document))
    assert main([*TINY, "--out", str(changed)]) == 2
    assert "another kernel" in capsys.readouterr().err


def test_drift_is_added_to_what_is_there(results, capsys):
    argv = [*TINY, "--integrators", "mts:1.0", "--out", str(results), "--drift-fs", "3", "--json"]
    assert main(argv) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    (row,) = [row for row in rows if row["integrator"] == "mts 1"]
    assert np.isfinite(row["drift"]) and row["drift_length_fs"] == 3.0
    assert row["drift_error"] is None  # too short for one


def test_ratios_to_stock_are_chained():
    """Stock over ours per call, times ours with Verlet 0.5 over this integrator per fs."""
    base = {"energy_std": 0.1, "calls_per_fs": 1.0, "builds_per_fs": 1.0, "cpu_s_per_fs": 1.0}
    mark = {"mark_fs": 20.0, "time_fs": 20.0}
    results = Results(None, "mts", MtsSettings())
    results.document.results.update(
        {
            "water/start": {},
            "water/reference": {},
            "water/verlet 0.5": base | {"s_per_fs": 4.0, "distances": [mark | {"rmsd": 1e-3}]},
            "water/mts 1": base | {"s_per_fs": 2.5, "distances": [mark | {"rmsd": 5e-4}]},
            "water/mts 1 drift 400 fs": base
            | {"s_per_fs": 1.0, "length_fs": 400.0, "drift": 0.3, "drift_error": 0.1},
            "water/mts 1 drift 1000 fs": base
            | {"s_per_fs": 1.0, "length_fs": 1000.0, "drift": 0.1, "drift_error": 0.01},
        }
    )
    rows = summarise(results, {"water": 10.0})
    assert [row.stock_ratio for row in rows] == [10.0, 16.0]
    assert rows[1].rmsd_ratio == 2.0
    assert rows[1].drift == 0.1 and rows[0].drift is None
    assert summarise(results, {})[0].stock_ratio is None


def test_integrators_are_read_and_refused():
    assert checked(MtsSettings, {"integrators": "verlet:0.5, mts:1"}).integrators == (
        Integrator("verlet", 0.5),
        Integrator("mts", 1.0),
    )
    ladder = checked(MtsSettings, {"integrators": "mts:1,learned"}).integrators
    assert [one.step_fs for one in ladder] == [step.fs for step in OUTER_STEPS]
    for text, named in [
        ("euler:1", "not an integrator"), ("mts", "not an integrator"), ("mts:50", "up to 5 fs"),
        ("mts:0.6", "multiple"), (",", "--integrators"),
    ]:  # fmt: skip
        with pytest.raises(UserError, match=named):
            checked(MtsSettings, {"integrators": text})


def test_a_wrong_aimd_file_is_named(tmp_path, results, capsys):
    missing = tmp_path / "none.json"
    assert main([*TINY, "--aimd", str(missing)]) == 2
    assert "none.json" in capsys.readouterr().err
    assert main([*TINY, "--aimd", str(results)]) == 2
    assert "speed aimd" in capsys.readouterr().err
    missing.write_text("{")
    assert main([*TINY, "--aimd", str(missing)]) == 2
    assert "not a JSON file" in capsys.readouterr().err
