"""`atom-bench speed outer` on the smallest molecule of mini-dft."""

import pytest

from benchmarks.speed.commands import checked
from benchmarks.speed.outer import OuterFigures, measure, tables
from benchmarks.speed.scaffold import Results
from benchmarks.speed.settings import OuterSettings
from tg80.errors import UserError


def test_a_small_residual_lets_the_energy_stand_still(tmp_path):
    options = {"molecules": "formaldehyde", "outer_fs": "2", "labels": 20, "length_fs": 400}
    settings = checked(OuterSettings, options)
    assert isinstance(settings, OuterSettings)
    results = Results(tmp_path / "outer.json", "outer", settings)
    measure(settings, results)
    (figures,) = results.all(OuterFigures)
    (run,) = figures.runs
    assert figures.n_labels == 80
    assert 0.0 < run.residual < 0.003
    assert 0.0 < run.energy_std < 0.1 and abs(run.drift) < 0.1 + 2.0 * run.drift_error
    assert tables(settings, results)[0].rows[0][:3] == ["formaldehyde", "80", "2"]


def test_a_molecule_that_the_data_lack_is_named():
    settings = checked(OuterSettings, {"molecules": "benzene"})
    assert isinstance(settings, OuterSettings)
    with pytest.raises(UserError, match="mini-dft has no 'benzene'"):
        measure(settings, Results(None, "outer", settings))
