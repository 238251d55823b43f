"""Heterogeneous attention over atoms and time: one softmax for each of the features X, V, Z."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from atom.config import ATOMConfig
from atom.layers.masks import Reach, attend
from atom.layers.rope import Rotation, interleave_pairs, rotate

Lifted = tuple[Tensor, Tensor]
"""Keys and values of X and V, (B, 2, N, H, c) each."""


class Values(NamedTuple):
    """Values of one block before they are mixed with the first block's.

    Attributes:
        phase: of Z, (B, S, N, H, c).
        lifted: of X and V, (B, 2, N, H, c); None if they have no softmax of their own.
    """

    phase: Tensor
    lifted: Tensor | None


class Projections(Protocol):
    """From features to heads and back."""

    def tokens(
        self, phase: Tensor, gain: Tensor, value_factor: Tensor | float
    ) -> tuple[Tensor, ...]:
        """Queries, scaled, keys, and values times a factor, (B, S, N, H, c) each."""
        ...

    def features(self, lifted: Tensor, gain: Tensor | None) -> tuple[Tensor, ...]:
        """Keys and values of X and V, (B, 2, N, H, c) each."""
        ...

    def merge(self, heads: Tensor) -> Tensor:
        """The heads (..., H, c) as features (..., d)."""
        ...


class Mixing(Protocol):
    """Turns queries and keys by their times, and mixes the values by their logits."""

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        lifted: Lifted | None,
        rotation: Rotation | None,
        reach: Reach,
    ) -> Tensor:
        """Mixed values (B, S, N, H, c); all shapes as they are projected."""
        ...


class Attention(nn.Module):
    """sum over F of gamma_F softmax_F(Q(Z) K(F)^T / sqrt(d_head)) V(F), F in {X, V, Z} or {Z}.

    The start state is state 0 of the tokens, at angle 0. X and V do not change from state to
    state, so their keys and values are computed once per atom.
    """

    def __init__(
        self, config: ATOMConfig, projections: Projections, mixing: Mixing, is_first: bool
    ) -> None:
        """Build one block's attention.

        Args:
            config: which features have a softmax, and whether values are mixed.
            projections: makes queries, keys and values.
            mixing: the softmaxes.
            is_first: the first block's values are those that others mix in.
        """
        super().__init__()
        self.projections, self.mixing = projections, mixing
        self.has_lifted = config.has_lifted
        n_features = 3 if self.has_lifted else 1
        self.gamma = nn.Parameter(torch.full((n_features,), 1.0 / n_features))
        mixes = config.value_residual and not is_first
        self.value_mix = nn.Parameter(torch.tensor(0.5)) if mixes else None

    def forward(
        self,
        phase: Tensor,
        lifted: Tensor,
        gains: tuple[Tensor, Tensor | None],
        rotation: Rotation | None,
        reach: Reach,
        first_values: Values | None,
    ) -> tuple[Tensor, Values]:
        """Attend.

        Args:
            phase: (B, S, N, d) normalised tokens Z, state 0 being the start state.
            lifted: (B, 2, N, d) normalised X and V.
            gains: factors on both, (d,); None is 1.
            rotation: T-RoPE angles of the S states.
            reach: what may attend to what.
            first_values: values of the first block, None in the first block.

        Returns:
            (B, S, N, d) update of Z, and the values of this block before mixing.
        """
        gamma = self.gamma
        mix = None if first_values is None else self.value_mix
        own = 1.0 if mix is None else 1.0 - mix
        # The first block's values are asked for as they are.
        factor = 1.0 if first_values is None else own * gamma[-1]
        query, key, value = self.projections.tokens(phase, gains[0], factor)
        values = Values(value, None)
        if first_values is None:
            value = value * gamma[-1]
        elif mix is not None:
            value = torch.addcmul(value, first_values.phase, mix * gamma[-1])
        keys_and_values = None
        if self.has_lifted:
            key_l, value_l = self.projections.features(lifted, gains[1])
            values = Values(values.phase, value_l)
            if mix is not None and first_values is not None and first_values.lifted is not None:
                value_l = torch.lerp(value_l, first_values.lifted, mix)
            keys_and_values = key_l, value_l * gamma[:2, None, None, None]
        mixed = self.mixing(query, key, value, keys_and_values, rotation, reach)
        return self.projections.merge(mixed), values


class LinearProjections(nn.Module):
    """Queries, keys and values from Z, keys and values from X and V, by plain linear layers."""

    def __init__(self, config: ATOMConfig, logit_scale: float) -> None:
        """Build the layers; queries are multiplied by `logit_scale`."""
        super().__init__()
        width = config.width
        self.n_heads, self.logit_scale = config.n_heads, logit_scale
        self.project_phase = nn.Linear(width, 3 * width, bias=False)
        if config.has_lifted:
            self.project_lifted = nn.Parameter(torch.empty(2, width, 2 * width))
            nn.init.uniform_(self.project_lifted, -(width**-0.5), width**-0.5)

    def tokens(
        self, phase: Tensor, gain: Tensor, value_factor: Tensor | float
    ) -> tuple[Tensor, ...]:
        """See :class:`Projections`.

        All factors go into the weights, of which there are far fewer than of tokens.
        """
        query, key, value = (self.project_phase.weight * gain).T.chunk(3, dim=-1)
        query, key = (interleave_pairs(t, self.n_heads) for t in (query * self.logit_scale, key))
        weight = torch.cat([query, key, value * value_factor], dim=-1)
        return (phase @ weight).unflatten(-1, (3, self.n_heads, -1)).unbind(-3)

    def features(self, lifted: Tensor, gain: Tensor | None) -> tuple[Tensor, ...]:
        """See :class:`Projections`."""
        weight = self.project_lifted if gain is None else self.project_lifted * gain[:, None]
        key, value = weight.chunk(2, dim=-1)
        weight = torch.cat([interleave_pairs(key, self.n_heads), value], dim=-1)
        out = torch.einsum("bfnd,fde->bfne", lifted, weight)
        return out.unflatten(-1, (2, self.n_heads, -1)).unbind(-3)

    def merge(self, heads: Tensor) -> Tensor:
        """See :class:`Projections`."""
        return heads.flatten(-2)


class Softmaxes(nn.Module):
    """One softmax for each feature, over the atoms of all states that a state attends to."""

    def __init__(
        self, config: ATOMConfig, turn: Callable[[Tensor, Rotation | None], Tensor] = rotate
    ) -> None:
        """Take what a state attends to from the config; `turn` turns queries and keys."""
        super().__init__()
        self.sees_all_steps = config.time_attention == "joint"
        self.lifted_at_start = config.lifted_keys == "start"
        self.turn = turn

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        lifted: Lifted | None,
        rotation: Rotation | None,
        reach: Reach,
    ) -> Tensor:
        """See :class:`Mixing`."""
        query, key = self.turn(query, rotation), self.turn(key, rotation)
        out = self._attend_states(query, key[:, :, None], value[:, :, None], reach)
        if lifted is None:
            return out
        if self.lifted_at_start:
            return out + self._attend_start(query, *lifted, reach)
        # The same keys and values at every state, the keys turned by its angle.
        key, value = (t[:, None].expand(-1, query.shape[1], *(-1,) * 4) for t in lifted)
        return out + self._attend_states(query, self.turn(key, rotation), value, reach)

    def _attend_start(self, query: Tensor, key: Tensor, value: Tensor, reach: Reach) -> Tensor:
        """All states attend to X and V at the start state's angle, which is 0: N^2 S."""
        bias = reach.atoms
        if bias is not None and bias.shape[2] > 1:
            bias = bias.repeat(1, 1, query.shape[1], 1)
        out = attend(query.flatten(1, 2), key.flatten(1, 2), value.flatten(1, 2), 2, bias)
        return out.unflatten(1, query.shape[1:3])

    def _attend_states(self, query: Tensor, key: Tensor, value: Tensor, reach: Reach) -> Tensor:
        """States (B, S, N, H, c) attend to F features (B, S, F, N, H, c) of states.

        The start state attends to itself only.
        """
        n_batch, n_states, n_features, n_atoms = key.shape[:4]
        first, steps = query.split([1, n_states - 1], dim=1)
        start = attend(
            first[:, 0], key[:, 0].flatten(1, 2), value[:, 0].flatten(1, 2), n_features, reach.atoms
        )
        bias = reach.states
        if self.sees_all_steps:
            # (N P)^2: each feature's keys stand behind each other, states and atoms.
            key, value = (t.transpose(1, 2).flatten(1, 3) for t in (key, value))
            out = attend(steps.flatten(1, 2), key, value, n_features, bias)
        else:
            # N^2 P: every step has a batch entry of its own, with the start's keys and its own.
            key, value = (
                torch.cat([t[:, :1].expand_as(t[:, 1:]), t[:, 1:]], dim=3).flatten(0, 1)
                for t in (key, value)
            )
            if reach.atoms is not None:
                bias = torch.cat([reach.atoms, reach.atoms], dim=-1)
                bias = bias.repeat_interleave(n_states - 1, dim=0)
            out = attend(
                steps.flatten(0, 1), key.flatten(1, 2), value.flatten(1, 2), n_features, bias
            )
        out = out.view(n_batch, n_states - 1, n_atoms, *out.shape[2:])
        return torch.cat([start[:, None], out], dim=1)
