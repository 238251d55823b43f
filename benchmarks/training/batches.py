"""Batches for training: which windows a process takes at which step, and their label noise.

A step of the optimiser learns from one global batch. Each of W processes takes every W-th window
of it, in micro-batches of at most `batch_size`; all that is random about a window, its noise
included, depends on (seed, epoch, index). So neither the number of processes nor that of
micro-batches changes what is learnt.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler, get_worker_info

from atom.label_noise import LabelNoise
from benchmarks.tasks.tasks import TaskSpec
from benchmarks.training.settings import DEFAULT_FIXED_LAG_FRACTION, TrainingSettings
from tg80.errors import UserError
from tg80.windows.lags import LagSampling
from tg80.windows.trajectories import Trajectory
from tg80.windows.windows import EpochBatches, TrainingWindows, WindowBatch, whole_batches

# Numbers of the streams of label noise and of kept lags among those of (seed, epoch, index).
_NOISE, _KEPT_LAGS = 2, 3


@dataclass(frozen=True)
class DrawnLags(LagSampling):
    """Lags as in `LagSampling`; of windows with a drawn horizon, their number is drawn too.

    Attributes:
        n_lags: lowest and highest number, both met; None: as many as the fixed lags.
    """

    n_lags: tuple[int, int] | None = None

    def draw(self, uniforms: np.ndarray, frame_fs: np.ndarray, length_fs: np.ndarray) -> np.ndarray:
        """Lags (B, P) fs, not decreasing: a window with fewer than P repeats its last one."""
        lags = super().draw(uniforms, frame_fs, length_fs)
        if self.n_lags is None:
            return lags
        low, high = self.n_lags
        # What is left of the number that chose between fixed and drawn lags is uniform again.
        is_drawn = uniforms[:, :1] >= self.fixed_fraction
        rest = (uniforms[:, :1] - self.fixed_fraction) / max(1 - self.fixed_fraction, 1e-12)
        number = low + np.floor((high - low + 1) * rest.clip(0, np.nextafter(1, 0)))
        steps = np.arange(1, max(high, lags.shape[1]) + 1)
        drawn = lags[:, -1:] * np.minimum(steps / number, 1)
        fixed = np.pad(lags, ((0, 0), (0, len(steps) - lags.shape[1])), mode="edge")
        return np.where(is_drawn, drawn, fixed)


def training_lags(
    task: TaskSpec, settings: TrainingSettings, blocks: Sequence[Trajectory]
) -> DrawnLags:
    """The lags that are learnt from.

    Where `train_frames` leaves blocks shorter than the task's horizon, all horizons are drawn up to
    the block's length, and longer lags are extrapolation.
    """
    fraction = settings.fixed_lag_fraction
    if fraction is None:
        fraction = 0.0 if task.multi_task else DEFAULT_FIXED_LAG_FRACTION
    lags = np.asarray(task.lags_fs)
    shortest = min(block.length_fs for block in blocks)
    if settings.train_frames is not None and shortest < lags[-1]:
        lags, fraction = lags * (shortest / lags[-1]), 0.0
    n_lags, longest = settings.n_lags, settings.longest_horizon_fs
    if longest is None and not task.multi_task:
        longest = lags[-1]
    return DrawnLags(
        tuple(lags.tolist()),
        fraction,
        longest,
        n_lags=(n_lags, n_lags) if isinstance(n_lags, int) else n_lags,
    )


def first_frames(blocks: Sequence[Trajectory], n_frames: int | None) -> list[Trajectory]:
    """Only the first frames of each block, all of them for None.

    Raises:
        UserError: a block has fewer.
    """
    if n_frames is None:
        return list(blocks)
    for block in blocks:
        if block.n_frames < n_frames:
            raise UserError(
                f"{n_frames} frames are asked for, but the train block of {block.name} has "
                f"{block.n_frames}"
            )
    return [block.frames(0, n_frames) for block in blocks]


def longest_trained_lag_fs(windows: TrainingWindows) -> float:
    """The longest lag that these windows can have; longer ones are extrapolation."""
    lags = windows.lags
    longest = [0.0 if lags.fixed_fraction == 0 else max(lags.fixed_lags_fs)]
    if lags.fixed_fraction < 1:
        blocks = [t.length_fs for t in windows.trajectories]
        longest += [min(lags.longest_fs or length, length) for length in blocks]
    return max(longest)


@dataclass(frozen=True)
class MicroBatch:
    """The windows that a process takes at once.

    Attributes:
        windows: a start state and targets each.
        noise: standard normal numbers for ATOM's label noise.
        counts: False where the process has no window left in this step: it goes through the
            motions with one that does not count, since the others wait for it.
        worker_seconds: CPU time that a process of `training.workers` took to make it.
    """

    windows: WindowBatch
    noise: LabelNoise
    counts: bool = True
    worker_seconds: float = 0.0

    def to(self, device: torch.device) -> MicroBatch:
        """Move its tensors to a device."""
        names = ("positions", "velocities", "atomic_numbers", "lags_fs", "targets")
        on_device = {name: getattr(self.windows, name).to(device) for name in names}
        noise = LabelNoise(*(numbers.to(device) for numbers in self.noise))
        return replace(self, windows=replace(self.windows, **on_device), noise=noise)


class StepLoader:
    """The micro-batches of this process, step after step, without end.

    Args:
        windows: what is learnt from.
        settings: with the number of processes filled in.
        rank: number of this process.
        first_step: where a resumed run continues.
    """

    def __init__(
        self,
        windows: TrainingWindows,
        settings: TrainingSettings,
        *,
        rank: int = 0,
        first_step: int = 0,
    ) -> None:
        self.windows, self.settings, self.rank = windows, settings, rank
        self.first_step = first_step

    def __iter__(self) -> Iterator[list[MicroBatch]]:
        noisy = _NoisyWindows(self.windows, self.settings.lags_per_window)
        loaded = iter(whole_batches(noisy, _Numbers(self), workers=self.settings.workers))
        for shares in self.steps():
            yield [replace(next(loaded), counts=bool(share)) for share in shares]

    def steps(self) -> Iterator[list[list[int]]]:
        """Numbers of the windows of each micro-batch of each step; empty where none is left."""
        s = self.settings
        epoch, skip = divmod(self.first_step, steps_per_epoch(self.windows, s))
        for batch in EpochBatches(self.windows, s.windows_per_step, None, epoch, skip):
            mine = batch[self.rank :: s.processes or 1]
            yield [mine[i : i + s.batch_size] for i in range(0, max(len(mine), 1), s.batch_size)]


def steps_per_epoch(windows: TrainingWindows, settings: TrainingSettings) -> int:
    """Steps of the optimiser in an epoch; the last may have fewer windows."""
    return -(-len(windows) // settings.windows_per_step)


class _Numbers(Sampler[list[int]]):
    def __init__(self, loader: StepLoader) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[list[int]]:
        for shares in self.loader.steps():
            for share in shares:
                yield share or [0]


class _NoisyWindows(Dataset):
    def __init__(self, windows: TrainingWindows, lags_per_window: int | None) -> None:
        self.windows, self.lags_per_window = windows, lags_per_window

    def __getitems__(self, numbers: Sequence[int]) -> MicroBatch:
        """Cut these windows and draw their noise; torch's loader calls it by this name."""
        started = time.process_time()
        batch = self.windows.__getitems__(numbers)
        if self.lags_per_window is not None:
            batch = self._with_fewer_lags(batch, numbers, self.lags_per_window)
        batch = _without_empty_lags(batch)
        n_atoms = (batch.atomic_numbers > 0).sum(1).tolist()
        n_lags = (~batch.lags_fs.isnan()).sum(1).tolist()
        size, most_lags, most_atoms = batch.targets.shape[:3]
        noise = np.zeros((size, 2 + most_lags, most_atoms, 3), dtype=np.float32)
        for i, number in enumerate(numbers):
            # As many numbers as the window needs, not as its batch is padded to.
            noise[i, : 2 + n_lags[i], : n_atoms[i]] = self._rng(number, _NOISE).standard_normal(
                (2 + n_lags[i], n_atoms[i], 3), dtype=np.float32
            )
        tensor = torch.from_numpy(noise)
        made = MicroBatch(batch, LabelNoise(tensor[:, 0], tensor[:, 1], tensor[:, 2:]))
        if get_worker_info() is None:
            return made
        return replace(made, worker_seconds=time.process_time() - started)

    def _with_fewer_lags(
        self, batch: WindowBatch, numbers: Sequence[int], most: int
    ) -> WindowBatch:
        """At most so many lags of each window, in order, the others gone."""
        n_lags = (~batch.lags_fs.isnan()).sum(1).tolist()
        # Lags that are padding stand behind the others: they fill up windows with too few.
        kept = np.full(
            (len(numbers), min(most, batch.lags_fs.shape[1])), batch.lags_fs.shape[1] - 1
        )
        for i, number in enumerate(numbers):
            chosen = self._rng(number, _KEPT_LAGS).permutation(n_lags[i])[:most]
            kept[i, : len(chosen)] = np.sort(chosen)
        rows, columns = torch.arange(len(numbers))[:, None], torch.from_numpy(kept)
        return replace(
            batch, lags_fs=batch.lags_fs[rows, columns], targets=batch.targets[rows, columns]
        )

    def _rng(self, number: int, stream: int) -> np.random.Generator:
        epoch, index = divmod(number, len(self.windows))
        return np.random.default_rng([self.windows.seed, epoch, index, stream])


def _without_empty_lags(batch: WindowBatch) -> WindowBatch:
    """The batch without the last lags that no window has."""
    most = max(1, int((~batch.lags_fs.isnan()).sum(1).max()))
    return replace(batch, lags_fs=batch.lags_fs[:, :most], targets=batch.targets[:, :most])
