"""Runs command lines in forks of a process that has imported everything: a tenth of a second each.

A fork has its own folder, user, limits, streams and environment. A `real` case starts Python anew,
which takes seconds and shows what happens while a program starts and ends.
"""

import contextlib
import ctypes
import importlib
import io
import multiprocessing.util
import os
import pkgutil
import resource
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from docs.generate import programs
from tests.stress.commands import Case

MODULES = {"tg80": "pipelines.cli", "atom-bench": "benchmarks.cli"}
ROOT = Path(__file__).parents[2]
_CAPABILITY_VERSION_3 = 0x20080522


@dataclass(frozen=True)
class Outcome:
    """What a command did.

    Attributes:
        code: exit code, or minus the signal that ended it. stopped: at the limit it was sent
            SIGTERM, or SIGKILL if it did not obey. seconds, cpu_seconds: that it took.
    """

    code: int
    stdout: bytes
    stderr: bytes
    seconds: float
    cpu_seconds: float
    stopped: str | None = None


def import_all() -> None:
    """All modules of all rooms, so that forks import nothing."""
    for room in ("tg80", "pipelines", "atom", "benchmarks"):
        package = importlib.import_module(room)
        for module in pkgutil.walk_packages(package.__path__, f"{room}."):
            with contextlib.suppress(ImportError):
                importlib.import_module(module.name)


def run_case(case: Case, folder: Path, *, cpu_limit_s: float, wall_limit_s: float) -> Outcome:
    """Run one case in its folder and wait for it.

    Args:
        case: the command.
        folder: its sandbox.
        cpu_limit_s: CPU time after which it is stopped.
        wall_limit_s: wall time after which it is stopped.
    """
    logs = Path(tempfile.mkdtemp(dir=folder.parent))
    for name in ("stdout", "stderr"):
        (logs / name).touch()
    sys.stdout.flush()
    sys.stderr.flush()
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the command begins
        code = 99
        try:
            os.setsid()
            code = _child(case, folder, logs)
        except BaseException:
            import traceback

            with open(logs / "stderr", "a") as stream:
                traceback.print_exc(file=stream)
        finally:
            os._exit(code if 0 <= code < 256 else 98)
    stopped = None
    to_send = [(began + case.stop[1], case.stop[0])] if case.stop else []
    pause = 0.002
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            break
        now = time.monotonic()
        if to_send and now >= to_send[0][0]:
            _, number = to_send.pop(0)
            os.kill(pid, number)
            if number == signal.SIGKILL:
                stopped = "SIGKILL"
        elif stopped is None and (now - began > wall_limit_s or _cpu_seconds(pid) > cpu_limit_s):
            stopped = "SIGTERM"
            os.kill(pid, signal.SIGTERM)
            to_send = [(now + 40, signal.SIGKILL)]
        time.sleep(pause)
        pause = min(2 * pause, 0.1)
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)  # what it left behind
    texts = [(logs / name).read_bytes() for name in ("stdout", "stderr")]
    return Outcome(
        os.waitstatus_to_exitcode(status), texts[0], texts[1], time.monotonic() - began,
        usage.ru_utime + usage.ru_stime, stopped,
    )  # fmt: skip


def _cpu_seconds(pid: int) -> float:
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, words[11:15])) / os.sysconf("SC_CLK_TCK")


def _child(case: Case, folder: Path, logs: Path) -> int:
    os.chdir(folder)
    for number, name in ((1, "stdout"), (2, "stderr")):
        descriptor = os.open(logs / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    _surround(case)
    _limit(case)
    if case.rights:
        _give_up_rights()
    if case.real:
        module = MODULES[case.program]
        arguments = [os.fsencode(word) for word in case.argv]
        os.execv(sys.executable, [os.fsencode(sys.executable), b"-m", module.encode(), *arguments])
    _new_streams(case)
    tempfile.tempdir = None
    signal.signal(signal.SIGINT, signal.default_int_handler)
    run = {name: each for name, _, each in programs()}[case.program]
    try:
        code = run(case.argv)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    multiprocessing.util._exit_function()  # as the end of a process does
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
    return int(code)


def _give_up_rights() -> None:
    """Let the rights of files apply to root, too: drop its capabilities to read and write all."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable, each in two halves
    libc.capget(header, sets)
    for index in range(3):
        sets[index] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    libc.capset(header, sets)


def _surround(case: Case) -> None:
    os.environ["PYTHONPATH"] = str(ROOT)
    os.environ.pop("PYTEST_CURRENT_TEST", None)
    for name, value in case.environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if case.stream in ("ascii", "latin-1"):
        os.environ["PYTHONIOENCODING"] = f"{case.stream}:strict"
    elif case.stream == "no-stdin":
        os.close(0)
    elif case.stream == "no-stdout":
        os.close(1)
    elif case.stream == "no-stderr":
        os.close(2)
    elif case.stream == "full-stdout":
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    elif case.stream == "pipe-stdout":
        reading, writing = os.pipe()
        os.close(reading)
        os.dup2(writing, 1)


def _limit(case: Case) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    there = pages * resource.getpagesize()
    # A loop that fills the memory fills its own, not the machine's.
    room = (150 if case.limit == "memory" else 3000) * 2**20
    if not case.real or case.limit == "memory":
        most = room * 4 if case.real else there + room
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    if case.limit == "files":
        resource.setrlimit(resource.RLIMIT_NOFILE, (25, 25))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**30, 2**30))


def _new_streams(case: Case) -> None:
    """Streams as a new process would have them."""
    encoding = case.stream if case.stream in ("ascii", "latin-1") else "utf-8"
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            setattr(sys, name, None)
            continue
        raw = open(number, f"{mode}b", closefd=False)  # noqa: SIM115
        errors = "backslashreplace" if name == "stderr" else "strict"
        stream = io.TextIOWrapper(
            raw, encoding=encoding, errors=errors, line_buffering=name == "stderr",
            write_through=name == "stderr",
        )  # fmt: skip
        setattr(sys, name, stream)
