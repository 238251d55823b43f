"""Trajectories side by side on one GPU against the same on CPU cores, in steps per second.

Small molecules leave a GPU idle between its short kernels: one trajectory can't fill it, several
processes can. Every trajectory is a process of its own with one CPU thread. All are warmed up,
start together, and run for the same wall time; their steps are counted.
"""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from pydantic import Field

from benchmarks.speed.processes import children
from benchmarks.speed.starts import Start, thermal_start
from benchmarks.speed.timing import timed
from pipelines.dynamics.integrators import Stepper
from pipelines.engines.engine import Resources
from pipelines.run.gpu_check import prepare_run
from tg80.chemistry.molecule import Molecule
from tg80.console import Table
from tg80.errors import UserError
from tg80.untrusted.limits import BoundedModel

Say = Callable[[str], None]
Device = Literal["cpu", "cuda"]


class GpuSettings(BoundedModel):
    """What is timed.

    Attributes:
        level: level of theory.
        devices: `cpu`, `cuda`, or both.
        trajectories: how many run side by side, one after the other; on `cpu` only as many as
            there are cores.
        step_fs: velocity Verlet step, fs.
        warm_up: steps before the clock starts, which also fill the memory of geometries.
        seconds: wall time for which steps are counted.
        equilibration_fs: GFN2-xTB dynamics before the start.
        seed: of the start.
    """

    level: str = "pbe-def2svp"
    devices: tuple[Device, ...] = ("cpu", "cuda")
    trajectories: tuple[int, ...] = (1, 4, 8, 16)
    step_fs: float = Field(default=0.5, gt=0, le=2)
    warm_up: int = Field(default=12, ge=1)
    seconds: float = Field(default=30.0, gt=0)
    equilibration_fs: float = Field(default=500.0, ge=0)
    seed: int = Field(default=0, ge=0)


def prepare(molecules: list[Molecule], settings: GpuSettings, say: Say) -> None:
    """Hold the GPU against the CPU before anything is timed.

    Raises:
        UserError: no usable GPU where `cuda` is among the devices.
        RunFailed: the GPU differs from the CPU.
    """
    if "cuda" in settings.devices:
        say("energy and forces of the GPU against the CPU's")
        prepare_run(settings.level, molecules)


def measure(molecule: Molecule, settings: GpuSettings, say: Say = lambda text: None) -> dict:
    """Steps per second of a molecule by device and number of trajectories, JSON-able.

    Raises:
        RunFailed: a trajectory broke off.
    """
    say(f"{molecule.name}: start")
    start = thermal_start(molecule, equilibration_fs=settings.equilibration_fs, seed=settings.seed)
    rows = [row for device in settings.devices for row in _rows_of(start, device, settings, say)]
    gpu = _gpu_name() if "cuda" in settings.devices else None
    return {"molecule": molecule.name, "n_atoms": molecule.n_atoms, "gpu": gpu, "rows": rows}


def _rows_of(start: Start, device: Device, settings: GpuSettings, say: Say) -> list[dict]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    counts = settings.trajectories
    if device == "cpu":
        counts = tuple(sorted({min(count, cores or 1) for count in counts}))
    rows = []
    for count in counts:
        say(f"{start.molecule.name}: {count} on {device}")
        rates, builds = side_by_side(start, device, count, settings)
        rows.append(
            {
                "device": device,
                "trajectories": count,
                "steps_per_s": float(sum(rates)),
                "slowest_steps_per_s": float(min(rates)),
                "fock_builds": float(np.mean(builds)),
            }
        )
    return rows


def side_by_side(
    start: Start, device: Device, count: int, settings: GpuSettings
) -> tuple[list[float], list[float]]:
    """Steps per second and Fock builds per step of `count` trajectories that run together.

    Raises:
        RunFailed: one of them broke off.
    """
    with _one_gpu(), children(count, _Trajectory, start, device, settings) as workers:
        for ask in ("warm up", "count"):
            for worker in workers:
                worker.ask(ask)
            results = [worker.answer() for worker in workers]
    rates = [result["steps"] / result["seconds"] for result in results]
    return rates, [result["fock_builds"] for result in results]


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
        engine = start.engine(settings.level, Resources(threads=1, device=device))
        self._stepper = Stepper(start.body, engine, settings.step_fs)
        self._state = self._stepper.begin(start.positions, start.velocities)
        self._settings = settings

    def __call__(self, what: str) -> dict[str, float]:
        if what == "warm up":
            for _ in range(self._settings.warm_up):
                self._stepper.step(self._state)
            return {}
        builds = []
        with timed() as clock:
            end = time.perf_counter() + self._settings.seconds
            while time.perf_counter() < end:
                self._stepper.step(self._state)
                assert self._state.evaluation is not None
                builds.append(self._state.evaluation.scf_cycles)
        return {
            "steps": len(builds),
            "seconds": clock.wall_s,
            "fock_builds": float(np.mean(builds)),
        }


def _gpu_name() -> str:
    question = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(question, capture_output=True, text=True).stdout.strip()
    except OSError:
        return "unknown"
    return answer.splitlines()[0] if answer else "unknown"


def gpu_sheets(document: dict[str, Any]) -> list[Table]:
    """The table of `atom-bench speed gpu`: each row beside the best that the CPU cores did."""
    settings, molecules = document["settings"], list(document["results"].values())
    names = sorted({one["gpu"] for one in molecules if one["gpu"]})
    on = f" on {', '.join(names)}" if names else ""
    return [
        Table(
            f"Steps per second of all trajectories together, {settings['level']}, "
            f"{settings['step_fs']:g} fs steps{on}",
            ("molecule", "device", "side by side", "steps/s", "slowest", "builds", "over best CPU"),
            [_row(one, row) for one in molecules for row in one["rows"]],
        )
    ]


def _row(one: dict[str, Any], row: dict[str, Any]) -> list[str]:
    best = max((r["steps_per_s"] for r in one["rows"] if r["device"] == "cpu"), default=None)
    ratio = f"{row['steps_per_s'] / best:.2f}" if best else "-"
    return [
        one["molecule"], row["device"], str(row["trajectories"]), f"{row['steps_per_s']:.2f}",
        f"{row['slowest_steps_per_s']:.2f}", f"{row['fock_builds']:.1f}", ratio,
    ]  # fmt: skip


def parse_counts(text: str) -> tuple[int, ...]:
    """Numbers of trajectories such as "1,4,8".

    Raises:
        UserError: something else.
    """
    try:
        counts = tuple(int(part) for part in text.split(","))
    except ValueError:
        counts = ()
    if not counts or min(counts) < 1:
        raise UserError(f"--trajectories wants counts such as 1,4,8, not {text!r}")
    return counts


def parse_devices(text: str) -> tuple[str, ...]:
    """Devices such as "cpu,cuda".

    Raises:
        UserError: something else.
    """
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if not set(names) <= {"cpu", "cuda"}:
        raise UserError(f"--devices wants cpu, cuda or cpu,cuda, not {text!r}")
    return names
