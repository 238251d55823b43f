"""GATv2 message passing along a graph of bonds or near atoms, in the place of attention."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from atom.config import ATOMConfig
from atom.layers.attention import Lifted
from atom.layers.rope import Rotation, rotate

NEGATIVE_SLOPE = 0.2


class GraphReach(NamedTuple):
    """Which atoms and states send messages to which.

    Attributes:
        neighbours: (B, N, D) indices of the atoms that send to each atom, itself among them.
        exists: (B, N, D) bool, False where an atom has fewer than D.
        states: (B, S, S) bool, [p, s] is True if state s sends to state p.
    """

    neighbours: Tensor
    exists: Tensor
    states: Tensor


def graph_reach(
    config: ATOMConfig, positions: Tensor, real: Tensor, bonds: Tensor, valid_states: Tensor
) -> GraphReach:
    """Build the graph of one batch.

    Args:
        config: ``graph_radius_angstrom`` and ``time_attention``.
        positions: (B, N, 3), A.
        real: (B, N) bool, False for padded atoms.
        bonds: (B, N, N) bool.
        valid_states: (B, S) bool, False for a padded lag; state 0 is the start state.
    """
    edges = bonds
    if config.graph_radius_angstrom is not None:
        distance2 = (positions[:, :, None] - positions[:, None]).square().sum(-1)
        edges = distance2 < config.graph_radius_angstrom**2
        edges = edges & real[:, :, None] & real[:, None, :]
    edges = edges | torch.eye(real.shape[1], dtype=torch.bool, device=real.device)
    most = int(edges.sum(-1).max())
    exists, neighbours = edges.to(torch.uint8).topk(most, dim=-1)

    state = torch.arange(valid_states.shape[1], device=real.device)
    sends = state == 0  # the start state to all
    if config.time_attention == "joint":
        sends = sends | (state > 0)[:, None]
    else:
        sends = sends | (state == state[:, None])
    return GraphReach(neighbours, exists.bool(), sends & valid_states[:, None, :])


class GraphMessages(nn.Module):
    """Mixing by the logits of GATv2, along the edges of a graph.

    The logit of a message from state t_s to state t_p is
    w_F^T LeakyReLU(Q(Z) + R(t_s - t_p) K(F)), with T-RoPE's rotation R.

    References:
        Brody, Alon, Yahav, How Attentive are Graph Attention Networks?, eq. 7, arXiv:2105.14491.
    """

    def __init__(self, config: ATOMConfig) -> None:
        """Build w_F of the three features."""
        super().__init__()
        self.n_heads, self.lifted_at_start = config.n_heads, config.lifted_keys == "start"
        bound = config.head_width**-0.5
        self.score = nn.Parameter(torch.empty(3 * config.width).uniform_(-bound, bound))

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        lifted: Lifted | None,
        rotation: Rotation | None,
        reach: GraphReach,
    ) -> Tensor:
        """Pass messages; shapes as they are projected."""
        score_x, score_v, score_z = self.score.view(3, self.n_heads, -1)
        out = self._pass(query, key, value, score_z, rotation, reach)
        assert lifted is not None
        # X and V stand at the start state alone, or at every state.
        n_states = 1 if self.lifted_at_start else query.shape[1]
        for key, value, score in zip(
            lifted[0].unbind(1), lifted[1].unbind(1), (score_x, score_v), strict=True
        ):
            key, value = (t[:, None].expand(-1, n_states, -1, -1, -1) for t in (key, value))
            out = out + self._pass(query, key, value, score, rotation, reach)
        return out

    def _pass(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        score: Tensor,
        rotation: Rotation | None,
        reach: GraphReach,
    ) -> Tensor:
        """One feature's messages from states (B, K, N, H, c), the first K, to (B, S, N, H, c)."""
        n_batch, n_states, n_atoms = query.shape[:3]
        n_senders = key.shape[1]
        key = key[:, None].expand(-1, n_states, *(-1,) * 4)
        if rotation is not None:
            senders = Rotation(*(t[:, :n_senders] for t in rotation))
            key = rotate(rotate(key.transpose(1, 2), senders).transpose(1, 2), rotation.inverse())
        # Atoms in front, so that one index picks whole messages: (B, N, D, S, K, H, c).
        offset = n_atoms * torch.arange(n_batch, device=key.device)[:, None, None]
        index = (reach.neighbours + offset).flatten()
        shape = reach.neighbours.shape
        key = key.movedim(3, 1).flatten(0, 1).index_select(0, index).unflatten(0, shape)
        value = value.movedim(2, 1).flatten(0, 1).index_select(0, index).unflatten(0, shape)
        query = query.transpose(1, 2)[:, :, None, :, None]
        logits = (leaky_relu(query + key, NEGATIVE_SLOPE) * score).sum(-1)
        sends = (
            reach.exists[:, :, :, None, None]
            & reach.states[:, None, None, :, :n_senders]
        )  # fmt: skip
        logits = logits.masked_fill(~sends[..., None], float("-inf"))
        # One softmax over the neighbours and their states.
        weights = logits.permute(0, 3, 1, 5, 2, 4).flatten(-2).softmax(-1)  # (B, S, N, H, D K)
        weights = weights.unflatten(-1, (shape[-1], n_senders))
        return torch.einsum("bsnhdk,bndkhc->bsnhc", weights, value)
