import json
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.cli import main
from benchmarks.commands.options import parse_seeds
from benchmarks.leaderboard.lines import entries
from benchmarks.models import TRIVIAL
from benchmarks.models.settings import parse_overrides
from benchmarks.runs.records import read_record, read_records, run_key
from tests.support import toys
from tests.support.factories import make_dataset
from tg80.errors import UserError

TINY = [
    "--set", "model.n_blocks=1", "--set", "model.width=16", "--set", "model.n_heads=2",
    "--set", "model.feedforward_width=16", "--set", "training.windows_per_trajectory=4",
    "--set", "training.batch_size=4", "--epochs", "1", "--device", "cpu",
]  # fmt: skip


@pytest.fixture(scope="session")
def finished(shards, tmp_path_factory):
    """A run of atom with two seeds, and what it printed."""
    out = tmp_path_factory.mktemp("runs")
    argv = ["run", "--fold", "2", "--data", str(shards), "--out", str(out), "--seeds", "2", *TINY]
    assert main(argv) == 0
    return argv, out


def test_a_run_writes_records_that_can_be_made_again(finished):
    _, out = finished
    records = read_records(out)
    assert sorted(r.model for r in records) == sorted(["atom", "atom", *TRIVIAL])
    atom = next(r for r in records if r.model == "atom")
    assert atom.settings["training"]["batch_size"] == 4
    assert atom.settings["model"]["width"] == 16
    assert atom.budget == {"epochs": 1, "cpu_minutes": None}
    assert len(atom.split_sha256) == len(atom.manifest_sha256) == 64
    assert atom.fit.n_steps > 0 and atom.fit.cpu_seconds > 0
    assert atom.versions["torch"] and atom.hardware.threads == 1
    assert {"test_time", "test_ood", "val", "test_id"} >= set(atom.parts) > set()
    document = json.loads((path := next(out.rglob("record.json"))).read_text())
    assert [list(row) for row in read_record(path.parent).rows] == document["rows"]


def test_the_stored_errors_give_the_rows(finished):
    _, out = finished
    path = next(out.glob("*/*/*/atom/*/errors.npz"))
    record = read_record(path.parent)
    with np.load(path) as arrays:
        raw, names = arrays["test_time/task/raw"], arrays["test_time/molecule"]
        assert arrays["test_time/task/lags_fs"][0].tolist() == [120.0 * i for i in range(1, 9)]
        assert arrays["test_time/curve/raw"].shape[1] == 4
    by_molecule = [raw[names == name, -1].mean() for name in sorted(set(names))]
    value = record.value("test_time", "s2s", "mean-over-molecules")
    assert value == pytest.approx(np.mean(by_molecule))


def test_the_same_command_reuses_and_other_settings_never_overwrite(finished, capsys):
    argv, out = finished
    files = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert main(argv) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == files
    assert main([*argv, "--seeds", "1", "--set", "training.learning_rate=0.001"]) == 0
    after = {path for path in out.rglob("record.json")}
    assert len(after - files.keys()) == 1
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in files.items())
    shown = capsys.readouterr().out
    assert "persistence" in shown and "test_time" in shown


def test_leaderboard_in_every_format(finished, capsys):
    _, out = finished
    assert main(["leaderboard", str(out), "--json"]) == 0
    lines = json.loads(capsys.readouterr().out)
    persistence = [x for x in lines if x["model"] == "persistence" and x["part"] == "test_time"]
    assert len(persistence) == 1 and persistence[0]["unit"] == "A^2"
    two_seeds = [x for x in lines if x["model"] == "atom" and x["seeds"] == 2]
    assert two_seeds and all(x["s2s_spread"] is not None for x in two_seeds)
    assert main(["leaderboard", str(out), "--format", "markdown"]) == 0
    text = capsys.readouterr().out
    assert "### mini-xtb-v1, canonical, test_time: MSE x 1e-2 A^2" in text
    assert "| persistence | " in text
    assert main(["leaderboard", str(out)]) == 0
    assert "960 fs" in capsys.readouterr().out
    assert main(["leaderboard", str(out), "--skill", "--format", "markdown"]) == 0
    text = capsys.readouterr().out
    assert "test_time: skill, median over molecules" in text
    # The lags of the curve stand before the task's; no reference is above itself.
    assert "| model | 10 fs | 20 fs | 50 fs | 100 fs | 120 fs |" in text
    row = next(line for line in text.splitlines() if line.startswith("| persistence |"))
    assert all(float(cell) <= 0 for cell in row.split("|")[2:14])
    assert set(persistence[0]["skills"]) > set(persistence[0]["mse"])


def test_a_summary_has_all_test_parts_in_one_table(finished, capsys):
    _, out = finished
    assert main(["leaderboard", str(out), "--summary", "--format", "markdown"]) == 0
    title, _, heading, _, *rows = capsys.readouterr().out.strip().splitlines()
    assert title.startswith("### mini-xtb-v1, canonical, fold 2: S2T and S2S")
    columns = [cell.strip() for cell in heading.split("|")[1:-1]]
    assert columns[:4] == ["model", "test_time S2T", "test_time S2S", "test_time skill"]
    assert len(columns) == 3 + 3 * len({c.split()[0] for c in columns if c.endswith("S2T")})
    assert not any("val" in column for column in columns)
    table = {row.split("|")[1].strip(): [c.strip() for c in row.split("|")[1:-1]] for row in rows}
    assert len(table) == len(rows) and set(table) >= {"persistence", "mean-structure"}
    # It knows the molecules it was fitted to, and no others.
    assert table["mean-structure"][4:-2] == ["-"] * (len(columns) - 6)
    mine = [e for e in entries(read_records(out)) if e.model == "atom" and e.seeds == 2]
    for e in (e for e in mine if e.part.startswith("test")):
        row = table.get("atom") or table[f"atom [{e.settings}]"]
        at = columns.index(f"{e.part} S2T")
        assert row[at] == f"{100 * e.s2t:.3g}"
        assert row[at + 1] == f"{100 * e.s2s:.3g} ± {100 * e.s2s_spread:.3g}"
        assert row[at + 2] == f"{e.skill:+.2f}"
    assert main(["leaderboard", str(out), "--summary", "--json"]) == 2
    assert "leave out --summary" in capsys.readouterr().err


def test_leaderboard_ranks_by_s2s_and_averages_folds(finished):
    _, out = finished
    records = read_records(out)
    lines = [e for e in entries(records) if e.part == "test_time"]
    assert [e.s2s for e in lines] == sorted(e.s2s for e in lines)
    still = next(r for r in records if r.model == "persistence")
    other = still.model_copy(
        update={"fold": 3, "rows": [r._replace(value=3 * r.value) for r in still.rows]}
    )
    (line,) = [e for e in entries([still, other]) if e.part == "test_time"]
    assert line.folds == (2, 3) and line.s2s_spread is None
    assert line.s2s == pytest.approx(2 * still.value("test_time", "s2s", "mean-over-molecules"))


def test_json_of_a_run_is_one_document(shards, tmp_path, capsys):
    argv = ["run", "--fold", "2", "--data", str(shards), "--model", "ballistic", "--json"]
    assert main([*argv, "--out", str(tmp_path)]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record["model"] == "ballistic" and record["rows"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fold", "0"], "fold must be 1 to 5, not 0"),
        (["--fold", "9"], "fold must be 1 to 5, not 9"),
        (["--fold", "2", "--task", "mini"], "unknown task 'mini'"),
        (["--fold", "2", "--model", "atm"], "unknown model 'atm'"),
        (["--fold", "2", "--track", "light"], "unknown track 'light'"),
        (["--fold", "2", "--preset", "huge"], "setting preset"),
        (["--fold", "2", "--device", "tpu"], "unknown device 'tpu'"),
        (["--fold", "2", "--seeds", "a"], "--seeds wants"),
        (["--fold", "2", "--epochs", "0"], "must be a positive number"),
        (["--fold", "2", "--epochs", "1", "--budget-cpu-minutes", "1"], "give one of --epochs"),
        (["--fold", "2", "--set", "training.rate=1"], "unknown setting training.rate"),
        (["--fold", "2", "--set", "training"], "--set wants NAME=VALUE"),
        (["--fold", "2", "--model", "blend", "--preset", "mini"], "takes neither"),
        (["--fold", "two"], "valid integer"),
        ([], "--fold"),
        (["--fold", "2", "--nonsense"], "nonsense"),
        (["--fold", "2", "--task", "tg80-multitask", "--data", "."], "no .h5md file"),
        (["--fold", "2", "--data", "/nowhere"], "/nowhere: no such file"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["run", *arguments]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert len(shown.err.strip().splitlines()) == 1 and shown.out == ""
    assert not (tmp_path / "runs").exists()


def one_line(argv, capsys):
    assert main(argv) == 2
    shown = capsys.readouterr().err.strip()
    assert len(shown.splitlines()) == 1
    return shown


def test_bad_data_is_named(shards, tmp_path, capsys):
    def run_on(folder, task="mini-xtb-v1"):
        argv = ["run", "--fold", "2", "--data", str(folder), "--model", "persistence"]
        return one_line([*argv, "--task", task, "--out", str(tmp_path / "runs")], capsys)

    message = "no trajectory at level of theory pbe-def2svp; there is gfn2-xtb"
    assert message in run_on(shards, "tg80-multitask")

    short = tmp_path / "short"
    make_dataset(short, toys.SMALL, n_frames=101, store_every_fs=10.0, time_step_fs=1.0)
    assert "horizon 960 fs is longer than the test_time block" in run_on(short)

    damaged = tmp_path / "damaged"
    damaged.mkdir()
    source = next(shards.glob("*.h5md"))
    (damaged / source.name).write_bytes(source.read_bytes()[:2000])
    assert source.name in run_on(damaged)

    altered = tmp_path / "altered"
    altered.mkdir()
    for path in shards.iterdir():
        (altered / path.name).write_bytes(path.read_bytes())
    checksum = altered / f"{source.name}.sha256"
    checksum.write_text("0" * 64 + f"  {source.name}\n")
    assert "damaged or changed" in run_on(altered)


def test_leaderboard_mistakes(tmp_path, capsys):
    assert "no such folder" in one_line(["leaderboard", str(tmp_path / "none")], capsys)
    assert "no record.json" in one_line(["leaderboard", str(tmp_path)], capsys)
    assert "unknown format" in one_line(["leaderboard", ".", "--format", "pdf"], capsys)
    broken = tmp_path / "run"
    broken.mkdir()
    (broken / "record.json").write_text("{}")
    assert "not a record of this version" in one_line(["leaderboard", str(tmp_path)], capsys)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--json", "--format", "csv"], "--json and --format csv contradict"),
        (["--format", "csv", "--skill"], "csv holds all of it; leave out --skill"),
        (["--json", "--costs"], "json holds all of it; leave out --costs"),
        (["--html", "site", "--quality"], "--html holds all of it; leave out --quality"),
        (["--html", "site", "--fold", "2"], "--html holds all of it; leave out --fold"),
        (["--published", "--fold", "2"], "--published has errors only; leave out --fold"),
    ],
)
def test_no_option_is_passed_over(options, message, capsys):
    assert message in one_line(["leaderboard", *options], capsys)


@pytest.mark.parametrize("minutes", ["1e-5000", "0", "-1"])
def test_a_budget_is_a_positive_number(minutes, tmp_path, capsys):
    command = ["run", "--fold", "2", "--budget-cpu-minutes", minutes, "--out", str(tmp_path)]
    assert "a training budget must be a positive number" in one_line(command, capsys)


@pytest.mark.parametrize("command", ["run", "leaderboard"])
def test_help_has_an_example(command):
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.cli", command, "--help"], capture_output=True, text=True
    )
    assert result.returncode == 0
    assert f"Example: atom-bench {command}" in result.stdout


def test_seeds_are_a_count_or_a_list():
    assert parse_seeds("3") == [0, 1, 2]
    assert parse_seeds("4,7") == [4, 7]
    assert parse_seeds("5,") == [5]
    for wrong in ("0", "-1", "1,1", "", "1.5", ","):
        with pytest.raises(UserError):
            parse_seeds(wrong)


def test_overrides_nest():
    assert parse_overrides(["a.b=1", "a.c=x", "d=true", "e=[1, 2]"]) == {
        "a": {"b": 1, "c": "x"}, "d": True, "e": [1, 2],
    }  # fmt: skip
    with pytest.raises(UserError, match="was set to a value"):
        parse_overrides(["a=1", "a.b=2"])


def test_the_key_depends_on_content_only():
    assert run_key(a=1, b={"c": 2, "d": 3}) == run_key(b={"d": 3, "c": 2}, a=1)
    assert run_key(a=1) != run_key(a=2)


def test_toys_are_in_the_split():
    assert toys.toy_data().training.molecules == toys.TRAIN
