"""The valence force field: parameters from the bond graph, energy from parameters and positions.

Terms are those of class II force fields: bonds with a cubic part, angles in their cosine (and, at
sp carbons, 1 + cos), the couplings of bonds and angles that share atoms, torsions of periods 1 to 4
with couplings across them, out-of-plane terms, and soft terms between atoms three or more bonds
apart. Energies are eV, lengths A.

References:
    Maple et al., class II force fields, doi:10.1002/jcc.540150207; networks that predict the
    parameters: Wang et al. (Espaloma), arXiv:2010.01196; Seute et al. (Grappa), arXiv:2404.00050.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, softplus

from atom.elements import COVALENT_RADII
from benchmarks.models.force_fields.valence.topology import LONGEST_SEPARATION, RING_SIZES, Topology

# Centre and width of the functions of distance between atoms that are not bonded, A.
_PAIR_SHAPES = ((1.8, 0.6), (2.4, 0.6), (3.0, 0.7), (3.8, 0.9), (5.0, 1.2))
_SMALL_SINE = 1e-6


class Parameters(NamedTuple):
    """Numbers of each term; the rows are those of a topology.

    Attributes:
        bond: (n_bonds, 3) k eV/A^2, r0 A, cubic 1/A.
        angle: (n_angles, 7) k eV, cos of the rest angle, cubic, stretch-stretch eV/A^2,
            stretch-bend of either leg eV/A, and of 1 + cos at an sp centre, eV.
        bend: (n_bends, 1) bend-bend, eV.
        torsion: (n_torsions, 7) amplitudes of n = 1 to 4 eV, torsion-stretch eV/A, bond-bond
            eV/A^2 and angle-angle eV across it.
        plane: (n_planes, 2) of the square and the fourth power of the triple product, eV.
        pair: (n_pairs, 6) of five Gaussians and of 3 A / r, eV.
    """

    bond: Tensor
    angle: Tensor
    bend: Tensor
    torsion: Tensor
    plane: Tensor
    pair: Tensor


class ValenceNetwork(nn.Module):
    """Parameters of the terms from a few rounds of messages along the bonds.

    Features stay local (elements, bonds, ring sizes): encodings of the whole graph would let the
    network know molecules by heart.

    Args:
        width: of the features of an atom.
        n_rounds: messages along the bonds.
    """

    def __init__(self, width: int = 64, n_rounds: int = 4):
        super().__init__()
        self.element = nn.Embedding(len(COVALENT_RADII), width)
        nn.init.zeros_(self.element.weight)  # so stays that of an element which is never learnt
        self.inputs = nn.Linear(width + 1 + len(RING_SIZES), width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(n_rounds))
        self.messages = nn.ModuleList(_network(2 * width, width, width) for _ in range(n_rounds))
        self.updates = nn.ModuleList(_network(2 * width, width, width) for _ in range(n_rounds))
        self.bond = _head(width, width, 3)
        self.angle = _head(2 * width, width, 5)
        self.leg = _head(3 * width, width, 1)
        self.bend = _head(3 * width, width, 1)
        self.torsion = _head(4 * width, width, 7)
        self.plane = _head(2 * width, width, 2)
        self.pair = _head(width + LONGEST_SEPARATION + 1, width, len(_PAIR_SHAPES) + 1)

    def forward(self, topology: Topology) -> Parameters:
        """The parameters of all terms of a topology."""
        h, t = self._features(topology), topology
        return Parameters(
            bond=self._bonds(h, t),
            angle=self._angles(h, t),
            bend=5 * self.bend(_cat(h[t.bends[:, 0]], h[t.bends[:, 1]], _sum(h, t.bends[:, 2:]))),
            torsion=self._torsions(h, t),
            plane=self._planes(h, t),
            pair=self.pair(_cat(_sum(h, t.pairs), _one_hot(t.separation[:, 0], h))),
        )

    def _features(self, t: Topology) -> Tensor:
        like = self.element.weight
        degrees, rings = t.degrees().to(like)[:, None], t.rings.to(like)
        h = self.inputs(_cat(self.element(t.numbers), degrees, rings))
        into, out_of = torch.cat([t.bonds, t.bonds.flip(1)]).unbind(1)
        for norm, message, update in zip(self.norms, self.messages, self.updates, strict=True):
            g = norm(h)
            received = torch.zeros_like(h).index_add(0, into, message(_cat(g[into], g[out_of])))
            h = h + update(_cat(g, received))
        return h

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
        i, j, k = t.angles.unbind(1)
        stiffness, rest, cubic, stretches, straight = self.angle(_cat(h[j], h[i] + h[k])).unbind(1)
        linear = t.linear.to(h)
        return torch.stack(
            [
                6 * torch.exp(stiffness.clamp(-2.5, 2.5)),
                torch.where(t.linear > 0, -1.0, rest - 0.4),
                cubic * (1 - linear),
                20 * stretches,
                10 * self.leg(_cat(h[j], h[i], h[k]))[:, 0],
                10 * self.leg(_cat(h[j], h[k], h[i]))[:, 0],
                3 * linear * torch.exp(straight.clamp(-2.5, 2.5)),
            ],
            dim=1,
        )

    def _torsions(self, h: Tensor, t: Topology) -> Tensor:
        # The same from either end.
        forth, back = h[t.torsions].flatten(1), h[t.torsions.flip(1)].flatten(1)
        scale = h.new_tensor([0.5, 0.5, 0.5, 0.5, 5.0, 10.0, 3.0])
        return scale * (self.torsion(forth) + self.torsion(back))

    def _planes(self, h: Tensor, t: Topology) -> Tensor:
        square, fourth = self.plane(_cat(h[t.planes[:, 0]], _sum(h, t.planes[:, 1:]))).unbind(1)
        return torch.stack([2 * square + 0.5, softplus(5 * fourth)], dim=1)


def energy(positions: Tensor, t: Topology, parameters: Parameters) -> Tensor:
    """Energies (n_molecules,) eV at positions (n, 3) A of all atoms of a topology."""
    bond, angle, bend, torsion, plane, pair = parameters
    stretch = _lengths(positions, t.bonds) - bond[:, 1]
    # The cubic part is held beyond 0.3 A, where it would turn the bond's energy over.
    cubic = 1 + bond[:, 2] * stretch.clamp(-0.3, 0.3) / 2
    terms = [(t.bonds, bond[:, 0] / 2 * stretch.square() * cubic)]

    cosine = _cosines(positions, t.angles)
    opening = cosine - angle[:, 1]
    legs = stretch[t.angle_bonds]
    coupled = angle[:, 3] * legs.prod(1) + opening * (angle[:, 4:6] * legs).sum(1)
    bent = angle[:, 0] / 2 * opening.square() * (1 + angle[:, 2] * opening)
    terms.append((t.angles, bent + coupled + angle[:, 6] * (1 + cosine)))
    terms.append((t.bends, bend[:, 0] * opening[t.bend_angles].prod(1)))

    c = _dihedral_cosines(positions, t.torsions)
    outer, middle = stretch[t.torsion_bonds[:, :2]].prod(1), stretch[t.torsion_bonds[:, 2]]
    chebyshev = torch.stack(
        [c, 2 * c**2 - 1, 4 * c**3 - 3 * c, 8 * c**4 - 8 * c**2 + 1, middle * c**2, outer], dim=1
    )
    across = torsion[:, 6] * opening[t.torsion_angles].prod(1) * c
    terms.append((t.torsions, (torsion[:, :6] * chebyshev).sum(1) + across))

    height = _triple_products(positions, t.planes).square()
    terms.append((t.planes, plane[:, 0] * height + plane[:, 1] * height.square()))
    terms.append((t.pairs, (pair * _pair_functions(_lengths(positions, t.pairs))).sum(1)))

    total = positions.new_zeros(t.n_molecules)
    for atoms, values in terms:
        total = total.index_add(0, t.molecule[atoms[:, 0]], values)
    return total


def energy_and_forces(
    positions: Tensor, topology: Topology, parameters: Parameters, *, differentiable: bool = False
) -> tuple[Tensor, Tensor]:
    """Energies (n_molecules,) eV and forces (n, 3) eV/A; these can be differentiated if asked."""
    with torch.enable_grad():
        x = positions.detach().requires_grad_(True)
        energies = energy(x, topology, parameters)
        (gradient,) = torch.autograd.grad(energies.sum(), x, create_graph=differentiable)
    return energies if differentiable else energies.detach(), -gradient


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


def _triple_products(x: Tensor, planes: Tensor) -> Tensor:
    axes = [x[planes[:, i]] - x[planes[:, 0]] for i in (1, 2, 3)]
    p, q, r = (axis / axis.norm(dim=1, keepdim=True) for axis in axes)
    return (torch.linalg.cross(p, q) * r).sum(1)


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


def _one_hot(separation: Tensor, h: Tensor) -> Tensor:
    return one_hot(separation, LONGEST_SEPARATION + 1).to(h)
