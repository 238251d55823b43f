"""Edges of molecular graphs, all samples of a batch in one list."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

N_KINDS = 3
"""Kinds of edges: along one bond, along two, and other pairs within the radius."""


@dataclass(frozen=True)
class Edges:
    """Directed edges between the atoms of a batch, numbered b N + i.

    Attributes:
        receiver: (E,) int64 numbers of atoms.
        sender: (E,) int64 numbers of atoms of the same sample.
        features: (E, F) of the start state: which kind of edge it is, one-hot, or more.
        degree: (B N, 1) edges that an atom receives, at least 1.
    """

    receiver: Tensor
    sender: Tensor
    features: Tensor
    degree: Tensor

    def sums(self, messages: Tensor) -> Tensor:
        """Sum over the messages (E, ...) that each atom receives, (B N, ...)."""
        zeros = messages.new_zeros(len(self.degree), *messages.shape[1:])
        return zeros.index_add(0, self.receiver, messages)


def find_edges(
    positions: Tensor,
    atomic_numbers: Tensor,
    bonds: Tensor,
    *,
    two_hops: bool,
    radius_angstrom: float | None,
) -> Edges:
    """The edges of start states; padded atoms have none.

    Args:
        positions: (B, N, 3) A.
        atomic_numbers: (B, N), 0 = padding.
        bonds: (B, N, N) bool, True for the bonded pairs.
        two_hops: also connect atoms with a common bonded neighbour.
        radius_angstrom: also connect all other pairs closer than this; None: do not.
    """
    real = atomic_numbers > 0
    size, n_atoms = real.shape
    itself = torch.eye(n_atoms, dtype=torch.bool, device=real.device)
    pairs = real[:, :, None] & real[:, None, :] & ~itself
    kinds = torch.zeros((size, n_atoms, n_atoms, N_KINDS), dtype=torch.bool, device=real.device)
    kinds[..., 0] = bonds
    if two_hops:
        steps = bonds.to(positions.dtype)
        kinds[..., 1] = (steps @ steps > 0.5) & pairs & ~bonds
    if radius_angstrom is not None:
        distance2 = (positions[:, :, None] - positions[:, None]).square().sum(-1)
        near = (distance2 <= radius_angstrom**2) & pairs
        kinds[..., 2] = near & ~kinds[..., :2].any(-1)
    sample, receiver, sender = kinds.any(-1).nonzero(as_tuple=True)
    kind = kinds[sample, receiver, sender].to(positions.dtype)
    receiver, sender = sample * n_atoms + receiver, sample * n_atoms + sender
    degree = torch.bincount(receiver, minlength=size * n_atoms).clamp(min=1)
    return Edges(receiver, sender, kind, degree[:, None].to(positions.dtype))
