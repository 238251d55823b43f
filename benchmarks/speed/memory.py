"""Peak memory of a worker that runs real dynamics, under one memory budget or another."""

from dataclasses import dataclass, replace

import numpy as np

from benchmarks.speed.scaffold import Results, ask_all, children, peak_memory_bytes, say, timed
from benchmarks.speed.settings import MemorySettings
from benchmarks.speed.starts import Start, measure_each, thermal_start
from pipelines.dynamics.inner_potential import CorrectedEngine, largest_correction
from pipelines.engines.engine import Evaluation, Resources
from tg80.chemistry.molecule import Molecule
from tg80.chemistry.permutations import feasible_permutations
from tg80.console import Table
from tg80.constants import EV_PER_ANGSTROM_PER_HARTREE_PER_BOHR, EV_PER_HARTREE


@dataclass(frozen=True)
class Row:
    """What one budget gives; differences are from the first budget, hartree and hartree/bohr.

    Attributes:
        peak_bytes: with the largest fit that integrator `learned` makes.
        dynamics_bytes: before that fit.
    """

    memory_gb: float
    peak_bytes: int
    dynamics_bytes: int
    imported_bytes: int
    s_per_step: float
    energy_difference: float = 0.0
    force_difference: float = 0.0

    @property
    def peak_gb(self) -> float:
        return self.peak_bytes / 1e9

    @property
    def dynamics_gb(self) -> float:
        return self.dynamics_bytes / 1e9

    @property
    def imported_gb(self) -> float:
        return self.imported_bytes / 1e9


@dataclass(frozen=True)
class Memory:
    """The figures of one molecule."""

    molecule: str
    n_atoms: int
    budgets: list[Row]


def measure(settings: MemorySettings, results: Results) -> None:
    """Peak memory, time and results of every molecule under each budget."""
    measure_each(settings, results, Memory, _measure)


def _measure(molecule: Molecule, settings: MemorySettings) -> Memory:
    start = thermal_start(molecule, equilibration_fs=100.0, seed=settings.seed)
    rows: list[Row] = []
    evaluations: list[Evaluation] = []
    for budget in settings.memory_gb:
        say(f"{molecule.name}: {budget:g} GB")
        with children(1, _Worker, start, settings) as child:
            (observed,) = ask_all(child, budget)
        row, evaluation = observed
        evaluations.append(evaluation)
        energy = evaluation.energy - evaluations[0].energy
        force = float(np.abs(evaluation.forces - evaluations[0].forces).max())
        rows.append(
            replace(
                row,
                energy_difference=abs(energy) / EV_PER_HARTREE,
                force_difference=force / EV_PER_ANGSTROM_PER_HARTREE_PER_BOHR,
            )
        )
    return Memory(molecule.name, molecule.n_atoms, rows)


class _Worker:
    """Runs in the child: dynamics as a worker of `tg80 generate` does it."""

    def __init__(self, index: int, start: Start, settings: MemorySettings):
        # What a worker has imported belongs to its memory.
        import pipelines.run.schedule  # noqa: F401

        self._start, self._settings = start, settings
        self._imported = peak_memory_bytes()

    def __call__(self, memory_gb: float) -> tuple[Row, Evaluation]:
        start, settings = self._start, self._settings
        resources = Resources(threads=1, memory_gb=memory_gb)
        stepper = start.stepper(settings.level, settings.outer_fs, settings.inner_fs, resources)
        first = stepper.engine.evaluate(start.positions)
        state = stepper.begin(start.positions, start.velocities)
        seconds = []
        for _ in range(settings.steps):
            with timed() as clock:
                stepper.step(state)
            seconds.append(clock.wall_s)
        dynamics = peak_memory_bytes()
        permutations = feasible_permutations(start.molecule, start.positions)
        rng = np.random.default_rng(settings.seed)
        assert isinstance(stepper.inner_engine, CorrectedEngine)
        stepper.inner_engine.correction = largest_correction(start.positions, permutations, rng)
        stepper.step(state)
        median = float(np.median(seconds))
        return Row(memory_gb, peak_memory_bytes(), dynamics, self._imported, median), first


def tables(settings: MemorySettings, results: Results) -> list[Table]:
    """One row a molecule and budget."""
    columns = {
        "molecule": "{0.molecule}",
        "budget, GB": "{1.memory_gb:g}",
        "peak, GB": "{1.peak_gb:.2f}",
        "before the fit": "{1.dynamics_gb:.2f}",
        "of it imports": "{1.imported_gb:.2f}",
        "s per outer step": "{1.s_per_step:.2f}",
        "energy apart": "{1.energy_difference:.1e}",
        "force apart": "{1.force_difference:.1e}",
    }
    title = "Peak resident memory of a worker, 1e9 bytes; differences in hartree (per bohr)"
    rows = [(one, row) for one in results.all(Memory) for row in one.budgets]
    return [Table.of(title, columns, rows)]
