"""Twins of one shard: reruns from its stored frames, made exactly as the shard was made.

Level of theory, integrator, time step, projections and thermostat are read from the shard's own
recipe. Only the start differs, by what the settings say. Each twin is a stage of dynamics with
parts and checkpoints like any other: it may be killed at any moment, and resumes from its last
checkpoint.
"""

import hashlib
import platform
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from filelock import FileLock
from pydantic import ValidationError

from pipelines.assembly import verified_metadata
from pipelines.dynamics.integrators import Body
from pipelines.dynamics.parts import read_parts, work_folder
from pipelines.dynamics.segments import Progress, Stage, StagePlan, read_progress
from pipelines.dynamics.steppers import level_stepper
from pipelines.dynamics.thermostats import make_thermostat
from pipelines.engines.engine import Resources
from pipelines.recipe import Recipe
from pipelines.twins.starts import perturbed_start, resampled_hydrogens
from tg80.chemistry.molecule import Molecule, molecule_from_smiles
from tg80.errors import CorruptFile, UserError
from tg80.files import file_sha256, make_folder
from tg80.shards.shard import Shard
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

    @property
    def default_length_fs(self) -> float:
        """The horizon of the benchmark's task at the level of the shard."""
        return DEFAULT_LENGTH_FS[self.recipe.resolved_level().method]

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
            if self.work.is_dir() and any(e.name != self.key for e in self.work.iterdir()):
                raise UserError(
                    f"{self.work}: unfinished twins with other settings; choose another --out, or "
                    "remove that folder"
                )
            return False
        try:
            there = read_twins(self.path).metadata
        except CorruptFile:
            if (self.work / self.key).is_dir():  # a kill between the file and its checksum
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
        runs = [Twin(self.source, task).frames() for task in tasks]
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


class Twin:
    """One twin: a stage of dynamics with checkpoints in the output folder.

    Args:
        source: the shard of the task.
        task: which twin.
    """

    def __init__(self, source: TwinSource, task: TwinTask):
        self.source, self.task = source, task
        self.identity = f"{source.stem} twin {task.start}.{task.twin} {task.key}"
        work = work_folder(Path(task.out), source.stem) / task.key
        self.folder = work / f"start-{task.start}-twin-{task.twin}"

    def progress(self) -> Progress | None:
        """Where it stands on disk; None if nothing is committed yet."""
        return read_progress(self.folder, self.identity)

    def frames(self) -> dict[str, np.ndarray]:
        """What is kept of it, once it is finished."""
        progress = self.progress()
        assert progress is not None
        return read_parts([(self.folder / name, digest) for name, digest in progress.parts])

    def stage(self, resources: Resources | None = None) -> Stage:
        """Its dynamics, by the integrator of the shard's recipe."""
        recipe, settings, body = self.source.recipe, self.task.settings, self.source.body
        stepper = level_stepper(recipe, self.source.molecule, body, resources)
        thermostat = make_thermostat(
            recipe.thermostat, body, recipe.temperature_k, recipe.thermostat_time_fs
        )
        stride = round(settings.store_every_fs / stepper.step_fs)
        plan = StagePlan(
            identity=self.identity,
            n_steps=round(settings.length_fs / stepper.step_fs),
            steps_per_segment=max(1, round(recipe.segment_fs / settings.store_every_fs)) * stride,
            store_stride=stride,
            seed=self._seed("noise", self.task.twin if settings.noise else 0),
        )
        return Stage(self.folder, plan, body, stepper, thermostat, self._start)

    def _start(self) -> tuple[np.ndarray, np.ndarray]:
        source, settings = self.source, self.task.settings
        positions, velocities = source.frame(self.task.frame)
        moved, speeds = perturbed_start(
            positions,
            velocities,
            source.body,
            settings.perturbation_angstrom,
            self._generator("displacement"),
        )
        if settings.resample_hydrogens:
            speeds = resampled_hydrogens(
                moved,
                speeds,
                source.atomic_numbers,
                source.body.masses,
                source.metadata.temperature_k,
                self._generator("hydrogens"),
            )
        return moved, speeds

    def _seed(self, stream: str, twin: int) -> tuple[int, ...]:
        """Words of the master seed, compound, replica, start, twin and purpose."""
        facts, task = self.source.metadata, self.task
        digest = hashlib.sha256(facts.inchikey.encode()).digest()
        compound = int.from_bytes(digest[:8], "little")
        return (
            task.settings.seed, compound, facts.replica, task.frame, twin, _STREAMS[stream],
        )  # fmt: skip

    def _generator(self, stream: str) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self._seed(stream, self.task.twin)))


def do_segment(task: TwinTask, resources: Resources) -> tuple[float, float]:
    """What a worker does: the next segment of one twin, found on disk; safe to repeat.

    Args:
        task: which twin.
        resources: what an evaluation may use.

    Returns:
        How far the twin is now and what was added, fs.

    Raises:
        RunFailed: a computation failed.
        CorruptFile: a committed file is damaged; nothing is overwritten.
    """
    twin = Twin(TwinSource(Path(task.shard)), task)
    stage = twin.stage(resources)
    make_folder(stage.folder)
    with FileLock(stage.folder / ".lock"):
        before = twin.progress()
        after = stage.advance()
    step_fs = stage.stepper.step_fs
    return after.step * step_fs, (after.step - (before.step if before else 0)) * step_fs


def _check(source: TwinSource, settings: TwinSettings) -> None:
    if settings.noise and source.recipe.thermostat == "nve":
        raise UserError(f"{source.path}: --noise, but this trajectory is NVE and has no thermostat")
    for name, value, of in (
        ("--store-every-fs", settings.store_every_fs, source.recipe.first_step_fs),
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
