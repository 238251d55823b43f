"""One runner for all models: fit, score, record; finished runs are reused, killed ones resumed."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.progress import Progress

from benchmarks.interface import Budget, CannotPredict, FitReport, Model
from benchmarks.models import TRIVIAL, make_model, model_class
from benchmarks.models.cards import read_card
from benchmarks.runs import records
from benchmarks.runs.evaluation import References, fit_references, references_used, rows_of, score
from benchmarks.runs.examples import examples_of, write_examples
from benchmarks.runs.records import PredictionCost, Record
from benchmarks.tasks.data import BenchmarkData
from benchmarks.tasks.lessons import lessons_of
from benchmarks.training import distributed
from tg80.files import make_folder

MODEL_FOLDER = "model"


@dataclasses.dataclass(frozen=True)
class Stated:
    """What is stated of a model that ran elsewhere and has no card; fields as in `Record`."""

    inputs: tuple[str, ...]
    labels: tuple[str, ...]
    prediction: PredictionCost | None
    equal_to_truth: int


def run_model(
    model_id: str,
    data: BenchmarkData,
    *,
    seeds: Sequence[int],
    budget: Budget,
    settings: Mapping[str, Any],
    out: Path,
    prepare: Callable[[Model], None] | None = None,
    progress: Progress | None = None,
) -> list[Record]:
    """Run a model for every seed, and the trivial predictors beside a learnt one.

    Args:
        model_id: of the model.
        data: the fold.
        seeds: of the trainings.
        budget: of each.
        settings: of the model.
        out: folder of results.
        prepare: done to each new model that is not trivial.
        progress: shows how far the training is.

    Returns:
        The records: the model's by seed, then those of the trivial predictors that the data allow.
    """
    references = fit_references(data) if distributed.is_main() else References({})
    chosen = model_class(model_id)
    runs: list[tuple[str, int | None, Mapping[str, Any]]] = [
        (model_id, seed if chosen.trains else None, settings)
        for seed in (seeds if chosen.trains else seeds[:1])
    ]
    if chosen.trains:
        runs += [(name, None, {}) for name in TRIVIAL]
    records = []
    for name, seed, given in runs:
        model = make_model(name, **given)
        if prepare is not None and name == model_id:
            prepare(model)
        try:
            record = run_once(
                model, data, seed=seed, budget=budget, out=out,
                references=references, progress=progress,
            )  # fmt: skip
        except CannotPredict:
            if name == model_id:
                raise
            continue
        records.append(record)
    return records


def run_folder_of(
    model: Model, data: BenchmarkData, *, seed: int | None, budget: Budget, out: Path
) -> tuple[str, Path]:
    """Key and folder of a run: a record lies there once it is finished."""
    key = records.run_key(
        task=data.task.identity(), fold=data.fold, model=model.id, seed=seed,
        settings=_settings(model, data), budget=_asked(model, budget), split=data.split_sha256,
        manifest=data.manifest_sha256,
    )  # fmt: skip
    task = data.task
    return key, records.run_folder(out, task.id, task.track, data.fold, model.id, seed, key)


def _settings(model: Model, data: BenchmarkData) -> dict[str, Any]:
    """What a record says of a model and of what it learnt from, if not the task's own data."""
    lessons = {records.LESSONS: dict(data.about)} if model.trains and data.about else {}
    return model.settings() | lessons


def _asked(model: Model, budget: Budget) -> dict[str, int | float | None]:
    return dataclasses.asdict(budget) if model.trains else {}


def run_once(
    model: Model,
    data: BenchmarkData,
    *,
    seed: int | None,
    budget: Budget,
    out: Path,
    references: References,
    progress: Progress | None = None,
    stated: Stated | None = None,
) -> Record:
    """One model and seed: the finished record if there is one, else fit and score.

    Of several processes all train, and rank 0 alone scores and writes. A model without a card
    brings what is `stated` of it.
    """
    settings, asked = _settings(model, data), _asked(model, budget)
    key, folder = run_folder_of(model, data, seed=seed, budget=budget, out=out)
    with distributed.together():
        record = records.read_record(folder) if distributed.is_main() else None
    if (record := distributed.from_main(record)) is not None:
        if progress and model.trains:
            made = f"reused, made by commit {record.git_commit}: {folder}"
            progress.console.print(made, soft_wrap=True, highlight=False, markup=False)
        return record
    report, refusal, commits = FitReport(), None, None
    if model.trains:
        make_folder(folder)
    if distributed.is_main():
        commits = records.commits_of(folder) if model.trains else records.git_commit()
    lessons = lessons_of(data) if model.trains else data.training
    if model.trains or distributed.is_main():
        started = time.process_time()
        try:
            report = model.fit(
                lessons, budget=budget, seed=seed or 0, out=folder, progress=progress
            )
            if not (model.trains or stated):
                spent = time.process_time() - started  # Less than 5 ms is nothing.
                report = dataclasses.replace(report, cpu_seconds=round(spent, 2))
        except CannotPredict as error:
            refusal = error
    # The other processes wait for rank 0, whatever became of it.
    if (refusal := distributed.from_main(refusal)) is not None:
        raise refusal
    if distributed.is_main():
        model.save(folder / MODEL_FOLDER)
        scores = score(model, data, references)
        card = stated or read_card(model.id)
        record = Record(
            key=key,
            task=data.task.id,
            track=data.task.track,
            model=model.id,
            seed=seed,
            fold=data.fold,
            oracle=model.oracle,
            task_spec=data.task.identity(),
            settings=settings,
            budget=asked,
            inputs=card.inputs,
            labels=card.labels,
            fit=report,
            prediction=stated.prediction if stated else records.prediction_cost(scores),
            equal_to_truth=stated.equal_to_truth if stated else None,
            split_sha256=data.split_sha256,
            manifest_sha256=data.manifest_sha256,
            versions=records.versions(),
            git_commit=commits,
            hardware=records.hardware(settings.get("device", "cpu")),
            references=[one for part in scores for one in references_used(part)],
            rows=[row for part in scores for row in rows_of(part)],
        )
        write_examples(folder, examples_of(model, data))
        records.write_record(folder, record, scores)
    record = distributed.from_main(record)
    assert record is not None
    return record
