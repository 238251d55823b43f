"""The `learned` integrator's knowledge: labels, the correction fitted to them, the outer step.

Every outer step gives the difference between the level's forces and GFN2-xTB's for nothing: a
label. At the end of a segment the correction may be fitted anew, and the next outer step follows
from the residual force: what the level's forces still differ by from those of the inner potential.
All of it lies in the checkpoint, so that a resumed run takes the same steps.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from pipelines.dynamics.inner_potential import (
    KERNEL,
    CorrectedEngine,
    FitFailed,
    KernelCorrection,
    choose_frames,
    fit_correction,
    most_frames,
    no_permutations,
    stretch_hydrogens,
)
from pipelines.dynamics.integrators import State, Stepper
from pipelines.engines.engine import Engine
from pipelines.recipe import FIRST_OUTER_STEP_FS, Recipe
from tg80.chemistry.mechanics import project_forces
from tg80.errors import RunFailed


class OuterStep(NamedTuple):
    """An outer step and what it bears.

    Attributes:
        fs: its length.
        limit: largest residual force, eV/A.
    """

    fs: float
    limit: float


# Beyond its limit, resonances with bonds to hydrogen let the energy walk; how far is in proportion
# to the residual. At 3 fs productions drifted past their limit at small residuals, too
# (docs/pipeline/performance.md). The first step is that of `mts`, with GFN2-xTB alone inside.
OUTER_STEPS = (OuterStep(FIRST_OUTER_STEP_FS, np.inf), OuterStep(2.0, 0.03))
LONGER_BELOW = 0.7  # of its limit the residual must be for a longer step than the last
FALL_BACK = 2.0  # times its limit, over three steps, the residual ends a segment at once
LARGEST_SPREAD = 1e-4  # eV/atom: fluctuation of the conserved energy that a segment may show
LARGEST_DRIFT = 5e-5  # eV/atom/ps of the conserved energy, if beyond doubt
DRIFT_SEGMENTS = 6  # of one outer step, before its drift is judged
FIRST_LABELS = 40
GROWTH = 1.5  # of the number of labels until the next fit; 2 at the longest outer step
NEW_LABELS = 40  # before a correction that is no longer good enough is fitted again
N_SEEDS = 60  # frames with stretched bonds to hydrogen
SEEDS_FROM_FS = 100.0  # of equilibration at the level; in less they cost more than they save
SEEDS_AT_ONCE = 20
TRIAL_STEPS = 12  # that a correction is tried for, where the outer step is the shortest


@dataclass
class Knowledge:
    """What a segment begins with, all of it in the checkpoint before it.

    Attributes:
        positions: (n_labels, n_atoms, 3) A.
        differences: (n_labels, n_atoms, 3) eV/A, level minus GFN2-xTB.
        correction: the one in use; None for GFN2-xTB alone.
        outer_step_fs: of the next segment.
        ceiling_fs: longest outer step that the conserved energy allows until the next fit.
        drift_ceiling_fs: longest outer step that has shown no drift; no fit changes a resonance.
        n_seen: labels met so far.
        n_fitted: labels met when the correction was fitted last.
        n_fits: how often it was.
        n_seeds: frames with stretched bonds that were tried.
        n_evaluations: outer steps of this stage.
        on_trial: whether the correction has shown no residual yet.
        energies: time (fs) and mean conserved energy (eV/atom) of the segments with this outer
            step.
    """

    positions: np.ndarray
    differences: np.ndarray
    correction: KernelCorrection | None = None
    outer_step_fs: float = 0.0
    ceiling_fs: float = np.inf
    drift_ceiling_fs: float = np.inf
    n_seen: int = 0
    n_fitted: int = 0
    n_fits: int = 0
    n_seeds: int = 0
    n_evaluations: int = 0
    on_trial: bool = False
    energies: list[tuple[float, float]] = field(default_factory=list)

    def arrays(self) -> dict[str, np.ndarray]:
        """Arrays of a checkpoint."""
        arrays = {"positions": self.positions, "differences": self.differences}
        if self.correction is not None:
            arrays |= {name: getattr(self.correction, name) for name in _CORRECTION}
        return {f"inner:{name}": array for name, array in arrays.items()}

    def header(self) -> dict[str, Any]:
        """Facts for the header of a checkpoint."""
        facts = {name: getattr(self, name) for name in _FACTS}
        return facts | {
            "kernel": KERNEL,
            "sha256": self.correction.sha256 if self.correction else None,
        }


_CORRECTION = ("centres", "weights", "permutations")
_FACTS = (
    "outer_step_fs", "ceiling_fs", "drift_ceiling_fs", "n_seen", "n_fitted", "n_fits", "n_seeds",
    "n_evaluations", "on_trial", "energies",
)  # fmt: skip


def read_knowledge(arrays: dict[str, np.ndarray], header: dict[str, Any]) -> Knowledge:
    """What a checkpoint tells; nothing is known yet after one of another integrator."""
    stated = header.get("inner")
    if stated is None:
        return _nothing_known(arrays["positions"])
    correction = None
    if stated["sha256"] is not None:
        alone = {"inner:permutations": no_permutations(arrays["positions"].shape[0])}
        correction = KernelCorrection(*((alone | arrays)[f"inner:{name}"] for name in _CORRECTION))
    labels = arrays["inner:positions"], arrays["inner:differences"]
    known = Knowledge(*labels, correction, **{name: stated[name] for name in _FACTS})
    if stated.get("kernel") != KERNEL:  # its weights mean nothing here; its labels are fitted anew
        known.correction, known.outer_step_fs, known.n_fitted = None, 0.0, 0
    return known


def _nothing_known(positions: np.ndarray) -> Knowledge:
    none = np.zeros((0, *positions.shape))
    return Knowledge(none, none)


@dataclass
class Learner:
    """Chooses the outer steps of a stage and teaches its inner potential.

    Args:
        stepper: integrator whose inner engine is a `CorrectedEngine`.
        atomic_numbers: (n_atoms,).
        outer_steps: the ones allowed, shortest first.
        seed_frames: gives (n, n_atoms, 3) A, frames of cheap dynamics to learn from before the
            first step; there may be none.
        before: arrays and header of the checkpoint that this stage takes its knowledge from; None
            for a stage that begins with none.
        permutations: gives, for a geometry (n_atoms, 3) A, those that the energy does not feel,
            (n_permutations, n_atoms).
    """

    stepper: Stepper
    atomic_numbers: Sequence[int]
    outer_steps: tuple[OuterStep, ...]
    seed_frames: Callable[[], np.ndarray]
    before: Callable[[], tuple[dict[str, np.ndarray], dict[str, Any]] | None]
    permutations: Callable[[np.ndarray], np.ndarray]
    known: Knowledge = field(init=False)
    _labels: list[tuple[np.ndarray, np.ndarray]] = field(init=False)
    _residuals: list[float] = field(init=False)
    _energies: list[tuple[float, float]] = field(init=False)

    def begin(self, positions: np.ndarray) -> None:
        """Take over what the stage before knew."""
        found = self.before()
        known = _nothing_known(positions) if found is None else read_knowledge(*found)
        known.n_evaluations, known.energies = 0, []
        self.load(known)

    def load(self, known: Knowledge) -> None:
        """Go on with what a checkpoint knew."""
        steps = [step.fs for step in self.outer_steps if step.fs <= known.outer_step_fs]
        known.outer_step_fs = max(steps, default=self.outer_steps[0].fs)
        self.known = known
        self._labels, self._residuals, self._energies = [], [], []
        self._inner.correction = known.correction

    @property
    def _inner(self) -> CorrectedEngine:
        assert isinstance(self.stepper.inner_engine, CorrectedEngine)
        return self.stepper.inner_engine

    # --- labels before the first step -----------------------------------------------------------

    def learn_from_seeds(self) -> bool:
        """Label a few frames of cheap dynamics with their bonds to hydrogen stretched.

        Returns:
            False if there was nothing left to do.
        """
        known = self.known
        frames = self.seed_frames() if known.n_seeds < N_SEEDS else []
        chosen = np.linspace(0, len(frames) - 1, N_SEEDS).astype(int) if len(frames) else []
        chosen = chosen[known.n_seeds : known.n_seeds + SEEDS_AT_ONCE]
        if not len(chosen):
            return False
        # The level's memory of past densities belongs to the trajectory.
        memory = {name: array.copy() for name, array in self.stepper.engine.state().items()}
        rng = np.random.default_rng([known.n_seeds])
        for index in chosen:
            # All face the same way, so that the level can go on from the last one.
            frame = frames[index] if self.stepper.body.linear else _turned(frames[index], frames[0])
            frame = stretch_hydrogens(frame, np.asarray(self.atomic_numbers), rng)
            try:
                forces = self._difference(frame)
            except RunFailed:  # a geometry too odd for self-consistency teaches nothing
                continue
            self._labels.append((frame, forces))
        self.stepper.engine.reset()
        self.stepper.engine.load_state(memory)
        self.stepper.reset_inner()
        known.n_seeds += len(chosen)
        return True

    def _difference(self, positions: np.ndarray) -> np.ndarray:
        body = self.stepper.body
        cheap: Engine = self._inner.engine
        forces = self.stepper.engine.evaluate(positions).forces - cheap.evaluate(positions).forces
        return project_forces(body.masses, positions, forces, linear=body.linear)[0]

    # --- the outer steps of a segment -----------------------------------------------------------

    def segment_end(self, step: int, n_steps: int, steps_per_segment: int) -> int:
        """Where the segment that begins at inner step `step` ends."""
        stride = self._n_inner
        if self.known.on_trial and self.known.outer_step_fs == self.outer_steps[0].fs:
            steps_per_segment = min(steps_per_segment, TRIAL_STEPS * stride)
        end = (step + max(steps_per_segment, stride)) // stride * stride
        return min(end, n_steps)

    def n_inner(self, step: int, n_steps: int) -> int:
        """Inner steps of the outer step that begins at inner step `step`.

        Outer steps end at multiples of their length, so that they meet stored frames; the first
        after a change, and the last of a stage, may be shorter.
        """
        stride = self._n_inner
        return min(stride - step % stride, n_steps - step)

    @property
    def _n_inner(self) -> int:
        return round(self.known.outer_step_fs / self.stepper.inner_step_fs)

    def observe(self, state: State, time_fs: float, conserved_energy: float) -> float:
        """Take the label of an outer step.

        Args:
            state: at its end.
            time_fs: since the start of the stage.
            conserved_energy: kinetic and potential energy less the thermostat's, eV.

        Returns:
            The residual force: root mean square over all components, eV/A.
        """
        residual = state.forces - state.inner_forces
        difference = residual.copy()
        if self.known.correction is not None:
            difference += self.known.correction.energy_and_forces(state.positions)[1]
        self._labels.append((state.positions.copy(), difference))
        self._residuals.append(root_mean_square(residual))
        self._energies.append((time_fs, conserved_energy / len(residual)))
        self.known.n_evaluations += 1
        return self._residuals[-1]

    def must_fall_back(self) -> bool:
        """Whether the residual has risen far beyond what the outer step bears."""
        last = self._residuals[-3:]
        limit = next(s.limit for s in self.outer_steps if s.fs == self.known.outer_step_fs)
        return len(last) == 3 and root_mean_square(last) > FALL_BACK * limit

    # --- at the end of a segment ----------------------------------------------------------------

    def conclude(self, state: State) -> list[str]:
        """Choose the next outer step, and fit the correction again where that is due.

        Args:
            state: at the end of the segment; its inner forces are renewed after a fit.

        Returns:
            Lines about what failed.
        """
        known = self.known
        last_step_fs = known.outer_step_fs
        if self._residuals:
            self._choose_step()
        self._keep_labels()
        since = known.n_seen - known.n_fitted
        fell = known.outer_step_fs < last_step_fs
        growth = 2.0 if last_step_fs == self.outer_steps[-1].fs else GROWTH
        due = known.n_seen >= max(FIRST_LABELS, growth * known.n_fitted)
        seeding = 0 < known.n_seeds < N_SEEDS
        if seeding or not (due or (fell and since >= NEW_LABELS)):
            return []
        try:
            self._fit()
            return []
        except FitFailed as error:
            known.correction, known.on_trial = None, False
            known.outer_step_fs = self.outer_steps[0].fs
            return [f"{error}; GFN2-xTB alone drives the inner steps"]
        finally:
            known.n_fitted = known.n_seen
            self._inner.correction = known.correction
            self.stepper.evaluate_inner(state)

    def _choose_step(self) -> None:
        known = self.known
        known.on_trial = False
        residual = max(root_mean_square(self._residuals), root_mean_square(self._residuals[-3:]))
        times, energies = np.array(self._energies).T
        known.energies.append((float(times.mean()), float(energies.mean())))
        shorter_fs = known.outer_step_fs - self.stepper.inner_step_fs
        if len(energies) > 3 and np.std(energies) > LARGEST_SPREAD:
            known.ceiling_fs = shorter_fs
        if _drifts(known.energies):
            known.drift_ceiling_fs = shorter_fs
        ceiling_fs = min(known.ceiling_fs, known.drift_ceiling_fs)
        best = self.outer_steps[0].fs
        for step in self.outer_steps if known.correction is not None else ():
            margin = LONGER_BELOW if step.fs > known.outer_step_fs else 1.0
            if step.limit == np.inf or (residual <= margin * step.limit and step.fs <= ceiling_fs):
                best = step.fs
        if best != known.outer_step_fs:
            known.outer_step_fs, known.energies = best, []

    def _keep_labels(self) -> None:
        known = self.known
        known.n_seen += len(self._labels)
        if self._labels:
            new = [np.array(values) for values in zip(*self._labels, strict=True)]
            known.positions = np.concatenate([known.positions, new[0]])
            known.differences = np.concatenate([known.differences, new[1]])
        most = most_frames(known.positions.shape[1])
        if len(known.positions) > 2 * most:
            kept = choose_frames(known.positions, most, self.permutations(known.positions[0]))
            known.positions, known.differences = known.positions[kept], known.differences[kept]
        self._labels, self._residuals, self._energies = [], [], []

    def _fit(self) -> None:
        known = self.known
        permutations = self.permutations(known.positions[0])
        known.correction = fit_correction(known.positions, known.differences, permutations)
        known.n_fits += 1
        known.on_trial = True
        known.ceiling_fs = np.inf


def _turned(positions: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The positions moved and turned onto the target, both (n_atoms, 3) A."""
    centre, wanted = positions.mean(axis=0), target.mean(axis=0)
    rotation = Rotation.align_vectors(target - wanted, positions - centre)[0]
    return rotation.apply(positions - centre) + wanted


def _drifts(energies: list[tuple[float, float]]) -> bool:
    """Whether times (fs) and mean energies (eV/atom) of segments show a drift beyond doubt."""
    if len(energies) < DRIFT_SEGMENTS:
        return False
    times, values = np.array(energies).T
    (slope, _), covariance = np.polyfit(times / 1000.0, values, 1, cov=True)
    return abs(slope) - 3.0 * np.sqrt(covariance[0, 0]) > LARGEST_DRIFT


def root_mean_square(values: np.ndarray | Sequence[float]) -> float:
    """Of all elements."""
    return float(np.sqrt(np.mean(np.square(values))))


def has_seeds(recipe: Recipe) -> bool:
    """Whether the inner potential begins with frames of the pre-equilibration."""
    return recipe.pre_equilibration_fs > 0 and recipe.equilibration_fs >= SEEDS_FROM_FS


def most_fits(n_fitted: float, n_labels: float) -> int:
    """Fits, at most, between the one at `n_fitted` labels and the one at `n_labels`."""
    return max(0, math.floor(math.log(n_labels / n_fitted) / math.log(GROWTH)))


def allowed_outer_steps(recipe: Recipe) -> tuple[OuterStep, ...]:
    """Outer steps that a stage may take, shortest first: the usual, or as the recipe fixes them."""
    steps = OUTER_STEPS
    if recipe.outer_step_fs is not None:  # taken as soon as there is a correction
        lengths = sorted({recipe.first_step_fs, recipe.outer_step_fs})
        steps = tuple(OuterStep(length, np.inf) for length in lengths)
    counts = [step.fs / recipe.inner_step_fs for step in steps]
    return tuple(s for s, n in zip(steps, counts, strict=True) if abs(n - round(n)) < 1e-6)
