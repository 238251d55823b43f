"""Lags as a continuous input: `atom-bench horizons` asks trained models for other lags.

The same weights are scored with other numbers P of steps, at horizons short of and beyond the one
they were trained for, and at irregular lags; persistence and blend stand beside them on the same
windows.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.interface import Model
from benchmarks.runs.evaluation import fit_references
from benchmarks.runs.records import Record
from benchmarks.runs.saved import SavedRun
from benchmarks.scoring import metrics
from benchmarks.scoring.errors import predict_errors
from benchmarks.scoring.metrics import PRINTED_SCALE
from benchmarks.scoring.significance import with_spread
from benchmarks.tasks.data import BenchmarkData, windows_at
from benchmarks.tasks.scored_windows import Windows
from benchmarks.tasks.tasks import uniform_lags
from benchmarks.training.settings import DEFAULT_FIXED_LAG_FRACTION
from tg80.console import Table
from tg80.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN_REFERENCES = ("persistence", "blend")
HORIZON_FACTORS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0)
DEPENDENCE_WINDOWS = 32


@dataclass(frozen=True)
class Question:
    """One list of lags that is asked in one part.

    Attributes:
        kind: "steps" (P lags to the task's horizon), "horizons" (P as in the task) or "irregular".
        windows: start states and truth: the task's windows, and other ones beyond its horizon.
    """

    part: str
    kind: str
    lags_fs: tuple[float, ...]
    windows: Windows


@dataclass(frozen=True)
class Answer:
    """Errors of one model on one question, by lag; A^2, mean over molecules.

    Attributes:
        lags_fs: real lags, rounded to stored frames. skill: against the reference of the task,
            median over molecules; None for references.
    """

    lags_fs: tuple[float, ...]
    mse: tuple[float, ...]
    skill: tuple[float, ...] | None = None


@dataclass(frozen=True)
class TrainedRange:
    """The lags a model was trained for.

    Attributes:
        shortest_fs: shorter lags are extrapolation.
        longest_fs: longer lags are extrapolation.
        fixed_lags_fs: lags of which it saw many windows; others inside are interpolation.
    """

    shortest_fs: float
    longest_fs: float
    fixed_lags_fs: tuple[float, ...]

    def kind(self, lag_fs: float) -> str:
        """ "trained", "interpolation" or "extrapolation"."""
        if any(abs(lag_fs - lag) < 1e-6 for lag in self.fixed_lags_fs):
            return "trained"
        inside = self.shortest_fs - 1e-6 <= lag_fs <= self.longest_fs + 1e-6
        return "interpolation" if inside else "extrapolation"


def trained_range(record: Record, frame_fs: float) -> TrainedRange:
    """What a record says of the lags its model saw."""
    training = record.settings.get("training", {})
    lags = record.spec.lags_fs
    fraction = training.get("fixed_lag_fraction")
    if fraction is None:
        fraction = 0.0 if record.spec.multi_task else DEFAULT_FIXED_LAG_FRACTION
    longest = record.fit.longest_lag_fs or lags[-1]
    return TrainedRange(
        # Horizons are drawn from some femtoseconds on, and no lag is shorter than a frame.
        shortest_fs=lags[0] if fraction == 1 else frame_fs,
        longest_fs=longest,
        fixed_lags_fs=tuple(lag for lag in lags if lag <= longest) if fraction > 0 else (),
    )


def questions(
    data: BenchmarkData,
    *,
    steps: Sequence[int],
    horizons_fs: Sequence[float],
    irregular: int,
    seed: int = 0,
) -> tuple[list[Question], list[str]]:
    """All that is asked in the test parts, and what is refused there.

    Args:
        data: fold and task.
        steps: numbers P of uniform lags up to the horizon of the task.
        horizons_fs: horizons, each with as many uniform lags as the task has.
        irregular: number of lists of random lags.
        seed: of the random lags.

    Returns:
        The questions, and one line for each horizon that is longer than a block of a part.
    """
    horizon, n_lags = data.task.horizon_fs, len(data.task.lags_fs)
    frame_fs = data.training.trajectories[0].frame_fs
    asked = [("steps", uniform_lags(horizon, p)) for p in steps]
    asked += [("horizons", uniform_lags(h, n_lags)) for h in horizons_fs]
    rng = np.random.default_rng(seed)
    frames = np.arange(1, round(horizon / frame_fs) + 1)
    for _ in range(irregular):
        chosen = np.sort(rng.choice(frames, min(n_lags, frames.size), replace=False))
        asked.append(("irregular", tuple(float(f * frame_fs) for f in chosen)))
    found, refused = [], []
    for part in (name for name in data.parts if name != "val"):
        for kind, lags in asked:
            try:
                found.append(Question(part, kind, lags, windows_at(data, part, lags)))
            except UserError as error:
                refused.append(f"{part}: {error}")
    return found, refused


def answer(model: Model, question: Question, best: Mapping[str, np.ndarray] | None) -> Answer:
    """Score a model on a question.

    Args:
        model: a trained or trivial model.
        question: windows and lags.
        best: by molecule, the errors (P,) of the reference of skill.
    """
    names = question.windows.states.molecule
    table = metrics.per_molecule(predict_errors(model, question.windows).raw, names)
    mse = metrics.mean_over_molecules(table)
    keep = ~np.isnan(mse)
    lags = question.windows.lags_fs[0].double().numpy()
    skill = None
    if best is not None:
        skill = metrics.median_over_molecules(metrics.skill(table, best))[keep]
    return Answer(
        _floats(lags[keep]), _floats(mse[keep]), None if skill is None else _floats(skill)
    )


@dataclass(frozen=True)
class Dependence:
    """How much the prediction at a lag depends on the other lags of the call.

    Root mean squares over windows, scored atoms and lags, A.

    Attributes:
        alone_8: difference between the predictions at lags asked one by one, and among 8.
        alone_32: the same of one by one, and among 32.
        eight_32: the same of among 8, and among 32.
        largest: the largest of all three, of one atom and lag.
        displacement: predicted displacement, to compare with.
    """

    alone_8: float
    alone_32: float
    eight_32: float
    largest: float
    displacement: float


@torch.no_grad()
def dependence(model: Model, data: BenchmarkData) -> Dependence:
    """Compare predictions at eight lags to the task's horizon, asked alone, among 8 and 32."""
    part = data.parts.get("test_time") or next(iter(data.parts.values()))
    states = part.windows.states
    count = min(DEPENDENCE_WINDOWS, len(states))
    states = states.select(np.linspace(0, len(states) - 1, count).astype(int).tolist())

    def predict(lags: Sequence[float]) -> torch.Tensor:
        return model.predict(states, torch.tensor([lags] * len(states)))[0].double()

    horizon = data.task.horizon_fs
    eight = uniform_lags(horizon, 8)
    alone = torch.cat([predict([lag]) for lag in eight], dim=1)
    among_8 = predict(eight)
    among_32 = predict(uniform_lags(horizon, 32))[:, 3::4]
    scored = states.score_mask[:, None, :].expand(*among_8.shape[:3])

    def rms(difference: torch.Tensor) -> float:
        return float(difference.square().sum(-1)[scored].mean().sqrt())

    pairs = (alone - among_8, alone - among_32, among_8 - among_32)
    largest = max(float(d.norm(dim=-1)[scored].max()) for d in pairs)
    moved = among_8 - states.positions[:, None]
    return Dependence(rms(pairs[0]), rms(pairs[1]), rms(pairs[2]), largest, rms(moved))


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


@dataclass(frozen=True)
class Curves:
    """One trained model: its answers in the order of the questions."""

    label: str
    seed: int | None
    trained: TrainedRange
    answers: tuple[Answer, ...]
    dependence: Dependence


@dataclass(frozen=True)
class Study:
    """All of it.

    Attributes:
        references: model id -> answers.
        refused: horizons that fit no block, a line each.
    """

    questions: tuple[Question, ...]
    curves: tuple[Curves, ...]
    references: dict[str, tuple[Answer, ...]]
    refused: tuple[str, ...]


def study(
    runs: Sequence[SavedRun],
    data: BenchmarkData,
    asked: Sequence[Question],
    refused: Sequence[str],
    *,
    tell: Callable[[str], None] = lambda _: None,
) -> Study:
    """Ask every run's model, and the references.

    Args:
        runs: trained models.
        data: fold and task.
        asked: questions of `questions`.
        refused: refusals of `questions`.
        tell: called with the name of the next model.
    """
    tell("references")
    fitted = fit_references(data)
    best = [fitted.best(question.part, question.windows).raw for question in asked]
    references = {
        name: tuple(answer(fitted.models[name], question, None) for question in asked)
        for name in SHOWN_REFERENCES
    }
    frame_fs = data.training.trajectories[0].frame_fs
    curves = []
    for run in runs:
        tell(f"{run.label}, seed {run.record.seed}")
        model = run.load()
        answers = tuple(answer(model, q, b) for q, b in zip(asked, best, strict=True))
        curves.append(
            Curves(
                run.label, run.record.seed, trained_range(run.record, frame_fs), answers,
                dependence(model, data),
            )
        )  # fmt: skip
    return Study(tuple(asked), tuple(curves), references, tuple(refused))


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


def tables(study: Study) -> list[Table]:
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
                result.append(Table(f"{part}: {title}, MSE x 1e-2 A^2", heading, rows))
    result.append(_dependence_table(groups))
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


def _dependence_table(groups: dict[str, list[Curves]]) -> Table:
    keys = ("alone_8", "alone_32", "eight_32", "largest", "displacement")
    return Table(
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
    from matplotlib.figure import Figure

    members = by_label(study)[label]
    parts = list(dict.fromkeys(q.part for q in study.questions))
    drawing = Figure(figsize=(3.9 * len(parts), 7.4), layout="constrained")
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
