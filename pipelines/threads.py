"""How many CPU threads a calculation uses, said on purpose and not left to the environment."""

from threadpoolctl import ThreadpoolController


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
