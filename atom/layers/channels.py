"""The order of channels inside the blocks: each head holds as many scalars as vectors."""

from __future__ import annotations

import torch
from torch import Tensor


def deal_channels(features: Tensor, n_heads: int) -> Tensor:
    """Give each head the same number of scalars and of whole vectors.

    Args:
        features: (..., d) in e3nn's order, d/4 scalars and then d/4 vectors.
        n_heads: number of heads.

    Returns:
        (..., d), head after head, each with its scalars first.
    """
    m = features.shape[-1] // 4
    parts = [t.unflatten(-1, (n_heads, -1)) for t in features.split([m, 3 * m], dim=-1)]
    return torch.cat(parts, dim=-1).flatten(-2)


def gather_channels(features: Tensor, n_heads: int) -> Tensor:
    """Undo :func:`deal_channels`."""
    heads = features.unflatten(-1, (n_heads, -1))
    m = heads.shape[-1] // 4
    return torch.cat([t.flatten(-2) for t in heads.split([m, 3 * m], dim=-1)], dim=-1)
