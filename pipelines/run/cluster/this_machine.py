"""Workers on this machine: started for a run, and closed with it whatever happens."""

import logging
import os
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from dask import config as dask_config
from distributed import Client, Nanny, Security, SpecCluster, WorkerPlugin

from pipelines.engines.dft.gpu_devices import find_gpus
from pipelines.run.cluster.dask_servers import PrivateScheduler, PrivateWorker
from pipelines.run.cluster.tls import LOOPBACK, PROTOCOL, STRENGTH
from pipelines.run.cluster.workers import (
    SETTINGS,
    Order,
    dashboard_options,
    private_scratch,
    say_dashboard,
)
from tg80.errors import RunFailed
from tg80.theory import Level


@dataclass(frozen=True)
class ThisMachine:
    """Workers on this machine.

    Attributes:
        n_workers: processes side by side; None for as many as there are cores, or as the GPUs
            are to share.
        gpu_trajectories: processes on each GPU.
        dashboard: whether to show Dask's web pages.
    """

    n_workers: int | None = None
    gpu_trajectories: int = 1
    dashboard: bool = False

    def check(self, level: Level, device: str) -> None:
        """Look for a GPU if the level is to be evaluated on one.

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
            from pipelines.run.gpu_check import prepare_run

            n_gpus = prepare_run(order.level, order.molecules)
        n_workers = self.n_workers or n_gpus * self.gpu_trajectories or os.cpu_count() or 1
        with local_client(min(n_workers, order.n_tasks), order.folder, self.dashboard) as client:
            say_dashboard(client, order.say)
            yield client

    def tend(self, n_tasks: int) -> None:
        """Do nothing: nannies start workers that die again."""


class _QuietWorker(WorkerPlugin):
    """Leave Ctrl-C, which reaches the whole process group, and error messages to the scheduling
    process."""

    name = "quiet-worker"

    def setup(self, worker) -> None:
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def local_client(n_workers: int, folder: Path, dashboard: bool = False) -> Iterator[Client]:
    """A Dask cluster of single-thread worker processes on this machine, closed to its other users.

    Args:
        n_workers: processes.
        folder: the run's, for temporary files.
        dashboard: whether the scheduler shows Dask's web pages on this machine, to all its users.
    """
    _allow_open_files(100 + 20 * n_workers)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    security = Security.temporary(**STRENGTH)
    # What fails is said in our one line. The annotation says bool.
    quiet: Any = logging.CRITICAL
    shared = {"host": LOOPBACK, "protocol": PROTOCOL, "security": security}
    worker = {"worker_class": PrivateWorker, "nthreads": 1, "memory_limit": 0}
    nanny = {"cls": Nanny, "options": shared | worker | {"silence_logs": quiet}}
    with (
        dask_config.set(SETTINGS),
        private_scratch(folder),
        _running(
            scheduler={"cls": PrivateScheduler, "options": shared | dashboard_options(dashboard)},
            workers=dict.fromkeys(range(n_workers), nanny),
            security=security,
            silence_logs=quiet,
        ) as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(_QuietWorker())
        yield client


def _allow_open_files(n: int) -> None:
    """Raise the limit on open files to what a cluster here needs, as far as that is allowed.

    Raises:
        RunFailed: it is not allowed; Dask would fail half way and leave processes behind.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= n:
        return
    if hard != resource.RLIM_INFINITY and hard < n:
        raise RunFailed(
            f"the workers on this machine need {n} open files and {hard} are allowed; raise the "
            "limit (ulimit -n) or ask for fewer --workers"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (n, hard))


@contextmanager
def _running(**options: Any) -> Iterator[SpecCluster]:
    """A cluster that is whole when it is given, and closed in order whatever happens."""
    cluster = None
    try:
        with _undisturbed():
            cluster = SpecCluster(**options)
        yield cluster
    except RuntimeError as error:
        if cluster is not None:
            raise
        reason = str(error).strip().partition("\n")[0]
        raise RunFailed(f"the workers on this machine could not be started: {reason}") from None
    finally:
        if cluster is not None:
            with _undisturbed():
                cluster.close()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait: a cluster half started or half closed can't be closed in order.

    Processes that are started within never hear Ctrl-C, which reaches the whole process group.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    resource_tracker.ensure_running()  # its start would unblock SIGINT for what is started next
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number in came[:1]:
            signal.raise_signal(number)
