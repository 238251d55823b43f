"""The registry: one line a model."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from benchmarks.interface import Budget, FitReport, Model
from benchmarks.models.cards import read_card
from benchmarks.models.force_fields.rollout import RollsOut
from tg80.errors import UserError

_REGISTRY = {
    "atom": "atom:AtomJoint",
    "atom-start": "atom:AtomStart",
    "atom-gat": "atom:AtomGat",
    "atom-modes": "modes.model:AtomModes",
    "egno": "egno:Egno",
    "egnn": "egnn:Egnn",
    "egnn-rollout": "egnn_rollout:EgnnRollout",
    "flashmd": "flashmd.model:Flashmd",
    "mace": "force_fields.mace:Mace",
    "nequip": "force_fields.nequip:Nequip",
    "valence": "force_fields.valence.model:Valence",
    "gfn2-xtb": "force_fields.gfn2:Gfn2",
    "sgdml": "force_fields.sgdml:Sgdml",
    "persistence": "trivial:Persistence",
    "ballistic": "trivial:Ballistic",
    "centroid": "trivial:Centroid",
    "mean-structure": "trivial:MeanStructure",
    "relaxed-structure": "trivial:RelaxedStructure",
    "harmonic": "harmonic:Harmonic",
    "fitted-harmonic": "harmonic:FittedHarmonic",
    "delta-harmonic": "harmonic:DeltaHarmonic",
    "blend": "trivial:Blend",
}


def _find(place: str) -> type[Model]:
    module, _, name = place.partition(":")
    return getattr(import_module(f"{__name__}.{module}"), name)


MODELS = {model_id: _find(place) for model_id, place in _REGISTRY.items()}
# Thousands of evaluations a prediction: studies of many predictions take these only if named.
ROLLED_OUT = tuple(name for name, model in MODELS.items() if issubclass(model, RollsOut))
# What runs beside every learnt model: no training, and no rollouts.
TRIVIAL = tuple(name for name in MODELS if not read_card(name).trains and name not in ROLLED_OUT)

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
