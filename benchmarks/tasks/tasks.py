"""What is predicted from what, on which split. A task that was published never changes."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tg80.errors import UserError
from tg80.exchange.md17_sets import PUBLIC_SETS
from tg80.windows.starts import MAX_STARTS

# Of the single-task protocol on public sets.
HORIZON_FRAMES = 3000
N_LAGS = 8
N_STARTS = {"train": 500, "val_time": 2000, "test_time": 2000}


class Track(StrEnum):
    """What a model sees and learns from, and what is scored. Tracks are ranked apart.

    Attributes:
        CANONICAL: all atoms are seen, heavy ones are scored.
        HEAVY_INPUT: heavy atoms alone are seen.
        ALL_ATOM: all atoms are scored.
        EXTRA_DATA: canonical, but trained on further compounds as well.
    """

    CANONICAL = "canonical"
    HEAVY_INPUT = "heavy-input"
    ALL_ATOM = "all-atom"
    EXTRA_DATA = "extra-data"


class Kind(StrEnum):
    """How a task's parts are made of its data.

    Attributes:
        SPLIT: the parts of one fold.
        SINGLE: the time blocks of one molecule.
        ZERO_SHOT: the fold that holds one molecule out of distribution, scored on that alone.
        PUBLIC: windows of one molecule of a public set.
    """

    SPLIT = "split"
    SINGLE = "single"
    ZERO_SHOT = "zero-shot"
    PUBLIC = "public"


class ChosenOn(StrEnum):
    """Windows on which the reference of skill is chosen.

    Attributes:
        SCORED: those that are scored: the best of each molecule and lag.
        VALIDATION: those of validation, `val_time` for molecules of the training set and `val` for
            others: one reference a part and lag.
    """

    SCORED = "scored"
    VALIDATION = "validation"


class TaskSpec(BaseModel):
    """One frozen task.

    Attributes:
        id: name of the task; with its version it never means anything else.
        version: of the task.
        manifest_sha256: the data it is defined on, None where any data at `level` will do.
        split: frozen split whose fold is run.
        level: level of theory of the trajectories.
        inputs: atoms given to the model.
        score: atoms that are scored.
        lags_fs: the P lags of S2T and S2S; the last is the horizon.
        curve_lags_fs: further lags of the error curve, predicted in a call of their own.
        starts: most starts of a molecule and part.
        multi_task: training windows reach to the end of the train block, not to the task's horizon.
        molecule: the one molecule that is scored, if there is one. Fine-tuning, single and public
            tasks also learn from it.
        validation_lags_fs: lags of early stopping, if not `lags_fs`; shorter ones have more starts.
        description: one line for lists.
        kind: how the parts are made.
        as_published: with the faults of published runs, see `benchmarks.tasks.public`.
        train_windows: number of windows that all training is from, None for the train blocks.
        dataset: published set that it is defined on, None where the task's name says it.
        reference: windows on which the reference of skill is chosen.
        complete: every molecule of the fold must be in the data.
        extra_data: models learn from further compounds as well.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    id: str
    version: int = 1
    manifest_sha256: str | None = None
    split: str = "tg80-v1"
    level: str
    inputs: Literal["all", "heavy"] = "all"
    score: Literal["heavy", "all"] = "heavy"
    lags_fs: tuple[float, ...]
    curve_lags_fs: tuple[float, ...] = ()
    starts: int = MAX_STARTS
    multi_task: bool = False
    molecule: str | None = None
    validation_lags_fs: tuple[float, ...] | None = None
    description: str
    # Records call it `protocol`.
    kind: Kind = Field(
        default=Kind.SPLIT, validation_alias="protocol", serialization_alias="protocol"
    )
    as_published: bool = False
    train_windows: int | None = None
    dataset: str | None = None
    reference: ChosenOn = ChosenOn.SCORED
    complete: bool = False
    extra_data: bool = False

    def identity(self) -> dict[str, Any]:
        """All that tells this task from others, for records and keys of runs.

        A field that tasks gained later stands there only where it says something, so that a run
        keeps its key.
        """
        full = self.model_dump(mode="json", by_alias=True)
        later = {
            "protocol": Kind.SPLIT, "as_published": False, "train_windows": None, "dataset": None,
            "reference": ChosenOn.SCORED, "complete": False, "extra_data": False,
        }  # fmt: skip
        return {name: value for name, value in full.items() if later.get(name, ...) != value}

    @property
    def has_folds(self) -> bool:
        """Whether a run is one of a fold of a split."""
        return self.kind in (Kind.SPLIT, Kind.ZERO_SHOT)

    @property
    def horizon_fs(self) -> float:
        """The longest scored lag."""
        return self.lags_fs[-1]

    @property
    def track(self) -> Track:
        """The track that `extra_data`, `inputs` and `score` make."""
        if self.extra_data:
            return Track.EXTRA_DATA
        if self.inputs == "heavy":
            return Track.HEAVY_INPUT
        return Track.CANONICAL if self.score == "heavy" else Track.ALL_ATOM

    def on_track(self, track: str) -> TaskSpec:
        """This task on another track.

        Raises:
            UserError: no such track, or further compounds on a task without folds.
        """
        if track not in list(Track):
            raise UserError(f"unknown track {track!r}; choose one of {', '.join(Track)}")
        inputs = "heavy" if track == Track.HEAVY_INPUT else "all"
        score = "all" if track == Track.ALL_ATOM else "heavy"
        extra = track == Track.EXTRA_DATA
        if extra and (self.kind != Kind.SPLIT or self.molecule is not None):
            raise UserError(f"task {self.id} has no track {track}: it is one on one molecule")
        return self.model_copy(update={"inputs": inputs, "score": score, "extra_data": extra})


def uniform_lags(horizon_fs: float, n_lags: int = 8) -> tuple[float, ...]:
    """n_lags uniform lags up to the horizon."""
    return tuple(horizon_fs * i / n_lags for i in range(1, n_lags + 1))


def _by_id(*tasks: TaskSpec) -> dict[str, TaskSpec]:
    return {task.id: task for task in tasks}


_CURVE_FS = (10.0, 20.0, 50.0, 100.0)
# The lags of tasks on one level of theory, and those of one small molecule, whose horizon is short
# so that its 2.5 ps of `test_time` hold 10 windows.
_TG80: dict[str, Any] = {
    "level": "pbe-def2svp",
    "lags_fs": uniform_lags(3000.0),
    "curve_lags_fs": _CURVE_FS,
}
_MINI_XTB: dict[str, Any] = {
    "level": "gfn2-xtb",
    "lags_fs": uniform_lags(960.0),
    "curve_lags_fs": _CURVE_FS,
}
_ONE_MINI_XTB: dict[str, Any] = {
    "level": "gfn2-xtb",
    "lags_fs": uniform_lags(240.0),
    "curve_lags_fs": (10.0, 20.0),
}

# Those of a release, whose reference no test window chooses.
_RELEASE: dict[str, Any] = {"reference": ChosenOn.VALIDATION}
_TG80_XTB: dict[str, Any] = {**_MINI_XTB, **_RELEASE, "dataset": "tg80-xtb-v1", "complete": True}
_DFT: dict[str, Any] = {
    "level": "pbe-def2svp",
    "lags_fs": uniform_lags(100.0),
    "curve_lags_fs": (2.0, 5.0, 10.0, 20.0),
}

TASKS = _by_id(
    TaskSpec(
        id="mini-xtb-v1",
        **_MINI_XTB,
        description="30 small compounds at GFN2-xTB, 12 ps each, 120 to 960 fs; ships along",
    ),
    TaskSpec(
        id="mini-dft-v1",
        **_DFT,
        description="small compounds at PBE/def2-SVP, 1 ps each, 13 to 100 fs; ships along",
    ),
    TaskSpec(
        id="tg80-xtb-v1",
        **_TG80_XTB,
        description="80 compounds at GFN2-xTB, 32 ps each, 120 to 960 fs",
    ),
    TaskSpec(
        id="tg80-xtb-long-v1",
        **{**_TG80_XTB, "lags_fs": uniform_lags(3000.0)},
        description="80 compounds at GFN2-xTB, 32 ps each, 375 to 3000 fs",
    ),
    TaskSpec(
        id="tg80-dft-v1",
        **_DFT,
        **_RELEASE,
        dataset="tg80-dft-v1",
        description="TG80 at PBE/def2-SVP, 1 ps or more each, 13 to 100 fs",
    ),
    TaskSpec(
        id="tg80-multitask",
        **_TG80,
        multi_task=True,
        description="80 compounds at PBE/def2-SVP, 375 to 3000 fs, unseen compounds included",
    ),
)

# Families of tasks on one molecule: FAMILY/NAME. `atom-bench finetune` runs these.
FINE_TUNING = _by_id(
    TaskSpec(
        id="tg80-finetune",
        **_TG80,
        validation_lags_fs=uniform_lags(750.0),
        description="one compound at PBE/def2-SVP, 375 to 3000 fs, after multi-task training",
    ),
    TaskSpec(
        id="mini-xtb-finetune",
        **_ONE_MINI_XTB,
        description="one small compound at GFN2-xTB, 30 to 240 fs, after multi-task training",
    ),
)

# And these `atom-bench run`.
ONE_MOLECULE = _by_id(
    TaskSpec(
        id="tg80-singletask",
        **_TG80,
        validation_lags_fs=uniform_lags(750.0),
        kind=Kind.SINGLE,
        description="one compound at PBE/def2-SVP from its own train block, 375 to 3000 fs",
    ),
    TaskSpec(
        id="mini-xtb-singletask",
        **_ONE_MINI_XTB,
        validation_lags_fs=uniform_lags(160.0),
        kind=Kind.SINGLE,
        description="one small compound at GFN2-xTB from its own train block, 30 to 240 fs",
    ),
    TaskSpec(
        id="tg80-zero-shot",
        **_TG80,
        multi_task=True,
        kind=Kind.ZERO_SHOT,
        description="one compound at PBE/def2-SVP, none of its cluster seen, 375 to 3000 fs",
    ),
    TaskSpec(
        id="mini-xtb-zero-shot",
        **_MINI_XTB,
        kind=Kind.ZERO_SHOT,
        description="one small compound at GFN2-xTB, none of its cluster seen, 120 to 960 fs",
    ),
)
# The published zero-shot figures call it so.
_OTHER_NAMES = {"butanol": "1-butanol"}
AS_PUBLISHED = "@published"


def _public_task(set_id: str, level: str) -> TaskSpec:
    horizon_fs = HORIZON_FRAMES * PUBLIC_SETS[set_id].frame_fs
    return TaskSpec(
        id=set_id,
        split="single-task",
        level=level,
        lags_fs=uniform_lags(horizon_fs, N_LAGS),
        starts=N_STARTS["test_time"],
        kind=Kind.PUBLIC,
        train_windows=N_STARTS["train"],
        description=f"one molecule of {PUBLIC_SETS[set_id].title}, {HORIZON_FRAMES} frames to "
        f"{horizon_fs:g} fs, without leaks; {AS_PUBLISHED} behind the name: with them",
    )


PUBLIC = _by_id(_public_task("md17", "pbe-ts"), _public_task("md22", "pbe-mbd"))


def is_fine_tuning(task: TaskSpec) -> bool:
    """Whether `atom-bench finetune` runs it."""
    return task.id.partition("/")[0] in FINE_TUNING


def known_tasks() -> dict[str, TaskSpec]:
    """All tasks by what to ask for, families as FAMILY/NAME."""
    families = {**FINE_TUNING, **ONE_MOLECULE, **PUBLIC}
    return {**TASKS, **{f"{family}/NAME": task for family, task in families.items()}}


def get_task(task_id: str, track: str = Track.CANONICAL) -> TaskSpec:
    """The task of that id on that track.

    Raises:
        UserError: no such task or track, or a track that the task is not made for.
    """
    family, _, name = task_id.partition("/")
    name = _OTHER_NAMES.get(name, name) if family in ONE_MOLECULE else name
    if not task_id.isprintable():  # It is printed, and may come with a file.
        raise UserError(f"unknown task {task_id!r}; choose one of {', '.join(known_tasks())}")
    if name and family in PUBLIC:
        task = _of_public_set(family, name)
    elif name and (found := {**FINE_TUNING, **ONE_MOLECULE}.get(family)):
        task = found.model_copy(update={"id": f"{family}/{name}", "molecule": name})
    elif task_id in TASKS:
        task = TASKS[task_id]
    else:
        raise UserError(f"unknown task {task_id!r}; choose one of {', '.join(known_tasks())}")
    task = task.on_track(track)
    if task.as_published and task.track != Track.HEAVY_INPUT:
        raise UserError(
            f"task {task_id}: published runs see heavy atoms only; give --track "
            f"{Track.HEAVY_INPUT.value}, or leave out {AS_PUBLISHED}"
        )
    return task


def _of_public_set(family: str, name: str) -> TaskSpec:
    molecule = PUBLIC_SETS[family].molecule(name.removesuffix(AS_PUBLISHED)).name
    as_published = name.endswith(AS_PUBLISHED)
    update = {"id": f"{family}/{name}", "molecule": molecule, "as_published": as_published}
    return PUBLIC[family].model_copy(update=update)
