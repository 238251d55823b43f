"""From a molecule to the geometry its trajectory starts from.

ETKDGv3 conformers, cleaned with MMFF94, the best of them relaxed with GFN2-xTB; the lowest whose
bonds are still those of the SMILES is kept, with its Hessian.
"""

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.optimize import BFGS
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from pipelines.engines.ase import EngineCalculator
from pipelines.engines.engine import Engine
from pipelines.engines.registry import make_engine
from tg80.chemistry.bonds import graph_changes
from tg80.chemistry.mechanics import centre_of_mass
from tg80.chemistry.molecule import Molecule
from tg80.constants import BOLTZMANN_EV_PER_K, EV_PER_KCAL_PER_MOL
from tg80.errors import RunFailed

FORCE_TOLERANCE = 2e-3  # eV/A; the Hessian wants a geometry that is really relaxed
MAX_STEPS = 1000
HESSIAN_STEP = 5e-3  # A
FLAT = 0.02  # eV/A^2; overall rotation of a relaxed geometry is less curved than that
SIDESTEP = 0.1  # A, along the mode that leads down from a saddle point
MOST_SADDLES = 4
SAME_ENERGY = 2e-3  # eV; MMFF minima closer than this are taken for one and the same


@dataclass(frozen=True)
class StartGeometry:
    """The start conformer.

    Attributes:
        positions: (n_atoms, 3) A, relaxed with GFN2-xTB, centre of mass at the origin.
        energy: GFN2-xTB energy there, eV.
        hessian: (3 n_atoms, 3 n_atoms) eV/A^2, GFN2-xTB.
        n_candidates: relaxed conformers it was chosen from.
    """

    positions: np.ndarray
    energy: float
    hessian: np.ndarray
    n_candidates: int


def start_geometry(
    molecule: Molecule,
    *,
    n_conformers: int,
    n_relaxed: int,
    choice: str,
    temperature_k: float,
    seed: int,
) -> StartGeometry:
    """The conformer a trajectory starts from.

    Args:
        molecule: the compound.
        n_conformers: conformers to embed.
        n_relaxed: how many of them, best by force field, are relaxed with GFN2-xTB.
        choice: `lowest` energy, or `boltzmann` for a draw by Boltzmann weights.
        temperature_k: of the Boltzmann weights.
        seed: of embedding and draw.

    Raises:
        RunFailed: nothing could be embedded, or no conformer relaxes and keeps its bonds.
    """
    engine = make_engine("gfn2-xtb", molecule.atomic_numbers, molecule.charge)
    relaxed = []
    failure: RunFailed | None = None
    for positions in _embed(molecule, n_conformers, n_relaxed, seed):
        try:
            energy, final = relax(molecule, engine, positions)
        except RunFailed as error:  # the others may do
            failure = error
            continue
        if not _reacted(molecule, positions, final):
            relaxed.append((energy, final))
    if not relaxed:
        if failure is not None:
            raise failure
        raise RunFailed(
            f"{molecule.name}: every conformer changes its bonds when relaxed with GFN2-xTB; this "
            "tautomer or zwitterion is not a stable gas-phase structure"
        )
    energies = np.array([energy for energy, _ in relaxed])
    energy, positions = relaxed[_choose(energies, choice, temperature_k, seed)]
    energy, positions, curvature = _leave_saddle(molecule, engine, energy, positions)
    positions = positions - centre_of_mass(molecule.masses, positions)
    return StartGeometry(positions, energy, curvature, len(relaxed))


def _leave_saddle(
    molecule: Molecule, engine: Engine, energy: float, positions: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Energy, positions and Hessian of a minimum, as relaxing keeps the symmetry of its start."""
    for _ in range(MOST_SADDLES):
        curvature = hessian(engine, positions)
        curvatures, modes = np.linalg.eigh(curvature)
        if curvatures[0] > -FLAT:
            break
        aside = positions + SIDESTEP * modes[:, 0].reshape(-1, 3)
        lower, final = relax(molecule, engine, aside)
        if _reacted(molecule, positions, final):
            break
        energy, positions = lower, final
    return energy, positions, curvature


def embed_one(molecule: Molecule, seed: int = 0) -> np.ndarray:
    """A plausible geometry, positions (n_atoms, 3) A, by force field alone and in milliseconds.

    Raises:
        RunFailed: nothing could be embedded.
    """
    return _embed(molecule, 1, 1, seed)[0]


def _reacted(molecule: Molecule, before: np.ndarray, after: np.ndarray) -> bool:
    """Whether relaxing broke a bond, moved a hydrogen or turned a double bond."""
    numbers = np.asarray(molecule.atomic_numbers)
    now = np.zeros(1)
    return bool(graph_changes(now, after[None], numbers, molecule.bonds, before, minimum_fs=0.0))


def _choose(energies: np.ndarray, choice: str, temperature_k: float, seed: int) -> int:
    if choice == "lowest":
        return int(np.argmin(energies))
    weights = np.exp(-(energies - energies.min()) / (BOLTZMANN_EV_PER_K * temperature_k))
    return int(np.random.default_rng(seed).choice(len(energies), p=weights / weights.sum()))


def _embed(molecule: Molecule, n_conformers: int, n_kept: int, seed: int) -> list[np.ndarray]:
    """The force field's best distinct conformers, positions (n_atoms, 3) A, lowest first."""
    mol = molecule.to_rdkit()
    parameters = rdDistGeom.ETKDGv3()
    parameters.randomSeed = seed % (2**31 - 1) or 1  # 0 makes all conformers the same
    parameters.numThreads = 1
    with rdBase.BlockLogs():
        ids = list(rdDistGeom.EmbedMultipleConfs(mol, n_conformers, parameters))
        if not ids:
            parameters.useRandomCoords = True
            ids = list(rdDistGeom.EmbedMultipleConfs(mol, n_conformers, parameters))
        if not ids:
            raise RunFailed(f"{molecule.name}: no 3D structure could be embedded for its SMILES")
        energies = _clean_up(mol)
    kept: list[tuple[float, np.ndarray]] = []
    for energy, index in sorted(zip(energies, ids, strict=True)):
        if not kept or energy - kept[-1][0] > SAME_ENERGY:
            kept.append((energy, np.array(mol.GetConformer(index).GetPositions())))
    return [positions for _, positions in kept[:n_kept]]


def _clean_up(mol: Chem.Mol) -> list[float]:
    """Optimise all conformers in place; energies in eV (MMFF94, or UFF without parameters)."""
    if rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
        results = rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(mol, numThreads=1, maxIters=1000)
    else:
        results = rdForceFieldHelpers.UFFOptimizeMoleculeConfs(mol, numThreads=1, maxIters=1000)
    return [float(energy) * EV_PER_KCAL_PER_MOL for _, energy in results]


def relax(
    molecule: Molecule,
    engine: Engine,
    positions: np.ndarray,
    force_tolerance: float = FORCE_TOLERANCE,
) -> tuple[float, np.ndarray]:
    """Relax a geometry with an engine; energy in eV and positions (n_atoms, 3) A.

    Raises:
        RunFailed: the forces did not fall below `force_tolerance` (eV/A).
    """
    engine.reset()
    atoms = Atoms(numbers=molecule.atomic_numbers, positions=positions)
    atoms.calc = EngineCalculator(engine)
    with BFGS(atoms, logfile=None, maxstep=0.1) as optimizer:
        converged = optimizer.run(fmax=force_tolerance, steps=MAX_STEPS)
    if not converged:
        raise RunFailed(f"{molecule.name}: not relaxed after {MAX_STEPS} steps at {engine.level}")
    return float(atoms.get_potential_energy()), atoms.get_positions()


def hessian(engine: Engine, positions: np.ndarray, step: float = HESSIAN_STEP) -> np.ndarray:
    """Second derivatives of the energy by central differences of the forces.

    Args:
        engine: the method.
        positions: (n_atoms, 3) A.
        step: displacement, A.

    Returns:
        (3 n_atoms, 3 n_atoms) eV/A^2, symmetrised.
    """
    engine.reset()
    size = positions.size
    rows = np.empty((size, size))
    for index in range(size):
        forces = []
        for sign in (1.0, -1.0):
            displaced = positions.copy()
            displaced.flat[index] += sign * step
            forces.append(engine.evaluate(displaced).forces.ravel())
        rows[index] = (forces[1] - forces[0]) / (2.0 * step)
    return 0.5 * (rows + rows.T)
