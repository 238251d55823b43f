"""What a worker is handed: one piece of one trajectory, which it finds on disk.

Each piece carries a ticket: the run it belongs to and the versions that run goes by. A worker that
does not see the run's folder, or would compute with other packages, refuses it by name.
"""

import importlib.metadata
import platform
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from pipelines.dynamics.parts import work_folder
from pipelines.engines.engine import Resources
from pipelines.recipe import Recipe
from pipelines.run.folder import failure_path, read_session
from pipelines.trajectory import StageReport, Trajectory
from tg80.chemistry.molecule import Molecule
from tg80.errors import CorruptFile, RunFailed, Tg80Error
from tg80.files import check_folder, make_folder, write_atomically
from tg80.shards.versions import PACKAGES as RECORDED

# What decides the bits of a trajectory, and what client and worker talk through.
PACKAGES = (*RECORDED, "dask", "distributed")
# A network file system may show a new file to another machine only after a while.
_PATIENCE_S = 5.0


@dataclass(eq=False)
class Task:
    """What a schedule hands to a worker.

    Attributes:
        name: trajectory it belongs to, for messages; if one task fails, the others of this name
            are dropped.
        order: tasks with smaller ones go first.
        call: function and its arguments.
        on_report: given what the function returned; returns the tasks that follow.
        on_failure: given the reason why this trajectory can't go on.
        deaths: how often in a row the scheduler gave it up because its workers died.
    """

    name: str
    order: tuple[int, ...]
    call: tuple[Any, ...]
    on_report: Callable[[Any], list["Task"]]
    on_failure: Callable[[str], None]
    deaths: int = 0


class Report(NamedTuple):
    """The stage that a piece led to, and the worker seconds it took."""

    stage: StageReport
    seconds: float


@dataclass(frozen=True)
class Ticket:
    """Which run a task belongs to.

    Attributes:
        session: the name of the run, as `session.json` in its folder has it.
        versions: package and version, of all packages that the client computes with.
    """

    session: str
    versions: tuple[tuple[str, str], ...]

    def check(self, folder: Path) -> None:
        """Refuse work that does not belong to this run.

        Raises:
            Tg80Error: the folder is not seen here, another run has it now, or packages differ.
        """
        host = socket.gethostname()
        if other := differing_versions(dict(self.versions), dict(installed_versions())):
            raise Tg80Error(f"the worker on {host} has {other}; use one environment for all")
        if not sees_session(folder, self.session):
            raise Tg80Error(
                f"{folder}: the worker on {host} does not see what this run wrote there; give an "
                "--out on a file system that all workers share"
            )


@cache
def installed_versions() -> tuple[tuple[str, str], ...]:
    """Versions of `PACKAGES` and of Python (major.minor) in this process."""
    python = ".".join(platform.python_version_tuple()[:2])
    return (("python", python), *((name, importlib.metadata.version(name)) for name in PACKAGES))


def differing_versions(here: dict[str, str], there: dict[str, str]) -> str:
    """`numpy 1.26.0, not 2.1.0` for each package that differs there; empty if none does."""
    return ", ".join(
        f"{name} {there.get(name) or 'missing'}, not {version}"
        for name, version in here.items()
        if there.get(name) != version
    )


def sees_session(folder: Path, session: str) -> bool:
    """Whether this process sees the run's folder as the client left it."""
    deadline = time.monotonic() + _PATIENCE_S
    while read_session(folder).get("session") != session:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def do_piece(
    folder: str,
    molecule: Molecule,
    recipe: Recipe,
    replica: int,
    prepare: bool,
    resources: Resources,
    ticket: Ticket,
) -> Report:
    """The task: one piece of preparation or one segment of production, found on disk.

    Safe to repeat and safe against a twin: a lock lets one process at a time prepare a molecule,
    and one process at a time produce a replica of it.

    Raises:
        RunFailed, CorruptFile: this trajectory can't go on; the reason is left on disk, too.
        Tg80Error: no trajectory can go on here.
    """
    began = time.perf_counter()
    root = Path(folder)
    ticket.check(root)
    work = work_folder(root, molecule.name)
    check_folder(root, "--out")
    make_folder(work)
    with FileLock(work / (".lock" if prepare else f".lock-r{replica}")):
        # A task of a run that was killed may have waited here for long.
        ticket.check(root)
        note = failure_path(root, molecule.name, replica)
        try:
            trajectory = Trajectory(root, molecule, recipe, replica, resources)
            stage = trajectory.prepare() if prepare else trajectory.produce()
        except (RunFailed, CorruptFile) as error:
            write_atomically(note, f"{error}\n".encode())
            raise
        note.unlink(missing_ok=True)
    return Report(stage, time.perf_counter() - began)
