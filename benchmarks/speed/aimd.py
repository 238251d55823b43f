"""Stock PySCF against our engine along one trajectory, step by step in turns.

Our engine drives velocity Verlet; both sides then evaluate the very same geometries, one after the
other, and take turns in going first. So whatever else the machine does meets both alike.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from pydantic import Field

from benchmarks.speed.starts import Start, thermal_start
from benchmarks.speed.stock import Integrals, StockPySCF, StockResult
from benchmarks.speed.timing import summary, timed
from pipelines.dynamics.integrators import State, Stepper
from pipelines.engines.engine import Engine, Resources
from tg80.chemistry.molecule import Molecule
from tg80.console import Table
from tg80.constants import EV_PER_ANGSTROM_PER_HARTREE_PER_BOHR, EV_PER_HARTREE
from tg80.theory import get_level
from tg80.untrusted.limits import BoundedModel

REFERENCE_LEVEL = "pbe-def2svp-exact"
# Converged far beyond the level's thresholds: what is left of a difference is the SCF's noise.
TIGHT = {"energy_threshold_hartree": 1e-11, "gradient_threshold": 1e-7}

Say = Callable[[str], None]


class AimdSettings(BoundedModel):
    """What is timed.

    Attributes:
        level: level of theory of both sides.
        threads: CPU threads of either side.
        step_fs: velocity Verlet step between timed geometries, fs.
        steps: timed geometries in a stretch.
        repeats: stretches of the trajectory, one after another.
        warm_up: steps of ours alone before each stretch: the first fill its memory of geometries,
            the others lie between two stretches.
        outer_fs: outer steps of multiple time stepping that are timed too, fs.
        inner_fs: their inner step, fs.
        checks: geometries compared with the tightly converged level.
        references: how many of these are compared with the reference level as well.
        equilibration_fs: GFN2-xTB dynamics before the trajectory.
        stock_integrals: how stock PySCF comes by its three-centre integrals (see `StockPySCF`).
        seed: of the start.
    """

    level: str = "pbe-def2svp"
    threads: int = Field(default=1, ge=1)
    step_fs: float = Field(default=0.5, gt=0, le=2)
    steps: int = Field(default=10, ge=1)
    repeats: int = Field(default=3, ge=1)
    warm_up: int = Field(default=12, ge=1)
    outer_fs: tuple[float, ...] = (1.0, 2.0)
    inner_fs: float = Field(default=0.25, gt=0)
    checks: int = Field(default=6, ge=0)
    references: int = Field(default=2, ge=0)
    equilibration_fs: float = Field(default=500.0, ge=0)
    stock_integrals: Integrals = "every-cycle"
    seed: int = Field(default=0, ge=0)


def measure(molecule: Molecule, settings: AimdSettings, say: Say = lambda text: None) -> dict:
    """All figures of one molecule, JSON-able; energies in hartree, forces in hartree/bohr."""
    say(f"{molecule.name}: start")
    start = thermal_start(molecule, equilibration_fs=settings.equilibration_fs, seed=settings.seed)
    run = _SideBySide(start, settings)
    for repeat in range(settings.repeats):
        say(f"{molecule.name}: stretch {repeat + 1} of {settings.repeats}")
        run.stretch(repeat)
        run.outer_steps()
    result = {"molecule": molecule.name, "n_atoms": molecule.n_atoms, **run.figures()}
    say(f"{molecule.name}: accuracy")
    return result | {"accuracy": run.accuracy(say)}


class _SideBySide:
    """Both sides of one molecule and what was measured of them."""

    def __init__(self, start: Start, settings: AimdSettings):
        self.start = start
        self.settings = settings
        self.level = get_level(settings.level)
        self.resources = Resources(threads=settings.threads)
        self.ours = _Timed(start.engine(self.level, self.resources))
        self.stock = StockPySCF(
            self.level, start.molecule.atomic_numbers, start.molecule.charge,
            n_threads=settings.threads, integrals=settings.stock_integrals,
        )  # fmt: skip
        self.stepper = Stepper(start.body, self.ours, settings.step_fs)
        self.state: State | None = None
        self.rows: list[dict[str, float]] = []
        self.pairs: list[tuple[np.ndarray, StockResult, StockResult]] = []
        self.outer: dict[float, list[dict[str, float]]] = {}
        self.parts: dict[str, float] = {}

    def stretch(self, repeat: int) -> None:
        """Warms both sides up, then times them step by step."""
        if self.state is None:
            self.state = self.stepper.begin(self.start.positions, self.start.velocities)
        for _ in range(self.settings.warm_up):
            self.stepper.step(self.state)
        self.stock.evaluate(self.state.positions)
        before = self._parts_now()
        for step in range(self.settings.steps):
            self._time_one(repeat, stock_first=step % 2 == 0)
        for name, seconds in self._parts_now().items():
            self.parts[name] = self.parts.get(name, 0.0) + seconds - before.get(name, 0.0)

    def _time_one(self, repeat: int, *, stock_first: bool) -> None:
        assert self.state is not None
        # Ours is timed inside the stepper; so that stock can go first at the same geometry, it is
        # called from there.
        taken: list[tuple[StockResult, float, float]] = []

        def stock(positions: np.ndarray) -> None:
            with timed() as clock:
                result = self.stock.evaluate(positions)
            taken.append((result, clock.wall_s, clock.cpu_s))

        self.ours.before = stock if stock_first else None
        self.stepper.step(self.state)
        self.ours.before = None
        if not stock_first:
            stock(self.state.positions)
        result, wall, cpu = taken[0]
        ours = _as_hartree(self.state)
        self.pairs.append((self.state.positions.copy(), result, ours))
        self.rows.append(
            {
                "repeat": repeat,
                "stock_s": wall,
                "ours_s": self.ours.wall_s,
                "stock_cpu_s": cpu,
                "ours_cpu_s": self.ours.cpu_s,
                "stock_cycles": result.cycles,
                "fock_builds": ours.cycles,
                "energy_difference": ours.energy - result.energy,
                "force_max": float(np.abs(ours.forces - result.forces).max()),
                "force_rms": _rms(ours.forces - result.forces),
            }
        )

    def outer_steps(self) -> None:
        """Time whole outer steps of multiple time stepping, from where the trajectory stands."""
        assert self.state is not None
        inner = self.start.engine("gfn2-xtb")
        for outer_fs in self.settings.outer_fs:
            engine = _Timed(self.start.engine(self.level, self.resources))
            stepper = Stepper(self.start.body, engine, outer_fs, inner, self.settings.inner_fs)
            state = stepper.begin(self.state.positions, self.state.velocities)
            for _ in range(self.settings.warm_up):
                stepper.step(state)
            rows = self.outer.setdefault(outer_fs, [])
            for _ in range(self.settings.steps):
                with timed() as clock:
                    stepper.step(state)
                assert state.evaluation is not None
                rows.append(
                    {
                        "wall_s": clock.wall_s,
                        "cpu_s": clock.cpu_s,
                        "fock_builds": state.evaluation.scf_cycles,
                    }
                )

    def _parts_now(self) -> dict[str, float]:
        return dict(getattr(self.ours.engine, "timings", {}))

    def _column(self, name: str) -> np.ndarray:
        return np.array([row[name] for row in self.rows], dtype=float)

    def figures(self) -> dict[str, Any]:
        """Time, their ratios, and how far the two sides are apart."""
        stock, ours = self._column("stock_s"), self._column("ours_s")
        ratio_of_repeats = [
            float(np.median(stock[of]) / np.median(ours[of]))
            for of in (self._column("repeat") == i for i in range(self.settings.repeats))
        ]
        n_steps = len(self.rows)
        return {
            "stock_s_per_step": summary(stock),
            "ours_s_per_step": summary(ours),
            "stock_cycles": float(self._column("stock_cycles").mean()),
            "fock_builds": float(self._column("fock_builds").mean()),
            "ratio": float(np.median(stock / ours)),
            "ratio_spread": summary(stock / ours),
            "ratio_of_repeats": ratio_of_repeats,
            "ratio_cpu": float(np.median(self._column("stock_cpu_s") / self._column("ours_cpu_s"))),
            "per_fs": [self._per_fs(outer_fs, rows) for outer_fs, rows in self.outer.items()],
            "ours_parts_s": {name: seconds / n_steps for name, seconds in self.parts.items()},
            "against_stock": {
                "energy_max": float(np.abs(self._column("energy_difference")).max()),
                "force_max": float(self._column("force_max").max()),
                "force_rms": float(np.sqrt(np.mean(self._column("force_rms") ** 2))),
            },
            "steps": self.rows,
        }  # fmt: skip

    def _per_fs(self, outer_fs: float, rows: list[dict[str, float]]) -> dict[str, float]:
        """Seconds per simulated fs, stock with Verlet `step_fs` over ours with this outer step."""
        wall = float(np.median([row["wall_s"] for row in rows])) / outer_fs
        cpu = float(np.median([row["cpu_s"] for row in rows])) / outer_fs
        return {
            "outer_fs": outer_fs,
            "inner_fs": self.settings.inner_fs,
            "ours_s_per_fs": wall,
            "stock_s_per_fs": float(np.median(self._column("stock_s"))) / self.settings.step_fs,
            "fock_builds": float(np.mean([row["fock_builds"] for row in rows])),
            "ratio": float(np.median(self._column("stock_s"))) / self.settings.step_fs / wall,
            "ratio_cpu": float(np.median(self._column("stock_cpu_s")))
            / self.settings.step_fs
            / cpu,
        }

    def accuracy(self, say: Say) -> dict[str, Any]:
        """Both sides against the tightly converged level and against the reference level."""
        n = min(self.settings.checks, len(self.pairs))
        chosen = [self.pairs[i] for i in np.linspace(0, len(self.pairs) - 1, n).astype(int)]
        tight = self.start.engine(self.level.customised(**TIGHT), self.resources)
        noise, errors = _Differences(), _Differences()
        for positions, stock, ours in chosen:
            tight.reset()
            noise.add(stock, ours, _result(tight.evaluate(positions)))
        exact = get_level(REFERENCE_LEVEL)
        reference = StockPySCF(
            exact, self.start.molecule.atomic_numbers, self.start.molecule.charge,
            n_threads=self.settings.threads,
            energy_threshold=exact.energy_threshold_hartree or 1e-10,
            gradient_threshold=exact.gradient_threshold,
        )  # fmt: skip
        for i, (positions, stock, ours) in enumerate(chosen[: self.settings.references]):
            say(f"{self.start.molecule.name}: reference {i + 1}")
            errors.add(stock, ours, reference.evaluate(positions))
        return {
            "scf_noise": noise.figures(),
            "against_exact": errors.figures() | {"level": REFERENCE_LEVEL},
        }


class _Timed:
    """An engine that notes how long its last evaluation took."""

    def __init__(self, engine: Engine):
        self.engine = engine
        self.level = engine.level
        self.before: Callable[[np.ndarray], None] | None = None
        self.wall_s = self.cpu_s = float("nan")

    def evaluate(self, positions: np.ndarray):
        if self.before is not None:
            self.before(positions)
        with timed() as clock:
            evaluation = self.engine.evaluate(positions)
        self.wall_s, self.cpu_s = clock.wall_s, clock.cpu_s
        return evaluation

    def state(self) -> dict[str, np.ndarray]:
        return self.engine.state()

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        self.engine.load_state(state)

    def reset(self) -> None:
        self.engine.reset()


class _Differences:
    """Energy and force differences of both sides from something better, geometry by geometry."""

    def __init__(self):
        self._ours: list[tuple[float, np.ndarray]] = []
        self._stock: list[tuple[float, np.ndarray]] = []

    def add(self, stock: StockResult, ours: StockResult, better: StockResult) -> None:
        for result, into in ((ours, self._ours), (stock, self._stock)):
            into.append((result.energy - better.energy, result.forces - better.forces))

    def figures(self) -> dict[str, Any]:
        if not self._ours:
            return {"n": 0}
        return {"n": len(self._ours), "ours": _figures(self._ours), "stock": _figures(self._stock)}


def _figures(differences: list[tuple[float, np.ndarray]]) -> dict[str, float]:
    forces = np.stack([force for _, force in differences])
    return {
        "energy_max": max(abs(energy) for energy, _ in differences),
        "force_max": float(np.abs(forces).max()),
        "force_rms": _rms(forces),
    }


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _result(evaluation) -> StockResult:
    """An engine's evaluation in hartree and bohr."""
    forces = evaluation.forces / EV_PER_ANGSTROM_PER_HARTREE_PER_BOHR
    return StockResult(evaluation.energy / EV_PER_HARTREE, forces, evaluation.scf_cycles)


def _as_hartree(state: State) -> StockResult:
    assert state.evaluation is not None
    return _result(state.evaluation)


def aimd_sheets(document: dict[str, Any]) -> list[Table]:
    """The tables of `atom-bench speed aimd`."""
    settings, molecules = document["settings"], list(document["results"].values())
    threads = f"{settings['threads']} thread{'s' if settings['threads'] > 1 else ''}"
    sheets = [
        Table(
            f"Seconds per energy + forces, {settings['level']}, {threads}, "
            f"{settings['step_fs']:g} fs steps (medians; stock's integrals: "
            f"{settings['stock_integrals']})",
            ("molecule", "stock s (cycles)", "ours s (builds)", "stock / ours", "quartiles",
             "by repeat", "by CPU time"),
            [_speed_row(one) for one in molecules],
        ),
        Table(
            f"Seconds per simulated fs, {threads}: stock, Verlet {settings['step_fs']:g} fs, over "
            "ours with multiple time steps",
            ("molecule", "outer / inner fs", "stock s/fs", "ours s/fs", "builds per call",
             "stock / ours", "by CPU time"),
            [_per_fs_row(one["molecule"], row) for one in molecules for row in one["per_fs"]],
        ),
        Table(
            "Differences, hartree and hartree/bohr (largest; RMS)",
            ("molecule", "of", "from", "energy", "force max", "force RMS", "geometries"),
            [row for one in molecules for row in _accuracy_rows(one)],
        ),
    ]  # fmt: skip
    if any(one["ours_parts_s"] for one in molecules):
        sheets.append(_parts_sheet(molecules))
    return [sheet for sheet in sheets if sheet.rows]


def _speed_row(one: dict[str, Any]) -> list[str]:
    spread = one["ratio_spread"]
    return [
        one["molecule"],
        f"{one['stock_s_per_step']['median']:.3f} ({one['stock_cycles']:.1f})",
        f"{one['ours_s_per_step']['median']:.3f} ({one['fock_builds']:.1f})",
        f"{one['ratio']:.1f}",
        f"{spread['quartile_1']:.1f}-{spread['quartile_3']:.1f}",
        " ".join(f"{ratio:.1f}" for ratio in one["ratio_of_repeats"]),
        f"{one['ratio_cpu']:.1f}",
    ]


def _per_fs_row(name: str, row: dict[str, float]) -> list[str]:
    return [
        name, f"{row['outer_fs']:g} / {row['inner_fs']:g}", f"{row['stock_s_per_fs']:.3f}",
        f"{row['ours_s_per_fs']:.3f}", f"{row['fock_builds']:.1f}", f"{row['ratio']:.1f}",
        f"{row['ratio_cpu']:.1f}",
    ]  # fmt: skip


def _accuracy_rows(one: dict[str, Any]) -> list[list[str]]:
    name, accuracy = one["molecule"], one["accuracy"]
    rows = [_difference_row(name, "ours", "stock", one["against_stock"], len(one["steps"]))]
    for key, better in (("scf_noise", "same level, tight"), ("against_exact", "exact J, grid 5")):
        for side in ("ours", "stock"):
            if side in accuracy[key]:
                n = accuracy[key]["n"]
                rows.append(_difference_row(name, side, better, accuracy[key][side], n))
    return rows


def _difference_row(name: str, of: str, better: str, figures: dict, n: int) -> list[str]:
    names = ("energy_max", "force_max", "force_rms")
    return [name, of, better, *(f"{figures[key]:.1e}" for key in names), str(n)]


def _parts_sheet(molecules: list[dict[str, Any]]) -> Table:
    names = list(dict.fromkeys(name for one in molecules for name in one["ours_parts_s"]))
    rows = []
    for one in molecules:
        parts = one["ours_parts_s"]
        rest = one["ours_s_per_step"]["mean"] - sum(parts.values())
        figures = [f"{parts.get(name, 0.0):.3f}" for name in names]
        rows.append([one["molecule"], *figures, f"{rest:.3f}"])
    return Table("Where ours goes, seconds per step (means)", ("molecule", *names, "rest"), rows)
