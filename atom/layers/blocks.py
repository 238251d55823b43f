"""The transformer block: attention, then SwiGLU, both pre-norm and residual."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from atom.config import ATOMConfig
from atom.layers.attention import Attention, Values
from atom.layers.channels import (
    Layout,
    channel_layout,
    equivariant_weight,
    invariant_weight,
    lifted_layout,
)
from atom.layers.masks import Reach
from atom.layers.norm import Gain, root_mean_square_norm
from atom.layers.rope import Rotation
from atom.variants.gat import GraphAttention


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

    def forward(self, features: Tensor, gain: Tensor) -> Tensor:
        """Map (..., d), times the gain (d,), to (..., d)."""
        inner = linear(features, self.inner.weight * gain, self.inner.bias)
        gate, content = inner.chunk(2, dim=-1)
        return self.outer(silu(gate) * content)


class Block(nn.Module):
    """One block; Z is updated, the lifted features X and V stay as they are."""

    def __init__(self, config: ATOMConfig, is_first: bool) -> None:
        """Build one block."""
        super().__init__()
        self.attention = (GraphAttention if config.attention == "gat" else Attention)(
            config, is_first
        )
        self.norm_phase = Gain(config.width)
        scales_lifted = config.normalise_lifted and self.attention.has_lifted
        self.norm_lifted = Gain(config.width) if scales_lifted else None
        self.norm_feedforward = Gain(config.width)
        self.feedforward = SwiGLU(config.width, config.feedforward_width)
        if config.equivariant_start:
            self.feedforward.start_equivariant(channel_layout(config))

    def forward(
        self,
        phase: Tensor,
        lifted: Tensor,
        rotation: Rotation | None,
        reach: Reach,
        first_values: Values | None,
    ) -> tuple[Tensor, Values]:
        """Update Z (B, S, N, d); see :class:`Attention` for the arguments."""
        lifted_gain = None if self.norm_lifted is None else self.norm_lifted.weight
        update, values = self.attention(
            root_mean_square_norm(phase),
            lifted,
            (self.norm_phase.weight, lifted_gain),
            rotation,
            reach,
            first_values,
        )
        phase = phase + update.flatten(-2)
        normalised = root_mean_square_norm(phase)
        return phase + self.feedforward(normalised, self.norm_feedforward.weight), values
