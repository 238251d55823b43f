"""Two single-thread workers against one: plain processes, and tasks of a local Dask cluster.

Both workers have their own trajectory. Alone, one after the other, the two pieces of work take
t_0 + t_1; side by side they take t_both until the later one ends. The throughput of two workers
over that of one is (t_0 + t_1) / t_both, and at best 2.
"""

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pydantic import Field

from benchmarks.speed.processes import children
from benchmarks.speed.starts import Start, thermal_start
from benchmarks.speed.timing import summary
from pipelines.dynamics.integrators import Stepper
from pipelines.dynamics.segments import Stage, StagePlan
from pipelines.run.cluster.workers import local_client
from tg80.chemistry.molecule import Molecule
from tg80.console import Table
from tg80.untrusted.limits import BoundedModel

Run = Callable[[list[int]], float]


class ThroughputSettings(BoundedModel):
    """What is timed: `repeats` times `steps` outer steps of `outer_fs` in each worker."""

    level: str = "pbe-def2svp"
    steps: int = Field(default=40, ge=1)
    repeats: int = Field(default=5, ge=1)
    warm_up: int = Field(default=12, ge=0)
    outer_fs: float = Field(default=1.0, gt=0)
    inner_fs: float = Field(default=0.25, gt=0)
    seed: int = 0


def measure(
    molecule: Molecule, settings: ThroughputSettings, say: Callable[[str], None]
) -> dict[str, Any]:
    """Throughput of two workers over that of one, plain and through Dask, JSON-able.

    Both kinds take turns, so that whatever else the machine does meets both alike.
    """
    starts = [
        thermal_start(molecule, equilibration_fs=100.0, seed=settings.seed + i) for i in range(2)
    ]
    rows: dict[str, list[dict[str, float]]] = {"plain": [], "dask": []}
    with ExitStack() as stack:
        say(f"{molecule.name}: workers")
        workers = stack.enter_context(children(2, _Worker, starts, settings))
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="atom-bench-"))
        client = stack.enter_context(local_client(2, Path(folder)))
        runs: dict[str, Run] = {
            "plain": lambda indices: _run_plain(workers, indices, settings.steps),
            "dask": lambda indices: _run_dask(client, folder, starts, settings, indices),
        }
        for run in runs.values():
            run([0, 1])  # Imports, compilation and, in Dask, the first segment.
        for repeat in range(settings.repeats):
            for kind, run in runs.items():
                say(f"{molecule.name}: {kind}, repeat {repeat + 1} of {settings.repeats}")
                rows[kind].append(_one_repeat(run, both_first=repeat % 2 == 1))
    return {
        "molecule": molecule.name,
        "n_atoms": molecule.n_atoms,
        **{kind: _figures(of_kind, settings) for kind, of_kind in rows.items()},
    }


def _one_repeat(run: Run, *, both_first: bool) -> dict[str, float]:
    both = run([0, 1]) if both_first else float("nan")
    alone = [run([0]), run([1])]
    if not both_first:
        both = run([0, 1])
    return {"alone_s": sum(alone), "both_s": both, "ratio": sum(alone) / both}


def _figures(rows: list[dict[str, float]], settings: ThroughputSettings) -> dict[str, Any]:
    return {
        "ratio": summary([row["ratio"] for row in rows]),
        "steps_per_s_one": 2 * settings.steps / summary([r["alone_s"] for r in rows])["median"],
        "steps_per_s_two": 2 * settings.steps / summary([r["both_s"] for r in rows])["median"],
        "repeats": rows,
    }


def _stepper(start: Start, settings: ThroughputSettings) -> Stepper:
    engine, inner = start.engine(settings.level), start.engine("gfn2-xtb")
    return Stepper(start.body, engine, settings.outer_fs, inner, settings.inner_fs)


class _Worker:
    """Runs in the child: goes on with its own trajectory by as many steps as it is asked."""

    def __init__(self, index: int, starts: list[Start], settings: ThroughputSettings):
        start = starts[index]
        self._stepper = _stepper(start, settings)
        self._state = self._stepper.begin(start.positions, start.velocities)
        for _ in range(settings.warm_up):
            self._stepper.step(self._state)

    def __call__(self, n_steps: int) -> int:
        for _ in range(n_steps):
            self._stepper.step(self._state)
        return n_steps


def _run_plain(workers: list, indices: list[int], n_steps: int) -> float:
    began = time.perf_counter()
    for i in indices:
        workers[i].ask(n_steps)
    for i in indices:
        workers[i].answer()
    return time.perf_counter() - began


def _run_dask(client, folder: str, starts, settings: ThroughputSettings, indices) -> float:
    began = time.perf_counter()
    futures = [
        client.submit(_segment, f"{folder}/{i}", starts[i], settings, pure=False) for i in indices
    ]
    client.gather(futures)
    return time.perf_counter() - began


def _segment(folder: str, start: Start, settings: ThroughputSettings) -> int:
    """The task: the next segment of a trajectory, found on disk and committed there."""
    name = Path(folder).name
    plan = StagePlan(
        identity=f"{start.molecule.name} {name}", n_steps=10**6,
        steps_per_segment=settings.steps, store_stride=1, seed=(settings.seed,),
    )  # fmt: skip
    stage = Stage(
        Path(folder), plan, start.body, _stepper(start, settings), None,
        lambda: (start.positions, start.velocities),
    )  # fmt: skip
    return stage.advance().step


def throughput_sheets(document: dict[str, Any]) -> list[Table]:
    """The table of `atom-bench speed throughput`."""
    rows = []
    for one in document["results"].values():
        for kind in ("plain", "dask"):
            figures = one[kind]
            spread = figures["ratio"]
            rows.append(
                [
                    one["molecule"], kind, f"{figures['steps_per_s_one']:.2f}",
                    f"{figures['steps_per_s_two']:.2f}", f"{spread['median']:.2f}",
                    f"{spread['lowest']:.2f}-{spread['highest']:.2f}",
                ]
            )  # fmt: skip
    heading = ("molecule", "workers", "one, steps/s", "two, steps/s", "two / one", "range")
    return [Table("Throughput of two single-thread workers over that of one", heading, rows)]
