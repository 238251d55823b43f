"""ATOM: a quasi-equivariant transformer operator that decodes P future states in parallel.

References:
    ATOM: A Pretrained Neural Operator for Multitask Molecular Dynamics, arXiv:2510.05482.
"""

from atom.checkpoint import CheckpointError
from atom.config import PRESETS, ATOMConfig
from atom.model import ATOM
from atom.symmetry import (
    EquivarianceError,
    layer_equivariance,
    permutation_error,
    quasi_equivariance,
    random_orders,
    random_rotations,
    translation_error,
)
from atom.walk import bonded_pairs, random_walk_encoding

__all__ = [
    "ATOM",
    "PRESETS",
    "ATOMConfig",
    "CheckpointError",
    "EquivarianceError",
    "bonded_pairs",
    "layer_equivariance",
    "permutation_error",
    "quasi_equivariance",
    "random_orders",
    "random_rotations",
    "random_walk_encoding",
    "translation_error",
]
