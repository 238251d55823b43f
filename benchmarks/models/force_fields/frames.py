"""Frames with energies and forces: what a machine-learned force field is trained on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.interface import CannotPredict
from benchmarks.tasks.data import TrainingData
from benchmarks.training.batches import DrawnLags
from tg80.windows.trajectories import Trajectory
from tg80.windows.windows import TrainingWindows, WindowBatch


class Labels(NamedTuple):
    """What is known of a block's frames: not of those between evaluations of the level.

    Attributes:
        frames: (n,) their numbers in the block.
        energies: (n,) eV.
        forces: (n, n_atoms, 3) eV/A.
    """

    frames: np.ndarray
    energies: np.ndarray
    forces: np.ndarray


def labels_of(block: Trajectory) -> Labels:
    """Energies and forces of a block.

    Raises:
        CannotPredict: they are not known, or not those of these atoms alone.
    """
    if block.labels is None:
        raise CannotPredict(
            f"a force field learns from energies and forces of all atoms, which {block.name} does "
            "not have here; choose another model, data or track"
        )
    energies, forces = block.labels.read()
    frames = np.flatnonzero(np.isfinite(energies))
    if not len(frames):
        raise CannotPredict(f"no frame of {block.name} here has energies and forces")
    return Labels(frames, energies[frames], forces[frames])


def labelled_frames(blocks: Sequence[Trajectory]) -> tuple[Tensor, Tensor]:
    """Positions and forces (n, n_atoms, 3), float64, of one molecule's frames that have forces.

    Raises:
        CannotPredict: a block has no forces.
    """
    x, _, forces = labelled_states(blocks)
    return x, forces


def labelled_states(blocks: Sequence[Trajectory]) -> tuple[Tensor, Tensor, Tensor]:
    """As `labelled_frames`, with the velocities, A/fs, in the middle."""
    labels = [labels_of(block) for block in blocks]
    parts = (
        [block.positions[known.frames] for block, known in zip(blocks, labels, strict=True)],
        [block.velocities[known.frames] for block, known in zip(blocks, labels, strict=True)],
        [known.forces for known in labels],
    )
    x, v, forces = (torch.from_numpy(np.concatenate(part)).double() for part in parts)
    return x, v, forces


@dataclass(frozen=True)
class FrameBatch(WindowBatch):
    """Frames in the place of windows: the one lag is 0 and its target the frame itself.

    Attributes:
        energies: (B,) eV less those of the isolated atoms.
        forces: (B, N, 3) eV/A, 0 = padding.
    """

    energies: Tensor
    forces: Tensor


class TrainingFrames(TrainingWindows):
    """Random frames of training blocks, every molecule equally often.

    Which frame an item is depends on (seed, epoch, index), as for windows.
    """

    def __init__(
        self,
        blocks: Sequence[Trajectory],
        isolated: Mapping[int, float],
        *,
        seed: int,
        windows_per_trajectory: int,
    ) -> None:
        lags = DrawnLags((blocks[0].frame_fs,), 1.0)
        super().__init__(
            blocks, lags, seed=seed, windows_per_trajectory=windows_per_trajectory, rotate=False
        )
        self.isolated = isolated
        self.labels = [labels_of(block) for block in blocks]
        self._n_labels = np.array([len(known.frames) for known in self.labels])

    def __getitems__(self, numbers: Sequence[int]) -> FrameBatch:
        """The batch of these items; torch's loader asks for it under this name."""
        epochs, indices = np.divmod(np.asarray(numbers), len(self))
        uniforms = np.empty(len(indices))
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            uniforms[here] = self._draws(epoch)[0][indices[here], 0]
        which = indices // self.windows_per_trajectory
        frames = (uniforms * self._n_labels[which]).astype(np.int64)
        chosen = [
            (self.trajectories[i], frame, self.labels[i])
            for i, frame in zip(which.tolist(), frames.tolist(), strict=True)
        ]
        return batch_of(chosen, self.isolated)


# Frames that a molecule's error in validation is a mean of.
_FEWEST = 8

Labelled = tuple[Trajectory, int, Labels]


def batch_of(frames: Sequence[Labelled], isolated: Mapping[int, float]) -> FrameBatch:
    """Frames, each a trajectory, its number among the trajectory's labels and these, padded.

    Args:
        frames: one a row.
        isolated: energies of isolated atoms by atomic number, eV, 0 where there is none.
    """
    n_atoms = max(block.n_atoms for block, _, _ in frames)
    size = len(frames)
    positions = np.zeros((size, n_atoms, 3), dtype=np.float32)
    forces = np.zeros_like(positions)
    numbers = np.zeros((size, n_atoms), dtype=np.int64)
    energies = np.zeros(size)
    for i, (block, label, known) in enumerate(frames):
        n = block.n_atoms
        positions[i, :n] = block.positions[known.frames[label]]
        forces[i, :n] = known.forces[label]
        numbers[i, :n] = block.atomic_numbers
        bare = sum(isolated.get(int(z), 0.0) for z in block.atomic_numbers)
        energies[i] = known.energies[label] - bare
    x = torch.from_numpy(positions)
    return FrameBatch(
        positions=x,
        velocities=torch.zeros_like(x),
        atomic_numbers=torch.from_numpy(numbers),
        lags_fs=torch.zeros(size, 1),
        targets=x[:, None],
        molecule=tuple(block.name for block, _, _ in frames),
        start_id=tuple(block.start_id(int(known.frames[i])) for block, i, known in frames),
        energies=torch.from_numpy(energies).float(),
        forces=torch.from_numpy(forces),
    )


def validation_frames(
    data: TrainingData, isolated: Mapping[int, float], size: int = 32
) -> dict[str, list[FrameBatch]]:
    """The frames that the validation windows of all models start from, by part, in batches.

    Where one has no forces, the nearest that has takes its place; in blocks of few starts, frames
    spread over the block stand beside them.
    """
    found = {
        part.name: _frames_of(part.windows.states.start_id, data.validation_blocks, isolated, size)
        for part in data.validation
    }
    return {name: batches for name, batches in found.items() if batches}


def _frames_of(
    starts: Iterable[str], blocks: Iterable[Trajectory], isolated: Mapping[int, float], size: int
) -> list[FrameBatch]:
    wanted = set(starts)
    found: list[Labelled] = []
    for block in blocks:
        frames = [i for i in range(block.n_frames) if block.start_id(i) in wanted]
        if frames:
            labels = labels_of(block)
            chosen = {int(np.abs(labels.frames - frame).argmin()) for frame in frames}
            if len(chosen) < _FEWEST:
                chosen |= set(np.linspace(0, len(labels.frames) - 1, _FEWEST).astype(int).tolist())
            found += [(block, label, labels) for label in sorted(chosen)]
    return [batch_of(found[i : i + size], isolated) for i in range(0, len(found), size)]
