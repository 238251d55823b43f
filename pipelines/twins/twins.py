"""Twins of one shard: reruns from its stored frames, made exactly as the shard was made.

Level of theory, integrator, time step, projections and thermostat are read from the shard's own
recipe. Only the start differs, by what the settings say. Each twin is a stage of dynamics with
parts and checkpoints like any other, so it can be killed at any moment and goes on where it was.
"""

import hashlib
import os
import platform
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from filelock import FileLock
from pydantic import ValidationError

from pipelines.assembly import verified_metadata
from pipelines.dynamics.integrators import Body, Stepper
from pipelines.dynamics.parts import read_parts, work_folder
from pipelines.dynamics.segments import Progress, Stage, StagePlan, read_progress
from pipelines.dynamics.steppers import level_stepper
from pipelines.dynamics.thermostats import make_thermostat, thermal_velocities
from pipelines.engines.engine import Resources
from pipelines.recipe import Recipe
from tg80.chemistry.mechanics import is_linear, remove_rigid_motion
from tg80.chemistry.molecule import Molecule, molecule_from_smiles
from tg80.errors import CorruptFile, UserError
from tg80.files import file_sha256, make_folder
from tg80.shards.fields import FIELDS
from tg80.shards.shard import Shard, stored_resolution
from tg80.shards.twins import SUFFIX, TwinMetadata, Twins, TwinSettings, read_twins, write_twins
from tg80.shards.versions import package_versions
from tg80.splits.split import time_blocks
from tg80.windows.starts import scored_starts
from tg80.windows.trajectories import read_trajectory

# The block of a trajectory whose windows the benchmark scores for molecules it has trained on.
STARTS_IN = "test_time"
# The horizon of the benchmark's task at a level, by the method of the level.
DEFAULT_LENGTH_FS = {"xtb": 960.0, "rks": 3000.0}
# Words that keep the random streams of one twin apart.
_STREAMS = {"displacement": 10, "hydrogens": 11, "noise": 12}


@dataclass(frozen=True)
class TwinTask:
    """One twin of one start: what a worker is told.

    Attributes:
        out: output folder. shard: path of the shard. settings: of the whole run.
        key: names the settings and the shard's content, so that nothing else is continued.
        start: number of the start; frame: its frame in the shard. twin: number of the twin.
    """

    out: str
    shard: str
    settings: TwinSettings
    key: str
    start: int
    frame: int
    twin: int


class TwinSource:
    """A shard as the source of twins.

    Args:
        path: the shard.

    Raises:
        UserError: it does not hold the recipe it was made by.
        CorruptFile: it is damaged.
    """

    def __init__(self, path: Path):
        self.path = path
        with Shard(path) as shard:
            self.metadata = shard.metadata
            self.atomic_numbers = shard.atomic_numbers
            masses = shard.masses
        self.recipe = self._recipe()
        self.body = Body(masses, self.metadata.degrees_of_freedom, self.metadata.linear)

    @property
    def stem(self) -> str:
        """`NAME-rK`."""
        return f"{self.metadata.name}-r{self.metadata.replica}"

    @cached_property
    def molecule(self) -> Molecule:
        """The compound, with its atoms in the order of the shard."""
        molecule = molecule_from_smiles(self.metadata.smiles, self.metadata.name)
        if tuple(self.atomic_numbers) != molecule.atomic_numbers:
            raise UserError(
                f"{self.path}: its atoms are in another order than this version gives them; make "
                "the twins with the version that made the shard"
            )
        return molecule

    def frame(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions (n_atoms, 3) float32 A and velocities float32 A/fs of one stored frame."""
        with Shard(self.path) as shard:
            positions = shard.read("positions", number, number + 1)[0]
            return positions, shard.read("velocities", number, number + 1)[0]

    def starts(self, settings: TwinSettings) -> np.ndarray:
        """Frames that twins start from, spread over the scored windows of the test_time block.

        These are the starts that `atom-bench` scores with the length of the twins as horizon; of
        more than `n_starts`, evenly many are left out.

        Raises:
            UserError: the block is shorter than the twins.
        """
        whole = read_trajectory(self.path)
        block = whole.block(*time_blocks(whole.length_fs)[STARTS_IN])
        scored = block.first_frame + scored_starts(block, settings.length_fs, STARTS_IN)
        count = min(settings.n_starts, len(scored))
        if count == 1:
            return scored[:1]
        return scored[np.arange(count) * (len(scored) - 1) // (count - 1)]

    def _recipe(self) -> Recipe:
        facts, advice = self.metadata, "make it again with `tg80 generate`"
        if not facts.recipe:
            raise UserError(f"{self.path}: does not hold the recipe it was made by; {advice}")
        try:
            recipe = Recipe.model_validate(facts.recipe)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise UserError(
                f"{self.path}: this version can't follow its recipe ({reason}); {advice}"
            ) from None
        if recipe.resolved_level().name != facts.level:
            raise UserError(f"{self.path}: its level {facts.level} is unknown here; {advice}")
        return recipe


class TwinRun:
    """All twins of one shard, from its starts to the finished file.

    Args:
        out: output folder.
        source: the shard.
        settings: what twins to make.

    Raises:
        UserError: settings that don't fit the shard, or other twins are in the output folder.
        CorruptFile: the shard or the finished twins are damaged.
    """

    def __init__(self, out: Path, source: TwinSource, settings: TwinSettings):
        self.out, self.source, self.settings = out, source, settings
        _check(source, settings)
        verified_metadata(source.path)
        self.source_sha256 = file_sha256(source.path)
        words = f"{settings.sha256()} {self.source_sha256}"
        self.key = hashlib.sha256(words.encode()).hexdigest()[:16]
        self.path = out / f"{source.stem}{SUFFIX}"
        self.work = work_folder(out, source.stem)

    def is_done(self) -> bool:
        """Whether the file is there, whole, and holds these twins.

        Raises:
            UserError: twins with other settings, or of another shard, are there.
        """
        if not self.path.exists():
            self._refuse_other_work()
            return False
        try:
            there = read_twins(self.path).metadata
        except CorruptFile:
            if self._work_here.is_dir():  # a kill between the file and its checksum
                return False
            raise
        if there.settings != self.settings or there.source_sha256 != self.source_sha256:
            raise UserError(
                f"{self.path}: holds other twins ({_difference(there.settings, self.settings)}); "
                "choose another --out"
            )
        shutil.rmtree(self.work, ignore_errors=True)
        return True

    def tasks(self) -> list[TwinTask]:
        """One task a twin, start by start."""
        frames = self.source.starts(self.settings)
        return [
            TwinTask(
                str(self.out), str(self.source.path), self.settings, self.key, i, int(frame), twin
            )
            for i, frame in enumerate(frames)
            for twin in range(self.settings.n_twins)
        ]

    def assemble(self, tasks: list[TwinTask]) -> Twins:
        """Write the file from the finished twins and remove their parts."""
        runs = [_read_frames(self.source, task) for task in tasks]
        shape = (len(tasks) // self.settings.n_twins, self.settings.n_twins)

        def stack(name: str, frames: slice | int = slice(None)) -> np.ndarray:
            values = np.stack([run[name][frames] for run in runs])
            return values.reshape(*shape, *values.shape[1:])

        twins = Twins(
            metadata=self._metadata(),
            positions=stack("positions"),
            times_fs=runs[0]["time"],
            start_frames=np.array([task.frame for task in tasks[:: shape[1]]]),
            start_velocities=stack("velocities", 0),
            start_energies=stack("conserved_quantity", 0),
            atomic_numbers=np.asarray(self.source.atomic_numbers),
        )
        write_twins(self.path, twins)
        shutil.rmtree(self.work, ignore_errors=True)
        return twins

    @property
    def _work_here(self) -> Path:
        return self.work / self.key

    def _refuse_other_work(self) -> None:
        if self.work.is_dir() and any(e.name != self.key for e in self.work.iterdir()):
            raise UserError(
                f"{self.work}: unfinished twins with other settings; choose another --out, or "
                "remove that folder"
            )

    def _metadata(self) -> TwinMetadata:
        facts = self.source.metadata
        names = ("name", "replica", "mapped_smiles", "inchikey", "charge", "level", "recipe")
        names += ("level_settings", "integrator", "ensemble", "temperature_k", "time_step_fs")
        return TwinMetadata(
            **{name: getattr(facts, name) for name in names},
            source=self.source.path.name,
            source_sha256=self.source_sha256,
            settings=self.settings,
            starts_in=STARTS_IN,
            frame_fs=facts.store_every_fs,
            versions=package_versions(),
            platform={"machine": platform.machine(), "system": platform.system()},
        )


def twin_progress(source: TwinSource, task: TwinTask) -> Progress | None:
    """Where a twin stands on disk; None if nothing is committed yet."""
    return read_progress(_folder(source, task), _identity(source, task))


def _folder(source: TwinSource, task: TwinTask) -> Path:
    name = f"start-{task.start}-twin-{task.twin}"
    return work_folder(Path(task.out), source.stem) / task.key / name


def _identity(source: TwinSource, task: TwinTask) -> str:
    return f"{source.stem} twin {task.start}.{task.twin} {task.key}"


def twin_stage(
    source: TwinSource, task: TwinTask, resources: Resources | None = None, stepper=None
) -> Stage:
    """The dynamics of one twin, with checkpoints in the output folder.

    Args:
        source: the shard of the task.
        task: which twin.
        resources: what an evaluation may use.
        stepper: None for the integrator of the shard's recipe.
    """
    recipe, settings, body = source.recipe, task.settings, source.body
    stepper = stepper or level_stepper(recipe, source.molecule, body, resources)
    thermostat = make_thermostat(
        recipe.thermostat, body, recipe.temperature_k, recipe.thermostat_time_fs
    )
    stride = round(settings.store_every_fs / stepper.step_fs)
    segment = max(1, round(recipe.segment_fs / settings.store_every_fs)) * stride
    noise_twin = task.twin if settings.noise else 0
    plan = StagePlan(
        identity=_identity(source, task),
        n_steps=round(settings.length_fs / stepper.step_fs),
        steps_per_segment=segment,
        store_stride=stride,
        seed=_seed(source, task, "noise", noise_twin),
    )
    return Stage(
        _folder(source, task),
        plan,
        body,
        stepper,
        thermostat,
        lambda: _start(source, task, stepper),
    )


def do_segment(task: TwinTask, resources: Resources) -> tuple[float, float]:
    """What a worker does: the next segment of one twin, found on disk; safe to repeat.

    Returns:
        How far the twin is now and what was added, fs.

    Raises:
        RunFailed: a computation failed.
        CorruptFile: a committed file is damaged; nothing is overwritten.
    """
    stage = twin_stage(TwinSource(Path(task.shard)), task, resources)
    make_folder(stage.folder)
    with FileLock(stage.folder / ".lock"):
        before = read_progress(stage.folder, stage.plan.identity)
        after = stage.advance()
    step_fs = stage.stepper.step_fs
    return after.step * step_fs, (after.step - (before.step if before else 0)) * step_fs


def _start(source: TwinSource, task: TwinTask, stepper: Stepper) -> tuple[np.ndarray, np.ndarray]:
    positions, velocities = source.frame(task.frame)
    rng = _generator(source, task, "displacement")
    sigma = task.settings.perturbation_angstrom
    moved, speeds = perturbed_start(positions, velocities, stepper.body, sigma, rng)
    if task.settings.resample_hydrogens:
        speeds = resampled_hydrogens(
            moved,
            speeds,
            source.atomic_numbers,
            stepper.body.masses,
            source.metadata.temperature_k,
            _generator(source, task, "hydrogens"),
        )
    return moved, speeds


def _seed(source: TwinSource, task: TwinTask, stream: str, twin: int) -> tuple[int, ...]:
    """Words of the master seed, the compound, the replica, the start, the twin and the purpose."""
    digest = hashlib.sha256(source.metadata.inchikey.encode()).digest()
    compound = int.from_bytes(digest[:8], "little")
    words = (compound, source.metadata.replica, task.frame, twin, _STREAMS[stream])
    return (task.settings.seed, *words)


def _generator(source: TwinSource, task: TwinTask, stream: str) -> np.random.Generator:
    words = _seed(source, task, stream, task.twin)
    return np.random.default_rng(np.random.SeedSequence(words))


def _read_frames(source: TwinSource, task: TwinTask) -> dict[str, np.ndarray]:
    """What is kept of a finished twin."""
    progress = twin_progress(source, task)
    assert progress is not None
    folder = _folder(source, task)
    return read_parts([(folder / name, digest) for name, digest in progress.parts])


def _check(source: TwinSource, settings: TwinSettings) -> None:
    if settings.noise and source.recipe.thermostat == "nve":
        raise UserError(f"{source.path}: --noise, but this trajectory is NVE and has no thermostat")
    for name, value, of in (
        ("--store-every-fs", settings.store_every_fs, source.recipe.time_step_fs),
        ("--length-fs", settings.length_fs, settings.store_every_fs),
    ):
        if abs(value / of - round(value / of)) > 1e-6 or round(value / of) < 1:
            raise UserError(f"{source.path}: {name} {value:g} is not a multiple of {of:g} fs")


def _difference(there: TwinSettings, ours: TwinSettings) -> str:
    pairs = [
        f"{name} {value} there, {getattr(ours, name)} now"
        for name, value in there
        if value != getattr(ours, name)
    ]
    return "; ".join(pairs) or "of another shard"


def default_length_fs(recipe: Recipe) -> float:
    """The horizon of the benchmark's task at the level of the recipe, fs."""
    return DEFAULT_LENGTH_FS[recipe.resolved_level().method]


def remove_empty_work(out: Path) -> None:
    """Remove the work folder once nothing unfinished is in it."""
    work = work_folder(out, "")
    if work.is_dir() and not os.listdir(work):
        work.rmdir()


def perturbed_start(
    positions: np.ndarray,
    velocities: np.ndarray,
    body: Body,
    sigma: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """A start state near the stored one.

    Positions move by independent Gaussian displacements without net translation and rotation; the
    velocities stay, and so the total energy is known no better than the positions are. With
    sigma = 0 both move within the rounding of what is stored.

    Args:
        positions: (n_atoms, 3) float32 A, as stored.
        velocities: (n_atoms, 3) float32 A/fs, as stored.
        body: masses and degrees of freedom.
        sigma: standard deviation of each coordinate's displacement, A.
        rng: generator.

    Returns:
        positions and velocities, float64.
    """
    if sigma == 0:
        shape = positions.shape
        lost = [
            stored_resolution(FIELDS[name], values) * rng.uniform(-0.5, 0.5, shape)
            for name, values in (("positions", positions), ("velocities", velocities))
        ]
        return positions + lost[0], velocities + lost[1]
    start = positions.astype(np.float64)
    shift = rng.normal(scale=sigma, size=start.shape)
    shift = remove_rigid_motion(body.masses, start, shift, linear=body.linear)
    return start + shift, velocities.astype(np.float64)


def resampled_hydrogens(
    positions: np.ndarray,
    velocities: np.ndarray,
    atomic_numbers: np.ndarray,
    masses: np.ndarray,
    temperature_k: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Velocities (n_atoms, 3) A/fs with those of the hydrogens drawn anew.

    The heavy atoms keep theirs, and total linear and angular momentum stay what they are: the
    hydrogens' velocities are Maxwell-Boltzmann under that condition. A single hydrogen is thereby
    fixed and keeps its own.
    """
    hydrogen = np.asarray(atomic_numbers) == 1
    if hydrogen.sum() < 2:
        return velocities.copy()
    mass, place = masses[hydrogen], positions[hydrogen]
    part = Body(mass, 0, linear=is_linear(mass, place))
    thermal = thermal_velocities(part, place, temperature_k, rng)
    own = velocities[hydrogen]
    internal = remove_rigid_motion(mass, place, own, linear=part.linear)
    drawn = velocities.copy()
    # Own rigid motion of the hydrogens, which the momenta fix, and thermal internal motion.
    drawn[hydrogen] = own - internal + thermal
    return drawn
