"""Valence terms: parameters from the features of atoms, energy from parameters and positions.

Terms are those of class II force fields: bonds with a cubic part, angles in their cosine (and, at
sp carbons, 1 + cos), torsions of periods 1 to 4 with couplings across them, out-of-plane terms,
soft terms between atoms three or more bonds apart, and products of any two stretches, bends or
twists that are near each other. Energies are eV, lengths A.

References:
    Maple et al., class II force fields, doi:10.1002/jcc.540150207; networks that predict the
    parameters: Wang et al. (Espaloma), arXiv:2010.01196; Seute et al. (Grappa), arXiv:2404.00050.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, softplus

from atom.elements import COVALENT_RADII
from atom.valence.topology import LONGEST_SEPARATION, N_RELATIONS, RING_SIZES, Topology

# Centre and width of the functions of distance between atoms that are not bonded, A.
_PAIR_SHAPES = ((1.8, 0.6), (2.4, 0.6), (3.0, 0.7), (3.8, 0.9), (5.0, 1.2))
_SMALL_SINE = 1e-6
DROPOUT = 0.1
"""Share of the features of a message's update that training leaves out."""

# Of what two coordinates the couplings are, and the size of their constants.
COUPLINGS = {
    "bond_bond": ("lengths", "lengths", 10.0),
    "bond_angle": ("lengths", "cosines", 5.0),
    "angle_angle": ("cosines", "cosines", 2.0),
    "twist_twist": ("twists", "twists", 1.0),
}


class Parameters(NamedTuple):
    """Numbers of each term; the rows are those of a topology.

    Attributes:
        bond: (n_bonds, 3) k eV/A^2, r0 A, cubic 1/A.
        angle: (n_angles, 4) k eV, cos of the rest angle, cubic, and of 1 + cos at an sp centre, eV.
        torsion: (n_torsions, 6) amplitudes of n = 1 to 4 eV, torsion-stretch eV/A and angle-angle
            eV across it.
        plane: (n_planes, 2) of the square and the fourth power of the triple product, eV.
        pair: (n_pairs, 6) of five Gaussians and of 3 A / r, eV.
        bond_bond: (n, 1) of the product of two stretches, eV/A^2.
        bond_angle: (n, 1) of stretch and bend, eV/A.
        angle_angle: (n, 1) of two bends, eV.
        twist_twist: (n, 1) of the triple products of two torsions, eV.
    """

    bond: Tensor
    angle: Tensor
    torsion: Tensor
    plane: Tensor
    pair: Tensor
    bond_bond: Tensor
    bond_angle: Tensor
    angle_angle: Tensor
    twist_twist: Tensor


class TermNetwork(nn.Module):
    """Parameters of the terms from features of the atoms.

    Args:
        width: of the features of an atom.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bond = _head(width, width, 3)
        self.angle = _head(2 * width, width, 4)
        self.torsion = _head(4 * width, width, 6)
        self.plane = _head(2 * width, width, 2)
        self.pair = _head(width + LONGEST_SEPARATION + 1, width, len(_PAIR_SHAPES) + 1)
        self.couplings = Couplings(width)

    def forward(self, h: Tensor, t: Topology) -> Parameters:
        """The parameters of all terms of a topology, of features h (n, width) of its atoms."""
        return Parameters(
            bond=self._bonds(h, t),
            angle=self._angles(h, t),
            torsion=self._torsions(h, t),
            plane=self._planes(h, t),
            pair=self.pair(_cat(_sum(h, t.pairs), _one_hot(t.separation[:, 0], h))),
            **self.couplings(h, t),
        )

    def _bonds(self, h: Tensor, t: Topology) -> Tensor:
        stiffness, length, cubic = self.bond(_sum(h, t.bonds)).unbind(1)
        radii = h.new_tensor(COVALENT_RADII)[t.numbers[t.bonds]].sum(1)
        return torch.stack(
            [
                40 * torch.exp(stiffness.clamp(-2.5, 2.5)),
                radii * torch.exp(0.3 * length),
                3 * cubic - 2,
            ],
            dim=1,
        )

    def _angles(self, h: Tensor, t: Topology) -> Tensor:
        stiffness, rest, cubic, straight = self.angle(_of_angles(h, t)).unbind(1)
        linear = t.linear.to(h)
        return torch.stack(
            [
                6 * torch.exp(stiffness.clamp(-2.5, 2.5)),
                torch.where(t.linear > 0, -1.0, rest - 0.4),
                cubic * (1 - linear),
                3 * linear * torch.exp(straight.clamp(-2.5, 2.5)),
            ],
            dim=1,
        )

    def _torsions(self, h: Tensor, t: Topology) -> Tensor:
        return h.new_tensor([0.5, 0.5, 0.5, 0.5, 5.0, 3.0]) * _of_torsions(self.torsion, h, t)

    def _planes(self, h: Tensor, t: Topology) -> Tensor:
        square, fourth = self.plane(_cat(h[t.planes[:, 0]], _sum(h, t.planes[:, 1:]))).unbind(1)
        return torch.stack([2 * square + 0.5, softplus(5 * fourth)], dim=1)


class Couplings(nn.Module):
    """Constants of the products of two coordinates near each other.

    Each coordinate has a vector of its own, and so has each way in which two can lie to each other;
    a constant is the sum of the products of the three.

    Args:
        width: of the features of an atom.
        rank: of the vectors.
    """

    def __init__(self, width: int, rank: int = 32) -> None:
        super().__init__()
        self.bond = _network(width, width, rank)
        self.angle = _network(2 * width, width, rank)
        self.twist = _network(4 * width, width, rank)
        self.relations = nn.ModuleDict(
            {name: nn.Embedding(N_RELATIONS, rank) for name in COUPLINGS}
        )
        for relation in self.relations.parameters():
            nn.init.zeros_(relation)  # so that the field starts without couplings

    def forward(self, h: Tensor, t: Topology) -> dict[str, Tensor]:
        """The constants (n, 1) of every kind of coupling."""
        vectors = {
            "lengths": self.bond(_sum(h, t.bonds)),
            "cosines": self.angle(_of_angles(h, t)),
            "twists": _of_torsions(self.twist, h, t),
        }
        found = {}
        for name, (one, other, scale) in COUPLINGS.items():
            first, second, relation = getattr(t, name).unbind(1)
            product = vectors[one][first] * vectors[other][second] * self.relations[name](relation)
            found[name] = scale * product.sum(1, keepdim=True)
        return found


class GraphMessages(nn.Module):
    """Features of atoms from a few rounds of messages along the bonds.

    They stay local (elements, bonds, ring sizes): encodings of the whole graph would let a network
    know molecules by heart.

    Args:
        n_inputs: features of an element.
        width: of the features of an atom.
        n_rounds: messages along the bonds.
        dropout: share of an update's features that training leaves out.
    """

    def __init__(self, n_inputs: int, width: int, n_rounds: int, dropout: float = DROPOUT) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.inputs = nn.Linear(n_inputs + 1 + len(RING_SIZES), width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(n_rounds))
        self.messages = nn.ModuleList(_network(2 * width, width, width) for _ in range(n_rounds))
        self.updates = nn.ModuleList(_network(2 * width, width, width) for _ in range(n_rounds))

    def forward(self, elements: Tensor, t: Topology) -> Tensor:
        """Features (n, width) from those of the atoms' elements (n, n_inputs)."""
        degrees, rings = t.degrees().to(elements)[:, None], t.rings.to(elements)
        h = self.inputs(_cat(elements, degrees, rings))
        into, out_of = torch.cat([t.bonds, t.bonds.flip(1)]).unbind(1)
        for norm, message, update in zip(self.norms, self.messages, self.updates, strict=True):
            g = norm(h)
            received = torch.zeros_like(h).index_add(0, into, message(_cat(g[into], g[out_of])))
            h = h + self.dropout(update(_cat(g, received)))
        return h


class ValenceNetwork(nn.Module):
    """Parameters of the terms from the bond graph alone.

    Args:
        width: of the features of an atom.
        n_rounds: messages along the bonds.
        dropout: as for `GraphMessages`.
    """

    def __init__(self, width: int = 64, n_rounds: int = 4, dropout: float = DROPOUT):
        super().__init__()
        self.element = nn.Embedding(len(COVALENT_RADII), width)
        nn.init.zeros_(self.element.weight)  # so stays that of an element which is never learnt
        self.graph = GraphMessages(width, width, n_rounds, dropout)
        self.terms = TermNetwork(width)

    def forward(self, topology: Topology) -> Parameters:
        """The parameters of all terms of a topology."""
        return self.terms(self.graph(self.element(topology.numbers), topology), topology)


class Coordinates(NamedTuple):
    """Internal coordinates of the terms; each row is that of a topology.

    Attributes:
        lengths: (n_bonds,) A.
        cosines: (n_angles,).
        dihedrals: (n_torsions,) cosines.
        twists: (n_torsions,) triple products of unit vectors along the three bonds, which tell the
            two senses of a turn apart.
        heights: (n_planes,) triple products of unit vectors.
        distances: (n_pairs,) A.
    """

    lengths: Tensor
    cosines: Tensor
    dihedrals: Tensor
    twists: Tensor
    heights: Tensor
    distances: Tensor


ATOMS_OF = {
    "lengths": "bonds", "cosines": "angles", "dihedrals": "torsions", "twists": "torsions",
    "heights": "planes", "distances": "pairs",
}  # fmt: skip
"""Kind of coordinate -> field of a topology that holds the atoms it is made of."""


def coordinates_of(positions: Tensor, t: Topology) -> Coordinates:
    """The internal coordinates at positions (n, 3) A."""
    atoms = coordinate_atoms(t)
    return Coordinates(*(f(positions, a) for f, a in zip(_FUNCTIONS, atoms, strict=True)))


def coordinate_atoms(t: Topology) -> tuple[Tensor, ...]:
    """The atoms that each kind of coordinate is made of."""
    return tuple(getattr(t, ATOMS_OF[kind]) for kind in Coordinates._fields)


class Terms(NamedTuple):
    """One kind of term: an energy of few coordinates of its own.

    Attributes:
        energy: eV (n,) of coordinates (n, k) and parameters (n, p).
        x: (n, k) coordinates, bonds and angles counted from rest.
        parameters: (n, p).
        rows: k times (kind of coordinate, (n,) its rows).
        atoms: (n, a) of which the first tells the molecule.
    """

    energy: Callable[[Tensor, Tensor], Tensor]
    x: Tensor
    parameters: Tensor
    rows: tuple[tuple[str, Tensor], ...]
    atoms: Tensor


def terms_of(q: Coordinates, t: Topology, p: Parameters) -> list[Terms]:
    """All terms of a topology at internal coordinates."""
    away = q._replace(lengths=q.lengths - p.bond[:, 1], cosines=q.cosines - p.angle[:, 1])

    def terms(
        energy: Callable[[Tensor, Tensor], Tensor],
        parameters: Tensor,
        atoms: Tensor,
        *rows: tuple[str, Tensor],
    ) -> Terms:
        x = torch.stack([getattr(away, kind)[row] for kind, row in rows], dim=1)
        return Terms(energy, x, parameters, rows, atoms)

    def all_of(kind: str) -> tuple[str, Tensor]:
        return kind, torch.arange(len(getattr(q, kind)), device=t.numbers.device)

    def couplings(name: str) -> Terms:
        one, other, _ = COUPLINGS[name]
        first, second, _ = getattr(t, name).unbind(1)
        atoms = getattr(t, ATOMS_OF[one])[first]
        return terms(_product, getattr(p, name), atoms, (one, first), (other, second))

    return [
        terms(_stretch, p.bond, t.bonds, all_of("lengths")),
        terms(_bend, p.angle, t.angles, all_of("cosines")),
        terms(
            _torsion,
            p.torsion,
            t.torsions,
            all_of("dihedrals"),
            ("lengths", t.torsion_bond),
            *(("cosines", row) for row in t.torsion_angles.unbind(1)),
        ),
        terms(_out_of_plane, p.plane, t.planes, all_of("heights")),
        terms(_pair, p.pair, t.pairs, all_of("distances")),
        *(couplings(name) for name in COUPLINGS),
    ]


def _stretch(x: Tensor, p: Tensor) -> Tensor:
    d = x[:, 0]
    # The cubic part is held beyond 0.3 A, where it would turn the bond's energy over.
    return p[:, 0] / 2 * d.square() * (1 + p[:, 2] * d.clamp(-0.3, 0.3) / 2)


def _bend(x: Tensor, p: Tensor) -> Tensor:
    opening = x[:, 0]
    bent = p[:, 0] / 2 * opening.square() * (1 + p[:, 2] * opening)
    return bent + p[:, 3] * (1 + opening + p[:, 1])


def _product(x: Tensor, p: Tensor) -> Tensor:
    return p[:, 0] * x[:, 0] * x[:, 1]


def _torsion(x: Tensor, p: Tensor) -> Tensor:
    c, middle, one_angle, other_angle = x.unbind(1)
    chebyshev = (c, 2 * c**2 - 1, 4 * c**3 - 3 * c, 8 * c**4 - 8 * c**2 + 1)
    functions = torch.stack([*chebyshev, middle * c**2, one_angle * other_angle * c], dim=1)
    return (p * functions).sum(1)


def _out_of_plane(x: Tensor, p: Tensor) -> Tensor:
    square = x[:, 0].square()
    return p[:, 0] * square + p[:, 1] * square.square()


def _pair(x: Tensor, p: Tensor) -> Tensor:
    return (p * _pair_functions(x[:, 0])).sum(1)


def energy(positions: Tensor, t: Topology, parameters: Parameters) -> Tensor:
    """Energies (n_molecules,) eV at positions (n, 3) A of all atoms of a topology."""
    total = positions.new_zeros(t.n_molecules)
    for term in terms_of(coordinates_of(positions, t), t, parameters):
        values = term.energy(term.x, term.parameters)
        total = total.index_add(0, t.molecule[term.atoms[:, 0]], values)
    return total


def energy_and_forces(
    positions: Tensor, topology: Topology, parameters: Parameters
) -> tuple[Tensor, Tensor]:
    """Energies (n_molecules,) eV and forces (n, 3) eV/A; not to be differentiated."""
    with torch.enable_grad():
        x = positions.detach().requires_grad_(True)
        energies = energy(x, topology, parameters)
        (gradient,) = torch.autograd.grad(energies.sum(), x)
    return energies.detach(), -gradient


def differentiable_forces(positions: Tensor, t: Topology, parameters: Parameters) -> Tensor:
    """Forces (n, 3) eV/A that can be differentiated by the parameters, not by positions (n, 3).

    -dV/dq dq/dx: the slopes of the coordinates q are those of the geometry alone, so that a
    gradient by the parameters needs no second derivative of them.
    """
    atoms = coordinate_atoms(t)
    pairs = [_with_slopes(f, positions[own]) for f, own in zip(_FUNCTIONS, atoms, strict=True)]
    q = Coordinates(*(values.requires_grad_(True) for values, _ in pairs))
    energies = [term.energy(term.x, term.parameters).sum() for term in terms_of(q, t, parameters)]
    pulls = torch.autograd.grad(
        torch.stack(energies).sum(), q, create_graph=True, materialize_grads=True
    )
    parts = [
        (-pull[:, None, None] * slopes).flatten(0, 1)
        for pull, (_, slopes) in zip(pulls, pairs, strict=True)
    ]
    owners = torch.cat([own.flatten() for own in atoms])
    return torch.zeros_like(positions).index_add(0, owners, torch.cat(parts))


def _with_slopes(function: Callable[[Tensor, Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates (m,) of a kind, their atoms at x (m, a, 3), and their slopes (m, a, 3)."""
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        rows = torch.arange(x.shape[0] * x.shape[1], device=x.device).view(x.shape[:2])
        values = function(x.flatten(0, 1), rows)
        (slopes,) = torch.autograd.grad(values.sum(), x)
    return values.detach(), slopes


def _lengths(x: Tensor, pairs: Tensor) -> Tensor:
    return (x[pairs[:, 0]] - x[pairs[:, 1]]).norm(dim=1)


def _cosines(x: Tensor, angles: Tensor) -> Tensor:
    u, v = x[angles[:, 0]] - x[angles[:, 1]], x[angles[:, 2]] - x[angles[:, 1]]
    return (u * v).sum(1) / (u.norm(dim=1) * v.norm(dim=1))


def _dihedral_cosines(x: Tensor, torsions: Tensor) -> Tensor:
    a, b, c = (x[torsions[:, i + 1]] - x[torsions[:, i]] for i in range(3))
    left, right = torch.linalg.cross(a, b), torch.linalg.cross(b, c)
    size = (left.square().sum(1) * right.square().sum(1)).clamp(min=_SMALL_SINE).sqrt()
    return (left * right).sum(1) / size


def _twists(x: Tensor, torsions: Tensor) -> Tensor:
    bonds = [x[torsions[:, i + 1]] - x[torsions[:, i]] for i in range(3)]
    p, q, r = (bond / bond.norm(dim=1, keepdim=True) for bond in bonds)
    return (torch.linalg.cross(p, q) * r).sum(1)


def _triple_products(x: Tensor, planes: Tensor) -> Tensor:
    axes = [x[planes[:, i]] - x[planes[:, 0]] for i in (1, 2, 3)]
    p, q, r = (axis / axis.norm(dim=1, keepdim=True) for axis in axes)
    return (torch.linalg.cross(p, q) * r).sum(1)


_FUNCTIONS = (_lengths, _cosines, _dihedral_cosines, _twists, _triple_products, _lengths)
"""Functions of positions (n, 3) and of the atoms (m, a) of each, in order of `Coordinates`."""


def _pair_functions(r: Tensor) -> Tensor:
    gaussians = [torch.exp(-(((r - centre) / width) ** 2)) for centre, width in _PAIR_SHAPES]
    return torch.stack([*gaussians, 3 / r], dim=1)


def _network(n_in: int, width: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, width), nn.SiLU(), nn.Linear(width, n_out))


def _head(n_in: int, width: int, n_out: int) -> nn.Sequential:
    """A network that starts near zero: the field starts near generic values."""
    last = nn.Linear(width, n_out)
    with torch.no_grad():
        last.weight.mul_(0.1)
        last.bias.zero_()
    return nn.Sequential(
        nn.Linear(n_in, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), last
    )


def _cat(*parts: Tensor) -> Tensor:
    return torch.cat(parts, dim=1)


def _sum(h: Tensor, atoms: Tensor) -> Tensor:
    """Sum of the features of each row's atoms, whatever their order."""
    return h[atoms].sum(1)


def _of_angles(h: Tensor, t: Topology) -> Tensor:
    """Features (n_angles, 2 width) of the centre and of both legs, whatever their order."""
    i, j, k = t.angles.unbind(1)
    return _cat(h[j], h[i] + h[k])


def _of_torsions(network: nn.Module, h: Tensor, t: Topology) -> Tensor:
    """What a network makes of the atoms of torsions, the same from either end."""
    found = network(h[t.torsions].flatten(1)) + network(h[t.torsions.flip(1)].flatten(1))
    assert isinstance(found, Tensor)
    return found


def _one_hot(separation: Tensor, h: Tensor) -> Tensor:
    return one_hot(separation, LONGEST_SEPARATION + 1).to(h)
