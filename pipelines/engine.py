"""What the dynamics asks of a method that gives energies and forces."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np


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
