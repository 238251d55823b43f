"""Motion by a molecule's own force constants, which are predicted from the bond graph."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from atom.alignment import kabsch_rotation, weighted_centroid
from atom.elements import ATOMIC_MASSES, U_ANGSTROM2_PER_FS2_IN_EV
from atom.valence.batches import terms_of_each
from atom.valence.flow import SOFTEST, Flow, left_of_phase
from atom.valence.steps import integrate
from atom.valence.stiffness import Geometry, Layout
from atom.valence.terms import GraphMessages, Parameters, TermNetwork
from atom.valence.topology import Topology

# Stretch constants, eV/A^2: of C-H, other X-H, bonds with an element beyond F, to an oxygen or a
# nitrogen that has no other neighbour (double and triple ones), all others. Frames 10 fs apart
# hardly tell periods below 20 fs, so those of X-H, C=O and the like stay within a third.
_CH, _XH, _HEAVY, _TO_OXYGEN, _TO_NITROGEN, _OTHER = 31.5, 44.0, 22.0, 75.0, 110.0, 42.0
_FAST_SPREAD = 0.35
_XH_CUBIC = -1.5
# Newton steps from a start state to its rest structure: how many, the largest displacement of one,
# and the smallest eigenvalue, (rad/fs)^2, that a step is divided by.
_N_STEPS, _LARGEST_STEP_A, _SOFTEST_STEP = 8, 0.15, 21 * SOFTEST
_SPREAD_RATE = 30.0
# s and s0 are learnt from motion in closed form. Motion in steps, which is anharmonic, keeps its
# phases longer: in validation on fold 1 of tg80-xtb-v1, half of both was best of 1/4 to 4 of them.
_SURER = 0.5
# Heavy atoms that would move farther from the rest structure, A, are not believed.
_FARTHEST_A = 1.5
# Beyond this, A, a molecule has flown apart, and there is nothing to lay upon its rest structure.
_LOST_A = 1e6
# Of the return to the rest structure where that happens, fs.
_RETURN_FS = 50.0


class Linearised(NamedTuple):
    """Equations of motion of M molecules about a geometry; vectors and matrices are mass-weighted.

    Attributes:
        layout: of the molecules.
        structure: (M, N, 3) A, centre of mass at the origin, 0 = padding.
        masses: (M, N) u, 0 = padding.
        acceleration: (M, D) at the structure.
        stiffness: (M, D, D), (rad/fs)^2.
    """

    layout: Layout
    structure: Tensor
    masses: Tensor
    acceleration: Tensor
    stiffness: Tensor

    @property
    def root(self) -> Tensor:
        """(M, D) roots of masses, 1 = padding."""
        return _roots(self.masses)


class ModesHead(nn.Module):
    """Force constants of a molecule, and its motion by them: in closed form, or in small steps.

    Args:
        n_elements: features of an element.
        width: of the features of an atom.
        n_rounds: messages along the bonds.
    """

    _mass: Tensor

    def __init__(self, n_elements: int, width: int, n_rounds: int) -> None:
        super().__init__()
        self.graph = GraphMessages(n_elements, width, n_rounds)
        self.terms = TermNetwork(width)
        # Logarithms of the share s of a frequency that is not known, and of s0 in rad/fs. They are
        # held small, so that they follow what frequencies have learnt faster than these learn.
        self.log_spread = nn.Parameter(torch.tensor([0.03, 0.001]).log() / _SPREAD_RATE)
        # Of the time that a force lasts, fs.
        self.log_memory = nn.Parameter(torch.tensor(5.0).log())
        masses = torch.tensor(ATOMIC_MASSES, dtype=torch.float64)
        self.register_buffer("_mass", masses, persistent=False)

    def parameters_of(self, topology: Topology, elements: nn.Embedding) -> Parameters:
        """The parameters of the terms of a topology, float64."""
        h = self.graph(elements(topology.numbers), topology)
        found = Parameters(*(p.double() for p in self.terms(h, topology)))
        return found._replace(bond=_with_prior(found.bond, topology))

    def spread(self) -> Tensor:
        """s, and s0 in rad/fs, float64."""
        return (_SPREAD_RATE * self.log_spread.double()).exp()

    def masses_of(self, atomic_numbers: Tensor) -> Tensor:
        """Masses, u, float64; 0 of padding."""
        return torch.where(atomic_numbers > 0, self._mass[atomic_numbers], 0.0)

    def memory_fs(self) -> Tensor:
        """How long a force at the start lasts that is not linear."""
        return self.log_memory.double().exp()

    def linearise(self, geometry: Geometry, parameters: Parameters) -> Linearised:
        """The equations of motion about a geometry."""
        layout, topology = geometry.layout, geometry.layout.topology
        gradient, hessian = geometry.stiffness(parameters)
        masses = self._mass[topology.numbers]
        padded = layout.pad(masses[:, None].expand(-1, 3)).unflatten(1, (-1, 3))[..., 0]
        root, unit = _roots(padded), 1 / U_ANGSTROM2_PER_FS2_IN_EV
        structure = layout.pad(geometry.positions).unflatten(1, (-1, 3))
        structure = (structure - weighted_centroid(structure, padded)) * (padded > 0)[..., None]
        return Linearised(
            layout,
            structure,
            padded,
            -unit * gradient / root,
            unit * hessian / (root[:, :, None] * root[:, None]),
        )

    def move(
        self,
        lines: Linearised,
        owner: Tensor,
        positions: Tensor,
        velocities: Tensor,
        lags_fs: Tensor,
        accelerations: Tensor | None = None,
    ) -> Tensor:
        """Positions (B, P, N, 3) A of windows in the modes of their molecules, float64.

        What of the force at the start is not linear acts for a while, the longer the lag the less.

        Args:
            lines: equations of motion of M molecules.
            owner: (B,) molecule of each window.
            positions: (B, N, 3) A.
            velocities: (B, N, 3) A/fs.
            lags_fs: (B, P).
            accelerations: (B, N, 3) A/fs^2 at the start; None: those of the linear force.
        """
        wider = (0, 0, 0, lines.structure.shape[1] - positions.shape[1])
        x, v = pad(positions.double(), wider), pad(velocities.double(), wider)
        t = lags_fs.double()
        masses, rest, root = lines.masses[owner], lines.structure[owner], lines.root[owner]
        away, _, turn = _laid_upon(rest, x, masses)
        away, drift = away.flatten(1) * root, weighted_centroid(v, masses)
        speed = torch.where((masses > 0)[..., None], (v - drift) @ turn, 0.0).flatten(1) * root
        linear = lines.acceleration[owner] - (lines.stiffness[owner] @ away[..., None])[..., 0]
        pull = linear[:, None].expand(-1, t.shape[1], -1)
        if accelerations is not None:
            true = (pad(accelerations.double(), wider) @ turn).flatten(1) * root
            lasts = (-(t / self.memory_fs()).square() / 2).exp()[..., None]
            pull = pull + lasts * (true - linear)[:, None]
        moved = Flow.apply(lines.stiffness, speed, pull, t, self.spread().square(), owner)
        assert isinstance(moved, Tensor)
        moved = (moved / root[:, None]).unflatten(2, (-1, 3)) @ turn.transpose(1, 2)[:, None]
        moved = x[:, None] + moved + t[..., None, None] * drift[:, None]
        return pad(moved, (0, 0, 0, -wider[3]))

    def fade(self, lines: Linearised, positions: Tensor, lags_fs: Tensor) -> Tensor:
        """Positions (B, P, N, 3) A that go to rest structures as phases are lost, mode by mode.

        NaN where a molecule has flown apart.

        Args:
            lines: equations of motion of the B molecules about their rest structures.
            positions: (B, P, N, 3) A.
            lags_fs: (B, P).
        """
        n = lines.structure.shape[1]
        lost = ~(positions.abs().flatten(2).amax(2) < _LOST_A)[..., None, None]
        x = torch.where(lost, 0.0, positions[:, :, :n])
        masses = lines.masses[:, None].expand(-1, x.shape[1], -1)
        rest, root = lines.structure[:, None].expand_as(x), lines.root[:, None]
        away, centre, turn = _laid_upon(rest, x, masses)
        values, vectors = torch.linalg.eigh(lines.stiffness)
        spread = (_SURER * self.spread()).square()
        left = left_of_phase(values[:, None], spread, lags_fs.double()[..., None])
        away = (((away.flatten(2) * root) @ vectors) * left) @ vectors.transpose(1, 2) / root
        faded = (away.unflatten(2, (-1, 3)) + rest) @ turn.transpose(2, 3) + centre
        faded = torch.where(lost, torch.nan, faded)
        return torch.cat([faded, positions[:, :, n:]], dim=2)

    def forward(
        self,
        positions: Tensor,
        velocities: Tensor,
        atomic_numbers: Tensor,
        lags_fs: Tensor,
        topologies: Sequence[Topology],
        elements: nn.Embedding,
        *,
        steps: bool = False,
    ) -> Tensor:
        """Positions (B, P, N, 3) A about the rest structures that Newton steps lead to.

        Where a heavy atom would move too far, the window goes to its rest structure instead.

        Args:
            positions: (B, N, 3) A.
            velocities: (B, N, 3) A/fs.
            atomic_numbers: (B, N), 0 = padding, which stands last.
            lags_fs: (B, P), not NaN.
            topologies: B bond graphs.
            elements: features of the elements.
            steps: by Newton's equations in small steps, which is not differentiated in the force
                constants, instead of in closed form.
        """
        device = positions.device
        topology, parameters = terms_of_each(
            topologies, partial(self.parameters_of, elements=elements), device
        )
        real = atomic_numbers > 0
        start = positions.double()
        lines, pull = self.at_rest(topology, parameters, start[real])
        if steps:
            masses = self.masses_of(atomic_numbers)
            moved = integrate(positions, velocities, lags_fs, masses, topology, parameters)
            moved = self.fade(lines, moved, lags_fs)
        else:
            owner = torch.arange(len(real), device=device)
            pull = torch.zeros_like(start).masked_scatter(real[..., None], pull)
            moved = self.move(lines, owner, positions, velocities, lags_fs, pull)
        rest = torch.zeros_like(moved[:, 0])
        rest[real] = _superposed(lines, start[real])
        heavy = (atomic_numbers > 1)[:, None]
        farthest = (moved - rest[:, None]).norm(dim=-1).where(heavy, 0.0).amax(-1)
        strayed = ~(farthest <= _FARTHEST_A)  # NaN too
        back = -torch.expm1(-(lags_fs.double() / _RETURN_FS).square() / 2)[..., None, None]
        resting = start[:, None] + back * (rest - start)[:, None]
        moved = torch.where(strayed[..., None, None], resting, moved)
        return torch.where(real[:, None, :, None], moved, start[:, None])

    def at_rest(
        self, topology: Topology, parameters: Parameters, x: Tensor
    ) -> tuple[Linearised, Tensor]:
        """Equations of motion about rest structures near x (n, 3), and accelerations (n, 3) at x.

        A few damped Newton steps lead there; these are not differentiated.
        """
        layout = Layout(topology)
        fixed = Parameters(*(p.detach() for p in parameters))

        def lines_at(positions: Tensor, own: Parameters) -> Linearised:
            return self.linearise(Geometry.of(positions, layout), own)

        y, lines = x, lines_at(x, fixed)
        at_start = layout.unpad(lines.acceleration / lines.root)
        for step in range(_N_STEPS):
            lines = lines_at(y, fixed) if step else lines
            y = y + newton_step(lines)
        # One that went astray rests where it started.
        far = layout.pad(y - x).abs().amax(1) > _FARTHEST_A
        lines = lines_at(torch.where(far[topology.molecule][:, None], x, y), parameters)
        return lines._replace(acceleration=lines.acceleration * ~far[:, None]), at_start


@torch.no_grad()
def newton_step(lines: Linearised, largest: float = _LARGEST_STEP_A) -> Tensor:
    """The damped step (n, 3) A to the rest structures."""
    values, vectors = torch.linalg.eigh(lines.stiffness)
    along = (lines.acceleration[:, None] @ vectors)[:, 0] / values.abs().clamp(min=_SOFTEST_STEP)
    step = (vectors @ along[..., None])[..., 0] / lines.root
    size = step.abs().amax(1, keepdim=True)
    return lines.layout.unpad(step * (largest / size.clamp(min=largest)))


def _roots(masses: Tensor) -> Tensor:
    return torch.where(masses > 0, masses, 1.0).sqrt().repeat_interleave(3, dim=1)


def _laid_upon(rest: Tensor, x: Tensor, masses: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What x (..., N, 3) laid upon rest is away from it, and the centre and turn that lead there.

    A vector of x's frame times the turn is one of the rest structure's.
    """
    centre = weighted_centroid(x, masses)
    turn = kabsch_rotation(x - centre, rest, masses).transpose(-1, -2)
    away = torch.where((masses > 0)[..., None], (x - centre) @ turn - rest, 0.0)
    return away, centre, turn


def _superposed(lines: Linearised, positions: Tensor) -> Tensor:
    """Rest structures (n, 3) A laid on positions (n, 3)."""
    x = lines.layout.pad(positions).unflatten(1, (-1, 3))
    centre = weighted_centroid(x, lines.masses)
    turn = kabsch_rotation(lines.structure, x - centre, lines.masses)
    return lines.layout.unpad(lines.structure @ turn.transpose(1, 2) + centre)


def _with_prior(bond: Tensor, t: Topology) -> Tensor:
    """Parameters of bonds about the prior of their stretch constants."""
    first, second = t.numbers[t.bonds].sort(dim=1).values.unbind(1)
    with_h = first == 1
    prior = torch.where(with_h, torch.where(second == 6, _CH, _XH), _OTHER)
    ends = torch.where(t.degrees()[t.bonds] == 1, t.numbers[t.bonds], 0)
    to_oxygen, to_nitrogen = ((ends == z).any(1) & ~with_h for z in (8, 7))
    prior = torch.where(to_oxygen, _TO_OXYGEN, torch.where(to_nitrogen, _TO_NITROGEN, prior))
    heavy = second > 9
    prior = torch.where(heavy, _HEAVY, prior).double()
    fast = with_h | ((to_oxygen | to_nitrogen) & ~heavy)
    spread = torch.where(fast, _FAST_SPREAD, 1.0).double()
    off = (bond[:, 0] / 40).log()
    constant = prior * torch.exp(spread * torch.tanh(off / spread))
    return torch.stack([constant, bond[:, 1], bond[:, 2] + with_h * _XH_CUBIC], dim=1)
