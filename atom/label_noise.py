"""Label noise: added in training to the start state, and to each target."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from atom.config import ATOMConfig


class LabelNoise(NamedTuple):
    """Values for the three quantities that noise is added to.

    Attributes:
        positions: (B, N, 3).
        velocities: (B, N, 3).
        targets: (B, P, N, 3).
    """

    positions: Tensor
    velocities: Tensor
    targets: Tensor


def add_label_noise(
    config: ATOMConfig,
    clean: LabelNoise,
    thermal_speeds: Tensor,
    noise: LabelNoise | None,
    generator: torch.Generator | None,
) -> LabelNoise:
    """Add the noise that the config asks for.

    Args:
        config: the widths ``sigma_*``, and ``input_noise`` and ``target_noise``.
        clean: positions in A, velocities in A/fs, and targets in A.
        thermal_speeds: (B, N), unit of ``sigma_velocities``, A/fs.
        noise: standard normal numbers in place of drawn ones.
        generator: of drawn ones; torch's global one for None.
    """

    def add(name: str, sigma: float, on: bool, unit: Tensor | None = None) -> Tensor:
        value = getattr(clean, name)
        if not (on and sigma > 0):
            return value
        numbers = _normal(value, generator) if noise is None else getattr(noise, name).to(value)
        return value + (sigma if unit is None else sigma * unit.to(value.dtype)) * numbers

    return LabelNoise(
        add("positions", config.sigma_positions, config.input_noise),
        add("velocities", config.sigma_velocities, config.input_noise, thermal_speeds[..., None]),
        add("targets", config.sigma_positions, config.target_noise),
    )


def _normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    device = like.device if generator is None else generator.device
    drawn = torch.randn(like.shape, generator=generator, device=device, dtype=like.dtype)
    return drawn.to(like.device)
