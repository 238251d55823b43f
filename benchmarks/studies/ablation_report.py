"""What `atom-bench ablate` found, as tables and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.leaderboard.lines import skills_by_lag
from benchmarks.leaderboard.sheets import Sheet
from benchmarks.scoring.metrics import PRINTED_SCALE
from benchmarks.studies.ablate import BASE, Effect, Run, Variant, effects


def document(
    chosen: Sequence[Variant], done: Mapping[str, Sequence[Run]], **run: Any
) -> dict[str, Any]:
    """Everything as JSON-able figures; errors in A^2."""
    found = effects(done)
    return {
        **run,
        "unit": "A^2",
        "variants": [
            {
                "name": v.name,
                "description": v.description,
                "model": v.model,
                "overrides": v.overrides,
                "is_base": v.is_base,
                **_training(done[v.name]),
                "keys": [one.record.key for one in done[v.name]],
                "parts": {
                    part: {key: asdict(e) | {"is_clear": e.is_clear} for key, e in both.items()}
                    for part, both in found[v.name].items()
                },
            }
            for v in chosen
        ],
    }


def _training(runs: Sequence[Run]) -> dict[str, Any]:
    fits = [run.record.fit for run in runs]
    return {
        "n_parameters": fits[0]["n_parameters"],
        "n_steps": float(np.mean([fit["n_steps"] for fit in fits])),
        "cpu_seconds": float(np.mean([fit["cpu_seconds"] for fit in fits])),
    }


def sheets(chosen: Sequence[Variant], done: Mapping[str, Sequence[Run]]) -> list[Sheet]:
    """One table for each part, and one of what was trained."""
    found = effects(done)
    n_seeds = len(done[BASE])
    result = [
        Sheet(
            f"{part}: errors x 1e-2 A^2, {n_seeds} seed{'s' if n_seeds > 1 else ''}",
            ("variant", "S2T", "S2T - base", "S2S", "S2S - base", "95 % over molecules",
             f"skill {lags[0]:g} fs", "- base", f"skill {lags[-1]:g} fs", "- base", "clear"),
            [_row(v, found[v.name][part]) for v in chosen],
        )
        for part in found[BASE]
        for lags in [list(skills_by_lag([done[BASE][0].record], part))]
    ]  # fmt: skip
    result.append(
        Sheet(
            "Trained",
            ("variant", "parameters", "steps", "CPU s", "what differs"),
            [
                (
                    v.name,
                    f"{figures['n_parameters']:,}",
                    f"{figures['n_steps']:.0f}",
                    f"{figures['cpu_seconds']:.0f}",
                    v.description,
                )
                for v in chosen
                for figures in [_training(done[v.name])]
            ],
        )
    )
    return result


def _row(variant: Variant, found: Mapping[str, Effect]) -> tuple[str, ...]:
    s2t, s2s, short, skill = (found[key] for key in ("s2t", "s2s", "skill_short", "skill"))
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
