"""What every place where workers are has in common: its settings, and the checks of the workers.

Each place gives a connected client for the time of a run. Workers are single-threaded processes:
independent trajectories side by side beat threads within one, and threads of one process share
limits that belong to the process.
"""

import logging
import socket
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dask import config as dask_config
from distributed import Client
from filelock import FileLock, Timeout

from pipelines.run.cluster.tls import LOOPBACK, private_folder
from pipelines.run.folder import LOCK
from pipelines.run.task import PACKAGES, Ticket, differing_versions, sees_session
from tg80.chemistry.molecule import Molecule
from tg80.errors import Tg80Error
from tg80.theory import Level

# A worker that dies takes its task along; a scheduler of ours gives up on a task after this many.
ALLOWED_FAILURES = 10
_POLL_S = 0.5
# Those that a scheduler needs to hand tasks on.
_SCHEDULER_PACKAGES = ("python", "tg80", "dask", "distributed")

SETTINGS = {
    "distributed.scheduler.allowed-failures": ALLOWED_FAILURES,
    # Its samples take the interpreter's lock 100 times a second.
    "distributed.worker.profile.enabled": False,
    # Their scratch folder is the run's alone.
    "distributed.worker.use-file-locking": False,
}


@dataclass(frozen=True)
class Order:
    """What a place must know of a run.

    Attributes:
        folder: output folder.
        ticket: what workers are checked by.
        n_tasks: tasks at a time at most.
        level: level of theory.
        molecules: compounds.
        device: `cpu` or `cuda`.
        say: shows a line.
    """

    folder: Path
    ticket: Ticket
    n_tasks: int
    level: Level
    molecules: list[Molecule]
    device: str
    say: Callable[[str], None]


@contextmanager
def private_scratch(folder: Path, *, shared: bool = False) -> Iterator[Path]:
    """Give Dask's servers, and this process, a temporary folder that only this user may enter.

    Dask puts its scratch folder before all others on the path that modules are imported from. By
    default that is /tmp/dask-scratch-space, which anybody may have made.

    Args:
        folder: the run's.
        shared: whether jobs on other machines are to see it.
    """
    before = tempfile.tempdir
    with (
        private_folder(folder, shared=shared) as place,
        dask_config.set({"temporary-directory": str(place)}),
    ):
        tempfile.tempdir = str(place)
        try:
            yield place
        finally:
            tempfile.tempdir = before


def dashboard_options(wanted: bool) -> dict[str, Any]:
    """Arguments of a scheduler with a dashboard on this machine, or with none."""
    return {"dashboard": wanted, "dashboard_address": f"{LOOPBACK}:0" if wanted else None}


def say_dashboard(client: Client, say: Callable[[str], None]) -> None:
    """Show where the dashboard is, if there is one."""
    port = client.scheduler_info()["services"].get("dashboard")
    if port is not None:
        say(f"dashboard: http://{LOOPBACK}:{port}/status, readable by all users of this machine")


@contextmanager
def quiet_logs() -> Iterator[None]:
    """Keep Dask's own lines about lost connections from the terminal; ours say it in one."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="distributed")
            yield
    finally:
        logging.disable(before)


def check_workers(client: Client, order: Order) -> None:
    """Wait for workers and make sure that they can do this run's tasks.

    Workers that come later are checked by the ticket of each task.

    Raises:
        Tg80Error: packages differ, a worker has several threads, the folder is not shared, or a
            GPU is not there or not to be trusted.
    """
    try:
        _wait_for_workers(client, order)
        refuse_threads(worker_threads(client))
        _check_versions(client, order.ticket)
        _check_folder(client, order)
        if order.device == "cuda":
            from pipelines.run.gpu_check import prepare_run

            client.submit(prepare_run, order.level, order.molecules, pure=False).result()
    except OSError:
        raise lost_scheduler(client) from None


def _wait_for_workers(client: Client, order: Order) -> None:
    if not worker_threads(client):
        order.say(f"no worker at {scheduler_address(client)} yet; waiting (Ctrl-C stops)")
    while not worker_threads(client):
        if client.status != "running":
            raise lost_scheduler(client)
        time.sleep(_POLL_S)


def scheduler_address(client: Client) -> str:
    """Where the client's scheduler is, for messages."""
    return getattr(client.scheduler, "address", None) or "the scheduler"


def lost_scheduler(client: Client) -> Tg80Error:
    """The error of a run whose scheduler is gone."""
    return Tg80Error(
        f"lost the scheduler at {scheduler_address(client)}; what is committed is safe: start a "
        "scheduler with workers and run the same command again"
    )


def worker_threads(client: Client) -> dict[str, int]:
    """Threads by worker address; empty if there is no worker or no answer."""
    try:
        threads: Any = client.nthreads()  # a dictionary, as the client is synchronous
    except (OSError, TimeoutError, AttributeError):
        return {}
    return dict(threads)


def refuse_threads(threads: dict[str, int]) -> None:
    """Refuse workers that would run two trajectories in one process.

    Raises:
        Tg80Error: a worker has more than one thread.
    """
    for address, count in threads.items():
        if count != 1:
            raise Tg80Error(
                f"the worker at {address} has {count} threads; start each with "
                "`dask worker --nthreads 1`, and several with --nworkers"
            )


def _check_versions(client: Client, ticket: Ticket) -> None:
    found: Any = client.get_versions(packages=list(PACKAGES))
    ours = dict(ticket.versions)
    needed = {name: ours[name] for name in _SCHEDULER_PACKAGES}
    parties = [("the scheduler", needed, found["scheduler"])]
    parties += [
        (f"the worker at {where}", ours, facts) for where, facts in found["workers"].items()
    ]
    for who, wanted, facts in parties:
        packages = dict((facts or {}).get("packages", {}))
        packages["python"] = ".".join(str(packages.get("python", "")).split(".")[:2])
        if other := differing_versions(wanted, packages):
            raise Tg80Error(f"{who} has {other}; use one environment for all")


def _check_folder(client: Client, order: Order) -> None:
    folder = order.folder
    arguments = (str(folder.resolve()), order.ticket.session)
    answers: Any = client.run(_look, *arguments, on_error="return")
    blind = set()
    for address, answer in answers.items():
        if isinstance(answer, BaseException):
            raise Tg80Error(f"the worker at {address} does not answer: {answer}")
        host, sees_folder, sees_lock = answer
        if not sees_folder:
            raise Tg80Error(
                f"{folder}: the worker on {host} does not see this folder; give an --out on a "
                "file system that all workers share"
            )
        if not sees_lock:
            blind.add(host)
    if blind:
        order.say(
            f"warning: locks on the file system of {folder} are not seen on "
            f"{', '.join(sorted(blind))}; never start two runs in this folder at once"
        )


def _look(folder: str, session: str) -> tuple[str, bool, bool]:
    """Run on a worker: host, whether it sees the run's folder, whether it sees the run's lock."""
    host, path = socket.gethostname(), Path(folder)
    if not sees_session(path, session):
        return host, False, False
    try:
        with FileLock(path / LOCK, timeout=0):
            return host, True, False
    except (Timeout, OSError):
        return host, True, True
