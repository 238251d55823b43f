"""Failed predictions: found, counted, and scored as persistence."""

from __future__ import annotations

from typing import NamedTuple

import torch

from benchmarks.tasks.states import StartStates


class Accepted(NamedTuple):
    """Predictions as they are scored.

    Attributes:
        positions: (B, P, N, 3) A, persistence where a prediction failed or nothing is scored.
        failed: (B,) bool.
    """

    positions: torch.Tensor
    failed: torch.Tensor


def persistence_where_failed(
    predicted: torch.Tensor, failed: torch.Tensor, states: StartStates, lags_fs: torch.Tensor
) -> Accepted:
    """Put the start in the place of failed predictions.

    A prediction failed if the model says so, or if a scored coordinate is not finite.

    Args:
        predicted: (B, P, N, 3) A.
        failed: (B,) bool, what the model says.
        states: B start states.
        lags_fs: (B, P) fs, NaN = padding.
    """
    scored = states.score_mask[:, None, :, None] & ~torch.isnan(lags_fs)[:, :, None, None]
    failed = failed | (scored & ~torch.isfinite(predicted)).flatten(1).any(1)
    taken = scored & ~failed[:, None, None, None]
    return Accepted(torch.where(taken, predicted, states.positions[:, None]), failed)
