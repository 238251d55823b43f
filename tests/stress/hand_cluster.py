"""A Dask scheduler and two workers, started by hand as docs/pipeline/clusters.md says."""

import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from pipelines.run.cluster.tls import job_security, private_folder


class HandCluster:
    """Scheduler and workers as processes of their own, to be used and to be killed.

    They speak TLS on the loopback interface. The scheduler blames a task for the first death of
    its worker, which is harder than Dask's default of three.

    Args:
        folder: for the scheduler file and logs.
        n_workers: worker processes.

    Attributes:
        scheduler_file: where the scheduler's address is.
        certificate: file with the certificate of all and its key.
        options: those of `tg80 generate` that join it.
    """

    def __init__(self, folder: Path, n_workers: int = 2):
        self._folder = folder
        self.scheduler_file = folder / "scheduler.json"
        self._stack = ExitStack()
        private = self._stack.enter_context(private_folder(folder, shared=True))
        self.certificate = str(job_security(private).tls_ca_file)
        self.options = (
            "--scheduler", str(self.scheduler_file),
            "--tls-ca", self.certificate, "--tls-cert", self.certificate,
        )  # fmt: skip
        self.scheduler = self._start_scheduler()
        self.workers = [self._start_worker() for _ in range(n_workers)]
        self._dying: list[subprocess.Popen] = []

    def __enter__(self) -> "HandCluster":
        return self

    def __exit__(self, *error: object) -> None:
        for process in (*self.workers, self.scheduler, *self._dying):
            process.kill()
            process.wait()
        self._stack.close()

    def kill_worker(self, index: int) -> None:
        """Kills a worker and starts another one in its place."""
        self.workers[index].kill()
        self.workers[index].wait()
        self.workers[index] = self._start_worker()

    def kill_scheduler(self) -> None:
        """Kills the scheduler; its workers notice in their own time."""
        self.scheduler.kill()
        self.scheduler.wait()

    def restart(self) -> None:
        """A new scheduler with new workers; the old ones may still be at work on a segment."""
        self._dying += self.workers
        self.scheduler_file.unlink(missing_ok=True)
        self.scheduler = self._start_scheduler()
        self.workers = [self._start_worker() for _ in self.workers]

    def wait_until_up(self) -> None:
        """Returns when the scheduler has written its file."""
        deadline = time.monotonic() + 60
        while not self.scheduler_file.exists():
            if time.monotonic() > deadline:
                raise RuntimeError("the scheduler did not start")
            time.sleep(0.02)

    def _start_scheduler(self) -> subprocess.Popen:
        process = self._start("scheduler", "--port", "0")
        self.wait_until_up()
        return process

    def _start_worker(self) -> subprocess.Popen:
        return self._start("worker", "--nthreads", "1", "--no-nanny")

    def _start(self, what: str, *arguments: str) -> subprocess.Popen:
        environment = os.environ | {
            "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",
            "DASK_TEMPORARY_DIRECTORY": str(self._folder / "scratch"),
        }
        with open(self._folder / f"{what}.log", "ab") as log:
            return subprocess.Popen(
                [
                    sys.executable, "-m", "dask", what, *arguments,
                    "--scheduler-file", str(self.scheduler_file), "--protocol", "tls",
                    "--tls-ca-file", self.certificate, "--tls-cert", self.certificate,
                    "--tls-key", self.certificate, "--host", "127.0.0.1",
                    "--no-dashboard", "--dashboard-address", "127.0.0.1:0",
                ],
                stdout=log, stderr=log, env=environment,
            )  # fmt: skip
