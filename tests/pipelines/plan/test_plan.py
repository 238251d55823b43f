"""The cost of a run before it: the fit, the scheduling, disk, and real timings."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.cli import run
from pipelines.dynamics.learner import most_fits
from pipelines.plan.plan import (
    Cost,
    choose_probes,
    fit_power_law,
    plan_of_tg80,
    price,
    raw_bytes,
    wall_time_s,
)
from pipelines.plan.probe import Probe, size_of, usual_step_fs
from pipelines.recipe import Recipe
from tg80.chemistry.lists import tg80_molecules
from tg80.chemistry.molecule import molecule_from_smiles
from tg80.shards.shard import Shard
from tg80.theory import get_level

LIST = "C methane\nC=O formaldehyde\nCO methanol\nCCO ethanol\nc1ccoc1 furan\n"
QUICK = ["--set", "n_conformers=2", "--set", "n_relaxed=1"]


def cost(name="m", preparation=0.0, production=1.0, n_replicas=1, spacing=0.0, later=None) -> Cost:
    later = production if later is None else later
    return Cost(
        name, 5, 5, False, 0.1, preparation, spacing, production, later, n_replicas, 10**8, 1000,
        100, 3000,
    )  # fmt: skip


def timing(name: str, size: int, level_step_s: float, memory=2e8, spread=0.0) -> Probe:
    steps = (level_step_s * (1 - spread), level_step_s, level_step_s * (1 + spread))
    return Probe(name, size, 2.0, 0.004, level_step_s, steps, 0.0, int(memory), 1.0)


# --- the fit ----------------------------------------------------------------------------------


def test_power_law_is_found_again():
    sizes = np.array([30, 60, 100, 200])
    law = fit_power_law(sizes, 2e-4 * sizes**2.3)
    assert law.exponent == pytest.approx(2.3)
    assert law(80) == pytest.approx(2e-4 * 80**2.3)
    assert law.scatter == pytest.approx(0.0, abs=1e-9)
    assert fit_power_law([4, 4], [1.0, 4.0])(9) == pytest.approx(2.0)
    assert fit_power_law([4, 8], [1.0, 2.0]).scatter is None


def test_stated_error_is_the_spread_of_the_estimate():
    """Over many sets of noisy timings: estimate minus truth, relative to the stated error."""
    rng, sizes, noise = np.random.default_rng(0), np.array([30, 50, 90, 150, 220]), 0.2
    others = np.linspace(35, 210, 12)
    deviations = []
    for _ in range(1500):
        law = fit_power_law(sizes, 1e-4 * sizes**2.5 * np.exp(rng.normal(0, noise, 5)))
        truth = np.sum(1e-4 * others**2.5 * np.exp(rng.normal(0, noise, 12)))
        estimate = sum(law(size) for size in others)
        error = law.relative_error_of_sum(list(others), [None] * 12)
        assert error is not None
        deviations.append(np.log(estimate / truth) / error)
    # Student's t with three degrees of freedom has its quartiles at 0.765.
    assert np.median(np.abs(deviations)) == pytest.approx(0.765, rel=0.15)


def test_own_timings_count_by_their_own_error():
    law = fit_power_law([10, 20, 40], [1.0, 2.2, 4.0])
    assert law.relative_error_of_sum([10, 20], [0.0, 0.0]) == 0.0
    assert law.relative_error_of_sum([10], [0.05]) == pytest.approx(0.05)
    assert fit_power_law([10, 20], [1, 2]).relative_error_of_sum([10, 15], [0.1, None]) is None


# --- sizes and probes -------------------------------------------------------------------------


def test_sizes_are_basis_functions_or_atoms():
    ethanol = molecule_from_smiles("CCO", "ethanol")
    assert size_of(ethanol, get_level("pbe-def2svp")) == 3 * 14 + 6 * 5
    assert size_of(ethanol, get_level("gfn2-xtb")) == 9


def test_probes_span_the_sizes():
    level = get_level("pbe-def2svp")
    molecules = tg80_molecules()
    chosen = choose_probes(molecules, level, 4)
    sizes = [size_of(molecule, level) for molecule in chosen]
    everyone = [size_of(molecule, level) for molecule in molecules]
    assert len(set(sizes)) == 4
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (min(everyone), max(everyone))
    assert chosen == choose_probes(molecules[::-1], level, 4)
    assert choose_probes(molecules[:1], level, 4) == molecules[:1]


# --- scheduling -------------------------------------------------------------------------------


def test_wall_time_of_known_cases():
    three = [cost(production=10.0)] * 3
    assert [wall_time_s(three, n) for n in (1, 2, 3, 9)] == [30.0, 20.0, 10.0, 10.0]
    late = [cost(production=1.0)] * 4 + [cost(production=10.0)]
    assert wall_time_s(late, 2) == 12.0
    assert wall_time_s(late[::-1], 2) == 10.0
    # Preparation, then replica 0 beside the NVT and the production of replica 1.
    two = cost(preparation=5.0, production=20.0, n_replicas=2, spacing=3.0)
    assert wall_time_s([two], 1) == 5 + 20 + 3 + 20 == two.total_s
    assert wall_time_s([two], 2) == 5 + 3 + 20 == two.longest_s
    short = cost(preparation=5.0, production=20.0, n_replicas=2, spacing=3.0, later=4.0)
    assert wall_time_s([short], 1) == 5 + 20 + 3 + 4 == short.total_s
    assert wall_time_s([short], 2) == 5 + 20 == short.longest_s


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.floats(0, 9), st.floats(0.1, 99), st.integers(1, 3)), min_size=1),
    st.integers(1, 6),
)
def test_wall_time_lies_between_its_bounds(rows, n_workers):
    costs = [cost("m", pre, prod, n, 1.0) for pre, prod, n in rows]
    wall, total = wall_time_s(costs, n_workers), sum(c.total_s for c in costs)
    longest = max(c.longest_s for c in costs)
    assert wall >= max(longest, total / n_workers) * (1 - 1e-9)
    assert wall <= total / n_workers + longest * (1 + 1e-9)


# --- prices -----------------------------------------------------------------------------------


def test_price_follows_from_the_timings():
    recipe = Recipe(level="gfn2-xtb", length_fs=1000.0, equilibration_fs=500.0)
    recipe = recipe.model_copy(update={"pre_equilibration_fs": 100.0})
    molecules = [molecule_from_smiles(*line.split()) for line in LIST.splitlines()]
    probes = [timing("methane", 5, 0.01), timing("ethanol", 9, 0.02, memory=3e8)]
    plan = price(molecules, recipe, 2, 2, probes)
    ethanol = next(c for c in plan.costs if c.name == "ethanol")
    assert ethanol.measured
    assert ethanol.production_s == pytest.approx(1000 / 0.5 * 0.02)
    assert ethanol.preparation_s == pytest.approx(2.0 + 200 * 0.004 + 1000 * 0.02)
    assert ethanol.total_s == pytest.approx(ethanol.preparation_s + 2 * 40 + 2000 * 0.02)
    assert ethanol.memory_bytes == plan.total.memory_per_worker_bytes == 300_000_000
    methanol = next(c for c in plan.costs if c.name == "methanol")
    assert not methanol.measured
    assert 0.01 < methanol.step_s < 0.02
    assert plan.total.worker_s == pytest.approx(sum(c.total_s for c in plan.costs))
    assert plan.total.wall_longest_first_s <= plan.total.wall_s
    assert plan.total.longest_trajectory_s <= plan.total.wall_longest_first_s
    assert plan.total.relative_error is None  # two timings say nothing of the scatter
    assert plan_of_tg80(plan).total.n_molecules == 80
    assert plan_of_tg80(plan).total.length_fs == 32000.0


def test_learned_steps_are_long_after_the_first_and_fits_are_paid_for():
    recipe = Recipe(integrator="learned", length_fs=10000.0, equilibration_fs=1100.0)
    recipe = recipe.model_copy(update={"outer_step_fs": 2.0})
    probe = replace(timing("methane", 34, 0.1), label_s=0.5, fit_s=8.0)
    plan = price([molecule_from_smiles("C", "methane")], recipe, 1, 1, [probe])
    cost = plan.costs[0]
    # 60 labels far apart, 100 steps of 1 fs, 500 of 2 fs; then a fit at half as many labels more.
    before = 60 + 100 + 500
    first = 2.0 + 20000 * 0.004 + 600 * 0.1 + 60 * 0.5
    assert cost.preparation_s == pytest.approx(first + most_fits(40, before) * 8.0)
    assert cost.production_s == pytest.approx(5000 * 0.1 + 5 * 8.0)
    assert plan.assumption is not None and "2 fs from then on" in plan.assumption
    assert plan.as_dict()["outer_step_fs"] == 2.0
    longest = Recipe(integrator="learned", store_every_fs=12.0, length_fs=12000.0)
    assert usual_step_fs(longest) > usual_step_fs(Recipe(integrator="mts")) == 1.0


def test_restarts_are_shared_out_over_a_segment():
    recipe = Recipe(level="gfn2-xtb")
    molecule = molecule_from_smiles("C", "methane")
    slow = replace(timing("methane", 5, 0.01), restart_s=20.0)
    plan = price([molecule], recipe, 1, 1, [slow])
    assert plan.costs[0].step_s == pytest.approx(0.01 + 20.0 / 2000)
    assert plan_of_tg80(plan) is None


def test_disk_is_what_shards_take():
    """The ratio comes from the shipped shards: real data; so is each of them to a fifth."""
    from pipelines.plan.plan import compression
    from tests.pipelines.twins.test_twins import MINI

    for path in sorted(MINI.glob("*.h5md"))[::6]:
        with Shard(path) as shard:
            expected = compression() * raw_bytes(shard.n_atoms, shard.n_frames)
        assert path.stat().st_size == pytest.approx(expected, rel=0.2)


# --- the command ------------------------------------------------------------------------------


@pytest.fixture
def smiles_list(tmp_path):
    path = tmp_path / "list.smi"
    path.write_text(LIST)
    return str(path)


def test_command_times_real_steps(smiles_list, capsys):
    words = ["plan", "--molecule-list", smiles_list, "--level", "gfn2-xtb", "--length-fs", "1000"]
    words += ["--workers", "3", "--probes", "3", "--steps", "20", *QUICK]
    assert run([*words, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [m["name"] for m in plan["molecules"]] == [
        "methane", "formaldehyde", "methanol", "ethanol", "furan",
    ]  # fmt: skip
    assert [p["name"] for p in plan["probes"]] == ["formaldehyde", "methanol", "furan"]
    measured = {m["name"]: m for m in plan["molecules"] if m["measured"]}
    for probe in plan["probes"]:
        assert len(probe["level_steps_s"]) == 20
        assert 1e-5 < probe["level_step_s"] < 1.0
        # A worker holds Python, RDKit and Dask: more than 50 MB, and far less than 1 GB.
        assert 5e7 < probe["peak_memory_bytes"] < 1e9
        assert measured[probe["name"]]["step_s"] >= probe["level_step_s"]
    total = plan["total"]
    assert total["worker_s"] == pytest.approx(sum(m["total_s"] for m in plan["molecules"]))
    assert total["longest_trajectory_s"] <= total["wall_longest_first_s"] <= total["worker_s"]
    assert plan["tg80"]["n_molecules"] == 80
    assert plan["tg80"]["worker_s"] > total["worker_s"]


def test_command_prints_a_table_for_people(smiles_list, capsys):
    words = ["plan", "--molecule-list", smiles_list, "--level", "gfn2-xtb", "--probes", "1"]
    assert run([*words, "--steps", "2", "--workers", "2", *QUICK]) == 0
    text = capsys.readouterr().out
    assert "longest trajectory" in text
    assert "MB a worker" in text
    assert "furan" in text
    assert "TG80: not told by timings of one size" in text


def test_failed_timing_is_one_line(tmp_path, capsys):
    path = tmp_path / "list.smi"
    path.write_text("[NH3+]CC(=O)[O-] zwitterion\n")
    assert run(["plan", "--molecule-list", str(path), "--level", "gfn2-xtb", *QUICK]) == 1
    assert "zwitterion: every conformer changes its bonds" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, reason",
    [
        (["--level", "nonsense"], "nonsense"),
        (["--level", "gfn2-xtb", "--length-fs", "0.3"], "not a multiple"),
        (["--memory-gb", "0"], "give more than 0"),
    ],
)
def test_bad_options_are_refused_before_any_timing(words, reason, smiles_list, capsys):
    assert run(["plan", "--molecule-list", smiles_list, *words]) == 2
    error = capsys.readouterr().err.strip()
    assert reason in error
    assert "\n" not in error


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("integrator", ["mts", "learned"])
def test_dft_is_timed_with_its_extrapolation_warm(integrator, smiles_list, capsys):
    words = ["plan", "--molecule-list", smiles_list, "--probes", "3", "--steps", "4", "--json"]
    assert run([*words, *QUICK, "--integrator", integrator]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["level"] == "pbe-def2svp"
    assert all((p["fit_s"] > 0) == (integrator == "learned") for p in plan["probes"])
    # Several times dearer than tight binding, and dearer the larger the basis is.
    assert all(p["level_step_s"] > 5 * p["xtb_step_s"] for p in plan["probes"])
    assert 0.5 < plan["fit"]["exponent"] < 4.0
    assert plan["tg80"]["worker_s"] > 86400.0
