"""How many windows a second the loader gives, beside how many ATOM learns from in that time.

Loaders and training take turns, so that whatever else the machine does meets both alike. A
training step is forward, backward, clipping and AdamW on real batches, with nothing to load. It is
timed with few threads and granted perfect scaling to all cores: no training takes more than that.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

import tg80
from atom import ATOM, ATOMConfig
from benchmarks.speed.timing import SameThreads, summary, timed
from benchmarks.tasks.states import score_mask_of
from benchmarks.tasks.tasks import uniform_lags
from tg80.console import Table
from tg80.untrusted.limits import BoundedModel
from tg80.windows.lags import LagSampling
from tg80.windows.windows import TrainingWindows, WindowBatch, window_loader

Preset = Literal["mini", "public", "paper"]


class LoaderSettings(BoundedModel):
    """What is timed: `repeats` times `batches` of a loader, and `steps` training steps."""

    data: str = "mini-xtb"
    fold: int = Field(default=2, ge=1)
    workers: tuple[int, ...] = (0, 2)
    presets: tuple[Preset, ...] = ("mini", "public")
    batch_size: int = Field(default=32, ge=1)
    n_lags: int = Field(default=8, ge=1)
    horizon_fs: float = Field(default=960.0, gt=0)
    batches: int = Field(default=200, ge=1)
    steps: int = Field(default=4, ge=1)
    repeats: int = Field(default=9, ge=1)
    threads: int = Field(default=1, ge=1, description="of the training")
    cores: int = Field(default=2, ge=1, description="that training is counted on")
    seed: int = 0


def measure(settings: LoaderSettings, say: Callable[[str], None]) -> dict[str, Any]:
    """Samples per second of every loader and of ATOM's training, JSON-able."""
    with ExitStack() as stack:
        cache = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="atom-bench-")))
        stack.enter_context(SameThreads(settings.threads))
        torch.set_num_threads(settings.threads)
        say("loaders, and the first training steps")
        turns = _loaders(settings, cache) | _trainings(settings)
        rates: dict[str, list[dict[str, float]]] = {name: [] for name in turns}
        for take in turns.values():
            take()  # workers start, pages are read, kernels chosen
        for repeat in range(settings.repeats):
            say(f"repeat {repeat + 1} of {settings.repeats}")
            # Every other time backwards: a load that comes and goes favours nobody.
            for name in list(turns)[:: 1 if repeat % 2 else -1]:
                with timed() as clock:
                    n_samples = turns[name]()
                rates[name].append(
                    {"wall": n_samples / clock.wall_s, "cpu": n_samples / clock.cpu_s}
                )
    return {
        name: {key: summary([one[key] for one in found]) for key in ("wall", "cpu")}
        for name, found in rates.items()
    }


def _windows(settings: LoaderSettings, cache: Path | None) -> TrainingWindows:
    data = tg80.load(settings.data, cache=cache)
    lags = LagSampling(uniform_lags(settings.horizon_fs, settings.n_lags))
    return TrainingWindows(data.part(settings.fold, "train"), lags, seed=settings.seed)


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


def loader_sheets(document: dict[str, Any]) -> list[Table]:
    """The table of `atom-bench speed loader`."""
    settings, results = document["settings"], document["results"]["loader"]
    trainings = [name for name in results if name.startswith("ATOM ")]
    scaling = settings["cores"] / settings["threads"]
    rows = []
    for name, rates in results.items():
        wall, cpu = rates["wall"], rates["cpu"]
        row = [name, f"{wall['median']:.0f}", f"{wall['quartile_1']:.0f}-{wall['quartile_3']:.0f}"]
        # A worker's processor time is not this process's.
        alone = name in trainings or name.endswith(" 0 workers")
        row.append(f"{cpu['median']:.0f}" if alone else "")
        for clock in ("wall", "cpu"):
            for other in trainings:
                taken = scaling * results[other][clock]["median"]
                known = name not in trainings and (alone or clock == "wall")
                row.append(f"{rates[clock]['median'] / taken:.0f}" if known else "")
        rows.append(row)
    return [
        Table(
            f"Samples per second on {settings['data']}, batches of {settings['batch_size']}, "
            f"P = {settings['n_lags']}, medians of {settings['repeats']} turns; ratios to training "
            f"on {settings['cores']} cores ({scaling:g} times that with "
            f"{settings['threads']} thread{'s' * (settings['threads'] > 1)})",
            (
                "",
                "samples/s",
                "quartiles",
                "per CPU second",
                *(f"/ {name}" for name in trainings),
                *(f"/ {name}, by CPU time" for name in trainings),
            ),
            rows,
        )
    ]
