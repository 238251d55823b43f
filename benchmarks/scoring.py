"""Squared errors of a model on one set of windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks import metrics
from benchmarks.data import Part, Windows

if TYPE_CHECKING:
    from benchmarks.protocol import Model


@dataclass(frozen=True)
class Errors:
    """Squared errors of one set of windows: raw and aligned (n_starts, P) A^2, failed (n_starts,).

    NaN where a lag is padding; aligned also where fewer than 3 atoms are scored.
    """

    lags_fs: np.ndarray
    raw: np.ndarray
    aligned: np.ndarray
    failed: np.ndarray


def predict_errors(model: Model, windows: Windows, batch_size: int = 64) -> Errors:
    """Squared errors of a model; a failed prediction is scored as persistence.

    Failed is what the model says, and any prediction with a scored coordinate that is not finite.
    """
    states, lags = windows.states, windows.lags_fs
    raw, aligned, failed = [], [], []
    for first in range(0, len(states), batch_size):
        rows = range(first, min(first + batch_size, len(states)))
        batch, batch_lags = states.select(rows), lags[list(rows)]
        target = windows.targets[list(rows)]
        positions, gave_up = model.predict(batch, batch_lags)
        scored = batch.score_mask[:, None, :, None] & ~torch.isnan(batch_lags)[:, :, None, None]
        gave_up = gave_up | (scored & ~torch.isfinite(positions)).flatten(1).any(1)
        still = batch.positions[:, None].expand_as(positions)
        positions = torch.where(scored & ~gave_up[:, None, None, None], positions, still)
        arguments = (positions, target, batch.score_mask, batch_lags)
        raw.append(metrics.squared_errors(*arguments))
        aligned.append(metrics.aligned_squared_errors(*arguments))
        failed.append(gave_up.numpy())
    return Errors(
        lags.double().numpy(), np.concatenate(raw), np.concatenate(aligned), np.concatenate(failed)
    )


def validation_s2s(model: Model, part: Part) -> float:
    """S2S, mean over molecules, A^2: what early stopping looks at."""
    errors = predict_errors(model, part.windows)
    return float(
        metrics.mean_over_molecules(
            metrics.per_molecule(metrics.s2s(errors.raw), part.windows.states.molecule)
        )
    )
