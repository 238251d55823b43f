"""Squared errors of a model on one set of windows."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks.scoring import metrics
from benchmarks.scoring.failures import persistence_where_failed
from benchmarks.tasks.scored_windows import Part, Windows

if TYPE_CHECKING:
    from benchmarks.interface import Model


@dataclass(frozen=True)
class Errors:
    """Squared errors of one set of windows; NaN where a lag is padding.

    Attributes:
        lags_fs: (n_starts, P) fs.
        raw: (n_starts, P) A^2.
        aligned: (n_starts, P) A^2; NaN also where fewer than 3 atoms are scored.
        failed: (n_starts,) bool.
    """

    lags_fs: np.ndarray
    raw: np.ndarray
    aligned: np.ndarray
    failed: np.ndarray


@dataclass(frozen=True)
class Answer:
    """The predictions of a model for one set of windows.

    Attributes:
        errors: of the predictions.
        positions: (B, P, N, 3) A, the model's own, whatever they are.
        seconds: CPU time of all predictions (wall time on a GPU).
    """

    errors: Errors
    positions: np.ndarray
    seconds: float


@dataclass(frozen=True)
class _Predicted:
    """A model's answer for some windows; arrays as in `Windows`.

    Attributes:
        own: positions as the model gave them.
        seconds: that it took.
        positions: persistence where it failed.
    """

    own: torch.Tensor
    seconds: float
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
    """Predict batch by batch."""
    states, lags = windows.states, windows.lags_fs
    for first in range(0, len(states), batch_size):
        rows = range(first, min(first + batch_size, len(states)))
        batch, batch_lags = states.select(rows), lags[list(rows)]
        begin = _now(model)
        own, failed = model.predict(batch, batch_lags)
        seconds = _now(model) - begin
        positions, failed = persistence_where_failed(own, failed, batch, batch_lags)
        still = batch.positions[:, None].expand_as(own)
        target = windows.targets[list(rows)]
        yield _Predicted(
            own, seconds, positions, still, target, batch.score_mask, batch_lags, failed
        )


def _now(model: Model) -> float:
    # As training is timed: CPU time does not depend on what else the machine does.
    device = getattr(model, "device", None)
    on_gpu = isinstance(device, torch.device) and device.type == "cuda"
    return time.perf_counter() if on_gpu else time.process_time()


def predict_errors(model: Model, windows: Windows, batch_size: int = 64) -> Errors:
    """Compute squared errors of a model; a failed prediction is scored as persistence."""
    return ask(model, windows, batch_size).errors


def ask(model: Model, windows: Windows, batch_size: int = 64) -> Answer:
    """Predict, and compute squared errors; a failed prediction is scored as persistence."""
    raw, aligned, failed, own, seconds = [], [], [], [], 0.0
    for found in _predict(model, windows, batch_size):
        raw.append(found.squared(found.positions))
        arguments = (found.positions, found.target, found.score_mask, found.lags_fs)
        aligned.append(metrics.aligned_squared_errors(*arguments))
        failed.append(found.failed.numpy())
        own.append(found.own.numpy())
        seconds += found.seconds
    errors = Errors(
        lags_fs=windows.lags_fs.double().numpy(),
        raw=np.concatenate(raw),
        aligned=np.concatenate(aligned),
        failed=np.concatenate(failed),
    )
    return Answer(errors, np.concatenate(own), seconds)


def validation_error(model: Model, parts: Sequence[Part], batch_size: int = 64) -> float:
    """Compute S2T over that of persistence, which decides early stopping.

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
