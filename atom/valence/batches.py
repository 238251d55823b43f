"""Valence terms of many molecules at once, those that are alike asked for once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from atom.valence.terms import Parameters, differentiable_forces, energy_and_forces
from atom.valence.topology import Topology, join, rows_of_terms, topologies_of

ParametersOf = Callable[[Topology], Parameters]


def terms_of_each(
    topologies: Sequence[Topology], parameters_of: ParametersOf, device: torch.device
) -> tuple[Topology, Parameters]:
    """Topologies one after another, and the parameters of their terms.

    Args:
        topologies: those of equal molecules are the same object.
        parameters_of: asked for the different ones.
        device: of what is returned.
    """
    unique = list(dict.fromkeys(topologies))
    number = {topology: i for i, topology in enumerate(unique)}
    rows = rows_of_terms(unique, [number[topology] for topology in topologies])
    found = parameters_of(join(unique).to(device))
    own = Parameters(*(p[row.to(device)] for p, row in zip(found, rows, strict=True)))
    return join(topologies).to(device), own


def forces_of(
    positions: Tensor,
    atomic_numbers: Tensor,
    parameters_of: ParametersOf,
    *,
    differentiable: bool = False,
) -> Tensor:
    """Forces (B, N, 3) eV/A of molecules at positions (B, N, 3) A, which tell their bonds.

    Args:
        positions: of B molecules, padded.
        atomic_numbers: (B, N), 0 = padding, which stands last.
        parameters_of: of the terms.
        differentiable: in the parameters.
    """
    topologies = topologies_of(positions, atomic_numbers)
    topology, parameters = terms_of_each(topologies, parameters_of, positions.device)
    parameters = Parameters(*(p.to(positions) for p in parameters))
    real = atomic_numbers > 0
    if differentiable:
        found = differentiable_forces(positions[real], topology, parameters)
    else:
        _, found = energy_and_forces(positions[real], topology, parameters)
    return torch.zeros_like(positions).masked_scatter(real[..., None], found)
