"""`tg80 singlepoint`: energy and forces of one structure at a level of theory."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from pipelines.calculators import formula, make_engine
from pipelines.engine import Evaluation, Resources
from tg80.cli_support import JsonOption
from tg80.constants import EV_PER_ANGSTROM_PER_HARTREE_PER_BOHR, EV_PER_HARTREE
from tg80.errors import UserError
from tg80.theory import LEVELS, Level, atomic_number_of, get_level, symbols_of

# Below this distance, in A, atoms are taken for a mistake: H2 is 0.74 A long.
_COINCIDENT_A = 0.3

LARGEST_COORDINATE = 1000.0  # angstrom; no molecule that is accepted reaches so far


def singlepoint(
    file: Annotated[Path, typer.Argument(help="Structure in XYZ format, angstrom.")],
    level: Annotated[
        str, typer.Option(help=f"Level of theory: {', '.join(LEVELS)}.")
    ] = "pbe-def2svp",
    charge: Annotated[int, typer.Option(help="Total charge, e.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    json_output: JsonOption = False,
) -> None:
    """Compute energy, forces, dipole and charges of one structure.

    Example: tg80 singlepoint water.xyz --level pbe-def2svp --json
    """
    chosen = get_level(level)
    numbers, positions = read_xyz(file)
    try:
        engine = make_engine(chosen, numbers, charge, Resources(threads=threads))
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    evaluation = engine.evaluate(positions)
    solution = getattr(engine, "last_solution", None)
    gradient_norm = None if solution is None else solution.gradient_norm
    if json_output:
        print(json.dumps(_report(evaluation, chosen, numbers, positions, charge, gradient_norm)))
    else:
        _print_tables(evaluation, chosen, numbers, charge)


def read_xyz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Atomic numbers (n_atoms,) and positions (n_atoms, 3) A of an XYZ file with one structure.

    Raises:
        UserError: the file is missing, no XYZ, or no molecule (fewer than two atoms, atoms on top
            of each other, coordinates that are no finite numbers).
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder; give one XYZ file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file; give an XYZ file") from None
    if not any(line.strip() for line in lines):
        raise UserError(f"{path}: empty; give an XYZ file")
    n_atoms = _atom_count(path, lines[0])
    body = [line for line in lines[2:] if line.strip()]
    if len(body) != n_atoms:
        more = "; give one structure a file" if len(body) > n_atoms else ""
        raise UserError(
            f"{path}: line 1 promises {n_atoms} atoms, {len(body)} atom lines follow{more}"
        )
    atoms = [_atom(path, i + 3, line) for i, line in enumerate(lines[2:]) if line.strip()]
    numbers = np.array([number for number, _ in atoms])
    positions = np.array([position for _, position in atoms])
    _refuse_coincident(path, positions)
    return numbers, positions


def _atom_count(path: Path, line: str) -> int:
    try:
        n_atoms = int(line.split()[0])
    except (ValueError, IndexError):
        raise UserError(
            f"{path}: line 1 must be the number of atoms, as in every XYZ file, not {line[:40]!r}"
        ) from None
    if n_atoms < 2:
        raise UserError(
            f"{path}: {n_atoms} atom(s); a molecule has 2 or more (isolated-atom energies belong "
            "to the level: they are in its settings)"
        )
    return n_atoms


def _atom(path: Path, line_number: int, line: str) -> tuple[int, list[float]]:
    words = line.split()
    place = f"{path}: line {line_number}"
    if len(words) < 4:
        raise UserError(f"{place}: expected an element and three coordinates, not {line[:60]!r}")
    try:
        number = int(words[0]) if words[0].isdigit() else atomic_number_of(words[0].capitalize())
    except KeyError:
        number = 0
    if not 1 <= number <= 118:
        raise UserError(f"{place}: {words[0]!r} is no element")
    try:
        position = [float(word) for word in words[1:4]]
    except ValueError:
        raise UserError(f"{place}: coordinates must be three numbers in angstrom") from None
    if not np.isfinite(position).all():
        raise UserError(f"{place}: coordinates are not finite")
    if np.abs(position).max() > LARGEST_COORDINATE:
        raise UserError(
            f"{place}: a coordinate beyond {LARGEST_COORDINATE:g} angstrom; check units"
        )
    return number, position


def _refuse_coincident(path: Path, positions: np.ndarray) -> None:
    distances = np.linalg.norm(positions[:, None] - positions[None, :], axis=2)
    distances[np.diag_indices(len(positions))] = np.inf
    if distances.min() < _COINCIDENT_A:
        first, second = np.unravel_index(distances.argmin(), distances.shape)
        raise UserError(
            f"{path}: atoms {first + 1} and {second + 1} are {distances.min():.2f} A apart; "
            "correct the structure (coordinates in angstrom)"
        )


def _report(
    evaluation: Evaluation,
    level: Level,
    numbers: np.ndarray,
    positions: np.ndarray,
    charge: int,
    gradient_norm: float | None,
) -> dict[str, Any]:
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


def _print_tables(evaluation: Evaluation, level: Level, numbers: np.ndarray, charge: int) -> None:
    console = Console()
    cycles = f"{evaluation.scf_cycles} cycles" if evaluation.scf_cycles >= 0 else "converged"
    console.print(f"{formula(numbers)}, charge {charge:+d}, {level.name} ({cycles})")
    summary = Table(show_header=False)
    hartree = evaluation.energy / EV_PER_HARTREE
    summary.add_row("energy", f"{hartree:.8f} hartree", f"{evaluation.energy:.6f} eV")
    summary.add_row("HOMO-LUMO gap", f"{evaluation.gap:.3f} eV", "")
    dipole = np.asarray(evaluation.dipole)
    summary.add_row(
        "dipole", f"{np.linalg.norm(dipole):.4f} e A", " ".join(f"{x:.4f}" for x in dipole)
    )
    console.print(summary)
    table = Table("atom", "Mulliken charge, e", "fx, eV/A", "fy", "fz")
    for symbol, mulliken, force in zip(
        symbols_of(numbers), evaluation.charges, evaluation.forces, strict=True
    ):
        table.add_row(symbol, f"{mulliken:.4f}", *(f"{component:.5f}" for component in force))
    console.print(table)
