"""Redoes a task whose worker is lost, up to a limit.

The committed part of the task is on disk, so it resumes from its last checkpoint.
"""

from concurrent.futures import CancelledError
from typing import Any

from distributed import Future, KilledWorker

from pipelines.run.task import Task
from tg80.errors import RunFailed

# A scheduler gives up on a task after some deaths of its workers (3 by default); it is handed in
# again this often before the molecule is taken to be the cause.
MAX_RESUBMISSIONS = 5
_RESULT_TIMEOUT_S = 10.0


class WorkerLost(Exception):
    """The worker of a task died; the task must be redone."""


def result_of(task: Task, future: Future) -> Any:
    """What a finished task returned; its own error is raised here.

    Raises:
        WorkerLost: its worker is gone.
        RunFailed: the workers of this task died too often.
    """
    try:
        error: Any = future.exception(timeout=_RESULT_TIMEOUT_S)
        if error is None:
            return future.result(timeout=_RESULT_TIMEOUT_S)
    except (OSError, TimeoutError, CancelledError):
        # The worker died with its report, or the scheduler did, which shows next.
        raise WorkerLost from None
    if not isinstance(error, KilledWorker):
        raise error
    task.deaths += 1
    if task.deaths <= MAX_RESUBMISSIONS:
        raise WorkerLost
    deaths = task.deaths * (error.allowed_failures + 1)
    raise RunFailed(
        f"{task.name}: {deaths} workers in a row died of the same segment; look into their logs "
        "(too little memory?) and run the same command again"
    )
