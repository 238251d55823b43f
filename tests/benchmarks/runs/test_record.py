"""The records of this repository can be read and made again."""

import json
import re
from pathlib import Path

import pytest

from benchmarks.models import TRIVIAL
from benchmarks.runs.records import find_records

# CPU minutes, and the number of seeds where the record is complete.
BUDGETS = {"mini-xtb-v1": (5.0, 3), "tg80-xtb-v1": (20.0, None)}
RECORDS = Path(__file__).parents[3] / "benchmarks" / "results"


@pytest.fixture(scope="module")
def records():
    return find_records(RECORDS)


def test_every_model_of_the_record_has_the_matched_budget_and_the_first_seeds(records):
    """All three on the mini set; the record on TG80 grows seed by seed."""
    lines = {(r.task, r.fold, r.model) for _, r in records if r.model not in TRIVIAL}
    assert {task for task, _, _ in lines} == set(BUDGETS)
    for line in lines:
        minutes, n_seeds = BUDGETS[line[0]]
        runs = [r for _, r in records if (r.task, r.fold, r.model) == line]
        assert sorted(r.seed for r in runs) == list(range(n_seeds or len(runs))), line
        assert {r.budget["cpu_minutes"] for r in runs} == {minutes}
        assert all(r.fit.cpu_seconds < 1.1 * 60 * minutes for r in runs)
        assert len({str(r.settings) for r in runs}) == 1


def test_runs_can_be_made_again_and_name_no_place_of_a_machine(records):
    for path, record in records:
        assert record.git_commit and re.fullmatch("[0-9a-f]{40}", record.git_commit), path
        text = (path / "record.json").read_text()
        assert not re.search(r'"/(home|root|tmp|Users|work|mnt|data)/', text), path
        assert (path / "errors.npz").is_file() and (path / "examples.npz").is_file()
    kept = {"record.json", "errors.npz", "examples.npz", "trial.json", "README.md"}
    assert {path.name for path in RECORDS.rglob("*") if path.is_file()} <= kept
    assert len({record.split_sha256 for _, record in records if record.fold == 1}) == 1


def test_a_record_is_written_as_it_was_read(records):
    """An integer that became a float would give a run another key."""
    for path, record in records:
        stored = json.loads((path / "record.json").read_text())
        written = json.loads(record.model_dump_json())
        assert json.dumps({name: written[name] for name in stored}) == json.dumps(stored)
