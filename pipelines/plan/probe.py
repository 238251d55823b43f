"""Timings of one molecule: start geometry, GFN2-xTB steps, steps at the level.

Each molecule is timed in a process of its own, so that its peak memory is its own, too. The clock
is that of the process: what other programs take of the core is told apart, not counted.
"""

import importlib
import math
import multiprocessing
import os
import resource
import signal
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from pipelines.conformers import start_geometry
from pipelines.dynamics.inner_potential import (
    CorrectedEngine,
    largest_correction,
    stretch_hydrogens,
)
from pipelines.dynamics.integrators import Body, State, Stepper
from pipelines.dynamics.learner import allowed_outer_steps
from pipelines.dynamics.steppers import equilibration_thermostat, level_stepper, xtb_stepper
from pipelines.dynamics.thermostats import thermal_velocities
from pipelines.engines.engine import Resources
from pipelines.recipe import Recipe
from tg80.chemistry.mechanics import degrees_of_freedom, is_linear
from tg80.chemistry.molecule import Molecule
from tg80.chemistry.permutations import feasible_permutations
from tg80.errors import RunFailed, Tg80Error
from tg80.theory import Level, symbols_of

# Steps before the clock starts: the density predictor has its whole memory then.
WARM_UP_STEPS = 12
XTB_STEPS = 200
USUAL_RESIDUAL = 0.01  # eV/A: ethanol, benzene and uracil show less after 170 labels


@dataclass(frozen=True)
class Probe:
    """What was timed of one molecule.

    Attributes:
        name: the molecule.
        size: its number of basis functions, or of atoms at the xTB level.
        geometry_s: search of the start conformer, s.
        xtb_step_s: one step of GFN2-xTB dynamics, s.
        level_step_s: one step at the level, s: the median of `level_steps_s`.
        level_steps_s: every timed step; with `learned`, of `usual_step_fs`.
        restart_s: what a segment costs beyond its steps: engines made anew, memory loaded.
        peak_memory_bytes: most memory the process had at any time.
        wall_over_cpu: time of the wall clock over that of the process; 1 on an idle machine.
        label_s: level and GFN2-xTB at a geometry far from the last, s; 0 where nothing is learned.
        fit_s: one fit to as many labels as it takes at most, s; 0 where nothing is learned.
    """

    name: str
    size: int
    geometry_s: float
    xtb_step_s: float
    level_step_s: float
    level_steps_s: tuple[float, ...]
    restart_s: float
    peak_memory_bytes: int
    wall_over_cpu: float
    label_s: float = 0.0
    fit_s: float = 0.0

    @property
    def relative_error(self) -> float:
        """Relative standard error of `level_step_s`; that of the mean."""
        n = len(self.level_steps_s)
        if n < 2:
            return 0.0
        return statistics.stdev(self.level_steps_s) / self.level_step_s / math.sqrt(n)


def usual_step_fs(recipe: Recipe) -> float:
    """Time between evaluations of the level in most of a run; with `learned` it is assumed."""
    if recipe.integrator != "learned":
        return recipe.first_step_fs
    return max(step.fs for step in allowed_outer_steps(recipe) if step.limit >= USUAL_RESIDUAL)


def size_of(molecule: Molecule, level: Level) -> int:
    """Basis functions of a molecule at a Kohn-Sham level; atoms at the xTB level."""
    if level.method == "xtb":
        return molecule.n_atoms
    assert level.basis is not None
    return sum(_n_functions(symbol, level.basis) for symbol in symbols_of(molecule.atomic_numbers))


@cache
def _n_functions(symbol: str, basis: str) -> int:
    from pyscf import gto

    return gto.M(atom=symbol, basis=basis, spin=None, verbose=0, parse_arg=False).nao


def probe(molecule: Molecule, recipe: Recipe, resources: Resources, n_steps: int) -> Probe:
    """Time a molecule in this process, on real dynamics at the recipe's temperature.

    Args:
        molecule: the compound.
        recipe: settings of the run.
        resources: what an evaluation may use.
        n_steps: steps at the level that are timed, after `WARM_UP_STEPS` that are not.

    Raises:
        RunFailed: a computation failed.
    """
    rng = np.random.default_rng(0)
    clock = time.process_time
    wall, first = time.perf_counter(), clock()
    start = start_geometry(
        molecule,
        n_conformers=recipe.n_conformers,
        n_relaxed=recipe.n_relaxed,
        choice=recipe.conformers,
        temperature_k=recipe.temperature_k,
        seed=recipe.seed,
    )
    geometry_s = clock() - first
    masses = molecule.masses
    linear = is_linear(masses, start.positions)
    body = Body(masses, degrees_of_freedom(masses, start.positions), linear)
    cheap = xtb_stepper(recipe, molecule, body)
    state, xtb_s = _thermalised(cheap, start.positions, recipe, rng)
    stepper = level_stepper(recipe, molecule, body, resources)
    fit_s = (
        _correct(stepper, molecule, start.positions, rng) if recipe.integrator == "learned" else 0.0
    )
    state = stepper.begin(state.positions, state.velocities)
    n_inner = round(usual_step_fs(recipe) / stepper.inner_step_fs)
    for _ in range(WARM_UP_STEPS):
        stepper.step(state, n_inner)
    steps_s = [_timed(lambda: stepper.step(state, n_inner)) for _ in range(n_steps)]
    step_s = statistics.median(steps_s)
    begin = clock()
    fresh = level_stepper(recipe, molecule, body, resources)
    fresh.engine.load_state(stepper.engine.state())
    fresh.step(state, n_inner)
    restart_s = max(0.0, clock() - begin - step_s)
    label_s = 0.0
    if fit_s:
        numbers = np.array(molecule.atomic_numbers)
        far = [stretch_hydrogens(state.positions, numbers, rng) for _ in range(2)]
        label_s = statistics.mean(_timed(lambda x=x: stepper.engine.evaluate(x)) for x in far)
    return Probe(
        name=molecule.name,
        size=size_of(molecule, recipe.resolved_level()),
        geometry_s=geometry_s,
        xtb_step_s=xtb_s,
        level_step_s=step_s,
        level_steps_s=tuple(steps_s),
        restart_s=restart_s,
        peak_memory_bytes=peak_memory_bytes(),
        wall_over_cpu=(time.perf_counter() - wall) / (clock() - first),
        label_s=label_s,
        fit_s=fit_s,
    )


def _thermalised(
    stepper: Stepper, positions: np.ndarray, recipe: Recipe, rng: np.random.Generator
) -> tuple[State, float]:
    """A state after `XTB_STEPS` of NVT, and the time of one such step, s."""
    body, kelvin = stepper.body, recipe.temperature_k
    # From a relaxed structure half of the kinetic energy goes into the potential energy.
    state = stepper.begin(positions, thermal_velocities(body, positions, 2.0 * kelvin, rng))
    thermostat = equilibration_thermostat(recipe, body)
    begin = time.process_time()
    for _ in range(XTB_STEPS):
        stepper.step(state)
        thermostat.apply(state, stepper.step_fs, rng)
    return state, (time.process_time() - begin) / XTB_STEPS


def _correct(
    stepper: Stepper, molecule: Molecule, positions: np.ndarray, rng: np.random.Generator
) -> float:
    """Give the inner potential the largest correction, and return the time of its fit, s."""
    assert isinstance(stepper.inner_engine, CorrectedEngine)
    permutations = feasible_permutations(molecule, positions)
    begin = time.process_time()
    stepper.inner_engine.correction = largest_correction(positions, permutations, rng)
    return time.process_time() - begin


def _timed(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def peak_memory_bytes() -> int:
    """The most memory this process has had, bytes."""
    # A spawned process inherits its parent's peak in getrusage, so Linux is asked otherwise.
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def probe_apart(molecule: Molecule, recipe: Recipe, resources: Resources, n_steps: int) -> Probe:
    """`probe` in a fresh process with as many threads as the resources say.

    Raises:
        RunFailed: a computation failed, or the process was killed.
    """
    threads = str(resources.threads)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = threads
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    arguments = (theirs, molecule, recipe, resources, n_steps)
    process = context.Process(target=_answer, args=arguments, daemon=True)
    process.start()
    theirs.close()
    try:
        answer = ours.recv()
    except EOFError:
        process.join()
        raise RunFailed(
            f"{molecule.name}: the process that timed it ended with code {process.exitcode}; "
            "is there enough memory?"
        ) from None
    finally:
        process.terminate()
        process.join()
    if isinstance(answer, str):
        raise RunFailed(answer)
    return answer


def _answer(pipe, *arguments) -> None:
    """The process: sends the probe, or why there is none."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process on Ctrl-C
    importlib.import_module("distributed")  # every worker has it in its memory
    try:
        pipe.send(probe(*arguments))
    except Tg80Error as error:
        pipe.send(str(error))
