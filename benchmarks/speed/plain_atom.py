"""ATOM as a plain loop over steps, heads and features: the yardstick of `atom-bench speed model`.

The equations are those of docs/model/atom.md, the weights those of the model, and so is the
result, to rounding. What the model does once or all at once is done here wherever it is needed:
queries, keys and values head by head, those of X and V anew for every step, each softmax written
out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from atom import ATOM
from atom.config import ATOMConfig
from atom.decoder import LAG_FEATURE_TIMES_FS, Decoder
from atom.layers.attention import LinearProjections
from atom.layers.blocks import EPSILON, Block, SwiGLU
from atom.layers.channels import deal_channels
from atom.layers.rope import Rotation, state_rotation

Angles = tuple[Tensor, Tensor] | None
"""Cosines and sines of one state, (B, 1, d_head / 2); None turns nothing."""


class Sender(NamedTuple):
    """Keys and values of one feature at one state, for one head, (B, N, d_head) each."""

    key: Tensor
    value: Tensor


Senders = list[list[list[Sender]]]
"""By state, by feature (X, V, Z, or Z alone), by head."""


@dataclass(frozen=True)
class _Batch:
    """What all blocks share: angles of the states, and which atoms and states may be seen."""

    config: ATOMConfig
    rotation: Rotation | None
    atoms: Tensor
    states: Tensor

    def angles(self, state: int) -> Angles:
        if self.rotation is None:
            return None
        return self.rotation.cos[:, state, None], self.rotation.sin[:, state, None]

    def visible(self, state: int) -> list[int]:
        """The states whose keys a state attends to; the start state sees itself only."""
        if state == 0:
            return [0]
        everything = list(range(self.states.shape[1]))
        return everything if self.config.time_attention == "joint" else [0, state]

    def allowed(self, state: int, seen: list[int]) -> Tensor:
        """(B, N, K N) bool: atoms of one state against those of the K states seen."""
        # What a padded lag's own state sees is read by nobody; it must see something.
        return torch.cat(
            [self.atoms & (self.states[:, s, None, None] | (s == state)) for s in seen], dim=-1
        )


class PlainATOM(ATOM):
    """The same model, attention and blocks in plain loops; lifting and output are shared.

    Args:
        config: not `strict`, and with attention by softmax.
    """

    def __init__(self, config: ATOMConfig | None = None) -> None:
        super().__init__(config)
        if self.config.symmetry == "strict" or self.config.attention == "gat":
            raise ValueError("the plain loop knows neither symmetry = strict nor attention = gat")
        self.decoder = PlainDecoder(self.config)

    @classmethod
    def of(cls, model: ATOM) -> PlainATOM:
        """The plain loop with the weights of a model."""
        plain = cls(model.config)
        plain.load_state_dict(model.state_dict())
        return plain.train(model.training)


class PlainDecoder(Decoder):
    """The decoder in plain loops."""

    def forward(
        self,
        lifted: Tensor,
        phase: Tensor,
        lags_fs: Tensor,
        valid: Tensor,
        real: Tensor,
        positions: Tensor,
        bonds: Tensor,
        motion: Tensor | None = None,
    ) -> Tensor:
        """Run the blocks over the start state and all steps; see :meth:`Decoder.forward`."""
        assert motion is None, "output = modes is not timed"
        config = self.config
        states_fs = torch.cat([torch.zeros_like(lags_fs[:, :1]), lags_fs], dim=1)
        states_valid = torch.cat([torch.ones_like(valid[:, :1]), valid], dim=1)
        rotation = state_rotation(config, states_fs, states_valid, config.head_width, phase.dtype)
        allowed = _allowed_atoms(real, bonds if config.neighbours == "bonded" else None)
        batch = _Batch(config, rotation, allowed, states_valid)

        features = [deal_channels(lifted[:, i], config.n_heads) for i in (0, 1)]
        if config.normalise_lifted:
            features = [_normalised(feature) for feature in features]
        phase = deal_channels(phase, config.n_heads)
        tokens = []
        for state in range(states_fs.shape[1]):
            token = phase
            if self.lag_features is not None:
                times = torch.tensor(LAG_FEATURE_TIMES_FS, device=phase.device)
                saturation = 1.0 - torch.exp(-states_fs[:, state, None] / times)
                token = token + self.lag_features(saturation.to(phase.dtype))[:, None]
            tokens.append(token)

        first_senders = None
        for block in self.blocks:
            assert isinstance(block, Block)
            senders = _senders(batch, block, tokens, features)
            tokens = [
                _updated(batch, block, tokens[state], state, senders, first_senders)
                for state in range(len(tokens))
            ]
            first_senders = senders if first_senders is None else first_senders
        return self._project(torch.stack(tokens[1:], dim=1), real)


def _normalised(features: Tensor) -> Tensor:
    return features / torch.sqrt((features**2).mean(-1, keepdim=True) + EPSILON)


def _allowed_atoms(real: Tensor, bonds: Tensor | None) -> Tensor:
    """(B, N, N) bool: which atom (column) an atom (row) may attend to."""
    n_atoms = real.shape[1]
    # A batch entry without a single atom: padding sees padding, else the softmax would be empty.
    seen = (real | ~real.any(1, keepdim=True))[:, None].expand(-1, n_atoms, -1)
    if bonds is None:
        return seen
    return (seen & bonds) | torch.eye(n_atoms, dtype=torch.bool, device=real.device)


def _turned(head: Tensor, angles: Angles) -> Tensor:
    """T-RoPE of (B, N, d_head): channels k and k + d_head/2 are a pair."""
    if angles is None:
        return head
    cos, sin = angles
    first, second = head.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _of_head(weight: Tensor, head: int, width: int) -> Tensor:
    """The part (d, d_head) of a weight (d, d), as nn.Linear keeps it, that makes one head."""
    return weight[head * width : (head + 1) * width].T


def _senders(batch: _Batch, block: Block, tokens: list[Tensor], lifted: list[Tensor]) -> Senders:
    """Keys and values of every feature at every state, head by head."""
    config, projections = batch.config, block.attention.projections
    assert isinstance(projections, LinearProjections)
    _, key, value = projections.project_phase.weight.chunk(3)
    found = []
    for state, token in enumerate(tokens):
        angles = batch.angles(state)
        here = []
        if config.attention == "heterogeneous":
            gain = 1.0 if block.norm_lifted is None else block.norm_lifted.weight
            at_home = angles if config.lifted_keys == "steps" else None
            for feature, weight in zip(lifted, projections.project_lifted, strict=True):
                key_l, value_l = weight.T.chunk(2)
                here.append(_heads(config, feature * gain, key_l, value_l, at_home))
        z = _normalised(token) * block.norm_phase.weight
        here.append(_heads(config, z, key, value, angles))
        found.append(here)
    return found


def _heads(
    config: ATOMConfig, feature: Tensor, key: Tensor, value: Tensor, angles: Angles
) -> list[Sender]:
    width = config.head_width
    return [
        Sender(
            _turned(feature @ _of_head(key, head, width), angles),
            feature @ _of_head(value, head, width),
        )
        for head in range(config.n_heads)
    ]


def _updated(
    batch: _Batch,
    block: Block,
    token: Tensor,
    state: int,
    senders: Senders,
    first_senders: Senders | None,
) -> Tensor:
    """Z of one state, (B, N, d), after a block."""
    width = batch.config.head_width
    z = _normalised(token) * block.norm_phase.weight
    projections = block.attention.projections
    assert isinstance(projections, LinearProjections)
    weight = projections.project_phase.weight.chunk(3)[0]
    heads = []
    for head in range(batch.config.n_heads):
        query = _turned(z @ _of_head(weight, head, width), batch.angles(state))
        update = torch.zeros_like(query)
        for feature in range(len(senders[state])):
            is_lifted = feature < len(senders[state]) - 1
            alone = is_lifted and batch.config.lifted_keys == "start"
            # X and V of the start state are the same at whatever step they were computed.
            seen = [state] if alone else batch.visible(state)
            key = torch.cat([senders[s][feature][head].key for s in seen], dim=1)
            value = torch.cat([senders[s][feature][head].value for s in seen], dim=1)
            mix = block.attention.value_mix
            if mix is not None and first_senders is not None:
                first = torch.cat([first_senders[s][feature][head].value for s in seen], dim=1)
                value = (1.0 - mix) * value + mix * first
            logits = query @ key.transpose(1, 2) / width**0.5
            logits = logits.masked_fill(~batch.allowed(state, seen), float("-inf"))
            weights = torch.exp(logits - logits.max(dim=-1, keepdim=True).values)
            weights = weights / weights.sum(dim=-1, keepdim=True)
            update = update + block.attention.gamma[feature] * (weights @ value)
        heads.append(update)
    token = token + torch.cat(heads, dim=-1)
    assert isinstance(block.feedforward, SwiGLU)
    inner = block.feedforward.inner(_normalised(token) * block.norm_feedforward.weight)
    gate, content = inner.chunk(2, dim=-1)
    return token + block.feedforward.outer(nn.functional.silu(gate) * content)
