"""Reads files in another process that may crash or hang: libhdf5 does so on damaged bytes.

One process serves all files of this one. It is limited in time and memory, can write no file, is
told nothing but the names of a function and of files, and ends when it has nothing to do. If a file
brings it down, a new one is started for the next file.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe

from tg80 import errors
from tg80.errors import CorruptFile, Tg80Error

MOST_MEMORY = 4 << 30
_IDLE_S = 10.0
_START_S = 120.0  # on a busy machine, from a slow disk
_READY = b"ready"
_NO_END = "damaged, reading it does not end; get it or write it anew"
_CRASH = "damaged, reading it ends in a crash; get it or write it anew"
_TOO_LARGE = "damaged, reading it takes all memory; get it or write it anew"


def run_apart(function: str, path: str, *more: str, seconds: int) -> None:
    """Call a function of ours on a file in the other process, for what it raises.

    Args:
        function: "module:function"; it takes the path of the file and `more`.
        path: the file.
        more: further texts.
        seconds: CPU time that it may take.

    Raises:
        Tg80Error: what the function raised; or the process cannot be started.
        CorruptFile: the process crashed, did not end, or ran out of memory.
    """
    place = os.path.abspath(path)  # the process may have been started elsewhere
    request = json.dumps([seconds, function, [place, *more]]).encode()
    with _lock:
        kind, message = _ask(request, seconds)
    if kind == _DIED:
        raise CorruptFile(f"{more[0] if more else path}: {message}")
    if kind:
        raise getattr(errors, kind)(message.replace(place, path, 1))


class _Reader:
    """The process and the way to it."""

    def __init__(self) -> None:
        self.connection, far_end = Pipe()
        places = os.pathsep.join(os.path.abspath(place) for place in sys.path)
        environment = {
            "PYTHONPATH": places,
            # Each thread would take from the memory that the process may have.
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "HDF5_PLUGIN_PRELOAD": "::",  # HDF5's word for: load no library, whatever a file asks
        }
        with far_end:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "tg80.untrusted.apart", str(far_end.fileno())],
                env=os.environ | environment,
                pass_fds=[far_end.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for us
            )

    def stop(self) -> int:
        """End it; its exit code if it had ended by itself."""
        self.connection.close()
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(1.0)
        self.process.kill()
        return self.process.wait()


_lock = threading.Lock()
_reader: _Reader | None = None
_DIED = "died"


def _ask(request: bytes, seconds: int) -> tuple[str, str]:
    """Name and message of what the function raised, empty if nothing."""
    for _ in range(2):
        reader = _running()
        try:
            reader.connection.send_bytes(request)
            if reader.connection.poll(30 + 10 * seconds):
                kind, message = json.loads(reader.connection.recv_bytes())
                return kind, message
            reader.process.kill()
        except (EOFError, OSError):
            pass
        except BaseException:  # Ctrl-C: the answer must not be taken for the next one's
            reader.process.kill()
            _forget()
            raise
        code = _forget()
        if code != 0:  # else it ended because there was nothing to do, just before it was asked
            slow = code in (-signal.SIGXCPU, -signal.SIGKILL)
            return _DIED, _NO_END if slow else _CRASH
    raise Tg80Error("the process that reads HDF5 files ends again and again; try again")


def _running() -> _Reader:
    global _reader
    if _reader is not None and _reader.process.poll() is None:
        return _reader
    _forget()
    with suppress(OSError, EOFError):
        _reader = _Reader()
        if _reader.connection.poll(_START_S) and _reader.connection.recv_bytes() == _READY:
            return _reader
    _forget()
    raise Tg80Error(
        "the process that reads HDF5 files cannot be started; allow more processes, files or memory"
    )


def _forget() -> int:
    global _reader
    code = _reader.stop() if _reader is not None else 0
    _reader = None
    return code


def _after_fork() -> None:
    """A forked process has a reader of its own: the other one's answers are not for it."""
    global _lock, _reader
    _lock = threading.Lock()
    if _reader is not None:
        _reader.connection.close()
        _reader.process.returncode = 0  # not its child
        _reader = None


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_forget)


def _serve(connection: Connection) -> None:
    """Answer until the other end is closed or silent for long."""
    for limit, most in (
        (resource.RLIMIT_AS, MOST_MEMORY), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0),
    ):  # fmt: skip
        allowed = resource.getrlimit(limit)[1]
        most = most if allowed == resource.RLIM_INFINITY else min(most, allowed)
        resource.setrlimit(limit, (most, allowed))
    connection.send_bytes(_READY)
    while connection.poll(_IDLE_S):
        seconds, function, arguments = json.loads(connection.recv_bytes())
        used = resource.getrusage(resource.RUSAGE_SELF)
        _, allowed = resource.getrlimit(resource.RLIMIT_CPU)
        end = int(used.ru_utime + used.ru_stime) + 1 + seconds
        if allowed != resource.RLIM_INFINITY:
            end = min(end, allowed)
        resource.setrlimit(resource.RLIMIT_CPU, (end, allowed))
        connection.send_bytes(json.dumps(_called(function, arguments)).encode())


def _called(function: str, arguments: list[str]) -> tuple[str, str]:
    module, name = function.split(":")
    try:
        getattr(importlib.import_module(module), name)(*arguments)
    except Tg80Error as error:
        return type(error).__name__, str(error)
    except MemoryError:
        return _DIED, _TOO_LARGE
    return "", ""


if __name__ == "__main__":
    with suppress(EOFError, OSError):
        _serve(Connection(int(sys.argv[1])))
