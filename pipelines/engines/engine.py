"""What the dynamics asks of a method that gives energies and forces."""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from tg80.errors import RunFailed, UserError
from tg80.theory import symbols_of


@dataclass(frozen=True)
class Evaluation:
    """Energy, forces and what else is stored of one geometry.

    Attributes:
        energy: eV.
        forces: (n_atoms, 3) eV/A, as the method gives them: net force and torque not projected.
        dipole: (3,) e A; about the centre of mass for ions.
        charges: (n_atoms,) e, Mulliken.
        scf_cycles: cycles to self-consistency, -1 where the method does not tell.
        converged: whether self-consistency was reached.
        gap: HOMO-LUMO gap, eV.
    """

    energy: float
    forces: np.ndarray
    dipole: np.ndarray
    charges: np.ndarray
    scf_cycles: int
    converged: bool
    gap: float


@dataclass(frozen=True)
class Resources:
    """What an evaluation may use; nothing here decides which energy a geometry gets.

    Attributes:
        threads: CPU threads.
        memory_gb: three-centre integrals are kept if they fit into this less what a process
            takes besides, else evaluated anew, 1e9 bytes. On a GPU: its memory that a process may
            keep between evaluations.
        device: where the Kohn-Sham levels are evaluated.
    """

    threads: int = 1
    memory_gb: float = 2.0
    device: Literal["cpu", "cuda"] = "cpu"

    def check(self) -> None:
        """Refuse what no machine has.

        Raises:
            UserError: no thread, no memory.
        """
        if self.threads < 1:
            raise UserError(f"{self.threads} threads: give 1 or more")
        if not self.memory_gb > 0:
            raise UserError(f"{self.memory_gb:g} GB of memory: give more than 0")


class Engine(Protocol):
    """One molecule at one level of theory, geometry after geometry.

    The result for a geometry may depend, within the convergence thresholds, on the geometries
    before it (density extrapolation). `state` holds all of that memory in float64, so that
    `load_state(state())` in another process continues bit for bit; `reset` forgets it.
    """

    level: str

    def evaluate(self, positions: np.ndarray) -> Evaluation:
        """Energy and forces at positions (n_atoms, 3) A.

        Raises:
            tg80.errors.RunFailed: self-consistency could not be reached by any means.
        """
        ...

    def state(self) -> dict[str, np.ndarray]: ...

    def load_state(self, state: dict[str, np.ndarray]) -> None: ...

    def reset(self) -> None: ...


def checked_positions(positions, n_atoms: int, level: str) -> np.ndarray:
    """Positions as a contiguous float64 array (n_atoms, 3), refused if not finite."""
    positions = np.ascontiguousarray(positions, dtype=np.float64)
    if positions.shape != (n_atoms, 3):
        raise ValueError(f"positions of shape {positions.shape}, expected {(n_atoms, 3)}")
    if not np.isfinite(positions).all():
        raise RunFailed(f"{level}: positions are not finite: the trajectory has blown up")
    return positions


def formula(atomic_numbers) -> str:
    """Hill-like formula of atomic numbers (n_atoms,), for messages."""
    symbols = symbols_of(atomic_numbers)
    order = sorted(set(symbols), key=lambda symbol: (symbol != "C", symbol != "H", symbol))
    counts = [(symbol, symbols.count(symbol)) for symbol in order]
    return "".join(f"{symbol}{count if count > 1 else ''}" for symbol, count in counts)
