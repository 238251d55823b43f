"""Small shards in the true format, made in a fraction of a second without any electronic structure.

A molecule is a network of springs between all pairs of its atoms, stiff along bonds, softer the
farther apart along the bond graph. The energy depends on distances only, so forces are exactly
-dE/dx, net force and torque vanish, and velocity Verlet conserves energy and both momenta: such a
shard passes `tg80 validate`. Several molecules are integrated side by side as one system.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from ase.data import chemical_symbols

from tg80.chemistry import mechanics
from tg80.chemistry.lists import tg80_molecules
from tg80.chemistry.molecule import Molecule, molecule_from_smiles
from tg80.constants import ACCELERATION, BOLTZMANN_EV_PER_K
from tg80.shards import shard
from tg80.shards.fields import LEVEL_FIELDS, MISSING
from tg80.shards.metadata import ShardMetadata
from tg80.theory import LEVELS

# Spring constants in eV/A^2 by the number of bonds between two atoms (1, 2, 3, more).
STIFFNESS = (25.0, 8.0, 1.0, 0.3)
TEMPERATURE_K = 300.0


@dataclass(frozen=True)
class SpringModel:
    """One molecule as springs: pairs (n_pairs, 2), rest lengths A, stiffness eV/A^2."""

    molecule: Molecule
    masses: np.ndarray
    rest: np.ndarray
    pairs: np.ndarray
    lengths: np.ndarray
    stiffness: np.ndarray

    def energy_and_forces(self, positions: np.ndarray) -> tuple[float, np.ndarray]:
        """Energy (eV) and forces (n_atoms, 3) in eV/A at positions (n_atoms, 3) in A."""
        first, second = self.pairs.T
        delta = positions[first] - positions[second]
        distance = np.linalg.norm(delta, axis=1)
        stretch = distance - self.lengths
        pull = (-self.stiffness * stretch / distance)[:, None] * delta
        forces = np.zeros_like(positions)
        np.add.at(forces, first, pull)
        np.add.at(forces, second, -pull)
        return float(0.5 * np.sum(self.stiffness * stretch**2)), forces

    def hessian(self) -> np.ndarray:
        """(3 n_atoms, 3 n_atoms) eV/A^2 at the rest structure, where every spring is slack."""
        n_atoms = len(self.masses)
        hessian = np.zeros((n_atoms, n_atoms, 3, 3))
        for (i, j), length, k in zip(self.pairs, self.lengths, self.stiffness, strict=True):
            axis = (self.rest[i] - self.rest[j]) / length
            block = k * np.outer(axis, axis)
            hessian[i, i] += block
            hessian[j, j] += block
            hessian[i, j] -= block
            hessian[j, i] -= block
        return hessian.transpose(0, 2, 1, 3).reshape(3 * n_atoms, 3 * n_atoms)


def as_molecule(molecule_or_name: Molecule | str) -> Molecule:
    """A molecule, by itself, by its TG80 name, or by its SMILES."""
    if isinstance(molecule_or_name, Molecule):
        return molecule_or_name
    for molecule in tg80_molecules():
        if molecule.name == molecule_or_name:
            return molecule
    return molecule_from_smiles(molecule_or_name)


def spring_model(molecule: Molecule, seed: int = 0) -> SpringModel:
    """Springs at rest in a conformer of RDKit's, centred on its centre of mass."""
    from rdkit.Chem import rdDistGeom

    mol = molecule.to_rdkit()
    if rdDistGeom.EmbedMolecule(mol, randomSeed=seed + 1) != 0:
        raise ValueError(f"{molecule.name}: RDKit finds no conformer")
    rest = np.array(mol.GetConformer().GetPositions())
    masses = np.asarray(molecule.masses)
    rest = rest - mechanics.centre_of_mass(masses, rest)
    pairs = np.array(np.triu_indices(len(masses), 1)).T
    lengths = np.linalg.norm(rest[pairs[:, 0]] - rest[pairs[:, 1]], axis=1)
    apart = _bonds_apart(molecule)[pairs[:, 0], pairs[:, 1]]
    stiffness = np.array(STIFFNESS)[np.minimum(apart, len(STIFFNESS)) - 1]
    return SpringModel(molecule, masses, rest, pairs, lengths, stiffness)


def _bonds_apart(molecule: Molecule) -> np.ndarray:
    n_atoms = molecule.n_atoms
    graph = np.zeros((n_atoms, n_atoms))
    for i, j, _ in molecule.bonds:
        graph[i, j] = graph[j, i] = 1
    return scipy.sparse.csgraph.shortest_path(graph, unweighted=True).astype(int)


def start_velocities(model: SpringModel, rng: np.random.Generator) -> np.ndarray:
    """Velocities (n_atoms, 3) A/fs without rigid motion that hold all of (3N-6) kT."""
    masses, linear = model.masses, mechanics.is_linear(model.masses, model.rest)
    velocities = rng.normal(size=model.rest.shape) / np.sqrt(masses)[:, None]
    velocities = mechanics.remove_rigid_motion(masses, model.rest, velocities, linear=linear)
    n_degrees = mechanics.degrees_of_freedom(masses, model.rest)
    wanted = n_degrees * BOLTZMANN_EV_PER_K * TEMPERATURE_K
    return velocities * np.sqrt(wanted / mechanics.kinetic_energy(masses, velocities))


def integrate(
    models: Sequence[SpringModel],
    velocities: Sequence[np.ndarray],
    *,
    n_frames: int,
    store_every_fs: float,
    time_step_fs: float,
) -> list[dict[str, np.ndarray]]:
    """Velocity Verlet of all models side by side.

    Returns:
        One dictionary a model: positions, velocities, forces (n_frames, n_atoms, 3) and
        potential_energy (n_frames,), in A, A/fs, eV/A, eV.
    """
    counts = [len(model.masses) for model in models]
    offsets = np.cumsum([0, *counts])
    v = np.concatenate(list(velocities))
    # Forces vanish in no real frame: start a tenth of a femtosecond after the rest.
    x = np.concatenate([model.rest for model in models]) + 0.1 * v
    kick = 0.5 * time_step_fs * ACCELERATION / np.concatenate([m.masses for m in models])[:, None]
    pairs = np.concatenate([m.pairs + o for m, o in zip(models, offsets[:-1], strict=True)])
    lengths = np.concatenate([model.lengths for model in models])
    stiffness = np.concatenate([model.stiffness for model in models])
    owner = np.repeat(np.arange(len(models)), [len(model.pairs) for model in models])
    rows = np.repeat(np.arange(len(pairs)), 2)
    signs = np.tile([1.0, -1.0], len(pairs))
    difference = scipy.sparse.csr_array((signs, (rows, pairs.ravel())), (len(pairs), len(x)))
    gather = scipy.sparse.csr_array(difference.T)

    def forces_at(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        delta = difference @ x
        distance = np.sqrt(np.einsum("ij,ij->i", delta, delta))
        stretch = distance - lengths
        return gather @ ((-stiffness * stretch / distance)[:, None] * delta), stretch

    stride = round(store_every_fs / time_step_fs)
    stored = {key: np.empty((n_frames, len(x), 3)) for key in ("positions", "velocities", "forces")}
    energies = np.empty((n_frames, len(models)))
    f, stretch = forces_at(x)
    for frame in range(n_frames):
        stored["positions"][frame], stored["velocities"][frame] = x, v
        stored["forces"][frame] = f
        energies[frame] = np.bincount(owner, 0.5 * stiffness * stretch**2, len(models))
        for _ in range(stride if frame < n_frames - 1 else 0):
            v = v + kick * f
            x = x + time_step_fs * v
            f, stretch = forces_at(x)
            v = v + kick * f
    return [
        {key: values[:, offsets[i] : offsets[i + 1]] for key, values in stored.items()}
        | {"potential_energy": energies[:, i]}
        for i in range(len(models))
    ]


def frame_arrays(
    model: SpringModel,
    run: dict[str, np.ndarray],
    store_every_fs: float,
    time_step_fs: float,
    level: str = "gfn2-xtb",
) -> dict[str, np.ndarray]:
    """All fields of a part file from one model's run."""
    n_frames, n_atoms = run["positions"].shape[:2]
    squared = np.sum(run["velocities"] ** 2, axis=2)
    kinetic = 0.5 * squared @ model.masses / ACCELERATION
    numbers = np.asarray(model.molecule.atomic_numbers)
    bonds = np.array([bond[:2] for bond in model.molecule.bonds])
    ends, relaxed = run["positions"][:, bonds], model.rest[bonds]
    stretch = np.linalg.norm(ends[:, :, 0] - ends[:, :, 1], axis=2) - np.linalg.norm(
        relaxed[:, 0] - relaxed[:, 1], axis=1
    )
    fixed = (numbers.mean() - numbers) * 0.05 + model.molecule.charge / n_atoms
    moving = np.eye(n_atoms)[bonds[:, 0]] - np.eye(n_atoms)[bonds[:, 1]]
    charges = fixed + 0.2 * stretch @ moving
    centre = np.einsum("i,tij->tj", model.masses / model.masses.sum(), run["positions"])
    relative = run["positions"] - centre[:, None]
    steps = np.arange(n_frames) * round(store_every_fs / time_step_fs)
    potential = run["potential_energy"] + energy_at_rest(model.molecule, level)
    return run | {
        "potential_energy": potential,
        "kinetic_energy": kinetic,
        "conserved_quantity": kinetic + potential,
        "homo_lumo_gap": 5.0 + stretch.mean(axis=1),
        "dipole": np.einsum("ti,tij->tj", charges, relative),
        "mulliken_charges": charges,
        "scf_cycles": np.full(n_frames, -1),
        "scf_converged": np.ones(n_frames, dtype="u1"),
        "raw_net_force": run["forces"].sum(axis=1),
        "raw_net_torque": np.cross(relative, run["forces"]).sum(axis=1),
        "quality_flags": np.zeros(n_frames, dtype="u4"),
        "step": steps,
        "time": steps * time_step_fs,
    }


def between_evaluations(arrays: dict[str, np.ndarray], every: int) -> dict[str, np.ndarray]:
    """The frames as `learned` stores them that evaluates the level in every so-manieth."""
    n_frames = len(arrays["time"])
    evaluated = np.arange(n_frames) % every == 0
    outer = every * (arrays["time"][1] - arrays["time"][0]) * (np.arange(n_frames) > 0)
    found = {name: np.array(values) for name, values in arrays.items()}
    found |= {"residual_force": np.full(n_frames, 0.01), "outer_step": outer}
    for name in LEVEL_FIELDS:
        found[name][~evaluated] = MISSING.get(name, np.nan)
    return found | {"evaluated": evaluated.astype("u1")}


def energy_at_rest(molecule: Molecule, level: str) -> float:
    """Energy (eV) of slack springs: of the isolated atoms less 4 eV for each order of a bond."""
    atoms = LEVELS.get(level, LEVELS["gfn2-xtb"]).isolated_atom_energies
    orders = sum(order for *_, order in molecule.bonds)
    symbols = [chemical_symbols[number] for number in molecule.atomic_numbers]
    return sum(atoms[symbol] for symbol in symbols) - 4.0 * orders


def make_metadata(
    model: SpringModel, arrays: dict[str, np.ndarray], **changes: Any
) -> ShardMetadata:
    """Metadata that fits the arrays; `changes` replace single fields."""
    molecule, times = model.molecule, arrays["time"]
    fields: dict[str, Any] = {
        "name": molecule.name,
        "replica": 0,
        "smiles": molecule.smiles,
        "mapped_smiles": molecule.mapped_smiles,
        "inchikey": molecule.inchikey,
        "formula": molecule.formula,
        "charge": molecule.charge,
        "bonds": molecule.bonds,
        "level": "gfn2-xtb",
        "level_settings": {"name": "gfn2-xtb", "method": "xtb"},
        "seed": 0,
        "versions": {"numpy": np.__version__},
        "software": {"engine": "springs between all atoms (test data)"},
        "integrator": "verlet",
        "ensemble": "nve",
        "temperature_k": TEMPERATURE_K,
        "time_step_fs": 0.25,
        "store_every_fs": 1.0,
        "n_frames": len(times),
        "length_fs": float(times[-1]),
        "degrees_of_freedom": mechanics.degrees_of_freedom(model.masses, model.rest),
        "linear": mechanics.is_linear(model.masses, model.rest),
        "start": "mean-energy",
        "target_energy_ev": float(arrays["conserved_quantity"][0]),
        "energy_source": "equipartition",
        "end": "complete",
    }
    return ShardMetadata(**(fields | changes))


def make_dataset(
    folder: Path | str,
    molecules: Sequence[Molecule | str],
    *,
    n_frames: int = 200,
    store_every_fs: float = 1.0,
    seed: int = 0,
    level: str = "gfn2-xtb",
    replica: int = 0,
    time_step_fs: float = 0.25,
    evaluated_every: int | None = None,
    **changes: Any,
) -> list[Path]:
    """One shard a molecule, named NAME-rK.h5md; `changes` replace metadata fields.

    With `evaluated_every` it is one of `learned`, with energies in every so-manieth frame.

    The same seed and molecules give the same files; a replica has its own start velocities.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    models = [spring_model(as_molecule(molecule)) for molecule in molecules]
    streams = np.random.SeedSequence([seed, replica]).spawn(len(models))
    velocities = [
        start_velocities(model, np.random.default_rng(stream))
        for model, stream in zip(models, streams, strict=True)
    ]
    runs = integrate(
        models, velocities, n_frames=n_frames, store_every_fs=store_every_fs,
        time_step_fs=time_step_fs,
    )  # fmt: skip
    paths = []
    for model, run in zip(models, runs, strict=True):
        arrays = frame_arrays(model, run, store_every_fs, time_step_fs, level)
        if evaluated_every:
            arrays = between_evaluations(arrays, evaluated_every)
            changes = {"integrator": "learned"} | changes
        stated = {
            "replica": replica, "seed": seed, "level": level, "time_step_fs": time_step_fs,
            "store_every_fs": store_every_fs, **changes,
        }  # fmt: skip
        path = folder / f"{model.molecule.name}-r{replica}.h5md"
        write_shard(path, model, arrays, make_metadata(model, arrays, **stated))
        paths.append(path)
    return paths


def write_shard(
    path: Path, model: SpringModel, arrays: dict[str, np.ndarray], metadata: ShardMetadata
) -> None:
    """Write arrays, right or spoilt on purpose."""
    static = {
        "atomic_numbers": np.asarray(model.molecule.atomic_numbers),
        "masses": model.masses,
        "relaxed_positions": model.rest,
        "hessian": model.hessian(),
    }
    shard.write_shard(path, arrays | static, metadata)


def make_shard(folder: Path | str, molecule_or_name: Molecule | str = "CCO", **settings) -> Path:
    """One shard; the settings are those of `make_dataset`."""
    return make_dataset(folder, [molecule_or_name], **settings)[0]
