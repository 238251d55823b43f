"""One stage of dynamics, done in segments that are committed to disk one by one.

A stage lives in a folder of part files (the frames) and checkpoints. A segment's part file is
written first and its checkpoint commits it, so a process killed at any instant loses at most the
segment it was in, and a resumed stage holds the same bits as an uninterrupted one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.dynamics.checkpoint import latest_checkpoint, write_checkpoint
from pipelines.dynamics.cost import Cost, cost_from_header, process_cpu_seconds, processor_model
from pipelines.dynamics.integrators import Body, State, Stepper
from pipelines.dynamics.learner import Learner, read_knowledge, root_mean_square
from pipelines.dynamics.parts import write_part
from pipelines.dynamics.thermostats import Thermostat
from pipelines.engines.engine import Evaluation
from tg80.chemistry.mechanics import kinetic_energy
from tg80.errors import CorruptFile, RunFailed
from tg80.files import make_folder, remove_temporary_files

_STATE_ARRAYS = ("positions", "velocities", "forces", "inner_forces")


@dataclass(frozen=True)
class StagePlan:
    """What a stage is: fixed before its first step.

    Attributes:
        identity: text that a checkpoint must carry to belong to this stage.
        n_steps: time steps: outer ones, or inner ones where the outer step varies.
        steps_per_segment: steps committed at once.
        store_stride: steps between stored frames; frame 0 is stored.
        seed: words for `numpy.random.SeedSequence`.
    """

    identity: str
    n_steps: int
    steps_per_segment: int
    store_stride: int
    seed: tuple[int, ...]


@dataclass
class Progress:
    """Where a stage stands on disk.

    Attributes:
        step: steps done and committed.
        segment: segments done and committed.
        parts: (file name, sha256) of the committed part files, in order.
        arrays: the last checkpoint's arrays.
        header: the last checkpoint's header.
        warnings: lines about damaged files that were set aside.
    """

    step: int
    segment: int
    parts: list[tuple[str, str]]
    arrays: dict[str, np.ndarray]
    header: dict[str, Any]
    warnings: list[str]

    @property
    def positions(self) -> np.ndarray:
        """Positions (n_atoms, 3) A at `step`."""
        return self.arrays["positions"]

    @property
    def velocities(self) -> np.ndarray:
        """Velocities (n_atoms, 3) A/fs at `step`."""
        return self.arrays["velocities"]

    @property
    def potential_energy(self) -> float:
        """Energy of the level at `step`, eV."""
        return self.header["potential_energy"]

    @property
    def cost(self) -> Cost | None:
        """What the committed segments cost; None if an older version did one of them."""
        return cost_from_header(self.header.get("cost"))


def read_progress(folder: Path, identity: str) -> Progress | None:
    """Where the stage in this folder stands; None if nothing is committed yet.

    Raises:
        CorruptFile: no whole checkpoint is left, or it belongs to another stage.
    """
    if not folder.is_dir():
        return None
    found = latest_checkpoint(folder)
    if found is None:
        return None
    arrays, header, warnings = found
    if header["identity"] != identity:
        raise CorruptFile(
            f"{folder}: was made with other settings or another start; move this folder away"
        )
    parts = [(name, digest) for name, digest in header["parts"]]
    return Progress(header["step"], header["segment"], parts, arrays, header, warnings)


class Stage:
    """Does segments of one stage of dynamics.

    Args:
        folder: where part files and checkpoints lie.
        plan: what to do.
        body: masses and degrees of freedom.
        stepper: integrator with its engines.
        thermostat: applied after every outer step, or None.
        start: gives positions and velocities of step 0; called only if nothing is committed.
        learner: chooses the outer steps and teaches the inner potential; None for equal steps.
    """

    def __init__(
        self,
        folder: Path,
        plan: StagePlan,
        body: Body,
        stepper: Stepper,
        thermostat: Thermostat | None,
        start: Callable[[], tuple[np.ndarray, np.ndarray]],
        learner: Learner | None = None,
    ):
        self.folder = folder
        self.plan = plan
        self.body = body
        self.stepper = stepper
        self.thermostat = thermostat
        self.start = start
        self.learner = learner

    @property
    def step_fs(self) -> float:
        """Duration of a step as the plan counts them."""
        return self.stepper.inner_step_fs if self.learner else self.stepper.step_fs

    def advance(self) -> Progress:
        """Do the next segment, commit it and return where the stage stands then.

        A stage that is done already is left as it is.

        Raises:
            RunFailed: the engine failed, or the dynamics left the numbers' range.
            CorruptFile: a committed file is damaged.
        """
        began = process_cpu_seconds()
        make_folder(self.folder)
        remove_temporary_files(self.folder)
        before = read_progress(self.folder, self.plan.identity)
        if before is not None and before.step >= self.plan.n_steps:
            return before
        state, rng, frames = self._load(before) if before else self._begin()
        step = before.step if before else 0
        warnings: list[str] = []
        if self.learner is None:
            step = self._run(state, rng, frames, step)
        else:
            if not self.learner.learn_from_seeds():
                step = self._run_learned(self.learner, state, rng, frames, step)
            warnings = [f"{self.plan.identity}: {line}" for line in self.learner.conclude(state)]
        return self._commit(before, state, rng, frames, step, began, warnings)

    def _run(self, state: State, rng: np.random.Generator, frames: "_Frames", first: int) -> int:
        """One segment of equal steps; the step it ends at."""
        last = min(first + self.plan.steps_per_segment, self.plan.n_steps)
        for step in range(first + 1, last + 1):
            self._step(state, rng, step)
            if step % self.plan.store_stride == 0:
                frames.add(state, step)
        return last

    def _run_learned(
        self,
        learner: Learner,
        state: State,
        rng: np.random.Generator,
        frames: "_Frames",
        step: int,
    ) -> int:
        """One segment of outer steps that the learner chooses; the inner step it ends at."""
        plan = self.plan
        last = learner.segment_end(step, plan.n_steps, plan.steps_per_segment)
        residuals: list[float] = []
        while step < last and not learner.must_fall_back():
            n_inner = learner.n_inner(step, plan.n_steps)
            stored = [n for n in range(1, n_inner) if (step + n) % plan.store_stride == 0]
            inside = self._step(state, rng, step + n_inner, n_inner, stored)
            for n, instant in zip(stored, inside, strict=True):
                frames.add(instant, step + n, np.nan, n_inner)
            step += n_inner
            residuals.append(
                learner.observe(state, step * self.step_fs, conserved_energy(self.body, state))
            )
            if step % plan.store_stride == 0:
                frames.add(state, step, root_mean_square(residuals), n_inner)
                residuals = []
        return step

    def _begin(self) -> tuple[State, np.random.Generator, "_Frames"]:
        positions, velocities = self.start()
        if self.learner is not None:
            self.learner.begin(positions)
        state = self.stepper.begin(positions, velocities)
        frames = _Frames(self)
        residual = root_mean_square(state.forces - state.inner_forces)
        frames.add(state, 0, residual if self.learner else None)
        return state, np.random.default_rng(np.random.SeedSequence(self.plan.seed)), frames

    def _load(self, progress: Progress) -> tuple[State, np.random.Generator, "_Frames"]:
        arrays = progress.arrays
        positions, velocities, forces, inner = (arrays[name].copy() for name in _STATE_ARRAYS)
        state = State(positions, velocities, forces, inner)
        state.thermostat_energy = progress.header["thermostat_energy"]
        engine_state = {
            name.removeprefix("engine:"): array
            for name, array in arrays.items()
            if name.startswith("engine:")
        }
        self.stepper.engine.load_state(engine_state)
        # Its density is in no checkpoint: each segment starts the inner method afresh.
        self.stepper.reset_inner()
        if self.learner is not None:
            self.learner.load(read_knowledge(arrays, progress.header))
        rng = np.random.default_rng()
        rng.bit_generator.state = progress.header["rng"]
        return state, rng, _Frames(self)

    def _step(
        self,
        state: State,
        rng: np.random.Generator,
        step: int,
        n_inner: int | None = None,
        keep: Sequence[int] = (),
    ) -> list[State]:
        try:
            inside = self.stepper.step(state, n_inner, keep)
        except RunFailed as error:
            time = step * self.step_fs
            raise RunFailed(f"{self.plan.identity} at {time:g} fs: {error}") from error
        if self.thermostat is not None:
            self.thermostat.apply(state, (n_inner or 1) * self.step_fs, rng)
        if not np.isfinite(state.velocities).all():
            raise RunFailed(f"{self.plan.identity}: not finite at step {step}; use a smaller step")
        return inside

    def _commit(
        self,
        before: Progress | None,
        state: State,
        rng: np.random.Generator,
        frames: "_Frames",
        step: int,
        began: float,
        warnings: list[str],
    ) -> Progress:
        segment = before.segment + 1 if before else 0
        parts = list(before.parts) if before else []
        if frames.steps:
            name = f"part-{segment:06d}.npz"
            digest = write_part(self.folder / name, frames.arrays())
            parts.append((name, digest))
        if state.evaluation is not None:
            potential = state.evaluation.energy
        else:  # a segment without a step: only labels were added
            assert before is not None
            potential = before.potential_energy
        header = {
            "identity": self.plan.identity,
            "step": step,
            "n_steps": self.plan.n_steps,
            "segment": segment,
            "parts": parts,
            "thermostat_energy": state.thermostat_energy,
            "potential_energy": potential,
            "rng": rng.bit_generator.state,
        }
        cost = before.cost if before else Cost()
        if cost is not None:
            # In what commits the segment: a killed one leaves neither frames nor cost.
            cost = cost.plus(process_cpu_seconds() - began, processor_model())
            header["cost"] = cost.to_header()
        arrays = {name: getattr(state, name) for name in _STATE_ARRAYS}
        arrays |= {f"engine:{k}": v for k, v in self.stepper.engine.state().items()}
        if self.learner is not None:
            header["inner"] = self.learner.known.header()
            arrays |= self.learner.known.arrays()
        write_checkpoint(self.folder, segment, arrays, header)
        warnings = [*(before.warnings if before else []), *warnings]
        return Progress(step, segment, parts, arrays, header, warnings)

    def part_paths(self, progress: Progress) -> list[tuple[Path, str]]:
        """The committed part files with their checksums, in order."""
        return [(self.folder / name, digest) for name, digest in progress.parts]


def conserved_energy(body: Body, state: State) -> float:
    """Kinetic and potential energy less what the thermostat has put in, eV."""
    evaluation = state.evaluation or _no_evaluation(len(body.masses))
    kinetic = kinetic_energy(body.masses, state.velocities)
    return evaluation.energy + kinetic - state.thermostat_energy


def _no_evaluation(n_atoms: int) -> Evaluation:
    """What is stored where the level was not evaluated."""
    forces, dipole, charges = (np.full(shape, np.nan) for shape in ((n_atoms, 3), 3, n_atoms))
    return Evaluation(np.nan, forces, dipole, charges, -1, False, np.nan)


class _Frames:
    """Frames of the segment in hand, collected in memory units."""

    def __init__(self, stage: Stage):
        self._body = stage.body
        self._step_fs = stage.step_fs
        self.steps: list[int] = []
        self._columns: dict[str, list[Any]] = {}

    def add(self, state: State, step: int, residual: float | None = None, n_inner: int = 0) -> None:
        """Store the state at this step as a frame.

        Args:
            state: what is stored.
            step: its number.
            residual: force that the inner potential missed since the last frame where the level
                was evaluated, eV/A; None where nothing is learned.
            n_inner: inner steps of the outer step that the frame lies in or ends.
        """
        evaluated = state.evaluation is not None
        evaluation = state.evaluation or _no_evaluation(len(state.positions))
        unknown = np.full(3, np.nan)
        kinetic = kinetic_energy(self._body.masses, state.velocities)
        self.steps.append(step)
        values = {
            "positions": state.positions,
            "velocities": state.velocities,
            "forces": state.forces,
            "potential_energy": evaluation.energy,
            "kinetic_energy": kinetic,
            "conserved_quantity": conserved_energy(self._body, state),
            "homo_lumo_gap": evaluation.gap,
            "dipole": evaluation.dipole,
            "mulliken_charges": evaluation.charges,
            "scf_cycles": evaluation.scf_cycles,
            "scf_converged": evaluation.converged,
            "raw_net_force": state.net_force if evaluated else unknown,
            "raw_net_torque": state.net_torque if evaluated else unknown,
            "quality_flags": 0,
        }
        if residual is not None:
            values |= {
                "residual_force": residual,
                "outer_step": n_inner * self._step_fs,
                "evaluated": evaluated,
            }
        for name, value in values.items():
            self._columns.setdefault(name, []).append(value)

    def arrays(self) -> dict[str, np.ndarray]:
        """All frames as arrays (n_frames, ...) with `step` and `time` (fs)."""
        steps = np.asarray(self.steps, dtype=np.int64)
        arrays = {name: np.asarray(column) for name, column in self._columns.items()}
        return arrays | {"step": steps, "time": steps * self._step_fs}
