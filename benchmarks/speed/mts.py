"""Accuracy and cost of the integrators: velocity Verlet and multiple time steps, NVE at 300 K.

All integrators start from one and the same thermal state. The trajectory to be followed is that of
velocity Verlet with the inner time step, at the same level of theory.

References:
    Tuckerman, Berne, Martyna, doi:10.1063/1.463137 (r-RESPA).
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from benchmarks.speed.aimd import AimdFigures
from benchmarks.speed.learning import Learning, learn
from benchmarks.speed.scaffold import Results, T, parsed, read_document, say, timed
from benchmarks.speed.settings import KEPT_FS, Integrator, MtsSettings
from benchmarks.speed.starts import Start, find_molecules, thermal_start
from pipelines.dynamics.inner_potential import KERNEL, KernelCorrection
from pipelines.dynamics.integrators import State, Stepper
from pipelines.dynamics.learner import root_mean_square
from pipelines.engines.engine import Resources
from tg80.chemistry.mechanics import kinetic_energy
from tg80.chemistry.molecule import Molecule
from tg80.console import Table
from tg80.errors import UserError
from tg80.shards.quality import drift_with_error

# Steps whose costs don't count: the predictor has no history yet.
_WARM_UP = 10

Array = list[list[float]]


@dataclass(frozen=True)
class StoredStart:
    """Positions (n_atoms, 3) A and velocities A/fs that all integrators start from."""

    positions: Array
    velocities: Array


@dataclass(frozen=True)
class StoredCorrection:
    """Of `learned`: kernel, the arrays of a `KernelCorrection`, and what it took."""

    kernel: str
    centres: Array
    weights: Array
    permutations: list[list[int]]
    learning: Learning


@dataclass(frozen=True)
class Distance:
    """RMSD from the reference in A at a time, the last step not beyond the mark."""

    mark_fs: float
    time_fs: float
    rmsd: float


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Energy fluctuation in meV/atom, and costs per simulated fs past the first steps.

    Attributes:
        residual: RMS force that the inner potential misses, eV/A; None for Verlet.
    """

    residual: float | None = None
    energy_std: float
    calls_per_fs: float
    builds_per_fs: float
    s_per_fs: float
    cpu_s_per_fs: float


@dataclass(frozen=True, kw_only=True)
class Followed(Figures):
    """One integrator along the compared length."""

    distances: list[Distance]


@dataclass(frozen=True, kw_only=True)
class Drift(Figures):
    """Drift of the total energy along a long trajectory, meV/atom/ps; no error if too short."""

    length_fs: float
    drift: float
    drift_error: float | None


@dataclass(frozen=True, kw_only=True)
class Row(Followed):
    """An integrator beside Verlet 0.5 fs and stock; None where there is nothing to compare with.

    Attributes:
        rmsd_ratio: the RMSD of Verlet 0.5 fs over this one's, at the last mark.
        stock_ratio: cost per simulated fs of stock PySCF with Verlet 0.5 fs over this one's. It
            joins two ratios that were each taken within one run: stock over ours per evaluation
            (`speed aimd`), and ours with Verlet 0.5 fs over this integrator per fs.
    """

    molecule: str
    integrator: str
    drift: float | None
    drift_error: float | None
    drift_length_fs: float | None
    rmsd_ratio: float | None
    stock_ratio: float | None

    @property
    def rmsds(self) -> str:
        return " / ".join(f"{one.rmsd:.1e}" for one in self.distances)

    @property
    def drift_text(self) -> str:
        return "" if self.drift_error is None else f"{self.drift:+.3f} ± {self.drift_error:.3f}"


def measure(settings: MtsSettings, results: Results) -> None:
    """All figures, molecule by molecule and part by part.

    Raises:
        UserError: the file of `--aimd` is none.
    """
    _stock_ratios(settings)
    for molecule in find_molecules(settings.molecules):
        _measure_one(molecule, settings, results)


def _measure_one(molecule: Molecule, settings: MtsSettings, results: Results) -> None:
    def once(part: str, kind: type[T], work: Callable[[], T]) -> T:
        def told() -> T:
            say(f"{molecule.name}: {part}")
            return work()

        return results.get(f"{molecule.name}/{part}", kind, told)

    def begin() -> StoredStart:
        start = thermal_start(
            molecule, equilibration_fs=settings.equilibration_fs, seed=settings.seed
        )
        return StoredStart(start.positions.tolist(), start.velocities.tolist())

    stored = once("start", StoredStart, begin)
    start = Start(molecule, np.array(stored.positions), np.array(stored.velocities))
    reference = once("reference", dict[str, Array], lambda: _reference(start, settings))
    for integrator in settings.integrators:
        correction = None
        if integrator.kind == "learned":
            taught = once("learning", StoredCorrection, lambda: _learn(start, settings))
            if taught.kernel != KERNEL:
                raise UserError(f"--out: {molecule.name} learned by another kernel; give another")
            arrays = taught.centres, taught.weights, taught.permutations
            correction = KernelCorrection(*map(np.array, arrays))

        def run(one: Integrator = integrator, inside=correction) -> _Run:
            return _Run(start, _stepper(start, one, settings, inside))

        name = integrator.name
        once(name, Followed, lambda: _follow(run(), reference, settings))
        if settings.drift_fs > 0:
            part = f"{name} drift {settings.drift_fs:g} fs"
            once(part, Drift, lambda: _drift(run(), settings))


def _learn(start: Start, settings: MtsSettings) -> StoredCorrection:
    resources = Resources(threads=settings.threads)
    correction, learning = learn(
        start, settings.level, settings.inner_fs, settings.labels, resources
    )
    arrays = correction.centres, correction.weights, correction.permutations
    centres, weights, permutations = (array.tolist() for array in arrays)
    return StoredCorrection(KERNEL, centres, weights, permutations, learning)


def _stepper(
    start: Start,
    integrator: Integrator,
    settings: MtsSettings,
    correction: KernelCorrection | None = None,
) -> Stepper:
    inner_fs = None if integrator.kind == "verlet" else settings.inner_fs
    resources = Resources(threads=settings.threads)
    return start.stepper(settings.level, integrator.step_fs, inner_fs, resources, correction)


def _reference(start: Start, settings: MtsSettings) -> dict[str, Array]:
    """Positions by time, in fs, before each mark: {"12.25": (n_atoms, 3) A, ...}."""
    stepper = _stepper(start, Integrator("verlet", settings.inner_fs), settings)
    state = stepper.begin(start.positions, start.velocities)
    kept = {}
    for step in range(1, round(settings.marks_fs[-1] / settings.inner_fs) + 1):
        stepper.step(state)
        time = step * settings.inner_fs
        if any(mark - KEPT_FS < time <= mark + 1e-9 for mark in settings.marks_fs):
            kept[_key(time)] = state.positions.tolist()
    return kept


def _key(time_fs: float) -> str:
    return f"{time_fs:.6g}"


class _Run:
    """A trajectory under way, with its energies and costs, step by step."""

    def __init__(self, start: Start, stepper: Stepper):
        self._start = start
        self.stepper = stepper
        self.state: State = stepper.begin(start.positions, start.velocities)
        self._energies = [self._energy()]
        self._seconds: list[float] = []
        self._cpu_seconds: list[float] = []
        self._builds: list[int] = []
        self._residuals: list[float] = []

    def step(self) -> None:
        with timed() as clock:
            self.stepper.step(self.state)
        self._seconds.append(clock.wall_s)
        self._cpu_seconds.append(clock.cpu_s)
        assert self.state.evaluation is not None
        self._builds.append(self.state.evaluation.scf_cycles)
        self._residuals.append(root_mean_square(self.state.forces - self.state.inner_forces))
        self._energies.append(self._energy())

    def _energy(self) -> float:
        """Potential plus kinetic energy, eV."""
        assert self.state.evaluation is not None
        kinetic = kinetic_energy(self._start.body.masses, self.state.velocities)
        return self.state.evaluation.energy + kinetic

    def energies_per_atom(self) -> np.ndarray:
        """Total energies, meV/atom."""
        return 1000.0 * np.array(self._energies) / self._start.molecule.n_atoms

    def figures(self) -> Figures:
        step_fs = self.stepper.step_fs
        late = slice(min(_WARM_UP, len(self._builds) // 2), None)
        has_inner = self.stepper.inner_engine is not None
        return Figures(
            residual=root_mean_square(self._residuals) if has_inner else None,
            energy_std=float(self.energies_per_atom().std()),
            calls_per_fs=1.0 / step_fs,
            builds_per_fs=float(np.mean(self._builds[late])) / step_fs,
            s_per_fs=float(np.median(self._seconds[late])) / step_fs,
            cpu_s_per_fs=float(np.median(self._cpu_seconds[late])) / step_fs,
        )


def _follow(run: _Run, reference: dict[str, Array], settings: MtsSettings) -> Followed:
    """Distance from the reference, energies and cost along the compared length."""
    step_fs = run.stepper.step_fs
    marks = {int(mark / step_fs + 1e-9): mark for mark in settings.marks_fs}
    distances = []
    for step in range(1, int(settings.length_fs / step_fs + 1e-9) + 1):
        run.step()
        if step in marks:
            time = step * step_fs
            square = np.sum((run.state.positions - np.array(reference[_key(time)])) ** 2, axis=1)
            distances.append(Distance(marks[step], time, float(np.sqrt(square.mean()))))
    return Followed(distances=distances, **asdict(run.figures()))


def _drift(run: _Run, settings: MtsSettings) -> Drift:
    step_fs = run.stepper.step_fs
    for _ in range(int(settings.drift_fs / step_fs + 1e-9)):
        run.step()
    energies = run.energies_per_atom()
    drift, error = drift_with_error(step_fs * np.arange(len(energies)), energies)
    return Drift(
        length_fs=settings.drift_fs, drift=drift,
        drift_error=error if math.isfinite(error) else None,  # JSON has no infinity
        **asdict(run.figures()),
    )  # fmt: skip


def _stock_ratios(settings: MtsSettings) -> dict[str, float]:
    """Stock over ours per evaluation, of the `speed aimd` result, by molecule."""
    if settings.aimd is None:
        return {}
    found = read_document(settings.aimd, "aimd").results
    figures = parsed(dict[str, AimdFigures], found, str(settings.aimd))
    return {name: one.ratio for name, one in figures.items()}


def rows(settings: MtsSettings, results: Results) -> list[Row]:
    """One row a molecule and integrator; the drift is that of the longest trajectory."""
    return summarise(results, _stock_ratios(settings))


def summarise(results: Results, stock_ratios: dict[str, float]) -> list[Row]:
    """The rows, from results and the ratios of stock over ours per evaluation by molecule."""
    found = []
    keys = list(results.document.results)
    for key in keys:
        name, part = key.split("/", 1)
        if part in ("start", "reference", "learning") or " drift " in part:
            continue
        one = results.read(key, Followed)
        drifts = [results.read(k, Drift) for k in keys if k.startswith(f"{key} drift ")]
        longest = max(drifts, key=lambda drift: drift.length_fs, default=None)
        usual = f"{name}/verlet 0.5"
        verlet = results.read(usual, Followed) if usual in keys else None
        stock = stock_ratios.get(name)
        found.append(
            Row(
                molecule=name,
                integrator=part,
                drift=longest and longest.drift,
                drift_error=longest and longest.drift_error,
                drift_length_fs=longest and longest.length_fs,
                rmsd_ratio=verlet and verlet.distances[-1].rmsd / one.distances[-1].rmsd,
                stock_ratio=verlet and stock and stock * verlet.s_per_fs / one.s_per_fs,
                **vars(one),
            )
        )
    return found


def tables(settings: MtsSettings, results: Results) -> list[Table]:
    """One row a molecule and integrator."""
    found = rows(settings, results)
    marks = sorted({one.mark_fs for row in found for one in row.distances})
    columns = {
        "molecule": "{molecule}",
        "integrator, fs": "{integrator}",
        "calls/fs": "{calls_per_fs:.2f}",
        "builds/fs": "{builds_per_fs:.2f}",
        "s/fs": "{s_per_fs:.3f}",
        f"RMSD at {' / '.join(f'{mark:g}' for mark in marks)} fs, A": "{rmsds}",
        "Verlet 0.5's RMSD over it": "{rmsd_ratio:.1f}",
        "energy std, meV/atom": "{energy_std:.2f}",
        "drift, meV/atom/ps": "{drift_text}",
        "residual, eV/A": "{residual:.1e}",
        "stock / ours": "{stock_ratio:.1f}",
    }
    title = (
        f"Integrators against velocity Verlet {settings.inner_fs:g} fs, {settings.level}, NVE; "
        "stock / ours: per simulated fs, stock with Verlet 0.5 fs"
    )
    taught = {
        key.removesuffix("/learning"): results.read(key, StoredCorrection).learning
        for key in results.document.results
        if key.endswith("/learning")
    }
    learned = {
        "molecule": "{0}",
        "labels (with stretched bonds)": "{1.n_labels} ({1.n_seeds})",
        "fs of dynamics": "{1.length_fs:g}",
        "CPU s": "{1.cpu_s:.1f}",
    }
    return [
        Table.of(title, columns, found),
        Table.of("What integrator learned was taught before", learned, taught.items()),
    ]
