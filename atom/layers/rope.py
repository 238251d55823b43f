"""T-RoPE: rotary position encoding in physical time."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.compiler import is_compiling

from atom.config import ATOMConfig


class Rotation(NamedTuple):
    """Cosines and sines, (B, S, n), of n angles of S states."""

    cos: Tensor
    sin: Tensor

    def inverse(self) -> Rotation:
        """The rotation by the opposite angles."""
        return Rotation(self.cos, -self.sin)


def state_rotation(
    config: ATOMConfig, states_fs: Tensor, valid: Tensor, width: int, dtype: torch.dtype
) -> Rotation | None:
    """The rotation of each state's queries and keys, as ``config.rope`` says.

    Args:
        config: ``rope``, ``rope_tau_fs`` and ``rope_base``.
        states_fs: (B, S) times since the start, the start's own 0 first, fs; not NaN.
        valid: (B, S) bool, False for a padded lag.
        width: number of turned channels of a head, even.
        dtype: of the result, float32 or float64: half precision would lose the angles.
    """
    if config.rope == "none":
        return None
    if config.rope == "time":
        return time_rotation(states_fs, width, config.rope_tau_fs, config.rope_base, dtype)
    # The index is the rank in time, so that the order in which lags are asked does not matter.
    earlier = (states_fs[:, None, :] < states_fs[:, :, None]) & valid[:, None, :]
    return time_rotation(earlier.sum(-1), width, 1.0, config.rope_base, dtype)


def time_rotation(
    lags_fs: Tensor, width: int, tau_fs: float, base: float, dtype: torch.dtype
) -> Rotation:
    """Angles omega_k (t - t_0) / tau with omega_k = base^(-2k / width).

    Computed in float64: at 32 ps and tau = 8 fs an angle is 4000 rad, where float32 has lost
    three of its seven digits.

    Args:
        lags_fs: (B, S) times since the start state, fs; not NaN.
        width: number of turned channels, two for each angle.
        tau_fs: time unit, fs.
        base: ratio of the largest to about the smallest frequency.
        dtype: of the result.

    References:
        Su et al., RoFormer, eq. 15, arXiv:2104.09864.
    """
    k = torch.arange(width // 2, dtype=torch.float64, device=lags_fs.device)
    omega = base ** (-2.0 * k / width)
    angles = lags_fs.to(torch.float64)[..., None] / tau_fs * omega
    return Rotation(angles.cos().to(dtype), angles.sin().to(dtype))


def interleave_pairs(weight: Tensor, n_heads: int) -> Tensor:
    """Put the channels k and k + d_head/2 of each head side by side, as :func:`rotate` wants them.

    Logits do not change, since queries and keys are reordered alike.

    Args:
        weight: (..., n_heads d_head).
        n_heads: number of heads.
    """
    return weight.unflatten(-1, (n_heads, 2, -1)).transpose(-1, -2).flatten(-3)


def rotate(vectors: Tensor, rotation: Rotation | None) -> Tensor:
    """Turn the pairs (2k, 2k + 1) of queries or keys.

    Args:
        vectors: (B, S, ..., 2n); S may be 1.
        rotation: angles of the S states; None turns nothing.

    Returns:
        (B, S, ..., 2n).
    """
    if rotation is None:
        return vectors
    n_between = vectors.ndim - 3
    cos, sin = (t[(slice(None), slice(None), *(None,) * n_between)] for t in rotation)
    pairs = vectors.unflatten(-1, (-1, 2))
    if vectors.device.type == "cpu" and vectors.dtype == cos.dtype and not is_compiling():
        # A product of complex numbers reads and writes the features once. Both factors hold the
        # heads, so that the innermost loop runs over all of them: n alone is a short one.
        factor = torch.complex(cos, sin)
        if n_between:
            factor = factor.expand(*factor.shape[:-2], vectors.shape[-2], -1).contiguous()
        turned = torch.view_as_complex(pairs) * factor
        return torch.view_as_real(turned).flatten(-2)
    first, second = pairs.unbind(-1)
    turned = torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return turned.flatten(-2).to(vectors.dtype)
