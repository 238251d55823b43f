"""Accuracy and cost of the integrators: velocity Verlet and multiple time steps, NVE at 300 K.

All integrators start from one and the same thermal state. The trajectory to be followed is that of
velocity Verlet with the inner time step, at the same level of theory.

References:
    Tuckerman, Berne, Martyna, doi:10.1063/1.463137 (r-RESPA).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from benchmarks.speed.results_file import ResultsFile
from benchmarks.speed.starts import Start, thermal_start
from benchmarks.speed.timing import timed
from pipelines.dynamics.integrators import State, Stepper
from pipelines.engines.engine import Resources
from tg80.chemistry.mechanics import kinetic_energy
from tg80.chemistry.molecule import Molecule
from tg80.console import Table
from tg80.errors import UserError
from tg80.shards.quality import drift_with_error
from tg80.untrusted.limits import BoundedModel

MARKS_FS = (20.0, 50.0, 100.0)
# The reference's positions are kept this long before each mark: an outer step that doesn't divide
# the mark is compared at its last step before it.
_KEPT_FS = 5.0
# Steps whose costs don't count: the predictor has no history yet.
_WARM_UP = 10

Say = Callable[[str], None]


@dataclass(frozen=True)
class Integrator:
    """`verlet`, or `mts` whose inner step is that of the settings; the (outer) step in fs."""

    kind: str
    step_fs: float

    @property
    def name(self) -> str:
        return f"{self.kind} {self.step_fs:g}"


def parse_integrators(text: str, inner_fs: float) -> list[Integrator]:
    """The integrators of a list such as `verlet:0.5,mts:1.0`.

    Raises:
        UserError: something else, or a step that is no multiple of the inner step.
    """
    found = []
    for item in (part.strip() for part in text.split(",") if part.strip()):
        kind, _, step = item.partition(":")
        try:
            integrator = Integrator(kind, float(step))
        except ValueError:
            integrator = Integrator(kind, -1.0)
        if kind not in ("verlet", "mts") or not 0 < integrator.step_fs <= _KEPT_FS:
            raise UserError(
                f"--integrators: {item!r} is no integrator; write verlet:0.5 or mts:1.0, steps up "
                f"to {_KEPT_FS:g} fs"
            )
        if not _divides(inner_fs, integrator.step_fs):
            raise UserError(
                f"--integrators: {item!r}: {integrator.step_fs:g} fs is no multiple of --inner-fs "
                f"{inner_fs:g}"
            )
        found.append(integrator)
    if not found:
        raise UserError("--integrators names none: write, for example, verlet:0.5,mts:1.0")
    return found


def _divides(small: float, large: float) -> bool:
    return abs(large / small - round(large / small)) < 1e-9


class MtsSettings(BoundedModel):
    """What decides the figures of an integrator.

    Attributes:
        level: level of theory.
        threads: CPU threads.
        inner_fs: inner time step, and the step of the reference trajectory, fs.
        length_fs: length of the trajectories that are compared, fs.
        equilibration_fs: GFN2-xTB dynamics before the start.
        seed: of the start.
    """

    level: str = "pbe-def2svp"
    threads: int = Field(default=1, ge=1)
    inner_fs: float = Field(default=0.25, gt=0, le=1)
    length_fs: float = Field(default=100.0, ge=5)
    equilibration_fs: float = Field(default=500.0, ge=0)
    seed: int = Field(default=0, ge=0)

    @property
    def marks_fs(self) -> tuple[float, ...]:
        """Times at which positions are compared, fs."""
        return tuple(mark for mark in MARKS_FS if mark <= self.length_fs) or (self.length_fs,)


def measure(
    molecule: Molecule,
    integrators: list[Integrator],
    settings: MtsSettings,
    drift_fs: float,
    store: ResultsFile,
    say: Say = lambda text: None,
) -> None:
    """Put all figures of one molecule into the store, part by part.

    Args:
        molecule: the compound.
        integrators: what is compared.
        settings: how.
        drift_fs: length of the trajectories that the drift is taken from, fs; 0 for none.
        store: what is there already is not done again.
        say: tells what is being done.
    """

    def once(part: str, work: Callable[[], Any]) -> Any:
        def told() -> Any:
            say(f"{molecule.name}: {part}")
            return work()

        return store.get(f"{molecule.name}/{part}", told)

    start = _start_from(molecule, once("start", lambda: _start(molecule, settings)))
    reference = once("reference", lambda: _reference(start, settings))
    for integrator in integrators:
        once(integrator.name, lambda one=integrator: _follow(start, one, reference, settings))
        if drift_fs > 0:
            part = f"{integrator.name} drift {drift_fs:g} fs"
            once(part, lambda one=integrator: _drift(start, one, drift_fs, settings))


def _start(molecule: Molecule, settings: MtsSettings) -> dict[str, Any]:
    start = thermal_start(
        molecule, equilibration_fs=settings.equilibration_fs, seed=settings.seed
    )  # fmt: skip
    return {"positions": start.positions.tolist(), "velocities": start.velocities.tolist()}


def _start_from(molecule: Molecule, stored: dict[str, Any]) -> Start:
    return Start(molecule, np.array(stored["positions"]), np.array(stored["velocities"]))


def _stepper(start: Start, integrator: Integrator, settings: MtsSettings) -> Stepper:
    engine = start.engine(settings.level, Resources(threads=settings.threads))
    if integrator.kind == "verlet":
        return Stepper(start.body, engine, integrator.step_fs)
    inner = start.engine("gfn2-xtb")
    return Stepper(start.body, engine, integrator.step_fs, inner, settings.inner_fs)


def _energy(start: Start, state: State) -> float:
    """Potential plus kinetic energy, eV."""
    assert state.evaluation is not None
    return state.evaluation.energy + kinetic_energy(start.body.masses, state.velocities)


def _reference(start: Start, settings: MtsSettings) -> dict[str, list]:
    """Positions by time, in fs, before each mark: {"12.25": (n_atoms, 3) A, ...}."""
    stepper = _stepper(start, Integrator("verlet", settings.inner_fs), settings)
    state = stepper.begin(start.positions, start.velocities)
    kept = {}
    for step in range(1, round(settings.marks_fs[-1] / settings.inner_fs) + 1):
        stepper.step(state)
        time = step * settings.inner_fs
        if any(mark - _KEPT_FS < time <= mark + 1e-9 for mark in settings.marks_fs):
            kept[_key(time)] = state.positions.tolist()
    return kept


def _key(time_fs: float) -> str:
    return f"{time_fs:.6g}"


def _follow(
    start: Start, integrator: Integrator, reference: dict[str, list], settings: MtsSettings
) -> dict[str, Any]:
    """Distance from the reference, energies and cost along the compared length."""
    step_fs = integrator.step_fs
    comparisons = {int(mark / step_fs + 1e-9): mark for mark in settings.marks_fs}
    stepper = _stepper(start, integrator, settings)
    run = _Run(start, stepper)
    distances = []
    for step in range(1, int(settings.length_fs / step_fs + 1e-9) + 1):
        run.step()
        if step in comparisons:
            there = np.array(reference[_key(step * step_fs)])
            square = np.sum((run.state.positions - there) ** 2, axis=1)
            distances.append(
                {
                    "mark_fs": comparisons[step],
                    "time_fs": step * step_fs,
                    "rmsd": float(np.sqrt(square.mean())),
                }
            )
    return {"distances": distances, **run.figures()}


def _drift(
    start: Start, integrator: Integrator, length_fs: float, settings: MtsSettings
) -> dict[str, Any]:
    """Drift of the total energy along a long trajectory, meV/atom/ps; no error if too short."""
    run = _Run(start, _stepper(start, integrator, settings))
    for _ in range(int(length_fs / integrator.step_fs + 1e-9)):
        run.step()
    energies = 1000.0 * np.array(run.energies) / start.molecule.n_atoms
    drift, error = drift_with_error(integrator.step_fs * np.arange(len(energies)), energies)
    known = math.isfinite(error)  # JSON has no infinity
    return {
        "length_fs": length_fs, "drift": drift, "drift_error": error if known else None,
        **run.figures(),
    }  # fmt: skip


class _Run:
    """A trajectory under way, with its energies and costs, step by step."""

    def __init__(self, start: Start, stepper: Stepper):
        self._start = start
        self._stepper = stepper
        self.state = stepper.begin(start.positions, start.velocities)
        self.energies = [_energy(start, self.state)]
        self._seconds: list[float] = []
        self._cpu_seconds: list[float] = []
        self._builds: list[int] = []

    def step(self) -> None:
        with timed() as clock:
            self._stepper.step(self.state)
        self._seconds.append(clock.wall_s)
        self._cpu_seconds.append(clock.cpu_s)
        assert self.state.evaluation is not None
        self._builds.append(self.state.evaluation.scf_cycles)
        self.energies.append(_energy(self._start, self.state))

    def figures(self) -> dict[str, float]:
        """Energy fluctuation, and costs per simulated fs past the first steps."""
        step_fs = self._stepper.step_fs
        late = slice(min(_WARM_UP, len(self._builds) // 2), None)
        energies = 1000.0 * np.array(self.energies) / self._start.molecule.n_atoms
        return {
            "energy_std": float(energies.std()),
            "calls_per_fs": 1.0 / step_fs,
            "builds_per_fs": float(np.mean(self._builds[late])) / step_fs,
            "s_per_fs": float(np.median(self._seconds[late])) / step_fs,
            "cpu_s_per_fs": float(np.median(self._cpu_seconds[late])) / step_fs,
        }


def summarise(document: dict[str, Any], aimd: dict[str, Any] | None) -> list[dict[str, Any]]:
    """One row a molecule and integrator: accuracy and cost, beside Verlet 0.5 fs and stock.

    `stock_ratio` is the cost per simulated fs of stock PySCF with Verlet 0.5 fs over this row's.
    It joins two ratios that were each taken within one run: stock over ours per evaluation (of the
    `aimd` result), and ours with Verlet 0.5 fs over this integrator per fs.

    Args:
        document: of `atom-bench speed mts`.
        aimd: of `atom-bench speed aimd`, or None.

    Returns:
        Rows with `molecule`, `integrator`, the stored figures, `drift` and `drift_error` of the
        longest trajectory (None without), `rmsd_ratio` (Verlet 0.5 fs over this one, last mark)
        and `stock_ratio` (both None where there is nothing to compare with).
    """
    results = document["results"]
    rows = []
    for key, value in results.items():
        name, part = key.split("/", 1)
        if part in ("start", "reference") or " drift " in part:
            continue
        longest = max(
            (other for k, other in results.items() if k.startswith(f"{key} drift ")),
            key=lambda other: other["length_fs"],
            default={},
        )
        usual = results.get(f"{name}/verlet 0.5")
        rows.append(
            {
                "molecule": name, "integrator": part, **value,
                "drift": longest.get("drift"), "drift_error": longest.get("drift_error"),
                "drift_length_fs": longest.get("length_fs"),
                "rmsd_ratio": _rmsd_ratio(usual, value),
                "stock_ratio": _stock_ratio(usual, value, _speed_up(aimd, name)),
            }
        )  # fmt: skip
    return rows


def _rmsd_ratio(usual: dict | None, value: dict) -> float | None:
    if usual is None:
        return None
    return usual["distances"][-1]["rmsd"] / value["distances"][-1]["rmsd"]


def _stock_ratio(usual: dict | None, value: dict, speed_up: float | None) -> float | None:
    if usual is None or speed_up is None:
        return None
    return speed_up * usual["s_per_fs"] / value["s_per_fs"]


def _speed_up(aimd: dict[str, Any] | None, name: str) -> float | None:
    measured = (aimd or {"results": {}})["results"].get(name)
    return None if measured is None else measured["ratio"]


def mts_sheets(document: dict[str, Any]) -> list[Table]:
    """The table of `atom-bench speed mts`."""
    marks = sorted({d["mark_fs"] for row in document["rows"] for d in row["distances"]})
    times = " / ".join(f"{mark:g}" for mark in marks)
    heading = (
        "molecule", "integrator, fs", "calls/fs", "builds/fs", "s/fs", f"RMSD at {times} fs, A",
        "Verlet 0.5's RMSD over it", "energy std, meV/atom", "drift, meV/atom/ps", "stock / ours",
    )  # fmt: skip
    title = (
        f"Integrators against velocity Verlet {document['settings']['inner_fs']:g} fs, "
        f"{document['settings']['level']}, NVE; stock / ours: per simulated fs, stock with Verlet "
        "0.5 fs"
    )
    return [Table(title, heading, [_mts_row(row) for row in document["rows"]])]


def _mts_row(row: dict[str, Any]) -> list[str]:
    error = row["drift_error"]
    drift = "" if error is None else f"{row['drift']:+.3f} ± {error:.3f}"
    return [
        row["molecule"], row["integrator"], f"{row['calls_per_fs']:.2f}",
        f"{row['builds_per_fs']:.2f}", f"{row['s_per_fs']:.3f}",
        " / ".join(f"{one['rmsd']:.1e}" for one in row["distances"]),
        _ratio(row["rmsd_ratio"]), f"{row['energy_std']:.2f}", drift, _ratio(row["stock_ratio"]),
    ]  # fmt: skip


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
