"""What a trajectory costs: the CPU time of its segments, and the processors they ran on."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Cost:
    """What committed segments cost.

    Attributes:
        cpu_seconds: CPU time of the processes that did them, all threads. What a kill took away is
            not in it.
        processors: models they ran on, in the order they first came.
    """

    cpu_seconds: float = 0.0
    processors: tuple[str, ...] = ()

    def plus(self, cpu_seconds: float, processor: str) -> Cost:
        """With one more segment."""
        models = dict.fromkeys((*self.processors, processor))
        return Cost(self.cpu_seconds + cpu_seconds, tuple(models))

    def to_header(self) -> dict[str, Any]:
        """For the header of a checkpoint."""
        return {"cpu_seconds": self.cpu_seconds, "processors": list(self.processors)}


def cost_from_header(stated: dict[str, Any] | None) -> Cost | None:
    """The cost as a checkpoint states it; None if a segment's is unknown."""
    if stated is None:
        return None
    return Cost(stated["cpu_seconds"], tuple(stated["processors"]))


def process_cpu_seconds() -> float:
    """CPU time of all threads of this process until now, user and system."""
    return time.process_time()


@cache
def processor_model() -> str:
    """Model of this machine's processor, or its kind where the system names no model."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, model = line.partition(":")
        if name.strip() == "model name" and model.strip():
            return " ".join(model.split())
    return platform.processor() or platform.machine()
