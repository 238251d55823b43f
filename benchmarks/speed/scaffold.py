"""What every timing shares: clocks, turns, results kept in a file, the machine, child processes."""

import json
import multiprocessing
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, TypeAdapter, ValidationError
from pyscf import lib

from pipelines.engines.threads import ThreadLimit
from tg80.errors import RunFailed, UserError
from tg80.files import read_bytes, write_atomically
from tg80.untrusted.documents import first_fault, parse_model

Key = TypeVar("Key")
T = TypeVar("T")


def say(text: str) -> None:
    """Tell on standard error what is being done; long measurements are silent otherwise."""
    print(text, file=sys.stderr, flush=True)


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


def take_turns(
    works: Mapping[Key, Callable[[], T]], repeats: int, tell: Callable[[str], object] = say
) -> dict[Key, list[tuple[Clock, T]]]:
    """Do each so many times, in turns, every other time backwards.

    So a load of the machine that comes and goes favours nobody.

    Args:
        works: what is done, by its key.
        repeats: how many times each.
        tell: is told of every turn.

    Returns:
        The times and what was returned, of every work.
    """
    found: dict[Key, list[tuple[Clock, T]]] = {key: [] for key in works}
    for repeat in range(repeats):
        tell(f"repeat {repeat + 1} of {repeats}")
        for key in list(works)[:: 1 if repeat % 2 else -1]:
            with timed() as clock:
                result = works[key]()
            found[key].append((clock, result))
    return found


@dataclass(frozen=True)
class Spread:
    """Median, quartiles and range of some values, with their number."""

    median: float
    quartile_1: float
    quartile_3: float
    mean: float
    lowest: float
    highest: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> "Spread":
        array = np.asarray(values, dtype=float)
        low, middle, high = (float(value) for value in np.percentile(array, [25, 50, 75]))
        lowest, highest = float(array.min()), float(array.max())
        return cls(middle, low, high, float(array.mean()), lowest, highest, len(array))


@dataclass(frozen=True)
class Clocked:
    """Seconds, or a rate, by wall and by processor time."""

    wall: Spread
    cpu: Spread


@dataclass(frozen=True)
class Machine:
    """Processor, its cores for this process, load at the start, and versions of packages."""

    processor: str
    vector_units: str
    cores: int | None
    system: str
    load_before: float
    versions: dict[str, str]

    @classmethod
    def here(cls) -> "Machine":
        """The machine of this process."""
        flags = _field(Path("/proc/cpuinfo"), "flags").split()
        versions = {"python": platform.python_version()}
        for name in ("pyscf", "numpy", "scipy", "tblite", "numba", "dask", "torch"):
            with suppress(PackageNotFoundError):
                versions[name] = version(name)
        return cls(
            _field(Path("/proc/cpuinfo"), "model name") or platform.processor(),
            next((name for name in ("avx512f", "avx2", "avx") if name in flags), "unknown"),
            available_cores(),
            platform.system(),
            os.getloadavg()[0],
            versions,
        )

    def line(self) -> str:
        """The machine in one line."""
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        return (
            f"{self.processor} ({self.vector_units}), {self.cores} cores, load "
            f"{self.load_before:.1f} at the start; {versions}"
        )


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _field(path: Path, key: str) -> str:
    """The first value of a key in a file of "key : value" lines; empty without either."""
    if path.exists():
        for line in path.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return ""


def peak_memory_bytes() -> int:
    """Largest resident memory of this process since it started, bytes."""
    # getrusage would count what the parent held when it forked.
    if found := _field(Path("/proc/self/status"), "VmHWM"):
        return 1024 * int(found.split()[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if platform.system() == "Darwin" else 1024 * peak)


def resident_memory_bytes() -> int:
    """Resident memory of this process now, bytes; its peak where the system does not tell."""
    found = _field(Path("/proc/self/status"), "VmRSS")
    return 1024 * int(found.split()[0]) if found else peak_memory_bytes()


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


class Document(BaseModel):
    """What a results file and `--json` hold: results by key, and what they depend on."""

    command: str
    settings: dict[str, Any]
    machine: Machine
    results: dict[str, Any]


class Results:
    """Finished measurements by key, written one by one, so that a killed command goes on.

    Args:
        path: JSON file; None keeps them in memory alone.
        command: name of the command.
        settings: what decides the results; a file of other settings is refused.

    Attributes:
        document: all that is known.

    Raises:
        UserError: the file can't be read, or is of another command, of other settings or of
            another machine.
    """

    def __init__(self, path: Path | None, command: str, settings: BaseModel):
        self._path = path
        self.document = Document(
            command=command, settings=settings.model_dump(mode="json"), machine=Machine.here(),
            results={},
        )  # fmt: skip
        if path is None or not path.exists():
            return
        found = read_document(path, command)
        if found.settings != self.document.settings:
            raise UserError(f"{path}: holds results of other settings; give another --out")
        if found.machine.processor != self.document.machine.processor:
            raise UserError(f"{path}: holds results of another machine; give another --out")
        self.document = found

    def get(self, key: str, kind: type[T], measure: Callable[[], T]) -> T:
        """The result of that key: from the file, else measured now and written to it."""
        results = self.document.results
        if key not in results:
            results[key] = TypeAdapter(kind).dump_python(measure(), mode="json")
            if self._path is not None:
                content = json.dumps(self.document.model_dump(mode="json"), indent=1)
                write_atomically(self._path, content.encode())
        return self.read(key, kind)

    def read(self, key: str, kind: type[T]) -> T:
        """A result that is there.

        Raises:
            UserError: it is of another kind: somebody wrote into the file.
        """
        return parsed(kind, self.document.results[key], f"{self._path}: {key}")

    def all(self, kind: type[T]) -> list[T]:
        """All results, in their order."""
        return [self.read(key, kind) for key in self.document.results]


def parsed(kind: type[T], value: Any, where: str) -> T:
    """A dataclass, or a dictionary of such, from JSON.

    Raises:
        UserError: it does not fit.
    """
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise UserError(f"{where}: {first_fault(error)}") from None


def read_document(path: Path, command: str) -> Document:
    """What a results file or the `--json` of that command holds.

    Raises:
        UserError: it cannot be read, or is of another command.
    """
    what = f"a results file of `atom-bench speed {command}`"
    document = parse_model(Document, read_bytes(path, what), str(path))
    if document.command != command:
        raise UserError(f"{path}: not {what}")
    return document


class Child:
    """A fresh single-thread process that holds one object, made there, and calls it when asked."""

    def __init__(self, context: Any, make: Callable[[], Callable[[Any], Any]]):
        self._pipe, far_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(far_end, make), daemon=True)
        self._process.start()
        far_end.close()

    def ask(self, question: Any) -> None:
        """Hand a question over and return at once."""
        with suppress(BrokenPipeError):  # the answer says why
            self._pipe.send(question)

    def answer(self) -> Any:
        """Wait for the answer to the oldest question.

        Raises:
            RunFailed: the child failed or died.
        """
        try:
            good, result = self._pipe.recv()
        except EOFError:
            self._process.join(10)
            code = self._process.exitcode
            raise RunFailed(f"a measuring process died (exit code {code})") from None
        if not good:
            raise RunFailed(f"a measuring process failed: {result}")
        return result

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()


def _serve(pipe: Any, make: Callable[[], Callable[[Any], Any]]) -> None:
    try:
        work = make()
        while True:
            pipe.send((True, work(pipe.recv())))
    except EOFError:
        return  # the parent has closed its end
    except Exception as error:
        pipe.send((False, f"{type(error).__name__}: {error}"))


@contextmanager
def children(
    n: int, make: Callable[..., Callable[[Any], Any]], *arguments: Any, preload: str | None = None
) -> Iterator[list[Child]]:
    """Some fresh single-thread processes.

    Args:
        n: how many.
        make: makes the object that a child holds, from its number and the arguments.
        *arguments: of `make`.
        preload: a module to import once for all children of this program, which then begin as
            forks of a clean process that holds it.
    """
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    context = multiprocessing.get_context("forkserver" if preload else "spawn")
    if preload:
        context.set_forkserver_preload([preload])
    started: list[Child] = []
    try:
        for i in range(n):
            started.append(Child(context, partial(make, i, *arguments)))
        yield started
    finally:
        for child in started:
            child.close()


def ask_all(asked: Sequence[Child], question: Any) -> list[Any]:
    """The answers of children that work at the same time.

    Raises:
        RunFailed: one of them failed or died.
    """
    for child in asked:
        child.ask(question)
    return [child.answer() for child in asked]
