"""Normal modes of a Hessian, propagated exactly: the physicist's baselines."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, ClassVar

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
        self.structures, self._modes = mean_structures(data.trajectories), {}
        by_name = groupby(sorted(data.trajectories, key=lambda t: t.name), lambda t: t.name)
        self.hessians = {n: fitted_hessian(self.structures[n], list(own)) for n, own in by_name}
        sizes = [len(hessian) for hessian in self.hessians.values()]
        return FitReport(n_parameters=sum(n * (n + 1) // 2 for n in sizes))


# Of the largest variance: what varies less is shifts and rotations, which the frame has removed.
_LEAST_VARIANCE = 1e-9


def fitted_hessian(structure: np.ndarray, blocks: Sequence[Trajectory]) -> np.ndarray:
    """Fit the forces of one molecule's blocks by a symmetric Hessian, least squares by mass.

    Args:
        structure: (N, 3) A.
        blocks: of the molecule, with forces.

    Returns:
        (3N, 3N) eV/A^2, 0 for shifts and rotations.
    """
    masses = masses_of(blocks[0].atomic_numbers)
    x, forces = labelled_frames(blocks)
    weights = torch.from_numpy(masses).expand(len(x), -1)
    rest = torch.from_numpy(structure - masses @ structure / masses.sum())
    centred = x - weighted_centroid(x, weights)
    turn = kabsch_rotation(centred, rest.expand_as(x), weights).transpose(1, 2)
    root = np.sqrt(np.repeat(masses, 3))
    d = (centred @ turn - rest).flatten(1).numpy() * root
    f = (forces @ turn).flatten(1).numpy() / root
    d, f = d - d.mean(0), f - f.mean(0)
    variance, axes = np.linalg.eigh(d.T @ d)
    free = variance > _LEAST_VARIANCE * variance[-1]
    variance, axes = variance[free], axes[:, free]
    # Where |f + K d|^2 is smallest for symmetric K: K C + C K = -(F + F^T), C = d d^T, F = f d^T.
    pull = axes.T @ (f.T @ d) @ axes
    stiffness = axes @ (-(pull + pull.T) / (variance[:, None] + variance)) @ axes.T
    return stiffness * np.outer(root, root)
