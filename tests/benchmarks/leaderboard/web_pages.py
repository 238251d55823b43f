"""Small results folders for the tests of the page."""

import json
from pathlib import Path

from benchmarks.leaderboard.web.site import write_site
from benchmarks.models import Budget, make_model
from benchmarks.runs.evaluation import fit_references
from benchmarks.runs.runner import run_once
from tests.support import toys

HOSTILE = '</script><img src=x onerror="window.hurt=1">\'&lt;'
TRIVIAL = ("persistence", "ballistic", "blend", "centroid", "mean-structure")


def make_runs(out: Path) -> Path:
    """Two tasks: trivial predictors in both, ATOM with two seeds in one; toys, in seconds."""
    first = toys.TASK
    second = first.model_copy(update={"id": "toy-short-v1", "lags_fs": (10.0, 20.0)})
    for task in (first, second):
        data = toys.toy_data(task=task)
        references = fit_references(data)
        runs = [(name, {}, None) for name in TRIVIAL]
        if task is first:
            runs += [("atom", toys.TINY_ATOM, seed) for seed in (0, 1)]
        for name, settings, seed in runs:
            run_once(
                make_model(name, **settings), data, seed=seed, budget=Budget(epochs=1), out=out,
                references=references,
            )  # fmt: skip
    return out


def add_hostile_record(out: Path) -> None:
    """A record of an outsider whose names are meant to leave their place in the page."""
    path = next(out.glob("toy-v1/*/*/persistence/*/record.json"))
    record = json.loads(path.read_text())
    record |= {"model": HOSTILE, "key": "../../escape", "git_commit": HOSTILE}
    record["task_spec"]["description"] = HOSTILE
    for row in record["rows"]:
        if row[1] == "chlorobenzene":
            row[1] = HOSTILE
    folder = out / "hostile"
    folder.mkdir()
    (folder / "record.json").write_text(json.dumps(record))


def make_site(runs: Path, site: Path) -> Path:
    """The page of these runs."""
    return write_site(runs, site).path
