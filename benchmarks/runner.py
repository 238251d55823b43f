"""One runner for all models: fit, score, record; finished runs are reused, killed ones gone on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.progress import Progress

from benchmarks import distributed, results
from benchmarks.data import BenchmarkData
from benchmarks.evaluation import References, fit_references, score
from benchmarks.models import TRIVIAL, make_model, model_class
from benchmarks.protocol import Budget, FitReport, Model
from benchmarks.results import Record

MODEL_FOLDER = "model"


def run_model(
    model_id: str,
    data: BenchmarkData,
    *,
    seeds: Sequence[int],
    budget: Budget,
    settings: Mapping[str, Any],
    out: Path,
    progress: Progress | None = None,
) -> list[Record]:
    """Run a model for every seed, and the trivial predictors beside a learnt one.

    Returns:
        The records: the model's by seed, then the trivial predictors'.
    """
    references = fit_references(data) if distributed.is_main() else References({})
    chosen = model_class(model_id)
    runs: list[tuple[str, int | None, Mapping[str, Any]]] = [
        (model_id, seed if chosen.trains else None, settings)
        for seed in (seeds if chosen.trains else seeds[:1])
    ]
    if chosen.trains:
        runs += [(name, None, {}) for name in TRIVIAL]
    return [
        run_once(
            make_model(name, **given), data, seed=seed, budget=budget, out=out,
            references=references, progress=progress,
        )
        for name, seed, given in runs
    ]  # fmt: skip


def run_folder_of(
    model: Model, data: BenchmarkData, *, seed: int | None, budget: Budget, out: Path
) -> tuple[str, Path]:
    """Key and folder of a run: a record lies there once it is finished."""
    key = results.run_key(
        task=data.task.model_dump(mode="json"), fold=data.fold, model=model.id, seed=seed,
        settings=model.settings(), budget=_asked(model, budget), split=data.split_sha256,
        manifest=data.manifest_sha256,
    )  # fmt: skip
    task = data.task
    return key, results.run_folder(out, task.id, task.track, data.fold, model.id, seed, key)


def _asked(model: Model, budget: Budget) -> dict[str, Any]:
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
) -> Record:
    """One model and seed: the finished record if there is one, else fit and score.

    Of several processes all train, and rank 0 alone scores and writes.
    """
    settings, asked = model.settings(), _asked(model, budget)
    key, folder = run_folder_of(model, data, seed=seed, budget=budget, out=out)
    with distributed.together():
        record = results.read_record(folder) if distributed.is_main() else None
    if (record := distributed.from_main(record)) is not None:
        return record
    folder.mkdir(parents=True, exist_ok=True)
    report = FitReport()
    if model.trains or distributed.is_main():
        report = model.fit(
            data.training, budget=budget, seed=seed or 0, out=folder, progress=progress
        )
    if distributed.is_main():
        model.save(folder / MODEL_FOLDER)
        scores = score(model, data, references)
        record = Record(
            key=key,
            task=data.task.id,
            track=data.task.track,
            model=model.id,
            seed=seed,
            fold=data.fold,
            oracle=model.oracle,
            task_spec=data.task.model_dump(mode="json"),
            settings=settings,
            budget=asked,
            fit=dataclasses.asdict(report),
            split_sha256=data.split_sha256,
            manifest_sha256=data.manifest_sha256,
            versions=results.versions(),
            git_commit=results.git_commit(),
            hardware=results.hardware(settings.get("device", "cpu")),
            rows=results.rows_of(scores),
        )
        results.write_record(folder, record, scores)
    record = distributed.from_main(record)
    assert record is not None
    return record
