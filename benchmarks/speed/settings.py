"""What each command of `atom-bench speed` is asked for.

A command is one class here: its docstring is the help, and a field with a description is an option.
What decides no result is excluded from the settings that are written beside the results.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    model_validator,
)

from tg80.errors import UserError
from tg80.theory import get_level
from tg80.untrusted.limits import MOST_SEED, MOST_THREADS, BoundedModel

Preset = Literal["mini", "public", "paper"]
Device = Literal["cpu", "cuda"]
Integrals = Literal["memory", "every-cycle"]

# The reference's positions are kept this long before each mark: an outer step that doesn't divide
# the mark is compared at its last step before it.
KEPT_FS = 5.0


def _parts(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _ladder() -> list[str]:
    # It takes a second to import, and --help needs no steps.
    from pipelines.dynamics.learner import OUTER_STEPS

    return [f"{step.fs:g}" for step in OUTER_STEPS[1:]]


# Lists may be texts with commas.
Listed = BeforeValidator(_parts)
Counts = Annotated[tuple[PositiveInt, ...], Listed, Field(min_length=1)]
Sizes = tuple[Annotated[float, Field(gt=0, lt=1e6)], ...]
Level = Annotated[
    str, AfterValidator(lambda name: get_level(name).name), Field(description="Level of theory.")
]
Molecules = Annotated[
    str,
    Field(exclude=True, description="Names of TG80 compounds or SMILES, separated by commas."),
]
Seed = Annotated[int, Field(ge=0, le=MOST_SEED, description="Seed of the starts.")]
Threads = Annotated[int, Field(ge=1, le=MOST_THREADS, description="CPU threads.")]
Labels = Annotated[
    int, Field(ge=1, description="Labels, at least, that `learned` is taught before it is timed.")
]
Equilibration = Annotated[
    float, Field(ge=0, description="Length of the GFN2-xTB equilibration, fs.")
]


def option(default: Any, text: str, **constraints: Any) -> Any:
    """A field that is an option, with its help."""
    return Field(default, description=text, **constraints)


class Settings(BoundedModel):
    """Settings of a command."""

    model_config = ConfigDict(validate_default=True)

    seed: Seed = 0


class DynamicsSettings(Settings):
    """Settings of a command that runs dynamics."""

    molecules: Molecules = "ethanol,naphthalene"
    level: Level = "pbe-def2svp"


class StockSettings(DynamicsSettings):
    """Settings of a command that runs stock PySCF."""

    @model_validator(mode="after")
    def _stock_has_the_level(self) -> StockSettings:
        if get_level(self.level).method != "rks":
            raise UserError(
                f"--level {self.level}: stock PySCF has no such method; choose a PBE level"
            )
        return self


class AimdSettings(StockSettings):
    """Time stock PySCF and our engine alternately along one 300 K trajectory, and compare forces.

    Example: atom-bench speed aimd --molecules ethanol,benzene --threads 1 --json
    """

    molecules: Molecules = "ethanol,benzene,uracil"
    threads: Threads = 1
    step_fs: float = option(0.5, "Velocity Verlet step of both programs, fs.", gt=0, le=2)
    steps: int = option(6, "Timed steps per segment.", ge=1)
    repeats: int = option(2, "Segments of the trajectory.", ge=1)
    warm_up: int = option(
        12, "Untimed steps of our engine before each segment, to fill its history.", ge=1
    )
    outer_fs: Annotated[Sizes, Listed] = option(
        "1.0", "Also time multiple time stepping with these outer steps, fs; '' for none."
    )
    learned_fs: Annotated[
        Sizes, Listed, BeforeValidator(lambda value: _ladder() if value == "ladder" else value)
    ] = option(
        "ladder",
        "Also time integrator `learned` with these outer steps, fs; all that it takes beyond its "
        "first by default; '' for none.",
    )
    labels: Labels = 150
    inner_fs: float = Field(0.25, gt=0)
    checks: int = option(
        3, "Geometries at which forces are compared with the tightly converged level.", ge=0
    )
    references: int = option(1, "Number of these that are also compared with exact J.", ge=0)
    equilibration_fs: Equilibration = 500.0
    stock_integrals: Integrals = option(
        "every-cycle",
        "RI-J integrals of stock PySCF: every-cycle (its default) or memory (faster).",
    )


class ScfSettings(StockSettings):
    """Time self-consistency on two grids, on one and in stock PySCF, and compare forces.

    Example: atom-bench speed scf --molecules ethanol --spacings-fs 1,4 --json
    """

    molecules: Molecules = "ethanol,benzene,uracil"
    spacings_fs: Annotated[Sizes, Listed, Field(min_length=1)] = option(
        "1,2,4", "Distances of the geometries, fs."
    )
    warm_up: int = option(14, "Untimed geometries before the timed ones.", ge=1)
    geometries: int = option(8, "Timed geometries of each distance.", ge=1)
    stock: int = option(2, "Number of these that stock PySCF evaluates as well.", ge=1)
    checks: int = option(
        4, "Number of these at which forces are compared with the tightly converged level.", ge=1
    )


class OuterSettings(Settings):
    """Find how far the outer step of integrator learned may go, by the drift of the energy.

    Example: atom-bench speed outer --molecules formaldehyde --outer-fs 2,3 --json
    """

    data: str = option("mini-dft", "Data set with the forces that the stand-in is fitted to.")
    molecules: str = Field(
        "", exclude=True, description="Names in the data set, separated by commas; all by default."
    )
    outer_fs: Annotated[Sizes, Listed, Field(min_length=1)] = option("2,3,4", "Outer steps, fs.")
    labels: int = option(100, "Frames that the inner potential is fitted to.", ge=10)
    length_fs: float = option(5000.0, "Length of each run, fs.", ge=400)
    inner_fs: float = Field(0.25, gt=0)
    seed: Seed = 0


class GpuSettings(DynamicsSettings):
    """Count the steps of parallel trajectories on one GPU, and on the cores of the CPU.

    Example: atom-bench speed gpu --molecules ethanol --trajectories 1,8 --json
    """

    trajectories: Counts = option(
        "1,4,8,16", "Numbers of parallel trajectories; on the CPU at most one per core."
    )
    devices: Annotated[tuple[Device, ...], Listed] = option("cpu,cuda", "cpu, cuda, or both.")
    seconds: float = option(30.0, "Wall time of each measurement, s.", gt=0)
    step_fs: float = Field(0.5, gt=0, le=2)
    warm_up: int = Field(12, ge=1)
    equilibration_fs: float = Field(500.0, ge=0)


class MemorySettings(DynamicsSettings):
    """Measure the peak memory of a worker that runs real dynamics.

    Example: atom-bench speed memory --molecules naphthalene --memory-gb 2,1000
    """

    memory_gb: Annotated[Sizes, Listed, Field(min_length=1)] = option(
        "2,1000", "Memory budgets, GB; each in its own process."
    )
    steps: int = option(15, "Outer steps of dynamics.", ge=1)
    outer_fs: float = Field(1.0, gt=0)
    inner_fs: float = Field(0.25, gt=0)


class ThroughputSettings(DynamicsSettings):
    """Compare two single-thread workers with one, as plain processes and with Dask.

    Example: atom-bench speed throughput --molecules ethanol --repeats 5 --json
    """

    molecules: Molecules = "ethanol"
    steps: int = option(40, "Outer steps per task.", ge=1)
    repeats: int = option(5, "Repeats.", ge=1)
    warm_up: int = Field(12, ge=0)
    outer_fs: float = Field(1.0, gt=0)
    inner_fs: float = Field(0.25, gt=0)


@dataclass(frozen=True)
class Integrator:
    """`verlet`, or `mts` or `learned` with the inner step of the settings; (outer) step in fs."""

    kind: str
    step_fs: float

    @property
    def name(self) -> str:
        return f"{self.kind} {self.step_fs:g}"


def _integrator(value: Any) -> Any:
    """The integrator of a text such as `mts:1.0`."""
    if not isinstance(value, str):
        return value
    kind, _, step = value.partition(":")
    try:
        step_fs = float(step)
    except ValueError:
        step_fs = 0.0
    if kind not in ("verlet", "mts", "learned") or not 0 < step_fs <= KEPT_FS:
        wanted = f"write verlet:0.5, mts:1.0, learned:2.0 or learned, steps up to {KEPT_FS:g} fs"
        raise ValueError(f"{value!r} is not an integrator; {wanted}")
    return Integrator(kind, step_fs)


def _integrators(value: Any) -> Any:
    parts = _parts(value)
    if "learned" not in parts:
        return parts
    steps = [f"learned:{step}" for step in _ladder()]
    return [one for part in parts for one in (steps if part == "learned" else [part])]


class MtsSettings(DynamicsSettings):
    """Compare integrators: deviation from an accurate trajectory, energy, cost per fs.

    Example: atom-bench speed mts --molecules methanol --out mts.json --aimd aimd.json
    """

    molecules: Molecules = "methanol,ethanol,ethanethiol,formaldehyde"
    integrators: Annotated[
        tuple[Annotated[Integrator, BeforeValidator(_integrator)], ...],
        BeforeValidator(_integrators),
        Field(min_length=1),
    ] = option(
        "verlet:0.5,mts:1.0,learned",
        "verlet:STEP, mts:OUTER or learned:OUTER, fs, separated by commas; learned alone: all "
        "outer steps that it takes beyond its first.",
        exclude=True,
    )
    labels: Labels = 200
    threads: Threads = 1
    inner_fs: float = option(
        0.25, "Inner step, and Verlet step of the reference trajectory, fs.", gt=0, le=1
    )
    length_fs: float = option(100.0, "Length of the comparison, fs.", ge=5)
    drift_fs: float = option(
        0.0, "Length of the trajectories that measure the drift, fs; 0: none.", ge=0, exclude=True
    )
    equilibration_fs: Equilibration = 500.0
    aimd: Path | None = option(
        None, "JSON file of `speed aimd`, for the ratio to stock PySCF.", exclude=True
    )

    @model_validator(mode="after")
    def _inner_step_divides(self) -> MtsSettings:
        for one in self.integrators:
            steps = one.step_fs / self.inner_fs
            if abs(steps - round(steps)) > 1e-9:
                text = f"{one.step_fs:g} fs is not a multiple of --inner-fs {self.inner_fs:g}"
                raise UserError(f"--integrators: {one.name}: {text}")
        return self

    @property
    def marks_fs(self) -> tuple[float, ...]:
        """Times at which positions are compared, fs."""
        marks = tuple(mark for mark in (20.0, 50.0, 100.0) if mark <= self.length_fs)
        return marks or (self.length_fs,)


class LoaderSettings(Settings):
    """Measure the windows per second that the loader delivers and that the training of ATOM uses,
    alternately.

    Example: atom-bench speed loader --repeats 9 --markdown
    """

    data: str = option("mini-xtb", "Shipped set or folder of shards.")
    fold: int = Field(2, ge=1)
    presets: Annotated[tuple[Preset, ...], Listed] = option(
        "mini,public", "Sizes of ATOM to train, separated by commas."
    )
    workers: Annotated[tuple[int, ...], Listed] = option("0,2", "Numbers of loader workers.")
    batch_size: int = option(32, "Windows per batch.", ge=1)
    n_lags: int = Field(8, ge=1)
    horizon_fs: float = Field(960.0, gt=0)
    batches: int = option(200, "Batches per repeat.", ge=1)
    steps: int = option(4, "Training steps per repeat.", ge=1)
    repeats: int = option(9, "Repeats.", ge=1)
    threads: Threads = 1
    cores: int = option(
        2, "Number of cores to which the training is extrapolated (perfect scaling).", ge=1
    )


def _three_lists(value: Any) -> Any:
    lists = tuple(value.split(";")) if isinstance(value, str) else value
    if len(lists) != 3:
        raise ValueError(f"give three lists such as 1,4;10,50;1,8, not {value!r}")
    return lists


class ModelSettings(Settings):
    """Time the forward and training steps of ATOM, and plain loops of the same equations.

    Example: atom-bench speed model --scaling --out model.json --markdown
    """

    preset: Preset = option("public", "Size of ATOM: mini, public or paper.")
    modes: Annotated[tuple[Literal["joint", "start"], ...], Listed] = option(
        "joint,start", "Time attention: joint, start, or both separated by a comma."
    )
    atoms: Counts = option("12,20", "Numbers of atoms N.")
    batch_size: int = option(32, "Samples per batch B.", ge=1)
    lags: int = option(8, "Lags per sample P.", ge=1)
    repeats: int = option(5, "Repeats of each measurement.", ge=1)
    threads: Threads = 1
    device: Device = option("cpu", "cpu or cuda.")
    plain: bool = option(True, "Also time the plain loops.")
    bf16: bool = option(False, "Add rows with bf16 autocast.")
    compile: bool = option(False, "Add rows with torch.compile.")
    scaling: bool = option(False, "Also vary B, N and P one at a time.", exclude=True)
    scaling_sizes: Annotated[tuple[Counts, Counts, Counts], BeforeValidator(_three_lists)] = option(
        "1,4,16,32,64;10,50,100,200,400;1,4,16,32,64",
        "Values of B, N and P, as three lists.",
        exclude=True,
    )
    memory_gb: float = option(
        2.0, "Skip sizes that may need more memory than this, GB.", gt=0, exclude=True
    )

    @property
    def clock(self) -> Literal["wall", "cpu"]:
        """What ratios and rates are of: processor time hardly feels what else the machine does."""
        return "wall" if self.device == "cuda" else "cpu"


COMMANDS: dict[str, type[Settings]] = {
    "aimd": AimdSettings,
    "scf": ScfSettings,
    "gpu": GpuSettings,
    "memory": MemorySettings,
    "throughput": ThroughputSettings,
    "mts": MtsSettings,
    "outer": OuterSettings,
    "loader": LoaderSettings,
    "model": ModelSettings,
}
"""By the name of the command, which is also that of the module that measures."""
