"""Stock PySCF and our engine side by side: that the figures are there and the forces agree."""

import json

import numpy as np
import pytest

from benchmarks.cli import main
from benchmarks.speed.commands import checked
from benchmarks.speed.scaffold import Spread, peak_memory_bytes, timed
from benchmarks.speed.settings import AimdSettings
from benchmarks.speed.starts import find_molecules, thermal_start
from benchmarks.speed.stock import StockPySCF
from tg80.chemistry.mechanics import angular_momentum, linear_momentum
from tg80.errors import UserError
from tg80.theory import get_level

TINY = [
    "speed", "aimd", "--molecules", "water", "--steps", "2", "--repeats", "2", "--warm-up", "1",
    "--outer-fs", "1.0", "--checks", "1", "--references", "1", "--equilibration-fs", "5",
    "--learned-fs", "2.0", "--labels", "70",
]  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A results file of a tiny measurement with small fits."""
    path = tmp_path_factory.mktemp("speed") / "aimd.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.dynamics.inner_potential.MOST_UNKNOWNS", 300)
        assert main([*TINY, "--out", str(path), "--json"]) == 0
    return path


def test_the_figures_of_a_molecule_are_all_there(results, capsys):
    assert main([*TINY, "--out", str(results), "--json"]) == 0  # Reads what is there.
    document = json.loads(capsys.readouterr().out)
    assert document == json.loads(results.read_text())
    assert set(document) == {"command", "settings", "machine", "results"}
    water = document["results"]["water"]
    assert water["n_atoms"] == 3
    assert len(water["steps"]) == 4 and water["stock_s_per_step"]["n"] == 4
    assert len(water["ratio_of_repeats"]) == 2
    mts, learned = water["per_fs"]
    assert (mts["integrator"], mts["outer_fs"]) == ("mts", 1.0)
    assert (learned["integrator"], learned["outer_fs"]) == ("learned", 2.0)
    assert learned["residual"] < 0.1 * mts["residual"]
    learning = water["learning"]
    assert learning["n_labels"] >= 70 and learning["length_fs"] > 0
    assert (
        mts.pop("ratio_cpu_of_run") is None and mts.pop("integrator") and learned.pop("integrator")
    )
    timings = ("ratio", "ratio_cpu", "stock_cycles", "fock_builds")
    figures = [water[name] for name in timings] + water["ratio_of_repeats"]
    figures += [row[name] for row in water["per_fs"] for name in row]
    assert np.isfinite(figures).all() and min(figures) > 0


def test_both_sides_give_the_same_energies_and_forces(results):
    water = json.loads(results.read_text())["results"]["water"]
    assert water["against_stock"]["energy_max"] < 1e-6
    assert 0 < water["against_stock"]["force_max"] < 1e-4
    noise, errors = water["accuracy"]["scf_noise"], water["accuracy"]["against_exact"]
    assert noise["n"] == errors["n"] == 1
    for side in ("ours", "stock"):
        assert noise[side]["force_max"] < 2e-5
        assert errors[side]["force_max"] < 1e-4
        assert errors[side]["force_rms"] < 4e-5


def test_tables_are_printed_for_terminals_and_as_markdown(results, capsys):
    assert main([*TINY, "--out", str(results)]) == 0
    assert "water" in capsys.readouterr().out
    assert main([*TINY, "--out", str(results), "--markdown"]) == 0
    printed = capsys.readouterr().out
    assert "| molecule | stock s (cycles) | ours s (builds) | stock / ours |" in printed
    assert printed.count("| water |") >= 7


def test_a_results_file_that_somebody_changed_is_named(results, tmp_path, capsys):
    document = json.loads(results.read_text())
    del document["results"]["water"]["ratio"]
    changed = tmp_path / "aimd.json"
    changed.write_text(json.dumps(document))
    assert main([*TINY, "--out", str(changed)]) == 2
    assert capsys.readouterr().err.strip() == f"error: {changed}: water: ratio: Field required"


def test_results_of_other_settings_are_refused(results, capsys):
    assert main([*TINY, "--out", str(results), "--seed", "3"]) == 2
    assert "other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("--molecules", "xyzzy", "xyzzy"),
        ("--molecules", ",", "names none"),
        ("--level", "gfn2-xtb", "PBE level"),
        ("--stock-integrals", "disk", "--stock-integrals"),
        ("--step-fs", "9", "--step-fs"),
        ("--outer-fs", "1,x", "--outer-fs"),
    ],
)
def test_wrong_options_are_named(option, value, named, capsys):
    assert main([*TINY, option, value]) == 2
    assert named in capsys.readouterr().err


def test_lists_of_numbers():
    assert checked(AimdSettings, {"outer_fs": "1, 2.5"}).outer_fs == (1.0, 2.5)
    assert checked(AimdSettings, {"outer_fs": ""}).outer_fs == ()
    with pytest.raises(UserError, match=r"--outer-fs: .*greater than 0"):
        checked(AimdSettings, {"outer_fs": "0"})


def test_molecules_are_found_by_name_or_smiles():
    found = find_molecules("ethanol, water,CCO,C#C")
    assert [one.name for one in found[:3]] == ["ethanol", "water", "ethanol"]
    assert found[3].formula == "C2H2"


def test_a_start_is_thermal_repeatable_and_does_not_tumble():
    (water,) = find_molecules("water")
    start, again = (thermal_start(water, equilibration_fs=20.0, seed=2) for _ in range(2))
    assert np.array_equal(start.positions, again.positions)
    assert np.array_equal(start.velocities, again.velocities)
    masses = start.body.masses
    assert np.abs(linear_momentum(masses, start.velocities)).max() < 1e-10
    assert np.abs(angular_momentum(masses, start.positions, start.velocities)).max() < 1e-8
    assert start.body.n_degrees == 3


def test_stock_forces_are_the_slope_of_its_energy():
    (water,) = find_molecules("water")
    start = thermal_start(water, equilibration_fs=0.0)
    stock = StockPySCF(get_level("pbe-def2svp"), water.atomic_numbers, energy_threshold=1e-11)
    step = 2e-3
    moved = np.zeros((3, 3))
    moved[1] = 0.6, 0.0, 0.8
    up, down = (stock.evaluate(start.positions + sign * step * moved) for sign in (1, -1))
    middle = stock.evaluate(start.positions)
    slope = (up.energy - down.energy) / (2 * step) * 0.529177210903
    assert -np.vdot(moved, middle.forces) == pytest.approx(slope, abs=2e-4)


def test_stock_gives_the_same_with_integrals_in_memory_or_anew():
    (water,) = find_molecules("water")
    start = thermal_start(water, equilibration_fs=0.0)
    level = get_level("pbe-def2svp")
    ways = [
        StockPySCF(level, water.atomic_numbers, energy_threshold=1e-10, integrals=way)
        for way in ("memory", "every-cycle")
    ]
    kept, anew = (way.evaluate(start.positions) for way in ways)
    assert kept.energy == pytest.approx(anew.energy, abs=1e-8)
    np.testing.assert_allclose(kept.forces, anew.forces, atol=1e-6)


def test_clocks_and_summaries():
    with timed() as clock:
        sum(range(1000))
    assert clock.wall_s > 0 and clock.cpu_s >= 0
    assert Spread.of([3.0, 1.0, 2.0]).median == 2.0
    assert 1e7 < peak_memory_bytes() < 1e11
