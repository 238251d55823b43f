"""The suite that every model of the benchmark passes, also for models of your own.

```python
from benchmarks.testing import check_model

check_model(MyModel())
```

The suite trains the model briefly on a few invented molecules that vibrate harmonically, and checks
its predictions: shapes, batches against single samples, padding, translations, rotations, the order
of atoms and lags, saving and loading.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.interface import Budget, Model
from benchmarks.tasks.data import BenchmarkData, cut
from benchmarks.tasks.states import StartStates
from benchmarks.tasks.tasks import TaskSpec
from tg80.constants import ACCELERATION, masses_of
from tg80.dataset import Dataset
from tg80.splits.split import load_split
from tg80.windows.trajectories import FrameLabels, Trajectory

# Names of each part of fold 2 of tg80-v1; their atoms here are made up.
TRAIN = ("1-butanol", "acetonitrile", "chlorobenzene", "ethylene")
VAL = ("1-pentanol", "chloroform")
TEST_ID, TEST_OOD = ("formaldehyde", "butylamine"), ("urea", "acetic-acid")
NAMES = (*TRAIN, *VAL, *TEST_ID, *TEST_OOD)
FRAME_FS = 10.0
SPLIT = load_split("tg80-v1")
TASK = TaskSpec(
    id="toy-v1",
    level="gfn2-xtb",
    lags_fs=(30.0, 60.0, 90.0),
    curve_lags_fs=(10.0,),
    description="toy",
)
N_FRAMES = 121
LAGS = (30.0, 60.0, 90.0)
TOLERANCE_A = 2e-4
"""float32 round-off through a network, A"""


def check_model(model: Model, data: BenchmarkData | None = None) -> None:
    """Check what every model of the benchmark must satisfy.

    Args:
        model: an untrained model.
        data: for training and predictions; a few invented molecules if None.

    Raises:
        AssertionError: a check fails; the message says which and by how much.
    """
    data = data or toy_data()
    with tempfile.TemporaryDirectory() as folder:
        model.fit(data.training, budget=Budget(epochs=2), seed=0, out=Path(folder))
    for check in CHECKS:
        check(model, data)


def check_shapes(model: Model, data: BenchmarkData) -> None:
    """Positions are (B, P, N, 3), float32 and finite; failures are (B,), bool, and not all True."""
    states = starts(data, model)
    positions = ask(model, states)
    _, failed = model.predict(states, torch.tensor(LAGS).expand(len(states), -1))
    assert not bool(failed.all()), "every prediction failed: there is nothing to hold the model to"
    expected = (len(states), len(LAGS), states.positions.shape[1], 3)
    assert positions.shape == expected, f"positions of shape {positions.shape}, not {expected}"
    assert positions.dtype == torch.float32, f"positions are {positions.dtype}, not float32"
    assert bool(torch.isfinite(positions).all()), "positions are not finite"


def check_batches(model: Model, data: BenchmarkData) -> None:
    """Predictions of a batch are those of its samples one by one; padding changes nothing."""
    states = starts(data, model)
    together = ask(model, states)
    for row in range(len(states)):
        one = states.select([row])
        n = int(one.atom_mask.sum())
        names = ("positions", "velocities", "atomic_numbers", "score_mask")
        alone = replace(one, **{name: getattr(one, name)[:, :n] for name in names})
        _same(ask(model, alone)[0], together[row, :, :n], "a batch, or its padding,")


def check_shifts(model: Model, data: BenchmarkData) -> None:
    """A shift of the start shifts the prediction."""
    states = starts(data, model)
    shift = torch.tensor([3.0, -2.0, 1.0])
    real = states.atom_mask[..., None]
    moved = replace(states, positions=torch.where(real, states.positions + shift, 0.0))
    difference = ask(model, moved) - ask(model, states) - shift
    assert _largest(states, difference) < TOLERANCE_A, "a shift of the start changes more than that"


def check_turns(model: Model, data: BenchmarkData) -> None:
    """The model is exactly as equivariant as it states."""
    for reflect in (False, True):
        off = turn_error(model, data, reflect=reflect)
        exact = model.equivariance == "E(3)" or (model.equivariance == "SE(3)" and not reflect)
        kind = "reflection" if reflect else "rotation"
        stated = f"equivariance {model.equivariance!r} is stated"
        if exact:
            assert off < TOLERANCE_A, f"{stated}, but after a {kind} it is off by {off:.1e} A"
        else:
            assert off > 2 * TOLERANCE_A, f"{stated}, but a {kind} is followed exactly"


def check_order_of_atoms(model: Model, data: BenchmarkData) -> None:
    """If atoms are permuted, so is the prediction of a model that trains."""
    if not model.trains:
        return
    states = starts(data, model)
    generator = torch.Generator().manual_seed(0)
    order = torch.stack(
        [
            torch.cat([torch.randperm(n, generator=generator), torch.arange(n, mask.shape[0])])
            for mask in states.atom_mask
            for n in [int(mask.sum())]
        ]
    )
    deal = torch.arange(len(states))[:, None], order
    names = ("positions", "velocities", "atomic_numbers", "score_mask")
    other = replace(states, **{name: getattr(states, name)[deal] for name in names})
    plain = ask(model, states)
    expected = torch.stack([plain[row][:, order[row]] for row in range(len(states))])
    _same(ask(model, other), expected, "another order of atoms")


def check_lags(model: Model, data: BenchmarkData) -> None:
    """Lags may come in any order and number, with padding."""
    states = starts(data, model)
    plain = ask(model, states)
    _same(ask(model, states, (90.0, 30.0, 60.0)), plain[:, [2, 0, 1]], "another order of lags")
    _same(ask(model, states, (*LAGS, float("nan")))[:, :3], plain, "a padded lag")
    for lags in ((17.0,), (5.0, 30.0, 31.0, 200.0, 201.0, 700.0)):
        found = ask(model, states, lags)
        assert bool(torch.isfinite(found).all()), f"positions at {lags} fs are not finite"


def check_saving(model: Model, data: BenchmarkData) -> None:
    """A loaded model predicts bit for bit the same as the saved one, with the same settings."""
    states = starts(data, model)
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model")
        loaded = type(model).load(Path(folder) / "model")
        same = torch.equal(ask(loaded, states), ask(model, states))
        assert same, "once saved and loaded it predicts otherwise"
        assert loaded.settings() == model.settings(), "a saved model has other settings"


CHECKS = (
    check_shapes,
    check_batches,
    check_shifts,
    check_turns,
    check_order_of_atoms,
    check_lags,
    check_saving,
)


def starts(data: BenchmarkData, model: Model, count: int = 6) -> StartStates:
    """Start states of molecules of different size that the model can predict."""
    part = "test_time" if model.seen_only else "test_id"
    states = data.parts[part].windows.states
    return states.select([int(i) for i in np.linspace(0, len(states) - 1, count)])


def ask(model: Model, states: StartStates, lags_fs: Sequence[float] = LAGS) -> torch.Tensor:
    """Positions (B, P, N, 3) A that the model predicts at the same lags for all states."""
    lags = torch.tensor(lags_fs).expand(len(states), -1).clone()
    positions, failed = model.predict(states, lags)
    assert failed.shape == (len(states),), f"failures of shape {tuple(failed.shape)}, not (B,)"
    assert failed.dtype == torch.bool, f"failures are {failed.dtype}, not bool"
    return positions


def turn_error(model: Model, data: BenchmarkData, *, reflect: bool) -> float:
    """How far predictions of turned states are from turned predictions, A."""
    states = starts(data, model)
    random = torch.randn(3, 3, generator=torch.Generator().manual_seed(3))
    matrix = torch.linalg.qr(random).Q
    matrix = matrix * (matrix.det().sign() * (-1 if reflect else 1))
    moved = {name: getattr(states, name) @ matrix.T for name in ("positions", "velocities")}
    turned = ask(model, replace(states, **moved))
    return _largest(states, turned - ask(model, states) @ matrix.T)


def _largest(states: StartStates, difference: torch.Tensor) -> float:
    real = states.atom_mask[:, None, :, None]
    return float(torch.where(real, difference, 0.0).abs().max())


def _same(found: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    off = float((found - expected).abs().max())
    assert off < TOLERANCE_A, f"{what} changes the prediction by {off:.1e} A"


def toy_trajectory(name: str, seed: int = 0, n_frames: int = N_FRAMES) -> Trajectory:
    """Every atom swings about its place with a period of its own; sizes differ by name."""
    rng = np.random.default_rng([seed, sum(map(ord, name))])
    n_atoms = 5 + sum(map(ord, name)) % 4
    numbers = np.array([6, 8, 7, 6, *[1] * (n_atoms - 4)])
    rest = _chain(rng, n_atoms)
    rate = rng.uniform(0.01, 0.03, size=(n_atoms, 3))
    phase = rng.uniform(0, 2 * np.pi, size=(n_atoms, 3))
    time = (np.arange(n_frames) * FRAME_FS)[:, None, None]
    positions = rest + 0.1 * np.sin(rate * time + phase)
    velocities = 0.1 * rate * np.cos(rate * time + phase)
    forces = -masses_of(numbers)[:, None] * rate**2 * (positions - rest) / ACCELERATION
    energies = -0.5 * (forces * (positions - rest)).sum((1, 2))
    return Trajectory(
        name, 0, positions.astype("f4"), velocities.astype("f4"), numbers, rest, FRAME_FS,
        hessian=spring_hessian(rest),
        labels=FrameLabels(partial(_labels, energies, forces.astype("f4")), 0, n_frames),
    )  # fmt: skip


def _chain(rng: np.random.Generator, n_atoms: int) -> np.ndarray:
    """Four heavy atoms on a helix, and a hydrogen at each of the first of them, (n_atoms, 3) A."""
    turn = 2.1 * np.arange(4)
    out = np.stack([np.zeros(4), np.cos(turn), np.sin(turn)], axis=1)
    heavy = 0.6 * out + 0.05 * rng.normal(size=(4, 3))
    heavy[:, 0] += 1.25 * np.arange(4)
    return np.concatenate([heavy, heavy + 1.09 * out])[:n_atoms]


def _labels(
    energies: np.ndarray, forces: np.ndarray, first: int, stop: int
) -> tuple[np.ndarray, np.ndarray]:
    return energies[first:stop], forces[first:stop]


def spring_hessian(rest: np.ndarray, stiffness: float = 5.0) -> np.ndarray:
    """Hessian (3N, 3N) eV/A^2 of slack springs between all pairs of atoms."""
    n_atoms = len(rest)
    blocks = np.zeros((n_atoms, n_atoms, 3, 3))
    for i in range(n_atoms):
        for j in range(i):
            axis = (rest[i] - rest[j]) / np.linalg.norm(rest[i] - rest[j])
            block = stiffness * np.outer(axis, axis)
            blocks[i, i] += block
            blocks[j, j] += block
            blocks[i, j] -= block
            blocks[j, i] -= block
    return blocks.transpose(0, 2, 1, 3).reshape(3 * n_atoms, 3 * n_atoms)


def toy_trajectories(names: Sequence[str] = NAMES) -> list[Trajectory]:
    return [toy_trajectory(name) for name in names]


class ToyDataset(Dataset):
    """Trajectories in memory, with the frozen split."""

    def __init__(self, trajectories: Sequence[Trajectory]) -> None:
        self.trajectories: Any = {(t.name, t.replica): t for t in trajectories}
        self.split = SPLIT.restrict(t.name for t in trajectories)

    def trajectory(self, name: str, replica: int | None = None) -> Trajectory:
        return self.trajectories[name, replica or 0]


def toy_data(
    trajectories: Sequence[Trajectory] | None = None, task: TaskSpec = TASK
) -> BenchmarkData:
    """Fold 2 of the toys."""
    data = ToyDataset(trajectories or toy_trajectories())
    return cut(data, task, 2, manifest="manifest", split_sha256=SPLIT.sha256, bonds={})
