"""Predictors without learning, or with one weight a lag: what a model has to beat."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from rich.progress import Progress

from atom.alignment import superpose
from benchmarks.interface import Budget, CannotPredict, FitReport
from benchmarks.models.cards import Carded
from benchmarks.tasks.data import TrainingData
from benchmarks.tasks.states import StartStates, score_mask_of
from tg80.constants import masses_of
from tg80.errors import UserError
from tg80.files import make_folder, write_atomically
from tg80.windows.lags import lag_frames
from tg80.windows.trajectories import Trajectory

FILE = "trivial.json"


class Trivial(Carded):
    """What the predictors here share: nothing to train, a JSON file as memory.

    Attributes:
        memory: names of what fitting learns: arrays, dictionaries of these, or plain values.
    """

    memory: ClassVar[tuple[str, ...]] = ()
    oracle: bool = False
    seen_only: ClassVar[bool] = False

    def fit(
        self,
        data: TrainingData,
        *,
        budget: Budget,
        seed: int,
        out: Path,
        progress: Progress | None = None,
    ) -> FitReport:
        """Take what is needed from the training data; budget and seed do not matter."""
        return FitReport()

    def initialise(self, data: TrainingData, *, seed: int) -> None:
        """There is nothing to draw: fit."""
        self.fit(data, budget=Budget(epochs=1), seed=seed, out=Path())

    def predict(
        self, states: StartStates, lags_fs: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions (B, P, N, 3) A at lags_fs (B, P), and failures (B,): never any."""
        positions = self._predict(states, torch.nan_to_num(lags_fs.double()))
        positions = torch.where(states.atom_mask[:, None, :, None], positions, 0.0)
        return positions.float(), torch.zeros(len(states), dtype=torch.bool)

    def _predict(self, states: StartStates, lags_fs: torch.Tensor) -> torch.Tensor:
        raise TypeError("a predictor defines _predict")

    def save(self, folder: Path) -> None:
        make_folder(folder)
        stored = {name: _as_lists(getattr(self, name)) for name in self.memory}
        write_atomically(folder / FILE, json.dumps(stored).encode())

    @classmethod
    def load(cls, folder: Path) -> Self:
        model = cls()
        for name, stored in json.loads((folder / FILE).read_text()).items():
            setattr(model, name, _as_arrays(stored))
        return model

    def settings(self) -> dict[str, Any]:
        return {}


def _as_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_lists(one) for name, one in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value


def _as_arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_arrays(one) for name, one in value.items()}
    return np.array(value) if isinstance(value, list) else value


def check_all_known(model: str, what: str, data: TrainingData, known: Iterable[str]) -> None:
    """Refuse data with molecules that something is not known of.

    Raises:
        CannotPredict: some are not among `known`.
    """
    missing = sorted(set(data.molecules) - set(known))
    if missing:
        raise CannotPredict(
            f"{model} needs {what} GFN2-xTB, which this data does not have "
            f"({', '.join(missing[:5])}); leave that model out"
        )


class Persistence(Trivial):
    """Nothing moves: x(t + lag) = x(t)."""

    id: ClassVar[str] = "persistence"

    def _predict(self, states: StartStates, lags_fs: torch.Tensor) -> torch.Tensor:
        return _every_step(states.positions.double(), lags_fs)


class Ballistic(Trivial):
    """Every atom flies on: x(t + lag) = x(t) + lag v(t)."""

    id: ClassVar[str] = "ballistic"

    def _predict(self, states: StartStates, lags_fs: torch.Tensor) -> torch.Tensor:
        flight = lags_fs[:, :, None, None] * states.velocities.double()[:, None]
        return states.positions.double()[:, None] + flight


class Centroid(Trivial):
    """Every atom sits at the molecule's centroid: what is left if orientation is lost entirely."""

    id: ClassVar[str] = "centroid"

    def _predict(self, states: StartStates, lags_fs: torch.Tensor) -> torch.Tensor:
        weights = states.atom_mask.double()[..., None]
        centroid = (states.positions.double() * weights).sum(1, keepdim=True)
        centroid = centroid / weights.sum(1, keepdim=True)
        return _every_step(centroid.expand_as(states.positions), lags_fs)


class _Structure(Trivial):
    """One structure a molecule, superposed by mass on the start state, at every lag.

    It is turned, but never reflected.
    """

    memory: ClassVar[tuple[str, ...]] = ("structures",)

    def __init__(self) -> None:
        self.structures: dict[str, np.ndarray] = {}

    def _predict(self, states: StartStates, lags_fs: torch.Tensor) -> torch.Tensor:
        return _every_step(superposed_structures(self.structures, states), lags_fs)


class MeanStructure(_Structure):
    """Mean structure of the molecule's own train block, superposed on the start state."""

    id: ClassVar[str] = "mean-structure"
    seen_only: ClassVar[bool] = True

    def fit(self, data: TrainingData, **_: Any) -> FitReport:
        self.structures = mean_structures(data.trajectories)
        return FitReport()


class RelaxedStructure(_Structure):
    """Structure relaxed with GFN2-xTB, superposed on the start state: legal for any molecule."""

    id: ClassVar[str] = "relaxed-structure"

    def fit(self, data: TrainingData, **_: Any) -> FitReport:
        check_all_known(self.id, "structures relaxed with", data, data.relaxed_positions)
        self.structures = data.relaxed_positions
        return FitReport()


class Blend(Trivial):
    """Start state and rest structure, weighted: x0 + w(lag) (structure - x0).

    Molecules of the training set: their mean structure, with weights of their own fitted by least
    squares in their train block. Others: the relaxed structure, with weights fitted over all
    training molecules. Weights are fitted on a grid of lags that holds the task's and read off
    linearly between. Data without relaxed structures (public sets) serves for training molecules
    only.
    """

    id: ClassVar[str] = "blend"
    memory: ClassVar[tuple[str, ...]] = ("structures", "lags_fs", "weights", "weights_unseen")

    def __init__(self) -> None:
        self.structures: dict[str, np.ndarray] = {}
        self.lags_fs: np.ndarray = np.zeros(0)
        self.weights: dict[str, np.ndarray] = {}
        self.weights_unseen: np.ndarray = np.zeros(0)

    def fit(self, data: TrainingData, **_: Any) -> FitReport:
        means = mean_structures(data.trajectories)
        self.structures = data.relaxed_positions | means
        self.lags_fs = _fit_lags(data)
        sums = {t.name: np.zeros((2, self.lags_fs.size)) for t in data.trajectories}
        unseen = np.zeros((2, self.lags_fs.size))
        for trajectory in data.trajectories:
            score = data.task.score
            sums[trajectory.name] += _normal_equations(
                trajectory, means[trajectory.name], self.lags_fs, score
            )
            relaxed = data.relaxed_positions.get(trajectory.name)
            if relaxed is not None:
                unseen += _normal_equations(trajectory, relaxed, self.lags_fs, score)
        self.weights = {name: _quotient(pair) for name, pair in sums.items()}
        self.weights_unseen = _quotient(unseen)
        return FitReport(n_parameters=self.lags_fs.size * (1 + len(self.weights)))

    def _predict(self, states: StartStates, lags_fs: torch.Tensor) -> torch.Tensor:
        structures = superposed_structures(self.structures, states)
        rows = [
            np.interp(lags, self.lags_fs, self.weights.get(name, self.weights_unseen))
            for name, lags in zip(states.molecule, lags_fs.numpy(), strict=True)
        ]
        weights = torch.from_numpy(np.array(rows))[:, :, None, None]
        start = states.positions.double()[:, None]
        return start + weights * (structures[:, None] - start)


def superposed_structures(structures: dict[str, np.ndarray], states: StartStates) -> torch.Tensor:
    """Each molecule's structure superposed by mass on its start state, (B, N, 3) float64 A.

    Raises:
        UserError: there is no structure of a molecule.
    """
    missing = sorted(set(states.molecule) - set(structures))
    if missing:
        raise UserError(
            f"no rest structure of {', '.join(missing[:5])}: neither relaxed with GFN2-xTB nor "
            "in the training set"
        )
    mobile = torch.zeros(states.positions.shape, dtype=torch.float64)
    for row, name in enumerate(states.molecule):
        structure = torch.from_numpy(structures[name])
        mobile[row, : len(structure)] = structure
    return superpose(mobile, states.positions.double(), _mass_weights(states.atomic_numbers))


def mean_structures(trajectories: Sequence[Trajectory]) -> dict[str, np.ndarray]:
    """Mean structure (n_atoms, 3) of each molecule over all its blocks, rigid motion removed.

    Every frame is superposed by mass on the mean, which is updated until it stands still
    (generalised Procrustes analysis; three rounds settle it to well below thermal motion).
    """
    blocks: dict[str, list[Trajectory]] = {}
    for trajectory in trajectories:
        blocks.setdefault(trajectory.name, []).append(trajectory)
    return {name: _procrustes_mean(parts) for name, parts in blocks.items()}


def _procrustes_mean(blocks: Sequence[Trajectory], rounds: int = 3) -> np.ndarray:
    frames = torch.from_numpy(np.concatenate([b.positions for b in blocks])).double()
    weights = _mass_weights(torch.from_numpy(blocks[0].atomic_numbers))
    mean = frames[0]
    for _ in range(rounds):
        target = mean.expand_as(frames)
        mean = superpose(frames, target, weights.expand(len(frames), -1)).mean(0)
    return mean.numpy()


def _mass_weights(atomic_numbers: torch.Tensor) -> torch.Tensor:
    # Without angular momentum the mass-weighted frame is the one that turns least (Eckart).
    return torch.from_numpy(masses_of(atomic_numbers.numpy())) * (atomic_numbers > 0)


def _fit_lags(data: TrainingData) -> np.ndarray:
    """Stored lags on which blend weights are fitted: the task's, and a geometric grid."""
    frame_fs = data.trajectories[0].frame_fs
    longest = min(t.length_fs for t in data.trajectories)
    grid = np.geomspace(frame_fs, longest / 2, 12)
    asked = (*data.task.lags_fs, *data.task.curve_lags_fs, *grid)
    wanted = {lag for lag in asked if lag <= longest}
    _, real = lag_frames(sorted(wanted), frame_fs)
    return real[~np.isnan(real)]


def _normal_equations(
    trajectory: Trajectory, structure: np.ndarray, lags_fs: np.ndarray, score: str
) -> np.ndarray:
    """Sums (2, n_lags) over windows: pull . move and pull . pull, of the scored atoms.

    pull = structure superposed on the start less the start; move = truth less the start. Their
    quotient is the least-squares weight.
    """
    frames = torch.from_numpy(trajectory.positions).double()
    numbers = torch.from_numpy(trajectory.atomic_numbers)
    target = torch.from_numpy(np.asarray(structure)).expand_as(frames)
    pull = superpose(target, frames, _mass_weights(numbers).expand(len(frames), -1)) - frames
    scored = score_mask_of(numbers, score)
    frames, pull = frames[:, scored], pull[:, scored]
    sums = np.zeros((2, lags_fs.size))
    for i, lag in enumerate(np.rint(lags_fs / trajectory.frame_fs).astype(int)):
        move = frames[lag:] - frames[:-lag]
        sums[:, i] = float((pull[:-lag] * move).sum()), float(pull[:-lag].square().sum())
    return sums


def _quotient(sums: np.ndarray) -> np.ndarray:
    # A single atom is superposed exactly: nothing pulls, and any weight does.
    return np.divide(sums[0], sums[1], out=np.zeros(sums.shape[1]), where=sums[1] > 0)


def _every_step(positions: torch.Tensor, lags_fs: torch.Tensor) -> torch.Tensor:
    return positions[:, None].expand(-1, lags_fs.shape[1], -1, -1)
