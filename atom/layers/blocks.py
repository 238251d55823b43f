"""The transformer block: attention, then SwiGLU, both pre-norm and residual."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear, rms_norm, silu

from atom.layers.attention import Attention, Values
from atom.layers.masks import Reach
from atom.layers.rope import Rotation

EPSILON = 1e-6


class Block(nn.Module):
    """One block; Z is updated, the lifted features X and V stay as they are."""

    def __init__(
        self,
        attention: Attention,
        feedforward: nn.Module,
        norm_phase: Gain,
        norm_lifted: Gain | None,
        norm_feedforward: Gain,
    ) -> None:
        """Put a block together; the gains are those in front of attention and feed-forward."""
        super().__init__()
        self.attention = attention
        self.norm_phase, self.norm_lifted = norm_phase, norm_lifted
        self.norm_feedforward, self.feedforward = norm_feedforward, feedforward

    def forward(
        self,
        phase: Tensor,
        lifted: Tensor,
        rotation: Rotation | None,
        reach: Reach,
        first_values: Values | None,
    ) -> tuple[Tensor, Values]:
        """Update Z (B, S, N, d); see :class:`Attention` for the arguments."""
        gains = self.norm_phase(), None if self.norm_lifted is None else self.norm_lifted()
        update, values = self.attention(
            root_mean_square_norm(phase), lifted, gains, rotation, reach, first_values
        )
        phase = phase + update
        update = self.feedforward(root_mean_square_norm(phase), self.norm_feedforward())
        return phase + update, values


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

    def forward(self, features: Tensor, gain: Tensor) -> Tensor:
        """Map (..., d), times the gain (d,), to (..., d)."""
        inner = linear(features, self.inner.weight * gain, self.inner.bias)
        gate, content = inner.chunk(2, dim=-1)
        return self.outer(silu(gate) * content)


class Gain(nn.Module):
    """Factors on normalised features, (d,): multiplied into the weights that read them."""

    def __init__(self, width: int) -> None:
        """Start from ones."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self) -> Tensor:
        """The factors, (d,)."""
        return self.weight


def root_mean_square_norm(features: Tensor) -> Tensor:
    """x / sqrt(mean x^2 + epsilon) over the last dimension.

    It is equivariant for any mix of scalars and whole vectors, since the mean square is invariant.
    """
    if features.device.type != "cpu" or torch.compiler.is_compiling():
        return rms_norm(features, features.shape[-1:], eps=EPSILON)
    out = _Norm.apply(features)
    assert isinstance(out, Tensor)
    return out


class _Norm(torch.autograd.Function):
    """Half as many passes over the features as torch's own takes on a CPU."""

    @staticmethod
    def forward(ctx, features):
        scale = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
        scale = scale.square_().div_(features.shape[-1]).add_(EPSILON).rsqrt_()
        normalised = features * scale
        ctx.save_for_backward(normalised, scale)
        return normalised

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        normalised, scale = ctx.saved_tensors
        along = (grad * normalised).mean(-1, keepdim=True)
        return torch.addcmul(grad, normalised, along, value=-1).mul_(scale)
