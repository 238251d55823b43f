"""What `atom-bench horizons` found, as tables, JSON and a figure for each model."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.leaderboard.sheets import Sheet
from benchmarks.scoring.metrics import PRINTED_SCALE
from benchmarks.scoring.significance import with_spread
from benchmarks.studies.horizons import Answer, Curves, Question, Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = "osD^vPX*<>ph"
REFERENCE_STYLES = {"persistence": ("--", "0.25"), "blend": (":", "0.45")}
SHORT = {"trained": "", "interpolation": " (interpolation)", "extrapolation": " (extrapolation)"}


def document(study: Study) -> dict[str, Any]:
    """Everything as JSON-able figures; errors in A^2."""
    rows = []
    named = [(name, None, None, answers) for name, answers in study.references.items()]
    named += [(c.label, c.seed, c.trained, c.answers) for c in study.curves]
    for label, seed, trained, answers in named:
        for question, answer in zip(study.questions, answers, strict=True):
            rows.append(
                {
                    "model": label,
                    "seed": seed,
                    "part": question.part,
                    "kind": question.kind,
                    "n_steps": len(question.lags_fs),
                    "horizon_fs": question.lags_fs[-1],
                    "windows": len(question.windows.states),
                    "lag_kinds": trained and [trained.kind(lag) for lag in answer.lags_fs],
                    **asdict(answer),
                }
            )
    models = [
        {
            "model": c.label,
            "seed": c.seed,
            "trained": asdict(c.trained),
            "dependence": asdict(c.dependence),
        }
        for c in study.curves
    ]
    return {"unit": "A^2", "models": models, "rows": rows, "refused": list(study.refused)}


def sheets(study: Study) -> list[Sheet]:
    """Tables: by horizon, by number of steps, at irregular lags, and the dependence on others."""
    groups = by_label(study)
    names = [*groups, *study.references]
    result = []
    for part in dict.fromkeys(q.part for q in study.questions):
        for kind, title, first in (
            ("horizons", "error at the horizon", "horizon"),
            ("steps", "error at the task's horizon, of P steps asked together", "P"),
            ("irregular", "mean error over random lags", "lags, fs"),
        ):
            asked = [
                (i, q) for i, q in enumerate(study.questions) if (q.part, q.kind) == (part, kind)
            ]
            rows = [_row(study, groups, i, question) for i, question in asked]
            heading = (first, "windows", *names, *(f"skill {name}" for name in groups))
            if rows:
                result.append(Sheet(f"{part}: {title}, MSE x 1e-2 A^2", heading, rows))
    result.append(_dependence_sheet(groups))
    return result


def by_label(study: Study) -> dict[str, list[Curves]]:
    """The seeds of each model."""
    groups: dict[str, list[Curves]] = {}
    for curve in study.curves:
        groups.setdefault(curve.label, []).append(curve)
    return groups


def _row(
    study: Study, groups: dict[str, list[Curves]], index: int, question: Question
) -> tuple[str, ...]:
    irregular = question.kind == "irregular"

    def figure_of(values: Sequence[float]) -> float:
        return float(np.mean(values)) if irregular else values[-1]

    errors, skills = [], []
    for members in groups.values():
        answers = [curve.answers[index] for curve in members]
        kind = "" if irregular else SHORT[members[0].trained.kind(answers[0].lags_fs[-1])]
        errors.append(with_spread([PRINTED_SCALE * figure_of(a.mse) for a in answers]) + kind)
        skills.append(f"{np.mean([figure_of(a.skill or ()) for a in answers]):+.2f}")
    for answers in study.references.values():
        errors.append(f"{PRINTED_SCALE * figure_of(answers[index].mse):.3g}")
    first = {
        "horizons": f"{question.lags_fs[-1]:g} fs",
        "steps": str(len(question.lags_fs)),
        "irregular": ", ".join(f"{lag:g}" for lag in question.lags_fs),
    }[question.kind]
    return first, str(len(question.windows.states)), *errors, *skills


def _dependence_sheet(groups: dict[str, list[Curves]]) -> Sheet:
    keys = ("alone_8", "alone_32", "eight_32", "largest", "displacement")
    return Sheet(
        "Difference of predictions at the same lags, A: root mean squares, and the largest",
        ("model", "alone / among 8", "alone / among 32", "8 / 32", "largest", "displacement"),
        [
            (label, *(with_spread([getattr(c.dependence, key) for c in members]) for key in keys))
            for label, members in groups.items()
        ],
    )


def figure(study: Study, label: str) -> bytes:
    """PNG of one model: error against lag, by horizon above, by number of steps below.

    Curves differ by marker and line style, not by colour alone; hatched is extrapolation.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    members = by_label(study)[label]
    parts = list(dict.fromkeys(q.part for q in study.questions))
    drawing = Figure(figsize=(3.9 * len(parts), 7.4), layout="constrained")
    FigureCanvasAgg(drawing)
    axes = drawing.subplots(2, len(parts), squeeze=False)
    for column, part in enumerate(parts):
        for row, kinds in enumerate((("horizons",), ("steps", "irregular"))):
            axis = axes[row][column]
            if row == 0:
                axis.set_xscale("log")
                axis.set_yscale("log")
            _draw(axis, study, members, part, kinds)
            axis.set_title(part)
            axis.set_xlabel("lag / fs")
    for row, title in enumerate(("by horizon", "by number of steps P")):
        axes[row][0].set_ylabel(f"MSE / 1e-2 A$^2$, {title}")
        entries: dict[str, Any] = {}
        for axis in axes[row]:
            entries |= {t: h for h, t in zip(*axis.get_legend_handles_labels(), strict=True)}
        axes[row][-1].legend(
            entries.values(), entries, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1)
        )
    seeds = f", mean of {len(members)} seeds" if len(members) > 1 else ""
    drawing.suptitle(f"{label}{seeds}; hatched: beyond the lags of its training")
    stream = io.BytesIO()
    drawing.savefig(stream, format="png", dpi=110)
    return stream.getvalue()


def _draw(
    axis: Axes, study: Study, members: Sequence[Curves], part: str, kinds: Sequence[str]
) -> None:
    chosen = [(i, q) for i, q in enumerate(study.questions) if q.part == part and q.kind in kinds]
    for name, answers in study.references.items():
        _draw_reference(axis, name, [(q, answers[i]) for i, q in chosen])
    densest = max((len(question.lags_fs) for _, question in chosen), default=0)
    for number, (i, question) in enumerate(chosen):
        lags, mse = members[0].answers[i].lags_fs, _scaled([curve.answers[i] for curve in members])
        if question.kind == "irregular":
            axis.plot(lags, mse, "x", color="black", zorder=9, label="random lags")
            continue
        n_steps = len(question.lags_fs)
        horizon = f"to {question.lags_fs[-1]:g} fs"
        axis.plot(
            lags, mse, marker=MARKERS[number % len(MARKERS)], markerfacecolor="none",
            # What has fewer points stands in front, and larger; a line between few points would
            # only hide what is between them.
            markersize=max(4.0, 9.0 - number), zorder=8 - 0.1 * number,
            linewidth=0.9 if n_steps == densest else 0.0,
            color=_colour(0.1 + 0.75 * number / len(chosen)),
            label=f"P = {n_steps}" if question.kind == "steps" else horizon,
        )  # fmt: skip
    trained = members[0].trained
    left, right = axis.get_xlim()
    for begin, end in ((left, trained.shortest_fs), (trained.longest_fs, right)):
        if begin < end:
            axis.axvspan(begin, end, facecolor="none", edgecolor="0.8", hatch="//")
    axis.set_xlim(left, right)


def _draw_reference(axis: Axes, name: str, answered: Sequence[tuple[Question, Answer]]) -> None:
    """One line for each set of windows: beyond the task's horizon they are others."""
    sets: dict[tuple[str, ...], dict[float, float]] = {}
    for question, answer in answered:
        points = zip(answer.lags_fs, _scaled([answer]), strict=True)
        sets.setdefault(question.windows.states.start_id, {}).update(points)
    style, colour = REFERENCE_STYLES[name]
    for points in sets.values():
        lags = sorted(points)
        mse = [points[lag] for lag in lags]
        axis.plot(lags, mse, linestyle=style, color=colour, linewidth=1.2, label=name)


def _scaled(answers: Sequence[Answer]) -> np.ndarray:
    """Mean over seeds, in the printed unit."""
    return PRINTED_SCALE * np.mean([answer.mse for answer in answers], axis=0)


def _colour(fraction: float) -> Any:
    import matplotlib

    return matplotlib.colormaps["viridis"](fraction)
