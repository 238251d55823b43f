"""Gradient and Hessian of the valence energy, differentiable in the parameters of its terms.

With q the internal coordinates, B = dq/dx and C = d2q/dx2 of the geometry alone, phi = dV/dq and
k = d2V/dq2: g = B^T phi and H = B^T k B + sum_c phi_c C_c. A gradient by the parameters then needs
no second derivative of the geometry.

References:
    Wilson, Decius and Cross, Molecular Vibrations (1955), chapter 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import grad

from atom.valence.derivatives import derivatives_of
from atom.valence.terms import (
    Coordinates,
    Parameters,
    Terms,
    coordinate_atoms,
    coordinates_of,
    terms_of,
)
from atom.valence.topology import Topology, join

# Coordinates that no term couples with others.
_ALONE = "distances"


class Layout:
    """Where the atoms and coordinates of joined molecules stand in matrices padded to the largest.

    Attributes:
        topology: M molecules, n atoms.
        n_molecules: M.
        size: D, three times the atoms of the largest molecule.
        columns: (n, 3) of each atom among the D.
        real: (M, D) bool, False for padding.
        n_coordinates: C of the molecule that has most, those that no term couples left out.
    """

    def __init__(self, topology: Topology) -> None:
        self.topology = t = topology
        self.n_molecules, device = t.n_molecules, t.numbers.device
        rank, self.n_atoms = _ranks(t.molecule, self.n_molecules)
        self.size = 3 * int(self.n_atoms.max())
        self.columns = 3 * rank[:, None] + torch.arange(3, device=device)
        self._flat = (t.molecule[:, None] * self.size + self.columns).flatten()
        self.real = torch.arange(self.size, device=device) < 3 * self.n_atoms[:, None]
        self.atoms = dict(zip(Coordinates._fields, coordinate_atoms(t), strict=True))
        self.molecules, self.rows = {}, {}
        first = torch.zeros_like(self.n_atoms)
        for kind, atoms in self.atoms.items():
            molecule = t.molecule[atoms[:, 0]]
            self.molecules[kind] = molecule
            if kind != _ALONE:
                rank, count = _ranks(molecule, self.n_molecules)
                self.rows[kind] = first[molecule] + rank
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
        """Flat numbers among M times C of the coordinates of one kind."""
        return self.molecules[kind] * self.n_coordinates + self.rows[kind]

    def axes(self, kind: str) -> Tensor:
        """Which of the D the axes of the atoms of each coordinate are, (m, 3a)."""
        return self.columns[self.atoms[kind]].flatten(1)


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
        slopes: for each kind with any, (m, 3a), B of its rows.
        curvatures: likewise, (m, 3a, 3a), C of its rows.
    """

    layout: Layout
    positions: Tensor
    values: Coordinates
    slopes: dict[str, Tensor]
    curvatures: dict[str, Tensor]

    @classmethod
    @torch.no_grad()
    def of(cls, positions: Tensor, layout: Layout) -> Geometry:
        """At positions (n, 3) A, float64."""
        slopes, curvatures = {}, {}
        for kind, atoms in layout.atoms.items():
            if len(atoms):
                slopes[kind], curvatures[kind] = derivatives_of(kind, positions[atoms])
        values = coordinates_of(positions, layout.topology)
        return cls(layout, positions, values, slopes, curvatures)

    @classmethod
    def join(cls, geometries: Sequence[Geometry]) -> Geometry:
        """Those of several molecules, one after another, as one."""
        layout = Layout(join([geometry.layout.topology for geometry in geometries]))
        values = (torch.cat(parts) for parts in zip(*(g.values for g in geometries), strict=True))
        slopes, curvatures = (
            {
                kind: torch.cat([part[kind] for part in parts if kind in part])
                for kind in Coordinates._fields
                if any(kind in part for part in parts)
            }
            for parts in zip(*((g.slopes, g.curvatures) for g in geometries), strict=True)
        )
        positions = torch.cat([geometry.positions for geometry in geometries])
        return cls(layout, positions, Coordinates(*values), slopes, curvatures)

    def stiffness(self, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Gradient (M, D) eV/A and Hessian (M, D, D) eV/A^2 here, differentiable in parameters."""
        layout, m, size = self.layout, self.layout.n_molecules, self.layout.size
        with torch.enable_grad():
            terms = [t for t in terms_of(self.values, layout.topology, parameters) if len(t.x)]
            coupled = [_scattered(layout, t) for t in terms if t.rows[0][0] != _ALONE]
            alone = [_by_coordinates(t) for t in terms if t.rows[0][0] == _ALONE]
        gradient, curved, pulls = self._of_coupled(coupled)
        bends = {kind: pulls[layout.coordinate(kind)] for kind in self.slopes if kind != _ALONE}
        blocks = {kind: bends[kind][:, None, None] * self.curvatures[kind] for kind in bends}
        for slope, curvature in alone:
            along = self.slopes[_ALONE]
            where = layout.molecules[_ALONE][:, None] * size + layout.axes(_ALONE)
            gradient = gradient.index_add(0, where.flatten(), (slope * along).flatten())
            blocks[_ALONE] = (
                slope[..., None] * self.curvatures[_ALONE]
                + curvature * along[:, :, None] * along[:, None]
            )
        for kind, block in blocks.items():
            axes = layout.axes(kind)
            rows = layout.molecules[kind][:, None] * size + axes
            where = rows[:, :, None] * size + axes[:, None]
            curved = curved.index_add(0, where.flatten(), block.flatten())
        return gradient.view(m, size), curved.view(m, size, size)

    def _of_coupled(self, terms: Sequence[_Scattered]) -> tuple[Tensor, Tensor, Tensor]:
        """B^T phi (M D), B^T k B (M D D) and phi (M C) of the coordinates that terms couple."""
        m, c = self.layout.n_molecules, self.layout.n_coordinates
        phi, inner = (
            self.positions.new_zeros(n).index_add(0, torch.cat(where), torch.cat(values))
            for n, where, values in (
                (m * c, [t.rows for t in terms], [t.slopes for t in terms]),
                (m * c * c, [t.pairs for t in terms], [t.curvatures for t in terms]),
            )
        )
        first = self._first.transpose(1, 2)
        gradient = (first @ phi.view(m, c, 1)).flatten()
        return gradient, (first @ inner.view(m, c, c) @ self._first).flatten(), phi

    @cached_property
    def _first(self) -> Tensor:
        """B (M, C, D) of the coordinates that terms couple."""
        layout, size = self.layout, self.layout.size
        first = self.positions.new_zeros(layout.n_molecules * layout.n_coordinates * size)
        for kind, slope in self.slopes.items():
            if kind != _ALONE:
                where = layout.coordinate(kind)[:, None] * size + layout.axes(kind)
                first[where.flatten()] = slope.flatten()
        return first.view(layout.n_molecules, layout.n_coordinates, size)


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
