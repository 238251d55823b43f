"""Prediction for ASE's structures: `Atoms` and lags in, `Atoms` out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from atom.elements import MAX_ATOMIC_NUMBER

if TYPE_CHECKING:
    from ase import Atoms

BATCH_SIZE = 64


def predict(
    model: nn.Module, atoms: Atoms | Sequence[Atoms], lags_fs: Sequence[float]
) -> list[Any]:
    """Structures at each lag, of one molecule or of many at once.

    Args:
        model: a trained :class:`atom.ATOM`, on any device.
        atoms: a molecule with velocities, or a sequence of such.
        lags_fs: P times since the start, fs, in any order.

    Returns:
        P structures; for a sequence, one list of P structures for each molecule. They hold the
        predicted positions of all atoms, hydrogens included, the start's cell and info, and the
        lag in ``info["time_fs"]``, but no velocities: the model predicts none.

    Raises:
        ValueError: if a molecule has no atoms, no velocities, an unknown element, values that
            are not finite, constraints, or is periodic; or if a lag is negative or not finite.
    """
    single = hasattr(atoms, "get_positions")
    molecules: list[Any] = [atoms] if single else list(atoms)
    for i, molecule in enumerate(molecules):
        _check(molecule, "atoms" if single else f"atoms[{i}]")
    lags = np.asarray(lags_fs, dtype=np.float64)
    if lags.ndim != 1 or lags.size == 0 or not np.all(np.isfinite(lags) & (lags >= 0)):
        raise ValueError(f"lags_fs must be a list of finite times, none negative: {lags_fs}")
    trajectories = []
    for first in range(0, len(molecules), BATCH_SIZE):
        trajectories += _predict_batch(model, molecules[first : first + BATCH_SIZE], lags)
    return trajectories[0] if single else trajectories


@torch.no_grad()
def _predict_batch(
    model: nn.Module, molecules: Sequence[Atoms], lags_fs: np.ndarray
) -> list[list[Atoms]]:
    from ase import units

    n_atoms = max(len(molecule) for molecule in molecules)
    positions = np.zeros((len(molecules), n_atoms, 3))
    velocities = np.zeros_like(positions)
    numbers = np.zeros(positions.shape[:2], dtype=np.int64)
    # Far from the origin float32 would lose digits, so the model sees each molecule near it.
    centres = [molecule.positions.mean(0) for molecule in molecules]
    for i, molecule in enumerate(molecules):
        size = len(molecule)
        positions[i, :size] = molecule.positions - centres[i]
        # ASE's unit of time is A sqrt(u/eV); units.fs is one femtosecond in it.
        velocities[i, :size] = molecule.get_velocities() * units.fs
        numbers[i, :size] = molecule.numbers
    lags = np.tile(lags_fs, (len(molecules), 1))
    device = next(model.parameters()).device
    inputs = (torch.from_numpy(x).to(device) for x in (positions, velocities, numbers, lags))
    predicted = model(*inputs).double().cpu().numpy()
    return [
        [
            _frame(molecule, positions[: len(molecule)] + centre, lag)
            for positions, lag in zip(steps, lags_fs, strict=True)
        ]
        for molecule, steps, centre in zip(molecules, predicted, centres, strict=True)
    ]


def _frame(start: Atoms, positions: np.ndarray, lag_fs: float) -> Atoms:
    """The molecule at one lag; velocities and results of the start are left out."""
    from ase import Atoms

    return Atoms(
        numbers=start.numbers,
        positions=positions,
        masses=start.get_masses() if start.has("masses") else None,
        cell=start.cell,
        pbc=start.pbc,
        info={**start.info, "time_fs": float(lag_fs)},
    )


def _check(atoms: Atoms, name: str) -> None:
    """Refuse what the model would take for something else."""
    if len(atoms) == 0:
        raise ValueError(f"{name}: no atoms")
    if atoms.pbc.any():
        raise ValueError(f"{name}: periodic, but the model knows molecules alone; set pbc=False")
    if atoms.constraints:
        raise ValueError(f"{name}: has constraints, which the model can't obey; remove them")
    if atoms.numbers.min() < 1 or atoms.numbers.max() > MAX_ATOMIC_NUMBER:
        raise ValueError(f"{name}: atomic numbers must lie in 1..{MAX_ATOMIC_NUMBER}")
    if not atoms.has("momenta"):
        raise ValueError(
            f"{name}: no velocities; set them by atoms.set_velocities (in ASE's units), or draw "
            f"them at a temperature by ase.md.velocitydistribution"
        )
    if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.get_velocities()).all()):
        raise ValueError(f"{name}: positions or velocities are not finite")
