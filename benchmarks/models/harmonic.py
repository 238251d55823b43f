"""Normal modes of a Hessian, propagated exactly: the physicist's baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from atom.alignment import kabsch_rotation, weighted_centroid
from benchmarks.interface import CannotPredict, FitReport
from benchmarks.models.force_fields.frames import labelled_frames
from benchmarks.models.normal_modes import Modes, modes_of, propagate
from benchmarks.models.trivial import Trivial, check_all_known, mean_structures
from benchmarks.tasks.data import TrainingData
from benchmarks.tasks.states import StartStates
from tg80.constants import masses_of
from tg80.windows.trajectories import Trajectory

HESSIAN_LEVEL = "gfn2-xtb"


class Harmonic(Trivial):
    """Every normal mode swings on, in the frame of the start.

    The rest structure is superposed on the start by mass, so that the displacement has no part in
    rotations (Eckart's frame); displacement and velocity are taken apart into modes, each of which
    follows its own cosine and sine. The frame flies on with the centre of mass and does not turn,
    as molecules without angular momentum.

    Modes without a frequency to speak of, and those displaced so far that another conformer or a
    turned methyl group must be why, stay where they started.

    References:
        Wilson, Decius and Cross, Molecular Vibrations (1955), chapter 2; Eckart (1935),
        doi:10.1103/PhysRev.47.552.
    """

    id: ClassVar[str] = "harmonic"
    memory: ClassVar[tuple[str, ...]] = ("oracle", "structures", "hessians")

    def __init__(self) -> None:
        self.structures: dict[str, np.ndarray] = {}
        self.hessians: dict[str, np.ndarray] = {}
        self._modes: dict[str, Modes] = {}

    def fit(self, data: TrainingData, **_: Any) -> FitReport:
        """Take structures and Hessians.

        Raises:
            CannotPredict: the data have none.
        """
        check_all_known(self.id, "Hessians of", data, data.hessians)
        self.structures, self.hessians = data.relaxed_positions, data.hessians
        # Where the data are of the Hessian's own level, it knows what others must learn.
        self.oracle, self._modes = data.task.level == HESSIAN_LEVEL, {}
        return FitReport()

    def _predict(self, states: StartStates, lags_fs: Tensor) -> Tensor:
        shape = (*lags_fs.shape, *states.positions.shape[1:])
        positions = torch.zeros(shape, dtype=torch.float64)
        for name in dict.fromkeys(states.molecule):
            rows = torch.tensor([i for i, other in enumerate(states.molecule) if other == name])
            numbers = states.atomic_numbers[rows[0]]
            n = int((numbers > 0).sum())
            positions[rows, :, :n] = propagate(
                self._modes_of(name, numbers[:n]),
                states.positions[rows, :n].double(),
                states.velocities[rows, :n].double(),
                lags_fs[rows],
            )
        return positions

    def _modes_of(self, name: str, atomic_numbers: Tensor) -> Modes:
        if name not in self.hessians:
            raise CannotPredict(f"{self.id}: there is no Hessian of {name}")
        if name not in self._modes:
            masses = masses_of(atomic_numbers.numpy())
            self._modes[name] = modes_of(self.structures[name], self.hessians[name], masses)
        return self._modes[name]


class FittedHarmonic(Harmonic):
    """The same with the Hessian that explains the forces of the molecule's train block best.

    It is fitted by least squares about the mean structure, over all motion at the temperature of
    the data: an effective Hessian, not that of the minimum.
    """

    id: ClassVar[str] = "fitted-harmonic"
    seen_only: ClassVar[bool] = True

    def fit(self, data: TrainingData, **_: Any) -> FitReport:
        """Fit one Hessian a training molecule.

        Raises:
            CannotPredict: the data have no forces.
        """
        swings = {name: Swings.of(blocks) for name, blocks in _by_name(data).items()}
        self.structures = {name: own.structure for name, own in swings.items()}
        self.hessians = {name: own.hessian() for name, own in swings.items()}
        self._modes = {}
        return FitReport(n_parameters=_n_parameters(self.hessians))


class DeltaHarmonic(Harmonic):
    """The GFN2-xTB Hessian, corrected by the forces of the train blocks.

    All Hessians are scaled by one factor, the median over training molecules of what explains
    their forces best. A training molecule also gets the Hessian that explains what is left of its
    own forces, and swings about its mean structure.
    """

    id: ClassVar[str] = "delta-harmonic"

    def fit(self, data: TrainingData, **_: Any) -> FitReport:
        """Fit the factor, and a correction for each training molecule.

        Raises:
            CannotPredict: the data have no Hessians or no forces.
        """
        super().fit(data)
        swings = {name: Swings.of(blocks) for name, blocks in _by_name(data).items()}
        priors = {
            name: own.weighted(self.structures[name], self.hessians[name])
            for name, own in swings.items()
        }
        pairs = [(-own.d @ priors[name], own.f) for name, own in swings.items()]
        # Of some the harmonic forces are far off, where a methyl group has turned.
        factor = float(np.median([(e * f).sum() / np.square(e).sum() for e, f in pairs]))
        structures = {name: own.structure for name, own in swings.items()}
        fitted = {
            name: own.hessian(factor * priors[name], _LEAST_SHARE) for name, own in swings.items()
        }
        scaled = {name: factor * hessian for name, hessian in self.hessians.items()}
        self.structures, self.hessians = self.structures | structures, scaled | fitted
        return FitReport(n_parameters=1 + _n_parameters(fitted))


# Of the largest variance: what varies less is shifts and rotations, which the frame has removed.
_LEAST_VARIANCE = 1e-9
# Of the mean variance: motions that vary less keep their prior.
_LEAST_SHARE = 1e-2


@dataclass(frozen=True)
class Swings:
    """The frames of one molecule in its Eckart frame, mass-weighted, less their means.

    Attributes:
        structure: (N, 3) A, the mean structure.
        masses: (N,) u.
        d: (n_frames, 3N) displacements, A sqrt(u).
        f: (n_frames, 3N) forces, eV/A/sqrt(u).
    """

    structure: np.ndarray
    masses: np.ndarray
    d: np.ndarray
    f: np.ndarray

    @classmethod
    def of(cls, blocks: Sequence[Trajectory]) -> Self:
        """Those of the blocks of a molecule.

        Raises:
            CannotPredict: a block has no forces.
        """
        (structure,) = mean_structures(blocks).values()
        masses = masses_of(blocks[0].atomic_numbers)
        x, forces = labelled_frames(blocks)
        weights = torch.from_numpy(masses).expand(len(x), -1)
        rest = torch.from_numpy(structure - masses @ structure / masses.sum())
        centred = x - weighted_centroid(x, weights)
        turn = kabsch_rotation(centred, rest.expand_as(x), weights).transpose(1, 2)
        root = np.sqrt(np.repeat(masses, 3))
        d = (centred @ turn - rest).flatten(1).numpy() * root
        f = (forces @ turn).flatten(1).numpy() / root
        return cls(structure, masses, d - d.mean(0), f - f.mean(0))

    def weighted(self, structure: np.ndarray, hessian: np.ndarray) -> np.ndarray:
        """A Hessian (3N, 3N) at another structure, turned into this frame and mass-weighted."""
        x, rest = (torch.from_numpy(s)[None] for s in (structure, self.structure))
        weights = torch.from_numpy(self.masses)[None]
        centred = x - weighted_centroid(x, weights)
        turn = kabsch_rotation(centred, rest - weighted_centroid(rest, weights), weights)[0]
        turns = np.kron(np.eye(len(structure)), turn.numpy())
        root = np.sqrt(np.repeat(self.masses, 3))
        return turns @ hessian @ turns.T / np.outer(root, root)

    def hessian(self, prior: np.ndarray | float = 0.0, share: float = 0.0) -> np.ndarray:
        """The symmetric Hessian that explains the forces best, least squares by mass.

        Args:
            prior: mass-weighted, what it is where the frames say nothing.
            share: of the mean variance, below which a motion keeps to its prior.

        Returns:
            (3N, 3N) eV/A^2, without prior 0 for shifts and rotations.
        """
        variance, axes = np.linalg.eigh(self.d.T @ self.d)
        free = variance > _LEAST_VARIANCE * variance[-1]
        variance, axes = variance[free], axes[:, free]
        left = self.f + self.d @ prior if isinstance(prior, np.ndarray) else self.f
        # Where |f + K d|^2 is least for symmetric K: K C + C K = -(F + F^T), C = d d^T, F = f d^T.
        pull = axes.T @ (left.T @ self.d) @ axes
        held = variance[:, None] + variance + share * variance.mean()
        stiffness = prior + axes @ (-(pull + pull.T) / held) @ axes.T
        root = np.sqrt(np.repeat(self.masses, 3))
        return stiffness * np.outer(root, root)


def _by_name(data: TrainingData) -> dict[str, list[Trajectory]]:
    blocks = groupby(sorted(data.trajectories, key=lambda t: t.name), lambda t: t.name)
    return {name: list(own) for name, own in blocks}


def _n_parameters(hessians: dict[str, np.ndarray]) -> int:
    return sum(n * (n + 1) // 2 for n in map(len, hessians.values()))
