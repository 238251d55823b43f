"""EGNN: equivariant message passing, every lag predicted on its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import silu

from atom.elements import MAX_ATOMIC_NUMBER
from atom.walk import bonded_pairs
from benchmarks.models.edges import N_KINDS, Edges, find_edges
from benchmarks.models.learnt import Learnt, Preset
from tg80.untrusted.limits import BoundedModel


class EGNNConfig(BoundedModel):
    """Settings of an EGNN; docs/benchmark/baselines.md has the equations."""

    n_layers: int = Field(default=4, ge=1, description="layers L")
    width: int = Field(default=64, ge=1, description="features of an atom, and of a message")
    time_width: int = Field(default=32, ge=2, multiple_of=2, description="width of the lag's code")
    time_unit_fs: float = Field(
        default=8.0, gt=0, description="unit of the lag in its code, fs; periods are 6.3 of it on"
    )
    two_hops: bool = Field(
        default=True, description="edges between atoms with a bonded neighbour in common, too"
    )
    radius_angstrom: float | None = Field(
        default=None,
        gt=0,
        description="edges between all other pairs as close as this, A; null: no",
    )
    bond_factor: float = Field(
        default=1.25, gt=0, description="bonded if d < factor * (sum of covalent radii)"
    )
    velocity_time_fs: float = Field(
        default=20.0, gt=0, description="time by which velocities are made lengths, fs"
    )


class EquivariantLayer(nn.Module):
    """One layer of EGNN with velocities.

    Args:
        width: of features and messages.
        n_edge_features: F.
    """

    def __init__(self, width: int, n_edge_features: int = N_KINDS) -> None:
        super().__init__()
        # The first matrix of the message network acts on [h_i, h_j, d^2, edge]; kept in parts, the
        # products with h are made once an atom and not once an edge.
        self.receiver = nn.Linear(width, width)
        self.sender = nn.Linear(width, width, bias=False)
        self.edge = nn.Linear(1 + n_edge_features, width, bias=False)
        self.message = nn.Linear(width, width)
        last = nn.Linear(width, 1)
        self.pull = nn.Sequential(nn.Linear(width, width), nn.SiLU(), last)
        self.keep = two_layers(width, width, 1)
        self.node = two_layers(2 * width, width, width)
        # Small pulls at first: else the structure is torn apart before anything is learnt.
        nn.init.xavier_uniform_(last.weight, gain=1e-3)
        nn.init.zeros_(last.bias)

    def forward(self, h: Tensor, x: Tensor, v: Tensor, edges: Edges) -> tuple[Tensor, ...]:
        """The next (h, x, v).

        Args:
            h: (B N, P, width) features.
            x: (B N, P, 3) positions, A.
            v: (B N, P, 3) velocities, A.
            edges: of the molecules.
        """
        force, message = self.interact(h, x, edges)
        v = self.keep(h).to(v) * v + force
        h = h + self.node(torch.cat([h, message], dim=-1))
        return h, x + v, v

    def interact(self, h: Tensor, x: Tensor, edges: Edges) -> tuple[Tensor, Tensor]:
        """The mean pull (B N, P, 3) of an atom's neighbours, and the sum of their messages."""
        apart = x[edges.receiver] - x[edges.sender]
        told = edges.features[:, None].expand(-1, apart.shape[1], -1)
        distance2 = apart.square().sum(-1, keepdim=True)
        message = self.receiver(h)[edges.receiver] + self.sender(h)[edges.sender]
        message = silu(message + self.edge(torch.cat([distance2, told.to(distance2)], dim=-1)))
        message = silu(self.message(message))
        force = edges.sums(apart * self.pull(message).to(apart)) / edges.degree[:, None].to(apart)
        return force, edges.sums(message).to(h)


def two_layers(n_in: int, n_hidden: int, n_out: int) -> nn.Sequential:
    """Two linear layers with SiLU between."""
    return nn.Sequential(nn.Linear(n_in, n_hidden), nn.SiLU(), nn.Linear(n_hidden, n_out))


def code_of_times(times: Tensor, width: int, last: float) -> Tensor:
    """Sines and cosines of t 10000^(-k/last), k < width / 2, of the times (B, P): (B, P, width)."""
    rates = 10_000.0 ** (-torch.arange(width // 2, device=times.device) / last)
    angles = times[..., None] * rates.to(times)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class EquivariantModule(nn.Module, ABC):
    """Start states and lags in, positions out; exactly equivariant under E(3)."""

    config: EGNNConfig

    def forward(
        self, positions: Tensor, velocities: Tensor, atomic_numbers: Tensor, lags_fs: Tensor
    ) -> Tensor:
        """Predict the positions at each lag.

        Args:
            positions: (B, N, 3) A.
            velocities: (B, N, 3) A/fs.
            atomic_numbers: (B, N), 0 = padding.
            lags_fs: (B, P) fs since the start, in any order; NaN = padding.

        Returns:
            (B, P, N, 3) A; the start positions at padded atoms and lags.
        """
        real, valid = atomic_numbers > 0, ~lags_fs.isnan()
        size = atomic_numbers.shape
        positions = positions.where(real[..., None], 0.0)
        edges = self.edges(positions, atomic_numbers)
        start = centred(positions, real)
        v = (velocities * self.config.velocity_time_fs).where(real[..., None], 0.0)
        x = self.trajectory(start, v, atomic_numbers, edges, lags_fs)
        moved = x.unflatten(0, size).transpose(1, 2) - start[:, None]
        wanted = valid[:, :, None, None] & real[:, None, :, None]
        return positions[:, None] + moved.where(wanted, 0.0)

    def trajectory(
        self, x: Tensor, v: Tensor, atomic_numbers: Tensor, edges: Edges, lags_fs: Tensor
    ) -> Tensor:
        """Positions (B N, P, 3) A at each lag, the centre of the start at the origin.

        Args:
            x: (B, N, 3) start positions, A.
            v: (B, N, 3) start velocities, A.
            atomic_numbers: (B, N), 0 = padding.
            edges: of the molecules.
            lags_fs: (B, P) fs.
        """
        h = self.features(v, atomic_numbers, lags_fs)
        x, v = (a.flatten(0, 1)[:, None].expand(-1, lags_fs.shape[1], -1) for a in (x, v))
        return self.decode(h, x, v, edges, atomic_numbers > 0, lags_fs)

    @abstractmethod
    def edges(self, positions: Tensor, atomic_numbers: Tensor) -> Edges:
        """The edges of start states: positions (B, N, 3) A, zero at padding."""

    @abstractmethod
    def features(self, v: Tensor, atomic_numbers: Tensor, lags_fs: Tensor) -> Tensor:
        """Features (B N, P, width) of element, speed and lag."""

    @abstractmethod
    def decode(
        self, h: Tensor, x: Tensor, v: Tensor, edges: Edges, real: Tensor, lags_fs: Tensor
    ) -> Tensor:
        """Positions (B N, P, 3) behind all layers.

        Args:
            h: (B N, P, width) features.
            x: (B N, P, 3) positions, A.
            v: (B N, P, 3) velocities, A.
            edges: of the molecules.
            real: (B, N) bool, False for padding.
            lags_fs: (B, P) fs.
        """


class EGNNModule(EquivariantModule):
    """Layers one after the other, each lag on its own."""

    def __init__(self, config: EGNNConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(MAX_ATOMIC_NUMBER + 1, config.width)
        self.lift = nn.Linear(config.width + 1 + config.time_width, config.width)
        self.layers = nn.ModuleList(EquivariantLayer(config.width) for _ in range(config.n_layers))

    def edges(self, positions: Tensor, atomic_numbers: Tensor) -> Edges:
        """Edges along one bond, two bonds, and between near atoms, as the settings say."""
        config = self.config
        return find_edges(
            positions,
            atomic_numbers,
            bonded_pairs(positions, atomic_numbers, config.bond_factor),
            two_hops=config.two_hops,
            radius_angstrom=config.radius_angstrom,
        )

    def features(self, v: Tensor, atomic_numbers: Tensor, lags_fs: Tensor) -> Tensor:
        """Features (B N, P, width) of element, speed and lag."""
        config = self.config
        size, n_steps = atomic_numbers.shape, lags_fs.shape[1]
        element = self.embedding(atomic_numbers)[:, :, None].expand(-1, -1, n_steps, -1)
        speed = v.norm(dim=-1)[:, :, None, None].expand(-1, -1, n_steps, -1)
        lags = lags_fs.nan_to_num() / config.time_unit_fs
        lags = code_of_times(lags, config.time_width, last=config.time_width / 2)
        lags = lags.to(v)[:, None].expand(-1, size[1], -1, -1)
        return self.lift(torch.cat([element, speed, lags], dim=-1).flatten(0, 1))

    def decode(
        self, h: Tensor, x: Tensor, v: Tensor, edges: Edges, real: Tensor, lags_fs: Tensor
    ) -> Tensor:
        """Positions (B N, P, 3) behind all layers."""
        for layer in self.layers:
            h, x, v = layer(h, x, v, edges)
        return x


def centred(x: Tensor, real: Tensor) -> Tensor:
    """Positions less their mean over the real atoms; zero at padding.

    Args:
        x: (B, N, ...) positions.
        real: (B, N) bool, False for padding.
    """
    weight = real.reshape(*real.shape, *(1,) * (x.ndim - 2)).double()
    # float64: nothing of a shift of the molecule is left over.
    mean = (x * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1)
    return ((x - mean) * weight).to(x.dtype)


# Plain Adam on squared errors at one rate, as the papers: no warm-up, decay, clipping, averaging.
PUBLISHED_TRAINING: dict[str, Any] = {
    "loss": "mse",
    "fixed_lag_fraction": 1.0,
    "learning_rate": 1e-4,
    "weight_decay": 0.0,
    "batch_size": 100,
    "warmup_fraction": 0.0,
    "final_rate_fraction": 1.0,
    "gradient_clip": 1e9,
    "ema_decay": 0.0,
}


class Egnn(Learnt[EquivariantModule, EGNNConfig]):
    """EGNN with the lag among the features: each lag is predicted on its own, in one shot.

    References:
        Satorras, Hoogeboom and Welling, arXiv:2102.09844.
    """

    id: ClassVar[str] = "egnn"
    config_class: type[EGNNConfig] = EGNNConfig
    module_class: ClassVar[type[EGNNModule]] = EGNNModule
    presets: ClassVar[dict[str, Preset]] = {
        "mini": Preset(training={"learning_rate": 1e-3}),
        "published": Preset({"n_layers": 5}, PUBLISHED_TRAINING),
    }

    def build(self) -> EquivariantModule:
        """A module with random weights."""
        return self.module_class(self.config)
