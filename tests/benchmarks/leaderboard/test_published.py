"""Published figures: what stands in the file, and what is refused."""

import csv
import io
import json
import math

import pytest

from benchmarks.cli import main
from benchmarks.leaderboard.published import FILE, read_published
from tg80.errors import UserError


def test_the_tables_hold_what_their_authors_printed():
    tables = {table.id: table for table in read_published()}
    assert dict(zip(tables["md17-s2s"].columns, tables["md17-s2s"].errors["egno"], strict=True))[
        "benzene"
    ] == pytest.approx(48.85)
    assert math.isnan(tables["md17-s2t"].errors["egno"][1])
    assert tables["tg80-s2t"].errors["egno_multitask"] == (187.10, 179.14, 165.77, 201.73, 195.42)
    assert "centroid" in tables["tg80-s2t"].caveat
    assert "random" in tables["md17-s2s"].protocol
    assert all(table.source and table.protocol and table.caveat for table in tables.values())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("radial_field = [10.94, 103.72,", "radial_field = [103.72,", "7 numbers for 8 columns"),
        ("radial_field = [10.94", "radial_field = [-10.94", "errors are positive"),
        ("radial_field = [10.94", "radial_field = [inf", "errors are positive"),
        ('"aspirin", "benzene"', '"benzene", "benzene"', "a column stands twice"),
        ('id = "md17-s2t"', 'id = "md17-s2s"', "an id stands twice"),
        ('unit = "A^2 x 1e-2"', 'unit = "nm^2"', "unit"),
        ("caveat = ", "cavaet = ", "caveat: Field required"),
        ("[[table]]", "[[table", "not a TOML file"),
    ],
)
def test_a_table_that_is_not_whole_is_refused(old, new, message, tmp_path):
    path = tmp_path / "published.toml"
    path.write_text(FILE.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        read_published(path)


def test_they_are_printed_apart_in_every_format(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # No records are needed.
    for arguments in ([], ["--format", "markdown"]):
        assert main(["leaderboard", "--published", *arguments]) == 0
        text = capsys.readouterr().out
        assert "not measured here" in text and "187.10" in text and "Caveat" in text
    assert main(["leaderboard", "--published", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["published"][1]["errors"]["egno"][1] is None
    assert "not measured here" in document["notice"]
    assert main(["leaderboard", "--published", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 133 and {row["origin"] for row in rows} == {"published"}
