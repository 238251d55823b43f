"""Time steps: velocity Verlet and r-RESPA multiple time steps.

All forces are projected (no net force, no net torque) before they are integrated, so linear and
angular momentum stay zero to rounding. Units: A, fs, eV, u.
"""

from collections.abc import Container
from dataclasses import dataclass

import numpy as np

from pipelines.engines.engine import Engine, Evaluation
from tg80.chemistry.mechanics import project_forces, remove_rigid_motion
from tg80.constants import ACCELERATION


@dataclass(frozen=True)
class Body:
    """What stays the same of a molecule along a trajectory.

    Attributes:
        masses: (n_atoms,) u.
        n_degrees: internal degrees of freedom, 3N-6 or 3N-5.
        linear: whether the molecule is linear.
    """

    masses: np.ndarray
    n_degrees: int
    linear: bool


@dataclass
class State:
    """One instant of a trajectory, all float64.

    Attributes:
        positions: (n_atoms, 3) A.
        velocities: (n_atoms, 3) A/fs.
        forces: (n_atoms, 3) eV/A of the level, projected; NaN where it was not evaluated.
        inner_forces: (n_atoms, 3) eV/A of the inner method, projected; zero without one.
        evaluation: the level's result at these positions; None right after a resume, and where
            the level was not evaluated.
        thermostat_energy: what the thermostat has put in since the start, eV.
    """

    positions: np.ndarray
    velocities: np.ndarray
    forces: np.ndarray
    inner_forces: np.ndarray
    evaluation: Evaluation | None = None
    net_force: np.ndarray | None = None
    net_torque: np.ndarray | None = None
    thermostat_energy: float = 0.0


class Stepper:
    """Moves a state by one outer step of r-RESPA; without an inner engine that is Verlet.

    The inner method drives velocity-Verlet steps of `inner_step_fs`; the difference between level
    and inner method kicks at both ends of the outer step. The scheme is symplectic and
    time-reversible, and conserves the energy of the level.

    References:
        Tuckerman, Berne, Martyna, J. Chem. Phys. 97, 1990 (1992), doi:10.1063/1.463137.
    """

    def __init__(
        self,
        body: Body,
        engine: Engine,
        step_fs: float,
        inner_engine: Engine | None = None,
        inner_step_fs: float | None = None,
    ):
        self.body = body
        self.engine = engine
        self.step_fs = step_fs
        self.inner_engine = inner_engine
        self.n_inner = round(step_fs / inner_step_fs) if inner_engine and inner_step_fs else 1
        self.inner_step_fs = step_fs / self.n_inner
        self._to_acceleration = ACCELERATION / body.masses[:, None]

    def begin(self, positions: np.ndarray, velocities: np.ndarray) -> State:
        """A state with forces, from engines that remember nothing; rigid motion is taken out."""
        self.engine.reset()
        self.reset_inner()
        body = self.body
        velocities = remove_rigid_motion(body.masses, positions, velocities, linear=body.linear)
        zeros = np.zeros_like(positions)
        state = State(positions.copy(), velocities, zeros, zeros)
        self.evaluate_inner(state)
        self.evaluate(state)
        return state

    def reset_inner(self) -> None:
        """Make the inner method forget its density, which no checkpoint holds."""
        if self.inner_engine is not None:
            self.inner_engine.reset()

    def evaluate(self, state: State) -> None:
        """Fill in the level's forces and results at the state's positions."""
        evaluation = self.engine.evaluate(state.positions)
        state.forces, state.net_force, state.net_torque = self._project(
            state.positions, evaluation.forces
        )
        state.evaluation = evaluation

    def evaluate_inner(self, state: State) -> None:
        """Fill in the inner method's forces; zero without one."""
        if self.inner_engine is None:
            state.inner_forces = np.zeros_like(state.positions)
            return
        forces = self.inner_engine.evaluate(state.positions).forces
        state.inner_forces, _, _ = self._project(state.positions, forces)

    def step(
        self, state: State, n_inner: int | None = None, keep: Container[int] = ()
    ) -> list[State]:
        """One outer step, in place.

        Args:
            state: at its beginning, and then at its end.
            n_inner: inner steps it has; the usual number by default.
            keep: numbers of inner steps after which an instant is wanted.

        Returns:
            Those instants, without the level's forces, as `_smoothed` has them.
        """
        step_fs = self.step_fs if n_inner is None else n_inner * self.inner_step_fs
        n_inner = n_inner or self.n_inner
        first = state.forces - state.inner_forces
        passed: list[tuple[float, np.ndarray, np.ndarray]] = []
        self._kick(state, first, 0.5 * step_fs)
        for number in range(1, n_inner + 1):
            self._kick(state, state.inner_forces, 0.5 * self.inner_step_fs)
            state.positions = state.positions + self.inner_step_fs * state.velocities
            self.evaluate_inner(state)
            self._kick(state, state.inner_forces, 0.5 * self.inner_step_fs)
            if number in keep:
                passed.append((number / n_inner, state.positions, state.velocities))
        self.evaluate(state)
        last = state.forces - state.inner_forces
        self._kick(state, last, 0.5 * step_fs)
        return [self._smoothed(*instant, first, last, step_fs) for instant in passed]

    def _smoothed(
        self,
        share: float,
        positions: np.ndarray,
        velocities: np.ndarray,
        first: np.ndarray,
        last: np.ndarray,
        step_fs: float,
    ) -> State:
        """An instant inside an outer step, on the smooth motion through the step's ends.

        Inside, the difference force has acted as one kick at the beginning and not yet as that at
        the end. A difference force d(s) = first + s (last - first) that acts all along would have
        given the velocity, at the share s of the step H, (1/2 - s) H first + s^2/2 H (first - last)
        over mass less; the positions are ahead by the integral of that, made zero at the end. Both
        are taken off, so that the motion is continuous at both ends, where nothing is taken off,
        and what is left is of the order of the integrator's own error.
        """
        change = self._to_acceleration * (last - first)
        first = self._to_acceleration * first
        ahead = 0.5 * step_fs**2 * share * (1 - share) * (first + (1 + share) / 3 * change)
        faster = step_fs * ((0.5 - share) * first - 0.5 * share**2 * change)
        body, positions = self.body, positions - ahead
        velocities = remove_rigid_motion(
            body.masses, positions, velocities - faster, linear=body.linear
        )
        unknown = np.full_like(positions, np.nan)
        return State(positions, velocities, unknown, unknown)

    def _kick(self, state: State, forces: np.ndarray, time_fs: float) -> None:
        state.velocities = state.velocities + time_fs * self._to_acceleration * forces

    def _project(self, positions: np.ndarray, forces: np.ndarray):
        return project_forces(self.body.masses, positions, forces, linear=self.body.linear)
