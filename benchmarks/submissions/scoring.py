"""Score a submission as any model is scored: its predictions are looked up, not computed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from rich.progress import Progress

from benchmarks.interface import Budget, Equivariance, FitReport, Model
from benchmarks.runs.evaluation import fit_references
from benchmarks.runs.records import SUBMITTED, PredictionCost, Record, read_record
from benchmarks.runs.runner import MODEL_FOLDER, Stated, run_folder_of, run_once
from benchmarks.submissions.checks import check_issued
from benchmarks.submissions.parsing import Submission
from benchmarks.submissions.safe_hdf5 import errors_of
from benchmarks.submissions.template import Issued, issue, task_of
from benchmarks.tasks.data import BenchmarkData, TrainingData, load_benchmark, shipped_name
from benchmarks.tasks.states import StartStates
from tg80.dataset import shipped_folder
from tg80.errors import UserError
from tg80.files import make_folder, write_atomically

KEPT, STATED = "submission.h5", "submission.json"
TRUE_TO = 1e-3  # A
# Rounding of lags in float32, fs.
_SAME_LAG = 1e-2
# Submissions of one name say the same of these, on any task.
_OWN = ("paper", "licence")


class Submitted:
    """The predictions of a submission, asked for like those of a model."""

    trains: ClassVar[bool] = False
    seen_only: ClassVar[bool] = False
    equivariance: ClassVar[Equivariance] = "none"

    def __init__(self, submission: Submission, issued: Issued) -> None:
        self.id = SUBMITTED + submission.card.model
        self.oracle = bool(submission.card.oracle)
        self.submission = submission
        self.issued = issued

    def initialise(self, data: TrainingData, *, seed: int) -> None:
        """Nothing is left to be made."""

    def fit(
        self,
        data: TrainingData,
        *,
        budget: Budget,
        seed: int,
        out: Path,
        progress: Progress | None = None,
    ) -> FitReport:
        """What the outsider told of the training."""
        card = self.submission.card
        return FitReport(
            n_parameters=card.n_parameters,
            n_samples=card.samples_seen,
            cpu_seconds=card.training_cpu_seconds + card.training_gpu_seconds,
        )

    def predict(
        self, states: StartStates, lags_fs: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions (B, P, N, 3) A and failures (B,), in the frames of the states.

        Raises:
            UserError: a state or lag that the template does not hold.
        """
        template = self.submission.template
        unknown = [start for start in states.start_id if start not in self.issued.row]
        if unknown:
            raise UserError(f"{unknown[0]} is not in the template {template.id}")
        rows = np.array([self.issued.row[start] for start in states.start_id])
        columns = _columns(lags_fs.double().numpy(), template.lags_fs)
        n_atoms = states.positions.shape[1]
        asked = self.submission.predictions[rows[:, None], columns, :n_atoms]
        positions = self.issued.taken_back(rows, asked)
        failed = torch.from_numpy(self.submission.failed[rows])
        return torch.from_numpy(positions).float(), failed

    def save(self, folder: Path) -> None:
        """Keep the submitted file: it is to this row what weights are to others."""
        make_folder(folder)
        source, kept = self.submission.path, folder / KEPT
        if not (kept.exists() and kept.samefile(source)):  # It may be scored again from there.
            write_atomically(kept, source.read_bytes())
        stated = {
            "template": self.submission.template.id,
            "sha256": self.submission.sha256,
            "predictions_sha256": self.submission.predictions_sha256,
            "card": self.submission.card.model_dump(),
        }
        write_atomically(folder / STATED, json.dumps(stated, indent=1).encode())

    @classmethod
    def load(cls, folder: Path) -> Self:
        raise UserError(f"{folder}: a submission is scored again by `atom-bench score {KEPT}`")

    def settings(self) -> dict[str, Any]:
        """What is the same for all seeds and folds; what claims another is a row of its own."""
        card = self.submission.card
        return {
            "submitted": True,
            "parts": self.submission.template.parts,
            "paper": card.paper,
            "licence": card.licence,
            "training_hardware": card.hardware,
            "labels": sorted(card.words("labels")),
            "inputs": sorted(card.words("inputs")),
            "n_parameters": card.n_parameters,
            "oracle": self.oracle,
        }


def _columns(lags_fs: np.ndarray, known_fs: np.ndarray) -> np.ndarray:
    """Find lags (B, P) among those of the template; padding points at any."""
    asked = np.nan_to_num(lags_fs, nan=float(known_fs[0]))
    columns = np.abs(asked[..., None] - known_fs).argmin(-1)
    if (np.abs(known_fs[columns] - asked) > _SAME_LAG).any():
        raise UserError(f"a lag is not in the template, which has {known_fs.tolist()} fs")
    return columns


def load_data_of(
    submission: Submission, folder: Path | None = None, split: str | None = None
) -> BenchmarkData:
    """The data that a submission is scored on.

    Raises:
        UserError: no such task, track or data.
    """
    header = submission.template.header
    return load_benchmark(task_of(header.task, header.track), header.fold, folder, split)


def issue_again(submission: Submission, data: BenchmarkData) -> Issued:
    """The template that the submission must have been made from.

    Raises:
        UserError: it was made from another.
    """
    again = issue(data, [part for part in submission.template.parts if part in data.parts])
    with errors_of(submission.shown):
        check_issued(submission.template, again.template)
    return again


def score_submission(submission: Submission, data: BenchmarkData, out: Path) -> Record:
    """Score every part of the template and write the record where the leaderboard finds it.

    The same submission again gives the record that is there.

    Raises:
        UserError: it was not made from this data's template; there is another submission of this
            model and seed.
    """
    issued = issue_again(submission, data)
    n_true = count_true(submission, issued, data)
    chosen = {name: part for name, part in data.parts.items() if name in submission.template.parts}
    restricted = replace(data, parts=chosen)
    model = cast(Model, Submitted(submission, issued))
    seed, budget = submission.card.seed, Budget(epochs=1)  # Nothing is trained.
    _, folder = run_folder_of(model, restricted, seed=seed, budget=budget, out=out)
    _check_unlike(folder, submission)
    _check_name(out, folder, submission)
    return run_once(
        model, restricted, seed=seed, budget=budget, out=out,
        references=fit_references(restricted), stated=_stated(submission, n_true),
    )  # fmt: skip


def _stated(submission: Submission, n_true: int) -> Stated:
    card = submission.card
    cost = PredictionCost(len(submission.template), card.prediction_seconds)
    return Stated(
        inputs=card.words("inputs"),
        labels=card.words("labels"),
        prediction=cost if card.prediction_seconds else None,
        equal_to_truth=n_true,
    )


def _check_unlike(folder: Path, submission: Submission) -> None:
    if read_record(folder) is None:
        return
    if _told(folder).get("sha256") != submission.sha256:
        raise UserError(
            f"{submission.shown}: {folder} holds another submission of {submission.card.model}, "
            f"seed {submission.card.seed}; choose another model name or seed, or move it away"
        )


def _check_name(out: Path, folder: Path, submission: Submission) -> None:
    """Refuse a name that is another's, and predictions that are recorded already.

    Args:
        out: folder of all records.
        folder: where that of this submission will lie, or does.
        submission: the checked submission.
    """
    name = SUBMITTED + submission.card.model
    for path in sorted(out.rglob(f"{name}/*/record.json")):
        place, record = path.parent, read_record(path.parent)
        if record is None or record.model != name or place.resolve() == folder.resolve():
            continue
        for key in _OWN:
            mine, theirs = getattr(submission.card, key), record.settings.get(key)
            if mine != theirs:
                raise UserError(
                    f"{submission.shown}: {key} is {mine!r}, but {place} of the same name "
                    f"says {str(theirs)[:200]!r}; give the same, or choose another model name"
                )
        if _told(place).get("predictions_sha256") == submission.predictions_sha256:
            raise UserError(
                f"{submission.shown}: the predictions are those of {place}, seed {record.seed}, to "
                "the last bit; send each once, a deterministic model has one seed"
            )


def _told(folder: Path) -> dict[str, Any]:
    """What `Submitted.save` wrote beside a submission; empty if it cannot be read."""
    try:
        told = json.loads((folder / MODEL_FOLDER / STATED).read_text())
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def count_true(submission: Submission, issued: Issued, data: BenchmarkData) -> int:
    """Entries whose prediction at the task's longest lag is the truth, to 0.001 A RMS."""
    model, count = Submitted(submission, issued), 0
    for name in submission.template.parts:
        windows = data.parts[name].windows
        last = windows.lags_fs[:, -1:]
        predicted, failed = model.predict(windows.states, last)
        square = (predicted[:, 0] - windows.targets[:, -1]).square().sum(-1)
        mask = windows.states.score_mask
        mean = torch.where(mask, square, 0.0).sum(-1) / mask.sum(-1)
        count += int(((mean < TRUE_TO**2) & ~failed).sum())
    return count


def check_with_data(
    submission: Submission, folder: Path | None = None, split: str | None = None
) -> bool:
    """Compare with the data's own template, if the data are at hand; False if they are not.

    Raises:
        UserError: it was made from another template; `folder` cannot be read.
    """
    header = submission.template.header
    task = task_of(header.task, header.track)
    if folder is None:
        try:
            shipped_folder(shipped_name(task))
        except UserError:
            return False
    issue_again(submission, load_data_of(submission, folder, split))
    return True
