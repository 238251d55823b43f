"""How many windows a second the loader gives, beside how many ATOM learns from in that time.

Loaders and training take turns, so that whatever else the machine does meets both alike. A
training step is forward, backward, clipping and AdamW on real batches, with nothing to load. It is
timed with few threads and granted perfect scaling to all cores: no training takes more than that.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import torch

import tg80
from atom import ATOM, ATOMConfig
from benchmarks.speed.scaffold import Clocked, Results, SameThreads, Spread, say, take_turns
from benchmarks.speed.settings import LoaderSettings
from benchmarks.tasks.states import score_mask_of
from benchmarks.tasks.tasks import uniform_lags
from tg80.console import Table
from tg80.windows.lags import LagSampling
from tg80.windows.windows import TrainingWindows, WindowBatch, window_loader

Rates = dict[str, Clocked]
"""Samples per second by the name of a loader, or of ATOM's training."""


def measure(settings: LoaderSettings, results: Results) -> None:
    """Samples per second of every loader and of ATOM's training."""
    results.get("loader", Rates, lambda: _measure(settings))


def _measure(settings: LoaderSettings) -> Rates:
    with ExitStack() as stack:
        cache = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="atom-bench-")))
        stack.enter_context(SameThreads(settings.threads))
        torch.set_num_threads(settings.threads)
        say("loaders, and the first training steps")
        works = _loaders(settings, cache) | _trainings(settings)
        for work in works.values():
            work()  # workers start, pages are read, kernels chosen
        found = take_turns(works, settings.repeats, say)
    return {
        name: Clocked(
            Spread.of([n_samples / clock.wall_s for clock, n_samples in turns]),
            Spread.of([n_samples / clock.cpu_s for clock, n_samples in turns]),
        )
        for name, turns in found.items()
    }


def _windows(settings: LoaderSettings, cache: Path | None) -> TrainingWindows:
    data = tg80.load(settings.data, cache=cache)
    lags = LagSampling(uniform_lags(settings.horizon_fs, settings.n_lags))
    # Later replicas of a release are short, for learning at short lags.
    train = data.part(settings.fold, "train", replica=0)
    return TrainingWindows(train, lags, seed=settings.seed)


def _loaders(settings: LoaderSettings, cache: Path) -> dict[str, Callable[[], int]]:
    """Take the next batches of an endless loader, by its name."""

    def taker(kept: Path | None, workers: int) -> Callable[[], int]:
        loader = window_loader(
            _windows(settings, kept), settings.batch_size, epochs=None, workers=workers
        )
        batches: Iterator[WindowBatch] = iter(loader)
        return lambda: sum(len(next(batches).molecule) for _ in range(settings.batches))

    return {
        f"{'memory' if kept is None else 'mapped'}, {workers} workers": taker(kept, workers)
        for kept in (None, cache)
        for workers in settings.workers
    }


def _trainings(settings: LoaderSettings) -> dict[str, Callable[[], int]]:
    """Take the next training steps of ATOM, by the name of its preset."""
    loader = window_loader(_windows(settings, None), settings.batch_size)
    batches = [batch for _, batch in zip(range(settings.steps), loader, strict=False)]
    return {f"ATOM {preset}": _training(preset, batches, settings) for preset in settings.presets}


def _training(
    preset: str, batches: list[WindowBatch], settings: LoaderSettings
) -> Callable[[], int]:
    torch.manual_seed(settings.seed)
    model = ATOM(ATOMConfig.preset(preset)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def take() -> int:
        for batch in batches:
            optimizer.zero_grad(set_to_none=True)
            loss = model.training_loss(
                batch.positions, batch.velocities, batch.atomic_numbers, batch.lags_fs,
                batch.targets, score_mask=score_mask_of(batch.atomic_numbers, "heavy"),
            )  # fmt: skip
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        return sum(len(batch.molecule) for batch in batches)

    return take


def tables(settings: LoaderSettings, results: Results) -> list[Table]:
    """Loaders and trainings, and how many times a training's rate a loader's is."""
    rates = results.read("loader", Rates)
    trainings = [name for name in rates if name.startswith("ATOM ")]
    scaling = settings.cores / settings.threads
    heading = ["", "samples/s", "quartiles", "per CPU second"]
    heading += [f"/ {name}" for name in trainings]
    heading += [f"/ {name}, by CPU time" for name in trainings]
    rows = []
    for name, rate in rates.items():
        # A worker's processor time is not this process's.
        alone = name in trainings or name.endswith(" 0 workers")
        ratios = [
            f"{mine.median / (scaling * theirs.median):.0f}"
            if name not in trainings and (alone or mine is rate.wall)
            else ""
            for mine, others in (
                (rate.wall, [rates[other].wall for other in trainings]),
                (rate.cpu, [rates[other].cpu for other in trainings]),
            )
            for theirs in others
        ]
        wall = rate.wall
        quartiles = f"{wall.quartile_1:.0f}-{wall.quartile_3:.0f}"
        by_cpu = f"{rate.cpu.median:.0f}" if alone else ""
        rows.append([name, f"{wall.median:.0f}", quartiles, by_cpu, *ratios])
    title = (
        f"Samples per second on {settings.data}, batches of {settings.batch_size}, "
        f"P = {settings.n_lags}, medians of {settings.repeats} turns; ratios to training on "
        f"{settings.cores} cores ({scaling:g} times that with {settings.threads} "
        f"thread{'s' * (settings.threads > 1)})"
    )
    return [Table(title, heading, rows)]
