"""What a run will cost on this machine, told before it is started.

A few molecules of the list are timed on real steps (`pipelines.plan.probe`). A power law through
them, cost = a * size^b, prices the others; size is the number of basis functions, or of atoms at
the xTB level. Work on one trajectory is sequential, so no number of workers beats the longest one.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib import resources as package_files
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.dynamics.learner import FIRST_LABELS, N_SEEDS, has_seeds, most_fits
from pipelines.engines.engine import Resources
from pipelines.plan.probe import USUAL_RESIDUAL, Probe, probe_apart, size_of, usual_step_fs
from pipelines.recipe import Recipe
from tg80.chemistry.lists import tg80_molecules
from tg80.chemistry.molecule import Molecule
from tg80.shards.fields import AXIS_FIELDS, FRAME_FIELDS, STATIC_FIELDS
from tg80.shards.shard import Shard, expected_shape, find_shards
from tg80.theory import Level

N_PROBES = 4
N_STEPS = 8
FIRST_STEPS = 100  # of the shortest outer step that `learned` is assumed to take


@dataclass(frozen=True)
class PowerLaw:
    """cost = exp(intercept) * size^exponent, fitted by least squares in the logarithms.

    Attributes:
        intercept, exponent: the fit; exponent 0 if all sizes are equal.
        scatter: standard deviation of ln(cost) about the line; None from fewer than three sizes.
        covariance: (2, 2) of intercept and exponent; zero where the scatter is not known.
    """

    intercept: float
    exponent: float
    scatter: float | None
    covariance: np.ndarray

    def __call__(self, size: float) -> float:
        return float(np.exp(self.intercept) * size**self.exponent)

    def relative_error_of_sum(
        self, sizes: Sequence[float], own_errors: Sequence[float | None]
    ) -> float | None:
        """Relative standard error of the sum of the costs of several molecules.

        Args:
            sizes: of every molecule.
            own_errors: relative error of a molecule's own timing, None where the fit is its price.

        Returns:
            None if the scatter is needed and not known.
        """
        cost = np.array([self(size) for size in sizes])
        fitted = np.where([error is None for error in own_errors], cost, 0.0)
        if self.scatter is None and fitted.any():
            return None
        slope = np.array([fitted.sum(), fitted @ np.log(np.asarray(sizes, dtype=float))])
        errors = [self.scatter if error is None else error for error in own_errors]
        variance = slope @ self.covariance @ slope
        variance += sum((c * e) ** 2 for c, e in zip(cost, errors, strict=True) if e is not None)
        return float(np.sqrt(variance) / cost.sum())


def fit_power_law(sizes: Sequence[float], costs: Sequence[float]) -> PowerLaw:
    """The power law through timings; costs that are zero count as a microsecond."""
    x = np.log(np.asarray(sizes, dtype=float))
    y = np.log(np.maximum(np.asarray(costs, dtype=float), 1e-6))
    unknown = np.zeros((2, 2))
    if np.ptp(x) == 0:
        return PowerLaw(float(y.mean()), 0.0, None, unknown)
    design = np.stack([np.ones_like(x), x], axis=1)
    intercept, exponent = map(float, np.linalg.lstsq(design, y, rcond=None)[0])
    n_free = len(x) - 2
    if n_free < 1:
        return PowerLaw(intercept, exponent, None, unknown)
    residuals = y - design @ [intercept, exponent]
    variance = float(residuals @ residuals) / n_free
    covariance = variance * np.linalg.inv(design.T @ design)
    return PowerLaw(intercept, exponent, variance**0.5, covariance)


def by_size(
    molecules: Sequence[Molecule], level: Level, *, largest_first: bool = False
) -> list[Molecule]:
    """The molecules from the cheapest to the dearest, or the other way; equal ones as listed."""
    return sorted(molecules, key=lambda m: size_of(m, level), reverse=largest_first)


def choose_probes(molecules: Sequence[Molecule], level: Level, n_probes: int) -> list[Molecule]:
    """Molecules to time: the smallest, the largest, and others evenly between them by size."""
    ordered = sorted(molecules, key=lambda m: (size_of(m, level), m.name))
    count = min(n_probes, len(ordered))
    if count == 1:
        return ordered[-1:]
    return [ordered[round(i * (len(ordered) - 1) / (count - 1))] for i in range(count)]


@dataclass(frozen=True)
class Cost:
    """What one molecule costs: all its trajectories, one worker.

    Attributes:
        name, n_atoms, size: the molecule.
        measured: whether it was timed itself.
        step_s: one step at the level, the share of restarts included.
        preparation_s: geometry and both equilibrations, before replica 0 starts.
        spacing_s: NVT between the starts of two replicas.
        production_s: production of replica 0.
        later_s: production of each replica after it.
        n_replicas: trajectories.
        memory_bytes: peak of a worker on it.
        shard_bytes: its finished shards.
        work_bytes: files of its equilibrations, which stay until the run's folder is cleaned.
        parts_bytes: part files of one trajectory while it runs.
    """

    name: str
    n_atoms: int
    size: int
    measured: bool
    step_s: float
    preparation_s: float
    spacing_s: float
    production_s: float
    later_s: float
    n_replicas: int
    memory_bytes: int
    shard_bytes: int
    work_bytes: int
    parts_bytes: int

    @property
    def total_s(self) -> float:
        """Worker seconds of everything."""
        later = (self.n_replicas - 1) * (self.spacing_s + self.later_s)
        return self.preparation_s + self.production_s + later

    @property
    def longest_s(self) -> float:
        """Seconds of the longest chain that no second worker can shorten."""
        last = (self.n_replicas - 1) * self.spacing_s + self.later_s
        return self.preparation_s + max(self.production_s, last if self.n_replicas > 1 else 0.0)


@dataclass(frozen=True)
class Totals:
    """What a whole run costs.

    Attributes:
        worker_s: time of a single worker; relative_error is its standard error.
        wall_s: with the list in its order, as `tg80 generate` works through it.
        wall_longest_first_s: with the dearest molecules first.
        longest_trajectory_s: a bound on the wall time with any number of workers.
        memory_bytes: all workers at once on the molecules that need most.
        disk_bytes: shards and what stays beside them.
        peak_disk_bytes: the same with the part files of the trajectories that are under way.
    """

    n_molecules: int
    n_replicas: int
    length_fs: float
    n_workers: int
    worker_s: float
    relative_error: float | None
    wall_s: float
    wall_longest_first_s: float
    longest_trajectory_s: float
    memory_per_worker_bytes: int
    memory_bytes: int
    disk_bytes: int
    peak_disk_bytes: int


@dataclass(frozen=True)
class Plan:
    """The cost of a run.

    Attributes:
        recipe: its settings.
        probes: what was timed.
        costs: every molecule, in the order of the list.
        law: cost of a step at the level by size.
        total: of all molecules.
    """

    recipe: Recipe
    probes: list[Probe]
    costs: list[Cost]
    law: PowerLaw
    total: Totals

    @property
    def busy(self) -> float:
        """Share of the time of the timings that other programs had the core."""
        return 1.0 - 1.0 / max(1.0, *(probe.wall_over_cpu for probe in self.probes))

    @property
    def assumption(self) -> str | None:
        """What is assumed of `learned`, in one line; None for the other integrators."""
        recipe = self.recipe
        if recipe.integrator != "learned":
            return None
        usual = usual_step_fs(recipe)
        why = "" if recipe.outer_step_fs else f": a residual force of {USUAL_RESIDUAL:g} eV/A"
        return (
            f"learned: assumes {_n_seeds(recipe)} labels far apart, {FIRST_STEPS} outer steps of "
            f"{recipe.first_step_fs:g} fs and {usual:g} fs from then on{why}; fits are included"
        )

    def as_dict(self) -> dict[str, Any]:
        """The plan for `--json`."""
        return {
            "level": self.recipe.resolved_level().name,
            "time_step_fs": self.recipe.time_step_fs,
            "outer_step_fs": usual_step_fs(self.recipe),
            "assumption": self.assumption,
            "probes": [asdict(probe) for probe in self.probes],
            "core_share_of_others": self.busy,
            "fit": {
                "prefactor_s": self.law(1.0),
                "exponent": self.law.exponent,
                "scatter_ln": self.law.scatter,
            },
            "molecules": [
                asdict(cost) | {"total_s": cost.total_s, "longest_s": cost.longest_s}
                for cost in self.costs
            ],
            "total": asdict(self.total),
        }


def make_plan(
    molecules: Sequence[Molecule],
    recipe: Recipe,
    n_replicas: int,
    n_workers: int,
    *,
    resources: Resources,
    n_probes: int,
    n_steps: int,
    on_probe: Callable[[str], None],
) -> Plan:
    """Time a few molecules and price the whole list.

    Args:
        molecules: the list, in its order.
        recipe: settings of the run.
        n_replicas: trajectories a molecule.
        n_workers: workers side by side.
        resources: what an evaluation may use.
        n_probes: molecules to time at most.
        n_steps: steps to time of each.
        on_probe: called with a molecule's name before it is timed.

    Raises:
        UserError: the level does not cover a molecule.
        RunFailed: a computation failed.
    """
    resources.check()
    level = recipe.resolved_level()
    for molecule in molecules:
        level.check_molecule(molecule.atomic_numbers, molecule.charge)
    probes = []
    for molecule in choose_probes(molecules, level, n_probes):
        on_probe(molecule.name)
        probes.append(probe_apart(molecule, recipe, resources, n_steps))
    return price(molecules, recipe, n_replicas, n_workers, probes)


def price(
    molecules: Sequence[Molecule],
    recipe: Recipe,
    n_replicas: int,
    n_workers: int,
    probes: list[Probe],
) -> Plan:
    """The plan that follows from timings."""
    level = recipe.resolved_level()
    per_segment = recipe.segment_fs / usual_step_fs(recipe)
    timings = {
        probe.name: {
            "geometry": probe.geometry_s,
            "xtb": probe.xtb_step_s,
            "level": probe.level_step_s + probe.restart_s / per_segment,
            "label": probe.label_s,
            "fit": probe.fit_s,
        }
        for probe in probes
    }
    sizes = [probe.size for probe in probes]
    laws = {
        name: fit_power_law(sizes, [timing[name] for timing in timings.values()])
        for name in ("geometry", "xtb", "level", "label", "fit")
    }
    memory = np.array(sorted((probe.size, probe.peak_memory_bytes) for probe in probes)).T
    costs = []
    for molecule in molecules:
        size = size_of(molecule, level)
        seconds = timings.get(molecule.name) or {name: law(size) for name, law in laws.items()}
        cost = Cost(
            name=molecule.name,
            n_atoms=molecule.n_atoms,
            size=size,
            measured=molecule.name in timings,
            n_replicas=n_replicas,
            memory_bytes=int(np.interp(size, memory[0], memory[1])),
            **_durations(recipe, seconds),
            **_disk(recipe, molecule.n_atoms, n_replicas),
        )
        costs.append(cost)
    own = {probe.name: probe.relative_error for probe in probes}
    error = laws["level"].relative_error_of_sum(
        [cost.size for cost in costs], [own.get(cost.name) for cost in costs]
    )
    largest = sorted((cost.memory_bytes for cost in costs), reverse=True)
    parts = sorted((cost.parts_bytes for cost in costs), reverse=True)
    disk = sum(cost.shard_bytes + cost.work_bytes for cost in costs)
    total = Totals(
        n_molecules=len(costs),
        n_replicas=n_replicas,
        length_fs=recipe.length_fs,
        n_workers=n_workers,
        worker_s=sum(cost.total_s for cost in costs),
        relative_error=error,
        wall_s=wall_time_s(costs, n_workers),
        wall_longest_first_s=wall_time_s(sorted(costs, key=lambda c: -c.longest_s), n_workers),
        longest_trajectory_s=max(cost.longest_s for cost in costs),
        memory_per_worker_bytes=largest[0],
        memory_bytes=sum(largest[:n_workers]),
        disk_bytes=disk,
        peak_disk_bytes=disk + sum(parts[:n_workers]),
    )
    return Plan(recipe, probes, costs, laws["level"], total)


def plan_of_tg80(plan: Plan) -> Plan | None:
    """The plan of the dataset itself, 80 compounds of 32 ps, by the timings of another list.

    Returns:
        None if the timings are of one size only, so that nothing is known of other sizes.
    """
    if len({probe.size for probe in plan.probes}) < 2:
        return None
    lengths = ("length_fs", "equilibration_fs", "pre_equilibration_fs")
    defaults = {name: Recipe.model_fields[name].default for name in lengths}
    recipe = plan.recipe.model_copy(update=defaults)
    # A molecule of the same name in another list may be another compound: go by the fit.
    unnamed = [replace(probe, name=f"probe {i}") for i, probe in enumerate(plan.probes)]
    covered = set(recipe.resolved_level().elements)
    molecules = [molecule for molecule in tg80_molecules() if molecule.elements <= covered]
    return price(molecules, recipe, 1, plan.total.n_workers, unnamed)


def _durations(recipe: Recipe, seconds: dict[str, float]) -> dict[str, float]:
    """Times of a molecule's stages from the costs of its steps."""
    step_s = seconds["level"]
    usual_fs = usual_step_fs(recipe)
    pre = recipe.pre_equilibration_fs / recipe.verlet_step_fs * seconds["xtb"]
    first_fs = 0.0
    if recipe.integrator == "learned":
        first_fs = min(recipe.equilibration_fs, FIRST_STEPS * recipe.first_step_fs)
    n_steps = first_fs / recipe.first_step_fs + (recipe.equilibration_fs - first_fs) / usual_fs
    n_labels = max(FIRST_LABELS, _n_seeds(recipe) + n_steps)

    def onward(length_fs: float) -> float:
        """A stage of that length that follows the equilibration."""
        later = length_fs / usual_fs
        return later * step_s + _fits_s(recipe, n_labels, n_labels + later, seconds)

    learning = _n_seeds(recipe) * seconds["label"] + _fits_s(
        recipe, FIRST_LABELS, n_labels, seconds
    )
    return {
        "step_s": step_s,
        "preparation_s": seconds["geometry"] + pre + n_steps * step_s + learning,
        "spacing_s": onward(recipe.replica_spacing_fs),
        "production_s": onward(recipe.length_fs),
        "later_s": onward(recipe.of_replica(1).length_fs),
    }


def _n_seeds(recipe: Recipe) -> int:
    """Labels of cheap dynamics."""
    return N_SEEDS if recipe.integrator == "learned" and has_seeds(recipe) else 0


def _fits_s(recipe: Recipe, before: float, after: float, seconds: dict[str, float]) -> float:
    """The fits between two numbers of labels."""
    return most_fits(before, after) * seconds["fit"] if recipe.integrator == "learned" else 0.0


def _disk(recipe: Recipe, n_atoms: int, n_replicas: int) -> dict[str, int]:
    frame = raw_bytes(n_atoms, 1) - raw_bytes(n_atoms, 0)
    replicas = [recipe.of_replica(replica) for replica in range(n_replicas)]
    n_frames = [replica.length_fs / replica.store_every_fs + 1 for replica in replicas]
    nvt_fs = recipe.equilibration_fs + (n_replicas - 1) * recipe.replica_spacing_fs
    # Equilibration keeps every step, or frames as the production's, pre-equilibration every 10 fs.
    learned = recipe.integrator == "learned"
    kept_fs = recipe.store_every_fs if learned else recipe.time_step_fs
    n_nvt = nvt_fs / kept_fs + recipe.pre_equilibration_fs / 10.0
    shards = compression() * (n_replicas * raw_bytes(n_atoms, 0) + sum(n_frames) * frame)
    return {
        "shard_bytes": round(shards),
        "work_bytes": round(n_nvt * frame),
        "parts_bytes": round(max(n_frames) * frame),
    }


def raw_bytes(n_atoms: int, n_frames: int) -> int:
    """Bytes of all fields of a shard before compression."""
    return sum(
        int(np.prod(expected_shape(field, n_frames, n_atoms))) * np.dtype(field.dtype).itemsize
        for field in (*FRAME_FIELDS, *AXIS_FIELDS, *STATIC_FIELDS)
    )


@cache
def compression() -> float:
    """Size of the shards that ship with the package over that of their fields."""
    folder = Path(str(package_files.files("tg80"))) / "data" / "mini-xtb"
    stored = raw = 0
    for path in find_shards(folder):
        with Shard(path) as shard:
            stored += path.stat().st_size
            raw += raw_bytes(shard.n_atoms, shard.n_frames)
    return stored / raw


def wall_time_s(costs: Sequence[Cost], n_workers: int) -> float:
    """Wall time of the list on n workers, each free worker taking the first piece that is ready.

    A molecule's preparation comes before its replicas; the production of one replica and the NVT
    before the next can go side by side.
    """
    ready = [(order, 0, False) for order in range(len(costs))]  # a heap, as it is sorted
    running: list[tuple[float, int, int, bool]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < n_workers:
            order, replica, producing = heapq.heappop(ready)
            cost = costs[order]
            first = cost.spacing_s if replica else cost.preparation_s
            production = cost.later_s if replica else cost.production_s
            length = production if producing else first
            heapq.heappush(running, (now + length, order, replica, producing))
        now, order, replica, producing = heapq.heappop(running)
        if not producing:
            heapq.heappush(ready, (order, replica, True))
            if replica + 1 < costs[order].n_replicas:
                heapq.heappush(ready, (order, replica + 1, False))
    return now
