"""The molecules that are timed and where their trajectories start."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from benchmarks.speed.scaffold import Results
from pipelines.conformers import start_geometry
from pipelines.dynamics.inner_potential import CorrectedEngine, KernelCorrection
from pipelines.dynamics.integrators import Body, Stepper
from pipelines.dynamics.thermostats import BussiThermostat, thermal_velocities
from pipelines.engines.engine import Engine, Resources
from pipelines.engines.registry import make_engine
from tg80.chemistry.lists import default_name, tg80_molecules
from tg80.chemistry.mechanics import degrees_of_freedom, is_linear
from tg80.chemistry.molecule import Molecule, molecule_from_smiles
from tg80.errors import UserError
from tg80.theory import Level

TEMPERATURE_K = 300.0
XTB_STEP_FS = 0.5
THERMOSTAT_FS = 100.0
_SMALL = {"water": "O", "ammonia": "N", "methane": "C"}

T = TypeVar("T")


def find_molecules(names: str) -> list[Molecule]:
    """The molecules of a comma-separated list: names of the 80 compounds, or SMILES.

    Raises:
        UserError: the list is empty, or something in it is neither.
    """
    known = {molecule.name: molecule for molecule in tg80_molecules()}
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if not wanted:
        raise UserError("--molecules names none: give names or SMILES, such as ethanol,benzene")
    found = []
    for name in wanted:
        if name in known:
            found.append(known[name])
            continue
        try:
            molecule = molecule_from_smiles(_SMALL.get(name, name))
        except UserError as error:
            raise UserError(
                f"--molecules: {name!r} is neither a compound of TG80 nor a usable SMILES ({error})"
            ) from None
        called = name if name in _SMALL else default_name(molecule)
        found.append(replace(molecule, name=called))
    return found


@dataclass(frozen=True)
class Start:
    """A thermal state of a molecule, made with GFN2-xTB.

    Attributes:
        molecule: the compound.
        positions: (n_atoms, 3) A.
        velocities: (n_atoms, 3) A/fs, without rigid motion.
    """

    molecule: Molecule
    positions: np.ndarray
    velocities: np.ndarray

    @cached_property
    def body(self) -> Body:
        """Masses and degrees of freedom."""
        masses = self.molecule.masses
        return Body(
            masses, degrees_of_freedom(masses, self.positions), is_linear(masses, self.positions)
        )

    def warmed(self, rng: np.random.Generator) -> "Start":
        """The same geometry with velocities of 300 K."""
        velocities = thermal_velocities(self.body, self.positions, TEMPERATURE_K, rng)
        return replace(self, velocities=velocities)

    def thermostat(self) -> BussiThermostat:
        """What keeps the molecule at 300 K."""
        return BussiThermostat(self.body, TEMPERATURE_K, THERMOSTAT_FS)

    def engine(self, level: Level | str, resources: Resources | None = None) -> Engine:
        """A new engine for the molecule."""
        return make_engine(level, self.molecule.atomic_numbers, self.molecule.charge, resources)

    def stepper(
        self,
        level: Level | str,
        step_fs: float,
        inner_fs: float | None = None,
        resources: Resources | None = None,
        correction: KernelCorrection | None = None,
    ) -> Stepper:
        """Multiple time steps with GFN2-xTB inside, corrected or not; Verlet without `inner_fs`."""
        inner = None if inner_fs is None else CorrectedEngine(self.engine("gfn2-xtb"), correction)
        return Stepper(self.body, self.engine(level, resources), step_fs, inner, inner_fs)


def thermal_start(molecule: Molecule, *, equilibration_fs: float = 500.0, seed: int = 0) -> Start:
    """The relaxed molecule after some GFN2-xTB dynamics at 300 K (NVT, then as it stands)."""
    geometry = start_geometry(
        molecule, n_conformers=10, n_relaxed=3, choice="lowest",
        temperature_k=TEMPERATURE_K, seed=seed,
    )  # fmt: skip
    rng = np.random.default_rng(np.random.SeedSequence([seed, molecule.n_atoms]))
    cold = Start(molecule, geometry.positions, np.zeros_like(geometry.positions))
    *_, last = cheap_dynamics(cold.warmed(rng), equilibration_fs, rng)
    return last


def cheap_dynamics(start: Start, length_fs: float, rng: np.random.Generator) -> Iterator[Start]:
    """GFN2-xTB dynamics at 300 K (NVT): where it starts, then where each step ends."""
    stepper, thermostat = start.stepper("gfn2-xtb", XTB_STEP_FS), start.thermostat()
    state = stepper.begin(start.positions, start.velocities)
    yield replace(start, positions=state.positions, velocities=state.velocities)
    for _ in range(round(length_fs / XTB_STEP_FS)):
        stepper.step(state)
        thermostat.apply(state, XTB_STEP_FS, rng)
        yield replace(start, positions=state.positions, velocities=state.velocities)


def measure_each(
    settings: Any, results: Results, kind: type[T], measure: Callable[[Molecule, Any], T]
) -> None:
    """Put the figures of every molecule of the settings into the results."""
    for molecule in find_molecules(settings.molecules):
        results.get(molecule.name, kind, lambda one=molecule: measure(one, settings))
