"""Measurements in processes of their own, started afresh and asked over a pipe."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

from tg80.errors import RunFailed

_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Child:
    """A fresh process that holds one object and calls it whenever it is asked to.

    Args:
        make: makes the object, in the child; it and its arguments must be importable there.
        *arguments: for `make`.
        preload: a module to import once for all children of this parent, which then begin as forks
            of a clean process that holds it.
    """

    def __init__(
        self,
        make: Callable[..., Callable[[Any], Any]],
        *arguments: Any,
        preload: str | None = None,
    ):
        if preload is None:
            context = multiprocessing.get_context("spawn")
        else:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([preload])
        self._pipe, far_end = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(far_end, make, arguments), daemon=True
        )  # fmt: skip
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


def _serve(pipe: Connection, make: Callable[..., Callable[[Any], Any]], arguments: tuple) -> None:
    try:
        work = make(*arguments)
        while True:
            pipe.send((True, work(pipe.recv())))
    except EOFError:
        return  # the parent has closed its end
    except Exception as error:
        pipe.send((False, f"{type(error).__name__}: {error}"))


@contextmanager
def children(
    n: int,
    make: Callable[..., Callable[[Any], Any]],
    *arguments: Any,
    preload: str | None = None,
) -> Iterator[list]:
    """Some fresh single-thread processes; each gets its number and the arguments."""
    for name in _ONE_THREAD:
        os.environ[name] = "1"
    started: list[Child] = []
    try:
        for i in range(n):
            started.append(Child(make, i, *arguments, preload=preload))
        yield started
    finally:
        for child in started:
            child.close()
