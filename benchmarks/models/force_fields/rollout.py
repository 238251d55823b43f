"""Anything that gives energies and forces, as a model: Newton's equations from every start state.

A force field is a function (positions (B, N, 3) A float64, atomic_numbers (B, N), 0 = padding) ->
(energies (B,) eV, forces (B, N, 3) eV/A). `AseForceField` makes one of any ASE calculator;
`ForceFieldModel` makes a model of one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import CalculationFailed, Calculator, CalculatorSetupError
from pydantic import Field
from torch import Tensor

from benchmarks.interface import Equivariance
from benchmarks.models.trivial import Trivial
from benchmarks.tasks.states import StartStates
from tg80.constants import ACCELERATION, masses_of
from tg80.untrusted.limits import BoundedModel

ForceField = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@runtime_checkable
class BoundForceField(Protocol):
    """A force field that knows which rows of a batch it is called for."""

    def __call__(self, positions: Tensor, atomic_numbers: Tensor) -> tuple[Tensor, Tensor]: ...

    def select(self, kept: Tensor) -> BoundForceField:
        """The one of the rows that are kept (B,)."""
        ...


class RolloutSettings(BoundedModel):
    """How Newton's equations are integrated, and when that has failed."""

    time_step_fs: float = Field(default=0.5, gt=0, description="of velocity Verlet, fs")
    # A tenth of a meV/atom is what velocity Verlet leaves at 0.5 fs; 300 K are 39 meV/atom.
    largest_drift_mev: float = Field(
        default=10.0,
        gt=0,
        description="change of the total energy, meV/atom, beyond which a rollout has failed",
    )
    largest_spread: float = Field(
        default=2.0,
        gt=1,
        description="farthest atom from the centre over that of the start, 2 A added to both, "
        "beyond which the molecule has flown apart",
    )


@dataclass(frozen=True)
class Rollout:
    """Trajectories of a batch.

    Attributes:
        positions: (B, P, N, 3) float64 A at the lags; the start where a rollout failed.
        failed: (B,) bool, before the last lag.
        drift_mev: (B,) largest change of the total energy, meV/atom, up to the end or the failure.
    """

    positions: Tensor
    failed: Tensor
    drift_mev: Tensor


def roll_out(
    field: ForceField, states: StartStates, lags_fs: Tensor, settings: RolloutSettings
) -> Rollout:
    """Integrate every start state to its last lag by velocity Verlet, without a thermostat.

    A lag between two steps is reached by a shorter step from the one before. A state whose last
    lag is reached, or that has failed, is not integrated further: what the others of its batch do
    changes nothing for it.

    Args:
        field: energies and forces.
        states: B start states.
        lags_fs: (B, P) fs, NaN = padding.
        settings: time step and limits.
    """
    walk = _Walk(field, states, settings)
    step_fs = settings.time_step_fs
    asked = torch.nan_to_num(lags_fs.double(), nan=0.0)
    # Lags are float32: what is nearly a multiple of the step is one.
    step_of = torch.floor(asked / step_fs + 1e-4).long()
    rest = (asked - step_of * step_fs).clamp(min=0)
    positions = walk.start[:, None].repeat(1, lags_fs.shape[1], 1, 1)
    last = step_of.amax(1)
    for step in range(int(last.max()) + 1):
        mine = walk.rows
        row, column = (step_of[mine] == step).nonzero(as_tuple=True)
        lag = rest[mine[row], column]
        positions[mine[row], column] = walk.after(lag, row)
        walk.keep(step < last)
        if not len(walk.rows):
            break
        walk.advance(step_fs)
        walk.check()
    positions[walk.failed] = walk.start[walk.failed][:, None]
    return Rollout(positions, walk.failed, walk.drift_mev)


class _Walk:
    """The states that are still integrated; `rows` are their numbers in the batch."""

    def __init__(self, field: ForceField, states: StartStates, settings: RolloutSettings) -> None:
        self.field, self.settings = field, settings
        self.start = states.positions.double()
        real = states.atom_mask[..., None]
        masses = torch.from_numpy(masses_of(states.atomic_numbers.numpy())).clamp(min=1e-9)
        self.rows = torch.arange(len(states))
        self.failed = torch.zeros(len(states), dtype=torch.bool)
        self.drift_mev = torch.zeros(len(states), dtype=torch.float64)
        self.x = torch.where(real, self.start, 0.0)
        self.v = torch.where(real, states.velocities.double(), 0.0)
        self.real, self.numbers, self.masses = real, states.atomic_numbers, masses[..., None]
        self.size = extent(self.x, self.real)
        self._evaluate()
        self.energy = self._total_energy()
        self.check()

    def keep(self, wanted: Tensor) -> None:
        """Go on with those of `wanted` (B,) that have not failed."""
        kept = (wanted & ~self.failed)[self.rows]
        if bool(kept.all()):
            return
        for name in _PER_STATE:
            setattr(self, name, getattr(self, name)[kept])
        if isinstance(self.field, BoundForceField):
            self.field = self.field.select(kept)

    def after(self, lag_fs: Tensor, rows: Tensor) -> Tensor:
        """Positions of rows a time lag_fs (n,) later, by one step."""
        lag = lag_fs[:, None, None]
        return self.x[rows] + lag * self.v[rows] + lag**2 / 2 * self.acceleration[rows]

    def advance(self, step_fs: float) -> None:
        """One step of velocity Verlet."""
        halfway = self.v + step_fs / 2 * self.acceleration
        self.x = self.x + step_fs * halfway
        self._evaluate()
        self.v = halfway + step_fs / 2 * self.acceleration

    def check(self) -> None:
        """Note which states have failed, and by how much the energy has changed."""
        drift = 1000 * (self._total_energy() - self.energy).abs() / self.real.sum((1, 2))
        lost = ~torch.isfinite(drift) | (drift > self.settings.largest_drift_mev)
        allowed = self.settings.largest_spread * (self.size + 2) - 2
        lost |= ~(extent(self.x, self.real) <= allowed)
        self.drift_mev[self.rows] = torch.maximum(
            self.drift_mev[self.rows], torch.nan_to_num(drift, nan=torch.inf)
        )
        self.failed[self.rows] |= lost

    def _evaluate(self) -> None:
        self.potential, forces = self.field(self.x, self.numbers)
        self.acceleration = torch.where(self.real, ACCELERATION * forces / self.masses, 0.0)

    def _total_energy(self) -> Tensor:
        kinetic = (self.masses * self.v.square()).sum((1, 2)) / (2 * ACCELERATION)
        return self.potential.double() + kinetic


_PER_STATE = (
    "rows", "x", "v", "real", "numbers", "masses", "size", "potential", "acceleration", "energy",
)  # fmt: skip


def extent(x: Tensor, real: Tensor) -> Tensor:
    """Distance (B,) of the farthest atom from the centre."""
    centre = (x * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)
    return torch.where(real, x - centre, 0.0).norm(dim=2).amax(1)


class AseForceField:
    """The force field of an ASE calculator, one molecule after another.

    Where the calculator gives up, energy and forces are NaN: that rollout has failed.

    Args:
        make: makes a calculator; one a molecule is kept, since calculators remember atoms.
    """

    def __init__(self, make: Callable[[], Calculator]) -> None:
        self.make = make
        self._calculators: dict[bytes, Calculator] = {}

    def __call__(self, positions: Tensor, atomic_numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Energies (B,) eV and forces (B, N, 3) eV/A."""
        energies = torch.full((len(positions),), torch.nan, dtype=torch.float64)
        forces = torch.zeros_like(positions)
        for row, (x, z) in enumerate(zip(positions.numpy(), atomic_numbers.numpy(), strict=True)):
            n = int(np.count_nonzero(z))
            key = z[:n].tobytes()
            if key not in self._calculators:
                self._calculators[key] = self.make()
            atoms = Atoms(numbers=z[:n], positions=x[:n])
            atoms.calc = self._calculators[key]
            try:
                energies[row] = float(atoms.get_potential_energy())
                forces[row, :n] = torch.from_numpy(np.array(atoms.get_forces(), dtype=float))
            except CalculatorSetupError:
                raise
            except (CalculationFailed, ArithmeticError, RuntimeError):
                forces[row, :n] = torch.nan
        return energies, forces


class RollsOut:
    """What models on a force field share; a subclass says which one, and holds its settings."""

    rollout: RolloutSettings

    @abstractmethod
    def force_field(self, states: StartStates) -> ForceField:
        """The force field of these start states, ready to be called."""

    @torch.no_grad()
    def predict(self, states: StartStates, lags_fs: Tensor) -> tuple[Tensor, Tensor]:
        """Positions (B, P, N, 3) A at lags_fs (B, P), and the rollouts that failed (B,)."""
        found = roll_out(self.force_field(states), states, lags_fs, self.rollout)
        return found.positions.float(), found.failed


class ForceFieldModel(RollsOut, Trivial):
    """A model on a force field that is not trained here; `force_field` is all it must define."""

    trains: ClassVar[bool] = False
    equivariance: ClassVar[Equivariance] = "E(3)"
    rollout = RolloutSettings()
