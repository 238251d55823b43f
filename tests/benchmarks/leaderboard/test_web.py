"""The page as files: what is written where, what is refused, and what stands in it."""

import csv
import io
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from benchmarks.cli import main
from benchmarks.leaderboard.web.site import write_site
from benchmarks.runs import examples
from benchmarks.runs.records import ERRORS, read_record, read_records
from benchmarks.scoring.metrics import Metric
from tests.benchmarks.leaderboard import web_pages
from tests.support import toys
from tg80.errors import UserError


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Results of toys, one record in them hostile; not to be changed."""
    out = web_pages.make_runs(tmp_path_factory.mktemp("runs"))
    web_pages.add_hostile_record(out)
    return out


@pytest.fixture(scope="module")
def site(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page") / "site"
    assert main(["leaderboard", str(runs), "--html", str(folder)]) == 0
    return folder


def data_of(site):
    text = (site / "index.html").read_text()
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(found.group(1))


def files_of(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


class Elements(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.addresses = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [v for k, v in attrs if k in ("href", "src", "data", "action")]


def test_nothing_is_loaded_from_anywhere(site):
    text = (site / "index.html").read_text()
    found = Elements()
    found.feed(text)
    assert {a for a in found.addresses if not a.startswith("#")} == {"data:,"}
    assert "img" not in found.tags and "iframe" not in found.tags
    assert not re.search(r"\b(fetch|XMLHttpRequest|import)\s*\(|@import|url\(\s*['\"]?http", text)
    assert "innerHTML" not in text and "eval(" not in text


def test_a_hostile_record_stays_text(site):
    text = (site / "index.html").read_text()
    assert "<img" not in text.replace("\\u003cimg", "") and "onerror=&quot;" in text
    assert text.count("</script>") == 2
    labels = {
        line["label"] for part in data_of(site)["tasks"][0]["folds"][0]["parts"]
        for line in part["lines"]
    }  # fmt: skip
    assert web_pages.HOSTILE in labels
    assert all(re.fullmatch(r"[0-9a-f]{20}\.json", p.name) for p in (site / "records").iterdir())


def test_lines_hold_the_numbers_of_the_records(runs, site):
    records = [r for r in read_records(runs) if r.task == "toy-v1"]
    record = next(r for r in records if r.model == "blend")
    task = next(t for t in data_of(site)["tasks"] if t["task"] == record.task)
    (part,) = [p for p in task["folds"][0]["parts"] if p["part"] == "test_ood"]
    (line,) = [one for one in part["lines"] if one["model"] == "blend"]
    name = "acetic-acid"
    for value, expected in (
        (line["s2s"], record.value("test_ood", Metric.S2S, "mean-over-molecules")),
        (line["curve"]["mse"][0], record.value("test_ood", Metric.MSE, "mean-over-molecules", 10)),
        (line["molecules"][name]["s2t"], record.value("test_ood", Metric.S2T, name)),
        (line["molecules"][name]["skill"], record.value("test_ood", Metric.SKILL, name, 90.0)),
    ):
        assert value == pytest.approx(expected, rel=1e-3)
    assert line["curve"]["lags_fs"] == [10, 30, 60, 90]
    assert line["kind"] == "reference"


def test_rows_of_other_folds_stand_in_tables_of_their_own(runs, tmp_path):
    shutil.copytree(runs, tmp_path / "runs")
    for model, changes in (
        ("persistence", {"fold": 3}), ("blend", {"model": "submitted/known", "oracle": True}),
    ):  # fmt: skip
        source = next((tmp_path / "runs").glob(f"toy-v1/canonical/fold2/{model}/*/record.json"))
        record = read_record(source.parent).model_copy(update=changes)
        (tmp_path / "runs" / model).mkdir()
        (tmp_path / "runs" / model / "record.json").write_text(record.model_dump_json())
    assert main(["leaderboard", str(tmp_path / "runs"), "--html", str(tmp_path / "site")]) == 0
    task = next(t for t in data_of(tmp_path / "site")["tasks"] if t["task"] == "toy-v1")
    lines = {
        one["fold"]: {line["model"]: line for line in one["parts"][0]["lines"]}
        for one in task["folds"]
    }
    assert list(lines) == ["2", "all", "3"]
    assert set(lines["all"]) == set(lines["3"]) == {"persistence"} < set(lines["2"])
    assert lines["2"]["submitted/known"]["kind"] == "oracle"


def test_seeds_make_one_line_that_links_each_record(runs, site):
    task = next(t for t in data_of(site)["tasks"] if t["task"] == "toy-v1")
    (line,) = [one for one in task["folds"][0]["parts"][0]["lines"] if one["model"] == "atom"]
    assert line["seeds"] == 2 and line["s2s_spread"] > 0
    assert [name for name, _ in line["records"]] == ["fold 2, seed 0", "fold 2, seed 1"]
    originals = {path.read_bytes() for path in runs.rglob("record.json")}
    for _, link in line["records"]:
        assert (site / link).read_bytes() in originals


def test_published_figures_never_stand_among_measured_ones(site):
    text = (site / "index.html").read_text()
    data = re.search(r'id="data">(.*?)</script>', text, re.S).group(1)
    assert "se3_transformer" in text and "se3_transformer" not in data
    assert "not measured here" in text and "at the centroid" in text


def test_the_page_is_made_again_and_keeps_what_is_not_its_own(runs, tmp_path):
    site = tmp_path / "site"
    write_site(runs, site)
    before = files_of(site)
    (site / "CNAME").write_text("example.org")
    write_site(runs, site)
    assert {p: before[p] for p in before} == {p: files_of(site)[p] for p in before}
    some = tmp_path / "some"
    some.mkdir()
    source = next(runs.glob("toy-v1/*/*/blend/*/record.json"))
    (some / "record.json").write_bytes(source.read_bytes())
    write_site(some, site)
    assert len(list((site / "records").iterdir())) == 1
    assert (site / "CNAME").read_text() == "example.org"


@pytest.mark.parametrize("marker", [None, "{}", '{"files": 3}', "not json"])
def test_a_folder_with_other_files_is_refused_and_left_alone(marker, runs, tmp_path):
    (tmp_path / "index.html").write_text("mine")
    if marker is not None:
        (tmp_path / "atom-bench-site.json").write_text(marker)
    before = files_of(tmp_path)
    with pytest.raises(UserError, match="give --html another folder"):
        write_site(runs, tmp_path)
    assert files_of(tmp_path) == before


def test_a_marker_cannot_have_other_files_removed(runs, tmp_path):
    precious = tmp_path / "precious.json"
    precious.write_text("{}")
    site = tmp_path / "site"
    write_site(runs, site)
    names = ["../precious.json", "records/../../precious.json", str(precious), "keep.txt", 3]
    (site / "keep.txt").write_text("kept")
    (site / "atom-bench-site.json").write_text(json.dumps({"files": names}))
    write_site(runs, site)
    assert precious.exists() and (site / "keep.txt").exists()


def test_without_records_the_page_says_so(tmp_path, capsys):
    (tmp_path / "results").mkdir()
    argv = ["leaderboard", str(tmp_path / "results"), "--html", str(tmp_path / "site")]
    assert main(argv) == 0
    assert "no record yet" in capsys.readouterr().out
    assert "No record lies here yet" in (tmp_path / "site" / "index.html").read_text()
    assert main([*argv[:3], str(tmp_path / "site"), "--published"]) == 2
    assert main(["leaderboard", str(tmp_path / "none"), "--html", str(tmp_path / "x")]) == 2
    assert not (tmp_path / "x").exists()


def test_a_broken_row_is_named(runs, tmp_path):
    source = next(runs.glob("toy-v1/*/*/blend/*/record.json"))
    record = json.loads(source.read_text())
    record["rows"][5] = [*record["rows"][5][:4], "NaN?", *record["rows"][5][5:]]
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "record.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"record\.json: .*not a record of this version"):
        write_site(tmp_path / "runs", tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_examples_are_the_scored_windows(runs):
    folder = next(runs.glob("toy-v1/*/*/ballistic/*/record.json")).parent
    kept = examples.read_examples(folder)
    assert {one.part for one in kept} == {"test_time", "test_id", "test_ood"}
    with np.load(folder / ERRORS) as errors:
        for one in kept:
            row = list(errors[f"{one.part}/start_id"]).index(one.start_id)
            raw = np.concatenate(
                [errors[f"{one.part}/curve/raw"][row], errors[f"{one.part}/task/raw"][row]]
            )
            mine = ((one.predicted - one.truth[:, one.scored]) ** 2).mean(axis=(1, 2))
            np.testing.assert_allclose(np.sqrt(mine), np.sqrt(raw), atol=1e-3)  # as rounded
            assert one.lags_fs.tolist() == [10, 30, 60, 90]


def test_examples_are_chosen_by_the_error_of_persistence(runs):
    still = next(r for r in read_records(runs) if (r.task, r.model) == ("toy-v1", "persistence"))
    errors = {name: still.value("test_time", Metric.S2S, name) for name in toys.TRAIN}
    ranked = sorted(errors, key=errors.get)
    for path in runs.glob("toy-v1/*/*/*/*/record.json"):
        kept = [e for e in examples.read_examples(path.parent) if e.part == "test_time"]
        assert [e.molecule for e in kept] == ranked[1:3]
        assert [int(e.start_id.rpartition("@")[2]) for e in kept] == [95, 95]


def test_damaged_examples_are_named(runs, tmp_path):
    folder = next(runs.glob("toy-v1/*/*/ballistic/*/record.json")).parent
    whole = (folder / examples.EXAMPLES).read_bytes()
    for content in (b"", whole[:200], b"PK\x03\x04 nothing"):
        (tmp_path / examples.EXAMPLES).write_bytes(content)
        with pytest.raises(UserError, match=r"examples\.npz: not a file of examples"):
            examples.read_examples(tmp_path)


def test_csv_has_one_row_for_every_number(runs, capsys):
    assert main(["leaderboard", str(runs), "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    records = read_records(runs)
    assert len(rows) == sum(len(record.rows) for record in records)
    record = next(r for r in records if r.model == "atom" and r.seed == 1)
    (row,) = [
        r for r in rows
        if (r["task"], r["model"], r["seed"], r["part"], r["molecule"], r["metric"], r["lag_fs"])
        == ("toy-v1", "atom", "1", "test_id", "butylamine", "mse", "60.0")
    ]  # fmt: skip
    assert float(row["value"]) == record.value("test_id", Metric.MSE, "butylamine", 60.0)
    assert row["unit"] == "A^2"
    assert {r["model"] for r in rows} >= {web_pages.HOSTILE}
