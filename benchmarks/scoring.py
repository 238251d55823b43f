"""Squared errors of a model on one set of windows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
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


@dataclass(frozen=True)
class _Predicted:
    """A model's answer for some windows, persistence where it failed; arrays as in `Windows`."""

    positions: torch.Tensor
    still: torch.Tensor
    target: torch.Tensor
    score_mask: torch.Tensor
    lags_fs: torch.Tensor
    failed: torch.Tensor

    def squared(self, positions: torch.Tensor) -> np.ndarray:
        """Squared errors (B, P) of positions."""
        return metrics.squared_errors(positions, self.target, self.score_mask, self.lags_fs)


def _predict(model: Model, windows: Windows, batch_size: int) -> Iterator[_Predicted]:
    """Failed is what the model says, and a prediction with a scored coordinate not finite."""
    states, lags = windows.states, windows.lags_fs
    for first in range(0, len(states), batch_size):
        rows = range(first, min(first + batch_size, len(states)))
        batch, batch_lags = states.select(rows), lags[list(rows)]
        positions, failed = model.predict(batch, batch_lags)
        scored = batch.score_mask[:, None, :, None] & ~torch.isnan(batch_lags)[:, :, None, None]
        failed = failed | (scored & ~torch.isfinite(positions)).flatten(1).any(1)
        still = batch.positions[:, None].expand_as(positions)
        positions = torch.where(scored & ~failed[:, None, None, None], positions, still)
        target = windows.targets[list(rows)]
        yield _Predicted(positions, still, target, batch.score_mask, batch_lags, failed)


def predict_errors(model: Model, windows: Windows, batch_size: int = 64) -> Errors:
    """Squared errors of a model; a failed prediction is scored as persistence."""
    raw, aligned, failed = [], [], []
    for found in _predict(model, windows, batch_size):
        raw.append(found.squared(found.positions))
        arguments = (found.positions, found.target, found.score_mask, found.lags_fs)
        aligned.append(metrics.aligned_squared_errors(*arguments))
        failed.append(found.failed.numpy())
    return Errors(
        windows.lags_fs.double().numpy(),
        np.concatenate(raw), np.concatenate(aligned), np.concatenate(failed),
    )  # fmt: skip


def validation_error(model: Model, parts: Sequence[Part], batch_size: int = 64) -> float:
    """S2T over that of persistence: what early stopping looks at.

    The geometric mean over molecules, then over parts. Errors of floppy molecules are tens of times
    those of stiff ones and hardly predictable, and a stiff molecule that was not understood can
    have many times the error of persistence: a mean of either would be that of one molecule alone.
    """
    return math.exp(np.mean([_log_ratio(model, part, batch_size) for part in parts]))


def _log_ratio(model: Model, part: Part, batch_size: int) -> float:
    own, still = [], []
    for found in _predict(model, part.windows, batch_size):
        own.append(found.squared(found.positions))
        still.append(found.squared(found.still))
    names = part.windows.states.molecule
    by_model, by_persistence = (
        metrics.per_molecule(metrics.s2t(np.concatenate(errors)), names) for errors in (own, still)
    )
    # No error at all has no logarithm.
    tiny = np.finfo(float).tiny
    return float(np.mean([np.log(max(by_model[n], tiny) / by_persistence[n]) for n in by_model]))
