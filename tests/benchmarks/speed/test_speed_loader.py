"""The loader's speed beside that of training: the command on real data, and its table."""

import json

from benchmarks.cli import main
from benchmarks.speed.loader import _windows, tables
from benchmarks.speed.scaffold import Clocked, Results, Spread
from benchmarks.speed.settings import LoaderSettings
from tg80.splits.split import load_split


def test_the_command_times_loaders_and_training(capsys):
    argv = ["speed", "loader", "--presets", "mini", "--workers", "0,1", "--repeats", "2"]
    argv += ["--batches", "4", "--steps", "1", "--batch-size", "8", "--json"]
    assert main(argv) == 0
    document = json.loads(capsys.readouterr().out)
    results = document["results"]["loader"]
    assert list(results) == [
        "memory, 0 workers", "memory, 1 workers", "mapped, 0 workers", "mapped, 1 workers",
        "ATOM mini",
    ]  # fmt: skip
    assert all(
        rates["wall"]["n"] == 2 and rates["wall"]["lowest"] > 0 for rates in results.values()
    )
    in_process = results["memory, 0 workers"]["cpu"]["median"]
    assert in_process > 20 * 2 * results["ATOM mini"]["cpu"]["median"]


def test_the_table_counts_training_on_all_cores():
    def rates(wall, cpu):
        return Clocked(*(Spread.of([x - 2, x, x + 2]) for x in (wall, cpu)))

    rates_of = {
        "memory, 0 workers": rates(8000.0, 9000.0), "memory, 2 workers": rates(4000.0, 1.0),
        "ATOM mini": rates(100.0, 150.0),
    }  # fmt: skip
    settings = LoaderSettings(threads=1, cores=2)
    results = Results(None, "loader", settings)
    results.get("loader", dict[str, Clocked], lambda: rates_of)
    (sheet,) = tables(settings, results)
    assert [list(row) for row in sheet.rows] == [
        ["memory, 0 workers", "8000", "7999-8001", "9000", "40", "30"],
        ["memory, 2 workers", "4000", "3999-4001", "", "20", ""],
        ["ATOM mini", "100", "99-101", "150", "", ""],
    ]


def test_the_short_replicas_of_a_release_are_left_out():
    settings = LoaderSettings(data="tg80-xtb-v1")
    names = load_split("tg80-v1").fold(settings.fold).train
    assert len(_windows(settings, None)) == 64 * len(names)


def test_wrong_settings_are_named(capsys):
    for option, value in (("--presets", "huge"), ("--workers", "two"), ("--data", "nowhere")):
        assert main(["speed", "loader", option, value]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert option in error or value in error
