"""The rules of quality, on runs whose faults are put in by hand."""

import json

import numpy as np
import pytest

from tests.support import factories
from tg80.shards.fields import QUALITY_FLAGS
from tg80.shards.metadata import ShardMetadata
from tg80.shards.quality import QualityThresholds, judge


@pytest.fixture(scope="module")
def clean():
    """Model and arrays of 2 ps of ethanol."""
    model = factories.spring_model(factories.as_molecule("ethanol"))
    velocities = factories.start_velocities(model, np.random.default_rng(8))
    settings = {"n_frames": 2000, "store_every_fs": 1.0, "time_step_fs": 0.5}
    run = factories.integrate([model], [velocities], **settings)[0]
    return model, factories.frame_arrays(model, run, 1.0, 0.5)


def judged(clean, n_frames=2000, start="mean-energy", ensemble="nve", **changed):
    model, arrays = clean
    arrays = {name: np.array(values[:n_frames]) for name, values in (arrays | changed).items()}
    static = {
        "atomic_numbers": np.array(model.molecule.atomic_numbers),
        "relaxed_positions": model.rest,
    }
    metadata = factories.make_metadata(model, arrays, start=start, ensemble=ensemble)
    quality = judge(arrays, static, metadata)
    return quality.statistics(), quality.flags


def test_a_clean_run_is_ok_and_its_statistics_go_into_the_metadata(clean):
    statistics, flags = judged(clean)
    assert {statistics[name]["verdict"] for name in statistics if name != "n_flagged"} == {"ok"}
    assert not flags.any()
    assert flags.dtype == np.uint32
    assert json.loads(json.dumps(statistics, allow_nan=False)) == statistics
    metadata: ShardMetadata = factories.make_metadata(*clean, statistics=statistics)
    assert metadata.statistics == statistics


@pytest.mark.parametrize(
    ("mev_per_atom_ps", "noise_mev", "verdict"),
    [(0.03, 0.0, "ok"), (0.2, 0.0, "error"), (-0.2, 0.0, "error"), (0.0, 1.5, "warning")],
)
def test_drift_is_judged_with_its_error_bar(clean, mev_per_atom_ps, noise_mev, verdict):
    times = clean[1]["time"]
    slow_noise = np.random.default_rng(0).normal(size=20).repeat(100)
    conserved = (mev_per_atom_ps * times / 1000 + noise_mev * slow_noise) * 9e-3
    statistics, _ = judged(clean, conserved_quantity=conserved)
    drift = statistics["drift"]
    assert drift["verdict"] == verdict
    assert abs(drift["value"] - mev_per_atom_ps) <= 2 * drift["error"] + 1e-9
    assert drift["unit"] == "meV/atom/ps"


def test_some_tens_of_fs_have_no_error_bar_and_no_error(clean):
    statistics, _ = judged(clean, n_frames=40)
    assert statistics["drift"]["verdict"] == "warning"
    assert statistics["drift"]["error"] is None
    assert "inconclusive" in statistics["drift"]["message"]
    assert all(
        check["verdict"] != "error" for name, check in statistics.items() if name != "n_flagged"
    )


def test_a_jump_of_the_conserved_quantity_is_an_error(clean):
    conserved = np.where(clean[1]["time"] < 1000, 0.0, 9 * 2.5e-3)
    statistics, _ = judged(clean, conserved_quantity=conserved)
    assert statistics["drift_total"]["verdict"] == "error"
    assert statistics["drift_total"]["value"] == pytest.approx(2.5)


def test_temperature_is_judged_after_5_ps_where_it_was_set(clean):
    from tg80.constants import BOLTZMANN_EV_PER_K

    arrays = {name: np.tile(values, (3,) + (1,) * (values.ndim - 1)) for name, values in
              clean[1].items()}  # fmt: skip
    arrays["time"] = np.arange(6000.0)
    noise = np.random.default_rng(0).normal(size=6000)
    for kelvin, length, start, ensemble, verdict in (
        (335.0, 6000, "mean-energy", "nve", "error"),
        (335.0, 6000, "canonical", "bussi", "error"),
        (335.0, 6000, "canonical", "nve", "ok"),
        (335.0, 4000, "mean-energy", "nve", "ok"),
        # A methyl group that turns freely may have kept its energy; more than that is a fault.
        (325.0, 6000, "mean-energy", "nve", "warning"),
    ):
        warm = 0.5 * 21 * BOLTZMANN_EV_PER_K * (kelvin + noise)
        hot = (clean[0], arrays | {"kinetic_energy": warm})
        temperature = judged(hot, length, start=start, ensemble=ensemble)[0]["temperature"]
        assert temperature["verdict"] == verdict, (kelvin, length, start, ensemble)
        assert temperature["value"] == pytest.approx(kelvin, abs=0.1)


def test_frames_are_flagged_one_by_one_and_none_is_left_out(clean):
    arrays = clean[1]
    gaps, converged = arrays["homo_lumo_gap"].copy(), arrays["scf_converged"].copy()
    force, torque = arrays["raw_net_force"].copy(), arrays["raw_net_torque"].copy()
    positions = arrays["positions"].copy()
    gaps[3], converged[5], force[7], torque[9] = 0.4, 0, [0.1, 0, 0], [0, 0, 0.2]
    positions[100:150, 8] += 5.0
    statistics, flags = judged(
        clean, homo_lumo_gap=gaps, scf_converged=converged, raw_net_force=force,
        raw_net_torque=torque, positions=positions,
    )  # fmt: skip
    expected = np.zeros(2000, dtype=np.uint32)
    expected[3] = QUALITY_FLAGS["small_gap"]
    expected[5] = QUALITY_FLAGS["scf_not_converged"]
    expected[7] = QUALITY_FLAGS["net_force"]
    expected[9] = QUALITY_FLAGS["net_torque"]
    expected[100:150] = QUALITY_FLAGS["bond_broken"]
    np.testing.assert_array_equal(flags, expected)
    assert statistics["n_flagged"] == {
        "scf_not_converged": 1, "bond_broken": 50, "hydrogen_transferred": 0, "stereo_changed": 0,
        "small_gap": 1, "net_force": 1, "net_torque": 1,
    }  # fmt: skip
    assert statistics["bond_graph"]["verdict"] == "error"
    (change,) = statistics["bond_graph"]["changes"]
    assert (change["start_fs"], change["end_fs"]) == (100.0, 149.0)
    assert statistics["net_force"]["max"] == pytest.approx(0.1)


def test_thresholds_refuse_unknown_names():
    with pytest.raises(ValueError, match="drift"):
        QualityThresholds(drift=1.0)  # pyright: ignore[reportCallIssue]
