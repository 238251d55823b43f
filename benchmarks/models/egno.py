"""EGNO: equivariant message passing, and convolution along the steps in Fourier space."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import silu

from benchmarks.models.edges import Edges
from benchmarks.models.egnn import Egnn, EGNNConfig, EGNNModule, centred
from benchmarks.models.learnt import Preset


class EGNOConfig(EGNNConfig):
    """Settings of an EGNO; docs/benchmark/baselines.md has the equations."""

    n_modes: int = Field(default=2, ge=1, description="Fourier modes that are kept along the steps")


@dataclass(frozen=True)
class Waves:
    """The real Fourier transform along the valid steps of each sample.

    Attributes:
        cos: (B, K, P) of 2 pi k p / n for the p-th of n valid steps in order of time, zero at
            padded steps and for modes that n steps don't have.
        sin: (B, K, P), likewise.
        weight: (B, K, 1), by which modes come back.
    """

    cos: Tensor
    sin: Tensor
    weight: Tensor

    def analyse(self, f: Tensor) -> tuple[Tensor, Tensor]:
        """Real and imaginary part (B, N, K, C) of the modes of f (B, N, P, C)."""
        return (
            torch.einsum("bkp,bnpc->bnkc", self.cos, f),
            -torch.einsum("bkp,bnpc->bnkc", self.sin, f),
        )

    def synthesise(self, real: Tensor, imaginary: Tensor) -> Tensor:
        """The function (B, N, P, C) of these modes, zero at padded steps."""
        return torch.einsum("bkp,bnkc->bnpc", self.weight * self.cos, real) - torch.einsum(
            "bkp,bnkc->bnpc", self.weight * self.sin, imaginary
        )


def waves_of(lags_fs: Tensor, n_modes: int, dtype: torch.dtype) -> Waves:
    """The waves along the lags (B, P): their order counts, not the time between them."""
    valid = ~lags_fs.isnan()
    number = valid.sum(1)[:, None, None].double()
    rank = lags_fs.argsort(stable=True, dim=1).argsort(dim=1)  # NaN comes last.
    k = torch.arange(n_modes, device=lags_fs.device)[None, :, None].double()
    angle = 2 * math.pi * k * rank[:, None] / number.clamp(min=1)
    present = (2 * k <= number) & valid[:, None]
    # All but the constant and the fastest mode of an even number stand for two, +k and -k.
    weight = torch.where((k == 0) | (2 * k == number), 1.0, 2.0) / number.clamp(min=1)
    cos, sin = (torch.where(present, wave, 0.0) for wave in (angle.cos(), angle.sin()))
    return Waves(cos.to(dtype), sin.to(dtype), weight.to(dtype))


class TemporalConvolution(nn.Module):
    """Multiplies each mode along the steps by a complex matrix that mixes channels.

    Args:
        n_channels: C.
        n_modes: K.
        scale: of the first weights.
    """

    def __init__(self, n_channels: int, n_modes: int, scale: float) -> None:
        super().__init__()
        size = (n_channels, n_channels)
        self.real = nn.Parameter(scale * torch.randn(n_modes, *size))
        # The constant mode of a real function is real.
        imaginary = scale * torch.randn(n_modes - 1, *size)
        self.imaginary = nn.Parameter(imaginary) if n_modes > 1 else None

    def forward(self, f: Tensor, waves: Waves) -> Tensor:
        """f (B, N, P, C) convolved along P."""
        n_modes = len(self.real)
        waves = Waves(waves.cos[:, :n_modes], waves.sin[:, :n_modes], waves.weight[:, :n_modes])
        real, imaginary = waves.analyse(f)
        new_real = _mixed(real, self.real)
        new_imaginary = _mixed(imaginary, self.real)
        if self.imaginary is not None:
            weights = torch.cat([torch.zeros_like(self.imaginary[:1]), self.imaginary])
            new_real = new_real - _mixed(imaginary, weights)
            new_imaginary = new_imaginary + _mixed(real, weights)
        return waves.synthesise(new_real, new_imaginary)


def _mixed(modes: Tensor, weights: Tensor) -> Tensor:
    return torch.einsum("bnkc,kcd->bnkd", modes, weights)


class TemporalLayer(nn.Module):
    """Convolution along the steps of features, and of the pair (x - mean, v).

    Args:
        width: of features.
        n_modes: of features.
        n_vector_modes: of the pair.
    """

    def __init__(self, width: int, n_modes: int, n_vector_modes: int) -> None:
        super().__init__()
        self.features = TemporalConvolution(width, n_modes, scale=1 / width)
        # A pair that is changed much at first would tear the structure apart.
        self.vectors = TemporalConvolution(2, n_vector_modes, scale=1e-2)

    def forward(
        self, h: Tensor, x: Tensor, v: Tensor, waves: Waves, real: Tensor
    ) -> tuple[Tensor, ...]:
        """The next (h, x, v) of (B N, P, width), (B N, P, 3), (B N, P, 3)."""
        size = real.shape
        h = h + silu(self.features(h.unflatten(0, size), waves)).flatten(0, 1)
        # Channels are mixed and coordinates are not, so that rotations and reflections commute.
        with torch.autocast(x.device.type, enabled=False):
            pair = torch.stack([centred(x.unflatten(0, size), real), v.unflatten(0, size)], dim=-1)
            # (B, 3 N, P, 2): each coordinate is a function of its own.
            pair = pair.transpose(2, 3).flatten(1, 2)
            change = self.vectors(pair, waves).unflatten(1, (-1, 3)).transpose(2, 3).flatten(0, 1)
        return h, x + change[..., 0], v + change[..., 1]


class EGNOModule(EGNNModule):
    """Start states and lags in, positions out; exactly equivariant under E(3)."""

    def __init__(self, config: EGNOConfig) -> None:
        super().__init__(config)
        self.n_modes = config.n_modes
        # All steps begin with the same (x, v): of the first layer's pair, only the constant mode
        # is not zero.
        self.temporal = nn.ModuleList(
            TemporalLayer(config.width, config.n_modes, config.n_modes if i else 1)
            for i in range(config.n_layers)
        )

    def decode(
        self, h: Tensor, x: Tensor, v: Tensor, edges: Edges, real: Tensor, lags_fs: Tensor
    ) -> Tensor:
        """Positions (B N, P, 3) behind all blocks, each a convolution and a layer of EGNN."""
        waves = waves_of(lags_fs, self.n_modes, x.dtype)
        for temporal, layer in zip(self.temporal, self.layers, strict=True):
            h, x, v = temporal(h, x, v, waves, real)
            h, x, v = layer(h, x, v, edges)
        return x


class Egno(Egnn):
    """EGNO: all lags are decoded together, each from all others.

    References:
        Xu et al., arXiv:2401.11037.
    """

    id: ClassVar[str] = "egno"
    config_class: type[EGNNConfig] = EGNOConfig
    module_class: ClassVar[type[EGNNModule]] = EGNOModule
    presets: ClassVar[dict[str, Preset]] = Egnn.presets | {
        "mini": Preset(training={"learning_rate": 3e-3})
    }
