"""Workers in the jobs of a batch queue (Slurm, PBS, ...), through dask-jobqueue.

A profile says what one job is and how many there are. Jobs that end, by their walltime or
otherwise, are submitted again for as long as there is work; jobs without work are given
back. (dask-jobqueue's own `adapt` counts the tasks that wait. Here none ever does: a task is handed
out when a worker is free.)

References:
    https://jobqueue.dask.org
"""

import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

from dask import config as dask_config
from dask.utils import parse_bytes
from distributed import Client, SchedulerPlugin, Security, Status
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pipelines.run.cluster.dask_servers import PrivateScheduler, PrivateWorker
from pipelines.run.cluster.tls import LOOPBACK, PROTOCOL, job_security
from pipelines.run.cluster.workers import (
    SETTINGS,
    Order,
    check_workers,
    dashboard_options,
    private_scratch,
    quiet_logs,
    say_dashboard,
)
from tg80.errors import Tg80Error, UserError
from tg80.theory import Level
from tg80.untrusted.documents import read_toml

Profile = TypeVar("Profile", bound=BaseModel)
Kind = Literal["slurm", "pbs", "sge", "lsf", "oar", "htcondor", "local"]
_CLASSES = {
    "slurm": "SLURMCluster", "pbs": "PBSCluster", "sge": "SGECluster", "lsf": "LSFCluster",
    "oar": "OARCluster", "htcondor": "HTCondorCluster",
}  # fmt: skip
_ACCOUNT_IS_PROJECT = ("sge", "lsf", "oar")
_ENVIRONMENT = "export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 PYTHONSAFEPATH=1"
# A profile must not change what keeps strangers out.
_OURS = {"security", "protocol", "scheduler_cls", "dashboard", "dashboard_address"}
_TEND_EVERY_S = 10.0
# A worker that closes by itself has its nanny end before the job does.
_GONE_AFTER_S = 20.0


class JobProfile(BaseModel):
    """One batch job with its workers, and how many jobs. Read from TOML."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Kind
    """the queue: slurm, pbs, sge, lsf, oar, htcondor; local starts the jobs on this machine"""
    jobs: int = Field(ge=1)
    """jobs at a time"""
    cores: int = Field(1, ge=1)
    """CPU cores of a job"""
    processes: int | None = Field(None, ge=1)
    """single-thread workers in a job; as many as cores by default, on a GPU node the trajectories
    that share the GPU"""
    memory: str
    """memory of a job, e.g. "32 GB"; a worker above its share of it is ended"""
    walltime: str | None = None
    """time limit of a job: HH:MM:SS, or D-HH:MM:SS (LSF: HH:MM)"""
    lifetime_s: int | None = Field(None, ge=60)
    """when a worker ends by itself; below the walltime by default"""
    lifetime_stagger_s: int | None = Field(None, ge=0)
    """random part of it, so that jobs don't all end at once"""
    queue: str | None = None
    """queue or partition"""
    account: str | None = None
    """account or project the time is booked on"""
    directives: list[str] | dict[str, str] = []
    """more lines of the job's header, e.g. "--gres=gpu:1"; a table for htcondor"""
    prologue: list[str] = []
    """shell lines before the workers start, e.g. "module load cuda\""""
    log_directory: str | None = None
    """where the jobs' output goes"""
    interface: str | None = None
    """network interface, e.g. "ib0\""""
    options: dict[str, Any] = {}
    """more arguments of the dask-jobqueue class, by name"""

    @field_validator("memory")
    @classmethod
    def _bytes(cls, value: str) -> str:
        parse_bytes(value)
        return value

    @field_validator("options")
    @classmethod
    def _keeps_closed(cls, value: dict[str, Any]) -> dict[str, Any]:
        given = {*value, *dict(value.get("scheduler_options", {}))}
        if ours := sorted(given & _OURS):
            raise ValueError(
                f"{ours[0]} is set by tg80, which encrypts every cluster; leave it out"
            )
        return value

    @field_validator("walltime")
    @classmethod
    def _time(cls, value: str | None) -> str | None:
        if value is not None:
            walltime_seconds(value)
        return value

    @model_validator(mode="after")
    def _ends_in_time(self) -> "JobProfile":
        if self.walltime is not None and self.lifetime_s is not None:
            limit = walltime_seconds(self.walltime, self.kind)
            if self.lifetime_s + (self.lifetime_stagger_s or 0) >= limit:
                raise ValueError(
                    f"lifetime_s + lifetime_stagger_s must end before the walltime, {limit} s"
                )
        if self.kind == "htcondor" and (self.queue or self.account):
            raise ValueError("htcondor has no queue and account; use [directives] or [options]")
        return self

    @property
    def n_processes(self) -> int:
        """Workers in a job."""
        return self.processes or self.cores

    def lifetime(self) -> tuple[int, int] | None:
        """Seconds after which a worker ends by itself, and their random part +-; None: never.

        With a margin for the start of the job and for the segment in hand to be handed on:
        walltime - margin - stagger, where the margin is a twelfth of the walltime (5 minutes at
        most) and the stagger a fifteenth of it (10 minutes at most).
        """
        if self.lifetime_s is not None:
            return self.lifetime_s, self.lifetime_stagger_s or 0
        if self.walltime is None:
            return None
        limit = walltime_seconds(self.walltime, self.kind)
        stagger = self.lifetime_stagger_s
        stagger = min(600, limit // 15) if stagger is None else stagger
        return max(60, limit - min(300, limit // 12) - stagger), stagger

    def arguments(self, security: Security, dashboard: bool = False) -> dict[str, Any]:
        """Keyword arguments of the dask-jobqueue class.

        Args:
            security: certificates in files that the jobs can read.
            dashboard: whether the scheduler shows Dask's web pages on its own machine.
        """
        options = dict(self.options)
        workers = list(options.pop("worker_extra_args", []))  # of a flag the last one counts
        if self.n_processes != self.cores:
            workers += ["--nthreads", "1"]
        if lifetime := self.lifetime():
            workers += ["--lifetime", f"{lifetime[0]}s", "--lifetime-stagger", f"{lifetime[1]}s"]
        workers += ["--worker-class", f"{PrivateWorker.__module__}.{PrivateWorker.__name__}"]
        scheduler = options.pop("scheduler_options", {}) | dashboard_options(dashboard)
        found: dict[str, Any] = {
            "cores": self.cores,
            "processes": self.n_processes,
            "memory": self.memory,
            "worker_extra_args": workers,
            "job_name": "tg80",
            "log_directory": self.log_directory,
            "interface": self.interface,
            "job_extra_directives": self.directives,
            # Where nobody else can put a module; see `private_scratch`.
            "local_directory": shlex.quote(str(Path(str(security.tls_worker_key)).parent)),
            "job_script_prologue": [_ENVIRONMENT, *self.prologue],
            "scheduler_cls": PrivateScheduler,
            "scheduler_options": scheduler,
            "security": security,
            "protocol": PROTOCOL,
        }
        if self.kind != "htcondor":
            found["queue"] = self.queue
            found["walltime"] = self.walltime
            found["project" if self.kind in _ACCOUNT_IS_PROJECT else "account"] = self.account
        if self.kind == "local":
            del found["account"]
            workers += ["--host", LOOPBACK]
            scheduler["host"] = LOOPBACK
            # None would let the user's Dask settings name one; the job becomes the worker.
            found |= {"interface": "", "python": f"exec {shlex.quote(sys.executable)}"}
        return {name: value for name, value in found.items() if value is not None} | options


def walltime_seconds(text: str, kind: str = "slurm") -> int:
    """Seconds of `D-HH:MM:SS`, `HH:MM:SS`, `MM:SS` (LSF: `HH:MM`) or whole minutes.

    Raises:
        ValueError: none of these.
    """
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text.strip())
    if found is None:
        raise ValueError(f"{text}: write a walltime as HH:MM:SS")
    parts = [int(part) for part in found.groups()[1:] if part]
    hours_first = found[1] or len(parts) == 3 or (len(parts) == 2 and kind == "lsf")
    units = (3600, 60, 1) if hours_first else (60, 1)
    seconds = sum(part * unit for part, unit in zip(parts, units, strict=False))
    return 86400 * int(found[1] or 0) + seconds


def load_profile(path: Path, model: type[Profile]) -> Profile:
    """Read a profile of this kind.

    Raises:
        UserError: the file can't be read, or a setting is unknown or out of range.
    """
    try:
        return model(**read_toml(path, "a profile in TOML"))
    except ValidationError as error:
        raise UserError(
            "; ".join(
                f"{path}: {'.'.join(map(str, item['loc'])) or 'profile'}: "
                f"{item['msg'].removeprefix('Value error, ')}"
                for item in error.errors()
            )
        ) from None


def make_cluster(profile: JobProfile, security: Security, dashboard: bool = False) -> Any:
    """The dask-jobqueue cluster of a profile, with a scheduler here and no job yet.

    Args:
        profile: what a job is.
        security: certificates in files that the jobs can read.
        dashboard: whether the scheduler shows Dask's web pages on its own machine.

    Raises:
        UserError: dask-jobqueue is not installed, or the profile does not suit its class.
    """
    try:
        return _cluster_class(profile.kind)(
            silence_logs="critical", **profile.arguments(security, dashboard)
        )
    except (ValueError, TypeError) as error:
        raise UserError(f"profile of kind {profile.kind}: {str(error).splitlines()[0]}") from None


def _cluster_class(kind: Kind) -> Any:
    try:
        import dask_jobqueue
    except ImportError:
        raise UserError("--cluster needs dask-jobqueue: pip install 'tg80[hpc]'") from None
    if kind == "local":
        from pipelines.run.cluster.local_jobs import LocalCluster

        return LocalCluster
    return getattr(dask_jobqueue, _CLASSES[kind])


class _Arrivals(SchedulerPlugin):
    """Names of all workers that have ever joined, however short they lived."""

    name = "tg80-arrivals"

    def __init__(self) -> None:
        self.names: set[str] = set()

    def add_worker(self, scheduler: Any, worker: str) -> None:
        self.names.add(str(scheduler.workers[worker].name))


class JobQueue:
    """Workers in the jobs of a batch queue.

    Args:
        profile: what a job is.
        dashboard: whether to show Dask's web pages on this machine.
    """

    def __init__(self, profile: JobProfile, dashboard: bool = False):
        self.profile = profile
        self.dashboard = dashboard
        self._cluster: Any = None
        self._arrivals = _Arrivals()
        self._gone_since: dict[str, float] = {}
        self._last_look = 0.0
        self._said: set[str] = set()
        self._say: Callable[[str], None] = print

    def check(self, level: Level, device: str) -> None:
        """Make sure that jobs can be submitted from here, and that the profile is a job's.

        Args:
            level: not needed here.
            device: not needed here.

        Raises:
            UserError: no dask-jobqueue, no such queue on this machine, or a setting that its class
                does not know.
        """
        with tempfile.TemporaryDirectory() as folder, self._cluster_in(Path(folder)):
            pass

    @contextmanager
    def open(self, order: Order) -> Iterator[Client]:
        """A client of a scheduler here, once the first workers have joined it.

        Args:
            order: what is to be done.

        Raises:
            UserError: no dask-jobqueue, or no such queue on this machine.
            Tg80Error: a job could not be submitted, or its workers don't suit this run.
        """
        with self._cluster_in(order.folder) as cluster:
            self._cluster, self._say = cluster, order.say
            cluster.scheduler.add_plugin(self._arrivals)
            self._submit(self._n_wanted(order.n_tasks))
            with Client(cluster, set_as_default=False) as client:
                say_dashboard(client, order.say)
                check_workers(client, order)
                yield client

    @contextmanager
    def _cluster_in(self, folder: Path) -> Iterator[Any]:
        """The cluster, its certificates below a folder that the jobs see."""
        kind = self.profile.kind
        command = getattr(_cluster_class(kind).job_cls, "submit_command", None)
        if command and shutil.which(shlex.split(command)[0]) is None:
            raise UserError(
                f"kind {kind}: no {shlex.split(command)[0]} on this machine; run this where jobs "
                "can be submitted"
            )
        with (
            quiet_logs(),
            dask_config.set(SETTINGS),
            private_scratch(folder, shared=True) as place,
            make_cluster(self.profile, job_security(place), self.dashboard) as cluster,
        ):
            yield cluster

    def _n_wanted(self, n_tasks: int) -> int:
        """Jobs that so many tasks keep busy, as far as the profile allows them."""
        return min(self.profile.jobs, -(-n_tasks // self.profile.n_processes))

    def tend(self, n_tasks: int) -> None:
        """Submit jobs that have ended again, and give back idle ones that no task is left for.

        Args:
            n_tasks: tasks that want a worker.
        """
        now = time.monotonic()
        if now - self._last_look < _TEND_EVERY_S:
            return
        self._last_look = now
        workers = self._cluster.scheduler_info["workers"]
        alive = {str(worker["name"]) for worker in workers.values()}
        for job in list(self._cluster.worker_spec):
            if any(name in alive for name in self._members(job)):
                self._gone_since.pop(job, None)
            elif self._has_started(job):
                gone_since = self._gone_since.setdefault(job, now)
                if now - gone_since > _GONE_AFTER_S:
                    self._forget(job)
        wanted = self._n_wanted(n_tasks)
        for job in self._idle_jobs()[: max(0, len(self._cluster.worker_spec) - wanted)]:
            self._forget(job)
        try:
            self._submit(max(wanted, len(self._cluster.worker_spec)))
        except Tg80Error as error:  # a queue may be out of reach for a while
            if str(error) not in self._said:
                self._say(f"{error}; trying again")
            self._said.add(str(error))
            for job, submitted in self._cluster.workers.items():
                if submitted.job_id is None and job in self._cluster.worker_spec:
                    self._forget(job)

    def _submit(self, n_jobs: int) -> None:
        """Submit jobs until there are this many, pending ones included.

        Raises:
            Tg80Error: the queue refused one; the message quotes it.
        """

        async def settle() -> None:
            await self._cluster

        # Not by `scale`: it submits in the background, where a refusal goes unheard.
        while len(self._cluster.worker_spec) < n_jobs:
            self._cluster.worker_spec.update(self._cluster.new_worker_spec())
        try:
            self._cluster.sync(settle)
        except (RuntimeError, OSError, ValueError) as error:
            for job in self._cluster.workers.values():
                if job.job_id is None:
                    job.status = Status.failed  # so that the cluster can be closed
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise Tg80Error(
                f"a job could not be submitted: {lines[-1] if lines else type(error).__name__}"
            ) from None

    def _members(self, job: str) -> list[str]:
        return [str(job) + end for end in self._cluster.worker_spec[job].get("group", [""])]

    def _forget(self, job: str) -> None:
        self._arrivals.names.difference_update(self._members(job))
        del self._cluster.worker_spec[job]
        self._gone_since.pop(job, None)

    def _idle_jobs(self) -> list[str]:
        """Jobs without a task, those that have not even started first."""
        busy = {
            str(worker.name)
            for worker in self._cluster.scheduler.workers.values()
            if worker.processing
        }
        jobs = list(self._cluster.worker_spec)
        idle = [job for job in jobs if not any(name in busy for name in self._members(job))]
        return sorted(idle, key=self._has_started)

    def _has_started(self, job: str) -> bool:
        return any(name in self._arrivals.names for name in self._members(job))
