"""Compute wavenumbers and structures of the compounds in `published.toml` at both levels.

    python -m docs.experiment.compute [--trajectories] [NAME ...]

Writes `computed.json`, of which `docs/generate.py` makes tables of `docs/pipeline/physics.md`: a
minimum and its Hessian (ten minutes of one core for all), and what the trajectories in `tg80/data`
show, or that alone.
"""

import json
import sys
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
from rdkit import Chem
from scipy.signal import find_peaks

from docs.experiment.published import (
    COMPUTED,
    LEVELS,
    Computed,
    Trajectory,
    bands,
    read_computed,
    read_published,
)
from pipelines.conformers import hessian, relax, start_geometry
from pipelines.engines.registry import make_engine
from pipelines.recipe import Recipe
from tg80.chemistry.lists import tg80_molecules
from tg80.chemistry.mechanics import degrees_of_freedom, inertia_tensor
from tg80.chemistry.molecule import Molecule
from tg80.constants import WAVENUMBER_FS
from tg80.release.survey import bond_kind
from tg80.shards.shard import Shard
from tg80.shards.vibrations import density_of_states, harmonic_wavenumbers

_ROTATIONAL = 505379.005  # MHz u A^2: h / 8 pi^2
_LEAST_HEIGHT = 0.25  # modes that a short trajectory gave less have no peak that can be told
_SHOWN = 4000.0  # cm-1; frames must be close enough to show this


def minima(molecule: Molecule) -> dict[str, Computed]:
    """The minimum next to GFN2-xTB's lowest conformer at each level, with its wavenumbers."""
    recipe = Recipe.model_validate({})
    start = start_geometry(
        molecule, n_conformers=recipe.n_conformers, n_relaxed=recipe.n_relaxed,
        choice=recipe.conformers, temperature_k=recipe.temperature_k, seed=recipe.seed,
    )  # fmt: skip
    found = {}
    for level in LEVELS:
        engine = make_engine(level, molecule.atomic_numbers, molecule.charge)
        _, positions = relax(molecule, engine, start.positions)
        n_modes = degrees_of_freedom(molecule.masses, positions)
        waves = harmonic_wavenumbers(hessian(engine, positions), molecule.masses, n_modes)
        found[level] = Computed(
            wavenumbers=_rounded(waves, 1),
            bonds=_mean_bonds(molecule, positions[None]),
            rotational=_rounded(_rotational(molecule, positions), 1),
        )
    return found


def _rounded(values: np.ndarray, n_digits: int) -> list[float]:
    return np.round(values, n_digits).tolist()


def _mean_bonds(molecule: Molecule, positions: np.ndarray) -> dict[str, float]:
    lengths = defaultdict(list)
    for i, j, order in molecule.bonds:
        kind = bond_kind(molecule.atomic_numbers[i], molecule.atomic_numbers[j], order)
        lengths[kind].append(np.linalg.norm(positions[:, i] - positions[:, j], axis=1).mean())
    return {kind: round(float(np.mean(each)), 4) for kind, each in sorted(lengths.items())}


def _rotational(molecule: Molecule, positions: np.ndarray) -> np.ndarray:
    """A, B and C of the commonest isotopes, MHz."""
    table = Chem.GetPeriodicTable()
    masses = np.array([table.GetMostCommonIsotopeMass(n) for n in molecule.atomic_numbers])
    return _ROTATIONAL / np.linalg.eigvalsh(inertia_tensor(masses, positions))


def trajectory(molecule: Molecule, level: str, harmonic: list[float]) -> Trajectory | None:
    """Peaks and mean bonds of the longest trajectory with frames close enough."""
    data = Path(__file__).parents[2] / "tg80" / "data"
    shards = [Shard(path) for path in sorted(data.rglob(f"{molecule.name}-r*.h5md"))]
    usable = [
        shard
        for shard in shards
        if shard.metadata.level == level and WAVENUMBER_FS / (2 * shard.frame_fs) > _SHOWN
    ]
    if not usable:
        return None
    shard = max(usable, key=lambda each: each.metadata.length_fs)
    density = density_of_states(shard.read("velocities"), shard.masses, shard.frame_fs)
    found = bands(harmonic)
    # Half way to the next band the peak of another one begins.
    between = [(harmonic[a[-1]] + harmonic[b[0]]) / 2 for a, b in pairwise(found)]
    tops = find_peaks(density.density)[0]
    waves, heights = density.wavenumbers[tops], density.density[tops]
    # Of a sharp line with the energy of equipartition.
    height = 1 / (len(harmonic) * density.resolution)
    peaks: list[float | None] = []
    for band, (low, high) in zip(found, pairwise([0.0, *between, _SHOWN]), strict=True):
        high_enough = heights > _LEAST_HEIGHT * len(band) * height
        inside = np.flatnonzero((waves > low) & (waves < high) & high_enough)
        best = max(inside, key=lambda top: heights[top], default=None)
        peaks.append(None if best is None else round(float(waves[best]), 1))
    return Trajectory(
        length_fs=shard.metadata.length_fs,
        resolution=round(density.resolution, 1),
        peaks=peaks,
        bonds=_mean_bonds(molecule, shard.read("positions")),
    )


def main(arguments: list[str]) -> None:
    """Compute the compounds named, or all, and keep the others as they are."""
    molecules = {molecule.name: molecule for molecule in tg80_molecules()}
    known = read_computed() if COMPUTED.exists() else {}
    names = [name for name in arguments if not name.startswith("--")]
    for name in names or read_published().molecules:
        if "--trajectories" not in arguments:
            known[name] = minima(molecules[name])
        for level, one in known[name].items():
            seen = trajectory(molecules[name], level, one.wavenumbers)
            known[name][level] = one.model_copy(update={"trajectory": seen})
        lines = [
            f'"{key}": {json.dumps({level: one.model_dump() for level, one in levels.items()})}'
            for key, levels in sorted(known.items())
        ]
        COMPUTED.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        print(name)


if __name__ == "__main__":
    main(sys.argv[1:])
