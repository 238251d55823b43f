"""The training loop, the same for every learnt model.

A run is a function of its settings, data and seed: windows and their label noise depend on (seed,
epoch, index), and all else is in the checkpoint, so that a killed run resumes as if nothing had
happened. With a budget in epochs this holds to the last bit on one machine; with a budget in
minutes the schedule follows the clock.
"""

from __future__ import annotations

import copy
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from torch import nn

from benchmarks.interface import Budget, FitReport
from benchmarks.training import distributed
from benchmarks.training.batches import (
    MicroBatch,
    StepLoader,
    longest_trained_lag_fs,
    steps_per_epoch,
)
from benchmarks.training.checkpoint import CHECKPOINT, read_checkpoint, write_checkpoint
from benchmarks.training.early_stopping import EarlyStopping
from benchmarks.training.optimisers import make_optimizers, schedule
from benchmarks.training.settings import TrainingSettings
from tg80.errors import UserError
from tg80.windows.windows import TrainingWindows

__all__ = ["CHECKPOINT", "LossFunction", "Trainer", "TrainingSettings", "pick_device"]

# Settings that change neither the weights nor what they mean.
_HARMLESS = {"checkpoint_every_seconds", "threads", "workers"}

LossFunction = Callable[[nn.Module, MicroBatch], tuple[torch.Tensor, torch.Tensor]]
"""(module, micro-batch on its device) -> sum of the losses of its windows, and how many count."""


class Trainer:
    """Trains one module within a budget.

    Args:
        module: what is trained, on `device` already.
        loss: what is made small, per window; its randomness is the micro-batch's noise.
        windows: the training windows.
        validate: error of a module, persistence's being 1; None where there is nothing to validate
            on: then the last averaged weights are kept.
        out: folder of the checkpoint.
        identity: what else makes this run: a checkpoint of another one is refused.
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
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        self.module, self.windows = module, windows
        self.validate, self.budget, self.seed = validate, budget, seed
        self.settings = settings = with_processes(settings)
        self.path, self.device = out / CHECKPOINT, device
        self.identity = {**(identity or {}), **self._identity()}
        self.averaged = copy.deepcopy(module).requires_grad_(False)
        # Listed once: to walk through a module takes longer than some steps' arithmetic.
        self._parameters = list(module.parameters())
        self._means = list(self.averaged.parameters())
        self.optimizers = make_optimizers(module, settings)
        self.stopping = EarlyStopping(self.averaged.state_dict(), settings.patience)
        if settings.compile:
            compile_module(module)
        self.learner = self._parallel(_Learner(module, loss))
        self.step = 0
        self.seconds = 0.0
        self.next_validation = 0
        self.loss_sum, self.loss_count = 0.0, 0
        self.history: list[dict[str, float]] = []
        self._unshared = 0.0  # seconds of this process that are not in `seconds` yet
        self._clock = self._saved = self._now()

    def _parallel(self, learner: _Learner) -> nn.Module:
        """The learner for several processes, which must know of parameters that get no gradient."""
        if distributed.world_size() == 1:
            return learner
        first, *_ = next(iter(StepLoader(self.windows, self.settings)))
        learner(first.to(self.device))[0].backward()
        unused = any(p.grad is None for p in learner.parameters() if p.requires_grad)
        learner.zero_grad(set_to_none=True)
        return distributed.parallel(learner, unused=unused)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of the optimiser in an epoch."""
        return steps_per_epoch(self.windows, self.settings)

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
            UserError: the checkpoint is of a run with other settings.
        """
        if distributed.from_main(self.path.exists()):
            with distributed.together():
                self.resume()
        else:
            torch.manual_seed(self.seed)
        self._clock = self._saved = self._now()
        self.module.train()
        bar = progress and progress.add_task(f"training, seed {self.seed}", total=1)
        for step in self._steps():
            self._train_on(step)
            self._after_step()
            if progress is not None and bar is not None:
                progress.update(bar, completed=self.fraction(), description=self._status())
        self.save()
        if self.validate is None:
            self.stopping.best = self.averaged.state_dict()
        return self.stopping.best, self._report()

    def _steps(self) -> Iterator[list[MicroBatch]]:
        """The micro-batches of this process, from where the run stands to its end."""
        steps = iter(
            StepLoader(self.windows, self.settings, rank=distributed.rank(), first_step=self.step)
        )
        while self.fraction() < 1 and not self.stopping.has_stopped:
            yield next(steps)

    def _train_on(self, step: list[MicroBatch]) -> None:
        scale = schedule(self.fraction(), self.settings)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_rate"] * scale
        for parameter in self._parameters:
            parameter.grad = None
        mean = self._gradients(step)
        if not math.isfinite(mean):
            # The mean is that of all processes: all of them stop here.
            raise distributed.SharedFailure(
                f"training diverged at step {self.step}; try a lower training.learning_rate"
            )
        nn.utils.clip_grad_norm_(self._parameters, self.settings.gradient_clip)
        for optimizer in self.optimizers:
            optimizer.step()
        self._average()
        self.loss_sum, self.loss_count = self.loss_sum + mean, self.loss_count + 1
        self.step += 1

    def _gradients(self, step: list[MicroBatch]) -> float:
        """Set the gradients of the mean over the global batch, and return that mean.

        Sums are differentiated and divided at the end: a mean of means would weigh windows by the
        size of their micro-batch and of their process's share.
        """
        totals, counts = [], []
        for i, micro_batch in enumerate(step):
            with distributed.averaging(self.learner, i == len(step) - 1):
                with self._autocast():
                    total, count = self.learner(micro_batch.to(self.device))
                weight = float(micro_batch.counts)
                (weight * total).backward()
            totals.append(weight * total.detach())
            counts.append(weight * count)
        local = torch.stack([torch.stack(totals).sum(), torch.stack(counts).sum()]).double()
        self._tick()
        if self.device.type != "cuda":
            self._unshared += sum(micro_batch.worker_seconds for micro_batch in step)
        loss_sum, n_windows, seconds = distributed.summed([*local.tolist(), self._unshared])
        self.seconds, self._unshared = self.seconds + seconds, 0.0
        # What is left behind is the average over the processes of their sums.
        factor = distributed.world_size() / max(n_windows, 1.0)
        for parameter in self._parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(factor)
        return loss_sum / max(n_windows, 1.0)

    def _autocast(self) -> torch.autocast:
        bf16 = self.settings.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=bf16)

    @torch.no_grad()
    def _average(self) -> None:
        # Young averages forget faster, else the random start would weigh on short runs.
        decay = min(self.settings.ema_decay, (1 + self.step) / (10 + self.step))
        for mine, theirs in zip(self._means, self._parameters, strict=True):
            mine.lerp_(theirs, 1 - decay)
        for mine, theirs in zip(self.averaged.buffers(), self.module.buffers(), strict=True):
            mine.copy_(theirs)

    def _after_step(self) -> None:
        if self.fraction() * self.settings.validations >= self.next_validation + 1:
            self._validate()
            self.next_validation = int(self.fraction() * self.settings.validations)
            self.save()
        elif self._now() - self._saved >= self.settings.checkpoint_every_seconds:
            self.save()

    def _validate(self) -> None:
        entry = {
            "step": float(self.step),
            "training_loss": self.loss_sum / max(1, self.loss_count),
        }
        self.loss_sum, self.loss_count = 0.0, 0
        if self.validate is not None:
            self._tick()
            value = self.validate(self.averaged.eval()) if distributed.is_main() else math.nan
            value = distributed.from_main(value)
            self._clock = self._now()  # The budget is one of training, evaluation apart.
            if math.isfinite(value):  # JSON knows no others.
                entry["validation_error"] = value
            self.stopping.judge(value, self.averaged.state_dict())
        self.history.append(entry)

    def save(self) -> None:
        """Write a checkpoint, whole or not at all; rank 0 alone does."""
        self._tick()
        self._saved = self._now()
        if not distributed.is_main():
            return
        counters = {name: getattr(self._owner(name), name) for name in _COUNTERS}
        counters["seconds"] += self._unshared
        state = {
            "module": self.module.state_dict(),
            "averaged": self.averaged.state_dict(),
            "best": self.stopping.best,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state() if self.device.type == "cuda" else None,
            "counters": counters,
        }
        write_checkpoint(self.path, state, self.identity)

    def resume(self) -> None:
        """Resume from the checkpoint in `out`.

        Raises:
            CorruptFile: it cannot be read.
            UserError: it is of a run with other settings.
        """
        state = read_checkpoint(self.path, self.identity, self.device)
        self.module.load_state_dict(state["module"])
        self.averaged.load_state_dict(state["averaged"])
        self.stopping.best = state["best"]
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        torch.set_rng_state(state["torch_rng"].cpu())
        if state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"].cpu())
        for name in _COUNTERS:
            setattr(self._owner(name), name, state["counters"][name])

    def _owner(self, counter: str) -> Trainer | EarlyStopping:
        return self.stopping if hasattr(self.stopping, counter) else self

    def _identity(self) -> dict[str, Any]:
        sizes = self.windows.sizes()
        return {
            "training": self.settings.model_dump(mode="json", exclude=_HARMLESS),
            "budget": {"epochs": self.budget.epochs, "cpu_minutes": self.budget.cpu_minutes},
            "seed": self.seed,
            "windows": {
                "molecules": [t.start_id(0) for t in self.windows.trajectories],
                "frames": [t.n_frames for t in self.windows.trajectories],
                "atoms": sum(sizes),
            },
        }

    def _now(self) -> float:
        # CPU time does not depend on what else the machine does; on a GPU it would mean nothing.
        return time.perf_counter() if self.device.type == "cuda" else time.process_time()

    def _tick(self) -> None:
        now = self._now()
        self._unshared += now - self._clock
        self._clock = now

    def _status(self) -> str:
        best = self.stopping.best_validation
        shown = "-" if best is None else f"{best:.3f}"
        return f"seed {self.seed}, step {self.step}, val {shown} of persistence"

    def _n_samples(self) -> int:
        """Windows learnt from; the last step of an epoch may have fewer than the others."""
        epochs, steps = divmod(self.step, self.steps_per_epoch)
        return epochs * len(self.windows) + steps * self.settings.windows_per_step

    def _report(self) -> FitReport:
        return FitReport(
            n_parameters=sum(p.numel() for p in self._parameters),
            n_steps=self.step,
            n_epochs=self.step // self.steps_per_epoch,
            n_samples=self._n_samples(),
            cpu_seconds=self.seconds + distributed.summed([self._unshared])[0],
            best_validation=self.stopping.best_validation,
            stopped_early=self.stopping.has_stopped,
            longest_lag_fs=longest_trained_lag_fs(self.windows),
            history=self.history,
        )


class _Learner(nn.Module):
    """Module and loss as one: what is parallel is the whole way from windows to loss."""

    def __init__(self, module: nn.Module, loss: LossFunction) -> None:
        super().__init__()
        self.module, self.loss = module, loss

    def forward(self, micro_batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        return self.loss(self.module, micro_batch)


_COUNTERS = (
    "step", "seconds", "best_validation", "strikes", "next_validation",
    "loss_sum", "loss_count", "history",
)  # fmt: skip


def with_processes(settings: TrainingSettings) -> TrainingSettings:
    """The settings with the number of processes that take part.

    Raises:
        UserError: they ask for another number.
    """
    here = distributed.world_size()
    if settings.processes is None:
        return settings.model_copy(update={"processes": here})
    if settings.processes != here:
        raise UserError(
            f"training.processes is {settings.processes}, but {here} take part; start as many by "
            f"torchrun --nproc-per-node {settings.processes}"
        )
    return settings


def compile_module(module: nn.Module) -> None:
    """Let torch compile the module's forward; it stays the same module.

    Raises:
        UserError: there is no compiler.
    """
    if not any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++")):
        raise UserError("training.compile needs a C++ compiler such as g++; install one")
    # Dynamic shapes: batches differ in atoms and lags, and must not be compiled one by one.
    module.compile(dynamic=True)


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
