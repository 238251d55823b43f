"""A beats B: the interval, and which records may be compared."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from benchmarks.cli import main
from benchmarks.leaderboard.lines import entries
from benchmarks.models import Budget, make_model
from benchmarks.runs import records
from benchmarks.runs.evaluation import fit_references
from benchmarks.runs.records import settings_key
from benchmarks.runs.runner import run_once
from benchmarks.scoring.significance import paired_interval
from benchmarks.studies.compare import compare
from tests.support import toys
from tg80.errors import UserError


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    out, references = tmp_path_factory.mktemp("runs"), fit_references(data)
    for name, seed in (("persistence", None), ("centroid", None), ("atom", 0), ("atom", 1)):
        model = make_model(name, **(toys.TINY_ATOM if name == "atom" else {}))
        run_once(model, data, seed=seed, budget=Budget(epochs=1), out=out, references=references)
    return out


def folder_of(runs, model):
    return sorted(path.parent for path in runs.rglob(f"{model}/*/record.json"))


def changed(runs, tmp_path, model, **update):
    """The runs, with the records of one model changed."""
    shutil.copytree(runs, tmp_path / "runs")
    for folder in folder_of(tmp_path / "runs", model):
        record = records.read_record(folder).model_copy(update=update)
        (folder / "record.json").write_text(record.model_dump_json())
    return tmp_path / "runs"


def test_the_better_one_wins_either_way_round(runs):
    for found, sign in ((compare(runs, "persistence", "centroid"), -1),
                        (compare(runs, "centroid", "persistence"), 1)):  # fmt: skip
        assert {(c.part, c.score) for c in found} == {
            (part, score)
            for part in ("test_time", "test_id", "test_ood", "val")
            for score in ("s2t", "s2s")
        }
        for one in found:
            assert one.verdict == "too few to tell"  # Two molecules, or four.
            better = dataclasses.replace(one, units=5)
            assert better.verdict == "persistence beats centroid"
            assert sign * one.low > 0 and sign * one.high > 0
            assert one.low < one.a_error - one.b_error < one.high
    s2s = {(r.model): r.value("test_ood", "s2s", "mean-over-molecules")
           for r in records.read_records(runs)}  # fmt: skip
    (one,) = [c for c in found if (c.part, c.score) == ("test_ood", "s2s")]
    assert one.a_error == pytest.approx(s2s["centroid"])
    assert (one.molecules, one.folds) == (2, (2,))


def test_seeds_are_averaged_and_the_command_prints_it(runs, capsys):
    asked = ["compare", str(runs), "atom", "persistence", "--part", "test_time"]
    assert main([*asked, "--json"]) == 0
    s2t, s2s = json.loads(capsys.readouterr().out)
    assert (s2t["a_seeds"], s2t["b_seeds"], s2t["score"], s2s["score"]) == (2, 1, "s2t", "s2s")
    own = [records.read_record(f).value("test_time", "s2s", "mean-over-molecules")
           for f in folder_of(runs, "atom")]  # fmt: skip
    assert s2s["a_error"] == pytest.approx(np.mean(own))
    assert main([*asked, "--markdown"]) == 0
    shown = capsys.readouterr().out
    assert "A - B, 95 %" in shown and s2s["verdict"] in shown


def test_records_that_do_not_pair_are_refused(runs, tmp_path):
    def refused(folder, message, a="persistence", b="centroid", **options):
        with pytest.raises(UserError, match=message) as caught:
            compare(folder, a, b, **options)
        assert "\n" not in str(caught.value)

    refused(runs, "no record of egno; there are atom, centroid, persistence", b="egno")
    refused(runs, "are the same records", b="persistence")
    refused(runs, "have no part train in common", part="train")
    refused(tmp_path, "no record.json below it")
    other = changed(runs, tmp_path / "a", "centroid", manifest_sha256="0" * 64)
    refused(other, "ran toy-v1 on different data")
    other = changed(runs, tmp_path / "b", "centroid", fold=3)
    refused(other, "persistence has folds 2 of toy-v1, centroid has 3: .* run what is missing")
    other = changed(runs, tmp_path / "c", "centroid", task="toy-v2")
    refused(other, "have no task and part in common")
    other = changed(runs, tmp_path / "d", "centroid")
    path = folder_of(other, "centroid")[0] / "errors.npz"
    with np.load(path) as arrays:
        kept = dict(arrays)
    kept["val/start_id"] = kept["val/start_id"][::-1]
    np.savez(path, **kept)
    refused(other, "other windows in val of fold 2")
    path.write_bytes(b"PK")
    refused(other, "errors.npz: cannot be read")
    path.write_bytes(b"PK\x03\x04 cut short")
    refused(other, "errors.npz: cannot be read")
    np.savez(path, **{name: kept[name] for name in kept if name != "test_id/task/raw"})
    refused(other, "errors.npz: has no test_id/task/raw; run it again", part="test_id")
    refused(runs, "fold 1: no record of persistence", fold=1)


@pytest.mark.parametrize(
    "damage",
    [
        {"rows": [["val", "urea"]]},
        {"rows": [["val", "urea", None, "s2s", "much", "A^2", 1, 0]]},
        {"task_spec": {}},
    ],
)
def test_a_damaged_record_is_named(runs, tmp_path, damage):
    copy = tmp_path / "runs"
    shutil.copytree(runs, copy)
    path = folder_of(copy, "centroid")[0] / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    with pytest.raises(UserError, match=r"centroid/.*/record\.json: .*not a record of this"):
        records.read_records(copy)


def test_a_copy_of_a_record_counts_once(runs, tmp_path):
    for name in ("a", "b"):
        shutil.copytree(runs, tmp_path / name)
    assert len(records.read_records(tmp_path)) == len(records.read_records(runs))
    # The same settings with another outcome are a run of their own.
    folder = folder_of(tmp_path / "b", "centroid")[0]
    record = records.read_record(folder)
    rows = [row._replace(value=2.0) for row in record.rows]
    (folder / "record.json").write_text(record.model_copy(update={"rows": rows}).model_dump_json())
    assert len(records.read_records(tmp_path)) == len(records.read_records(runs)) + 1


def test_several_settings_must_be_told_apart(runs, tmp_path):
    shutil.copytree(runs, tmp_path / "runs")
    folder = folder_of(tmp_path / "runs", "atom")[1]
    record = records.read_record(folder)
    other = record.model_copy(update={"settings": record.settings | {"device": "elsewhere"}})
    (folder / "record.json").write_text(other.model_dump_json())
    with pytest.raises(UserError, match=r"several settings: name atom\["):
        compare(tmp_path / "runs", "atom", "persistence")
    for one in (record, other):
        name = f"atom[{settings_key(one)}]"
        found = compare(tmp_path / "runs", name, "persistence", part="val")
        assert found[0].a == name and found[0].a_seeds == 1


def test_only_common_folds_are_compared_and_averaged_as_in_the_leaderboard(runs, tmp_path):
    copy = tmp_path / "runs"
    shutil.copytree(runs, copy)
    # Another fold of persistence and of one seed of ATOM: as many windows, other errors.
    for model, number, factor in (("persistence", 0, 2.0), ("atom", 1, 3.0), ("centroid", 0, 2.0)):
        folder = folder_of(copy, model)[number]
        record = records.read_record(folder)
        other = folder.parent / "fold3"
        other.mkdir()
        rows = [
            row._replace(value=row.value * factor) if row.unit == "A^2" else row
            for row in record.rows
        ]
        changed = record.model_copy(update={"fold": 3, "key": f"{model}3", "rows": rows})
        (other / "record.json").write_text(changed.model_dump_json())
        with np.load(folder / "errors.npz") as arrays:
            kept = dict(arrays)
        kept |= {name: factor * kept[name] for name in kept if name.endswith("/raw")}
        np.savez(other / "errors.npz", **kept)
    shutil.rmtree(folder_of(copy, "centroid")[0])
    lines = {
        (e.model, e.folds): e
        for e in entries(records.read_records(copy)) if e.part == "test_id"
    }  # fmt: skip
    assert set(lines) == {
        (model, folds)
        for folds, models in {
            (2, 3): ("atom", "persistence"), (3,): ("atom", "persistence", "centroid")
        }.items()
        for model in models
    }  # fmt: skip
    for found in (compare(copy, "atom", "persistence", part="test_id"),
                  compare(copy, "atom", "centroid", part="test_id")):  # fmt: skip
        for one in found:
            for model, error in ((one.a, one.a_error), (one.b, one.b_error)):
                expected = getattr(lines[model, one.folds], one.score)
                assert error == pytest.approx(expected, rel=1e-6)
    assert found[0].folds == (3,) and (found[0].molecules, found[0].units) == (2, 2)


def hierarchical(rng, n_molecules=20, n_windows=6):
    """Differences with a mean of their own for each molecule; the mean of all is zero."""
    own = rng.normal(size=(n_molecules, 1))
    values = own + rng.normal(size=(n_molecules, n_windows))
    return values.ravel(), np.repeat(np.arange(n_molecules), n_windows).astype(str).tolist()


@pytest.mark.parametrize("n_molecules", [5, 6, 20])
def test_the_interval_covers_as_often_as_it_says(n_molecules):
    rng = np.random.default_rng(0)
    n = 200
    held = 0
    for i in range(n):
        values, names = hierarchical(rng, n_molecules)
        low, high = paired_interval(values, names, resamples=2000, seed=i)
        held += low < 0 < high
    # Plain percentiles hold zero in 86 to 88 % of the cases of five or six molecules.
    assert 0.92 < held / n < 0.995


def test_windows_that_overlap_are_drawn_in_blocks():
    rng = np.random.default_rng(1)
    n, n_blocks, length = 100, 30, 20
    held, held_alone = 0, 0
    for i in range(n):
        values = np.repeat(rng.normal(size=n_blocks), length)
        blocks = np.repeat(np.arange(n_blocks), length).tolist()
        names = ["aspirin"] * len(values)
        low, high = paired_interval(values, names, resamples=200, seed=i, blocks=blocks)
        held += low < 0 < high
        low, high = paired_interval(values, names, resamples=200, seed=i)
        held_alone += low < 0 < high
    assert 0.86 < held / n <= 1.0 and held_alone / n < 0.6


def test_each_window_alone_is_the_default():
    values, names = hierarchical(np.random.default_rng(2))
    values[3] = np.nan
    own = [str(i) for i in range(len(values))]
    assert paired_interval(values, names) == pytest.approx(
        paired_interval(values, names, blocks=own)
    )
