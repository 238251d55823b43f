"""Lifting of positions, velocities and elements, once per atom."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from atom.config import ATOMConfig
from atom.elements import MAX_ATOMIC_NUMBER
from atom.layers.e3nn import o3, plain_layers
from atom.layers.pairs import PairLifting, safe_norm


def make_lifting(config: ATOMConfig) -> Lifting | LinearLifting:
    """The lifting that a config asks for."""
    return Lifting(config) if config.lifting == "equivariant" else LinearLifting(config)


class Lifting(nn.Module):
    """Lift the phase space of each atom to features of d/4 scalars (0e) and d/4 vectors (1o).

    Exactly O(3)-equivariant. In the output's last dimension the d/4 scalars come first, then
    the vectors as (x, y, z) triples. Each atom is lifted by itself; `pair_layers` add what its
    surroundings tell to Z.
    """

    def __init__(self, config: ATOMConfig) -> None:
        """Build the layers for a config."""
        super().__init__()
        m = config.multiplicity
        irreps = o3.Irreps(f"{m}x0e + {m}x1o")
        self.embedding = nn.Embedding(MAX_ATOMIC_NUMBER + 1, m, padding_idx=0)
        n_scalars = 1 + m + (config.walk_steps if config.walk_encoding else 0)
        with plain_layers():
            self.lift_positions = o3.Linear("1x0e + 1x1o", irreps, biases=True)
            # With softmaxes over Z alone nothing would read V.
            self.lift_velocities = (
                o3.Linear("1x0e + 1x1o", irreps, biases=True) if config.has_lifted else None
            )
            self.lift_context = o3.Linear(f"{n_scalars}x0e + 1x1o", irreps, biases=True)
            self.couple = o3.FullyConnectedTensorProduct(irreps, irreps, irreps)
        self.pairs = PairLifting(config, n_scalars - 1) if config.pair_layers else None
        self.position_scale = config.position_scale_angstrom

    def forward(
        self, positions: Tensor, velocities: Tensor, atomic_numbers: Tensor, walk: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Lift the start state.

        Args:
            positions: (B, N, 3), centred, in the config's unit of length.
            velocities: (B, N, 3), in thermal velocities.
            atomic_numbers: (B, N).
            walk: (B, N, K) random-walk encoding; None if the config has none.

        Returns:
            lifted (B, 2, N, d): X and V, zero where nothing reads V; phase (B, N, d): Z.
        """
        speed = safe_norm(velocities)
        lifted_x = self.lift_positions(torch.cat([safe_norm(positions), positions], dim=-1))
        lifted_v = torch.zeros_like(lifted_x)
        if self.lift_velocities is not None:
            lifted_v = self.lift_velocities(torch.cat([speed, velocities], dim=-1))
        named = torch.cat(
            [self.embedding(atomic_numbers), *([] if walk is None else [walk])], dim=-1
        )
        context = self.lift_context(torch.cat([speed, named, velocities], dim=-1))
        phase = self._product(lifted_x, context)
        if self.pairs is not None:
            apart = positions * self.position_scale
            phase = phase + self.pairs(apart, velocities, named, atomic_numbers > 0)
        return torch.stack([lifted_x, lifted_v], dim=1), phase

    def _product(self, first: Tensor, second: Tensor) -> Tensor:
        """What ``self.couple`` computes, in half the time: (B, N, d).

        Scalars are contracted with the weights before the other factor comes in, so that outer
        products of scalars with vectors are never stored.
        """
        m = self.embedding.embedding_dim
        weight = self.couple.weight
        assert isinstance(weight, Tensor)
        # e3nn's paths, in its order: u of the first factor, v of the second, w of the product.
        scalar, to_vector, from_vector, inner = weight.view(4, m, m, m).unbind()
        (s1, v1), (s2, v2) = (
            (t[..., :m], t[..., m:].unflatten(-1, (m, 3))) for t in (first, second)
        )
        by_first = s1 @ torch.cat([scalar, to_vector], dim=2).flatten(1)
        to_scalar, to_vector = by_first.unflatten(-1, (m, 2 * m)).chunk(2, dim=-1)  # (..., v, w)
        from_vector = (s2 @ from_vector.transpose(0, 1).flatten(1)).unflatten(-1, (m, m))  # u, w
        products = (v1 @ v2.transpose(-1, -2)).flatten(-2) / math.sqrt(3.0)  # (..., u v)
        scalars = (s2[..., None, :] @ to_scalar)[..., 0, :] + products @ inner.flatten(0, 1)
        vectors = v2.transpose(-1, -2) @ to_vector + v1.transpose(-1, -2) @ from_vector
        vectors = vectors.transpose(-1, -2).flatten(-2)
        # Normalised per component: 2 m^2 terms, and 1/sqrt(3) against sqrt(3) in the vectors.
        return torch.cat([scalars, vectors], dim=-1) / math.sqrt(2.0 * m * m)


class LinearLifting(nn.Module):
    """One plain linear layer of all inputs: equivariant in no part."""

    def __init__(self, config: ATOMConfig) -> None:
        """Build the layer for a config."""
        super().__init__()
        m = config.multiplicity
        self.embedding = nn.Embedding(MAX_ATOMIC_NUMBER + 1, m, padding_idx=0)
        n_inputs = 8 + m + (config.walk_steps if config.walk_encoding else 0)
        self.lift = nn.Linear(n_inputs, 3 * config.width)

    def forward(
        self, positions: Tensor, velocities: Tensor, atomic_numbers: Tensor, walk: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Lift the start state; see :class:`Lifting` for arguments and shapes."""
        inputs = [positions, velocities, safe_norm(positions), safe_norm(velocities)]
        inputs += [self.embedding(atomic_numbers), *([] if walk is None else [walk])]
        lifted_x, lifted_v, phase = self.lift(torch.cat(inputs, dim=-1)).chunk(3, dim=-1)
        return torch.stack([lifted_x, lifted_v], dim=1), phase
