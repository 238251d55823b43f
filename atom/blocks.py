"""The transformer block: heterogeneous attention, then SwiGLU, both pre-norm and residual."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from atom.attention import HeterogeneousAttention, TimeMask
from atom.config import ATOMConfig
from atom.initial import (
    Layout,
    channel_layout,
    equivariant_weight,
    invariant_weight,
    lifted_layout,
)
from atom.rope import Rotation


class SwiGLU(nn.Module):
    """Gated feed-forward layer W_out(silu(a) * b), (a, b) = W_in z.

    References:
        Shazeer, GLU Variants Improve Transformer, eq. 6, arXiv:2002.05202.
    """

    def __init__(self, width: int, hidden_width: int) -> None:
        """Build the two linear layers."""
        super().__init__()
        self.inner = nn.Linear(width, 2 * hidden_width)
        self.outer = nn.Linear(hidden_width, width)

    @torch.no_grad()
    def start_equivariant(self, layout: Layout) -> None:
        """Let scalars gate scalars and whole vectors."""
        hidden = lifted_layout(*(2 * [self.outer.in_features // 4]))
        gate, content = self.inner.weight.chunk(2)
        gate.copy_(invariant_weight(hidden, layout))
        content.copy_(equivariant_weight(hidden, layout))
        self.outer.weight.copy_(equivariant_weight(layout, hidden))
        self.inner.bias.zero_()
        self.outer.bias.zero_()

    def forward(self, features: Tensor) -> Tensor:
        """Map (..., d) to (..., d)."""
        gate, content = self.inner(features).chunk(2, dim=-1)
        return self.outer(silu(gate) * content)


class Block(nn.Module):
    """One block; Z is updated, the lifted features X and V stay as they are."""

    def __init__(self, config: ATOMConfig, is_first: bool) -> None:
        """Build one block."""
        super().__init__()
        self.norm_phase = nn.RMSNorm(config.width, eps=1e-6)
        self.norm_lifted = (
            nn.RMSNorm(config.width, eps=1e-6) if config.normalise_lifted else nn.Identity()
        )
        self.attention = HeterogeneousAttention(config, is_first)
        self.norm_feedforward = nn.RMSNorm(config.width, eps=1e-6)
        self.feedforward = SwiGLU(config.width, config.feedforward_width)
        if config.equivariant_start:
            self.feedforward.start_equivariant(channel_layout(config))

    def forward(
        self,
        phase: Tensor,
        lifted: Tensor,
        rotation: Rotation,
        mask: TimeMask,
        first_values: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Update Z (B, S, N, d); see :class:`HeterogeneousAttention` for the arguments."""
        update, values = self.attention(
            self.norm_phase(phase), self.norm_lifted(lifted), rotation, mask, first_values
        )
        phase = phase + update
        return phase + self.feedforward(self.norm_feedforward(phase)), values
