"""The model's speed beside plain loops: the command on small sizes, and its tables."""

import json
from dataclasses import replace

import pytest
import torch

from benchmarks.cli import main
from benchmarks.speed.model import (
    Point,
    Shape,
    Times,
    Variant,
    Work,
    growth_exponent,
    published,
    tables,
)
from benchmarks.speed.scaffold import Clocked, Results, Spread
from benchmarks.speed.settings import ModelSettings

SMALL = ["speed", "model", "--preset", "mini", "--modes", "start", "--batch-size", "2"]
SMALL += ["--atoms", "5", "--lags", "2", "--repeats", "1"]


def times(forward, step):
    """Processor times of a forward and a step; by wall time both take 9 s."""
    wall = Spread.of([9.0])
    return Times(*(Clocked(wall, Spread.of([cpu])) for cpu in (forward, step)))


def test_the_command_times_model_and_plain_loop_and_grows_them(tmp_path, capsys):
    out = tmp_path / "model.json"
    # The larger batch is left out: no step takes as little as a kilobyte.
    growth = ["--scaling", "--scaling-sizes", "2;4,6;1,2", "--memory-gb", "1000"]
    assert main([*SMALL, *growth, "--out", str(out), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["results"] == json.loads(out.read_text())["results"]
    point = document["results"]["start, N = 5"]
    assert set(point["times"]) == {"model", "plain loop"}
    for times in point["times"].values():
        assert times["step"]["cpu"]["median"] > times["forward"]["cpu"]["median"] > 0
    # Activations of the step: some hundred features of 4 bytes for each of 2 x 3 x 5 tokens.
    assert 1e4 < point["step_memory_bytes"] < 1e9
    grown = [row for row in document["results"].values() if row["axis"]]
    assert [row["axis"] for row in grown] == ["batch_size", "atoms", "atoms", "lags", "lags"]
    assert all(row["times"]["model"]["step"]["wall"]["median"] > 0 for row in grown)

    # The same command prints the finished file, at once.
    assert main([*SMALL, *growth, "--out", str(out), "--markdown"]) == 0
    printed = capsys.readouterr()
    assert "start, N = 5, plain loop" in printed.out and "growth with N" in printed.out
    assert "first calls" not in printed.err


def test_what_needs_too_much_memory_is_left_out(tmp_path, capsys):
    argv = [*SMALL, "--no-plain", "--scaling", "--scaling-sizes", "1,64;4;1", "--memory-gb", "1e-6"]
    argv += ["--out", str(tmp_path / "model.json")]
    assert main([*argv, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    rows = [row for row in document["results"].values() if row["axis"] == "batch_size"]
    assert rows[0]["times"] and rows[1]["times"] == {}
    assert rows[1]["needs_bytes"] == 64 * rows[0]["step_memory_bytes"]
    assert main([*argv, "--markdown"]) == 0
    assert "| 64, 12, 8: left out |" in capsys.readouterr().out


def test_a_step_trains_and_a_forward_does_not():
    work = Work("mini", "joint", Shape(2, 4, 3))
    before = work.forward()
    assert before.shape == (2, 3, 4, 3) and torch.equal(before, work.forward())
    work.step()
    assert not torch.equal(before, work.forward())


def test_variants_run_the_same_weights():
    shape = Shape(2, 4, 3)
    expected = Work("mini", "joint", shape).forward()
    plain = Work("mini", "joint", shape, variant=Variant(plain=True)).forward()
    torch.testing.assert_close(plain, expected, atol=1e-4, rtol=0)
    half = Work("mini", "joint", shape, variant=Variant(bf16=True)).forward()
    assert 0 < float((half - expected).abs().max()) < 0.1


def test_ratios_are_of_medians_and_published_figures_stand_where_they_were_measured():
    settings = ModelSettings()
    of_variants = {"model": times(0.1, 0.2), "plain loop": times(1.0, 3.0)}
    point = Point("joint", 32, 12, 8, 1, 2_000_000, of_variants)
    results = Results(None, "model", settings)
    results.get("joint, N = 12", Point, lambda: point)
    sheet = tables(settings, results)[0]
    model, plain, reference = (list(row) for row in sheet.rows)
    assert model[6:] == ["320", "160", "2", "", ""]
    assert plain[-2:] == ["10.0", "15.0"]
    assert reference[1:4] == ["762,338", "0.6", "1.7"] and reference[-2:] == ["6.0", "8.5"]
    assert published(settings, replace(point, mode="start")) is None
    assert published(ModelSettings(threads=2), point) is None
    assert published(ModelSettings(preset="mini"), point) is None
    assert published(settings, replace(point, atoms=13)) is None


def test_the_exponent_is_that_of_the_largest_sizes():
    def row(atoms, seconds):
        return Point("joint", 4, atoms, 8, times={"model": times(1.0, seconds)}, axis="atoms")

    rows = [row(n, max(1.0, (n / 100) ** 1.7)) for n in (1, 50, 100, 200, 400)]
    assert growth_exponent(rows, "cpu") == pytest.approx(1.7)
    assert growth_exponent(rows[:1], "cpu") is None and growth_exponent([], "cpu") is None
    left_out = Point("joint", 4, 800, 8, axis="atoms", needs_bytes=1.0)
    assert growth_exponent([*rows, left_out], "cpu") == pytest.approx(1.7)


def test_wrong_settings_are_named(capsys):
    wrong = [("--preset", "huge"), ("--modes", "none"), ("--atoms", "0"), ("--scaling-sizes", "1")]
    wrong += [] if torch.cuda.is_available() else [("--device", "cuda")]
    for option, value in wrong:
        assert main(["speed", "model", option, value]) == 2
        error = capsys.readouterr().err.strip().splitlines()
        assert len(error) == 1 and (option in error[0] or value.upper() in error[0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu(capsys):
    assert main([*SMALL, "--device", "cuda", "--bf16", "--json"]) == 0
    point = json.loads(capsys.readouterr().out)["results"]["start, N = 5"]
    assert set(point["times"]) == {"model", "plain loop", "bf16"}
    assert point["step_memory_bytes"] > 0
