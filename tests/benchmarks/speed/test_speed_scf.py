"""`atom-bench speed scf` on a molecule of three atoms."""

import json

from benchmarks.speed.commands import checked
from benchmarks.speed.scaffold import Results
from benchmarks.speed.scf import SelfConsistency, measure, tables
from benchmarks.speed.settings import ScfSettings


def test_two_grids_take_one_fine_matrix_and_have_the_same_forces(tmp_path):
    options = {"molecules": "water", "spacings_fs": "2", "warm_up": 4, "geometries": 2}
    settings = checked(ScfSettings, options | {"stock": 1, "checks": 1})
    assert isinstance(settings, ScfSettings)
    results = Results(tmp_path / "scf.json", "scf", settings)
    measure(settings, results)
    (water,) = results.all(SelfConsistency)
    (spacing,) = water.spacings
    assert spacing.fine_builds < spacing.one_grid_builds
    assert spacing.coarse_cycles > 1.0
    assert spacing.two_grids.force_max < 5e-6
    assert spacing.two_grids.energy_max < 1e-5
    assert json.loads((tmp_path / "scf.json").read_text())["command"] == "scf"
    times, errors = tables(settings, results)
    assert times.rows[0][:2] == errors.rows[0][:2] == ["water", "2"]
