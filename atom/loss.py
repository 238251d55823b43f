"""Squared error that counts each molecule once and ignores padding."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_loss(
    predicted: Tensor,
    targets: Tensor,
    scored: Tensor,
    valid: Tensor,
    lag_weights: Tensor | None = None,
) -> Tensor:
    """Mean squared error per molecule, averaged over molecules.

    Args:
        predicted: (B, P, N, 3), A.
        targets: (B, P, N, 3), A; anything, NaN included, where nothing is scored.
        scored: (B, N) bool, atoms that count.
        valid: (B, P) bool, lags that count.
        lag_weights: (P,) or (B, P), not negative; equal by default.

    Returns:
        Scalar, A^2; molecules with nothing scored are left out of the mean.
    """
    counts = valid[:, :, None] & scored[:, None, :]
    # Replaced before the subtraction: NaN times a zero weight would still be NaN.
    targets = torch.where(counts[..., None], targets.to(predicted), predicted.detach())
    error = (predicted - targets).square().mean(-1)
    weight = counts.to(predicted)
    if lag_weights is not None:
        weight = weight * lag_weights.to(predicted).expand(valid.shape)[..., None]
    total = weight.sum((1, 2))
    per_molecule = (weight * error).sum((1, 2)) / total.where(total > 0, 1.0)
    return per_molecule.sum() / (total > 0).sum().clamp(min=1)
