"""The integrator of a recipe with its engines: what moves one molecule from step to step."""

from pipelines.dynamics.inner_potential import CorrectedEngine
from pipelines.dynamics.integrators import Body, Stepper
from pipelines.dynamics.thermostats import Thermostat, make_thermostat
from pipelines.engines.engine import Resources
from pipelines.engines.registry import make_engine
from pipelines.recipe import Recipe
from tg80.chemistry.molecule import Molecule


def level_stepper(
    recipe: Recipe, molecule: Molecule, body: Body, resources: Resources | None = None
) -> Stepper:
    """The stepper of the recipe's production, with fresh engines.

    Args:
        recipe: level of theory, integrator and time steps; `learned` begins as `mts`.
        molecule: the compound.
        body: its masses and degrees of freedom.
        resources: what an evaluation at the level may use.

    Raises:
        UserError: the level does not cover the molecule.
    """
    level = recipe.resolved_level()
    if level.method == "xtb":
        return xtb_stepper(recipe, molecule, body)
    numbers, charge = molecule.atomic_numbers, molecule.charge
    engine = make_engine(level, numbers, charge, resources)
    if recipe.integrator == "verlet":
        return Stepper(body, engine, recipe.verlet_step_fs)
    inner = make_engine("gfn2-xtb", numbers, charge)
    if recipe.integrator == "learned":
        inner = CorrectedEngine(inner)
    return Stepper(body, engine, recipe.first_step_fs, inner, recipe.inner_step_fs)


def xtb_stepper(recipe: Recipe, molecule: Molecule, body: Body) -> Stepper:
    """The stepper of GFN2-xTB dynamics, with a fresh engine."""
    engine = make_engine("gfn2-xtb", molecule.atomic_numbers, molecule.charge)
    return Stepper(body, engine, recipe.verlet_step_fs)


def equilibration_thermostat(recipe: Recipe, body: Body) -> Thermostat:
    """The thermostat of both equilibrations."""
    name = recipe.equilibration_thermostat or "bussi"
    thermostat = make_thermostat(name, body, recipe.temperature_k, recipe.equilibration_time_fs)
    assert thermostat is not None
    return thermostat
