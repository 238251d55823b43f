"""Several processes that train one model together, as `torchrun` starts them.

    torchrun --nproc-per-node 2 -m benchmarks.cli run --fold 2 ...

Without `torchrun` everything here does nothing: one process, rank 0.
"""

from __future__ import annotations

import os
import re
import signal
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import typer
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tg80.errors import RunFailed, Tg80Error, UserError

Value = TypeVar("Value")
# How long a process waits for the others: rank 0 alone validates and scores.
PATIENCE = timedelta(hours=2)
_LOST_CONNECTION = re.compile(r"gloo|nccl|connection (closed|reset)|broken pipe", re.IGNORECASE)


class SharedFailure(RunFailed):
    """A failure that every process knows of; rank 0 alone tells it."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, 0 being the one that writes and prints."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this process writes and prints."""
    return rank() == 0


@contextmanager
def session(device: str) -> Iterator[None]:
    """Join the processes that `torchrun` started, and make every failure one line.

    A process that fails tells so with its rank; those that lose it end after it.

    Args:
        device: "auto", "cpu" or "cuda", as for a run.
    """
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    _join(uses_gpu=device != "cpu" and torch.cuda.is_available())
    before = signal.signal(signal.SIGTERM, _stop)  # what torchrun sends when a process has ended
    try:
        yield
    except typer.Exit:
        raise
    except Exception as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # The one line is being told.
        raise _one_line(error) from error
    signal.signal(signal.SIGTERM, before)
    dist.destroy_process_group()


class _Stopped(Exception):
    """SIGTERM."""


def _stop(*_: Any) -> None:
    raise _Stopped


def _join(uses_gpu: bool) -> None:
    if uses_gpu:
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise UserError(
                f"rank {local} has no GPU of its own, there are {torch.cuda.device_count()}; "
                "start as many processes (--nproc-per-node)"
            )
        torch.cuda.set_device(local)
    dist.init_process_group("cpu:gloo,cuda:nccl" if uses_gpu else "gloo", timeout=PATIENCE)


def _one_line(error: Exception) -> Exception:
    if isinstance(error, SharedFailure):
        return error if is_main() else typer.Exit(error.exit_code)
    lost = isinstance(error, (dist.DistError, _Stopped)) or (
        isinstance(error, RuntimeError) and _LOST_CONNECTION.search(str(error)) is not None
    )
    if lost and not is_main():
        return typer.Exit(1)
    if lost:
        return RunFailed(
            "another process of this run has ended, or torchrun was stopped; the message of that "
            "process says why, if it left one. The same command resumes from the last checkpoint"
        )
    failure = RunFailed(f"rank {rank()}: {_message(error)}")
    failure.exit_code = getattr(error, "exit_code", 1)
    return failure


def _message(error: Exception) -> str:
    if isinstance(error, Tg80Error):
        return str(error)
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


@contextmanager
def together() -> Iterator[None]:
    """A block at whose end an error of one process becomes an error of all.

    Raises:
        SharedFailure: there are several processes, and the block failed in at least one.
    """
    if world_size() == 1:
        yield
        return
    error: Exception | None = None
    try:
        yield
    except Exception as caught:
        error = caught
    mine = None if error is None else (_message(error), getattr(error, "exit_code", 1))
    told: list[Any] = [None] * world_size()
    dist.all_gather_object(told, mine)
    failed = [(i, *each) for i, each in enumerate(told) if each is not None]
    if failed:
        first, message, exit_code = failed[0]
        everywhere = len(failed) == world_size()
        text = message if everywhere else f"rank {first}: {message}"
        raise SharedFailure(text, exit_code) from error


def from_main(value: Value) -> Value:
    """Rank 0's value, in every process; they wait for it."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def summed(values: Sequence[float]) -> list[float]:
    """Sums over all processes, bit-identical in each."""
    if world_size() == 1:
        return list(values)
    total = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(total)
    return total.tolist()


def parallel(module: nn.Module, *, unused: bool) -> nn.Module:
    """The module, its gradients averaged over the processes.

    Args:
        module: the model.
        unused: whether some parameters get no gradient.
    """
    if world_size() == 1:
        return module
    with warnings.catch_warnings():
        # `broadcast_buffers` has a new name since torch 2.13, and only that since no version yet.
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(
            module, broadcast_buffers=False, find_unused_parameters=unused
        )


def averaging(module: nn.Module, on: bool) -> AbstractContextManager[None]:
    """Whether backward passes in this block average the gradients, or more are to be added."""
    if on or not isinstance(module, DistributedDataParallel):
        return nullcontext()
    return module.no_sync()
