"""Structures with independent reference energies and forces, and finite differences."""

import json
from functools import cache
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers

REFERENCE = Path(__file__).parent.parent / "data" / "dft_psi4.json"


@cache
def references() -> dict:
    """Psi4's molecules by name (see `_about` in the file)."""
    return json.loads(REFERENCE.read_text())["molecules"]


def structure(name: str) -> tuple[list[int], np.ndarray]:
    """Atomic numbers and positions (n_atoms, 3) A of a reference molecule."""
    entry = references()[name]
    numbers = [atomic_numbers[symbol] for symbol in entry["symbols"]]
    return numbers, np.array(entry["positions_angstrom"])


def displaced(positions: np.ndarray, n_steps: int, size: float = 0.004) -> list[np.ndarray]:
    """A smooth path of n_steps geometries, about as far apart as 1 fs of dynamics."""
    direction = np.random.default_rng(5).normal(size=positions.shape)
    return [positions + size * step * direction for step in range(n_steps)]


def directional_derivatives(engine, positions: np.ndarray, step: float) -> tuple[float, float]:
    """Slope of the energy along one direction: from the forces, and by central differences.

    Both in eV/A, of the unit direction; `step` in A.
    """
    direction = np.random.default_rng(7).normal(size=positions.shape)
    direction /= np.linalg.norm(direction)
    analytic = -float(np.vdot(engine.evaluate(positions).forces, direction))
    forward = engine.evaluate(positions + step * direction).energy
    backward = engine.evaluate(positions - step * direction).energy
    return analytic, (forward - backward) / (2.0 * step)
