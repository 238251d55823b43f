"""How far a model is from rotation equivariance, by Monte Carlo over the Haar measure."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Operator = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class EquivarianceError(NamedTuple):
    """Distances in A, root mean square over steps and real atoms.

    Attributes:
        paper: E_x || mean_m f(g_m x) - mean_m g_m f(x) ||, the same g_m in both means. Both
            averages nearly vanish, so a small value alone proves little.
        point: sqrt(E || f(g x) - g f(x) ||^2).
    """

    paper: float
    point: float


def random_rotations(
    n_rotations: int,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Proper rotation matrices (n_rotations, 3, 3) from the uniform (Haar) measure.

    A normalised Gaussian 4-vector is a uniform unit quaternion.

    References:
        Shoemake, Uniform random rotations, Graphics Gems III (1992),
        doi:10.1016/B978-0-08-050755-2.50036-1.
    """
    quaternions = torch.randn(n_rotations, 4, generator=generator, dtype=torch.float64)
    quaternions = quaternions / quaternions.norm(dim=-1, keepdim=True)
    w, axis = quaternions[:, 0, None, None], quaternions[:, 1:]
    x, y, z = axis.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).view(-1, 3, 3)
    identity = torch.eye(3, dtype=torch.float64)
    return (identity + 2 * w * cross + 2 * cross @ cross).to(dtype)


@torch.no_grad()
def quasi_equivariance(
    operator: Operator,
    positions: Tensor,
    velocities: Tensor,
    atomic_numbers: Tensor,
    lags_fs: Tensor,
    *,
    n_rotations: int = 32,
    generator: torch.Generator | None = None,
) -> EquivarianceError:
    """Measure both errors on a batch of start states.

    Args:
        operator: f, called as an ATOM model is.
        positions: (B, N, 3), A; turned about the origin.
        velocities: (B, N, 3), A/fs.
        atomic_numbers: (B, N), 0 = padding.
        lags_fs: (B, P) without NaN.
        n_rotations: number M of rotations, the same for all samples.
        generator: of the rotations, on the CPU.
    """
    rotations = random_rotations(n_rotations, generator=generator, dtype=positions.dtype)
    still = operator(positions, velocities, atomic_numbers, lags_fs)
    weight = (atomic_numbers > 0).to(still)[:, None, :, None]
    weight = weight / (weight.sum((1, 2, 3), keepdim=True).clamp(min=1) * still.shape[1])
    mean_difference = torch.zeros_like(still)
    square = 0.0
    # One rotation after another: the batch is the caller's, and a batch M times as large may
    # not fit.
    for rotation in rotations.to(positions.device):
        turned = operator(positions @ rotation.T, velocities @ rotation.T, atomic_numbers, lags_fs)
        difference = turned - still @ rotation.T
        mean_difference += difference / n_rotations
        square += float((weight * difference.square()).sum((1, 2, 3)).mean()) / n_rotations
    paper = (weight * mean_difference.square()).sum((1, 2, 3)).sqrt().mean()
    return EquivarianceError(paper=float(paper), point=square**0.5)
