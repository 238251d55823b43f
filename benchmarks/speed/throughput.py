"""Two single-thread workers against one: plain processes, and tasks of a local Dask cluster.

Both workers have their own trajectory. Alone, one after the other, the two pieces of work take
t_0 + t_1; side by side they take t_both until the later one ends. The throughput of two workers
over that of one is (t_0 + t_1) / t_both, and at best 2.
"""

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.speed.scaffold import Results, Spread, ask_all, children, say, timed
from benchmarks.speed.settings import ThroughputSettings
from benchmarks.speed.starts import Start, measure_each, thermal_start
from pipelines.dynamics.segments import Stage, StagePlan
from pipelines.run.cluster.this_machine import local_client
from tg80.chemistry.molecule import Molecule
from tg80.console import Table

Run = Callable[[list[int]], object]
"""Let the workers of these numbers do their next piece of work side by side."""


@dataclass(frozen=True)
class Repeat:
    """Seconds of both pieces of work one after the other, and side by side."""

    alone_s: float
    both_s: float
    ratio: float


@dataclass(frozen=True)
class Figures:
    """Throughput of two workers over that of one, and the rates of either."""

    ratio: Spread
    steps_per_s_one: float
    steps_per_s_two: float
    repeats: list[Repeat]


@dataclass(frozen=True)
class Throughput:
    """The figures of one molecule, with plain processes and through Dask."""

    molecule: str
    n_atoms: int
    plain: Figures
    dask: Figures


def measure(settings: ThroughputSettings, results: Results) -> None:
    """Throughput of two workers over that of one for every molecule."""
    measure_each(settings, results, Throughput, two_against_one)


def two_against_one(molecule: Molecule, settings: ThroughputSettings) -> Throughput:
    """The figures of a molecule; both kinds of workers take turns."""
    starts = [
        thermal_start(molecule, equilibration_fs=100.0, seed=settings.seed + i) for i in range(2)
    ]
    found: dict[str, list[Repeat]] = {"plain": [], "dask": []}
    with ExitStack() as stack:
        say(f"{molecule.name}: workers")
        workers = stack.enter_context(children(2, _Worker, starts, settings))
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="atom-bench-"))
        client = stack.enter_context(local_client(2, Path(folder)))

        def run_plain(indices: list[int]) -> None:
            ask_all([workers[i] for i in indices], settings.steps)

        def run_dask(indices: list[int]) -> None:
            tasks = [(f"{folder}/{i}", starts[i], settings) for i in indices]
            client.gather([client.submit(_segment, *task, pure=False) for task in tasks])

        runs: dict[str, Run] = {"plain": run_plain, "dask": run_dask}
        for run in runs.values():
            run([0, 1])  # Imports, compilation and, in Dask, the first segment.
        for repeat in range(settings.repeats):
            for kind, run in runs.items():
                say(f"{molecule.name}: {kind}, repeat {repeat + 1} of {settings.repeats}")
                found[kind].append(_repeat(run, both_first=repeat % 2 == 1))
    figures = {kind: _figures(repeats, settings.steps) for kind, repeats in found.items()}
    return Throughput(molecule.name, molecule.n_atoms, **figures)


def _repeat(run: Run, *, both_first: bool) -> Repeat:
    pieces = [[0, 1], [0], [1]] if both_first else [[0], [1], [0, 1]]
    both_s = alone_s = 0.0
    for indices in pieces:
        with timed() as clock:
            run(indices)
        if len(indices) == 2:
            both_s = clock.wall_s
        else:
            alone_s += clock.wall_s
    return Repeat(alone_s, both_s, alone_s / both_s)


def _figures(repeats: list[Repeat], steps: int) -> Figures:
    alone, both = (
        float(np.median([getattr(one, name) for one in repeats])) for name in ("alone_s", "both_s")
    )
    ratio = Spread.of([one.ratio for one in repeats])
    return Figures(ratio, 2 * steps / alone, 2 * steps / both, repeats)


class _Worker:
    """Runs in the child: goes on with its own trajectory by as many steps as it is asked."""

    def __init__(self, index: int, starts: list[Start], settings: ThroughputSettings):
        start = starts[index]
        self._stepper = start.stepper(settings.level, settings.outer_fs, settings.inner_fs)
        self._state = self._stepper.begin(start.positions, start.velocities)
        self(settings.warm_up)

    def __call__(self, n_steps: int) -> None:
        for _ in range(n_steps):
            self._stepper.step(self._state)


def _segment(folder: str, start: Start, settings: ThroughputSettings) -> int:
    """The task: the next segment of a trajectory, found on disk and committed there."""
    plan = StagePlan(
        identity=f"{start.molecule.name} {Path(folder).name}", n_steps=10**6,
        steps_per_segment=settings.steps, store_stride=1, seed=(settings.seed,),
    )  # fmt: skip
    stepper = start.stepper(settings.level, settings.outer_fs, settings.inner_fs)
    begin = lambda: (start.positions, start.velocities)  # noqa: E731
    return Stage(Path(folder), plan, start.body, stepper, None, begin).advance().step


def tables(settings: ThroughputSettings, results: Results) -> list[Table]:
    """One row a molecule and kind of workers."""
    columns = {
        "molecule": "{0.molecule}",
        "workers": "{1}",
        "one, steps/s": "{2.steps_per_s_one:.2f}",
        "two, steps/s": "{2.steps_per_s_two:.2f}",
        "two / one": "{2.ratio.median:.2f}",
        "range": "{2.ratio.lowest:.2f}-{2.ratio.highest:.2f}",
    }
    molecules = results.all(Throughput)
    rows = [(one, kind, getattr(one, kind)) for one in molecules for kind in ("plain", "dask")]
    return [Table.of("Throughput of two single-thread workers over that of one", columns, rows)]
