"""From lifted features and lags to one vector for each atom and step."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from atom.config import ATOMConfig
from atom.layers.attention import Attention, LinearProjections, Softmaxes
from atom.layers.blocks import Block, Gain, SwiGLU, root_mean_square_norm
from atom.layers.channels import deal_channels, gather_channels
from atom.layers.e3nn import o3, plain_layers
from atom.layers.masks import attention_reach
from atom.layers.pairs import safe_norm
from atom.layers.rope import state_rotation
from atom.variants.gat import GraphMessages, graph_reach
from atom.variants.strict import strict_block

# Initial scale of the output weights: an untrained model then moves atoms by hundredths of an
# angstrom, so its displacement output starts out close to persistence.
OUTPUT_GAIN = 0.02
# Saturation times of the lag features, fs: 8 fs to 33 ps in factors of two.
LAG_FEATURE_TIMES_FS = tuple(8.0 * 2.0**k for k in range(13))


class Decoder(nn.Module):
    """The tokens of all states, the blocks, and the projection to vectors."""

    _lag_times_fs: Tensor

    def __init__(self, config: ATOMConfig) -> None:
        """Build the layers for a config."""
        super().__init__()
        self.config = config
        inside, n_vectors = config.block_multiplicity, config.output_heads
        self.is_strict = config.symmetry == "strict"
        # What lag, mixing and T-RoPE act on: all channels, or in a strict model the scalars.
        n_free = self.n_free = inside if self.is_strict else config.width
        self.blocks = nn.ModuleList(make_block(config, i == 0) for i in range(config.n_blocks))
        lifted, irreps = (o3.Irreps(f"{m}x0e + {m}x1o") for m in (config.multiplicity, inside))
        with plain_layers():
            self.project_output = o3.Linear(irreps, f"{n_vectors}x1o")
            self.widen = o3.Linear(lifted, irreps) if self.is_strict else None
        self.lag_features = self.mix_heads = None
        if config.lag_embedding:
            self.lag_features = nn.Linear(len(LAG_FEATURE_TIMES_FS), n_free, bias=False)
        self.lift_motion = None
        if config.moves:
            with plain_layers():
                self.lift_motion = o3.Linear("1x0e + 1x1o", lifted)
        if n_vectors > 1:
            self.mix_heads = nn.Sequential(
                nn.Linear(n_free, n_free), nn.SiLU(), nn.Linear(n_free, n_vectors)
            )
        with torch.no_grad():
            for parameter in self.project_output.parameters():
                parameter.mul_(OUTPUT_GAIN)
        self.register_buffer("_lag_times_fs", torch.tensor(LAG_FEATURE_TIMES_FS), persistent=False)

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
        """Run the blocks over the start state and all steps.

        Args:
            lifted: (B, 2, N, d) X and V, in e3nn's order.
            phase: (B, N, d) Z.
            lags_fs: (B, P), fs; not NaN.
            valid: (B, P) bool, False for a padded lag.
            real: (B, N) bool, False for a padded atom.
            positions: (B, N, 3), A.
            bonds: (B, N, N) bool.
            motion: (B, P, N, 3) displacements that the vectors are added to, which the steps are
                told; for output = modes or steps.

        Returns:
            (B, P, N, 3), without unit.
        """
        config = self.config
        # Under autocast the lifting may come out in half precision. What blocks are added to,
        # and the angles, keep the precision of the weights.
        dtype = next(self.project_output.parameters()).dtype
        lifted, phase = lifted.to(dtype), phase.to(dtype)
        # State 0 is the start state itself, at lag 0.
        states_fs, states_valid = pad(lags_fs, (1, 0)), pad(valid, (1, 0), value=True)
        rotation = state_rotation(
            config,
            states_fs,
            states_valid,
            self.n_free // config.n_heads,
            torch.promote_types(dtype, torch.float32),
        )
        if config.attention == "gat":
            reach = graph_reach(config, positions, real, bonds, states_valid)
        else:
            along = bonds if config.neighbours == "bonded" else None
            reach = attention_reach(real, states_valid, along, dtype)

        if self.widen is not None:
            phase = self.widen(phase)
        else:
            lifted, phase = (deal_channels(t, config.n_heads) for t in (lifted, phase))
        if config.normalise_lifted:
            lifted = root_mean_square_norm(lifted)
        tokens = phase[:, None].expand(-1, states_fs.shape[1], -1, -1)
        if self.lag_features is not None:
            saturation = -torch.expm1(-states_fs[..., None] / self._lag_times_fs)
            embedded = self.lag_features(saturation.to(dtype))
            tokens = tokens + pad(embedded, (0, phase.shape[-1] - embedded.shape[-1]))[:, :, None]
        if self.lift_motion is not None and motion is not None:
            told = self.lift_motion(torch.cat([safe_norm(motion), motion], dim=-1).to(dtype))
            tokens = tokens + pad(deal_channels(told, config.n_heads), (0, 0, 0, 0, 1, 0))
        first_values = None
        for block in self.blocks:
            tokens, values = block(tokens, lifted, rotation, reach, first_values)
            first_values = values if first_values is None else first_values
        return self._project(tokens[:, 1:], real)

    def _project(self, steps: Tensor, real: Tensor) -> Tensor:
        """Project steps (B, P, N, d) to (B, P, N, 3), mixing the heads by the molecule's mean."""
        ordered = steps if self.is_strict else gather_channels(steps, self.config.n_heads)
        vectors = self.project_output(ordered)
        if self.mix_heads is None:
            return vectors
        weight = real.to(steps)[:, None, :, None]
        pooled = (steps * weight).sum(2) / weight.sum(2).clamp(min=1.0)
        mix = self.mix_heads(pooled[..., : self.n_free]).softmax(-1)
        return torch.einsum("bpnkc,bpk->bpnc", vectors.unflatten(-1, (-1, 3)), mix)


def make_block(config: ATOMConfig, is_first: bool) -> Block:
    """Build a block; which variant it is, is decided here alone."""
    if config.symmetry == "strict":
        return strict_block(config, is_first)
    if config.attention == "gat":
        projections, mixing = LinearProjections(config, 1.0), GraphMessages(config)
    else:
        projections = LinearProjections(config, config.head_width**-0.5)
        mixing = Softmaxes(config)
    return Block(
        Attention(config, projections, mixing, is_first),
        SwiGLU(config.width, config.feedforward_width),
        Gain(config.width),
        Gain(config.width) if config.scales_lifted else None,
        Gain(config.width),
    )
