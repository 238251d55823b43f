"""Windows for learning and scoring: a start state and the states P lags later.

What a training window looks like depends on (seed, epoch, index) alone: a resumed run sees the same
data in the same order, with any number of loader workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from tg80.errors import UserError
from tg80.windows.lags import LagSampling, frames_of_lags, lag_frames
from tg80.windows.rotations import rotations_of
from tg80.windows.starts import scored_starts
from tg80.windows.trajectories import Trajectory


@dataclass(frozen=True)
class WindowBatch:
    """Windows of molecules of any size, padded with zeros.

    Attributes:
        positions: (B, N, 3) A.
        velocities: (B, N, 3) A/fs.
        atomic_numbers: (B, N), 0 = padding.
        lags_fs: (B, P) fs, NaN = padding.
        targets: (B, P, N, 3) A, 0 where padded.
        molecule: B names.
        start_id: B names of the windows.
    """

    positions: torch.Tensor
    velocities: torch.Tensor
    atomic_numbers: torch.Tensor
    lags_fs: torch.Tensor
    targets: torch.Tensor
    molecule: tuple[str, ...]
    start_id: tuple[str, ...]


def cut_windows(
    blocks: Sequence[Trajectory],
    starts: Sequence[int] | np.ndarray,
    lags_fs: Sequence[float] | np.ndarray,
    rotations: np.ndarray | None = None,
) -> WindowBatch:
    """Cut windows of the same lags, and pad them to the largest molecule.

    Args:
        blocks: B trajectories.
        starts: (B,) first frame of each window.
        lags_fs: (P,) fs, increasing.
        rotations: (B, 3, 3) by which windows are turned.

    Raises:
        UserError: there is no lag, or lags are not positive and increasing.
    """
    frames, real = lag_frames(lags_fs, np.array([[block.frame_fs] for block in blocks]))
    return _cut(blocks, np.asarray(starts), frames, real, rotations)


class TrainingWindows(Dataset):
    """Random windows of training blocks, every molecule equally often.

    Item `index` of an epoch is a function of (seed, epoch, index): its start and lags are drawn
    anew every epoch, and so is the uniform rotation it is turned by. Items are numbered through all
    epochs, `epoch * len(windows) + index`, so that no worker has to be told the epoch. Whole
    batches are cut at once, to the same values as their items one by one.

    Args:
        trajectories: the training blocks; nothing outside them can be drawn.
        lags: which lags to draw.
        windows_per_trajectory: items an epoch holds of each trajectory.
        rotate: turn every window by a fresh uniform rotation.

    Raises:
        UserError: a block is shorter than the fixed horizon; a negative seed, or less than one
            window a trajectory.
    """

    def __init__(
        self,
        trajectories: Sequence[Trajectory],
        lags: LagSampling,
        *,
        seed: int,
        windows_per_trajectory: int = 64,
        rotate: bool = True,
    ) -> None:
        if not trajectories:
            raise UserError("no training trajectory: the data and the fold have none in common")
        _check_least(windows_per_trajectory=(windows_per_trajectory, 1), seed=(seed, 0))
        for trajectory in trajectories:
            scored_starts(trajectory, max(lags.fixed_lags_fs), "train")
        self.trajectories = list(trajectories)
        self.lags = lags
        self.seed = seed
        self.windows_per_trajectory = windows_per_trajectory
        self.rotate = rotate
        self._frame_fs = np.array([t.frame_fs for t in trajectories])
        self._n_frames = np.array([t.n_frames for t in trajectories])
        self._drawn: tuple[int, np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        """Items of an epoch."""
        return len(self.trajectories) * self.windows_per_trajectory

    def sizes(self) -> list[int]:
        """Number of atoms of each window of an epoch."""
        return [t.n_atoms for t in self.trajectories for _ in range(self.windows_per_trajectory)]

    def __getitems__(self, numbers: Sequence[int]) -> WindowBatch:
        """Cut the batch of these items; torch's loader asks for it under this name."""
        epochs, indices = np.divmod(np.asarray(numbers), len(self))
        uniforms = np.empty((len(indices), 3))
        quaternions = np.empty((len(indices), 4))
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            table = self._draws(epoch)
            uniforms[here], quaternions[here] = (part[indices[here]] for part in table)
        which = indices // self.windows_per_trajectory
        frame_fs, n_frames = self._frame_fs[which], self._n_frames[which]
        lags = self.lags.draw(uniforms[:, 1:], frame_fs, (n_frames - 1) * frame_fs)
        frames, real = frames_of_lags(lags, frame_fs[:, None])
        starts = (uniforms[:, 0] * (n_frames - frames.max(axis=1))).astype(np.int64)
        blocks = [self.trajectories[i] for i in which.tolist()]
        return _cut(
            blocks, starts, frames, real, rotations_of(quaternions) if self.rotate else None
        )

    def _draws(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Random numbers of every item of an epoch: uniform (n, 3) and normal (n, 4)."""
        if self._drawn is None or self._drawn[0] != epoch:
            # 1: the order of the epoch has a stream of its own.
            rng = np.random.default_rng([self.seed, epoch, 1])
            self._drawn = epoch, rng.random((len(self), 3)), rng.standard_normal((len(self), 4))
        return self._drawn[1:]


def _cut(
    blocks: Sequence[Trajectory],
    starts: np.ndarray,
    frames: np.ndarray,
    real_lags_fs: np.ndarray,
    rotations: np.ndarray | None,
) -> WindowBatch:
    """Cut windows: starts (B,), frames and real_lags_fs (B, P), rotations (B, 3, 3)."""
    size, n_steps = len(blocks), frames.shape[1] + 1
    n_atoms = max(block.n_atoms for block in blocks)
    path = np.zeros((size, n_steps, n_atoms, 3), dtype=np.float32)
    velocities = np.zeros((size, n_atoms, 3), dtype=np.float32)
    numbers = np.zeros((size, n_atoms), dtype=np.int64)
    wanted = starts[:, None] + np.concatenate([np.zeros((size, 1), dtype=np.int64), frames], axis=1)
    for i, (block, start) in enumerate(zip(blocks, starts.tolist(), strict=True)):
        n = block.n_atoms
        # np.asarray: indexing a mapped array as such costs more than the frames.
        path[i, :, :n] = np.asarray(block.positions)[wanted[i]]
        velocities[i, :n] = np.asarray(block.velocities)[start]
        numbers[i, :n] = block.atomic_numbers
    if rotations is not None:
        turns = rotations.swapaxes(1, 2).astype(np.float32)
        path = (path.reshape(size, -1, 3) @ turns).reshape(path.shape)
        velocities = velocities @ turns
    path[:, 1:][np.isnan(real_lags_fs)] = 0
    return WindowBatch(
        positions=torch.from_numpy(path[:, 0].copy()),
        velocities=torch.from_numpy(velocities),
        atomic_numbers=torch.from_numpy(numbers),
        lags_fs=torch.from_numpy(real_lags_fs.astype(np.float32)),
        targets=torch.from_numpy(path[:, 1:].copy()),
        molecule=tuple(block.name for block in blocks),
        start_id=tuple(b.start_id(s) for b, s in zip(blocks, starts.tolist(), strict=True)),
    )


CHUNK_BATCHES = 8


def epoch_order(sizes: Sequence[int], batch_size: int, *, seed: int, epoch: int) -> list[list[int]]:
    """Put the windows of an epoch into batches, in an order that depends on (seed, epoch) alone.

    Windows of like size are put together, within chunks of `CHUNK_BATCHES` random batches: little
    padding is computed, and a batch still mixes molecules.

    Args:
        sizes: (n_windows,) number of atoms of each window.
        batch_size: windows of a batch; the last may have fewer.
        seed: of the training.
        epoch: its number.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(sizes))
    chunk = CHUNK_BATCHES * batch_size
    batches = []
    for first in range(0, len(order), chunk):
        part = order[first : first + chunk]
        part = part[np.argsort(np.asarray(sizes)[part], kind="stable")].tolist()
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def window_loader(
    windows: TrainingWindows,
    batch_size: int = 32,
    *,
    epochs: int | None = 1,
    first_epoch: int = 0,
    skip: int = 0,
    workers: int = 0,
    start_method: str | None = None,
) -> DataLoader:
    """Load batches (`WindowBatch`) of whole epochs, molecules mixed and padded.

    The batches do not depend on the number of workers, and a loader that starts at a later epoch or
    batch goes on with what an unbroken one would give.

    Args:
        windows: what to draw from; its seed decides windows and order.
        batch_size: windows of a batch.
        epochs: how many; None: without end.
        first_epoch: number of the first.
        skip: batches left out at its front.
        workers: processes that cut windows ahead; 0: this process does it, which is enough for
            most models.
        start_method: of the workers: fork, spawn, forkserver; None: the platform's.

    Raises:
        UserError: A batch has less than one window, or another number is negative.
    """
    _check_least(
        batch_size=(batch_size, 1), epochs=(0 if epochs is None else epochs, 0),
        first_epoch=(first_epoch, 0), skip=(skip, 0), workers=(workers, 0),
    )  # fmt: skip
    batches = EpochBatches(windows, batch_size, epochs, first_epoch, skip)
    return whole_batches(windows, batches, workers=workers, start_method=start_method)


def whole_batches(
    dataset: Dataset,
    batches: Sampler[list[int]],
    *,
    workers: int = 0,
    start_method: str | None = None,
) -> DataLoader:
    """Load what `dataset.__getitems__` makes of each list of numbers in `batches`.

    Args:
        dataset: what to draw from.
        batches: numbers of the items of each batch.
        workers: as for `window_loader`.
        start_method: as for `window_loader`.
    """
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=_as_it_is,
        num_workers=workers,
        multiprocessing_context=start_method if workers else None,
        # A generator of its own: a loader draws a seed when it is made, and a resumed run makes
        # one more than an unbroken run.
        generator=torch.Generator(),
    )


def _check_least(**arguments: tuple[int, int]) -> None:
    """Refuses arguments, by name, whose value is below the least there can be."""
    for name, (value, least) in arguments.items():
        if value < least:
            raise UserError(f"{name} must be {least} or more, not {value}")


def _as_it_is(batch: Any) -> Any:
    return batch  # `__getitems__` makes whole batches


class EpochBatches(Sampler[list[int]]):
    """`epoch_order` of one epoch after another, items numbered through.

    Args:
        epochs, first_epoch, skip: as for `window_loader`.
    """

    def __init__(
        self,
        windows: TrainingWindows,
        batch_size: int,
        epochs: int | None,
        first_epoch: int,
        skip: int,
    ) -> None:
        self.windows, self.batch_size = windows, batch_size
        self.epochs, self.first_epoch, self.skip = epochs, first_epoch, skip

    def __len__(self) -> int:
        if self.epochs is None:
            raise TypeError("epochs without end have no number of batches")
        per_epoch = -(-len(self.windows) // self.batch_size)
        return max(0, self.epochs * per_epoch - self.skip)

    def __iter__(self) -> Iterator[list[int]]:
        numbers = count(self.first_epoch)
        sizes, skip = self.windows.sizes(), self.skip
        for epoch in numbers if self.epochs is None else islice(numbers, self.epochs):
            first = epoch * len(self.windows)
            order = epoch_order(sizes, self.batch_size, seed=self.windows.seed, epoch=epoch)
            for batch in order[skip:]:
                yield [first + index for index in batch]
            skip = 0
