"""Heterogeneous attention over atoms and time: one softmax for each of the features X, V, Z."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from atom.config import ATOMConfig
from atom.initial import Layout, channel_layout, equivariant_weight, scalar_columns
from atom.rope import Rotation, rotate

N_FEATURES = 3  # X, V, Z


class TimeMask(NamedTuple):
    """What may attend to what, as the term added to the logits (0 or -inf).

    In ``start`` mode the keys are the start state's, then the own step's.

    Attributes:
        phase: for the keys Z: ``start`` (B S, 1, N, 2 N), ``joint`` (B, 1, S N, S N) for all F.
        lifted: for the keys X and V in ``start`` mode, (B, 1, S N, 2 N).
    """

    phase: Tensor
    lifted: Tensor


def time_mask(pairs: Tensor, valid_steps: Tensor, mode: str, dtype: torch.dtype) -> TimeMask:
    """Build the mask of all blocks at once.

    Args:
        pairs: (B, N, N) bool, atom (query) may attend to atom (key).
        valid_steps: (B, S) bool, False for a padded lag; state 0 is the start state.
        mode: ``joint`` or ``start``.
        dtype: of the logits.
    """
    # An atom may always attend to itself, so that no row is empty: that would be NaN for padding.
    n_batch, n_atoms = pairs.shape[:2]
    n_states = valid_steps.shape[1]
    pairs = pairs | torch.eye(n_atoms, dtype=torch.bool, device=pairs.device)
    if mode == "start":
        own = torch.cat([pairs, pairs], dim=-1)[:, None].expand(-1, n_states, -1, -1)
        phase = own.reshape(n_batch * n_states, 1, n_atoms, 2 * n_atoms)
        lifted = own.reshape(n_batch, 1, n_states * n_atoms, 2 * n_atoms)
        return TimeMask(_bias(phase, dtype), _bias(lifted, dtype))
    state = torch.arange(n_states, device=pairs.device)
    from_step = (state > 0)[:, None]
    states = (state == 0) | (from_step & valid_steps[:, None, :])
    allowed = states[:, :, None, :, None] & pairs[:, None, :, None, :]
    bias = _bias(allowed.reshape(n_batch, 1, n_states * n_atoms, n_states * n_atoms), dtype)
    return TimeMask(bias, bias)


def _bias(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where allowed, -inf elsewhere."""
    zeros = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return zeros.masked_fill(~allowed, float("-inf"))


class HeterogeneousAttention(nn.Module):
    """sum over F of gamma_F softmax_F(Q(Z) K(F)^T / sqrt(d_head)) V(F).

    The start state is state 0 of the tokens, at angle 0. X and V do not change from state to
    state, so their keys and values are computed once per atom.
    """

    def __init__(self, config: ATOMConfig, is_first: bool) -> None:
        """Build one block's attention; the first block's values are those others mix in."""
        super().__init__()
        width = config.width
        self.n_heads, self.head_width = config.n_heads, config.head_width
        self.mode = config.time_attention
        self.project_phase = nn.Linear(width, 3 * width, bias=False)
        self.project_lifted = nn.Parameter(torch.empty(2, width, 2 * width))
        nn.init.uniform_(self.project_lifted, -(width**-0.5), width**-0.5)
        if config.equivariant_start:
            self._start_equivariant(channel_layout(config))
        self.gamma = nn.Parameter(torch.full((N_FEATURES,), 1.0 / N_FEATURES))
        mixes = config.value_residual and not is_first
        self.value_mix = nn.Parameter(torch.tensor(0.5)) if mixes else None

    @torch.no_grad()
    def _start_equivariant(self, layout: Layout) -> None:
        """Logits from scalars, values that keep scalars and vectors apart."""
        width = layout.component.numel()
        query, key, value = self.project_phase.weight.chunk(3)
        query.copy_(scalar_columns(width, layout))
        key.copy_(scalar_columns(width, layout))
        value.copy_(equivariant_weight(layout, layout))
        for weight in self.project_lifted:
            weight[:, :width] = scalar_columns(width, layout).T
            weight[:, width:] = equivariant_weight(layout, layout).T

    def forward(
        self,
        phase: Tensor,
        lifted: Tensor,
        rotation: Rotation,
        mask: TimeMask,
        first_values: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Attend.

        Args:
            phase: (B, S, N, d) normalised tokens Z, state 0 being the start state.
            lifted: (B, 2, N, d) normalised X and V.
            rotation: T-RoPE angles of the S states.
            mask: from :func:`time_mask`.
            first_values: values of the first block, None in the first block.

        Returns:
            (B, S, N, d) update of Z, and the values of this block before mixing.
        """
        n_batch, n_states, n_atoms, width = phase.shape
        split = (self.n_heads, self.head_width)
        query, key_z, value_z = (
            self.project_phase(phase)
            .view(n_batch, n_states, n_atoms, 3, *split)
            .permute(3, 0, 1, 4, 2, 5)  # (3, B, S, H, N, d_head)
        )
        key_l, value_l = (
            torch.einsum("bfnd,fde->bfne", lifted, self.project_lifted)
            .view(n_batch, 2, n_atoms, 2, *split)
            .permute(3, 0, 1, 4, 2, 5)  # (2, B, X and V, H, N, d_head)
            .flatten(2, 3)
        )
        values = (value_l, value_z)
        if self.value_mix is not None and first_values is not None:
            value_l = torch.lerp(value_l, first_values[0], self.value_mix)
            value_z = torch.lerp(value_z, first_values[1], self.value_mix)
        # gamma_F is put into the values, where there is least to multiply.
        gamma = self.gamma.view(N_FEATURES, 1, 1, 1)
        value_l = (value_l.unflatten(1, (2, -1)) * gamma[:2]).flatten(1, 2)
        value_z = value_z * gamma[2]
        attend = self._attend_start if self.mode == "start" else self._attend_joint
        out = attend(query, (key_l, value_l), (key_z, value_z), rotation, mask)
        return out.transpose(2, 3).reshape(n_batch, n_states, n_atoms, width), values

    def _attend_start(
        self,
        query: Tensor,
        lifted: tuple[Tensor, Tensor],
        phase: tuple[Tensor, Tensor],
        rotation: Rotation,
        mask: TimeMask,
    ) -> Tensor:
        """Attend to the start state and to the own state: N^2 S.

        Only angle differences count: each key is met at the angle t_p - t_0 (the start's) or 0
        (the own state's). State 0 meets its keys twice, which softmax averages away.
        """
        n_batch, n_states, n_heads, n_atoms, d_head = query.shape
        (key_l, value_l), (key_z, value_z) = lifted, phase
        scale = self.head_width**-0.5

        # X and V: both logits come from the same keys, so the turned and the unturned query stand
        # side by side, and each meets the keys in its own half; all steps are one list of queries.
        both = torch.cat([rotate(query, rotation), query], dim=-1)
        both = both.transpose(1, 2).reshape(n_batch, n_heads, n_states * n_atoms, 2 * d_head)
        out_l = scaled_dot_product_attention(
            both.repeat(1, 2, 1, 1),
            torch.cat([pad(key_l, (0, d_head)), pad(key_l, (d_head, 0))], dim=2),
            torch.cat([value_l, value_l], dim=2),
            attn_mask=mask.lifted,
            scale=scale,
        )
        out_l = out_l.view(n_batch, 2, n_heads, n_states, n_atoms, d_head).sum(1).transpose(1, 2)

        # Z: the own state's keys differ from step to step; the start's turn back.
        start_key = rotate(key_z[:, :1], rotation.inverse())
        start_value = value_z[:, :1].expand_as(value_z)
        out_z = scaled_dot_product_attention(
            query.flatten(0, 1),
            torch.cat([start_key, key_z], dim=3).flatten(0, 1),
            torch.cat([start_value, value_z], dim=3).flatten(0, 1),
            attn_mask=mask.phase,
            scale=scale,
        )
        return out_l + out_z.view_as(out_l)

    def _attend_joint(
        self,
        query: Tensor,
        lifted: tuple[Tensor, Tensor],
        phase: tuple[Tensor, Tensor],
        rotation: Rotation,
        mask: TimeMask,
    ) -> Tensor:
        """Attend to all atoms of all states: (N S)^2; the mask keeps the start state to itself."""
        n_states = query.shape[1]
        # Features are folded into the heads: (B, S, 3 H, N, d_head).
        key, value = (
            torch.cat([fixed[:, None].expand(-1, n_states, -1, -1, -1), own], dim=2)
            for fixed, own in zip(lifted, phase, strict=True)
        )
        query = rotate(query, rotation).repeat(1, 1, N_FEATURES, 1, 1)
        key = rotate(key, rotation)
        out = scaled_dot_product_attention(
            *(t.transpose(1, 2).flatten(2, 3) for t in (query, key, value)),
            attn_mask=mask.phase,
            scale=self.head_width**-0.5,
        )
        n_batch, _, n_heads, n_atoms, d_head = phase[0].shape
        out = out.view(n_batch, N_FEATURES, n_heads, n_states, n_atoms, d_head)
        return out.sum(1).transpose(1, 2)
