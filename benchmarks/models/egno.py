"""EGNO: equivariant message passing, and convolution along the steps in Fourier space."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, silu

from benchmarks.models.edges import Edges, find_edges
from benchmarks.models.egnn import (
    PUBLISHED_TRAINING,
    Egnn,
    EGNNConfig,
    EGNNModule,
    EquivariantLayer,
    EquivariantModule,
    centred,
    code_of_times,
    two_layers,
)
from benchmarks.models.learnt import Preset

PUBLISHED_BOND_ANGSTROM = 1.6
PUBLISHED_LARGEST_FORCE = 100.0
N_PUBLISHED_EDGE_FEATURES = 4
"""Both atomic numbers, the number of bonds between the atoms, and the squared start distance."""


class EGNOConfig(EGNNConfig):
    """Settings of an EGNO; docs/benchmark/baselines.md has the equations."""

    n_modes: int = Field(default=2, ge=1, description="Fourier modes that are kept along the steps")
    published: bool = Field(
        default=False,
        description="layers, features and edges of the authors' code; the lag's unit and the "
        "settings of edges have no effect",
    )

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Self:
        for name in ("time_unit_fs", "two_hops", "radius_angstrom", "bond_factor"):
            if self.published and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect if published is true; leave it out")
        return self


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


def order_of(lags_fs: Tensor) -> Tensor:
    """Number of each of the lags (B, P) in order of time, from 0 on; padded ones come last."""
    return lags_fs.argsort(stable=True, dim=1).argsort(dim=1)


def waves_of(lags_fs: Tensor, n_modes: int, dtype: torch.dtype) -> Waves:
    """The waves along the lags (B, P): their order counts, not the time between them."""
    valid = ~lags_fs.isnan()
    number = valid.sum(1)[:, None, None].double()
    k = torch.arange(n_modes, device=lags_fs.device)[None, :, None].double()
    angle = 2 * math.pi * k * order_of(lags_fs)[:, None] / number.clamp(min=1)
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
        draw: numbers of a shape, by which the scale is multiplied.
    """

    def __init__(
        self,
        n_channels: int,
        n_modes: int,
        scale: float,
        draw: Callable[..., Tensor] = torch.randn,
    ) -> None:
        super().__init__()
        size = (n_channels, n_channels)
        self.real = nn.Parameter(scale * draw(n_modes, *size))
        # The constant mode of a real function is real.
        imaginary = scale * draw(n_modes - 1, *size)
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
    """Convolution along the steps of features, and of the pair (x - centre, v).

    Args:
        features: mixes the features.
        vectors: mixes the pair.
        activation: of the mixed features.
        centred: positions and which atoms are real -> positions from the centre.
    """

    def __init__(
        self,
        features: TemporalConvolution,
        vectors: TemporalConvolution,
        activation: Callable[[Tensor], Tensor] = silu,
        centred: Callable[[Tensor, Tensor], Tensor] = centred,
    ) -> None:
        super().__init__()
        self.features, self.vectors = features, vectors
        self.activation, self.centred = activation, centred

    def forward(
        self, h: Tensor, x: Tensor, v: Tensor, waves: Waves, real: Tensor
    ) -> tuple[Tensor, ...]:
        """The next (h, x, v) of (B N, P, width), (B N, P, 3), (B N, P, 3)."""
        size = real.shape
        h = h + self.activation(self.features(h.unflatten(0, size), waves)).flatten(0, 1)
        # Channels are mixed and coordinates are not, so that rotations and reflections commute.
        with torch.autocast(x.device.type, enabled=False):
            pair = torch.stack([self.centred(x.unflatten(0, size), real), v.unflatten(0, size)], -1)
            # (B, 3 N, P, 2): each coordinate is a function of its own.
            pair = pair.transpose(2, 3).flatten(1, 2)
            change = self.vectors(pair, waves).unflatten(1, (-1, 3)).transpose(2, 3).flatten(0, 1)
        return h, x + change[..., 0], v + change[..., 1]


def _decoded(
    blocks: Iterable[tuple[nn.Module, nn.Module]],
    state: tuple[Tensor, Tensor, Tensor],
    edges: Edges,
    real: Tensor,
    waves: Waves,
) -> Tensor:
    """Positions behind all blocks, each a convolution and a layer of EGNN."""
    h, x, v = state
    for temporal, layer in blocks:
        h, x, v = temporal(h, x, v, waves, real)
        h, x, v = layer(h, x, v, edges)
    return x


# All steps begin with the same (x, v): of the first layer's pair, only the constant mode is not
# zero, and so the first layer has no other.


class EGNOModule(EGNNModule):
    """EGNN with a convolution along the steps before each layer."""

    def __init__(self, config: EGNOConfig) -> None:
        super().__init__(config)
        width, n_modes = config.width, config.n_modes
        self.n_modes = n_modes
        self.temporal = nn.ModuleList(
            TemporalLayer(
                TemporalConvolution(width, n_modes, scale=1 / width),
                # A pair that is changed much at first would tear the structure apart.
                TemporalConvolution(2, n_modes if i else 1, scale=1e-2),
            )
            for i in range(config.n_layers)
        )

    def decode(
        self, h: Tensor, x: Tensor, v: Tensor, edges: Edges, real: Tensor, lags_fs: Tensor
    ) -> Tensor:
        """Positions (B N, P, 3) behind all blocks."""
        blocks = zip(self.temporal, self.layers, strict=True)
        return _decoded(blocks, (h, x, v), edges, real, waves_of(lags_fs, self.n_modes, x.dtype))


class PublishedLayer(EquivariantLayer):
    """A layer of the authors' code: v is left to the convolution, and nothing is added to h.

    Args:
        width: of features and messages.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, N_PUBLISHED_EDGE_FEATURES)
        self.pull = two_layers(width, width, 1)
        # Theirs is one matrix, with a column more: of a flag that no molecule has here.
        bound = (2 * width + N_PUBLISHED_EDGE_FEATURES + 2) ** -0.5
        weights = (self.receiver.weight, self.receiver.bias, self.sender.weight, self.edge.weight)
        for part in weights:
            nn.init.uniform_(part, -bound, bound)

    def forward(self, h: Tensor, x: Tensor, v: Tensor, edges: Edges) -> tuple[Tensor, ...]:
        """The next (h, x), and v as it was."""
        force, message = self.interact(h, x, edges)
        force = force.clamp(-PUBLISHED_LARGEST_FORCE, PUBLISHED_LARGEST_FORCE)
        x = x + self.keep(h).to(v) * v + force
        return self.node(torch.cat([h, message], dim=-1)), x, v


class PublishedEGNOModule(EquivariantModule):
    """EGNO with the layers, features, edges and first weights of the authors' code.

    References:
        github.com/MinkaiXu/EGNO, commit 15ee2ce: model/, md17/dataset.py, main_md17_no.py.
    """

    def __init__(self, config: EGNOConfig) -> None:
        super().__init__()
        self.config, self.n_modes = config, config.n_modes
        width, n_modes = config.width, config.n_modes
        self.lift = nn.Linear(2 + config.time_width, width)
        self.layers = nn.ModuleList(PublishedLayer(width) for _ in range(config.n_layers))
        self.temporal = nn.ModuleList(
            TemporalLayer(
                TemporalConvolution(width, n_modes, scale=width**-2, draw=torch.rand),
                TemporalConvolution(2, n_modes if i else 1, scale=0.1, draw=torch.rand),
                activation=leaky_relu,
                centred=_from_the_start,
            )
            for i in range(config.n_layers)
        )

    def edges(self, positions: Tensor, atomic_numbers: Tensor) -> Edges:
        """Edges along one bond and two, an atom being bonded to all within one distance."""
        apart = (positions[:, :, None] - positions[:, None]).square().sum(-1)
        real = atomic_numbers > 0
        itself = torch.eye(real.shape[1], dtype=torch.bool, device=real.device)
        bonds = (apart < PUBLISHED_BOND_ANGSTROM**2) & real[:, :, None] & real[:, None] & ~itself
        edges = find_edges(positions, atomic_numbers, bonds, two_hops=True, radius_angstrom=None)
        x, z = positions.flatten(0, 1), atomic_numbers.flatten().to(positions)
        distance2 = (x[edges.receiver] - x[edges.sender]).square().sum(-1)
        n_bonds = 1 + edges.features.argmax(1).to(x)
        told = (z[edges.receiver], z[edges.sender], n_bonds, distance2)
        return replace(edges, features=torch.stack(told, dim=-1))

    def features(self, v: Tensor, atomic_numbers: Tensor, lags_fs: Tensor) -> Tensor:
        """Features (B N, P, width) of speed, atomic number and number of the step."""
        heaviest = atomic_numbers.amax(1, keepdim=True).clamp(min=1)
        atoms = torch.stack([v.norm(dim=-1), (atomic_numbers / heaviest).to(v)], dim=-1)
        width = self.config.time_width
        steps = code_of_times(order_of(lags_fs).to(v), width, last=max(width // 2 - 1, 1))
        atoms = atoms[:, :, None].expand(-1, -1, steps.shape[1], -1)
        steps = steps[:, None].expand(-1, atoms.shape[1], -1, -1)
        return self.lift(torch.cat([atoms, steps], dim=-1).flatten(0, 1))

    def decode(
        self, h: Tensor, x: Tensor, v: Tensor, edges: Edges, real: Tensor, lags_fs: Tensor
    ) -> Tensor:
        """Positions (B N, P, 3) behind all blocks."""
        blocks = zip(self.temporal, self.layers, strict=True)
        return _decoded(blocks, (h, x, v), edges, real, waves_of(lags_fs, self.n_modes, x.dtype))


def _from_the_start(x: Tensor, real: Tensor) -> Tensor:
    """Positions from the centre of the start, which is the origin."""
    return x


class Egno(Egnn):
    """EGNO: all lags are decoded together, each from all others.

    References:
        Xu et al., arXiv:2401.11037.
    """

    id: ClassVar[str] = "egno"
    config_class: type[EGNNConfig] = EGNOConfig
    presets: ClassVar[dict[str, Preset]] = {
        "mini": Preset(training={"learning_rate": 3e-3}),
        # The authors' settings for MD17, whose frames are 0.5 fs apart and whose epochs have 500
        # windows.
        "published": Preset(
            {"published": True, "n_layers": 5, "velocity_time_fs": 0.5},
            PUBLISHED_TRAINING | {"windows_per_trajectory": 500},
        ),
    }

    def build(self) -> EquivariantModule:
        """A module with random weights, in the form that the settings say."""
        assert isinstance(self.config, EGNOConfig)
        kind = PublishedEGNOModule if self.config.published else EGNOModule
        return kind(self.config)
