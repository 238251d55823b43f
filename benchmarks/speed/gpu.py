"""Trajectories side by side on one GPU against the same on CPU cores, in steps per second.

Small molecules leave a GPU idle between its short kernels: one trajectory can't fill it, several
processes can. Every trajectory is a process of its own with one CPU thread. All are warmed up,
start together, and run for the same wall time; their steps are counted.
"""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from benchmarks.speed.scaffold import Results, ask_all, available_cores, children, say, timed
from benchmarks.speed.settings import Device, GpuSettings
from benchmarks.speed.starts import Start, find_molecules, measure_each, thermal_start
from pipelines.engines.engine import Resources
from pipelines.run.gpu_check import prepare_run
from tg80.chemistry.molecule import Molecule
from tg80.console import Table


@dataclass(frozen=True)
class Row:
    """Trajectories side by side on one device."""

    device: Device
    trajectories: int
    steps_per_s: float
    slowest_steps_per_s: float
    fock_builds: float


@dataclass(frozen=True)
class SideBySide:
    """The rates of one molecule; `gpu` names what `cuda` was."""

    molecule: str
    n_atoms: int
    gpu: str | None
    rows: list[Row]

    def over_best_cpu(self, row: Row) -> float | None:
        """How many times the best rate of the CPU's cores a row is."""
        best = max((one.steps_per_s for one in self.rows if one.device == "cpu"), default=None)
        return None if best is None else row.steps_per_s / best


@dataclass(frozen=True)
class _Count:
    """What one trajectory did."""

    steps_per_s: float
    fock_builds: float


def measure(settings: GpuSettings, results: Results) -> None:
    """Hold the GPU against the CPU, then count the steps of every molecule.

    Raises:
        UserError: no usable GPU where `cuda` is among the devices.
        RunFailed: the GPU differs from the CPU, or a trajectory broke off.
    """
    molecules = find_molecules(settings.molecules)
    if "cuda" in settings.devices:
        say("energy and forces of the GPU against the CPU's")
        prepare_run(settings.level, molecules)
    measure_each(settings, results, SideBySide, count_steps)


def count_steps(molecule: Molecule, settings: GpuSettings) -> SideBySide:
    """Steps per second of a molecule by device and number of trajectories."""
    say(f"{molecule.name}: start")
    start = thermal_start(molecule, equilibration_fs=settings.equilibration_fs, seed=settings.seed)
    rows = []
    for device in settings.devices:
        counts = settings.trajectories
        if device == "cpu":
            counts = sorted({min(count, available_cores()) for count in counts})
        for count in counts:
            say(f"{molecule.name}: {count} on {device}")
            rows.append(side_by_side(start, device, count, settings))
    gpu = _gpu_name() if "cuda" in settings.devices else None
    return SideBySide(molecule.name, molecule.n_atoms, gpu, rows)


def side_by_side(start: Start, device: Device, count: int, settings: GpuSettings) -> Row:
    """The rates of `count` trajectories that run together.

    Raises:
        RunFailed: one of them broke off.
    """
    with _one_gpu(), children(count, _Trajectory, start, device, settings) as workers:
        ask_all(workers, "warm up")
        found = ask_all(workers, "count")
    rates = [one.steps_per_s for one in found]
    builds = float(np.mean([one.fock_builds for one in found]))
    return Row(device, count, sum(rates), min(rates), builds)


@contextmanager
def _one_gpu() -> Iterator[None]:
    """Show new processes one GPU, which is what is measured, also where there are several."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = (before or "0").split(",")[0]
    try:
        yield
    finally:
        if before is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


class _Trajectory:
    """Runs in the child: warms up once, then counts steps."""

    def __init__(self, index: int, start: Start, device: Device, settings: GpuSettings) -> None:
        resources = Resources(threads=1, device=device)
        self._stepper = start.stepper(settings.level, settings.step_fs, resources=resources)
        self._state = self._stepper.begin(start.positions, start.velocities)
        self._settings = settings

    def __call__(self, what: str) -> _Count | None:
        if what == "warm up":
            for _ in range(self._settings.warm_up):
                self._stepper.step(self._state)
            return None
        builds = []
        with timed() as clock:
            end = time.perf_counter() + self._settings.seconds
            while time.perf_counter() < end:
                self._stepper.step(self._state)
                assert self._state.evaluation is not None
                builds.append(self._state.evaluation.scf_cycles)
        return _Count(len(builds) / clock.wall_s, float(np.mean(builds)))


def _gpu_name() -> str:
    question = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(question, capture_output=True, text=True).stdout.strip()
    except OSError:
        return "unknown"
    return answer.splitlines()[0] if answer else "unknown"


def tables(settings: GpuSettings, results: Results) -> list[Table]:
    """Each row beside the best that the CPU cores did."""
    molecules = results.all(SideBySide)
    names = sorted({one.gpu for one in molecules if one.gpu})
    on = f" on {', '.join(names)}" if names else ""
    title = (
        f"Steps per second of all trajectories together, {settings.level}, "
        f"{settings.step_fs:g} fs steps{on}"
    )
    columns = {
        "molecule": "{0.molecule}",
        "device": "{1.device}",
        "side by side": "{1.trajectories}",
        "steps/s": "{1.steps_per_s:.2f}",
        "slowest": "{1.slowest_steps_per_s:.2f}",
        "builds": "{1.fock_builds:.1f}",
        "over best CPU": "{2:.2f}",
    }
    rows = [(one, row, one.over_best_cpu(row)) for one in molecules for row in one.rows]
    return [Table.of(title, columns, rows)]
