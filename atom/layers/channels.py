"""Initial weights for which the untrained blocks are rotation-equivariant.

Nothing holds the weights there: every entry is free, and training may leave the symmetry where
that pays. Off by default (``equivariant_start``): in trainings of 300 steps on ten small molecules
it did not lower the error.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from atom.config import ATOMConfig

SCALAR = -1


class Layout(NamedTuple):
    """What each channel is.

    Attributes:
        component: (n,), SCALAR, or 0, 1, 2 for x, y, z of a vector.
        index: (n,), which scalar, or which vector.
    """

    component: Tensor
    index: Tensor


def lifted_layout(n_scalars: int, n_vectors: int) -> Layout:
    """Scalars first, then vectors as triples: the order in which e3nn keeps them."""
    return Layout(
        torch.cat([torch.full((n_scalars,), SCALAR), torch.arange(3).repeat(n_vectors)]),
        torch.cat([torch.arange(n_scalars), torch.arange(n_vectors).repeat_interleave(3)]),
    )


def channel_layout(config: ATOMConfig) -> Layout:
    """What each channel of Z is inside the blocks."""
    m, n_heads = config.block_multiplicity, config.n_heads
    plain = lifted_layout(m, m)
    if config.symmetry == "strict":
        return plain
    order = deal_channels(torch.arange(4 * m), n_heads)
    return Layout(plain.component[order], plain.index[order])


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


def equivariant_weight(out: Layout, into: Layout) -> Tensor:
    """A random matrix (n_out, n_in) that maps scalars to scalars and vectors to vectors.

    Uniform with the bound that torch's linear layers use, for the channels that really enter.
    """
    n_in = int(into.index.max()) + 1
    table = torch.empty(2, int(out.index.max()) + 1, n_in).uniform_(-(n_in**-0.5), n_in**-0.5)
    is_vector = (out.component != SCALAR).long()
    weight = table[is_vector[:, None], out.index[:, None], into.index[None]]
    return weight * (out.component[:, None] == into.component[None])


def invariant_weight(out: Layout, into: Layout) -> Tensor:
    """A random matrix (n_out, n_in) that reads scalars only, the same for x, y and z."""
    n_in = int(into.index.max()) + 1
    table = torch.empty(2, int(out.index.max()) + 1, n_in).uniform_(-(n_in**-0.5), n_in**-0.5)
    is_vector = (out.component != SCALAR).long()
    weight = table[is_vector[:, None], out.index[:, None], into.index[None]]
    return weight * (into.component == SCALAR)


def scalar_columns(n_out: int, into: Layout) -> Tensor:
    """A random matrix (n_out, n_in) that reads scalars only, every row on its own."""
    n_in = int((into.component == SCALAR).sum())
    weight = torch.empty(n_out, into.component.numel()).uniform_(-(n_in**-0.5), n_in**-0.5)
    return weight * (into.component == SCALAR)
