"""Bond graph from distances, and the random-walk encoding of it."""

from __future__ import annotations

import torch
from torch import Tensor

from atom.elements import COVALENT_RADII


def bonded_pairs(positions: Tensor, atomic_numbers: Tensor, bond_factor: float = 1.25) -> Tensor:
    """Tell which atoms are bonded: closer than a factor times the sum of their covalent radii.

    Radii of the elements are needed because one distance for all (1.6 A, say) drops C-Cl and
    C-S bonds.

    Args:
        positions: (B, N, 3), A.
        atomic_numbers: (B, N) integers, 0 = padding.
        bond_factor: tolerance on the sum of the radii.

    Returns:
        (B, N, N) bool, symmetric; False on the diagonal and for padded atoms.

    References:
        Radii: Cordero et al. 2008, doi:10.1039/b801115j.
    """
    radii = positions.new_tensor(COVALENT_RADII)[atomic_numbers]
    reach = bond_factor * (radii[:, :, None] + radii[:, None, :])
    distance2 = (positions[:, :, None] - positions[:, None]).square().sum(-1)
    real = atomic_numbers > 0
    itself = torch.eye(positions.shape[1], dtype=torch.bool, device=positions.device)
    return (distance2 < reach.square()) & real[:, :, None] & real[:, None, :] & ~itself


def random_walk_encoding(bonds: Tensor, n_steps: int = 16) -> Tensor:
    """Probability that a random walk along the bonds is back at its atom after k steps.

    Args:
        bonds: (B, N, N) bool adjacency A.
        n_steps: longest walk K.

    Returns:
        (B, N, K) float32: diag((D^-1 A)^k) for k = 1 .. K; zeros for an atom with no bond.

    References:
        Dwivedi et al., Graph Neural Networks with Learnable Structural and Positional
        Representations, eq. 11, arXiv:2110.07875.
    """
    adjacency = bonds.to(torch.float32)
    step = adjacency / adjacency.sum(-1, keepdim=True).clamp(min=1.0)
    # powers[:, k] = step^(k + 1); each round appends the powers times the highest of them, so
    # the number of products grows with the logarithm of K.
    powers = step[:, None]
    while powers.shape[1] < n_steps:
        powers = torch.cat([powers, powers @ powers[:, -1:]], dim=1)
    return powers[:, :n_steps].diagonal(dim1=-2, dim2=-1).transpose(1, 2)
