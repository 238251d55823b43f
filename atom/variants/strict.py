"""The block of the strictly equivariant model: e3nn all the way, for the ablation.

Z holds scalars (0e) and vectors (1o). Pseudovectors and higher orders are not needed: with
coefficients that are functions of inner products, sums of the vectors give every O(3)-equivariant
vector.

References:
    Villar et al., Scalars are universal, propositions 1 and 4, arXiv:2106.06610.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from atom.config import ATOMConfig
from atom.layers.attention import Attention, Softmaxes, Values
from atom.layers.blocks import Block, Gain
from atom.layers.channels import deal_channels, gather_channels
from atom.layers.e3nn import nn as e3nn_nn
from atom.layers.e3nn import o3, plain_layers
from atom.layers.masks import Reach
from atom.layers.rope import Rotation, rotate


def _linear(n_in: int, scalars_out: int, vectors_out: int) -> o3.Linear:
    """An equivariant linear layer of as many scalars as vectors."""
    with plain_layers():
        return o3.Linear(f"{n_in}x0e + {n_in}x1o", f"{scalars_out}x0e + {vectors_out}x1o")


class IrrepGain(Gain):
    """Factors of m scalars and m vectors, (2 m,), as factors of their channels, (4 m,)."""

    def forward(self) -> Tensor:
        """The factors, (4 m,)."""
        scalars, vectors = self.weight.chunk(2)
        return torch.cat([scalars, vectors.repeat_interleave(3)])


class EquivariantProjections(nn.Module):
    """Queries, keys and values whose heads hold scalars and whole vectors.

    The inner product of two heads is invariant, and sums of values are equivariant.
    """

    def __init__(self, config: ATOMConfig) -> None:
        """Build the layers."""
        super().__init__()
        inside, lifted = config.block_multiplicity, config.multiplicity
        self.n_heads = config.n_heads
        self.logit_scale = (4 * inside // config.n_heads) ** -0.5
        self.project_phase = _linear(inside, 3 * inside, 3 * inside)
        n_lifted = 2 if config.has_lifted else 0
        self.project_each = nn.ModuleList(
            _linear(lifted, 2 * inside, 2 * inside) for _ in range(n_lifted)
        )

    def tokens(
        self, phase: Tensor, gain: Tensor, value_factor: Tensor | float
    ) -> tuple[Tensor, ...]:
        """Queries, scaled, keys, and values times a factor, (B, S, N, H, c) each."""
        query, key, value = self._heads(self.project_phase(phase * gain), 3)
        return query * self.logit_scale, key, value * value_factor

    def features(self, lifted: Tensor, gain: Tensor | None) -> tuple[Tensor, ...]:
        """Keys and values of X and V, (B, 2, N, H, c) each."""
        lifted = lifted if gain is None else lifted * gain
        pairs = zip(self.project_each, lifted.unbind(1), strict=True)
        both = [self._heads(project(feature), 2) for project, feature in pairs]
        return tuple(torch.stack(t, dim=1) for t in zip(*both, strict=True))

    def _heads(self, features: Tensor, n_parts: int) -> tuple[Tensor, ...]:
        """Part e3nn's channels (..., n d) into n times (..., H, c), scalars of a head first."""
        dealt = deal_channels(features, n_parts * self.n_heads)
        return dealt.unflatten(-1, (n_parts, self.n_heads, -1)).unbind(-3)

    def merge(self, heads: Tensor) -> Tensor:
        """The heads (..., H, c) in e3nn's order (..., d)."""
        return gather_channels(heads.flatten(-2), self.n_heads)


def turn_scalars(heads: Tensor, rotation: Rotation | None) -> Tensor:
    """Turn the scalars of queries or keys (B, S, ..., c) by their states' angles."""
    n_scalars = heads.shape[-1] // 4
    scalars, vectors = heads.split([n_scalars, 3 * n_scalars], dim=-1)
    return torch.cat([rotate(scalars, rotation), vectors], dim=-1)


class GatedProduct(nn.Module):
    """Equivariant feed-forward layer: W_out(a (x) g + g), a, g = W_in z, g gated.

    Scalars of g pass silu, vectors are multiplied by the sigmoid of scalars; the tensor product
    pairs channels and gives scalars: products of scalars, and inner products of vectors.
    """

    def __init__(self, multiplicity: int, hidden: int) -> None:
        """Build the layers; `hidden` scalars and vectors."""
        super().__init__()
        self.hidden = hidden
        self.inner = _linear(multiplicity, 3 * hidden, 2 * hidden)
        irreps = f"{hidden}x0e + {hidden}x1o"
        with plain_layers():
            self.gate = e3nn_nn.Gate(
                f"{hidden}x0e", [nn.functional.silu], f"{hidden}x0e", [torch.sigmoid],
                f"{hidden}x1o",
            )  # fmt: skip
            self.product = o3.ElementwiseTensorProduct(irreps, irreps, ["0e"])
            self.outer = o3.Linear(
                f"{2 * hidden}x0e + {hidden}x1o", f"{multiplicity}x0e + {multiplicity}x1o"
            )

    def forward(self, features: Tensor, gain: Tensor) -> Tensor:
        """Map (..., d), times the gain (d,), to (..., d), scalars first."""
        h = self.hidden
        scalars, to_gate, content_v, vectors = self.inner(features * gain).split(
            [h, 2 * h, 3 * h, 3 * h], dim=-1
        )
        gated = self.gate(torch.cat([to_gate, content_v], dim=-1))
        products = self.product(torch.cat([scalars, vectors], dim=-1), gated)
        return self.outer(torch.cat([products, gated[..., h:]], dim=-1))


class StrictBlock(Block):
    """The block, equivariant under O(3); Z in e3nn's order, scalars first."""

    def forward(
        self,
        phase: Tensor,
        lifted: Tensor,
        rotation: Rotation | None,
        reach: Reach,
        first_values: Values | None,
    ) -> tuple[Tensor, Values]:
        """Update Z (B, S, N, d); see :class:`Attention` for the arguments."""
        # e3nn's layers do not take part in autocast, and half precision would break the symmetry.
        with torch.autocast(phase.device.type, enabled=False):
            return super().forward(phase, lifted, rotation, reach, first_values)


def strict_block(config: ATOMConfig, is_first: bool) -> StrictBlock:
    """Build an equivariant block."""
    inside = config.block_multiplicity
    projections, mixing = EquivariantProjections(config), Softmaxes(config, turn_scalars)
    return StrictBlock(
        Attention(config, projections, mixing, is_first),
        GatedProduct(inside, config.feedforward_width // 2),
        IrrepGain(2 * inside),
        IrrepGain(2 * config.multiplicity) if config.scales_lifted else None,
        IrrepGain(2 * inside),
    )
