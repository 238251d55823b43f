"""How far the outer step of the `learned` integrator may go: energy drift by residual and step.

Drifts take picoseconds to show, too long for DFT. So GFN2-xTB with a correction fitted to all PBE
forces of a shard stands in for the level, and the same with one fitted to few labels is the inner
potential. What they differ by costs nothing; the resonances between its kicks and the vibrations
are those of the real pair at the same residual.
"""

from dataclasses import dataclass, replace

import numpy as np

from benchmarks.speed.scaffold import Results, say
from benchmarks.speed.settings import OuterSettings
from pipelines.dynamics.inner_potential import (
    CorrectedEngine,
    KernelCorrection,
    fit_correction,
    stretch_hydrogens,
)
from pipelines.dynamics.integrators import Body, Stepper
from pipelines.dynamics.learner import N_SEEDS, root_mean_square
from pipelines.dynamics.segments import conserved_energy
from pipelines.engines.engine import Engine, Evaluation
from pipelines.engines.registry import make_engine
from tg80.chemistry.mechanics import project_forces
from tg80.chemistry.molecule import molecule_from_smiles
from tg80.chemistry.permutations import feasible_permutations
from tg80.console import Table
from tg80.dataset import load
from tg80.errors import RunFailed, UserError
from tg80.shards.quality import drift_with_error
from tg80.shards.shard import Shard

_BLOCKS = 20  # of the energy, whose means show how far it walks
_LOST = 0.05  # eV/atom: a run whose energy is so far off has failed


@dataclass(frozen=True)
class OuterRun:
    """One NVE run; energies in meV/atom, the residual in eV/A (root mean square)."""

    outer_fs: float
    residual: float
    energy_std: float
    drift: float
    drift_error: float
    walk: float


@dataclass(frozen=True)
class OuterFigures:
    """The runs of one molecule."""

    molecule: str
    n_atoms: int
    n_labels: int
    runs: list[OuterRun]


class _StandIn:
    """GFN2-xTB with a correction; at a geometry that the inner potential has just met, for nothing.

    Attributes:
        level: name of the level it stands in for.
    """

    def __init__(self, inner: "_Remembering", correction: KernelCorrection):
        self.level = inner.level
        self.inner, self.correction = inner, correction

    def evaluate(self, positions: np.ndarray) -> Evaluation:
        energy, forces = self.correction.energy_and_forces(positions)
        found = self.inner.last
        return replace(found, energy=found.energy + energy, forces=found.forces + forces)

    def state(self) -> dict[str, np.ndarray]:
        return {}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        self.reset()

    def reset(self) -> None:
        """Nothing is remembered."""


class _Remembering:
    """GFN2-xTB that remembers its last evaluation."""

    def __init__(self, engine: Engine):
        self.engine, self.level = engine, engine.level
        self.state, self.load_state, self.reset = engine.state, engine.load_state, engine.reset

    def evaluate(self, positions: np.ndarray) -> Evaluation:
        self.last = self.engine.evaluate(positions)
        return self.last


def measure(settings: OuterSettings, results: Results) -> None:
    """All runs of every molecule."""
    dataset = load(settings.data)
    names = settings.molecules.split(",") if settings.molecules else list(dataset)
    for name in (part.strip() for part in names):
        if name not in dataset:
            known = ", ".join(dataset)
            raise UserError(f"--molecules: {settings.data} has no {name!r}; it has {known}")
        shard = dataset[name]
        results.get(name, OuterFigures, lambda shard=shard: _measure_one(shard, settings))


def _measure_one(shard: Shard, settings: OuterSettings) -> OuterFigures:
    name, numbers, masses = shard.metadata.name, shard.atomic_numbers, shard.masses
    body = Body(masses, shard.metadata.degrees_of_freedom, shard.metadata.linear)
    xtb = _Remembering(make_engine("gfn2-xtb", numbers, shard.metadata.charge))
    level, inner = _corrections(shard, body, xtb, settings)
    start = [shard.read(field)[-1].astype(float) for field in ("positions", "velocities")]
    runs = []
    for outer_fs in settings.outer_fs:
        say(f"{name}: {outer_fs:g} fs")
        stepper = Stepper(
            body, _StandIn(xtb, level), outer_fs, CorrectedEngine(xtb, inner), settings.inner_fs
        )
        runs.append(_run(name, stepper, start[0], start[1], settings.length_fs))
    return OuterFigures(name, len(numbers), settings.labels + N_SEEDS, runs)


def _corrections(
    shard: Shard, body: Body, xtb: Engine, settings: OuterSettings
) -> tuple[KernelCorrection, KernelCorrection]:
    """Of the stand-in for the level, and of the inner potential."""
    known = shard.evaluated
    positions = shard.read("positions")[known].astype(float)
    forces = shard.read("forces")[known].astype(float)

    def internal(frames: np.ndarray, forces: np.ndarray) -> np.ndarray:
        pairs = zip(frames, forces, strict=True)
        return np.array([project_forces(body.masses, *one, linear=body.linear)[0] for one in pairs])

    cheap = np.array([xtb.evaluate(frame).forces for frame in positions])
    molecule = molecule_from_smiles(shard.metadata.smiles)
    permutations = feasible_permutations(molecule, positions[0])
    level = fit_correction(positions, internal(positions, forces - cheap), permutations)
    rng = np.random.default_rng(settings.seed)
    spread = [np.linspace(0, len(positions) - 1, n).astype(int) for n in (settings.labels, N_SEEDS)]
    seeds = [stretch_hydrogens(positions[i], shard.atomic_numbers, rng) for i in spread[1]]
    labelled = np.concatenate([positions[spread[0]], seeds])
    wanted = np.array([level.energy_and_forces(frame)[1] for frame in labelled])
    return level, fit_correction(labelled, internal(labelled, wanted), permutations)


def _run(
    name: str, stepper: Stepper, positions: np.ndarray, velocities: np.ndarray, length_fs: float
) -> OuterRun:
    state = stepper.begin(positions, velocities)
    energies, residuals = [], []
    for _ in range(round(length_fs / stepper.step_fs)):
        stepper.step(state)
        energies.append(conserved_energy(stepper.body, state) / len(positions))
        residuals.append(root_mean_square(state.forces - state.inner_forces))
        if not abs(energies[-1] - energies[0]) < _LOST:
            raise RunFailed(f"{name}: energy lost at an outer step of {stepper.step_fs:g} fs")
    values = 1000.0 * np.array(energies)
    drift, error = drift_with_error(stepper.step_fs * np.arange(len(values)), values)
    means = [block.mean() for block in np.array_split(values, _BLOCKS)]
    return OuterRun(
        outer_fs=stepper.step_fs,
        residual=root_mean_square(residuals),
        energy_std=float(values.std()),
        drift=drift,
        drift_error=error,
        walk=float(np.ptp(means)),
    )


def tables(settings: OuterSettings, results: Results) -> list[Table]:
    """One row a molecule and outer step."""
    title = (
        f"Energy of GFN2-xTB with a correction, NVE, {settings.length_fs / 1000:g} ps, "
        f"inner step {settings.inner_fs:g} fs"
    )
    columns = {
        "molecule": "{0.molecule}",
        "labels": "{0.n_labels}",
        "outer fs": "{1.outer_fs:g}",
        "residual, eV/A": "{1.residual:.4f}",
        "energy std, meV/atom": "{1.energy_std:.3f}",
        "drift, meV/atom/ps": "{1.drift:+.3f} ± {1.drift_error:.3f}",
        "walk, meV/atom": "{1.walk:.3f}",
    }
    rows = [(one, run) for one in results.all(OuterFigures) for run in one.runs]
    return [Table.of(title, columns, rows)]
