"""What each part of ATOM is worth: `atom-bench ablate` trains without it at the same budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from atom.variants.ablations import ABLATIONS
from benchmarks.interface import Budget
from benchmarks.leaderboard.lines import PART_ORDER, skills_by_lag
from benchmarks.models import make_model
from benchmarks.models.settings import parse_overrides
from benchmarks.runs.evaluation import fit_references
from benchmarks.runs.records import Record, ScoredRun
from benchmarks.runs.runner import run_folder_of, run_once
from benchmarks.scoring import metrics
from benchmarks.scoring.metrics import PRINTED_SCALE, Metric
from benchmarks.scoring.significance import paired_interval, two_sigma
from benchmarks.tasks.data import BenchmarkData
from tg80.console import Table
from tg80.errors import UserError

BASE = "base"
# Models that can be taken apart, by their time attention.
BASES = {"joint": "atom", "start": "atom-start"}


@dataclass(frozen=True)
class Variant:
    """ATOM with one part changed.

    Attributes:
        model: id in the registry.
        settings: of that model.
        overrides: what differs from the base.
        is_base: nothing differs: it is the base under another name.
    """

    name: str
    description: str
    model: str
    settings: dict[str, Any]
    overrides: dict[str, Any]
    is_base: bool


def variants(
    base: str, given: Mapping[str, Any], only: Sequence[str] = (), changes: Sequence[str] = ()
) -> list[Variant]:
    """The base, and every ablation of it.

    Args:
        base: id of the base model, `atom` or `atom-start`.
        given: its settings.
        only: names of ablations; if empty, all of them, or none if there are changes.
        changes: settings such as `training.loss=mse`; each is a variant.

    Raises:
        UserError: an unknown name, or a setting that does not fit.
    """
    unknown = sorted(set(only) - set(ABLATIONS))
    if unknown:
        raise UserError(f"no ablation {unknown[0]!r}; choose from {', '.join(ABLATIONS)}")
    if base not in BASES.values():
        raise UserError(f"{base} has no ablations; choose {' or '.join(BASES.values())}")
    found = [Variant(BASE, f"{base} as it stands", base, dict(given), {}, True)]
    for name in only or (() if changes else ABLATIONS):
        ablation = ABLATIONS[name]
        asked = {"model": ablation.overrides}
        found.append(_variant(name, ablation.description, base, given, asked))
    for change in dict.fromkeys(changes):
        asked = parse_overrides([change], option="--change")
        if not all(isinstance(fields, dict) and part in ("model", "training")
                   for part, fields in asked.items()):  # fmt: skip
            raise UserError(
                f"--change wants model.NAME=VALUE or training.NAME=VALUE, not {change!r}"
            )
        found.append(_variant(change, "this setting", base, given, asked))
    return found


def _variant(
    name: str,
    description: str,
    base: str,
    given: Mapping[str, Any],
    asked: Mapping[str, dict[str, Any]],
) -> Variant:
    """The base with other settings; it may turn out to be the base itself."""
    resolved = make_model(base, **given).settings()
    fields = {"time_attention": resolved["model"]["time_attention"]}
    fields |= given.get("model", {}) | asked.get("model", {})
    training = given.get("training", {}) | asked.get("training", {})
    settings = {**given, **asked, "model": fields, "training": training}
    model = registry_id(fields)
    is_base = model == base and make_model(model, **settings).settings() == resolved
    overrides = {key: value for part in asked.values() for key, value in part.items()}
    return Variant(name, description, model, settings, overrides, is_base)


def registry_id(fields: Mapping[str, Any]) -> str:
    """Model id under which an ATOM of these settings is registered."""
    if fields.get("attention") == "gat":
        return "atom-gat"
    return BASES[fields["time_attention"]]


def run_all(
    chosen: Sequence[Variant],
    data: BenchmarkData,
    *,
    seeds: Sequence[int],
    budget: Budget,
    out: Path,
    progress: Progress,
    tell: Callable[[str], None],
) -> dict[str, list[ScoredRun]]:
    """Train and score every variant with every seed; what is finished is reused.

    Seed after seed, so that all variants can be compared as early as possible.

    Args:
        chosen: the variants.
        data: fold and task.
        seeds: one run of each variant for each seed.
        budget: of each run.
        out: folder of the results.
        progress: shows how far the training is.
        tell: called with one line for each finished run.
    """
    references = fit_references(data)
    done: dict[str, list[ScoredRun]] = {variant.name: [] for variant in chosen}
    total = len(seeds) * len(chosen)
    bar = progress.add_task("ablations", total=total)
    for seed in seeds:
        for variant in chosen:
            number = sum(map(len, done.values())) + 1
            progress.update(bar, description=f"{variant.name}, seed {seed} ({number} of {total})")
            model = make_model(variant.model, **variant.settings)
            _, folder = run_folder_of(model, data, seed=seed, budget=budget, out=out)
            before = set(progress.task_ids)
            record = run_once(
                model, data, seed=seed, budget=budget, out=out, references=references,
                progress=progress,
            )  # fmt: skip
            for task in set(progress.task_ids) - before:
                progress.remove_task(task)
            progress.advance(bar)
            done[variant.name].append(ScoredRun.read(folder, record))
            tell(f"[{number}/{total}] {variant.name}, seed {seed}: {_summary(record)}")
    return done


def _summary(record: Record) -> str:
    shown = (
        f"{part} {PRINTED_SCALE * _known(record.value(part, Metric.S2S)):.3g}"
        for part in _scored_parts([record])
    )
    return f"S2S x 1e-2 A^2: {', '.join(shown)}"


def _scored_parts(records: Sequence[Record]) -> list[str]:
    """Parts that no choice was made on, in the order of tables."""
    found = {part for record in records for part in record.parts} - {"val", "val_time", "train"}
    return [part for part in PART_ORDER if part in found]


@dataclass(frozen=True)
class Effect:
    """One figure of one variant in one part, over seeds; errors in A^2.

    Attributes:
        mean: over seeds.
        spread: twice the standard deviation over seeds; None with one.
        difference: of the means, variant less base.
        error: twice the standard error of the difference.
        interval: 95 % interval of the difference over molecules and windows, seeds averaged;
            None for skill.
        is_clear: the difference is beyond chance over seeds, and over molecules.
    """

    values: tuple[float, ...]
    mean: float
    spread: float | None
    difference: float
    error: float | None
    interval: tuple[float, float] | None
    is_clear: bool


@dataclass(frozen=True)
class PartEffects:
    """The figures of one variant in one part; skill at the longest and at the shortest lag."""

    s2t: Effect
    s2s: Effect
    skill_short: Effect
    skill: Effect


@dataclass(frozen=True)
class Trained:
    """What training took, means over seeds."""

    n_parameters: int
    n_steps: float
    cpu_seconds: float

    @classmethod
    def of(cls, runs: Sequence[ScoredRun]) -> Trained:
        fits = [run.record.fit for run in runs]
        steps = float(np.mean([fit.n_steps for fit in fits]))
        seconds = float(np.mean([fit.cpu_seconds for fit in fits]))
        return cls(fits[0].n_parameters, steps, seconds)


def effects(done: Mapping[str, Sequence[ScoredRun]]) -> dict[str, dict[str, PartEffects]]:
    """Compute what each variant is worth in each part."""
    base = done[BASE]
    parts = _scored_parts([run.record for run in base])
    return {
        name: {
            part: PartEffects(
                s2t=_error_effect(runs, base, part, Metric.S2T),
                s2s=_error_effect(runs, base, part, Metric.S2S),
                skill_short=_skill_effect(runs, base, part, min),
                skill=_skill_effect(runs, base, part, max),
            )
            for part in parts
        }
        for name, runs in done.items()
    }


def _error_effect(
    runs: Sequence[ScoredRun], base: Sequence[ScoredRun], part: str, metric: Metric
) -> Effect:
    reduce = metrics.s2t if metric is Metric.S2T else metrics.s2s
    mine, theirs = (
        np.mean([reduce(run.raw(part)) for run in group], axis=0) for group in (runs, base)
    )
    return _effect(
        [_known(run.record.value(part, metric)) for run in runs],
        [_known(run.record.value(part, metric)) for run in base],
        paired_interval(mine - theirs, runs[0].names(part, "molecule")),
    )


def _skill_effect(
    runs: Sequence[ScoredRun],
    base: Sequence[ScoredRun],
    part: str,
    lag_of: Callable[[Iterable[float]], float],
) -> Effect:
    mine, theirs = (
        [skills[lag_of(skills)] for run in group for skills in [skills_by_lag([run.record], part)]]
        for group in (runs, base)
    )
    return _effect(mine, theirs, None)


def _known(value: float | None) -> float:
    assert value is not None, "every part of a record has its averages"
    return value


def _effect(
    mine: Sequence[float], base: Sequence[float], interval: tuple[float, float] | None
) -> Effect:
    spread, error = two_sigma(mine), None
    if len(mine) > 1:
        variances = [np.var(values, ddof=1) / len(values) for values in (mine, base)]
        error = 2 * float(np.sqrt(sum(variances)))
    difference = float(np.mean(mine) - np.mean(base))
    is_clear = error is not None and abs(difference) > error
    if interval is not None:
        is_clear = is_clear and interval[0] * interval[1] > 0
    mean = float(np.mean(mine))
    return Effect(tuple(mine), mean, spread, difference, error, interval, is_clear)


def document(chosen: Sequence[Variant], done: Mapping[str, Sequence[ScoredRun]]) -> dict[str, Any]:
    """Everything as JSON-able figures; errors in A^2."""
    found = effects(done)
    variants = []
    for variant in chosen:
        runs, own = done[variant.name], asdict(variant)
        del own["settings"]
        variants.append(
            own
            | asdict(Trained.of(runs))
            | {
                "keys": [one.record.key for one in runs],
                "parts": {part: asdict(both) for part, both in found[variant.name].items()},
            }
        )
    return {"unit": "A^2", "variants": variants}


def tables(chosen: Sequence[Variant], done: Mapping[str, Sequence[ScoredRun]]) -> list[Table]:
    """One table for each part, and one of what was trained."""
    found = effects(done)
    n_seeds = len(done[BASE])
    result = [
        Table(
            f"{part}: errors x 1e-2 A^2, {n_seeds} seed{'s' if n_seeds > 1 else ''}",
            ("variant", "S2T", "S2T - base", "S2S", "S2S - base", "95 % over molecules",
             f"skill {lags[0]:g} fs", "- base", f"skill {lags[-1]:g} fs", "- base", "clear"),
            [_row(v, found[v.name][part]) for v in chosen],
        )
        for part in found[BASE]
        for lags in [list(skills_by_lag([done[BASE][0].record], part))]
    ]  # fmt: skip
    columns = {
        "variant": "{0.name}",
        "parameters": "{1.n_parameters:,}",
        "steps": "{1.n_steps:.0f}",
        "CPU s": "{1.cpu_seconds:.0f}",
        "what differs": "{0.description}",
    }
    trained = [(variant, Trained.of(done[variant.name])) for variant in chosen]
    return [*result, Table.of("Trained", columns, trained)]


def _row(variant: Variant, found: PartEffects) -> tuple[str, ...]:
    s2t, s2s, short, skill = found.s2t, found.s2s, found.skill_short, found.skill
    name = variant.name if variant.name == BASE or not variant.is_base else f"{variant.name} = base"
    if variant.is_base:
        skills = _value(short, 1), "-", _value(skill, 1), "-"
        return name, _value(s2t), "-", _value(s2s), "-", "-", *skills, "-"
    low, high = s2s.interval or (0.0, 0.0)
    return (
        name,
        _value(s2t),
        _difference(s2t),
        _value(s2s),
        _difference(s2s),
        f"{PRINTED_SCALE * low:+.3f} .. {PRINTED_SCALE * high:+.3f}",
        _value(short, 1),
        _difference(short, 1),
        _value(skill, 1),
        _difference(skill, 1),
        "yes" if s2s.is_clear else "no",
    )


def _value(effect: Effect, scale: float = PRINTED_SCALE) -> str:
    """Mean over seeds, and twice their standard deviation."""
    spread = "" if effect.spread is None else f" ± {scale * effect.spread:.3f}"
    return f"{scale * effect.mean:.3f}{spread}"


def _difference(effect: Effect, scale: float = PRINTED_SCALE) -> str:
    error = "" if effect.error is None else f" ± {scale * effect.error:.3f}"
    return f"{scale * effect.difference:+.3f}{error}"
