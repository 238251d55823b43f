"""What is predicted from what, on which split. A task that was published never changes."""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from tg80.errors import UserError
from tg80.lags import MAX_STARTS
from tg80.windows import uniform_rotations


class Track(StrEnum):
    """Which atoms a model sees and which are scored. Tracks are ranked apart."""

    CANONICAL = "canonical"
    HEAVY_INPUT = "heavy-input"
    ALL_ATOM = "all-atom"


class TaskSpec(BaseModel):
    """One frozen task.

    Attributes:
        id, version: name and version; together they never mean anything else.
        manifest_sha256: the data it is defined on, None where any data at `level` will do.
        split: frozen split whose fold is run. level: level of theory of the trajectories.
        inputs: atoms given to the model. score: atoms that are scored.
        lags_fs: the P lags of S2T and S2S; the last is the horizon.
        curve_lags_fs: further lags of the error curve, predicted in a call of their own.
        starts: most starts a molecule and part.
        multi_task: horizons of training windows are log-uniform, not the task's own.
        molecule: the one molecule of a fine-tuning task, learnt from its own train block.
        validation_lags_fs: lags of early stopping, if not `lags_fs`; shorter ones have more starts.
        description: one line for lists.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

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

    @property
    def horizon_fs(self) -> float:
        """The longest scored lag."""
        return self.lags_fs[-1]

    @property
    def track(self) -> Track:
        """The track that `inputs` and `score` make."""
        if self.inputs == "heavy":
            return Track.HEAVY_INPUT
        return Track.CANONICAL if self.score == "heavy" else Track.ALL_ATOM

    def on_track(self, track: str) -> TaskSpec:
        """This task with the atoms of another track.

        Raises:
            UserError: there is no such track.
        """
        if track not in list(Track):
            raise UserError(f"unknown track {track!r}; choose one of {', '.join(Track)}")
        inputs = "heavy" if track == Track.HEAVY_INPUT else "all"
        score = "all" if track == Track.ALL_ATOM else "heavy"
        return self.model_copy(update={"inputs": inputs, "score": score})


def uniform_lags(horizon_fs: float, n_lags: int = 8) -> tuple[float, ...]:
    """n_lags uniform lags up to the horizon."""
    return tuple(horizon_fs * i / n_lags for i in range(1, n_lags + 1))


TASKS: dict[str, TaskSpec] = {
    task.id: task
    for task in (
        TaskSpec(
            id="mini-xtb-v1",
            level="gfn2-xtb",
            lags_fs=uniform_lags(960.0),
            curve_lags_fs=(10.0, 20.0, 50.0, 100.0),
            description="30 small compounds at GFN2-xTB, 12 ps each, 120 to 960 fs; ships along",
        ),
        TaskSpec(
            id="mini-dft-v1",
            level="pbe-def2svp",
            lags_fs=uniform_lags(100.0),
            curve_lags_fs=(2.0, 5.0, 10.0, 20.0),
            description="small compounds at PBE/def2-SVP, 1 ps each, 13 to 100 fs; ships along",
        ),
        TaskSpec(
            id="tg80-multitask",
            level="pbe-def2svp",
            lags_fs=uniform_lags(3000.0),
            curve_lags_fs=(10.0, 20.0, 50.0, 100.0),
            multi_task=True,
            description="80 compounds at PBE/def2-SVP, 375 to 3000 fs, unseen compounds included",
        ),
    )
}


# Families of tasks on one molecule: FAMILY/NAME.
FINE_TUNING: dict[str, TaskSpec] = {
    task.id: task
    for task in (
        TaskSpec(
            id="tg80-finetune",
            level="pbe-def2svp",
            lags_fs=uniform_lags(3000.0),
            curve_lags_fs=(10.0, 20.0, 50.0, 100.0),
            validation_lags_fs=uniform_lags(750.0),
            description="one compound at PBE/def2-SVP, 375 to 3000 fs, after multi-task training",
        ),
        # The horizon is short so that a molecule's 2.5 ps of `test_time` hold 10 windows.
        TaskSpec(
            id="mini-xtb-finetune",
            level="gfn2-xtb",
            lags_fs=uniform_lags(240.0),
            curve_lags_fs=(10.0, 20.0),
            description="one small compound at GFN2-xTB, 30 to 240 fs, after multi-task training",
        ),
    )
}


def get_task(task_id: str, track: str = Track.CANONICAL) -> TaskSpec:
    """The task of that id on that track.

    Raises:
        UserError: no such task or track.
    """
    family, found, name = task_id.partition("/")
    if found and name and family in FINE_TUNING:
        task = FINE_TUNING[family].model_copy(update={"id": task_id, "molecule": name})
    elif task_id in TASKS:
        task = TASKS[task_id]
    else:
        known = [*TASKS, *(f"{family}/NAME" for family in FINE_TUNING)]
        raise UserError(f"unknown task {task_id!r}; choose one of {', '.join(known)}")
    return task.on_track(track)


def window_rotation(task_id: str, start_id: str) -> np.ndarray:
    """The rotation (3, 3) that turns one scored window: uniform, and fixed by the two names."""
    digest = hashlib.sha256(f"{task_id}\n{start_id}".encode()).digest()
    seed = np.frombuffer(digest[:16], dtype="<u4").tolist()
    return uniform_rotations(np.random.default_rng(seed), 1)[0]
