"""Choosing settings of a model: `atom-bench tune` trains, and looks at no test part."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from rich.progress import Progress

from benchmarks.interface import Budget, FitReport, Model
from benchmarks.models import make_model, model_class
from benchmarks.models.settings import parse_overrides
from benchmarks.runs import records
from benchmarks.runs.runner import run_folder_of
from benchmarks.tasks.data import BenchmarkData
from benchmarks.tasks.lessons import lessons_of
from tg80.console import Table
from tg80.errors import UserError
from tg80.files import make_folder, read_bytes, write_atomically
from tg80.untrusted.documents import parse_model

TRIAL = "trial.json"
BASE = "base"
TUNING_FOLD = 1
MOST_TRIALS = 8  # A model, at the matched budget, for figures of models to be comparable.


class Trial(BaseModel):
    """One training, and its error in validation.

    Attributes:
        key: that of a run of these settings. change: what was asked for, and `fit` the report of
            fitting, with `best_validation`. The others are as in `Record`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    task: str
    track: str
    fold: int
    model: str
    seed: int
    change: str
    settings: dict[str, Any]
    budget: dict[str, int | float | None]
    fit: FitReport
    split_sha256: str
    manifest_sha256: str
    versions: dict[str, str]
    git_commit: str | None
    hardware: records.Hardware

    @property
    def error(self) -> float:
        """In validation; infinite if nothing was ever validated."""
        best = self.fit.best_validation
        return float("inf") if best is None else best


def candidates(model: str, given: Mapping[str, Any], changes: Sequence[str]) -> dict[str, Model]:
    """The model as it stands, and with each change, by what was asked for.

    Args:
        model: id of the model.
        given: settings of all candidates.
        changes: settings such as `training.learning_rate=0.003 model.width=96`; each is a
            candidate.

    Raises:
        UserError: a setting is unknown or out of range, or the model is not trained.
    """
    if not model_class(model).trains:
        raise UserError(f"model {model} is not trained, so there is nothing to tune")
    found = {BASE: make_model(model, **given)}
    for change in dict.fromkeys(changes):
        asked = parse_overrides(change.split(), option="--change")
        if not asked:
            raise UserError("--change wants NAME=VALUE such as training.learning_rate=0.003")
        found[change] = make_model(model, **_merged(given, asked))
    return found


def _merged(given: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(given)
    for name, value in asked.items():
        before = merged.get(name)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            value = {**before, **value}
        merged[name] = value
    return merged


def run_trials(
    chosen: Mapping[str, Model],
    data: BenchmarkData,
    *,
    seed: int,
    budget: Budget,
    out: Path,
    most: int = MOST_TRIALS,
    progress: Progress,
    tell: Callable[[str], None],
) -> list[Trial]:
    """Train every candidate; what is finished is reused, what was killed goes on.

    Args:
        chosen: the candidates, by name.
        data: fold and task.
        seed: of all trials.
        budget: of each trial.
        out: folder of the trials.
        most: largest number of trials of one model, with those already in `out`.
        progress: shows how far the training is.
        tell: called with one line for each finished trial.

    Raises:
        UserError: there would be too many trials, or there are no validation parts.
    """
    if not data.training.validation:
        raise UserError(f"task {data.task.id} has no part that settings could be chosen by")
    places = {
        name: run_folder_of(model, data, seed=seed, budget=budget, out=out)
        for name, model in chosen.items()
    }
    _check_number(places.values(), most)
    bar = progress.add_task("trials", total=len(chosen))
    trials = []
    for name, model in chosen.items():
        progress.update(bar, description=f"{name} ({len(trials) + 1} of {len(chosen)})")
        key, folder = places[name]
        trial = read_trial(folder)
        if trial is None:
            make_folder(folder)
            commits = records.commits_of(folder)
            report = model.fit(
                lessons_of(data), budget=budget, seed=seed, out=folder, progress=progress
            )
            trial = Trial(
                key=key, task=data.task.id, track=data.task.track, fold=data.fold, model=model.id,
                seed=seed, change=name, settings=model.settings(),
                budget=dataclasses.asdict(budget), fit=report,
                split_sha256=data.split_sha256, manifest_sha256=data.manifest_sha256,
                versions=records.versions(), git_commit=commits,
                hardware=records.hardware(model.settings().get("device", "cpu")),
            )  # fmt: skip
            write_atomically(folder / TRIAL, trial.model_dump_json().encode())
        # One that was finished before may have had another name, such as that of the base.
        trials.append(trial.model_copy(update={"change": name}))
        progress.advance(bar)
        tell(f"[{len(trials)}/{len(chosen)}] {name}: validation {trial.error:.4g}")
    return trials


def _check_number(places: Iterable[tuple[str, Path]], most: int) -> None:
    """Raise UserError if these and those beside them are more than allowed."""
    folders = {folder for _, folder in places}
    beside = {path.parent for folder in folders for path in folder.parent.glob(f"*/{TRIAL}")}
    if len(beside | folders) > most:
        raise UserError(
            f"that makes {len(beside | folders)} trials in {next(iter(folders)).parent}, but a "
            f"model has {most}; ask for fewer, or say --most N and report it"
        )


def read_trial(folder: Path) -> Trial | None:
    """The trial of a folder, None if it is not finished.

    Raises:
        UserError: there is one that cannot be read.
    """
    path = folder / TRIAL
    if not path.exists():
        return None
    try:
        return parse_model(Trial, read_bytes(path), str(path))
    except UserError as error:
        raise UserError(f"{error}; not a trial of this version, remove its folder") from None


def tables(trials: Sequence[Trial]) -> list[Table]:
    """The trials, best first."""
    first = trials[0]
    budget = first.budget["cpu_minutes"]
    told = f"{budget:g} CPU minutes" if budget else f"{first.budget['epochs']} epochs"
    title = (
        f"{first.task}, {first.track}, fold {first.fold}: {first.model}, seed {first.seed}, "
        f"{told}; error in validation, best weights"
    )
    columns = {
        "settings": "{0.change}",
        "validation": "{0.error:.4f}",
        "parameters": "{0.fit.n_parameters:,}",
        "steps": "{0.fit.n_steps}",
        "best at step": "{1}",
        "CPU s": "{0.fit.cpu_seconds:.0f}",
        "code": "{2}",
    }
    best_first = sorted(trials, key=lambda trial: trial.error)
    rows = [(trial, _best_step(trial), _short(trial.git_commit)) for trial in best_first]
    return [Table.of(title, columns, rows)]


def _short(commits: str | None) -> str:
    return ", ".join(commit[:7] for commit in (commits or "unknown").split(", "))


def _best_step(trial: Trial) -> str:
    known = [entry for entry in trial.fit.history if "validation_error" in entry]
    if not known:
        return "-"
    return str(int(min(known, key=lambda entry: entry["validation_error"])["step"]))
