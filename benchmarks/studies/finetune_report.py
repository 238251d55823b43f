"""What `atom-bench finetune` found, as a table, JSON and a figure."""

from __future__ import annotations

import io
from dataclasses import asdict
from typing import Any

from benchmarks.leaderboard.sheets import Sheet
from benchmarks.models import TRIVIAL
from benchmarks.scoring.metrics import PRINTED_SCALE
from benchmarks.studies.finetune import PRETRAINED, SCRATCH, ZERO_SHOT, Row, Study

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


def sheet(study: Study) -> Sheet:
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
        row = by_key[name, None]
        rows.append((name, "", "", _number(row.s2t), "", "", _number(row.s2s), _skill(row)))
    return Sheet(_title(study), HEADING, rows)


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
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(9, 4.2), layout="constrained")
    FigureCanvasAgg(drawing)
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
