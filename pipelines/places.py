"""From the options of a run to where its workers are and what each may use."""

from pathlib import Path

from pipelines.cluster import RunningScheduler, ThisMachine
from pipelines.engine import Resources
from pipelines.generate import Place
from tg80.errors import UserError


def choose_place(
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    profile: Path | None = None,
    memory_gb: float | None = None,
    device: str = "cpu",
    gpu_trajectories: int | None = None,
) -> tuple[Resources, Place]:
    """What each evaluation may use, and where the workers are.

    Args:
        workers: processes on this machine; None for all its cores.
        scheduler: address or file of a running scheduler.
        profile: TOML file of a batch queue.
        memory_gb: see `Resources`; None for the default.
        device: `cpu` or `cuda`.
        gpu_trajectories: trajectories side by side on each GPU of this machine; None for one.

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
    resources = _resources(memory_gb, device)
    if scheduler is not None:
        return resources, RunningScheduler(scheduler)
    if profile is not None:
        from pipelines.job_queue import JobQueue, load_profile

        return resources, JobQueue(load_profile(profile))
    return resources, ThisMachine(workers, gpu_trajectories or 1)


def _resources(memory_gb: float | None, device: str) -> Resources:
    memory_gb = Resources().memory_gb if memory_gb is None else memory_gb
    if device == "cpu":
        resources = Resources(memory_gb=memory_gb, device="cpu")
    elif device == "cuda":
        resources = Resources(memory_gb=memory_gb, device="cuda")
    else:
        raise UserError(f"--device {device}: give cpu or cuda")
    resources.check()
    return resources
