"""The registry: one line a model."""

from __future__ import annotations

from typing import Any

from benchmarks.interface import Budget, FitReport, Model
from benchmarks.models.atom import AtomGat, AtomJoint, AtomStart
from benchmarks.models.egnn import Egnn
from benchmarks.models.egnn_rollout import EgnnRollout
from benchmarks.models.egno import Egno
from benchmarks.models.force_field import RollsOut
from benchmarks.models.harmonic import Harmonic
from benchmarks.models.mace import Mace
from benchmarks.models.trivial import (
    Ballistic,
    Blend,
    Centroid,
    MeanStructure,
    Persistence,
    RelaxedStructure,
)
from tg80.errors import UserError

MODELS: dict[str, type[Model]] = {
    model.id: model
    for model in (
        AtomJoint,
        AtomStart,
        AtomGat,
        Egno,
        Egnn,
        EgnnRollout,
        Mace,
        Persistence,
        Ballistic,
        Centroid,
        MeanStructure,
        RelaxedStructure,
        Harmonic,
        Blend,
    )
}
# Thousands of evaluations a prediction: studies of many predictions take these only if named.
ROLLED_OUT = tuple(name for name, model in MODELS.items() if issubclass(model, RollsOut))
TRIVIAL = tuple(name for name, model in MODELS.items() if not model.trains)

__all__ = [
    "MODELS",
    "ROLLED_OUT",
    "TRIVIAL",
    "Budget",
    "FitReport",
    "Model",
    "make_model",
    "model_class",
]


def model_class(model_id: str) -> type[Model]:
    """The model of that id.

    Raises:
        UserError: it is not registered.
    """
    if model_id not in MODELS:
        raise UserError(f"unknown model {model_id!r}; choose one of {', '.join(MODELS)}")
    return MODELS[model_id]


def make_model(model_id: str, **settings: Any) -> Model:
    """A model before fitting; trivial predictors take no settings."""
    return model_class(model_id)(**settings)
