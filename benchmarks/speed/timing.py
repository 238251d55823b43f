"""What every timing here shares: clocks, summaries of repeats, and the machine they ran on."""

import os
import platform
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from pyscf import lib

from pipelines.engines.threads import ThreadLimit

_PACKAGES = ("pyscf", "numpy", "scipy", "tblite", "numba", "dask", "torch")


@dataclass
class Clock:
    """Wall and processor time of the block it was handed to, in seconds.

    The processor time is summed over the threads of this process; unlike the wall time it does not
    grow while other programs use the machine.
    """

    wall_s: float = float("nan")
    cpu_s: float = float("nan")


@contextmanager
def timed() -> Iterator[Clock]:
    """Time a block: `with timed() as clock: ...`, then `clock.wall_s`."""
    clock = Clock()
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        yield clock
    finally:
        clock.wall_s = time.perf_counter() - wall
        clock.cpu_s = time.process_time() - cpu


def summary(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Median, quartiles and range of some values, with their number."""
    array = np.asarray(values, dtype=float)
    low, middle, high = np.percentile(array, [25, 50, 75])
    return {
        "median": float(middle), "quartile_1": float(low), "quartile_3": float(high),
        "mean": float(array.mean()), "lowest": float(array.min()),
        "highest": float(array.max()), "n": len(array),
    }  # fmt: skip


def machine() -> dict[str, Any]:
    """Processor, its cores for this process, load at this moment, and versions."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except ModuleNotFoundError:
            continue
    return {
        "processor": _processor(), "vector_units": _vector_units(), "cores": cores,
        "system": platform.system(), "load_before": os.getloadavg()[0], "versions": versions,
    }  # fmt: skip


def machine_line(machine: dict[str, Any]) -> str:
    """The machine in one line."""
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return (
        f"{machine['processor']} ({machine['vector_units']}), {machine['cores']} cores, "
        f"load {machine['load_before']:.1f} at the start; {versions}"
    )


def _cpuinfo(key: str) -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith(key):
                return line.split(":", 1)[1].strip()
    return ""


def _processor() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _vector_units() -> str:
    flags = _cpuinfo("flags").split()
    return next((name for name in ("avx512f", "avx2", "avx") if name in flags), "unknown")


def peak_memory_bytes() -> int:
    """Largest resident memory of this process since it started, bytes."""
    # getrusage would count what the parent held when it forked.
    found = _status_bytes("VmHWM")
    if found is not None:
        return found
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if platform.system() == "Darwin" else 1024 * peak)


def resident_memory_bytes() -> int:
    """Resident memory of this process now, bytes; its peak where the system does not tell."""
    found = _status_bytes("VmRSS")
    return peak_memory_bytes() if found is None else found


def _status_bytes(key: str) -> int | None:
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith(f"{key}:"):
                return 1024 * int(line.split()[1])
    return None


class SameThreads:
    """Context manager: every library in the block, PySCF's own loops too, gets so many threads."""

    def __init__(self, n_threads: int):
        self._n_threads = n_threads
        self._limit = ThreadLimit(n_threads)

    def __enter__(self):
        self._pyscf = lib.with_omp_threads(self._n_threads)
        self._limit.__enter__()
        self._pyscf.__enter__()
        return self

    def __exit__(self, *error):
        self._pyscf.__exit__(*error)
        self._limit.__exit__(*error)
