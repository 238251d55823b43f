"""What graph force fields take of their data: facts of the training blocks, and graphs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks.models.force_fields.frames import labels_of
from benchmarks.tasks.data import TrainingData
from tg80.errors import UserError
from tg80.theory import get_level, symbols_of
from tg80.untrusted.limits import BoundedModel
from tg80.windows.trajectories import Trajectory

Graph = dict[str, Tensor]


class Facts(BoundedModel):
    """What a force field knows of its training data besides its weights.

    Attributes:
        elements: atomic numbers, rising.
        isolated_energies: eV, theirs, of the level's record.
        force_scale: root mean square of the forces, eV/A.
        energy_shift: mean energy an atom less that of the isolated atoms, eV.
        n_neighbours: of an atom within the cutoff, mean.
    """

    elements: tuple[int, ...]
    isolated_energies: tuple[float, ...]
    force_scale: float
    energy_shift: float
    n_neighbours: float


def facts_of(data: TrainingData, blocks: Sequence[Trajectory], cutoff: float) -> Facts:
    """Facts of the training blocks.

    Raises:
        CannotPredict: the data have no energies and forces.
        UserError: the level's record lacks an isolated atom.
    """
    elements = sorted({int(z) for block in blocks for z in block.atomic_numbers})
    energies = isolated_energies(data.task.level, elements)
    forces, shifts, neighbours = [], [], []
    for block in blocks:
        _, total, force = labels_of(block)
        bare = sum(energies[int(z)] for z in block.atomic_numbers)
        forces.append(float(np.square(force, dtype=np.float64).mean()))
        shifts.append(float((total - bare).mean()) / block.n_atoms)
        x = torch.from_numpy(np.array(block.positions[:: max(1, block.n_frames // 20)]))
        neighbours.append(float((torch.cdist(x, x) < cutoff).sum(2).double().mean()) - 1)
    return Facts(
        elements=tuple(elements),
        isolated_energies=tuple(energies[z] for z in elements),
        force_scale=float(np.sqrt(np.mean(forces))),
        energy_shift=float(np.mean(shifts)),
        n_neighbours=max(1.0, float(np.mean(neighbours))),
    )


def isolated_energies(level: str, elements: Sequence[int]) -> dict[int, float]:
    """Energies of isolated atoms by atomic number, eV, of the level's record.

    Raises:
        UserError: it lacks one.
    """
    known = get_level(level).isolated_atom_energies
    symbols = dict(zip(elements, symbols_of(elements), strict=True))
    missing = [symbol for symbol in symbols.values() if symbol not in known]
    if missing:
        raise UserError(
            f"level {level} has no energy of the isolated atom {missing[0]}; "
            "`python -m pipelines.engines.dft.isolated_atoms` computes those of a level"
        )
    return {z: known[symbol] for z, symbol in symbols.items()}


def graph_of(positions: Tensor, atomic_numbers: Tensor, elements: Tensor, cutoff: float) -> Graph:
    """One graph of all molecules of a batch, under the names that MACE gives its parts.

    Distances within molecules of this size are computed faster than a neighbour list is kept.

    Args:
        positions: (B, N, 3).
        atomic_numbers: (B, N), 0 = padding.
        elements: that are known.
        cutoff: of edges.

    Raises:
        UserError: an atom is of another element.
    """
    real = atomic_numbers > 0
    known = atomic_numbers[real][:, None] == elements
    if not bool(known.any(1).all()):
        strange = int(atomic_numbers[real][~known.any(1)][0])
        raise UserError(f"no training molecule has {symbols_of([strange])[0]}; a force field can't")
    near = torch.cdist(positions, positions, compute_mode="donot_use_mm_for_euclid_dist") < cutoff
    near &= real[:, :, None] & real[:, None, :]
    near.diagonal(dim1=1, dim2=2).fill_(False)
    number = (torch.cumsum(real.flatten(), 0) - 1).view(real.shape)
    row, i, j = near.nonzero(as_tuple=True)
    edges = torch.stack([number[row, i], number[row, j]])
    n_atoms = real.sum(1)
    x = positions[real]
    return {
        "positions": x,
        "node_attrs": known.to(x.dtype),
        "edge_index": edges,
        "shifts": x.new_zeros(edges.shape[1], 3),
        "unit_shifts": x.new_zeros(edges.shape[1], 3),
        "cell": x.new_zeros(3 * len(n_atoms), 3),
        "batch": torch.repeat_interleave(n_atoms),
        "ptr": torch.cat([n_atoms.new_zeros(1), n_atoms.cumsum(0)]),
    }
