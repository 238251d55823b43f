"""Gradient and Hessian of the valence energy, differentiable in the parameters of its terms.

With q the internal coordinates, B = dq/dx and C = d2q/dx2 of the geometry alone, phi = dV/dq and
k = d2V/dq2: g = B^T phi and H = B^T k B + sum_c phi_c C_c. A gradient by the parameters then needs
no second derivative of the geometry.

References:
    Wilson, Decius and Cross, Molecular Vibrations (1955), chapter 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import grad
from torch.func import hessian, jacrev, vmap

from atom.valence.terms import (
    COORDINATES,
    Coordinates,
    Parameters,
    Terms,
    coordinate_atoms,
    coordinates_of,
    terms_of,
)
from atom.valence.topology import Topology


class Layout:
    """Where the atoms and coordinates of joined molecules stand in matrices padded to the largest.

    Attributes:
        topology: M molecules, n atoms.
        n_molecules: M.
        size: D, three times the atoms of the largest molecule.
        columns: (n, 3) of each atom among the D.
        real: (M, D) bool, False for padding.
    """

    def __init__(self, topology: Topology) -> None:
        self.topology = t = topology
        self.n_molecules, device = t.n_molecules, t.numbers.device
        rank, self.n_atoms = _ranks(t.molecule, self.n_molecules)
        self.size = 3 * int(self.n_atoms.max())
        self.columns = 3 * rank[:, None] + torch.arange(3, device=device)
        self._flat = (t.molecule[:, None] * self.size + self.columns).flatten()
        self.real = torch.arange(self.size, device=device) < 3 * self.n_atoms[:, None]
        self.molecules, self.rows = {}, {}
        first = torch.zeros_like(self.n_atoms)
        for kind, atoms in zip(Coordinates._fields, coordinate_atoms(t), strict=True):
            molecule = t.molecule[atoms[:, 0]]
            rank, count = _ranks(molecule, self.n_molecules)
            self.molecules[kind], self.rows[kind] = molecule, first[molecule] + rank
            first = first + count
        self.n_coordinates = int(first.max())

    def pad(self, x: Tensor) -> Tensor:
        """(n, 3) as (M, D), 0 = padding."""
        padded = x.new_zeros(self.n_molecules * self.size)
        return padded.index_copy(0, self._flat, x.flatten()).view(self.n_molecules, self.size)

    def unpad(self, x: Tensor) -> Tensor:
        """(M, D) as (n, 3)."""
        return x.flatten()[self._flat].view(-1, 3)

    def coordinate(self, kind: str) -> Tensor:
        """Flat numbers among M times all coordinates of those of one kind."""
        return self.molecules[kind] * self.n_coordinates + self.rows[kind]


def _ranks(molecule: Tensor, n_molecules: int) -> tuple[Tensor, Tensor]:
    """Number of each row within its molecule, and the rows of every molecule; in order of them."""
    count = torch.bincount(molecule, minlength=n_molecules)
    first = count.cumsum(0) - count
    return torch.arange(len(molecule), device=molecule.device) - first[molecule], count


@dataclass(frozen=True)
class Geometry:
    """Internal coordinates at one geometry of every molecule, with their derivatives.

    Attributes:
        layout: of the molecules.
        positions: (n, 3) A.
        values: the coordinates.
        slopes: (M, C, D), B.
        curvatures: for each kind with any, (m, 3a, 3a), C of its rows.
    """

    layout: Layout
    positions: Tensor
    values: Coordinates
    slopes: Tensor
    curvatures: dict[str, Tensor]

    @classmethod
    @torch.no_grad()
    def of(cls, positions: Tensor, layout: Layout) -> Geometry:
        """At positions (n, 3) A, float64."""
        size, c, m = layout.size, layout.n_coordinates, layout.n_molecules
        slopes = positions.new_zeros(m * c * size)
        curvatures = {}
        t = layout.topology
        kinds = zip(Coordinates._fields, coordinate_atoms(t), COORDINATES, strict=True)
        for kind, atoms, function in kinds:
            if not len(atoms):
                continue
            slope, curvatures[kind] = _derivatives(function, positions[atoms])
            columns = layout.columns[atoms].flatten(1)
            slopes[(layout.coordinate(kind)[:, None] * size + columns).flatten()] = slope.flatten()
        values = coordinates_of(positions, t)
        return cls(layout, positions, values, slopes.view(m, c, size), curvatures)

    @cached_property
    def _blocks(self) -> dict[str, Tensor]:
        """For each kind, where the elements of its curvatures stand among the M D D."""
        layout, found = self.layout, {}
        atoms = dict(zip(Coordinates._fields, coordinate_atoms(layout.topology), strict=True))
        for kind in self.curvatures:
            columns = layout.columns[atoms[kind]].flatten(1)
            rows = layout.molecules[kind][:, None] * layout.size + columns
            found[kind] = (rows[:, :, None] * layout.size + columns[:, None]).flatten()
        return found

    def stiffness(self, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Gradient (M, D) eV/A and Hessian (M, D, D) eV/A^2 here, differentiable in parameters."""
        layout, m, c = self.layout, self.layout.n_molecules, self.layout.n_coordinates
        with torch.enable_grad():
            terms = terms_of(self.values, layout.topology, parameters)
            found = [_scattered(layout, term) for term in terms if len(term.x)]
        phi, inner = (
            self.slopes.new_zeros(n).index_add(0, torch.cat(where), torch.cat(values))
            for n, where, values in (
                (m * c, [f.rows for f in found], [f.slopes for f in found]),
                (m * c * c, [f.pairs for f in found], [f.curvatures for f in found]),
            )
        )
        first = self.slopes.transpose(1, 2)
        gradient = (first @ phi.view(m, c, 1))[..., 0]
        curved = (first @ inner.view(m, c, c) @ self.slopes).flatten()
        for kind, block in self.curvatures.items():
            pull = phi[layout.coordinate(kind)][:, None, None]
            curved = curved.index_add(0, self._blocks[kind], (pull * block).flatten())
        return gradient, curved.view(m, layout.size, layout.size)


class _Scattered(NamedTuple):
    """dV/dq and d2V/dq2 of one kind of term, and where they belong among all coordinates."""

    rows: Tensor
    slopes: Tensor
    pairs: Tensor
    curvatures: Tensor


def _scattered(layout: Layout, term: Terms) -> _Scattered:
    slopes, curvatures = _by_coordinates(term)
    flat = torch.stack([layout.coordinate(kind)[row] for kind, row in term.rows], dim=1)
    column = torch.stack([layout.rows[kind][row] for kind, row in term.rows], dim=1)
    pairs = flat[:, :, None] * layout.n_coordinates + column[:, None]
    return _Scattered(flat.flatten(), slopes.flatten(), pairs.flatten(), curvatures.flatten())


def _by_coordinates(term: Terms) -> tuple[Tensor, Tensor]:
    """dV/dq (n, k) and d2V/dq2 (n, k, k) of terms, whose rows do not know of each other."""
    x = term.x if term.x.requires_grad else term.x.detach().requires_grad_(True)
    (slopes,) = grad(
        term.energy(x, term.parameters).sum(), x, create_graph=True, materialize_grads=True
    )
    columns = [
        grad(s.sum(), x, create_graph=True, materialize_grads=True)[0] for s in slopes.unbind(1)
    ]
    return slopes, torch.stack(columns, dim=2)


def _derivatives(function: Callable[[Tensor, Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients (m, 3a) and second derivatives (m, 3a, 3a) of a coordinate at x (m, a, 3)."""
    itself = torch.arange(x.shape[1], device=x.device)[None]

    def value(one: Tensor) -> Tensor:
        return function(one.view(-1, 3), itself)[0]

    flat = x.flatten(1)
    return vmap(jacrev(value))(flat), vmap(hessian(value))(flat)
