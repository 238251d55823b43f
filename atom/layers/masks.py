"""What may attend to what, and attention with several softmaxes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

# With so few keys, on a CPU, torch's fused kernel takes twice as long as the products written out.
FEW_KEYS = 64


class Reach(NamedTuple):
    """Terms added to the logits, 0 or -inf; None where everything may attend to everything.

    Q is 1 where all queries see the same.

    Attributes:
        atoms: (B, 1, Q, N): atoms of one state attend to those of one state.
        states: (B, 1, Q, S N): atoms of all steps attend to those of all states.
    """

    atoms: Tensor | None
    states: Tensor | None


def attention_reach(
    real: Tensor, valid_states: Tensor, bonds: Tensor | None, dtype: torch.dtype
) -> Reach:
    """Build the terms of all blocks at once.

    Args:
        real: (B, N) bool, False for padded atoms.
        valid_states: (B, S) bool, False for a padded lag; state 0 is the start state.
        bonds: (B, N, N) bool if an atom sees only those it is bonded to, and itself.
        dtype: of the logits.
    """
    # No query may see nothing, which would be NaN: an atom sees itself in any case, and where
    # there is no real atom at all, padding sees padding.
    seen = (real | ~real.any(1, keepdim=True))[:, None]
    if bonds is not None:
        itself = torch.eye(real.shape[1], dtype=torch.bool, device=real.device)
        seen = (seen & bonds) | itself
    # A look at the values would make a GPU wait.
    elif real.device.type == "cpu" and bool(real.all() & valid_states.all()):
        return Reach(None, None)
    by_state = (seen[:, :, None] & valid_states[:, None, :, None]).flatten(2)
    if bonds is not None:
        by_state = by_state.repeat(1, valid_states.shape[1] - 1, 1)
    return Reach(_term(seen, dtype), _term(by_state, dtype))


def _term(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, Q, K) bool to (B, 1, Q, K): 0 where allowed, -inf elsewhere."""
    zeros = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return zeros.masked_fill(~allowed, float("-inf"))[:, None]


def attend(
    query: Tensor, key: Tensor, value: Tensor, n_softmaxes: int, bias: Tensor | None
) -> Tensor:
    """sum over f of softmax_f(Q K_f^T) V_f; scaling is the caller's.

    Args:
        query: (B, Q, H, d_head).
        key: (B, F K, H, d_head): the K keys of one softmax, then those of the next.
        value: (B, F K, H, d_value).
        n_softmaxes: number F of softmaxes.
        bias: (B, 1, Q or 1, K), added to the logits of each softmax; None adds nothing.

    Returns:
        (B, Q, H, d_value).
    """
    query, key, value = (t.transpose(1, 2) for t in (query, key, value))
    n_heads, n_keys = key.shape[1:3]
    if n_keys <= FEW_KEYS and key.device.type == "cpu":
        logits = (query @ key.transpose(2, 3)).unflatten(-1, (n_softmaxes, -1))
        if bias is not None:
            logits = logits + bias[:, :, :, None]
        return (logits.softmax(-1).flatten(3) @ value).transpose(1, 2)
    if bias is not None:
        bias = bias.expand(-1, -1, query.shape[2], -1)
    if n_softmaxes == 1:
        out = scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)
        return out.transpose(1, 2)
    # The softmaxes become heads.
    query = query.repeat(1, n_softmaxes, 1, 1)
    key, value = (
        t.unflatten(2, (n_softmaxes, -1)).transpose(1, 2).flatten(1, 2) for t in (key, value)
    )
    out = scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)
    return out.unflatten(1, (n_softmaxes, n_heads)).sum(1).transpose(1, 2)
