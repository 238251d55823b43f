"""How many CPU threads a calculation uses, said on purpose and not left to the environment."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from threadpoolctl import ThreadpoolController

_Result = TypeVar("_Result")


def in_another_thread(function: Callable[..., _Result], *arguments: object) -> _Result:
    """Call a function so that Ctrl-C and SIGTERM are heard at once, whatever it does.

    Python hears signals in the main thread only, and there between two of its own steps: not while
    a library computes for minutes. If one comes, the function is left to itself.
    """
    future: Future[_Result] = Future()

    def call() -> None:
        try:
            future.set_result(function(*arguments))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return future.result()


class ThreadLimit:
    """Context manager: BLAS and OpenMP libraries use at most `threads` threads inside it.

    OpenMP's limit belongs to the thread that sets it, and a scheduler's worker runs its tasks in
    threads of its own: so the limit is set around every evaluation, not once at import.
    """

    def __init__(self, threads: int):
        self._threads = threads
        self._controller: ThreadpoolController | None = None
        self._active = []

    def __enter__(self):
        if self._controller is None:
            self._controller = ThreadpoolController()
        limiter = self._controller.limit(limits=self._threads)
        limiter.__enter__()
        self._active.append(limiter)
        return self

    def __exit__(self, *error):
        self._active.pop().__exit__(*error)
