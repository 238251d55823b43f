"""Runs whose weights another training begins with: learnt on one task, they go on on another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.interface import Model
from benchmarks.models import model_class
from benchmarks.models.learnt import Learnt
from benchmarks.runs.records import Record, find_records
from benchmarks.runs.saved import SavedRun
from benchmarks.tasks.data import NO_FOLD, BenchmarkData
from tg80.errors import UserError

# Settings that the weights decide.
_DECIDED = ("preset", "model")


@dataclass(frozen=True)
class Begin:
    """A finished run that training begins with."""

    trained: Learnt[Any, Any]
    record: Record

    def settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of a model that goes on.

        Raises:
            UserError: some are given that the weights decide.
        """
        if decided := set(_DECIDED) & given.keys():
            raise UserError(f"setting {min(decided)}: the run of --from decides on it")
        return {**given, **{name: self.record.settings[name] for name in _DECIDED}}

    def prepare(self, model: Model) -> None:
        """Let the training of a model begin with the weights."""
        assert isinstance(model, Learnt)
        model.begin_with(self.trained.trained(), on=self.record.task)


def find_begin(path: Path, model_id: str, data: BenchmarkData) -> Begin:
    """The run to begin with, which held out what the fold holds out.

    Args:
        path: folder of one run of the model, or with exactly one that will do.
        model_id: of the model.
        data: what is to be learnt.

    Raises:
        UserError: no such run, or several; its files are damaged.
    """
    if not issubclass(model_class(model_id), Learnt) or data.fold == NO_FOLD:
        raise UserError(
            f"--from is for models that train, on tasks with folds; leave it out for {model_id} "
            f"on {data.task.id}"
        )
    wanted = model_id, data.fold, data.split_sha256, data.task.track
    found = [
        (folder, record)
        for folder, record in find_records(path)
        if (record.model, record.fold, record.split_sha256, record.track) == wanted
    ]
    if len(found) != 1:
        raise UserError(
            f"{path}: {len(found) or 'no'} run{'s' * (len(found) != 1)} of {model_id} on fold "
            f"{data.fold} of this split, track {data.task.track}; --from wants the folder of one"
        )
    ((folder, record),) = found
    trained = SavedRun(record, folder, model_id).load()
    assert isinstance(trained, Learnt)
    return Begin(trained, record)
