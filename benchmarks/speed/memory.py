"""Peak memory of a worker that runs real dynamics, under one memory budget or another."""

from collections.abc import Callable
from typing import Any

import numpy as np
from pydantic import Field

from benchmarks.speed.processes import children
from benchmarks.speed.starts import Start, thermal_start
from benchmarks.speed.timing import peak_memory_bytes, timed
from pipelines.dynamics.integrators import Stepper
from pipelines.engines.engine import Resources
from tg80.chemistry.molecule import Molecule
from tg80.console import Table
from tg80.constants import EV_PER_ANGSTROM_PER_HARTREE_PER_BOHR, EV_PER_HARTREE
from tg80.untrusted.limits import BoundedModel


class MemorySettings(BoundedModel):
    """What is measured: level, `steps` outer steps of `outer_fs`, budgets in 1e9 bytes."""

    level: str = "pbe-def2svp"
    steps: int = Field(default=15, ge=1)
    outer_fs: float = Field(default=1.0, gt=0)
    inner_fs: float = Field(default=0.25, gt=0)
    memory_gb: tuple[float, ...] = (2.0, 1000.0)
    seed: int = 0


def measure(molecule: Molecule, settings: MemorySettings, say: Callable[[str], None]) -> dict:
    """Peak memory, time and results of one molecule under each budget, JSON-able."""
    start = thermal_start(molecule, equilibration_fs=100.0, seed=settings.seed)
    rows = []
    for budget in settings.memory_gb:
        say(f"{molecule.name}: {budget:g} GB")
        with children(1, _Worker, start, settings) as (child,):
            child.ask(budget)
            rows.append(child.answer())
    first = rows[0]
    for row in rows:
        forces = np.asarray(row.pop("forces")) if row is not first else np.asarray(row["forces"])
        row["energy_difference"] = abs(row["energy"] - first["energy"])
        row["force_difference"] = float(np.abs(forces - np.asarray(first["forces"])).max())
    first.pop("forces")
    return {"molecule": molecule.name, "n_atoms": molecule.n_atoms, "budgets": rows}


class _Worker:
    """Runs in the child: dynamics as a worker of `tg80 generate` does it."""

    def __init__(self, index: int, start: Start, settings: MemorySettings):
        # What a worker has imported belongs to its memory.
        import pipelines.run.schedule  # noqa: F401

        self._start, self._settings = start, settings
        self._imported = peak_memory_bytes()

    def __call__(self, memory_gb: float) -> dict[str, Any]:
        start, settings = self._start, self._settings
        engine = start.engine(settings.level, Resources(threads=1, memory_gb=memory_gb))
        first = engine.evaluate(start.positions)
        inner = start.engine("gfn2-xtb")
        stepper = Stepper(start.body, engine, settings.outer_fs, inner, settings.inner_fs)
        state = stepper.begin(start.positions, start.velocities)
        seconds = []
        for _ in range(settings.steps):
            with timed() as clock:
                stepper.step(state)
            seconds.append(clock.wall_s)
        return {
            "memory_gb": memory_gb,
            "peak_bytes": peak_memory_bytes(),
            "imported_bytes": self._imported,
            "s_per_step": float(np.median(seconds)),
            "energy": first.energy / EV_PER_HARTREE,
            "forces": (first.forces / EV_PER_ANGSTROM_PER_HARTREE_PER_BOHR).tolist(),
        }


def memory_sheets(document: dict[str, Any]) -> list[Table]:
    """The table of `atom-bench speed memory`."""
    rows = []
    for one in document["results"].values():
        for row in one["budgets"]:
            rows.append(
                [
                    one["molecule"], f"{row['memory_gb']:g}", f"{row['peak_bytes'] / 1e9:.2f}",
                    f"{row['imported_bytes'] / 1e9:.2f}", f"{row['s_per_step']:.2f}",
                    f"{row['energy_difference']:.1e}", f"{row['force_difference']:.1e}",
                ]
            )  # fmt: skip
    heading = (
        "molecule", "budget, GB", "peak, GB", "of it imports", "s per outer step",
        "energy apart", "force apart",
    )  # fmt: skip
    title = "Peak resident memory of a worker, 1e9 bytes; differences in hartree (per bohr)"
    return [Table(title, heading, rows)]
