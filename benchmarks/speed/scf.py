"""Self-consistency on two grids against one and against stock PySCF, by the distance of geometries.

Geometries are those of GFN2-xTB dynamics at 300 K, so many fs apart as the outer steps of an
integrator are. All evaluate each of them, one after the other. Times are processor time.
"""

from dataclasses import dataclass

import numpy as np

from benchmarks.speed.scaffold import Results, Spread, say, timed
from benchmarks.speed.settings import ScfSettings
from benchmarks.speed.starts import XTB_STEP_FS, Start, measure_each, thermal_start
from benchmarks.speed.stock import TIGHT, Difference, StockPySCF, in_hartree
from pipelines.dynamics.integrators import Stepper
from pipelines.engines.dft.kohn_sham import KohnShamHamiltonian
from pipelines.engines.dft.scf import KohnShamEngine
from tg80.chemistry.molecule import Molecule
from tg80.console import Table
from tg80.constants import EV_PER_ANGSTROM_PER_HARTREE_PER_BOHR as FORCE
from tg80.theory import get_level


@dataclass(frozen=True)
class Spacing:
    """The figures of geometries so far apart: CPU seconds, mean numbers of cycles, errors.

    `drain` is the mean power of the two grids' force errors along the motion, with its standard
    error, meV/atom/ps: errors that lag behind the motion make the energy of dynamics drift so.
    """

    spacing_fs: float
    stock_s: Spread
    one_grid_s: Spread
    two_grids_s: Spread
    stock_cycles: float
    one_grid_builds: float
    fine_builds: float
    coarse_cycles: float
    one_grid: Difference
    two_grids: Difference
    drain: float
    drain_error: float

    @property
    def over_one(self) -> float:
        return self.one_grid_s.median / self.two_grids_s.median

    @property
    def over_stock(self) -> float:
        return self.stock_s.median / self.two_grids_s.median


@dataclass(frozen=True)
class SelfConsistency:
    """The figures of one molecule."""

    molecule: str
    n_atoms: int
    spacings: list[Spacing]


def measure(settings: ScfSettings, results: Results) -> None:
    """Times and errors for every molecule and distance of geometries."""
    measure_each(settings, results, SelfConsistency, _measure_one)


def _measure_one(molecule: Molecule, settings: ScfSettings) -> SelfConsistency:
    start = thermal_start(molecule, equilibration_fs=500.0, seed=settings.seed)
    spacings = []
    for spacing_fs in settings.spacings_fs:
        say(f"{molecule.name}: {spacing_fs:g} fs")
        spacings.append(_spacing(start, settings, spacing_fs))
    return SelfConsistency(molecule.name, molecule.n_atoms, spacings)


def _geometries(start: Start, spacing_fs: float, n: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Positions, A, and velocities, A/fs."""
    stepper = Stepper(start.body, start.engine("gfn2-xtb"), XTB_STEP_FS)
    state = stepper.begin(start.positions, start.velocities)
    path = []
    for _ in range(n):
        path.append((state.positions.copy(), state.velocities.copy()))
        for _ in range(round(spacing_fs / XTB_STEP_FS)):
            stepper.step(state)
    return path


def _spacing(start: Start, settings: ScfSettings, spacing_fs: float) -> Spacing:
    level, molecule = get_level(settings.level), start.molecule
    numbers, charge = molecule.atomic_numbers, molecule.charge
    alone = KohnShamHamiltonian(level, numbers, charge)
    alone.has_coarse_grid = False
    one = KohnShamEngine(alone)
    two = KohnShamEngine(KohnShamHamiltonian(level, numbers, charge))
    tight = start.engine(level.customised(**TIGHT))
    stock = StockPySCF(level, numbers, charge)
    path = _geometries(start, spacing_fs, settings.warm_up + settings.geometries)
    for positions, _ in path[: settings.warm_up]:
        one.evaluate(positions)
        two.evaluate(positions)
    stock.evaluate(path[settings.warm_up - 1][0])
    seconds: list[list[float]] = [[], [], []]
    ones, twos, exact, cycles, coarse, powers = [], [], {}, [], [], []
    every = max(1, settings.geometries // settings.checks)
    for i, (positions, velocities) in enumerate(path[settings.warm_up :]):
        with timed() as clock:
            ones.append(in_hartree(one.evaluate(positions)))
        seconds[1].append(clock.cpu_s)
        with timed() as clock:
            twos.append(in_hartree(two.evaluate(positions)))
        seconds[2].append(clock.cpu_s)
        assert two.last_solution is not None
        coarse.append(two.last_solution.coarse_cycles)
        if i < settings.stock:
            with timed() as clock:
                cycles.append(stock.evaluate(positions).cycles)
            seconds[0].append(clock.cpu_s)
        if i % every == 0:
            exact[i] = in_hartree(tight.evaluate(positions))
            errors = twos[i].forces - exact[i].forces
            power = FORCE * np.vdot(errors, velocities)  # eV/fs
            powers.append(1e6 * power / len(positions))
    return Spacing(
        spacing_fs,
        *(Spread.of(values) for values in seconds),
        stock_cycles=float(np.mean(cycles)),
        one_grid_builds=float(np.mean([result.cycles for result in ones])),
        fine_builds=float(np.mean([result.cycles for result in twos])),
        coarse_cycles=float(np.mean(coarse)),
        one_grid=Difference.of([(ones[i], better) for i, better in exact.items()]),
        two_grids=Difference.of([(twos[i], better) for i, better in exact.items()]),
        drain=float(np.mean(powers)),
        drain_error=float(np.std(powers) / np.sqrt(len(powers))),
    )


def tables(settings: ScfSettings, results: Results) -> list[Table]:
    """One row a molecule and distance of geometries: times, then errors."""
    rows = [(one, row) for one in results.all(SelfConsistency) for row in one.spacings]
    place = {"molecule": "{0.molecule}", "fs apart": "{1.spacing_fs:g}"}
    times = {
        "stock s (cycles)": "{1.stock_s.median:.3f} ({1.stock_cycles:.1f})",
        "one grid s (builds)": "{1.one_grid_s.median:.3f} ({1.one_grid_builds:.1f})",
        "two grids s (fine + coarse)": "{1.two_grids_s.median:.3f} "
        "({1.fine_builds:.1f} + {1.coarse_cycles:.1f})",
        "one / two": "{1.over_one:.2f}",
        "stock / two": "{1.over_stock:.1f}",
    }
    errors = {
        "one grid's force max": "{1.one_grid.force_max:.1e}",
        "energy": "{1.one_grid.energy_max:.1e}",
        "two grids' force max": "{1.two_grids.force_max:.1e}",
        "force RMS": "{1.two_grids.force_rms:.1e}",
        "energy max": "{1.two_grids.energy_max:.1e}",
        "drain, meV/atom/ps": "{1.drain:+.3f} ± {1.drain_error:.3f}",
    }
    title = f"CPU seconds per energy + forces, {settings.level}, 1 thread (medians)"
    return [
        Table.of(title, place | times, rows),
        Table.of(
            "Differences from self-consistency below 2e-8 hartree, hartree and hartree/bohr",
            place | errors,
            rows,
        ),
    ]
