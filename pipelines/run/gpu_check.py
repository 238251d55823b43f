"""One evaluation on the GPU against one on the CPU, before a run trusts the GPU.

`python -m pipelines.run.gpu_check` reads the level and the geometries as JSON on standard input and
answers in JSON; `check_in_own_process` calls it so, since a process that has used CUDA once keeps
its memory and can't start workers cleanly.
"""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass

import numpy as np

from pipelines.conformers import embed_one
from pipelines.engines.dft.gpu_devices import find_gpus
from pipelines.engines.engine import Engine, Resources
from pipelines.engines.registry import make_engine
from tg80.chemistry.molecule import Molecule
from tg80.constants import EV_PER_ANGSTROM_PER_HARTREE_PER_BOHR, EV_PER_HARTREE
from tg80.errors import RunFailed, Tg80Error, UserError
from tg80.theory import Level, get_level

MAX_ENERGY_HARTREE = 1e-6
MAX_FORCE_HARTREE_PER_BOHR = 1e-5
# Both sides are converged well below what they may differ by: forces err by about the gradient,
# energies by its square. A tighter energy threshold would be below a GPU's summation noise.
_CHECK_GRADIENT = 1e-6
_CHECK_ENERGY_HARTREE = 1e-9


@dataclass(frozen=True)
class Geometry:
    """One molecule where it is to be compared.

    Attributes:
        name: for messages.
        atomic_numbers: (n_atoms,).
        charge: e.
        positions: (n_atoms, 3) A, as nested tuples.
    """

    name: str
    atomic_numbers: tuple[int, ...]
    charge: int
    positions: tuple[tuple[float, ...], ...]


def prepare_run(level: str | Level, molecules: list[Molecule]) -> int:
    """Find the GPUs and hold one against the CPU before a run starts.

    Energy and forces are compared for the smallest molecules that together contain every element
    of the run, in a process of its own: the caller stays free of CUDA.

    Args:
        level: level of theory of the run.
        molecules: compounds of the run.

    Returns:
        Number of GPUs; 0 for GFN2-xTB, which runs on the CPU on any device.

    Raises:
        UserError: no usable GPU4PySCF or no CUDA device.
        RunFailed: GPU and CPU differ by more than 1e-6 hartree or 1e-5 hartree/bohr.
    """
    level = get_level(level) if isinstance(level, str) else level
    if level.method == "xtb":
        return 0
    n_gpus = find_gpus()
    check_in_own_process(level, representatives(molecules))
    return n_gpus


def representatives(molecules: list[Molecule]) -> list[Geometry]:
    """Small molecules of the list that together hold all its elements, each in one conformer.

    Args:
        molecules: compounds of a run.

    Raises:
        RunFailed: a molecule could not be embedded.
    """
    wanted = set().union(*(molecule.elements for molecule in molecules)) if molecules else set()
    by_size = sorted(molecules, key=lambda molecule: (sum(molecule.atomic_numbers), molecule.name))
    chosen = []
    while wanted:
        best = max(by_size, key=lambda molecule: len(wanted & molecule.elements))
        chosen.append(best)
        wanted -= best.elements
    return [
        Geometry(
            molecule.name,
            tuple(int(number) for number in molecule.atomic_numbers),
            molecule.charge,
            tuple(tuple(map(float, row)) for row in embed_one(molecule)),
        )
        for molecule in chosen
    ]


def check_against_cpu(level: Level, geometry: Geometry, engine: Engine | None = None) -> None:
    """Compare energy and forces of the GPU with the CPU's at one geometry.

    Args:
        level: level of theory; both sides converge it further than a trajectory does.
        geometry: where.
        engine: what is to be compared with the CPU, at `tightened(level)`; the GPU if None.

    Raises:
        UserError: no usable GPU4PySCF or no CUDA device.
        RunFailed: they differ by more than 1e-6 hartree or 1e-5 hartree/bohr.
    """
    tight = tightened(level)
    numbers, charge = geometry.atomic_numbers, geometry.charge
    positions = np.array(geometry.positions)
    if engine is None:
        engine = make_engine(tight, numbers, charge, Resources(device="cuda"))
    ours = engine.evaluate(positions)
    cpu = make_engine(tight, numbers, charge).evaluate(positions)
    _compare(
        f"{geometry.name} at {level.name}",
        "hartree",
        np.array([ours.energy, cpu.energy]) / EV_PER_HARTREE,
        MAX_ENERGY_HARTREE,
    )
    forces = np.stack([ours.forces, cpu.forces]) / EV_PER_ANGSTROM_PER_HARTREE_PER_BOHR
    atom, axis = np.unravel_index(np.argmax(np.abs(forces[0] - forces[1])), ours.forces.shape)
    _compare(
        f"{geometry.name} at {level.name}, force on atom {atom + 1} along {'xyz'[axis]}",
        "hartree/bohr",
        forces[:, atom, axis],
        MAX_FORCE_HARTREE_PER_BOHR,
    )


def _compare(what: str, unit: str, pair: np.ndarray, allowed: float) -> None:
    gpu, cpu = pair
    if not abs(gpu - cpu) <= allowed:  # NaN, too
        raise RunFailed(
            f"{what}: the GPU gives {gpu:.9f} {unit}, the CPU {cpu:.9f}: {abs(gpu - cpu):.1e} "
            f"apart, {allowed:.0e} allowed; this GPU or GPU4PySCF can't be trusted: use "
            "--device cpu"
        )


def tightened(level: Level) -> Level:
    """The level, converged far enough that a comparison to 1e-5 hartree/bohr means something."""
    assert level.gradient_threshold is not None and level.energy_threshold_hartree is not None
    return level.customised(
        gradient_threshold=min(level.gradient_threshold, _CHECK_GRADIENT),
        energy_threshold_hartree=min(level.energy_threshold_hartree, _CHECK_ENERGY_HARTREE),
    )


def check_in_own_process(level: Level, geometries: list[Geometry]) -> None:
    """`check_against_cpu` for each geometry, in one other process that then ends.

    Raises:
        UserError, RunFailed: as `check_against_cpu`; RunFailed also if that process dies.
    """
    question = {
        "level": level.model_dump(mode="json"),
        "geometries": [asdict(geometry) for geometry in geometries],
    }
    answer = subprocess.run(
        [sys.executable, "-m", "pipelines.run.gpu_check"],
        input=json.dumps(question),
        capture_output=True,
        text=True,
    )
    lines = answer.stdout.strip().splitlines()
    if not lines or not lines[-1].startswith("{"):
        reason = (answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"])[-1]
        raise RunFailed(f"the check of the GPU against the CPU broke off: {reason}")
    result = json.loads(lines[-1])
    if "error" in result:
        raise (UserError if result["user"] else RunFailed)(result["error"])


def _answer(question: dict) -> dict:
    try:
        level = Level.model_validate(question["level"])
        for geometry in question["geometries"]:
            check_against_cpu(level, Geometry(**geometry))
    except Tg80Error as error:
        return {"error": str(error), "user": isinstance(error, UserError)}
    return {"checked": len(question["geometries"])}


if __name__ == "__main__":
    print(json.dumps(_answer(json.load(sys.stdin))))
