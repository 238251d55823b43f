"""One molecule from its SMILES to finished shards: which stage of dynamics comes next.

    start geometry -> NVT at GFN2-xTB -> NVT at the level -> production of replica 0
                                              |-> 1 ps more NVT -> production of replica 1 ...

The state is on disk alone, so any process may do the next piece at any time.
"""

import hashlib
import os
import shutil
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from pipelines import assembly
from pipelines.conformers import start_geometry
from pipelines.dynamics.checkpoint import read_arrays, write_arrays
from pipelines.dynamics.continuation import (
    drop_short_segment,
    keep_checkpoint,
    kept_checkpoint,
    reopen,
)
from pipelines.dynamics.integrators import Body, Stepper
from pipelines.dynamics.learner import (
    Learner,
    allowed_outer_steps,
    has_seeds,
)
from pipelines.dynamics.mean_energy import mean_energy_start
from pipelines.dynamics.parts import WORK, read_parts, work_folder
from pipelines.dynamics.segments import Progress, Stage, StagePlan, read_progress
from pipelines.dynamics.steppers import equilibration_thermostat, level_stepper, xtb_stepper
from pipelines.dynamics.thermostats import make_thermostat, thermal_velocities
from pipelines.engines.engine import Resources
from pipelines.recipe import Recipe, load_recipe
from tg80.chemistry.mechanics import degrees_of_freedom, is_linear
from tg80.chemistry.molecule import Molecule
from tg80.chemistry.permutations import feasible_permutations
from tg80.errors import RunFailed, Tg80Error
from tg80.files import make_folder
from tg80.shards.metadata import ShardMetadata
from tg80.shards.shard import Shard

COMPLETE = "complete"
# Words that keep the random streams of one molecule apart.
_STREAMS = {"conformer": 0, "velocities": 1, "pre-equilibration": 2, "equilibration": 3, "run": 4}


@dataclass(frozen=True)
class StageReport:
    """Where a piece of work led.

    Attributes:
        name: `geometry`, `pre-equilibration`, `equilibration`, `prepared` (nothing left before
            production), `production` or `done`.
        replica: which trajectory it belongs to.
        time_fs, length_fs: how far its stage is, and the whole length of it.
        worked_fs: what this piece added.
        failure: why a trajectory that is `done` ended early.
        warnings: lines about damaged files that were set aside.
    """

    name: str
    replica: int
    time_fs: float
    length_fs: float
    worked_fs: float = 0.0
    failure: str | None = None
    warnings: tuple[str, ...] = ()


class Trajectory:
    """The way of one replica of one molecule through its stages.

    Args:
        folder: the run's output folder.
        molecule: the compound.
        recipe: the settings.
        replica: 0, 1, ...
        resources: what an evaluation at the level may use.
    """

    def __init__(
        self,
        folder: Path,
        molecule: Molecule,
        recipe: Recipe,
        replica: int,
        resources: Resources | None = None,
    ):
        self.folder = folder
        self.molecule = molecule
        self.recipe = recipe
        self.replica = replica
        self.resources = resources or Resources()
        self.work = work_folder(folder, molecule.name)

    @property
    def shard_path(self) -> Path:
        """Where the finished shard lies."""
        return self.folder / f"{self.molecule.name}-r{self.replica}.h5md"

    @property
    def production_folder(self) -> Path:
        """Where the parts and checkpoints of the production lie while it is not finished."""
        return self.work / f"r{self.replica}"

    def is_done(self) -> bool:
        """Whether the shard is there and nothing of its making is left."""
        return self.shard_path.exists() and not self.production_folder.exists()

    def prepare(self) -> StageReport:
        """Do the next piece of what comes before production: the geometry, or an NVT segment.

        Raises:
            RunFailed: a computation failed.
            CorruptFile: a committed file is damaged; nothing is overwritten.
        """
        if not self._geometry_path.exists():
            self._make_geometry()
            return StageReport("geometry", self.replica, 0.0, 0.0)
        for name, stage in self._preparations():
            if not _finished(stage):
                return self._advance(name, stage)
        return StageReport(
            "prepared", self.replica, 0.0, self.recipe.of_replica(self.replica).length_fs
        )

    def produce(self) -> StageReport:
        """Do the next segment of production; after the last one the shard is assembled.

        A computation that fails ends the trajectory there, with the reason in its shard.

        Raises:
            RunFailed: it failed before a segment was committed that no finished shard holds.
            CorruptFile: a committed file is damaged; nothing is overwritten.
        """
        if self.is_done():
            finished = self.finished_stage()
            if finished.name == "done":
                return finished
            reopen(self.production(), self._kept_path, self.shard_path)
        stage = self.production()
        if self._begun != self.recipe:
            drop_short_segment(stage)
        try:
            report = self._advance("production", stage)
        except RunFailed as error:
            progress = read_progress(stage.folder, stage.plan.identity)
            if progress is None or self._is_stored(progress):
                raise
            self.assemble(end=f"failed: {error}")
            return self.finished_stage()
        if report.time_fs < report.length_fs:
            return report
        self.assemble(end=COMPLETE)
        return replace(self.finished_stage(), worked_fs=report.worked_fs, warnings=report.warnings)

    def finished_stage(self) -> StageReport:
        """The stage of a trajectory whose shard is there: `production` if it is to become longer.

        Raises:
            CorruptFile: the shard is not what its checksum says.
        """
        self._sweep()
        metadata = assembly.verified_metadata(self.shard_path)
        failure = None if metadata.end == COMPLETE else metadata.end
        length = self.recipe.of_replica(self.replica).length_fs
        name = "production" if is_shorter(metadata, length) else "done"
        return StageReport(name, self.replica, metadata.length_fs, length, failure=failure)

    # --- stages -------------------------------------------------------------------------------

    @property
    def _geometry_path(self) -> Path:
        return self.work / "geometry.npz"

    def _make_geometry(self) -> None:
        """Find the start conformer and store it."""
        make_folder(self.work)
        recipe = self.recipe
        start = start_geometry(
            self.molecule,
            n_conformers=recipe.n_conformers,
            n_relaxed=recipe.n_relaxed,
            choice=recipe.conformers,
            temperature_k=recipe.temperature_k,
            seed=int(self._generator("conformer").integers(2**31)),
        )
        write_arrays(
            self._geometry_path,
            {"positions": start.positions, "hessian": start.hessian},
            {"energy": start.energy, "n_candidates": start.n_candidates},
        )

    @cached_property
    def geometry(self) -> dict[str, np.ndarray]:
        """`positions` (n_atoms, 3) A and `hessian` (3 n_atoms, 3 n_atoms) eV/A^2, GFN2-xTB."""
        arrays, _ = read_arrays(self._geometry_path)
        return arrays

    @cached_property
    def body(self) -> Body:
        """Masses and degrees of freedom, told by the relaxed geometry."""
        masses, positions = self.molecule.masses, self.geometry["positions"]
        return Body(masses, degrees_of_freedom(masses, positions), is_linear(masses, positions))

    def _preparations(self) -> list[tuple[str, Stage]]:
        """The NVT stages before this replica's production, in order; empty ones left out."""
        recipe = self.recipe
        stages = []
        pre = None
        if recipe.pre_equilibration_fs > 0:
            pre = self._nvt("pre-equilibration", recipe.pre_equilibration_fs, None, 0)
            stages.append(("pre-equilibration", pre))
        before = pre
        for replica in range(self.replica + 1):
            length = recipe.replica_spacing_fs if replica else recipe.equilibration_fs
            if length > 0:
                before = self._nvt("equilibration", length, before, replica)
                stages.append(("equilibration", before))
        return stages

    def _nvt(self, name: str, length_fs: float, before: Stage | None, replica: int) -> Stage:
        recipe = self.recipe
        folder = self.work / (f"{name}-r{replica}" if replica else name)
        cheap = name == "pre-equilibration"
        stepper = self._xtb_stepper() if cheap else self._level_stepper()
        thermostat = equilibration_thermostat(recipe, self.body)
        segment_fs = max(recipe.segment_fs, 1000.0) if cheap else recipe.segment_fs
        stride_fs = 10.0 if cheap else recipe.time_step_fs
        if not cheap and recipe.integrator == "learned":
            stride_fs = recipe.store_every_fs
        step_fs = recipe.verlet_step_fs if cheap else recipe.time_step_fs
        plan = StagePlan(
            identity=self._identity(f"{name}-r{replica}"),
            n_steps=round(length_fs / step_fs),
            steps_per_segment=round(segment_fs / step_fs),
            store_stride=round(stride_fs / step_fs),
            seed=self._seed(name, replica),
        )
        learner = None if cheap else self._learner(recipe, stepper, before)
        return Stage(
            folder, plan, self.body, stepper, thermostat, lambda: self._hand_over(before), learner
        )

    def _hand_over(self, before: Stage | None) -> tuple[np.ndarray, np.ndarray]:
        """Positions and velocities a stage starts from: the last ones of the stage before."""
        if before is not None:
            progress = read_progress(before.folder, before.plan.identity)
            assert progress is not None
            return progress.positions, progress.velocities
        positions = self.geometry["positions"]
        rng = self._generator("velocities")
        return positions, thermal_velocities(self.body, positions, self.recipe.temperature_k, rng)

    # --- production ---------------------------------------------------------------------------

    def production(self) -> Stage:
        """The stage whose frames are the dataset."""
        recipe = self.recipe.of_replica(self.replica)
        stepper = self._level_stepper()
        thermostat = make_thermostat(
            recipe.thermostat, self.body, recipe.temperature_k, recipe.thermostat_time_fs
        )
        plan = StagePlan(
            identity=self._identity(f"r{self.replica}"),
            n_steps=round(recipe.length_fs / recipe.time_step_fs),
            steps_per_segment=round(recipe.segment_fs / recipe.time_step_fs),
            store_stride=round(recipe.store_every_fs / recipe.time_step_fs),
            seed=self._seed("run", self.replica),
        )
        preparations = self._preparations()
        learner = self._learner(recipe, stepper, preparations[-1][1] if preparations else None)
        return Stage(
            self.production_folder,
            plan,
            self.body,
            stepper,
            thermostat,
            self._production_start,
            learner,
        )

    def _learner(self, recipe: Recipe, stepper: Stepper, before: Stage | None) -> Learner | None:
        """What teaches the inner potential of a stage at the level that follows `before`."""
        if recipe.integrator != "learned":
            return None
        return Learner(
            stepper,
            self.molecule.atomic_numbers,
            allowed_outer_steps(recipe),
            seed_frames=self._cheap_frames,
            before=lambda: _knowledge(before),
            permutations=partial(feasible_permutations, self.molecule),
        )

    def _cheap_frames(self) -> np.ndarray:
        """(n, n_atoms, 3) A, the pre-equilibration without its first tenth, if it is used."""
        if not has_seeds(self.recipe):
            return np.zeros((0, self.molecule.n_atoms, 3))
        pre = self._preparations()[0][1]
        progress = read_progress(pre.folder, pre.plan.identity)
        assert progress is not None
        positions = read_parts(pre.part_paths(progress))["positions"].astype(np.float64)
        return positions[len(positions) // 10 :]

    def assemble(self, end: str) -> None:
        """Write the shard from the committed parts, then remove them.

        Args:
            end: `complete`, or why the trajectory ends here.
        """
        self.write_shard(self.shard_path, end)
        self._sweep()
        if end == COMPLETE:
            keep_checkpoint(self.production(), self._kept_path)
        # One rename ends the trajectory: a folder half deleted would look like a damaged one.
        os.replace(self.production_folder, self._trash)
        self._sweep()

    @property
    def _kept_path(self) -> Path:
        return kept_checkpoint(self.folder, self.molecule.name, self.replica)

    @property
    def _trash(self) -> Path:
        return self.work / f".r{self.replica}.trash"

    def _sweep(self) -> None:
        shutil.rmtree(self._trash, ignore_errors=True)

    def write_shard(self, path: Path, end: str) -> bool:
        """Write what is committed of the production as a shard; False if that is nothing new."""
        stage = self.production()
        progress = read_progress(stage.folder, stage.plan.identity)
        if progress is None or (end != COMPLETE and self._is_stored(progress)):
            return False
        start = {}
        if self.starts_at_mean_energy:
            _, start = read_arrays(self._start_path)
        assembly.assemble(
            path,
            stage.part_paths(progress),
            molecule=self.molecule,
            recipe=self.recipe,
            replica=self.replica,
            body=self.body,
            geometry=self.geometry,
            start=start,
            cost=progress.cost,
            inner=progress.header.get("inner"),
            end=end,
        )
        return True

    def _is_stored(self, progress: Progress) -> bool:
        """Whether a complete shard, which was to become longer, holds all that is committed."""
        try:
            with Shard(self.shard_path) as shard:
                metadata = shard.metadata
        except Tg80Error:
            return False
        committed_fs = progress.step * self.recipe.time_step_fs
        return metadata.end == COMPLETE and not is_shorter(metadata, committed_fs)

    def _production_start(self) -> tuple[np.ndarray, np.ndarray]:
        """Replica 0 of an NVE run starts at the mean energy, all others from NVT as they are."""
        preparations = self._preparations()
        before = preparations[-1][1] if preparations else None
        if not self.starts_at_mean_energy:
            return self._hand_over(before)
        positions, velocities, facts = mean_energy_start(
            self.molecule,
            self.body,
            self._level_stepper(),
            self._hand_over(before),
            relaxed_guess=self.geometry["positions"],
            nvt=self._nvt_energies(before),
            temperature_k=self.recipe.temperature_k,
            thermostat=equilibration_thermostat(self.recipe, self.body),
            rng=self._generator("run"),
        )
        arrays = {"positions": positions, "velocities": velocities}
        write_arrays(self._start_path, arrays, facts)
        return positions, velocities

    @property
    def starts_at_mean_energy(self) -> bool:
        """Whether this replica is scaled to the mean energy at the temperature."""
        return self.replica == 0 and self.recipe.thermostat == "nve"

    @property
    def _start_path(self) -> Path:
        return self.work / f"start-r{self.replica}.npz"

    def _nvt_energies(self, nvt: Stage | None) -> dict[str, np.ndarray]:
        """Times (fs), potential and kinetic energies (eV) of the NVT run at the level."""
        if nvt is None or self.recipe.equilibration_fs == 0:
            return {}
        progress = read_progress(nvt.folder, nvt.plan.identity)
        assert progress is not None
        return read_parts(nvt.part_paths(progress))

    # --- small parts --------------------------------------------------------------------------

    def _level_stepper(self) -> Stepper:
        return level_stepper(self.recipe, self.molecule, self.body, self.resources)

    def _xtb_stepper(self) -> Stepper:
        return xtb_stepper(self.recipe, self.molecule, self.body)

    def _identity(self, name: str) -> str:
        return f"{self.molecule.name} {name} {self.molecule.inchikey} {self._begun.sha256[:16]}"

    @cached_property
    def _begun(self) -> Recipe:
        """The recipe before the run was made longer, which the checkpoints carry."""
        path = begun_recipe(self.folder)
        begun = load_recipe(path) if path.exists() else self.recipe
        return begun if begun.is_same_but_for_lengths(self.recipe) else self.recipe

    def _seed(self, stream: str, replica: int = 0) -> tuple[int, ...]:
        """Words of the master seed, the compound, the replica and the purpose."""
        digest = hashlib.sha256(self.molecule.inchikey.encode()).digest()
        compound = int.from_bytes(digest[:8], "little")
        return (self.recipe.seed, compound, replica, _STREAMS[stream])

    def _generator(self, stream: str) -> np.random.Generator:
        seed = self._seed(stream, self.replica if stream == "run" else 0)
        return np.random.default_rng(np.random.SeedSequence((*seed, 1)))

    def _advance(self, name: str, stage: Stage) -> StageReport:
        """Do one segment of a stage."""
        before = read_progress(stage.folder, stage.plan.identity)
        after = stage.advance()
        step_fs = stage.step_fs
        worked = after.step - (before.step if before else 0)
        warnings = (*(before.warnings if before else ()), *after.warnings)
        return StageReport(
            name,
            self.replica,
            time_fs=after.step * step_fs,
            length_fs=stage.plan.n_steps * step_fs,
            worked_fs=worked * step_fs,
            warnings=tuple(dict.fromkeys(warnings)),
        )


def _knowledge(before: Stage | None) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """Arrays and header of the checkpoint that a stage at the level ended with."""
    if before is None or before.learner is None:
        return None
    progress = read_progress(before.folder, before.plan.identity)
    assert progress is not None
    return progress.arrays, progress.header


def begun_recipe(folder: Path) -> Path:
    """Where the recipe lies that a run was begun with, if it was made longer since."""
    return folder / WORK / "begun.toml"


def is_shorter(metadata: ShardMetadata, length_fs: float) -> bool:
    """Whether a shard is complete, but of a shorter run."""
    return metadata.end == COMPLETE and metadata.length_fs < length_fs - 1e-6


def _finished(stage: Stage) -> bool:
    progress = read_progress(stage.folder, stage.plan.identity)
    return progress is not None and progress.step >= stage.plan.n_steps
