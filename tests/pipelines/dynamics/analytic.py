"""An analytic molecule for tests of the dynamics: exact forces, microseconds a step."""

import numpy as np

from pipelines.engines.engine import Evaluation


class SpringEngine:
    """Harmonic springs between all pairs of atoms with a quartic term: translation and rotation
    invariant, so its forces have no net force and no torque.

    Args:
        rest: (n_atoms, 3) A, the geometry at rest.
        stiffness: eV/A^2 of every pair.
        push: net force (eV/A) added to atom 0, the noise that the projection must take out.
    """

    level = "springs"

    def __init__(self, rest: np.ndarray, stiffness: float = 5.0, push: float = 0.0):
        self.i, self.j = np.triu_indices(len(rest), 1)
        self.lengths = np.linalg.norm(rest[self.i] - rest[self.j], axis=1)
        self.stiffness = stiffness
        self.push = push
        self.n_evaluations = 0

    def evaluate(self, positions: np.ndarray) -> Evaluation:
        self.n_evaluations += 1
        apart = positions[self.i] - positions[self.j]
        length = np.linalg.norm(apart, axis=1)
        stretch = length - self.lengths
        energy = self.stiffness * np.sum(0.5 * stretch**2 + 0.25 * stretch**4)
        pull = -self.stiffness * (stretch + stretch**3) / length
        forces = np.zeros_like(positions)
        np.add.at(forces, self.i, pull[:, None] * apart)
        np.add.at(forces, self.j, -pull[:, None] * apart)
        forces[0] += self.push
        zeros = np.zeros(len(positions))
        return Evaluation(float(energy), forces, np.zeros(3), zeros, -1, True, 1.0)

    def state(self) -> dict[str, np.ndarray]:
        return {}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        pass

    def reset(self) -> None:
        pass
