"""Errors that count each molecule once and ignore padding."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

LossKind = Literal["mse", "rmse"]
# Errors below this, A, count as zero: the root keeps a finite gradient.
ROOT_SOFTENING_ANGSTROM = 0.003


def masked_loss(
    predicted: Tensor,
    targets: Tensor,
    scored: Tensor,
    valid: Tensor,
    lag_weights: Tensor | None = None,
    kind: LossKind = "mse",
) -> Tensor:
    """Mean squared error per molecule, or its root at each lag, averaged over molecules.

    Squares let floppy molecules and long lags, whose errors are a hundred times those of stiff ones
    and cannot be helped, drown the rest; roots differ by a factor of ten.

    Args:
        predicted: (B, P, N, 3), A.
        targets: (B, P, N, 3), A; anything, NaN included, where nothing is scored.
        scored: (B, N) bool, atoms that count.
        valid: (B, P) bool, lags that count.
        lag_weights: (P,) or (B, P), not negative; equal by default.
        kind: ``mse``, or ``rmse``: sqrt of the mean over atoms and coordinates at one lag.

    Returns:
        Scalar, A^2 or A; molecules with nothing scored are left out of the mean.
    """
    counts = valid[:, :, None] & scored[:, None, :]
    # Replaced before the subtraction: NaN times a zero weight would still be NaN.
    targets = torch.where(counts[..., None], targets.to(predicted), predicted.detach())
    error = (predicted - targets).square().mean(-1)
    weight = counts.to(predicted)
    if kind == "rmse":
        n_atoms = weight.sum(-1)
        by_lag = (weight * error).sum(-1) / n_atoms.clamp(min=1)
        error = (by_lag + ROOT_SOFTENING_ANGSTROM**2).sqrt()[..., None]
        weight = (n_atoms > 0).to(predicted)[..., None]
    if lag_weights is not None:
        weight = weight * lag_weights.to(predicted).expand(valid.shape)[..., None]
    total = weight.sum((1, 2))
    per_molecule = (weight * error).sum((1, 2)) / total.where(total > 0, 1.0)
    return per_molecule.sum() / (total > 0).sum().clamp(min=1)
