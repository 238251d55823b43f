"""T-RoPE: rotary position encoding in physical time."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Rotation(NamedTuple):
    """Cosines and sines, (B, S, d_head / 2), of the angles of S states."""

    cos: Tensor
    sin: Tensor

    def inverse(self) -> Rotation:
        """The rotation by the opposite angles."""
        return Rotation(self.cos, -self.sin)


def time_rotation(
    lags_fs: Tensor, head_width: int, tau_fs: float, base: float, dtype: torch.dtype
) -> Rotation:
    """Angles omega_k (t - t_0) / tau with omega_k = base^(-2k / d_head).

    Computed in float64: at 32 ps and tau = 8 fs an angle is 4000 rad, where float32 has lost
    three of its seven digits.

    Args:
        lags_fs: (B, S) times since the start state, fs; not NaN.
        head_width: d_head.
        tau_fs: time unit, fs.
        base: ratio of the largest to about the smallest frequency.
        dtype: of the result.

    References:
        Su et al., RoFormer, eq. 15, arXiv:2104.09864.
    """
    k = torch.arange(head_width // 2, dtype=torch.float64, device=lags_fs.device)
    omega = base ** (-2.0 * k / head_width)
    angles = lags_fs.to(torch.float64)[..., None] / tau_fs * omega
    return Rotation(angles.cos().to(dtype), angles.sin().to(dtype))


def rotate(vectors: Tensor, rotation: Rotation) -> Tensor:
    """Turn the pairs (k, k + d_head/2) of queries or keys.

    Args:
        vectors: (B, S, F, N, d_head), where F folds features and heads; S may be 1.
        rotation: angles of the S states.

    Returns:
        (B, S, F, N, d_head).
    """
    cos, sin = rotation.cos[:, :, None, None], rotation.sin[:, :, None, None]
    first, second = vectors.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
