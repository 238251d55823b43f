"""Stock PySCF against our engine along one trajectory, step by step in turns.

Our engine drives velocity Verlet; both sides then evaluate the very same geometries, one after the
other, and take turns in going first. So whatever else the machine does meets both alike.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.speed.learning import Learning, learn
from benchmarks.speed.scaffold import Clock, Results, Spread, say, timed
from benchmarks.speed.settings import AimdSettings, Integrator
from benchmarks.speed.starts import Start, measure_each, thermal_start
from benchmarks.speed.stock import TIGHT, Difference, StockPySCF, StockResult, in_hartree
from pipelines.dynamics.inner_potential import KernelCorrection
from pipelines.dynamics.integrators import State
from pipelines.dynamics.learner import root_mean_square
from pipelines.engines.dft.scf import KohnShamEngine
from pipelines.engines.engine import Engine, Evaluation, Resources
from tg80.chemistry.molecule import Molecule
from tg80.console import Table
from tg80.theory import get_level

REFERENCE_LEVEL = "pbe-def2svp-exact"
RUN_FS = 10_000.0  # a run whose start and fits are counted


@dataclass(frozen=True)
class TimedStep:
    """Both sides at one geometry; differences of ours from stock in hartree and hartree/bohr."""

    repeat: int
    stock_s: float
    ours_s: float
    stock_cpu_s: float
    ours_cpu_s: float
    stock_cycles: int
    fock_builds: int
    energy_difference: float
    force_max: float
    force_rms: float


@dataclass(frozen=True)
class PerFs:
    """Costs per simulated fs: stock with Verlet `step_fs` over ours with this integrator.

    Attributes:
        integrator: `mts` or `learned`.
        fock_builds, coarse_cycles: a call, on the level's grid and on the coarse grid.
        residual: RMS force that the inner potential misses, eV/A.
        ratio_cpu_of_run: `ratio_cpu` over a run of `RUN_FS` that has everything yet to learn; None
            where nothing is learned.
    """

    integrator: str
    outer_fs: float
    inner_fs: float
    ours_s_per_fs: float
    stock_s_per_fs: float
    fock_builds: float
    coarse_cycles: float
    residual: float
    ratio: float
    ratio_cpu: float
    ratio_cpu_of_run: float | None


@dataclass(frozen=True)
class Compared:
    """Both sides against something better at `n` geometries; None without any."""

    n: int
    level: str
    ours: Difference | None = None
    stock: Difference | None = None


@dataclass(frozen=True)
class Accuracy:
    """Against the level itself, converged tightly, and against the reference level."""

    scf_noise: Compared
    against_exact: Compared


@dataclass(frozen=True)
class AimdFigures:
    """All figures of one molecule; ratios are stock over ours, parts are means per step."""

    molecule: str
    n_atoms: int
    stock_s_per_step: Spread
    ours_s_per_step: Spread
    stock_cycles: float
    fock_builds: float
    ratio: float
    ratio_spread: Spread
    ratio_of_repeats: list[float]
    ratio_cpu: float
    per_fs: list[PerFs]
    learning: Learning | None
    ours_parts_s: dict[str, float]
    against_stock: Difference
    steps: list[TimedStep]
    accuracy: Accuracy

    @property
    def repeats(self) -> str:
        return " ".join(f"{ratio:.1f}" for ratio in self.ratio_of_repeats)

    def part_s(self, name: str) -> float:
        """Seconds of a part of a step; `rest` is what no part accounts for."""
        if name == "rest":
            return self.ours_s_per_step.mean - sum(self.ours_parts_s.values())
        return self.ours_parts_s.get(name, 0.0)


@dataclass(frozen=True)
class _Pair:
    """Both sides at one geometry (positions in A), and their times."""

    positions: np.ndarray
    stock: StockResult
    ours: StockResult
    stock_clock: Clock
    ours_clock: Clock

    def step(self, repeat: int) -> TimedStep:
        difference = Difference.of([(self.ours, self.stock)])
        return TimedStep(
            repeat=repeat,
            stock_s=self.stock_clock.wall_s,
            ours_s=self.ours_clock.wall_s,
            stock_cpu_s=self.stock_clock.cpu_s,
            ours_cpu_s=self.ours_clock.cpu_s,
            stock_cycles=self.stock.cycles,
            fock_builds=self.ours.cycles,
            energy_difference=self.ours.energy - self.stock.energy,
            force_max=difference.force_max,
            force_rms=difference.force_rms,
        )


@dataclass(frozen=True)
class _OuterStep:
    """One timed step of an integrator; the residual force in eV/A."""

    clock: Clock
    fock_builds: int
    coarse_cycles: int
    residual: float


class _InTurns:
    """Our engine, which also lets stock PySCF evaluate each geometry, before or after it in turns.

    Attributes:
        pairs: what both gave while `active`.
    """

    def __init__(self, ours: Engine, stock: StockPySCF):
        self.level = ours.level
        self.engine, self.stock = ours, stock
        self.active = False
        self.pairs: list[_Pair] = []
        self.reset, self.state, self.load_state = ours.reset, ours.state, ours.load_state

    def evaluate(self, positions: np.ndarray) -> Evaluation:
        if not self.active:
            return self.engine.evaluate(positions)
        stock_first = len(self.pairs) % 2 == 0
        if stock_first:
            stock, stock_clock = _clocked(self.stock.evaluate, positions)
        ours, ours_clock = _clocked(self.engine.evaluate, positions)
        if not stock_first:
            stock, stock_clock = _clocked(self.stock.evaluate, positions)
        pair = _Pair(positions.copy(), stock, in_hartree(ours), stock_clock, ours_clock)
        self.pairs.append(pair)
        return ours


def _clocked(evaluate: Callable, positions: np.ndarray):
    with timed() as clock:
        result = evaluate(positions)
    return result, clock


def measure(settings: AimdSettings, results: Results) -> None:
    """All figures of every molecule."""
    measure_each(settings, results, AimdFigures, side_by_side)


def side_by_side(molecule: Molecule, settings: AimdSettings) -> AimdFigures:
    """All figures of one molecule."""
    say(f"{molecule.name}: start")
    start = thermal_start(molecule, equilibration_fs=settings.equilibration_fs, seed=settings.seed)
    stock = StockPySCF(
        get_level(settings.level), molecule.atomic_numbers, molecule.charge,
        n_threads=settings.threads, integrals=settings.stock_integrals,
    )  # fmt: skip
    stepper = start.stepper(
        settings.level, settings.step_fs, resources=Resources(threads=settings.threads)
    )
    engine = stepper.engine
    both = stepper.engine = _InTurns(engine, stock)
    state = stepper.begin(start.positions, start.velocities)
    parts: Counter[str] = Counter()
    correction, learning = None, None
    if settings.learned_fs:
        say(f"{molecule.name}: {settings.labels} labels")
        resources = Resources(threads=settings.threads)
        correction, learning = learn(
            start, settings.level, settings.inner_fs, settings.labels, resources
        )
    outer: dict[Integrator, list[_OuterStep]] = {
        Integrator(kind, step_fs): []
        for kind, steps in (("mts", settings.outer_fs), ("learned", settings.learned_fs))
        for step_fs in steps
    }
    for repeat in range(settings.repeats):
        say(f"{molecule.name}: segment {repeat + 1} of {settings.repeats}")
        for _ in range(settings.warm_up):
            stepper.step(state)
        stock.evaluate(state.positions)
        parts.subtract(getattr(engine, "timings", {}))
        both.active = True
        for _ in range(settings.steps):
            stepper.step(state)
        both.active = False
        parts.update(getattr(engine, "timings", {}))
        for integrator, found in outer.items():
            inside = correction if integrator.kind == "learned" else None
            found += _outer_steps(start, state, integrator.step_fs, inside, settings)
    say(f"{molecule.name}: accuracy")
    return _figures(start, both.pairs, outer, learning, parts, settings)


def _outer_steps(
    start: Start,
    state: State,
    outer_fs: float,
    correction: KernelCorrection | None,
    settings: AimdSettings,
) -> list[_OuterStep]:
    """Steps with multiple time stepping, from a state on."""
    resources = Resources(threads=settings.threads)
    stepper = start.stepper(settings.level, outer_fs, settings.inner_fs, resources, correction)
    engine = stepper.engine
    assert isinstance(engine, KohnShamEngine)
    state = stepper.begin(state.positions, state.velocities)
    for _ in range(settings.warm_up):
        stepper.step(state)
    found = []
    for _ in range(settings.steps):
        with timed() as clock:
            stepper.step(state)
        assert state.evaluation is not None and engine.last_solution is not None
        coarse = engine.last_solution.coarse_cycles
        residual = root_mean_square(state.forces - state.inner_forces)
        found.append(_OuterStep(clock, state.evaluation.scf_cycles, coarse, residual))
    return found


def _figures(
    start: Start,
    pairs: list[_Pair],
    outer: dict[Integrator, list[_OuterStep]],
    learning: Learning | None,
    parts: Counter[str],
    settings: AimdSettings,
) -> AimdFigures:
    steps = [pair.step(i // settings.steps) for i, pair in enumerate(pairs)]

    def column(name: str) -> np.ndarray:
        return np.array([getattr(step, name) for step in steps], dtype=float)

    stock, ours, stock_cpu = column("stock_s"), column("ours_s"), column("stock_cpu_s")
    segments = [column("repeat") == i for i in range(settings.repeats)]
    stock_s = float(np.median(stock)) / settings.step_fs
    stock_cpu_s = float(np.median(stock_cpu)) / settings.step_fs
    per_fs = []
    for integrator, found in outer.items():
        outer_fs = integrator.step_fs
        wall = float(np.median([one.clock.wall_s for one in found])) / outer_fs
        cpu = float(np.median([one.clock.cpu_s for one in found])) / outer_fs
        of_run = None
        if learning is not None and integrator.kind == "learned":
            of_run = RUN_FS * stock_cpu_s / learning.run_cpu_s(RUN_FS, outer_fs, cpu)
        per_fs.append(
            PerFs(
                integrator=integrator.kind,
                outer_fs=outer_fs,
                inner_fs=settings.inner_fs,
                ours_s_per_fs=wall,
                stock_s_per_fs=stock_s,
                fock_builds=float(np.mean([one.fock_builds for one in found])),
                coarse_cycles=float(np.mean([one.coarse_cycles for one in found])),
                residual=root_mean_square([one.residual for one in found]),
                ratio=stock_s / wall,
                ratio_cpu=stock_cpu_s / cpu,
                ratio_cpu_of_run=of_run,
            )
        )
    return AimdFigures(
        molecule=start.molecule.name,
        n_atoms=start.molecule.n_atoms,
        stock_s_per_step=Spread.of(stock),
        ours_s_per_step=Spread.of(ours),
        stock_cycles=float(column("stock_cycles").mean()),
        fock_builds=float(column("fock_builds").mean()),
        ratio=float(np.median(stock / ours)),
        ratio_spread=Spread.of(stock / ours),
        ratio_of_repeats=[float(np.median(stock[i]) / np.median(ours[i])) for i in segments],
        ratio_cpu=float(np.median(stock_cpu / column("ours_cpu_s"))),
        per_fs=per_fs,
        learning=learning,
        ours_parts_s={name: seconds / len(steps) for name, seconds in parts.items()},
        against_stock=Difference.of([(pair.ours, pair.stock) for pair in pairs]),
        steps=steps,
        accuracy=_accuracy(start, pairs, settings),
    )


def _accuracy(start: Start, pairs: list[_Pair], settings: AimdSettings) -> Accuracy:
    n = min(settings.checks, len(pairs))
    chosen = [pairs[i] for i in np.linspace(0, len(pairs) - 1, n).astype(int)]
    level = get_level(settings.level).customised(**TIGHT)
    tight = start.engine(level, Resources(threads=settings.threads))

    def converged(positions: np.ndarray) -> StockResult:
        tight.reset()
        return in_hartree(tight.evaluate(positions))

    exact = get_level(REFERENCE_LEVEL)
    reference = StockPySCF(
        exact, start.molecule.atomic_numbers, start.molecule.charge, n_threads=settings.threads,
        energy_threshold=exact.energy_threshold_hartree or 1e-10,
        gradient_threshold=exact.gradient_threshold,
    )  # fmt: skip
    noise = _compare(chosen, converged, "same level, tight")
    referred = chosen[: settings.references]
    return Accuracy(noise, _compare(referred, reference.evaluate, REFERENCE_LEVEL))


def _compare(
    pairs: list[_Pair], evaluate: Callable[[np.ndarray], StockResult], level: str
) -> Compared:
    if not pairs:
        return Compared(0, level)
    better = [evaluate(pair.positions) for pair in pairs]
    ours = Difference.of([(pair.ours, one) for pair, one in zip(pairs, better, strict=True)])
    stock = Difference.of([(pair.stock, one) for pair, one in zip(pairs, better, strict=True)])
    return Compared(len(pairs), level, ours, stock)


def tables(settings: AimdSettings, results: Results) -> list[Table]:
    """Time per call and per simulated fs, differences, and where our time goes."""
    molecules = results.all(AimdFigures)
    threads = f"{settings.threads} thread{'s' * (settings.threads > 1)}"
    parts = list(dict.fromkeys(name for one in molecules for name in one.ours_parts_s))
    found = [
        Table.of(
            f"Seconds per energy + forces, {settings.level}, {threads}, {settings.step_fs:g} fs "
            f"steps (medians; stock's integrals: {settings.stock_integrals})",
            {
                "molecule": "{molecule}",
                "stock s (cycles)": "{stock_s_per_step.median:.3f} ({stock_cycles:.1f})",
                "ours s (builds)": "{ours_s_per_step.median:.3f} ({fock_builds:.1f})",
                "stock / ours": "{ratio:.1f}",
                "quartiles": "{ratio_spread.quartile_1:.1f}-{ratio_spread.quartile_3:.1f}",
                "by repeat": "{repeats}",
                "by CPU time": "{ratio_cpu:.1f}",
            },
            molecules,
        ),
        Table.of(
            f"Seconds per simulated fs, {threads}: stock, Verlet {settings.step_fs:g} fs, over "
            "ours with multiple time steps",
            {
                "molecule": "{0.molecule}",
                "integrator": "{1.integrator}",
                "outer / inner fs": "{1.outer_fs:g} / {1.inner_fs:g}",
                "residual, eV/A": "{1.residual:.1e}",
                "stock s/fs": "{1.stock_s_per_fs:.3f}",
                "ours s/fs": "{1.ours_s_per_fs:.3f}",
                "builds per call (fine + coarse)": "{1.fock_builds:.1f} + {1.coarse_cycles:.1f}",
                "stock / ours": "{1.ratio:.1f}",
                "by CPU time": "{1.ratio_cpu:.1f}",
                f"{RUN_FS / 1000:g} ps, start and fits included": "{1.ratio_cpu_of_run:.1f}",
            },
            [(one, row) for one in molecules for row in one.per_fs],
        ),
        Table.of(
            "What integrator learned was taught before, CPU seconds",
            {
                "molecule": "{0.molecule}",
                "labels (with stretched bonds)": "{1.n_labels} ({1.n_seeds})",
                "fs of dynamics": "{1.length_fs:g}",
                "outer step reached, fs": "{1.outer_step_fs:g}",
                "s": "{1.cpu_s:.1f}",
                "s of a fit at its largest": "{1.fit_cpu_s:.1f}",
            },
            [(one, one.learning) for one in molecules if one.learning],
        ),
        Table.of(
            "Differences, hartree and hartree/bohr (largest; RMS)",
            {
                "molecule": "{0.molecule}",
                "of": "{1}",
                "from": "{2}",
                "energy": "{3.energy_max:.1e}",
                "force max": "{3.force_max:.1e}",
                "force RMS": "{3.force_rms:.1e}",
                "geometries": "{4}",
            },
            [row for one in molecules for row in _differences(one)],
        ),
    ]
    if parts:
        rows = [
            [one.molecule, *(f"{one.part_s(name):.3f}" for name in (*parts, "rest"))]
            for one in molecules
        ]
        heading = ("molecule", *parts, "rest")
        found.append(Table("Where ours goes, seconds per step (means)", heading, rows))
    return found


def _differences(one: AimdFigures) -> list[tuple[AimdFigures, str, str, Difference, int]]:
    noise, exact = one.accuracy.scf_noise, one.accuracy.against_exact
    found = [
        ("ours", "stock", one.against_stock, len(one.steps)),
        ("ours", "same level, tight", noise.ours, noise.n),
        ("stock", "same level, tight", noise.stock, noise.n),
        ("ours", "exact J, grid 5", exact.ours, exact.n),
        ("stock", "exact J, grid 5", exact.stock, exact.n),
    ]
    return [(one, side, better, figures, n) for side, better, figures, n in found if figures]
