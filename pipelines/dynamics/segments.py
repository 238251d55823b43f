"""One stage of dynamics, done in segments that are committed to disk one by one.

A stage lives in a folder of part files (the frames) and checkpoints. A segment's part file is
written first and its checkpoint commits it, so a process killed at any instant loses at most the
segment it was in, and a resumed stage holds the same bits as an uninterrupted one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.dynamics.checkpoint import latest_checkpoint, write_checkpoint
from pipelines.dynamics.cost import Cost, cost_from_header, process_cpu_seconds, processor_model
from pipelines.dynamics.integrators import Body, State, Stepper
from pipelines.dynamics.parts import write_part
from pipelines.dynamics.thermostats import Thermostat
from tg80.chemistry.mechanics import kinetic_energy
from tg80.errors import CorruptFile, RunFailed
from tg80.files import make_folder, remove_temporary_files

_STATE_ARRAYS = ("positions", "velocities", "forces", "inner_forces")


@dataclass(frozen=True)
class StagePlan:
    """What a stage is: fixed before its first step.

    Attributes:
        identity: text that a checkpoint must carry to belong to this stage.
        n_steps: (outer) time steps.
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
        thermostat: applied after every step, or None.
        start: gives positions and velocities of step 0; called only if nothing is committed.
    """

    def __init__(
        self,
        folder: Path,
        plan: StagePlan,
        body: Body,
        stepper: Stepper,
        thermostat: Thermostat | None,
        start: Callable[[], tuple[np.ndarray, np.ndarray]],
    ):
        self.folder = folder
        self.plan = plan
        self.body = body
        self.stepper = stepper
        self.thermostat = thermostat
        self.start = start

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
        first = before.step if before else 0
        last = min(first + self.plan.steps_per_segment, self.plan.n_steps)
        for step in range(first + 1, last + 1):
            self._step(state, rng, step)
            if step % self.plan.store_stride == 0:
                frames.add(state, step)
        return self._commit(before, state, rng, frames, last, began)

    def _begin(self) -> tuple[State, np.random.Generator, "_Frames"]:
        state = self.stepper.begin(*self.start())
        frames = _Frames(self)
        frames.add(state, 0)
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
        rng = np.random.default_rng()
        rng.bit_generator.state = progress.header["rng"]
        return state, rng, _Frames(self)

    def _step(self, state: State, rng: np.random.Generator, step: int) -> None:
        try:
            self.stepper.step(state)
        except RunFailed as error:
            time = step * self.stepper.step_fs
            raise RunFailed(f"{self.plan.identity} at {time:g} fs: {error}") from error
        if self.thermostat is not None:
            self.thermostat.apply(state, self.stepper.step_fs, rng)
        if not np.isfinite(state.velocities).all():
            raise RunFailed(f"{self.plan.identity}: not finite at step {step}; use a smaller step")

    def _commit(
        self,
        before: Progress | None,
        state: State,
        rng: np.random.Generator,
        frames: "_Frames",
        step: int,
        began: float,
    ) -> Progress:
        segment = before.segment + 1 if before else 0
        parts = list(before.parts) if before else []
        if frames.steps:
            name = f"part-{segment:06d}.npz"
            digest = write_part(self.folder / name, frames.arrays())
            parts.append((name, digest))
        evaluation = state.evaluation
        assert evaluation is not None
        header = {
            "identity": self.plan.identity,
            "step": step,
            "segment": segment,
            "parts": parts,
            "thermostat_energy": state.thermostat_energy,
            "potential_energy": evaluation.energy,
            "rng": rng.bit_generator.state,
        }
        cost = before.cost if before else Cost()
        if cost is not None:
            # In what commits the segment: a killed one leaves neither frames nor cost.
            cost = cost.plus(process_cpu_seconds() - began, processor_model())
            header["cost"] = cost.to_header()
        arrays = {name: getattr(state, name) for name in _STATE_ARRAYS}
        arrays |= {f"engine:{k}": v for k, v in self.stepper.engine.state().items()}
        write_checkpoint(self.folder, segment, arrays, header)
        warnings = before.warnings if before else []
        return Progress(step, segment, parts, arrays, header, warnings)

    def part_paths(self, progress: Progress) -> list[tuple[Path, str]]:
        """The committed part files with their checksums, in order."""
        return [(self.folder / name, digest) for name, digest in progress.parts]


class _Frames:
    """Frames of the segment in hand, collected in memory units."""

    def __init__(self, stage: Stage):
        self._masses = stage.body.masses
        self._step_fs = stage.stepper.step_fs
        self.steps: list[int] = []
        self._columns: dict[str, list[Any]] = {}

    def add(self, state: State, step: int) -> None:
        """Store the state at this step as a frame."""
        evaluation = state.evaluation
        assert evaluation is not None
        kinetic = kinetic_energy(self._masses, state.velocities)
        self.steps.append(step)
        values = {
            "positions": state.positions,
            "velocities": state.velocities,
            "forces": state.forces,
            "potential_energy": evaluation.energy,
            "kinetic_energy": kinetic,
            "conserved_quantity": evaluation.energy + kinetic - state.thermostat_energy,
            "homo_lumo_gap": evaluation.gap,
            "dipole": evaluation.dipole,
            "mulliken_charges": evaluation.charges,
            "scf_cycles": evaluation.scf_cycles,
            "scf_converged": evaluation.converged,
            "raw_net_force": state.net_force,
            "raw_net_torque": state.net_torque,
            "quality_flags": 0,
        }
        for name, value in values.items():
            self._columns.setdefault(name, []).append(value)

    def arrays(self) -> dict[str, np.ndarray]:
        """All frames as arrays (n_frames, ...) with `step` and `time` (fs)."""
        steps = np.asarray(self.steps, dtype=np.int64)
        arrays = {name: np.asarray(column) for name, column in self._columns.items()}
        return arrays | {"step": steps, "time": steps * self._step_fs}
