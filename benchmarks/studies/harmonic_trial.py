"""The harmonic trial: can a model learn one molecule whose motion is known exactly?

A molecule is made exactly harmonic by its GFN2-xTB Hessian, start states are thermal, and every
training window is fresh, so that neither data nor chaos limits what can be learnt. A model passes
at a lag if its error is a small share of persistence's; the rest structure alone gives about half.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor

from benchmarks.interface import Budget
from benchmarks.models import make_model
from benchmarks.models.normal_modes import Modes, modes_of
from benchmarks.models.trivial import Persistence
from benchmarks.scoring.errors import predict_errors
from benchmarks.tasks.data import TrainingData
from benchmarks.tasks.scored_windows import Part, Windows
from benchmarks.tasks.states import start_states
from benchmarks.tasks.tasks import TaskSpec
from tg80.console import Table
from tg80.constants import ACCELERATION, BOLTZMANN_EV_PER_K, masses_of
from tg80.dataset import load, shipped_folder
from tg80.errors import UserError
from tg80.files import make_folder
from tg80.windows.lags import LagSampling, frames_of_lags
from tg80.windows.rotations import rotations_of
from tg80.windows.trajectories import FrameLabels, Trajectory
from tg80.windows.windows import TrainingWindows, WindowBatch

MOLECULES = ("furan", "benzoic-acid")
LAGS_FS = (5.0, 10.0, 20.0, 50.0, 100.0, 120.0, 240.0, 480.0, 960.0)
TEMPERATURE_K = 300.0
FRAME_FS = 10.0
TASK = TaskSpec(
    id="harmonic-trial",
    level="gfn2-xtb",
    lags_fs=tuple(120.0 * k for k in range(1, 9)),
    description="one exactly harmonic molecule",
)
# Streams of random numbers beside that of the training windows.
_TRAJECTORIES, _VALIDATION, _TEST = 1, 2, 3
_N_TRAJECTORIES, _N_FRAMES, _N_VALIDATION, _N_TEST = 64, 121, 64, 128


@dataclass(frozen=True)
class HarmonicMolecule:
    """A molecule that is its Hessian, without rotation.

    Attributes:
        source: the trajectory whose relaxed structure and Hessian these are.
        modes: its vibrations.
    """

    source: Trajectory
    modes: Modes

    @property
    def n_numbers(self) -> int:
        """Normal random numbers that make a start state."""
        return 2 * len(self.modes.rates)

    def amplitudes(self, normal: np.ndarray) -> tuple[Tensor, Tensor]:
        """Thermal mode coordinates and their rates (B, M), of standard normal numbers (B, 2M)."""
        q, p = torch.from_numpy(normal).chunk(2, dim=1)
        rates, size = self.modes.rates, math.sqrt(BOLTZMANN_EV_PER_K * TEMPERATURE_K * ACCELERATION)
        moves = rates > 0
        return torch.where(moves, size * q / rates, 0.0), torch.where(moves, size * p, 0.0)

    def at(self, q: Tensor, p: Tensor, times_fs: Tensor) -> tuple[Tensor, Tensor]:
        """Positions and velocities (B, T, N, 3) at times (B, T) after mode coordinates (B, M)."""
        angle, rates = times_fs[..., None] * self.modes.rates, self.modes.rates
        over_rates = torch.where(rates > 0, 1 / rates, 0.0)
        q, p = q[:, None], p[:, None]
        swung = q * angle.cos() + p * over_rates * angle.sin()
        speed = p * angle.cos() - q * rates * angle.sin()
        moved, velocities = self._cartesian(swung), self._cartesian(speed)
        return self.modes.structure + moved, velocities

    def forces(self, q: Tensor) -> Tensor:
        """Forces (..., N, 3) eV/A at mode coordinates (..., M)."""
        masses = self.modes.masses[:, None]
        return -self._cartesian(q * self.modes.rates.square()) * masses / ACCELERATION

    def _cartesian(self, q: Tensor) -> Tensor:
        weighted = (q @ self.modes.vectors.T).unflatten(-1, (-1, 3))
        return weighted / self.modes.masses.sqrt()[:, None]

    def windows(self, lags_fs: Tensor, normal: np.ndarray, turns: np.ndarray) -> WindowBatch:
        """Windows at lags (B, P) fs, NaN = padding.

        Args:
            lags_fs: of each window.
            normal: (B, n_numbers) standard normal numbers.
            turns: (B, 3, 3) rotations.
        """
        size, n = len(lags_fs), len(self.modes.masses)
        times = torch.nan_to_num(torch.cat([lags_fs.new_zeros(size, 1), lags_fs], dim=1), nan=0.0)
        path, velocities = self.at(*self.amplitudes(normal), times.double())
        turn = torch.from_numpy(turns).transpose(1, 2)
        path, start_velocities = (path @ turn[:, None]).float(), velocities[:, 0] @ turn
        name = self.source.name
        return WindowBatch(
            positions=path[:, 0],
            velocities=start_velocities.float(),
            atomic_numbers=torch.from_numpy(self.source.atomic_numbers).expand(size, n).clone(),
            lags_fs=lags_fs.float(),
            targets=torch.where(lags_fs.isnan()[..., None, None], 0.0, path[:, 1:]),
            molecule=(name,) * size,
            start_id=tuple(f"{name}-{i}" for i in range(size)),
        )

    def drawn(self, lags_fs: Sequence[float], size: int, stream: int) -> Windows:
        """Windows at the same lags that no training window equals."""
        rng = np.random.default_rng([stream])
        lags = torch.tensor(lags_fs, dtype=torch.float64).expand(size, -1)
        normal, turns = rng.standard_normal((size, self.n_numbers)), rng.standard_normal((size, 4))
        batch = self.windows(lags, normal, rotations_of(turns))
        return Windows(start_states(batch, TASK.score), batch.lags_fs, batch.targets)

    def trajectories(self) -> tuple[Trajectory, ...]:
        """Thermal trajectories with forces, for models that learn from more than windows."""
        rng = np.random.default_rng([_TRAJECTORIES])
        times = torch.arange(_N_FRAMES, dtype=torch.float64)[None] * FRAME_FS
        found = []
        for replica in range(_N_TRAJECTORIES):
            q, p = self.amplitudes(rng.standard_normal((1, self.n_numbers)))
            positions, velocities = (x[0] for x in self.at(q, p, times))
            displacement = (positions - self.modes.structure) * self.modes.masses.sqrt()[:, None]
            forces = self.forces(displacement.flatten(1) @ self.modes.vectors)
            energies = -0.5 * ((positions - self.modes.structure) * forces).sum((1, 2))
            labels = partial(_labels, energies.numpy(), forces.float().numpy())
            block = Trajectory(
                self.source.name, replica, positions.float().numpy(), velocities.float().numpy(),
                self.source.atomic_numbers, self.source.relaxed_positions, FRAME_FS,
                hessian=self.source.hessian, labels=FrameLabels(labels, 0, _N_FRAMES),
            )  # fmt: skip
            found.append(block)
        return tuple(found)


def _labels(
    energies: np.ndarray, forces: np.ndarray, first: int, stop: int
) -> tuple[np.ndarray, np.ndarray]:
    return energies[first:stop], forces[first:stop]


def harmonic_molecule(name: str, folder: Path | None = None) -> HarmonicMolecule:
    """The harmonic form of a molecule.

    Args:
        name: its id.
        folder: of shards; the shipped mini set if None.

    Raises:
        UserError: there is no shard of it.
    """
    data = load(folder or shipped_folder("mini-xtb"))
    if name not in data:
        raise UserError(f"no shard of {name} in {folder or 'the shipped mini-xtb'}; choose another")
    source = data.trajectory(name)
    assert source.relaxed_positions is not None and source.hessian is not None
    masses = masses_of(source.atomic_numbers)
    return HarmonicMolecule(source, modes_of(source.relaxed_positions, source.hessian, masses))


class HarmonicWindows(TrainingWindows):
    """Windows from thermal start states, none of them drawn twice."""

    def __init__(
        self,
        blocks: Sequence[Trajectory],
        lags: LagSampling,
        *,
        molecule: HarmonicMolecule,
        seed: int,
        windows_per_trajectory: int,
    ) -> None:
        super().__init__(blocks, lags, seed=seed, windows_per_trajectory=windows_per_trajectory)
        self.molecule = molecule

    def __getitems__(self, numbers: Sequence[int]) -> WindowBatch:
        """The batch of these items; torch's loader asks for it under this name."""
        rngs = [np.random.default_rng([self.seed, number]) for number in numbers]
        uniforms = np.stack([rng.random(2) for rng in rngs])
        turns = rotations_of(np.stack([rng.standard_normal(4) for rng in rngs]))
        normal = np.stack([rng.standard_normal(self.molecule.n_numbers) for rng in rngs])
        frame_fs = np.full(len(rngs), FRAME_FS)
        length_fs = np.full(len(rngs), self.trajectories[0].length_fs)
        lags = self.lags.draw(uniforms, frame_fs, length_fs)
        _, lags = frames_of_lags(lags, frame_fs[:, None])
        return self.molecule.windows(torch.from_numpy(lags), normal, turns)


def training_data(molecule: HarmonicMolecule) -> TrainingData:
    """All that a model may learn from."""
    source = molecule.source
    assert source.relaxed_positions is not None and source.hessian is not None
    trajectories = molecule.trajectories()
    return TrainingData(
        task=TASK,
        trajectories=trajectories,
        validation=(Part("val_time", molecule.drawn(TASK.lags_fs, _N_VALIDATION, _VALIDATION)),),
        relaxed_positions={source.name: source.relaxed_positions},
        hessians={source.name: source.hessian},
        validation_blocks=trajectories,
        windows=partial(HarmonicWindows, molecule=molecule),
    )


@dataclass(frozen=True)
class TrialResult:
    """One trial.

    Attributes:
        molecule: id.
        model: id.
        seed: of the training.
        n_steps: steps of the optimiser.
        cpu_seconds: of the training.
        lags_fs: of the errors.
        errors: squared error of heavy atoms over that of persistence, at each lag.
    """

    molecule: str
    model: str
    seed: int
    n_steps: int
    cpu_seconds: float
    lags_fs: tuple[float, ...]
    errors: tuple[float, ...]

    def at(self, lag_fs: float) -> float:
        """The error at one lag."""
        return self.errors[self.lags_fs.index(lag_fs)]


def run_trial(
    model_id: str,
    settings: Mapping[str, Any],
    molecule: HarmonicMolecule,
    *,
    budget: Budget,
    seed: int,
    out: Path,
    progress: Progress | None = None,
) -> TrialResult:
    """Train a model on a harmonic molecule, and compare its errors with persistence.

    Args:
        model_id: any registered model.
        settings: of the model.
        molecule: what is learnt.
        budget: of the training.
        seed: of the training.
        out: folder of the checkpoint; a killed trial resumes from it.
        progress: shows how far the training is.
    """
    model = make_model(model_id, **settings)
    folder = out / model_id / f"{molecule.source.name}-seed{seed}"
    make_folder(folder)
    fit = model.fit(
        training_data(molecule), budget=budget, seed=seed, out=folder, progress=progress
    )
    test = molecule.drawn(LAGS_FS, _N_TEST, _TEST)
    own, still = (predict_errors(m, test).raw.mean(0) for m in (model, Persistence()))
    return TrialResult(
        molecule.source.name, model_id, seed, fit.n_steps, fit.cpu_seconds, LAGS_FS,
        tuple((own / still).tolist()),
    )  # fmt: skip


def tables(results: Sequence[TrialResult]) -> list[Table]:
    """One row a molecule, one column a lag."""
    first = results[0]
    title = f"Harmonic trial of {first.model}, seed {first.seed}: squared error over persistence's"
    heading = ("molecule", "steps", "CPU s", *(f"{lag:g} fs" for lag in first.lags_fs))
    rows = [
        (r.molecule, str(r.n_steps), f"{r.cpu_seconds:.0f}", *(f"{e:.4f}" for e in r.errors))
        for r in results
    ]
    note = (
        f"Heavy atoms, {_N_TEST} thermal starts at {TEMPERATURE_K:g} K; rest structure: about 0.5."
    )
    return [Table(title, heading, rows, [note])]
