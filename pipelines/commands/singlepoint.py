"""`tg80 singlepoint`: energy and forces of one structure at a level of theory."""

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from tg80.chemistry.xyz import read_xyz
from tg80.console import JsonOption, Table, print_tables
from tg80.constants import EV_PER_ANGSTROM_PER_HARTREE_PER_BOHR, EV_PER_HARTREE
from tg80.errors import UserError
from tg80.theory import LEVELS, Level, get_level, symbols_of
from tg80.untrusted.documents import print_json
from tg80.untrusted.limits import MOST_THREADS

if TYPE_CHECKING:
    from pipelines.engines.engine import Evaluation


def singlepoint(
    file: Annotated[Path, typer.Argument(help="One structure in XYZ or extended XYZ, angstrom.")],
    level: Annotated[
        str, typer.Option(help=f"Level of theory: {', '.join(LEVELS)}.")
    ] = "pbe-def2svp",
    charge: Annotated[
        int | None,
        typer.Option(help="Total charge, e.", show_default="charge= of the comment line, or 0"),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, max=MOST_THREADS, help="CPU threads.")] = 1,
    json_output: JsonOption = False,
) -> None:
    """Compute energy, forces, dipole and charges of one structure.

    Example: tg80 singlepoint water.xyz --level pbe-def2svp --json
    """
    from pipelines.engines.engine import Resources
    from pipelines.engines.registry import make_engine
    from pipelines.engines.threads import in_another_thread

    chosen = get_level(level)
    structure = read_xyz(file, charge)
    numbers, positions, charge = structure.atomic_numbers, structure.positions, structure.charge
    try:
        engine = make_engine(chosen, numbers, charge, Resources(threads=threads))
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    evaluation = in_another_thread(engine.evaluate, positions)
    solution = getattr(engine, "last_solution", None)
    gradient_norm = None if solution is None else solution.gradient_norm
    if json_output:
        print_json(_report(evaluation, chosen, numbers, positions, charge, gradient_norm))
    else:
        _print_tables(evaluation, chosen, numbers, charge)


def _report(
    evaluation: "Evaluation",
    level: Level,
    numbers: np.ndarray,
    positions: np.ndarray,
    charge: int,
    gradient_norm: float | None,
) -> dict[str, Any]:
    from pipelines.engines.engine import formula

    forces = evaluation.forces
    return {
        "formula": formula(numbers),
        "charge": charge,
        "symbols": symbols_of(numbers),
        "positions_angstrom": positions.tolist(),
        "energy_hartree": evaluation.energy / EV_PER_HARTREE,
        "energy_ev": evaluation.energy,
        "forces_hartree_per_bohr": (forces / EV_PER_ANGSTROM_PER_HARTREE_PER_BOHR).tolist(),
        "forces_ev_per_angstrom": forces.tolist(),
        "dipole_e_angstrom": np.asarray(evaluation.dipole).tolist(),
        "mulliken_charges": np.asarray(evaluation.charges).tolist(),
        "homo_lumo_gap_ev": evaluation.gap if np.isfinite(evaluation.gap) else None,
        "converged": evaluation.converged,
        "cycles": evaluation.scf_cycles if evaluation.scf_cycles >= 0 else None,
        "gradient_norm_hartree": gradient_norm,
        "level": level.model_dump(mode="json"),
        "versions": {name: version(name) for name in ("tg80", "pyscf", "tblite", "numpy")},
    }


def _print_tables(evaluation: "Evaluation", level: Level, numbers: np.ndarray, charge: int) -> None:
    from pipelines.engines.engine import formula

    cycles = f"{evaluation.scf_cycles} cycles" if evaluation.scf_cycles >= 0 else "converged"
    hartree, dipole = evaluation.energy / EV_PER_HARTREE, np.asarray(evaluation.dipole)
    components = " ".join(f"{x:.4f}" for x in dipole)
    print(f"{formula(numbers)}, charge {charge:+d}, {level.name} ({cycles})")
    print(f"energy: {hartree:.8f} hartree, {evaluation.energy:.6f} eV")
    print(f"HOMO-LUMO gap: {evaluation.gap:.3f} eV")
    print(f"dipole: {np.linalg.norm(dipole):.4f} e A ({components})")
    rows = [
        (symbol, f"{mulliken:.4f}", *(f"{component:.5f}" for component in force))
        for symbol, mulliken, force in zip(
            symbols_of(numbers), evaluation.charges, evaluation.forces, strict=True
        )
    ]
    print_tables([Table("", ("atom", "Mulliken charge, e", "fx, eV/A", "fy", "fz"), rows)])
