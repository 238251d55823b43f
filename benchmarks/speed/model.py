"""Time and memory of ATOM's forward and training step, beside the same equations in plain loops.

What is compared takes turns, so that whatever else the machine does meets all alike. A training
step is what `benchmarks.training.trainer` does with one batch: loss with label noise, backward,
clipping, AdamW, and the average of the weights. With `--scaling`, batch, atoms and lags grow one by
one.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch

from atom import ATOM, ATOMConfig
from benchmarks.speed.plain_atom import PlainATOM
from benchmarks.speed.scaffold import (
    Clocked,
    Results,
    SameThreads,
    Spread,
    ask_all,
    children,
    peak_memory_bytes,
    resident_memory_bytes,
    say,
    take_turns,
    timed,
)  # fmt: skip
from benchmarks.speed.settings import ModelSettings
from benchmarks.training.optimisers import make_optimizers
from benchmarks.training.settings import TrainingSettings
from benchmarks.training.trainer import compile_module, pick_device
from tg80.console import Table

# A turn of quicker calls holds several of them.
SHORTEST_TURN_S = 0.1


class Reference(NamedTuple):
    """Seconds that another code takes."""

    forward_s: float
    step_s: float


# By (preset, batch size, lags), then by atoms. Measured once with the authors' code of
# arXiv:2510.05482 at this size (5 layers, 8 heads, width 128), float32, eager, one thread of a
# 2-core machine. It has one kind of attention, over all steps and atoms.
PUBLISHED_PARAMETERS = 762_338
PUBLISHED_SOURCE = "published code, measured separately on one thread of a 2-core machine"
PUBLISHED: dict[tuple[str, int, int], dict[int, Reference]] = {
    ("public", 32, 8): {12: Reference(0.6, 1.7), 20: Reference(1.2, 3.5)}
}

Axis = Literal["batch_size", "atoms", "lags"]


class Shape(NamedTuple):
    """Sizes of a batch: samples, atoms, lags."""

    batch_size: int
    atoms: int
    lags: int

    def __str__(self) -> str:
        return f"B = {self.batch_size}, N = {self.atoms}, P = {self.lags}"


# What stays while another size grows.
BASE: dict[Axis, Shape] = {
    "batch_size": Shape(0, 12, 8), "atoms": Shape(4, 0, 8), "lags": Shape(4, 20, 0),
}  # fmt: skip
LETTERS = {"batch_size": "B", "atoms": "N", "lags": "P"}
SCALING_TURNS = 3
# The exponent is fitted to the sizes from this fraction of the largest on.
LARGE = 0.25


class Variant(NamedTuple):
    """One way to run the same model."""

    plain: bool = False
    bf16: bool = False
    compiled: bool = False


def variants(settings: ModelSettings) -> dict[str, Variant]:
    """What is timed side by side, by the name of its row."""
    found = {"model": Variant()}
    if settings.plain:
        found["plain loop"] = Variant(plain=True)
    if settings.bf16:
        found["bf16"] = Variant(bf16=True)
    if settings.compile:
        found["compiled"] = Variant(compiled=True)
        if settings.bf16:
            found["compiled, bf16"] = Variant(compiled=True, bf16=True)
    return found


@dataclass(frozen=True)
class Times:
    """Seconds of a forward and of a training step."""

    forward: Clocked
    step: Clocked


@dataclass(frozen=True)
class Point:
    """All variants at one size; without times where a step may need too much memory.

    Attributes:
        mode: time attention.
        batch_size: B.
        atoms: N.
        lags: P.
        n_parameters: of the model.
        step_memory_bytes: what a step takes beyond model, gradients and moments.
        times: by variant.
        axis: what grows, of a point of `--scaling`.
        needs_bytes: upper bound of what a step that was left out takes.
    """

    mode: str
    batch_size: int
    atoms: int
    lags: int
    n_parameters: int | None = None
    step_memory_bytes: int | None = None
    times: dict[str, Times] = field(default_factory=dict)
    axis: Axis | None = None
    needs_bytes: float | None = None

    @property
    def memory_mb(self) -> str:
        if self.step_memory_bytes is None:
            return f"up to {(self.needs_bytes or 0) / 1e6:.0f}"
        return f"{self.step_memory_bytes / 1e6:.0f}"


class Work:
    """One model with one batch of random states, to be run and trained.

    Args:
        preset: size of the model.
        mode: time attention of the model.
        shape: sizes of the batch, without padding.
        device: where the model runs.
        variant: how it runs.
        seed: of weights, batch and noise.

    Attributes:
        n_parameters: of the model.
    """

    def __init__(
        self,
        preset: str,
        mode: str,
        shape: Shape,
        device: str = "cpu",
        variant: Variant = Variant(),
        seed: int = 0,
    ) -> None:
        torch.manual_seed(seed)
        model = ATOM(ATOMConfig.preset(preset, time_attention=mode))
        self.device = torch.device(device)
        self.n_parameters = model.n_parameters
        model = PlainATOM.of(model) if variant.plain else model
        self._model = model.to(self.device).train()
        self._averaged = copy.deepcopy(self._model).requires_grad_(False)
        settings = TrainingSettings()
        self._clip, self._decay = settings.gradient_clip, settings.ema_decay
        self._optimizers = make_optimizers(self._model, settings)
        self._bf16 = variant.bf16
        self.batch = [t.to(self.device) for t in random_batch(shape, seed)]
        if variant.compiled:
            compile_module(self._model)

    def forward(self) -> torch.Tensor:
        """One forward as in a prediction."""
        with torch.no_grad(), self._autocast():
            return self._model(*self.batch[:4])

    def step(self) -> None:
        """One step of a training."""
        self._model.zero_grad(set_to_none=True)
        with self._autocast():
            positions, velocities, atomic_numbers, lags_fs, targets = self.batch
            loss = self._model.training_loss(
                positions, velocities, atomic_numbers, lags_fs, targets
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._clip)
        for optimizer in self._optimizers:
            optimizer.step()
        with torch.no_grad():
            pairs = zip(self._averaged.parameters(), self._model.parameters(), strict=True)
            for mine, theirs in pairs:
                mine.lerp_(theirs, 1 - self._decay)

    def wait(self) -> None:
        """Wait until the device has done what it was asked for."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16)


def random_batch(shape: Shape, seed: int) -> list[torch.Tensor]:
    """Positions, velocities, atomic numbers, lags and targets of `shape`; A, A/fs, fs."""
    generator = torch.Generator().manual_seed(seed)
    n_batch, n_atoms, n_lags = shape
    # As dense as an organic molecule: about 10 A^3 for an atom.
    radius = (10.0 * n_atoms) ** (1 / 3) / 2
    positions = radius * torch.randn(n_batch, n_atoms, 3, generator=generator)
    velocities = 0.006 * torch.randn(n_batch, n_atoms, 3, generator=generator)
    elements = torch.tensor([1, 6, 7, 8])
    numbers = elements[torch.randint(4, (n_batch, n_atoms), generator=generator)]
    lags_fs = (1000.0 * torch.rand(n_batch, n_lags, generator=generator)).sort(1).values
    noise = torch.randn(n_batch, n_lags, n_atoms, 3, generator=generator)
    return [positions, velocities, numbers, lags_fs, positions[:, None] + 0.1 * noise]


def measure(settings: ModelSettings, results: Results) -> None:
    """Times at all sizes; every one is stored as soon as it is there.

    Raises:
        UserError: no GPU where one is asked for.
    """
    pick_device(settings.device)
    for mode in settings.modes:
        for n_atoms in settings.atoms:
            shape = Shape(settings.batch_size, n_atoms, settings.lags)
            results.get(f"{mode}, N = {n_atoms}", Point, partial(_point, settings, mode, shape))
    if settings.scaling:
        for mode in settings.modes:
            for axis, sizes in zip(BASE, settings.scaling_sizes, strict=True):
                _grow(settings, results, mode, axis, sizes)


def _point(settings: ModelSettings, mode: str, shape: Shape) -> Point:
    """All variants at one size, in turns."""
    where = f"{mode}, N = {shape.atoms}"
    with SameThreads(settings.threads):
        torch.set_num_threads(settings.threads)
        say(f"{where}: first calls")
        works = {
            name: Work(settings.preset, mode, shape, settings.device, variant, settings.seed)
            for name, variant in variants(settings).items()
        }
        times = _times(works, settings.repeats, lambda text: say(f"{where}: {text}"))
    say(f"{where}: memory")
    memory, _ = _step_memory(settings, mode, shape)
    return Point(mode, *shape, works["model"].n_parameters, memory, times)


def _grow(
    settings: ModelSettings, results: Results, mode: str, axis: Axis, sizes: tuple[int, ...]
) -> None:
    """The model at growing sizes of one axis, until a step may need too much memory."""
    before: tuple[int, int] | None = None  # size and bytes
    for size in sorted(sizes):
        shape = BASE[axis]._replace(**{axis: size})
        needed = 0.0
        if before is not None:
            # No worse than quadratic, so that this is an upper bound.
            needed = before[1] * (size / before[0]) ** (1 if axis == "batch_size" else 2)

        def point(shape: Shape = shape, needed: float = needed) -> Point:
            if needed > 1e9 * settings.memory_gb:
                return Point(mode, *shape, axis=axis, needs_bytes=needed)
            say(f"{mode}: {shape}")
            memory, times = _step_memory(settings, mode, shape, SCALING_TURNS)
            return Point(mode, *shape, step_memory_bytes=memory, times=times, axis=axis)

        key = f"scaling {mode} {axis} {'x'.join(str(part) for part in shape)}"
        found = results.get(key, Point, point)
        if found.step_memory_bytes is None:
            return  # the larger ones need more still
        before = size, found.step_memory_bytes


def _times(works: dict[str, Work], repeats: int, tell: Callable[[str], object]) -> dict[str, Times]:
    """Seconds of a forward and of a step of each, interleaved."""
    calls = {
        (name, kind): _repeated(work, call)
        for name, work in works.items()
        for kind, call in (("forward", work.forward), ("step", work.step))
    }
    clocked = {
        key: Clocked(
            Spread.of([clock.wall_s / n for clock, n in turns]),
            Spread.of([clock.cpu_s / n for clock, n in turns]),
        )
        for key, turns in take_turns(calls, repeats, tell).items()
    }
    return {name: Times(clocked[name, "forward"], clocked[name, "step"]) for name in works}


def _repeated(work: Work, call: Callable[[], object]) -> Callable[[], int]:
    """So many calls that they are long enough to be timed; gives their number."""

    def run(n: int) -> int:
        work.wait()
        for _ in range(n):
            call()
        work.wait()
        return n

    run(1)  # kernels are chosen, memory is taken, code is compiled
    with timed() as clock:
        run(1)
    return partial(run, max(1, math.ceil(SHORTEST_TURN_S / clock.wall_s)))


def _step_memory(
    settings: ModelSettings, mode: str, shape: Shape, repeats: int = 0
) -> tuple[int, dict[str, Times]]:
    """Bytes that a step takes beyond model, gradients and moments, and times if asked for.

    On the CPU in a process of its own: what was freed before would hide what is taken.
    """
    question = (settings, mode, shape, repeats)
    if settings.device == "cuda":
        return StepWorker(0)(question)
    with children(1, StepWorker, preload=__name__) as child:
        return ask_all(child, question)[0]


class StepWorker:
    """Runs in the child: one step, watched, and then some for their time."""

    def __init__(self, index: int) -> None:
        del index

    def __call__(
        self, question: tuple[ModelSettings, str, Shape, int]
    ) -> tuple[int, dict[str, Times]]:
        settings, mode, shape, repeats = question
        torch.set_num_threads(settings.threads)
        work = Work(settings.preset, mode, shape, settings.device, seed=settings.seed)
        whole, work.batch = work.batch, [t.to(work.device) for t in random_batch(Shape(1, 4, 1), 0)]
        work.step()  # libraries are loaded, moments and averages exist
        work.batch = whole
        before = self._in_use(work, peak=False)
        work.step()
        memory = self._in_use(work, peak=True) - before
        return memory, _times({"model": work}, repeats, lambda _: None) if repeats else {}

    def _in_use(self, work: Work, *, peak: bool) -> int:
        if work.device.type == "cuda":
            work.wait()
            if peak:
                return torch.cuda.max_memory_allocated(work.device)
            torch.cuda.reset_peak_memory_stats(work.device)
            return torch.cuda.memory_allocated(work.device)
        return peak_memory_bytes() if peak else resident_memory_bytes()


@dataclass(frozen=True)
class Row:
    """One line of a table: seconds, rates, and how many times faster the model is."""

    name: str
    parameters: int | None = None
    forward_s: float | None = None
    step_s: float | None = None
    forward_cpu_s: float | None = None
    step_cpu_s: float | None = None
    predicted_per_s: float | None = None
    trained_per_s: float | None = None
    memory_mb: str = ""
    forward_ratio: float | None = None
    step_ratio: float | None = None


COLUMNS = {
    "": "{name}",
    "parameters": "{parameters:,}",
    "forward s": "{forward_s:.4g}",
    "step s": "{step_s:.4g}",
    "forward CPU s": "{forward_cpu_s:.4g}",
    "step CPU s": "{step_cpu_s:.4g}",
    "trajectories/s": "{predicted_per_s:.0f}",
    "trained/s": "{trained_per_s:.0f}",
    "step memory MB": "{memory_mb}",
    "forward /": "{forward_ratio:.1f}",
    "step /": "{step_ratio:.1f}",
}


def tables(settings: ModelSettings, results: Results) -> list[Table]:
    """Times side by side, and growth if it was measured."""
    points = results.all(Point)
    threads = f"{settings.threads} thread{'s' * (settings.threads > 1)}"
    on = "the GPU" if settings.device == "cuda" else threads
    clock = {"wall": "wall time", "cpu": "CPU time"}[settings.clock]
    title = (
        f"ATOM {settings.preset}, B = {settings.batch_size}, P = {settings.lags}, float32 unless "
        f"said, {on}; medians of {settings.repeats} turns; rates by {clock}; last two columns: how "
        f"many times faster the model is, likewise. {PUBLISHED_SOURCE.capitalize()}"
    )
    compared = [point for point in points if point.axis is None]
    rows = [row for point in compared for row in _rows(settings, point)]
    found = [Table.of(title, COLUMNS, rows)]
    columns = {heading: COLUMNS[heading] for heading in list(COLUMNS)[2:-2]}
    for mode in settings.modes:
        for axis, letter in LETTERS.items():
            grown = [point for point in points if (point.mode, point.axis) == (mode, axis)]
            exponent = growth_exponent(grown, settings.clock)
            told = "" if exponent is None else f"; a step's time grows as {letter}^{exponent:.2f}"
            title = f"ATOM {settings.preset}, {mode}: growth with {letter}{told}"
            rows = [_growth_row(settings, point) for point in grown]
            found.append(Table.of(title, {"B, N, P": "{name}"} | columns, rows))
    return found


def _row(name: str, point: Point, times: Times, clock: str) -> Row:
    forward, step = _medians(times, clock)
    return Row(
        name=name,
        parameters=point.n_parameters,
        forward_s=times.forward.wall.median,
        step_s=times.step.wall.median,
        forward_cpu_s=times.forward.cpu.median,
        step_cpu_s=times.step.cpu.median,
        predicted_per_s=point.batch_size / forward,
        trained_per_s=point.batch_size / step,
    )


def _medians(times: Times, clock: str) -> tuple[float, float]:
    return getattr(times.forward, clock).median, getattr(times.step, clock).median


def _rows(settings: ModelSettings, point: Point) -> list[Row]:
    where = f"{point.mode}, N = {point.atoms}"
    forward, step = _medians(point.times["model"], settings.clock)
    rows = []
    for name, times in point.times.items():
        row = _row(f"{where}, {name}", point, times, settings.clock)
        if name == "model":
            rows.append(replace(row, memory_mb=point.memory_mb))
        else:
            mine = _medians(times, settings.clock)
            rows.append(replace(row, forward_ratio=mine[0] / forward, step_ratio=mine[1] / step))
    if reference := published(settings, point):
        rows.append(
            Row(
                name=f"{where}, published code",
                parameters=PUBLISHED_PARAMETERS,
                forward_s=reference.forward_s,
                step_s=reference.step_s,
                predicted_per_s=point.batch_size / reference.forward_s,
                trained_per_s=point.batch_size / reference.step_s,
                forward_ratio=reference.forward_s / forward,
                step_ratio=reference.step_s / step,
            )
        )
    return rows


def _growth_row(settings: ModelSettings, point: Point) -> Row:
    name = f"{point.batch_size}, {point.atoms}, {point.lags}"
    if not point.times:
        return Row(f"{name}: left out", memory_mb=point.memory_mb)
    row = _row(name, point, point.times["model"], settings.clock)
    return replace(row, memory_mb=point.memory_mb)


def published(settings: ModelSettings, point: Point) -> Reference | None:
    """What the published code took at this size, if it was measured there.

    It attends to all steps, so that it stands beside `joint` alone, and ran with one thread.
    """
    alike = point.mode == "joint" and settings.device == "cpu" and settings.threads == 1
    sizes = (settings.preset, point.batch_size, point.lags)
    return PUBLISHED.get(sizes, {}).get(point.atoms) if alike else None


def growth_exponent(points: list[Point], clock: str) -> float | None:
    """Slope of log(seconds of a step) over log(size) through the largest sizes of one axis.

    None with fewer than two of them.
    """
    found = [
        (getattr(point, str(point.axis)), _medians(point.times["model"], clock)[1])
        for point in points
        if point.times
    ]
    found = [pair for pair in found if pair[0] >= LARGE * max(found)[0]]
    if len(found) < 2:
        return None
    sizes, seconds = zip(*found, strict=True)
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
