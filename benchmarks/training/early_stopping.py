"""Early stopping: which weights are kept, and whether training ends before its budget."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch


class EarlyStopping:
    """What validation has said so far.

    Args:
        weights: kept until the first validation.
        patience: validations without a better one before training stops; None: it never does.

    Attributes:
        best: the weights that are kept.
        best_validation: their error, None before the first validation.
        strikes: validations since then that were no better.
    """

    def __init__(self, weights: Mapping[str, torch.Tensor], patience: int | None) -> None:
        self.best: dict[str, Any] = copy.deepcopy(dict(weights))
        self.patience = patience
        self.best_validation: float | None = None
        self.strikes = 0

    @property
    def has_stopped(self) -> bool:
        """Whether training is to end."""
        return self.patience is not None and self.strikes >= self.patience

    def judge(self, error: float, weights: Mapping[str, torch.Tensor]) -> None:
        """Keep the weights if their validation error is the smallest yet, and finite."""
        if math.isfinite(error) and (self.best_validation is None or error < self.best_validation):
            self.best_validation, self.strikes = error, 0
            self.best = copy.deepcopy(dict(weights))
        else:
            self.strikes += 1
