"""Small models with nothing left at its initial value, start states, and the tolerances."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from atom import ATOM, ATOMConfig

# Outputs are a few A and float32 carries 7 digits; sums in another order cost two or three.
ROUNDING_A = 5e-5
# Differences that are meant must stand out of the rounding by far.
VISIBLE_A = 1e-3
# Exact identities evaluated in float64.
EXACT = 1e-9

MODES = ("joint", "start")
HEADS = (1, 3)

# Every setting that changes the forward, each with some other. The test runs over all of them
# whatever must hold for any prediction.
VARIANTS: list[dict[str, Any]] = [
    {"time_attention": "joint", "output_heads": 1},
    {"time_attention": "start", "output_heads": 3},
    {"time_attention": "joint", "lifted_keys": "start", "output_heads": 3},
    {"time_attention": "start", "lifted_keys": "start"},
    {"output": "absolute", "rope": "none"},
    {"neighbours": "bonded"},
    {"neighbours": "bonded", "lifted_keys": "start"},
    {"normalise_lifted": False},
    {"value_residual": False, "lag_embedding": False, "lag_gate_fs": None},
    {"lifting": "linear", "rope": "index"},
    {"attention": "standard", "walk_encoding": False},
    {"pair_layers": 2, "output": "flight", "lifted_keys": "start"},
    {"attention": "gat"},
    {"attention": "gat", "lifted_keys": "start", "time_attention": "start", "rope": "none"},
    {"attention": "gat", "graph_radius_angstrom": 2.0, "lifted_keys": "start"},
]
STRICT: list[dict[str, Any]] = [
    {"symmetry": "strict", "lifted_keys": "start", "output_heads": 3},
    {"symmetry": "strict", "time_attention": "start", "attention": "standard"},
    {"symmetry": "strict", "pair_layers": 2, "output": "flight"},
]


@dataclass(frozen=True)
class Start:
    """One batch of start states, with room for padding."""

    positions: torch.Tensor
    velocities: torch.Tensor
    atomic_numbers: torch.Tensor

    def __iter__(self):
        return iter((self.positions, self.velocities, self.atomic_numbers))

    def take(self, atoms) -> Start:
        """The same samples with the atoms picked (or permuted) by an index."""
        return Start(*(t[:, atoms] for t in self))

    def sample(self, index: int) -> Start:
        """One sample, unpadded."""
        real = self.atomic_numbers[index] > 0
        return Start(*(t[index, real][None] for t in self))


def config(**overrides: Any) -> ATOMConfig:
    """Settings of a small model."""
    settings: dict[str, Any] = {
        "n_blocks": 3,
        "width": 32,
        "n_heads": 2,
        "feedforward_width": 48,
    }
    return ATOMConfig(**{**settings, **overrides})


@cache
def _randomised(settings: ATOMConfig, seed: int) -> ATOM:
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = ATOM(settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            # Gammas, mixing factors and gains too, so that no term is trivially absent; the
            # output weights start small and are made large enough to show everything.
            scale = 0.3 if "project_output" in name or parameter.ndim == 0 else 0.1
            parameter.add_(scale * noise)
    return model.eval()


def randomised(seed: int = 0, **overrides: Any) -> ATOM:
    """A model with every parameter perturbed; shared between tests, so never train it."""
    return _randomised(config(**overrides), seed)


def start(n_samples: int = 2, n_atoms: int = 5, seed: int = 0) -> Start:
    """Random clusters of H, C, N, O, S, Cl at bonded distances, with thermal velocities."""
    rng = np.random.default_rng(seed)
    positions = rng.normal(0.0, 1.1, (n_samples, n_atoms, 3))
    velocities = rng.normal(0.0, 0.006, (n_samples, n_atoms, 3))
    numbers = rng.choice([1, 6, 7, 8, 16, 17], (n_samples, n_atoms))
    return Start(
        torch.tensor(positions, dtype=torch.float32),
        torch.tensor(velocities, dtype=torch.float32),
        torch.tensor(numbers),
    )


def ragged(sizes: tuple[int, ...], seed: int = 0) -> Start:
    """Samples of several sizes in one batch, padded by zeros."""
    batch = start(len(sizes), max(sizes), seed)
    real = torch.arange(max(sizes))[None] < torch.tensor(sizes)[:, None]
    return Start(
        batch.positions * real[..., None],
        batch.velocities * real[..., None],
        batch.atomic_numbers * real,
    )


def lags(*values: float, n_samples: int = 2) -> torch.Tensor:
    """The same lags for each sample, (n_samples, P)."""
    return torch.tensor([list(values)] * n_samples, dtype=torch.float32)


def difference(first: torch.Tensor, second: torch.Tensor) -> float:
    """Largest absolute difference, A."""
    return float((first - second).detach().abs().max())


def orthogonal(seed: int, *, reflect: bool) -> torch.Tensor:
    """A random matrix of O(3), float64, with determinant +1 or -1."""
    matrix, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    if (np.linalg.det(matrix) < 0) != reflect:
        matrix = -matrix
    return torch.tensor(matrix)
