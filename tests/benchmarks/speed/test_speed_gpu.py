"""`atom-bench speed gpu`, with real trajectories side by side on CPU cores."""

import numpy as np
import pytest

from benchmarks.speed.commands import checked
from benchmarks.speed.gpu import SideBySide, count_steps, measure, side_by_side, tables
from benchmarks.speed.scaffold import Results
from benchmarks.speed.settings import GpuSettings
from benchmarks.speed.starts import Start, find_molecules
from pipelines.engines.dft.gpu_devices import find_gpus
from tg80.errors import RunFailed, UserError


def brief(**changes) -> GpuSettings:
    """Settings that time half a second of the cheap level on the CPU."""
    settings = GpuSettings(
        devices=("cpu",), level="gfn2-xtb", warm_up=1, seconds=0.5, equilibration_fs=5.0
    )
    return settings.model_copy(update=changes)


def test_trajectories_side_by_side_on_the_cpu_are_no_more_than_its_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1})
    settings = brief(trajectories=(2, 16), molecules="water")
    results = Results(None, "gpu", settings)
    measure(settings, results)
    (found,) = results.all(SideBySide)
    assert [row.trajectories for row in found.rows] == [2]
    assert all(row.steps_per_s >= row.slowest_steps_per_s > 0 for row in found.rows)
    (sheet,) = tables(settings, results)
    assert len(sheet.rows) == len(found.rows)
    assert all(len(row) == len(sheet.heading) for row in sheet.rows)
    assert "1.00" in {row[-1] for row in sheet.rows}


def test_a_trajectory_that_breaks_off_says_why():
    molecule = find_molecules("water")[0]
    start = Start(molecule, np.eye(3), np.zeros((3, 3)))
    with pytest.raises(RunFailed, match=r"a measuring process failed: .*no level of theory 'lda'"):
        side_by_side(start, "cpu", 1, brief(level="lda"))


def test_without_a_gpu_nothing_is_timed():
    try:
        find_gpus()
    except UserError as reason:
        with pytest.raises(UserError) as error:
            measure(GpuSettings(molecules="water"), Results(None, "gpu", GpuSettings()))
        assert str(error.value) == str(reason)
    else:
        pytest.skip("a GPU is at hand")


def test_options():
    settings = checked(GpuSettings, {"trajectories": "1,4", "devices": "cuda, cpu"})
    assert settings.trajectories == (1, 4) and settings.devices == ("cuda", "cpu")
    for text in ("", "0,1", "a"):
        with pytest.raises(UserError, match="--trajectories"):
            checked(GpuSettings, {"trajectories": text})
    with pytest.raises(UserError, match="--devices"):
        checked(GpuSettings, {"devices": "rocm"})


@pytest.mark.gpu
def test_one_gpu_against_the_cpu():
    try:
        find_gpus()
    except UserError as reason:
        pytest.skip(str(reason))
    settings = GpuSettings(trajectories=(1, 4), warm_up=4, seconds=5.0, equilibration_fs=50.0)
    found = count_steps(find_molecules("ethanol")[0], settings)
    assert {row.device for row in found.rows} == {"cpu", "cuda"}
    assert all(row.steps_per_s > 0 for row in found.rows)
