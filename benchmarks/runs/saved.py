"""Finished runs of a results folder, and the models they saved."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.interface import Model
from benchmarks.models import MODELS, ROLLED_OUT, TRIVIAL, make_model, model_class
from benchmarks.models.learnt import BEGUN
from benchmarks.runs import records
from benchmarks.runs.records import Record
from benchmarks.runs.runner import MODEL_FOLDER
from benchmarks.tasks.data import BenchmarkData
from benchmarks.training.checkpoint import flat
from tg80.errors import UserError


@dataclass(frozen=True)
class SavedRun:
    """One finished run of a model that trains.

    Attributes:
        label: model id, and what sets these settings apart from the others found.
    """

    record: Record
    folder: Path
    label: str

    def load(self) -> Model:
        """The model as it was saved.

        Raises:
            UserError: its files are missing or damaged.
        """
        folder = self.folder / MODEL_FOLDER
        try:
            return model_class(self.record.model).load(folder)
        except (OSError, ValueError) as error:
            raise UserError(f"{folder}: the model can't be read ({error})") from error


def saved_runs(
    folder: Path,
    data: BenchmarkData,
    *,
    models: Collection[str] = (),
    seeds: Collection[int] = (),
) -> list[SavedRun]:
    """The finished runs of trained models on this fold of this task, by model, settings and seed.

    Args:
        folder: results of `atom-bench run`.
        data: fold and task.
        models: only these ids; all if empty.
        seeds: only these seeds; all if empty.

    Raises:
        UserError: no such folder; no such run in it; or runs on other data or another split, which
            may have trained on what is tested here.
    """
    paths = sorted(path.parent for path in folder.rglob(records.RECORD))
    if not paths:
        records.read_records(folder)  # Says what is wrong with the folder.
    found = [(record, path) for path in paths if (record := records.read_record(path))]
    fitting = [
        (record, path)
        for record, path in found
        if (record.task, record.track, record.fold) == (data.task.id, data.task.track, data.fold)
        and model_class(record.model).trains
        and (not models or record.model in models)
        and (not seeds or record.seed in seeds)
    ]
    if not fitting:
        wanted = f"of {' or '.join(models) or 'a model that trains'}"
        raise UserError(
            f"{folder}: no finished run {wanted} on fold {data.fold} of {data.task.id} "
            f"({data.task.track}){' with these seeds' if seeds else ''}; `atom-bench run` makes one"
        )
    for record, path in fitting:
        # Read anew, so that a field that a task has gained since does not tell them apart.
        theirs = (record.manifest_sha256, record.split_sha256, record.spec)
        if theirs != (data.manifest_sha256, data.split_sha256, data.task):
            raise UserError(f"{path}: ran on other data or another split; give its --data, --split")
    labels = _labels([record for record, _ in fitting])
    runs = [
        SavedRun(record, path, label) for (record, path), label in zip(fitting, labels, strict=True)
    ]
    return sorted(runs, key=lambda run: (run.record.model, run.label, run.record.seed or 0))


def _labels(records: Sequence[Record]) -> list[str]:
    """Model id and, where one has several settings, those that differ."""
    told = [flat({**r.settings, "budget": r.budget}) for r in records]
    labels = []
    for record, mine in zip(records, told, strict=True):
        others = [f for r, f in zip(records, told, strict=True) if r.model == record.model]
        names = dict.fromkeys(name for other in others for name in other)
        differing = [
            f"{name}={mine.get(name)}"
            for name in names
            if any(other.get(name) != mine.get(name) for other in others)
        ]
        labels.append(" ".join([record.model, *differing]))
    return labels


@dataclass(frozen=True)
class Case:
    """A model in one state: untrained, trained, or fitted (models without training)."""

    model: str
    label: str
    state: str
    seed: int | None
    settings: Mapping[str, Any]
    run: SavedRun | None = None

    def load(self, data: BenchmarkData) -> Model:
        """The model, ready to predict."""
        if self.run is not None:
            return self.run.load()
        model = make_model(self.model, **self.settings)
        model.initialise(data.training, seed=self.seed or 0)
        return model


def cases(
    data: BenchmarkData,
    folder: Path | None = None,
    *,
    models: Collection[str] = (),
    seeds: Collection[int] | None = None,
) -> list[Case]:
    """Models with initial weights, the trained ones of a results folder after them, and the rest.

    Args:
        data: fold and task.
        folder: results of `atom-bench run`; None for initial weights alone.
        models: only these ids; if empty, all that are registered or that the folder holds.
        seeds: only these; None for all in the folder, or 0.
    """
    wanted = models or [name for name in MODELS if name not in ROLLED_OUT]
    learnt = [name for name in MODELS if MODELS[name].trains and name in wanted]
    runs: list[SavedRun] = []
    if folder is not None and learnt:
        runs = saved_runs(folder, data, models=models and learnt, seeds=seeds or ())
    runs = [run for run in runs if run.record.model in learnt]
    found = [Case(run.record.model, run.label, "trained", run.record.seed, {}, run) for run in runs]
    initial: dict[str, Case] = {}
    for run in runs:
        # The same weights on the CPU, wherever they were trained.
        apart = {records.LESSONS, *BEGUN}
        settings = {k: v for k, v in run.record.settings.items() if k not in apart}
        settings |= {"device": "cpu"}
        key = records.run_key(model=run.record.model, seed=run.record.seed, settings=settings)
        case = Case(run.record.model, run.label, "untrained", run.record.seed, settings)
        initial.setdefault(key, case)
    if folder is None:
        for name in learnt:
            initial |= {f"{name}{s}": Case(name, name, "untrained", s, {}) for s in seeds or (0,)}
    fitted = [
        Case(name, name, "fitted", None, {})
        for name in MODELS
        if (name in models if models else name in TRIVIAL) and not MODELS[name].trains
    ]
    return [*initial.values(), *found, *fitted]
