"""The training loop, the same for every learnt model.

A run is a function of its settings, data and seed: windows depend on (seed, epoch, index), label
noise on torch's generator, and both are part of the checkpoint, so that a killed run goes on as if
nothing had happened. With a budget in epochs this holds to the last bit on one machine; with a
budget in minutes the schedule follows the clock.
"""

from __future__ import annotations

import copy
import io
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from rich.progress import Progress
from torch import nn

from benchmarks.protocol import Budget, FitReport
from tg80.errors import CorruptFile, RunFailed, UserError
from tg80.files import write_atomically
from tg80.windows import TrainingWindows, WindowBatch, window_loader

CHECKPOINT = "checkpoint.pt"
LossFunction = Callable[[nn.Module, WindowBatch], torch.Tensor]


class TrainingSettings(BaseModel):
    """How a model is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = Field(3e-3, gt=0, description="peak learning rate")
    muon_learning_rate: float = Field(
        0.02, gt=0, description="peak learning rate of the matrices that Muon turns"
    )
    weight_decay: float = Field(1e-2, ge=0)
    batch_size: int = Field(16, ge=1)
    warmup_fraction: float = Field(0.05, ge=0, lt=1, description="of the budget")
    final_rate_fraction: float = Field(0.01, ge=0, le=1, description="rate at the end over peak")
    gradient_clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    ema_decay: float = Field(0.99, ge=0, lt=1, description="of the averaged weights, per step")
    windows_per_trajectory: int = Field(64, ge=1, description="in an epoch")
    fixed_lag_fraction: float = Field(
        0.8, ge=0, le=1, description="windows at the task's lags; others to a log-uniform horizon"
    )
    longest_horizon_fs: float | None = Field(
        None, gt=0, description="of log-uniform horizons; None: the train block's length"
    )
    validations: int = Field(10, ge=1, description="evenly over the budget")
    patience: int | None = Field(
        None, ge=1, description="validations without a better one before stopping; None: never"
    )
    checkpoint_every_seconds: float = Field(30.0, ge=0)
    loss_atoms: Literal["scored", "all"] = Field(
        "scored", description="atoms whose error is learnt from"
    )
    threads: int = Field(
        1, ge=1, description="CPU threads; one on purpose, so that CPU time counts"
    )


class EarlyStop(Exception):
    """Validation has not become better for `patience` times."""


class Trainer:
    """Trains one module within a budget.

    Args:
        module: what is trained, on `device` already.
        loss: (module, batch on the device) -> scalar.
        windows: the training windows.
        validate: S2S of `val` of a module, A^2; None where there is nothing to validate on: then
            the last averaged weights are kept.
        out: folder of the checkpoint.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: LossFunction,
        windows: TrainingWindows,
        validate: Callable[[nn.Module], float] | None,
        settings: TrainingSettings,
        *,
        budget: Budget,
        seed: int,
        out: Path,
        device: torch.device,
    ) -> None:
        self.module, self.loss, self.windows = module, loss, windows
        self.validate, self.settings, self.budget, self.seed = validate, settings, budget, seed
        self.path, self.device = out / CHECKPOINT, device
        self.averaged = copy.deepcopy(module).requires_grad_(False)
        self.optimizers = make_optimizers(module, settings)
        self.best = copy.deepcopy(self.averaged.state_dict())
        self.step = 0
        self.seconds = 0.0
        self.best_validation: float | None = None
        self.strikes = self.next_validation = 0
        self.loss_sum, self.loss_count = 0.0, 0
        self.history: list[dict[str, float]] = []
        self._clock = self._now()
        self._saved = self._now()

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        return math.ceil(len(self.windows) / self.settings.batch_size)

    def fraction(self) -> float:
        """How much of the budget is used up, 0 to 1."""
        if self.budget.epochs is not None:
            return min(1.0, self.step / (self.budget.epochs * self.steps_per_epoch))
        assert self.budget.cpu_minutes is not None
        return min(1.0, self.seconds / (60 * self.budget.cpu_minutes))

    def run(self, progress: Progress | None = None) -> tuple[dict[str, torch.Tensor], FitReport]:
        """Train until the budget is used up or validation stops getting better.

        Returns:
            The weights that are kept (averaged, best on validation), and the report.

        Raises:
            RunFailed: the loss is no longer finite.
            CorruptFile: the checkpoint is damaged.
        """
        if self.path.exists():
            self.resume()
        else:
            torch.manual_seed(self.seed)
        self._clock = self._saved = self._now()
        stopped_early = self._out_of_patience()
        bar = (
            None if progress is None else progress.add_task(f"training, seed {self.seed}", total=1)
        )
        try:
            for batch in () if stopped_early or self.fraction() >= 1 else self._batches():
                self._train_on(batch)
                self._after_step()
                if progress is not None and bar is not None:
                    progress.update(bar, completed=self.fraction(), description=self._status())
                if self.fraction() >= 1:
                    break
        except EarlyStop:
            stopped_early = True
        self.save()
        if self.validate is None:
            self.best = self.averaged.state_dict()
        return self.best, self._report(stopped_early)

    def _batches(self) -> Iterable[WindowBatch]:
        """Batches from where the run stands, epoch after epoch."""
        epoch, batch = divmod(self.step, self.steps_per_epoch)
        return window_loader(
            self.windows, self.settings.batch_size, epochs=None, first_epoch=epoch, skip=batch
        )

    def _train_on(self, batch: WindowBatch) -> None:
        scale = schedule(self.fraction(), self.settings)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_rate"] * scale
            optimizer.zero_grad(set_to_none=True)
        self.module.train()
        loss = self.loss(self.module, batch_to(batch, self.device))
        loss.backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), self.settings.gradient_clip)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise RunFailed(
                f"training diverged at step {self.step}; try a lower training.learning_rate"
            )
        for optimizer in self.optimizers:
            optimizer.step()
        self._average()
        self.loss_sum, self.loss_count = self.loss_sum + value, self.loss_count + 1
        self.step += 1

    @torch.no_grad()
    def _average(self) -> None:
        # Young averages forget faster, else the random start would weigh on short runs.
        decay = min(self.settings.ema_decay, (1 + self.step) / (10 + self.step))
        pairs = zip(self.averaged.parameters(), self.module.parameters(), strict=True)
        for mine, theirs in pairs:
            mine.lerp_(theirs, 1 - decay)
        for mine, theirs in zip(self.averaged.buffers(), self.module.buffers(), strict=True):
            mine.copy_(theirs)

    def _after_step(self) -> None:
        self._tick()
        if self.fraction() * self.settings.validations >= self.next_validation + 1:
            self._validate()
            self.next_validation = int(self.fraction() * self.settings.validations)
            self._tick()
            self.save()
            if self._out_of_patience():
                raise EarlyStop
        elif self._now() - self._saved >= self.settings.checkpoint_every_seconds:
            self.save()

    def _out_of_patience(self) -> bool:
        return self.settings.patience is not None and self.strikes >= self.settings.patience

    def _validate(self) -> None:
        entry = {
            "step": float(self.step),
            "training_loss": self.loss_sum / max(1, self.loss_count),
        }
        self.loss_sum, self.loss_count = 0.0, 0
        if self.validate is not None:
            value = self.validate(self.averaged.eval())
            entry["validation_s2s"] = value
            if self.best_validation is None or value < self.best_validation:
                self.best_validation, self.strikes = value, 0
                self.best = copy.deepcopy(self.averaged.state_dict())
            else:
                self.strikes += 1
        self.history.append(entry)

    def save(self) -> None:
        """Write a checkpoint, whole or not at all."""
        self._tick()
        state = {
            "module": self.module.state_dict(),
            "averaged": self.averaged.state_dict(),
            "best": self.best,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state() if self.device.type == "cuda" else None,
            "counters": {key: getattr(self, key) for key in _COUNTERS},
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, buffer.getvalue())
        self._saved = self._now()

    def resume(self) -> None:
        """Go on from the checkpoint in `out`.

        Raises:
            CorruptFile: it cannot be read.
        """
        try:
            state = torch.load(self.path, map_location=self.device, weights_only=True)
        except Exception as error:
            raise CorruptFile(f"{self.path}: damaged; remove it to train from the start") from error
        self.module.load_state_dict(state["module"])
        self.averaged.load_state_dict(state["averaged"])
        self.best = state["best"]
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        torch.set_rng_state(state["torch_rng"].cpu())
        if state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"].cpu())
        for key in _COUNTERS:
            setattr(self, key, state["counters"][key])

    def _now(self) -> float:
        # CPU time does not depend on what else the machine does; on a GPU it would mean nothing.
        return time.perf_counter() if self.device.type == "cuda" else time.process_time()

    def _tick(self) -> None:
        now = self._now()
        self.seconds += now - self._clock
        self._clock = now

    def _status(self) -> str:
        shown = "-" if self.best_validation is None else f"{100 * self.best_validation:.3f}"
        return f"seed {self.seed}, step {self.step}, val S2S {shown} x 1e-2 A^2"

    def _report(self, stopped_early: bool) -> FitReport:
        return FitReport(
            n_parameters=sum(p.numel() for p in self.module.parameters()),
            n_steps=self.step,
            n_epochs=self.step // self.steps_per_epoch,
            cpu_seconds=self.seconds,
            best_validation=self.best_validation,
            stopped_early=stopped_early,
            history=self.history,
        )


_COUNTERS = (
    "step", "seconds", "best_validation", "strikes", "next_validation",
    "loss_sum", "loss_count", "history",
)  # fmt: skip


def schedule(fraction: float, settings: TrainingSettings) -> float:
    """Learning rate over its peak: linear warm-up, then a cosine down to the final fraction."""
    warmup = settings.warmup_fraction
    if fraction < warmup:
        # Not zero, so that the first step moves.
        return max(fraction / warmup, 0.01)
    done = (fraction - warmup) / (1 - warmup)
    low = settings.final_rate_fraction
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * done))


def make_optimizers(module: nn.Module, settings: TrainingSettings) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the matrices and AdamW for the rest.

    References:
        Muon: Jordan et al. (2024), https://kellerjordan.github.io/posts/muon/.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    # Decay pulls matrices towards zero; gates, norms and biases have no reason to shrink.
    matrices = [p for p in parameters if p.ndim == 2]
    others = [p for p in parameters if p.ndim != 2]
    optimizers: list[torch.optim.Optimizer] = []
    groups: list[dict[str, Any]] = [{"params": others, "weight_decay": 0.0}]
    if settings.optimizer == "muon" and matrices:
        muon = torch.optim.Muon(
            matrices, lr=settings.muon_learning_rate, weight_decay=settings.weight_decay
        )
        optimizers.append(muon)
    else:
        groups.append({"params": matrices, "weight_decay": settings.weight_decay})
    optimizers.append(
        torch.optim.AdamW([g for g in groups if g["params"]], lr=settings.learning_rate)
    )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_rate"] = group["lr"]
    return optimizers


def batch_to(batch: WindowBatch, device: torch.device) -> WindowBatch:
    """The batch with its tensors on a device."""
    names = ("positions", "velocities", "atomic_numbers", "lags_fs", "targets")
    return replace(batch, **{name: getattr(batch, name).to(device) for name in names})


def pick_device(name: str) -> torch.device:
    """Device of the name "auto", "cpu" or "cuda"; auto takes a GPU if there is one.

    Raises:
        UserError: another name, or cuda where there is none.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"unknown device {name!r}; choose auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("no CUDA device here; use --device cpu, or auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
