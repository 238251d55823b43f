"""Fine-tuning: a multi-task model goes on learning one molecule that it has not seen.

Its error on the molecule's `test_time` against the number of frames it was given, beside the same
model trained on these frames from random weights with the same budget: what pretraining buys.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from atom import ATOM, CheckpointError
from benchmarks.interface import Budget, CannotPredict
from benchmarks.models import MODELS, TRIVIAL, make_model
from benchmarks.models.atom import WEIGHTS, AtomJoint
from benchmarks.runs import records
from benchmarks.runs.evaluation import References, fit_references, rows_of, score
from benchmarks.runs.records import RECORD, Record
from benchmarks.runs.runner import MODEL_FOLDER, run_once
from benchmarks.scoring.metrics import PRINTED_SCALE, Metric
from benchmarks.scoring.significance import two_sigma
from benchmarks.tasks.data import NO_FOLD, BenchmarkData
from benchmarks.tasks.tasks import TaskSpec
from benchmarks.training import distributed
from tg80.console import Table
from tg80.errors import UserError
from tg80.splits.split import Split

PART = "test_time"
PRETRAINED, SCRATCH, ZERO_SHOT = "fine-tuned", "from scratch", "not fine-tuned"


@dataclass(frozen=True)
class Pretraining:
    """Where fine-tuning begins.

    Attributes:
        fold: of the split it was trained on.
        seen: the molecule was in its training or chose its weights, or nothing tells that it was
            not.
    """

    path: Path
    module: ATOM
    model_id: str
    fold: int
    seen: bool


@dataclass(frozen=True)
class Row:
    """Errors on the molecule's `test_time` in A^2, means over seeds, and their spread (2 sigma).

    Attributes:
        start: PRETRAINED, SCRATCH, ZERO_SHOT or the id of a trivial predictor, which knows the
            whole train block. n_frames: None where it does not matter. skill: median over lags.
    """

    start: str
    n_frames: int | None
    seeds: int
    s2t: float
    s2s: float
    s2t_spread: float | None
    s2s_spread: float | None
    skill: float | None
    windows: int


@dataclass(frozen=True)
class Study:
    """All rows of one molecule, and what they were made from."""

    task: TaskSpec
    pretraining: Pretraining
    budget: Budget
    train_frames: int
    frame_fs: float
    rows: list[Row]


def find_pretraining(
    path: Path, task: TaskSpec, split: Split, *, allow_seen: bool = False
) -> Pretraining:
    """The model to begin with, and the proof that it has not seen the task's molecule.

    Args:
        path: a checkpoint, the folder of one run, or a folder of results in which exactly one run
            of a learned model holds the molecule out.
        task: the task, of one molecule.
        split: the split of the pretraining.
        allow_seen: accept a model that may have seen the molecule.

    Raises:
        UserError: nothing there, several runs to choose from, or (without `allow_seen`) the
            molecule may have been seen.
    """
    assert task.molecule is not None
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; --from wants what `atom-bench run` wrote")
    if task.molecule not in split.clusters:
        raise UserError(f"split {split.version} has no compound {task.molecule!r}")
    runs = list(_runs(path))
    if not runs:
        return _bare_checkpoint(path, allow_seen)
    reasons = {folder: _why_seen(record, task, split) for folder, record in runs}
    fitting = [(f, r) for f, r in runs if allow_seen or reasons[f] is None]
    if not fitting:
        folder, reason = next(iter(reasons.items()))
        raise UserError(
            f"{folder}: {reason}; take a fold that holds it out, or mark the rows by --allow-seen"
        )
    if len(fitting) > 1:
        raise UserError(
            f"{path}: {len(fitting)} runs can be begun with; name one, such as {fitting[0][0]}"
        )
    ((folder, record),) = fitting
    if record.track != task.track:
        raise UserError(f"{folder}: on track {record.track}; give the same --track")
    weights = folder / MODEL_FOLDER / WEIGHTS
    seen = reasons[folder] is not None
    return Pretraining(weights, _module(weights), record.model, record.fold, seen)


def _runs(path: Path) -> Iterator[tuple[Path, Record]]:
    """Run of ATOM at or below a folder, or that a checkpoint belongs to."""
    above = [folder for folder in (path.parent, path.parent.parent) if (folder / RECORD).exists()]
    below = sorted(found.parent for found in path.rglob(RECORD)) if path.is_dir() else []
    for folder in below or above[:1]:
        record = records.read_record(folder)
        if record is None or not issubclass(MODELS.get(record.model, object), AtomJoint):
            continue
        # Neither what was fine-tuned nor what knows one molecule alone.
        if "pretrained" not in record.settings and record.fold != NO_FOLD:
            yield folder, record


def _bare_checkpoint(path: Path, allow_seen: bool) -> Pretraining:
    weights = path / WEIGHTS if path.is_dir() else path
    if not weights.exists():
        raise UserError(
            f"{path}: no finished run of ATOM that began with random weights, and no {WEIGHTS}"
        )
    module = _module(weights)
    if not allow_seen:
        raise UserError(
            f"{weights}: no {RECORD} beside it, so nothing tells which molecules it has seen; "
            "name the folder of its run, or mark the rows by --allow-seen"
        )
    config = module.config.model_dump()
    fitting = [
        model
        for model in MODELS.values()
        if issubclass(model, AtomJoint)
        and all(config.get(name) == value for name, value in model.fixed.items())
    ]
    model = max(fitting, key=lambda model: len(model.fixed))
    return Pretraining(weights, module, model.id, 0, True)


def _module(weights: Path) -> ATOM:
    try:
        return ATOM.from_checkpoint(weights)
    except CheckpointError as error:
        raise UserError(str(error)) from error


def _why_seen(record: Record, task: TaskSpec, split: Split) -> str | None:
    """Why a model may know the molecule, None if it cannot."""
    if record.split_sha256 != split.sha256:
        return f"trained on another split than {split.version}; give it by --split"
    fold = split.fold(record.fold)
    if task.molecule in fold.train:
        return f"has been trained on {task.molecule}"
    if task.molecule in fold.val:
        return f"{task.molecule} chose its weights, being in val of fold {fold.index}"
    return None


def study(
    pretraining: Pretraining,
    data: BenchmarkData,
    *,
    frames: Sequence[int],
    seeds: Sequence[int],
    budget: Budget,
    settings: Mapping[str, Any],
    out: Path,
    progress: Progress | None = None,
) -> Study:
    """Train with few frames and with many, from both starts, and score.

    Args:
        pretraining: the pretrained model.
        data: fold and task.
        frames: numbers of training frames.
        seeds: one run for each seed.
        budget: of each run.
        settings: of `LearntSettings`, without the model's shape, which is the pretrained one's.
        out: folder of the results.
        progress: shows how far the training is.

    Raises:
        UserError: more frames than the train block has, or fewer than two.
    """
    (block,) = data.training.trajectories
    if not frames or max(frames) > block.n_frames or min(frames) < 2:
        raise UserError(
            f"--frames must lie between 2 and {block.n_frames}, the train block of {block.name}"
        )
    references = fit_references(data) if distributed.is_main() else References({})

    def records_of(start: str, n_frames: int) -> list[Record]:
        training = {**settings.get("training", {}), "train_frames": n_frames}
        given = {**settings, "training": training}
        return [
            run_once(
                _model(pretraining, start, given), data, seed=seed, budget=budget, out=out,
                references=references, progress=progress,
            )
            for seed in seeds
        ]  # fmt: skip

    rows = [
        _row(start, n_frames, records_of(start, n_frames), data)
        for n_frames in sorted(set(frames))
        for start in (PRETRAINED, SCRATCH)
    ]
    once = {"budget": budget, "out": out, "references": references}
    for name in TRIVIAL:
        with suppress(CannotPredict):
            record = run_once(make_model(name), data, seed=None, **once)
            rows.append(_row(name, None, [record], data))
    if distributed.is_main():
        rows.insert(0, _zero_shot(pretraining, data, references))
    return Study(data.task, pretraining, budget, block.n_frames, block.frame_fs, rows)


def _model(pretraining: Pretraining, start: str, settings: Mapping[str, Any]) -> AtomJoint:
    kind = MODELS[pretraining.model_id]
    assert issubclass(kind, AtomJoint)
    if start == PRETRAINED:
        return kind.pretrained(pretraining.module, **settings)
    return kind(**settings, model=pretraining.module.config.model_dump(mode="json"))


def _zero_shot(pretraining: Pretraining, data: BenchmarkData, references: References) -> Row:
    model = _model(pretraining, PRETRAINED, {})
    model.initialise(data.training, seed=0)
    (scores,) = score(model, data, references)
    values = {(v.molecule, v.lag_fs, v.metric): v for v in rows_of(scores)}
    name = data.task.molecule or ""
    s2t, s2s = (values[name, None, metric] for metric in (Metric.S2T, Metric.S2S))
    lags = _scored_lags(data)
    skills = [values[name, lag, Metric.SKILL].value for lag in lags]
    return Row(
        ZERO_SHOT, 0, 1, s2t.value, s2s.value, None, None, float(np.median(skills)), s2t.n
    )  # fmt: skip


def _scored_lags(data: BenchmarkData) -> list[float]:
    """The task's lags as they really are; those of the curve are not part of its score."""
    lags = data.parts[PART].windows.lags_fs[0].tolist()
    return [lag for lag in lags if not math.isnan(lag)]


def _row(start: str, n_frames: int | None, records: Sequence[Record], data: BenchmarkData) -> Row:
    name = data.task.molecule or ""

    def values(metric: Metric) -> list[float]:
        found = [record.value(PART, metric, name) for record in records]
        return [value for value in found if value is not None]

    s2t, s2s = values(Metric.S2T), values(Metric.S2S)
    lags = _scored_lags(data)
    skills = [
        row.value
        for record in records
        for lag, row in record.by_lag(PART, Metric.SKILL, name).items()
        if lag in lags
    ]
    return Row(
        start=start,
        n_frames=n_frames,
        seeds=len(records),
        s2t=float(np.mean(s2t)),
        s2s=float(np.mean(s2s)),
        s2t_spread=two_sigma(s2t),
        s2s_spread=two_sigma(s2s),
        skill=float(np.median(skills)) if skills else None,
        windows=len(data.parts[PART].windows.states),
    )


STYLES = {PRETRAINED: ("-", "o"), SCRATCH: ("--", "s")}


def document(study: Study) -> dict[str, Any]:
    """Everything as JSON-able figures; errors in A^2."""
    task, begin = study.task, study.pretraining
    return {
        "task": task.id,
        "track": task.track,
        "molecule": task.molecule,
        "part": "test_time",
        "unit": "A^2",
        "budget": asdict(study.budget),
        "pretraining": {
            "path": str(begin.path),
            "model": begin.model_id,
            "fold": begin.fold or None,
            "seen": begin.seen,
        },
        "train_block_frames": study.train_frames,
        "frame_fs": study.frame_fs,
        "rows": [asdict(row) | {"seen": begin.seen and _is_pretrained(row)} for row in study.rows],
    }


def tables(study: Study) -> list[Table]:
    """Errors against frames, both starts side by side; then what needs no frames."""
    rows = []
    by_key = {(row.start, row.n_frames): row for row in study.rows}
    zero = by_key[ZERO_SHOT, 0]
    rows.append(("0", "", _number(zero.s2t), "", "", _number(zero.s2s), "", _skill(zero)))
    for n_frames in _frames(study):
        ours, theirs = by_key[PRETRAINED, n_frames], by_key[SCRATCH, n_frames]
        rows.append(
            (
                str(n_frames),
                f"{theirs.s2t / ours.s2t:.2f}",
                _number(ours.s2t, ours.s2t_spread),
                _number(theirs.s2t, theirs.s2t_spread),
                f"{theirs.s2s / ours.s2s:.2f}",
                _number(ours.s2s, ours.s2s_spread),
                _number(theirs.s2s, theirs.s2s_spread),
                f"{_skill(ours)} / {_skill(theirs)}",
            )
        )
    for name in TRIVIAL:
        if (row := by_key.get((name, None))) is None:
            continue
        rows.append((name, "", "", _number(row.s2t), "", "", _number(row.s2s), _skill(row)))
    return [Table(_title(study), HEADING, rows)]


HEADING = (
    "frames", "S2T gain", "S2T fine-tuned", "S2T scratch", "S2S gain", "S2S fine-tuned",
    "S2S scratch", "skill, fine-tuned / scratch",
)  # fmt: skip


def _title(study: Study) -> str:
    task, begin, budget = study.task, study.pretraining, study.budget
    length = f"{budget.epochs} epochs" if budget.epochs else f"{budget.cpu_minutes:g} CPU min"
    origin = f"fold {begin.fold}" if begin.fold else begin.path.name
    seen = f"; {task.molecule} MAY HAVE BEEN SEEN in pretraining" if begin.seen else ""
    return (
        f"{task.id}, {task.track}, test_time: MSE x 1e-2 A^2 of {begin.model_id}, "
        f"{length} each, pretrained on {origin}{seen}"
    )


def figure(study: Study) -> bytes:
    """PNG: S2T and S2S against the number of frames, both starts; the rest as level lines."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(9, 4.2), layout="constrained")
    best = min((row for row in study.rows if row.start in TRIVIAL), key=lambda row: row.s2s)
    levels = [(ZERO_SHOT, ":"), ("persistence", (0, (1, 3))), (best.start, "-.")]
    for axis, metric in zip(drawing.subplots(1, 2), ("s2t", "s2s"), strict=True):
        for start, (line, marker) in STYLES.items():
            rows = [row for row in study.rows if row.start == start]
            axis.errorbar(
                [row.n_frames for row in rows],
                [PRINTED_SCALE * getattr(row, metric) for row in rows],
                yerr=[PRINTED_SCALE * (getattr(row, f"{metric}_spread") or 0) for row in rows],
                linestyle=line, marker=marker, capsize=3, label=start,
            )  # fmt: skip
        for name, line in dict(levels).items():
            (row,) = (row for row in study.rows if row.start == name)
            value = PRINTED_SCALE * getattr(row, metric)
            axis.axhline(value, linestyle=line, color="0.4", linewidth=1.2, label=name)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xticks(_frames(study), [str(n) for n in _frames(study)])
        axis.set_xlabel(f"frames, {study.frame_fs:g} fs apart")
        axis.set_ylabel(f"{metric.upper()} / 1e-2 A$^2$")
    drawing.axes[-1].legend(fontsize=8)
    drawing.suptitle(f"{study.task.molecule}, test_time: what pretraining buys", fontsize=11)
    stream = io.BytesIO()
    drawing.savefig(stream, format="png", dpi=110)
    return stream.getvalue()


def _frames(study: Study) -> list[int]:
    return [row.n_frames for row in study.rows if row.start == PRETRAINED and row.n_frames]


def _is_pretrained(row: Row) -> bool:
    return row.start in (PRETRAINED, ZERO_SHOT)


def _number(value: float, spread: float | None = None) -> str:
    shown = f"{PRINTED_SCALE * value:.3g}"
    return shown if spread is None else f"{shown} ± {PRINTED_SCALE * spread:.1g}"


def _skill(row: Row) -> str:
    return "-" if row.skill is None else f"{row.skill:.2f}"
