"""Where the workers are: on this machine, at a running Dask scheduler, or in a queue's jobs.

Each place gives a connected client for the time of a run. Workers are single-threaded processes:
independent trajectories side by side beat threads within one, and threads of one process share
limits that belong to the process.
"""

import asyncio
import json
import logging
import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dask import config as dask_config
from distributed import Client, LocalCluster, Security, WorkerPlugin, rpc
from filelock import FileLock, Timeout

from pipelines.gpu_devices import find_gpus
from pipelines.run_folder import LOCK
from pipelines.segments import PACKAGES, Ticket, differing_versions, sees_session
from tg80.errors import Tg80Error, UserError
from tg80.molecules import Molecule
from tg80.theory import Level

# A worker that dies takes its task along; a scheduler of ours gives up on a task after this many.
ALLOWED_FAILURES = 10
CONNECT_TIMEOUT_S = 5.0
_POLL_S = 0.5
# Those that a scheduler needs to hand tasks on.
_SCHEDULER_PACKAGES = ("python", "tg80", "dask", "distributed")

SETTINGS = {
    "distributed.scheduler.allowed-failures": ALLOWED_FAILURES,
    # Its samples take the interpreter's lock 100 times a second.
    "distributed.worker.profile.enabled": False,
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


class _QuietWorker(WorkerPlugin):
    """Leaves Ctrl-C, which reaches the whole process group, and the telling of errors to the
    process that schedules."""

    name = "quiet-worker"

    def setup(self, worker) -> None:
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def local_client(n_workers: int) -> Iterator[Client]:
    """A Dask cluster of single-thread worker processes on this machine."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    with (
        dask_config.set(SETTINGS),
        LocalCluster(
            n_workers=n_workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address=":0",
            memory_limit=0,
            silence_logs=logging.ERROR,
        ) as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(_QuietWorker())
        yield client


@dataclass(frozen=True)
class ThisMachine:
    """Workers on this machine.

    Attributes:
        n_workers: processes side by side; None for as many as there are cores, or as the GPUs
            are to share.
        gpu_trajectories: processes on each GPU.
    """

    n_workers: int | None = None
    gpu_trajectories: int = 1

    def check(self, level: Level, device: str) -> None:
        """Looks for a GPU if the level is to be evaluated on one.

        Raises:
            UserError: there is none.
        """
        if device == "cuda" and level.method == "rks":
            find_gpus()

    @contextmanager
    def open(self, order: Order) -> Iterator[Client]:
        """A client of the cluster.

        Raises:
            UserError: no GPU where one is asked for.
            RunFailed: the GPU's energies or forces are not the CPU's.
        """
        n_gpus = 0
        if order.device == "cuda":
            from pipelines.gpu_scf import prepare_run

            n_gpus = prepare_run(order.level, order.molecules)
        n_workers = self.n_workers or n_gpus * self.gpu_trajectories or os.cpu_count() or 1
        with local_client(min(n_workers, order.n_tasks)) as client:
            yield client

    def tend(self, n_tasks: int) -> None:
        """Workers that die are started again by their nannies."""


@dataclass(frozen=True)
class RunningScheduler:
    """Workers that somebody else has started.

    Attributes:
        address: `tcp://HOST:PORT`, or the path of a scheduler file.
    """

    address: str

    def check(self, level: Level, device: str) -> None:
        """Asks the scheduler who it is; its workers may come later.

        Raises:
            UserError: this is no address, or there is no such file.
            Tg80Error: nothing answers.
        """
        with quiet_logs():
            find_scheduler(self.address)

    @contextmanager
    def open(self, order: Order) -> Iterator[Client]:
        """A client of that scheduler, once workers are there and see the folder.

        Raises:
            UserError: this is no address, or there is no such file.
            Tg80Error: nothing answers, packages differ, or the folder is not shared.
        """
        with quiet_logs(), connected(self.address) as client:
            check_workers(client, order)
            yield client

    def tend(self, n_tasks: int) -> None:
        """These workers are somebody else's."""


@contextmanager
def quiet_logs() -> Iterator[None]:
    """Keeps Dask's own lines about lost connections from the terminal; ours say it in one."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="distributed")
            yield
    finally:
        logging.disable(before)


def find_scheduler(address: str) -> str:
    """The address of the scheduler that answers at an address, or is named by a scheduler file.

    Raises:
        UserError: no such file, or no address.
        Tg80Error: nothing answers there, or something that is no scheduler.
    """
    target = _scheduler_file_address(address) or address
    try:
        kind = asyncio.run(asyncio.wait_for(_identity(target), CONNECT_TIMEOUT_S))
    except ValueError as error:
        raise UserError(f"--scheduler {address}: {error}; write it as tcp://HOST:PORT") from None
    except (OSError, TimeoutError):
        kind = None
    if kind != "Scheduler":
        raise Tg80Error(
            f"no Dask scheduler answers at {address} within {CONNECT_TIMEOUT_S:g} s; start "
            "`dask scheduler`, or give its address"
        )
    return target


@contextmanager
def connected(address: str) -> Iterator[Client]:
    """A client of the scheduler at an address, or named by a scheduler file.

    Raises:
        UserError: no such file, or no address.
        Tg80Error: nothing answers there.
    """
    # A client would wait without end for an answer from something that is no scheduler.
    target = find_scheduler(address)
    with dask_config.set({"distributed.comm.timeouts.connect": CONNECT_TIMEOUT_S}):
        client = Client(target, timeout=CONNECT_TIMEOUT_S, set_as_default=False)
        try:
            yield client
        finally:
            client.close(timeout=1)


async def _identity(address: str) -> str:
    arguments = Security().get_connection_args("client")
    async with rpc(address, timeout=CONNECT_TIMEOUT_S, connection_args=arguments) as server:
        facts: Any = await server.identity()
        return facts["type"]


def _scheduler_file_address(path: str) -> str | None:
    """The address in a scheduler file; None if this is an address itself."""
    if "://" in path or (os.sep not in path and not path.endswith(".json")):
        return None
    try:
        return str(json.loads(Path(path).read_text())["address"])
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such scheduler file; start `dask scheduler --scheduler-file {path}` first"
        ) from None
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path}: not a scheduler file of `dask scheduler`") from None


def check_workers(client: Client, order: Order) -> None:
    """Waits for workers and makes sure that they can do this run's tasks.

    Workers that come later are checked by the ticket of each task.

    Raises:
        Tg80Error: packages differ, a worker has several threads, the folder is not shared, or a
            GPU is not there or not to be trusted.
    """
    try:
        _check_workers(client, order)
    except OSError:
        raise lost_scheduler(client) from None


def _check_workers(client: Client, order: Order) -> None:
    where = scheduler_address(client)
    told = False
    while not worker_threads(client):
        if not told:
            order.say(f"no worker at {where} yet; waiting (Ctrl-C stops)")
        told = True
        if client.status != "running":
            raise lost_scheduler(client)
        time.sleep(_POLL_S)
    refuse_threads(worker_threads(client))
    _check_versions(client, order.ticket)
    _check_folder(client, order)
    if order.device == "cuda":
        from pipelines.gpu_scf import prepare_run

        client.submit(prepare_run, order.level, order.molecules, pure=False).result()


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
    """Refuses workers that would run two trajectories in one process.

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
