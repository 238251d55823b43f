"""Write into the pages of the documentation what comes from the code: python -m docs.generate

With `--check` nothing is written: the exit code is 1 if a page says something else than the code.
"""

import contextlib
import difflib
import io
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from unittest.mock import patch

import typer
from pydantic import BaseModel

from atom import ATOM, PRESETS, ATOMConfig
from atom.variants.ablations import ABLATIONS
from benchmarks.cli import app as bench
from benchmarks.leaderboard.floor import part_floors
from benchmarks.leaderboard.leaderboard import View, boards
from benchmarks.leaderboard.lines import entries
from benchmarks.models import MODELS
from benchmarks.models.egno import Egno, EGNOConfig
from benchmarks.models.flashmd.model import Flashmd
from benchmarks.models.flashmd.network import FlashmdConfig
from benchmarks.models.force_fields.learnt import LearntRolloutSettings
from benchmarks.models.force_fields.mace import Mace, MaceConfig
from benchmarks.models.force_fields.nequip import Nequip, NequipConfig
from benchmarks.models.force_fields.valence.model import Valence, ValenceConfig
from benchmarks.models.learnt import Learnt, Preset
from benchmarks.runs.records import LESSONS, Record, find_records, settings_key
from benchmarks.studies.compare import Comparison, compare_records
from benchmarks.studies.tune import TRIAL, read_trial, tables
from benchmarks.tasks.tasks import Track
from benchmarks.training.settings import TrainingSettings
from docs.experiment import tables as experiment
from pipelines.cli import app as data
from pipelines.recipe import Recipe
from tg80.console import run_app
from tg80.errors import UserError
from tg80.shards.fields import fields_table, flags_table
from tg80.shards.quality import QualityThresholds
from tg80.shards.twins import TWIN_FIELDS
from tg80.splits.certificate import check_split
from tg80.splits.split import load_split
from tg80.untrusted.tables import markdown_table

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "benchmarks" / "results"


def table(heading: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table of cells that are Markdown themselves."""
    lines = ["| " + " | ".join(heading) + " |", "|" + "---|" * len(heading)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


# Settings


def setting_rows(
    prefix: str,
    models: Sequence[BaseModel],
    names: Iterable[str] | None = None,
    show: Callable[[object], str] = json.dumps,
) -> list[list[str]]:
    """Name, value in each of the models, and meaning of their settings."""
    fields = type(models[0]).model_fields
    rows = []
    for name in fields if names is None else names:
        if not fields[name].description:
            raise ValueError(f"{type(models[0]).__name__}.{name} has no description")
        values = [f"`{show(getattr(model, name))}`" for model in models]
        rows.append([f"`{prefix}{name}`", *values, fields[name].description])
    return rows


def recipe_settings() -> str:
    """Everything that `tg80 generate --set` takes."""
    names = [name for name in Recipe.model_fields if name != "quality"]
    rows = setting_rows("", [Recipe.model_validate({})], names)
    rows += setting_rows("quality.", [QualityThresholds()])
    return table(("setting", "default", "meaning"), rows)


def training_settings() -> str:
    """Everything that `--set training.NAME` takes."""
    return table(("setting", "default", "meaning"), setting_rows("training.", [TrainingSettings()]))


def preset_settings(
    presets: dict[str, Preset], config: type[BaseModel], *others: tuple[str, BaseModel]
) -> str:
    """Settings of a model in its presets, and those of the training that a preset names."""
    rows = setting_rows("model.", [config(**preset.model) for preset in presets.values()])
    named = dict.fromkeys(name for preset in presets.values() for name in preset.training)
    trainings = [TrainingSettings(**preset.training) for preset in presets.values()]
    rows += setting_rows("training.", trainings, named)
    for prefix, settings in others:
        rows += setting_rows(prefix, [settings] * len(presets))
    return table(("setting", *presets, "meaning"), rows)


def atom_settings() -> str:
    """Everything that `ATOMConfig` takes."""
    return table(("setting", "default", "meaning"), setting_rows("", [ATOMConfig()], show=repr))


def atom_presets() -> str:
    """Presets of ATOM with their sizes."""
    heading = (
        "preset", "blocks", "width", "heads", "feed-forward", "pair layers", "output", "parameters",
    )  # fmt: skip
    rows = []
    for name in PRESETS:
        c = ATOMConfig.preset(name)
        sizes = (c.n_blocks, c.width, c.n_heads, c.feedforward_width, c.pair_layers)
        rows.append((f"`{name}`", *sizes, f"`{c.output}`", f"{ATOM(c).n_parameters:,}"))
    return table(heading, rows)


def atom_ablations() -> str:
    """The named ablations of ATOM."""
    rows = []
    for name, ablation in ABLATIONS.items():
        changes = ", ".join(f"`{field}={value}`" for field, value in ablation.overrides.items())
        rows.append((f"`{name}`", changes, ablation.description))
    return table(("word", "settings", "why the forward differs"), rows)


# Files and splits


def twin_fields() -> str:
    """Datasets of a file of twins."""
    rows = [
        (f"`{f.path.removeprefix('twins/')}`", ", ".join(map(str, f.shape)), f.dtype,
         f.disk_unit or "", f.description)
        for f in TWIN_FIELDS
    ]  # fmt: skip
    return table(("dataset", "shape", "type", "unit", "meaning"), rows)


@cache
def _certificate():
    return check_split(load_split("tg80-v1"), recompute=False)


def folds() -> str:
    """Sizes of the folds of tg80-v1, and how near their test compounds are to training ones."""
    parts = ("train", "val", "test_id", "test_ood")
    rows = []
    for fold in _certificate().folds:
        sizes = [fold.n[part] for part in parts]
        near = [f"{fold.nearest_train_tanimoto[part].mean:.2f}" for part in parts[2:]]
        rows.append((fold.fold, ", ".join(map(str, fold.ood_clusters)), *sizes, *near))
    return table(("fold", "clusters held out", *parts, "test_id ~", "test_ood ~"), rows)


def split_similarity() -> str:
    """Similarity of test compounds to training ones, against random splits."""
    certificate = _certificate()
    ood, seen = (certificate.mean_similarity(part) for part in ("test_ood", "test_id"))
    random = certificate.random_similarity
    assert random is not None
    spread = f"{random.mean:.3f}, standard deviation {random.sd:.3f} over {random.n_splits} splits"
    rows = [
        ("`test_ood` (clusters)", f"{ood:.3f}"),
        ("random molecule splits of the same sizes", spread),
        ("`test_id`", f"{seen:.3f}"),
    ]
    return table(("test part", "similarity"), rows)


# Commands


def programs() -> list[tuple[str, typer.Typer, Callable[[list[str]], int]]]:
    """Name, typer app and runner of both programs."""
    apps = {"tg80": data, "atom-bench": bench}
    return [(name, app, partial(run_app, app, prog=name)) for name, app in apps.items()]


def command_names(app: typer.Typer) -> list[str]:
    """All commands of an app in the order of its help; one of a group as `group command`."""
    names = []
    for name, command in getattr(typer.main.get_command(app), "commands", {}).items():
        inner = getattr(command, "commands", None)
        names += [name] if inner is None else [f"{name} {each}" for each in inner]
    return names


def help_text(run: Callable[[list[str]], int], arguments: list[str]) -> str:
    """What a command prints for --help, 88 columns wide."""
    width = {"COLUMNS": "88", "TERMINAL_WIDTH": "88"}
    with patch.dict(os.environ, width), contextlib.redirect_stdout(io.StringIO()) as printed:
        code = run([*arguments, "--help"])
    if code != 0:
        raise RuntimeError(f"{arguments} --help gave exit code {code}")
    return "\n".join(line.rstrip() for line in printed.getvalue().splitlines()).strip()


def commands() -> str:
    """The help of every command."""
    return "\n\n".join(
        f"## {name} {command}\n\n```text\n{help_text(run, command.split())}\n```"
        for name, app, run in programs()
        for command in command_names(app)
    )


def join_example() -> str:
    """The script of `examples/join.py`."""
    return f"```python\n{(ROOT / 'examples' / 'join.py').read_text()}```"


# Results

# Each against all other models of the record that are trained, and these predictors.
_SUBJECTS = ("atom", "atom-modes", "valence")
_TRIVIAL_RIVALS = ("persistence", "blend")


@cache
def _found(task: str) -> list[tuple[Path, Record]]:
    return [(path, r) for path, r in find_records(RECORDS / task) if r.model in MODELS]


def runs(task: str) -> str:
    """Which models have been trained on which folds of a task, and by which command."""
    order = list(MODELS)
    learnt = [record for _, record in _found(task) if MODELS[record.model].trains]
    commands = Counter((r.track, r.fold, order.index(r.model), _command(r)) for r in learnt)
    rows = [
        (fold, f"`{order[number]}`", seeds, f"`{command.format(seeds=seeds)}`")
        for (_, fold, number, command), seeds in sorted(commands.items())
    ]
    return table(("fold", "model", "seeds", "command"), rows)


def _command(record: Record) -> str:
    """The command that makes a run, its number of seeds left open."""
    options = [("task", record.task), ("fold", record.fold), ("model", record.model)]
    if record.track != Track.CANONICAL:
        options.append(("track", record.track))
    lessons = record.settings.get(LESSONS, {})
    if "extra_sha256" in lessons:
        options.append(("extra-data", "DIR"))
    if "molecules" in lessons:
        options.append(("molecules", lessons["molecules"]))
    if before := record.settings.get("pretrained_on"):
        place = f"{before}/{record.track}/fold{record.fold}/{record.model}"
        options.append(("from", f"benchmarks/results/{place}"))
    options += [("set", one) for one in _changes(record)]
    options += [("seeds", "{seeds}"), ("budget-cpu-minutes", f"{record.budget['cpu_minutes']:g}")]
    options.append(("out", "benchmarks/results"))
    return "atom-bench run " + " ".join(f"--{name} {value}" for name, value in options)


def _changes(record: Record) -> list[str]:
    """Settings of a run that differ from those of its model's first preset."""
    kind = MODELS[record.model]
    assert issubclass(kind, Learnt)
    preset = kind.presets["mini"]
    config = kind.config_class  # pyright: ignore[reportGeneralTypeIssues]
    usual = {
        "model": config(**{**preset.model, **kind.fixed}),
        "training": TrainingSettings(**preset.training),
    }
    return [
        f"{group}.{name}={json.dumps(value)}"
        for group, settings in usual.items()
        for name, default in settings.model_dump(mode="json").items()
        if (value := record.settings[group].get(name, default)) != default and name != "processes"
    ]


def results(task: str) -> str:
    """Tables of every fold of a task, and what can be told apart."""
    sections = []
    for fold in sorted({record.fold for _, record in _found(task)}):
        found = [record for _, record in _found(task) if record.fold == fold]
        command = f"atom-bench leaderboard benchmarks/results/{task} --fold {fold}"
        sections += [f"## Fold {fold}", *_boards(command, found)]
    return "\n\n".join([*sections, *_told_apart(task)])


def all_folds(task: str) -> str:
    """Tables over the folds that each model has been run on, and what can be told apart."""
    command = f"atom-bench leaderboard benchmarks/results/{task}"
    tables = _boards(command, [record for _, record in _found(task)])
    return "\n\n".join(["## All folds", *tables, *_told_apart(task)])


def _boards(command: str, records: list[Record]) -> list[str]:
    scored, floors = entries(records), part_floors(records)
    sections = []
    for view in (View.SUMMARY, View.SKILL, View.QUALITY, View.COSTS):
        sections.append(f"`{command} --{view} --format markdown`")
        sections += [each.markdown().strip() for each in boards(scored, view, floors)]
    return sections


def _told_apart(task: str) -> list[str]:
    rows = []
    for track in sorted({record.track for _, record in _found(task)}):
        found = [(path, record) for path, record in _found(task) if record.track == track]
        where = "" if track == Track.CANONICAL else f" ({track})"
        for one, other in _pairs([record for _, record in found]):
            rows += _verdicts(found, one, other, where)
    title = (
        f"`atom-bench compare benchmarks/results/{task} A B`: difference of the errors of these "
        "trainings, A's less B's, x 1e-2 A^2, 95 % interval over molecules and blocks of time, all "
        "folds that both have; and in which of them the same interval has one sign. Of "
        f"{len(rows)} intervals one in twenty leaves out the truth."
    )
    heading = ("A", "B", "part", "score", "folds", "A - B", "verdict", "A better in", "B better in")
    told = [title, markdown_table(heading, rows)] if rows else []
    return ["## What can be told apart", *told] if rows else []


def _pairs(records: Sequence[Record]) -> Iterable[tuple[str, str]]:
    """Lines to compare, by the names that `atom-bench compare` takes."""
    lines = list(dict.fromkeys((r.model, settings_key(r)) for r in records))
    several = Counter(model for model, _ in lines)
    names = [(m, f"{m}[{key}]" if several[m] > 1 else m) for m, key in lines]
    rivals = [name for m, name in names if MODELS[m].trains or m in _TRIVIAL_RIVALS]
    subjects = [name for wanted in _SUBJECTS for m, name in names if m == wanted]
    return [
        (one, other)
        for i, one in enumerate(subjects)
        for other in rivals
        if other not in subjects[: i + 1]
    ]


def _verdicts(
    found: Sequence[tuple[Path, Record]], one: str, other: str, where: str
) -> list[tuple[object, ...]]:
    """A row for each test part and score, of all folds that both have, and each alone."""
    try:
        pooled = compare_records(found, one, other)
    except UserError:  # They have no fold in common.
        return []
    better: dict[tuple[str, str, bool], list[int]] = {}
    for fold in pooled[0].folds if len(pooled[0].folds) > 1 else ():
        here = [(path, record) for path, record in found if record.fold == fold]
        for c in compare_records(here, one, other):
            for wins, is_so in ((True, c.high < 0), (False, c.low > 0)):
                better.setdefault((c.part, c.score, wins), []).extend([fold] * is_so)

    def folds(c: Comparison, wins: bool) -> str:
        return ",".join(map(str, better.get((c.part, c.score, wins), ()))) or "-"

    return [
        (
            one, other, c.part + where, c.score.upper(), ",".join(map(str, c.folds)), c.interval,
            c.verdict, folds(c, True), folds(c, False),
        )
        for c in pooled
        if c.part.startswith("test")
    ]  # fmt: skip


def tuning(task: str) -> str:
    """The trials by which settings were chosen."""
    paths = sorted((RECORDS / task).rglob(TRIAL))
    trials = [t for path in paths if (t := read_trial(path.parent))]
    grouped = groupby(trials, lambda trial: trial.model)
    return "\n\n".join(tables(list(own))[0].markdown().strip() for _, own in grouped)


def results_page(task: str, tables: Callable[[str], str] = results) -> dict[str, Callable[[], str]]:
    """Blocks of the page of a task's results."""
    makers = {"runs": runs, "results": tables, "tuning": tuning}
    return {name: partial(make, task) for name, make in makers.items()}


# Pages

# What stands between `<!-- NAME: begin -->` and `<!-- NAME: end -->` of each page.
BLOCKS: dict[str, dict[str, Callable[[], str]]] = {
    "dataset/data-format.md": {"fields": fields_table, "flags": flags_table},
    "dataset/splits.md": {"folds": folds, "similarity": split_similarity},
    "pipeline/physics.md": {
        "wavenumbers": experiment.wavenumbers,
        "scaling": experiment.scaling,
        "peaks": experiment.peaks,
        "structures": experiment.structures,
        "bonds": experiment.bond_kinds,
        "sources": experiment.sources,
        "settings": recipe_settings,
    },
    "pipeline/twins.md": {"fields": twin_fields},
    "model/atom.md": {
        "settings": atom_settings,
        "presets": atom_presets,
        "ablations": atom_ablations,
    },
    "benchmark/training.md": {"settings": training_settings},
    "benchmark/baselines.md": {
        "egno": partial(preset_settings, Egno.presets, EGNOConfig),
        "mace": partial(
            preset_settings, Mace.presets, MaceConfig, ("rollout.", LearntRolloutSettings())
        ),
        "flashmd": partial(preset_settings, Flashmd.presets, FlashmdConfig),
        "nequip": partial(preset_settings, Nequip.presets, NequipConfig),
    },
    "benchmark/valence.md": {
        "settings": partial(
            preset_settings, Valence.presets, ValenceConfig, ("rollout.", LearntRolloutSettings())
        )
    },
    "benchmark/joining.md": {"example": join_example},
    "benchmark/results.md": results_page("mini-xtb-v1"),
    "benchmark/results-tg80-xtb.md": results_page("tg80-xtb-v1", all_folds),
    "reference/commands.md": {"commands": commands},
}


def filled(page: Path, blocks: dict[str, Callable[[], str]]) -> str:
    """A page with its blocks made anew."""
    text = page.read_text()
    for name, make in blocks.items():
        marks = [f"<!-- {name}: {end} -->" for end in ("begin", "end")]
        pattern = "(?<={})\n.*?(?={})".format(*map(re.escape, marks))
        block = f"\n\n{make()}\n\n"
        text, n = re.subn(pattern, lambda _, block=block: block, text, flags=re.DOTALL)
        if n != 1:
            raise ValueError(f"{page}: {n} blocks between {' and '.join(marks)}, not one")
    return text


def main(arguments: Sequence[str]) -> int:
    """Write the pages, or compare them; the exit code."""
    stale = False
    for name, blocks in BLOCKS.items():
        page = ROOT / "docs" / name
        before, after = page.read_text(), filled(page, blocks)
        if before == after:
            continue
        if "--check" in arguments:
            stale = True
            print(f"docs/{name} is not what the code says; run: python -m docs.generate")
            lines = before.splitlines(), after.splitlines()
            print(*list(difflib.unified_diff(*lines, lineterm="", n=0))[2:12], sep="\n")
        else:
            page.write_text(after)
            print(f"docs/{name} written")
    return int(stale)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
