"""Writes docs/benchmark/results.md from the records: python -m tests.results_page"""

from itertools import groupby
from pathlib import Path

from benchmarks.leaderboard.floor import part_floors
from benchmarks.leaderboard.leaderboard import View, boards
from benchmarks.leaderboard.lines import entries
from benchmarks.models import MODELS
from benchmarks.runs.records import Record, read_records
from benchmarks.studies.compare import compare
from benchmarks.studies.tune import TRIAL, read_trial, sheet
from tg80.untrusted.tables import markdown_table

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "benchmark" / "results.md"
RECORDS = ROOT / "benchmarks" / "results"
_INTRODUCTION = """# Results

What stands in `benchmarks/results`, printed by the commands above each table. Made by
`python -m tests.results_page`; a test holds it to the records. [Task and scores](tasks.md) says
what the scores mean; the models stand in [ATOM](../model/atom.md) and
[Learned baselines](baselines.md).
"""
_RUN = "atom-bench run --fold {fold} --model {model} --seeds 3 --out benchmarks/results"


def records_of(folds: tuple[int, ...] | None = None) -> list[Record]:
    """Records of the models of the registry, of some folds or all."""
    return [r for r in read_records(RECORDS) if r.model in MODELS and folds in (None, (r.fold,))]


def summary(fold: int) -> str:
    """The table of `atom-bench leaderboard --fold FOLD --summary --format markdown`."""
    records = records_of((fold,))
    return _markdown(records, View.SUMMARY)


def _markdown(records: list[Record], view: View) -> str:
    floors = part_floors(records)
    return "\n".join(table.markdown() for table in boards(entries(records), view, floors))


def page() -> str:
    """The whole page."""
    records = records_of()
    sections = [_INTRODUCTION, _how_far(records)]
    for fold in sorted({record.fold for record in records}):
        mine = records_of((fold,))
        sections.append(f"## Fold {fold}\n")
        for view in (View.SUMMARY, View.SKILL, View.QUALITY, View.COSTS):
            command = f"atom-bench leaderboard benchmarks/results --fold {fold} --{view}"
            sections.append(f"`{command} --format markdown`\n\n{_markdown(mine, view)}")
        sections.append(_beaten(fold))
    sections.append(_tuning())
    return "\n".join(sections)


def _how_far(records: list[Record]) -> str:
    """Which models have been trained on which folds, and by which command."""
    order = list(MODELS)
    learnt = sorted(
        (r for r in records if MODELS[r.model].trains), key=lambda r: (r.fold, order.index(r.model))
    )
    rows = ["| fold | model | seeds | CPU minutes | command |", "|---|---|--:|--:|---|"]
    for (fold, model), group in groupby(learnt, key=lambda r: (r.fold, r.model)):
        runs = list(group)
        minutes = ", ".join(f"{m:g}" for m in sorted({r.budget["cpu_minutes"] for r in runs}))
        command = _RUN.format(fold=fold, model=model)
        rows.append(f"| {fold} | `{model}` | {len(runs)} | {minutes} | `{command}` |")
    return "\n".join(rows) + "\n"


def _beaten(fold: int) -> str:
    """What can be said of ATOM and each of the others on a fold."""
    others = ("egno", "egnn", "egnn-rollout", "mace", "persistence", "blend")
    run = {record.model for record in records_of((fold,))}
    rows = []
    for other in others:
        if not {"atom", other} <= run:
            continue
        for c in compare(RECORDS, "atom", other, fold=fold):
            if c.part.startswith("test"):
                rows.append((other, c.part, c.score.upper(), c.interval, c.verdict))
    if not rows:
        return ""
    title = (
        f"`atom-bench compare benchmarks/results atom B --fold {fold}`: difference of the errors, "
        "ATOM's less B's, x 1e-2 A^2, 95 % interval over molecules and blocks of time"
    )
    heading = ("B", "part", "score", "ATOM - B", "verdict")
    return f"{title}\n\n{markdown_table(heading, rows)}\n"


def _tuning() -> str:
    trials = [t for path in sorted(RECORDS.rglob(TRIAL)) if (t := read_trial(path.parent))]
    tables = [sheet(list(own)).markdown() for _, own in groupby(trials, lambda t: t.model)]
    return "\n".join(["## Tuning\n", *tables])


if __name__ == "__main__":
    PAGE.write_text(page())
