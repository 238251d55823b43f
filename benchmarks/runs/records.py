"""Records: what a run scored, and everything that is needed to make it again."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from annotated_types import Ge, Gt
from pydantic import BaseModel, ConfigDict, field_validator

import tg80
from benchmarks.interface import FitReport
from benchmarks.runs.evaluation import MEAN, PartScore, Reference, Row
from benchmarks.scoring.metrics import Metric
from benchmarks.tasks.tasks import TaskSpec
from tg80.errors import UserError
from tg80.files import make_folder, read_bytes, write_atomically
from tg80.untrusted.documents import parse_model
from tg80.untrusted.npz import pack_npz, read_npz

RECORD, ERRORS, COMMITS = "record.json", "errors.npz", "commits.txt"
SUBMITTED = "submitted/"  # Names of models from outside begin so.
LESSONS = "lessons"  # Setting that says what was learnt from if not the task's own data alone.


@dataclass(frozen=True)
class PredictionCost:
    """What predicting took.

    Attributes:
        n_windows: windows of all parts, at the task's lags.
        seconds: CPU seconds (wall time on a GPU) for all of them.
    """

    n_windows: Annotated[float, Gt(0)]
    seconds: Annotated[float, Ge(0)]


@dataclass(frozen=True)
class Hardware:
    """The machine that a model ran on."""

    device: str
    machine: str
    processor: str
    cores: int | None
    threads: int


class Record(BaseModel):
    """One model, fold and seed on one task.

    Attributes:
        key: hash of all that decides the result; two records of one key are the same run.
        task_spec: the task as it was then; `spec` is the same as an object.
        settings: the resolved settings of the model and its training.
        budget: what was asked for, empty for models that do not train.
        inputs: what the model predicts from, as on its card.
        labels: what it learns from, as on its card.
        fit: the report of fitting.
        prediction: what predicting took, None if that is not known.
        git_commit: of the code; several if a run was resumed by other code.
        equal_to_truth: entries of a submission that equal the truth; None for models run here.
        references: which reference each skill is against, where validation data choose it; empty in
            records of before.
        rows: one list a number on disk, in the order of `row_fields`; what is the same in all rows
            (task, track, model, seed, fold) is stored once, above.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = 2
    key: str
    task: str
    track: str
    model: str
    seed: int | None
    fold: int
    oracle: bool
    task_spec: dict[str, Any]
    settings: dict[str, Any]
    budget: dict[str, int | float | None]
    inputs: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    fit: FitReport
    prediction: PredictionCost | None = None
    equal_to_truth: int | None = None
    split_sha256: str
    manifest_sha256: str
    versions: dict[str, str]
    git_commit: str | None
    hardware: Hardware
    references: list[Reference] = []
    row_fields: tuple[str, ...] = Row._fields
    rows: list[Row]

    @field_validator("row_fields")
    @classmethod
    def _check_row_fields(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if names != Row._fields:
            raise ValueError(f"rows of other fields than {', '.join(Row._fields)}")
        return names

    @field_validator("rows")
    @classmethod
    def _check_rows(cls, rows: list[Row]) -> list[Row]:
        known = {(row.part, row.metric, row.lag_fs is None) for row in rows if row.molecule == MEAN}
        for part in {row.part for row in rows}:
            needed = {(part, Metric.S2T, True), (part, Metric.S2S, True), (part, Metric.MSE, False)}
            if not needed <= known:
                raise ValueError(f"part {part} lacks a row of its mean errors")
        return rows

    @field_validator("fit")
    @classmethod
    def _check_fit(cls, fit: FitReport) -> FitReport:
        if not math.isfinite(fit.cpu_seconds):
            raise ValueError("cpu_seconds is not finite")
        return fit

    @field_validator("task_spec")
    @classmethod
    def _check_task(cls, spec: dict[str, Any]) -> dict[str, Any]:
        if not TaskSpec.model_validate(spec).lags_fs:
            raise ValueError("a task without lags")
        return spec

    def by_lag(self, part: str, metric: str, molecule: str = MEAN) -> dict[float | None, Row]:
        """The rows of one metric by lag; scores over all lags stand under None."""
        wanted = part, molecule, metric
        return {r.lag_fs: r for r in self.rows if (r.part, r.molecule, r.metric) == wanted}

    def value(
        self, part: str, metric: str, molecule: str = MEAN, lag_fs: float | None = None
    ) -> float | None:
        """One number, None if it is not there."""
        row = self.by_lag(part, metric, molecule).get(lag_fs)
        return row.value if row else None

    @property
    def spec(self) -> TaskSpec:
        """The task as an object."""
        return TaskSpec.model_validate(self.task_spec)

    @property
    def parts(self) -> list[str]:
        """Parts that were scored."""
        return list(dict.fromkeys(row.part for row in self.rows))


def run_key(**identity: Any) -> str:
    """Hash of what decides a result; the same settings give the same key anywhere."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def settings_key(record: Record) -> str:
    """Hash of what tells records of one model apart: settings, budget, data and task.

    Weights that training began with differ from fold to fold: how they were learnt tells them.
    """
    settings = dict(record.settings)
    if "pretrained_by" in settings:
        del settings["pretrained"], settings["pretrained_seconds"]
    identity = {
        "settings": settings, "budget": record.budget, "split": record.split_sha256,
        "manifest": record.manifest_sha256, "task": record.task_spec,
    }  # fmt: skip
    return run_key(**identity)[:6]


def run_folder(
    out: Path, task: str, track: str, fold: int, model: str, seed: int | None, key: str
) -> Path:
    """Folder of one run: different settings never share one."""
    name = key if seed is None else f"seed{seed}-{key}"
    return out / task / track / f"fold{fold}" / model / name


def prediction_cost(scores: Sequence[PartScore]) -> PredictionCost | None:
    """What predicting all parts took; None if not known."""
    seconds = [score.seconds for score in scores if score.seconds is not None]
    if len(seconds) < len(scores) or not scores:
        return None
    return PredictionCost(sum(len(score.start_ids) for score in scores), sum(seconds))


def write_record(folder: Path, record: Record, scores: Sequence[PartScore]) -> None:
    """Write squared errors and then the record, so that a record means a finished run."""
    arrays: dict[str, np.ndarray] = {}
    for score in scores:
        sets = {"task": score.task, "curve": score.curve, "stored_frame": score.stored_frame}
        for name, errors in sets.items():
            if errors is not None:
                arrays[f"{score.part}/{name}/lags_fs"] = errors.lags_fs
                arrays[f"{score.part}/{name}/raw"] = _in_float32(errors.raw)
                arrays[f"{score.part}/{name}/aligned"] = _in_float32(errors.aligned)
                arrays[f"{score.part}/{name}/failed"] = errors.failed
        arrays[f"{score.part}/start_id"] = np.array(score.start_ids)
        arrays[f"{score.part}/molecule"] = np.array(score.molecules)
    make_folder(folder)
    write_atomically(folder / ERRORS, pack_npz(arrays, compressed=True))
    write_atomically(folder / RECORD, record.model_dump_json().encode())


def _in_float32(errors: np.ndarray) -> np.ndarray:
    """Half the size in a repository; what ran away stays finite."""
    return np.minimum(errors, np.finfo(np.float32).max).astype(np.float32)


@dataclass(frozen=True)
class ScoredRun:
    """A record and the squared errors beside it, named as `write_record` does."""

    folder: Path
    record: Record
    errors: dict[str, np.ndarray]

    @classmethod
    def read(cls, folder: Path, record: Record) -> Self:
        """Read the errors of a run.

        Raises:
            UserError: They cannot be read.
        """
        path = folder / ERRORS
        try:
            errors = read_npz(path)
            if any(
                a.ndim != 2 for name, a in errors.items() if name.endswith(("/raw", "/aligned"))
            ):
                raise ValueError("errors are not a table of windows and lags")
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read ({error}); run it again") from error
        return cls(folder, record, errors)

    def raw(self, part: str) -> np.ndarray:
        """Squared errors of a part at the task's lags, (n_windows, P) A^2."""
        return self._array(f"{part}/task/raw").astype(np.float64)

    def names(self, part: str, of: Literal["start_id", "molecule"]) -> tuple[str, ...]:
        """The start or the molecule of each window of a part."""
        return tuple(map(str, self._array(f"{part}/{of}")))

    def _array(self, name: str) -> np.ndarray:
        if name not in self.errors:
            raise UserError(f"{self.folder / ERRORS}: has no {name}; run it again")
        return self.errors[name]


def read_record(folder: Path) -> Record | None:
    """The record of a run, None if it is not finished.

    Raises:
        UserError: there is one that cannot be read.
    """
    path = folder / RECORD
    if not os.path.lexists(path):
        return None
    try:
        return parse_model(Record, read_bytes(path, "a record"), str(path))
    except UserError as error:
        raise UserError(
            f"{error}; not a record of this version, or damaged: move it away, or run it again"
        ) from None


def find_records(
    folder: Path, leave_out: Path | None = None, bad: list[str] | None = None
) -> list[tuple[Path, Record]]:
    """All records below a folder with their own folders, sorted by path; copies are left out.

    Args:
        folder: where to look, at any depth.
        leave_out: a folder inside it that is skipped.
        bad: takes one line for each record that cannot be read; such records are skipped.

    Raises:
        UserError: there is no such folder, or, without `bad`, a record that cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name one that `atom-bench run` wrote to")
    found: dict[str, tuple[Path, Record]] = {}
    for path in sorted(folder.rglob(RECORD)):
        if leave_out is not None and path.resolve().is_relative_to(leave_out.resolve()):
            continue
        try:
            record = read_record(path.parent)
        except UserError as error:
            if bad is None:
                raise
            bad.append(str(error))
            continue
        if record is not None:
            found.setdefault(record.model_dump_json(), (path.parent, record))
    return list(found.values())


def read_records(folder: Path, bad: list[str] | None = None) -> list[Record]:
    """All records below a folder, sorted by path; copies are left out.

    Args:
        folder: where to look, at any depth.
        bad: as for `find_records`.

    Raises:
        UserError: there is no such folder, none that can be read in it, or, without `bad`, one that
            cannot be read.
    """
    found = [record for _, record in find_records(folder, bad=bad)]
    if not found and bad:
        raise UserError(*bad)
    if not found:
        raise UserError(f"{folder}: no {RECORD} below it; run `atom-bench run` first")
    return found


def versions() -> dict[str, str]:
    """Versions of what computes."""
    return {
        "tg80": tg80.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def commits_of(folder: Path) -> str | None:
    """Commits of the code that has worked on a run, the one at hand noted as the last.

    To be called before the work begins: the checkout may change below a long run.

    Args:
        folder: of the run; it exists.
    """
    path = folder / COMMITS
    known = path.read_text().split() if path.exists() else []
    if (now := git_commit()) is not None and now not in known:
        known.append(now)
        write_atomically(path, "\n".join(known).encode())
    return ", ".join(known) or None


def git_commit() -> str | None:
    """Commit of the code, with "-dirty" if it was changed; None outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()


def hardware(device: str) -> Hardware:
    """The machine this runs on."""
    return Hardware(
        device=torch.cuda.get_device_name() if device == "cuda" else device,
        machine=platform.machine(),
        processor=_processor(),
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
