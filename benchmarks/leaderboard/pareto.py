"""The Pareto front of cost and skill: who is beaten by no cheaper model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

FRONT_LAGS_FS = (120.0, 480.0, 960.0)
"""Lags of the fronts; those of the task that are nearest take their place."""

SAME_COST = 1.05
"""Costs are equal if one is no more than so many times the other: clocks jitter."""


@dataclass(frozen=True)
class Fronts:
    """The lags in fs at which a line is on the front of its table, for each kind of cost.

    Attributes:
        seconds_per_trajectory: front of skill and time of a prediction.
        training_seconds: front of skill and time of training.
    """

    seconds_per_trajectory: tuple[float, ...] = ()
    training_seconds: tuple[float, ...] = ()


def front_lags(lags_fs: Sequence[float]) -> list[float]:
    """The lags that are nearest to `FRONT_LAGS_FS`, each once, in order of time."""
    return sorted({min(lags_fs, key=lambda lag: abs(lag - wanted)) for wanted in FRONT_LAGS_FS})


def on_front(costs: Sequence[float | None], skills: Sequence[float | None]) -> list[bool]:
    """Whether no other is as cheap and as skilled, and better in one of both.

    Args:
        costs: one for each model; None where it is not known, then it is not on the front.
        skills: likewise.
    """
    known = [
        (cost, skill)
        for cost, skill in zip(costs, skills, strict=True)
        if cost is not None and skill is not None
    ]

    def is_beaten(cost: float, skill: float) -> bool:
        return any(
            c <= SAME_COST * cost and s >= skill and (SAME_COST * c < cost or s > skill)
            for c, s in known
        )

    return [
        cost is not None and skill is not None and not is_beaten(cost, skill)
        for cost, skill in zip(costs, skills, strict=True)
    ]
