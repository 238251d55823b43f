"""From the options of a run to where its workers are and what each may use."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipelines.engines.engine import Resources
from pipelines.run.cluster.batch_queue import JobProfile, JobQueue, load_profile
from pipelines.run.cluster.running_scheduler import RunningScheduler, SchedulerProfile
from pipelines.run.cluster.this_machine import ThisMachine
from pipelines.run.run import Place
from tg80.errors import UserError


def choose_place(
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    profile: Path | None = None,
    memory_gb: float | None = None,
    device: str = "cpu",
    gpu_trajectories: int | None = None,
    tls: dict[str, Path] | None = None,
    insecure: bool = False,
    dashboard: bool = False,
) -> tuple[Resources, Place]:
    """What each evaluation may use, and where the workers are.

    Args:
        workers: processes on this machine; None for all its cores.
        scheduler: address or file of a running scheduler, or a TOML file with its address and more.
        profile: TOML file of a batch queue.
        memory_gb: see `Resources`; None for the default.
        device: `cpu` or `cuda`.
        gpu_trajectories: trajectories side by side on each GPU of this machine; None for one.
        tls: `ca`, `cert` and `key`, the files the scheduler is joined with.
        insecure: whether to join a scheduler on another machine without TLS.
        dashboard: whether to show Dask's web pages on this machine.

    Raises:
        UserError: options that exclude each other, or are out of range.
    """
    if gpu_trajectories is not None and device != "cuda":
        raise UserError("--gpu-trajectories goes with --device cuda")
    options = {
        "--workers": workers,
        "--gpu-trajectories": gpu_trajectories,
        "--scheduler": scheduler,
        "--cluster": profile,
    }
    given = [name for name, value in options.items() if value is not None]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)}: give one of them; each says how many workers")
    if scheduler is None and (tls or insecure):
        raise UserError("--tls-ca, --tls-cert, --tls-key and --insecure go with --scheduler")
    if dashboard and scheduler is not None:
        raise UserError("--dashboard: goes with workers that tg80 starts, not with --scheduler")
    if dashboard and find_spec("bokeh") is None:
        raise UserError("--dashboard needs bokeh: pip install 'bokeh>=3.1'")
    if device not in ("cpu", "cuda"):
        raise UserError(f"--device {device}: give cpu or cuda")
    resources = Resources(device=device)
    if memory_gb is not None:
        resources = replace(resources, memory_gb=memory_gb)
    resources.check()
    if scheduler is not None:
        return resources, RunningScheduler(_scheduler_profile(scheduler, tls or {}, insecure))
    if profile is not None:
        return resources, JobQueue(load_profile(profile, JobProfile), dashboard)
    return resources, ThisMachine(workers, gpu_trajectories or 1, dashboard)


def _scheduler_profile(address: str, tls: dict[str, Path], insecure: bool) -> SchedulerProfile:
    """From an address, a scheduler file or a TOML file, and what else the options say."""
    found = SchedulerProfile(address=address)
    if address.endswith(".toml"):
        found = load_profile(Path(address), SchedulerProfile).beside(Path(address))
    options: dict[str, Any] = {f"tls_{name}": path for name, path in tls.items()}
    return found.model_copy(update=options | ({"insecure": True} if insecure else {}))
