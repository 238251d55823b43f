"""Runs whose weights another training begins with: learnt on one task, they go on on another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.interface import Model
from benchmarks.models import model_class
from benchmarks.models.learnt import Learnt, Origin
from benchmarks.runs.records import Record, find_records, settings_key
from benchmarks.runs.runner import MODEL_FOLDER
from benchmarks.runs.saved import SavedRun
from benchmarks.tasks.data import NO_FOLD, BenchmarkData
from benchmarks.tasks.tasks import is_fine_tuning
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
        before = self.record.settings.get("pretrained_seconds", 0.0)
        seconds = before + self.record.fit.cpu_seconds
        origin = Origin(self.record.task, settings_key(self.record), seconds)
        model.begin_with(self.trained.trained(), origin)


def find_begin(path: Path, model_id: str, data: BenchmarkData) -> Begin:
    """The run to begin with, which has not seen what the fold tests.

    Args:
        path: folder of one run of the model, or with exactly one that will do; runs that began with
            others stand back.
        model_id: of the model.
        data: what is to be learnt.

    Raises:
        UserError: a model or task that does not go on, no such run, or several; its files are
            damaged.
    """
    kind = model_class(model_id)
    if not issubclass(kind, Learnt) or not kind.goes_on or data.fold == NO_FOLD:
        raise UserError(
            f"--from is not for {model_id} on {data.task.id}: it is for models whose weights do "
            "not depend on the data otherwise, on tasks with folds"
        )
    found = [
        (folder, record)
        for folder, record in find_records(path)
        if record.model == model_id
        and (folder / MODEL_FOLDER).is_dir()
        and _holds_out_the_same(record, data)
    ]
    first = [(folder, record) for folder, record in found if "pretrained" not in record.settings]
    if len(found := first or found) != 1:
        raise UserError(
            f"{path}: {len(found) or 'no'} run{'s' * (len(found) != 1)} of {model_id} with weights "
            f"and the split, fold ({data.fold}) and track asked for, on one level of theory also "
            "the data; --from wants the folder of one"
        )
    ((folder, record),) = found
    trained = SavedRun(record, folder, model_id).load()
    assert isinstance(trained, Learnt)
    return Begin(trained, record)


def _holds_out_the_same(record: Record, data: BenchmarkData) -> bool:
    """Whether a run has seen nothing that the fold tests.

    On the same level, other data may hold the frames of a test block in a train block; fine-tuning
    learns from a molecule that its fold holds out.
    """
    task = record.spec
    same = (record.fold, record.split_sha256, record.track)
    if same != (data.fold, data.split_sha256, data.task.track) or is_fine_tuning(task):
        return False
    return task.level != data.task.level or record.manifest_sha256 == data.manifest_sha256
