"""Time and memory of ATOM's forward and training step, beside the same equations in plain loops.

What is compared takes turns, so that whatever else the machine does meets all alike. A training
step is what `benchmarks.training.trainer` does with one batch: loss with label noise, backward,
clipping, AdamW, and the average of the weights.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, PositiveInt

from atom import ATOM, ATOMConfig
from benchmarks.speed.plain_atom import PlainATOM
from benchmarks.speed.processes import children
from benchmarks.speed.timing import (
    SameThreads,
    peak_memory_bytes,
    resident_memory_bytes,
    summary,
    timed,
)  # fmt: skip
from benchmarks.training.optimisers import make_optimizers
from benchmarks.training.settings import TrainingSettings
from benchmarks.training.trainer import compile_module
from tg80.untrusted.limits import BoundedModel

Preset = Literal["mini", "public", "paper"]
Mode = Literal["joint", "start"]

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


class ModelSettings(BoundedModel):
    """What is timed."""

    preset: Preset = "public"
    modes: tuple[Mode, ...] = ("joint", "start")
    atoms: tuple[PositiveInt, ...] = (12, 20)
    batch_size: int = Field(default=32, ge=1)
    lags: int = Field(default=8, ge=1)
    repeats: int = Field(default=5, ge=1)
    threads: int = Field(default=1, ge=1)
    device: Literal["cpu", "cuda"] = "cpu"
    plain: bool = True
    bf16: bool = False
    compile: bool = False
    seed: int = 0

    def variants(self) -> dict[str, Variant]:
        """What is timed side by side, by the name of its row."""
        found = {"model": Variant()}
        if self.plain:
            found["plain loop"] = Variant(plain=True)
        if self.bf16:
            found["bf16"] = Variant(bf16=True)
        if self.compile:
            found["compiled"] = Variant(compiled=True)
            if self.bf16:
                found["compiled, bf16"] = Variant(compiled=True, bf16=True)
        return found


class Variant(NamedTuple):
    """One way to run the same model."""

    plain: bool = False
    bf16: bool = False
    compiled: bool = False


class Shape(NamedTuple):
    """Sizes of a batch: samples, atoms, lags."""

    batch_size: int
    atoms: int
    lags: int


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


def measure(
    settings: ModelSettings,
    get: Callable[[str, Callable[[], Any]], Any],
    say: Callable[[str], None],
) -> None:
    """Times at all sizes.

    Args:
        settings: of the command.
        get: stored result of a key, else measured; see `ResultsFile.get`.
        say: tells what is done.
    """
    for mode in settings.modes:
        for n in settings.atoms:
            get(f"{mode}, N = {n}", lambda m=mode, n=n: measure_point(settings, m, n, say))


def measure_point(
    settings: ModelSettings, mode: str, n_atoms: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Times of all variants at one size, in turns, and the memory of a step; JSON-able."""
    shape = Shape(settings.batch_size, n_atoms, settings.lags)
    where = f"{mode}, N = {n_atoms}"
    with SameThreads(settings.threads):
        torch.set_num_threads(settings.threads)
        say(f"{where}: first calls")
        works = {
            name: Work(settings.preset, mode, shape, settings.device, variant, settings.seed)
            for name, variant in settings.variants().items()
        }
        times = take_turns(works, settings.repeats, lambda text: say(f"{where}: {text}"))
    say(f"{where}: memory")
    memory = step_memory(settings, mode, shape)
    return {
        "mode": mode, **shape._asdict(), "n_parameters": works["model"].n_parameters,
        "step_memory_bytes": memory["step_memory_bytes"], "times": times,
    }  # fmt: skip


def take_turns(
    works: dict[str, Work], repeats: int, say: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """Wall and CPU seconds of forward and step of each, interleaved.

    Returns:
        name -> `forward` or `step` -> `wall` or `cpu` -> summary.
    """
    turns = {
        (name, kind): (work, call)
        for name, work in works.items()
        for kind, call in (("forward", work.forward), ("step", work.step))
    }
    calls = {key: _calls_in_a_turn(*turn) for key, turn in turns.items()}
    found: dict[tuple[str, str], list[tuple[float, float]]] = {key: [] for key in turns}
    for repeat in range(repeats):
        say(f"repeat {repeat + 1} of {repeats}")
        # Every other time backwards: a load that comes and goes favours nobody.
        for key in list(turns)[:: 1 if repeat % 2 else -1]:
            found[key].append(_seconds(*turns[key], calls[key]))
    times: dict[str, dict[str, Any]] = {name: {} for name in works}
    for (name, kind), pairs in found.items():
        walls, cpus = zip(*pairs, strict=True)
        times[name][kind] = {"wall": summary(walls), "cpu": summary(cpus)}
    return times


def _calls_in_a_turn(work: Work, call: Callable[[], Any]) -> int:
    _seconds(work, call, 1)  # kernels are chosen, memory is taken, code is compiled
    return max(1, math.ceil(SHORTEST_TURN_S / _seconds(work, call, 1)[0]))


def _seconds(work: Work, call: Callable[[], Any], calls: int) -> tuple[float, float]:
    """Wall and CPU seconds of a call, mean of so many."""
    work.wait()
    with timed() as clock:
        for _ in range(calls):
            call()
        work.wait()
    return clock.wall_s / calls, clock.cpu_s / calls


def step_memory(
    settings: ModelSettings, mode: str, shape: Shape, repeats: int = 0
) -> dict[str, Any]:
    """Memory that a step takes beyond model, gradients and optimiser, and times if asked for.

    On the CPU in a process of its own: what was freed before would hide what is taken.

    Returns:
        `step_memory_bytes` and, with `repeats`, `times` as those of :func:`take_turns`.
    """
    question = (settings.model_dump(), mode, tuple(shape), repeats)
    if settings.device == "cuda":
        return StepWorker(0)(question)
    with children(1, StepWorker, preload=__name__) as (child,):
        child.ask(question)
        return child.answer()


class StepWorker:
    """Runs in the child: one step, watched, and then some for their time."""

    def __init__(self, index: int) -> None:
        del index

    def __call__(self, question: tuple[dict[str, Any], str, tuple, int]) -> dict[str, Any]:
        values, mode, sizes, repeats = question
        settings, shape = ModelSettings.model_validate(values), Shape(*sizes)
        torch.set_num_threads(settings.threads)
        work = Work(settings.preset, mode, shape, settings.device, seed=settings.seed)
        whole, work.batch = work.batch, [t.to(work.device) for t in random_batch(Shape(1, 4, 1), 0)]
        work.step()  # libraries are loaded, moments and averages exist
        work.batch = whole
        before = self._in_use(work, peak=False)
        work.step()
        found: dict[str, Any] = {"step_memory_bytes": self._in_use(work, peak=True) - before}
        if repeats:
            found["times"] = take_turns({"model": work}, repeats, lambda text: None)["model"]
        return found

    def _in_use(self, work: Work, *, peak: bool) -> int:
        if work.device.type == "cuda":
            work.wait()
            if peak:
                return torch.cuda.max_memory_allocated(work.device)
            torch.cuda.reset_peak_memory_stats(work.device)
            return torch.cuda.memory_allocated(work.device)
        return peak_memory_bytes() if peak else resident_memory_bytes()
