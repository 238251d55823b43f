"""Kills a run with SIGKILL at random moments until it ends, and compares with a run left alone.

By hand, with as many kills as wanted, on real DFT:

    python -m tests.stress.kill_run --kills 30 --level pbe-def2svp --seed 3

Every other kill takes the whole process group (workers too), as a power cut would; the others the
main process alone, as an impatient queueing system would.

With `--scheduler` the run joins a scheduler and two workers that were started by hand, and each
kill takes a worker, the scheduler or the run itself.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

from tests.stress.hand_cluster import HandCluster

SETTINGS = {
    "gfn2-xtb": [
        "--length-fs=400", "--equilibration-fs=100", "--set=pre_equilibration_fs=100",
        "--set=segment_fs=10", "--set=n_conformers=5",
    ],
    "pbe-def2svp": [
        "--length-fs=60", "--equilibration-fs=100", "--set=pre_equilibration_fs=100",
        "--set=segment_fs=5", "--set=n_conformers=3",
    ],
}  # fmt: skip
TARGETS = ("worker", "scheduler", "client")
MOLECULES = "C=O formaldehyde\nCO methanol\n"


def command(folder: Path, level: str, *place: str) -> list[str]:
    """The command line of the run, the same before and after every kill."""
    return [
        sys.executable, "-m", "pipelines.cli", "generate",
        "--molecule-list", str(folder.parent / "molecules.smi"), "--out", str(folder),
        "--level", level, "--seed", "11", *SETTINGS[level], *place,
    ]  # fmt: skip


def run_to_the_end(folder: Path, level: str, *place: str) -> float:
    """Runs without a kill; the wall time from its first committed file to its end, s."""
    with subprocess.Popen(
        command(folder, level, *place),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        wait_for_progress(process, folder, newest_commit(folder))
        began = time.monotonic()
        _, error = process.communicate()
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}: {error[-2000:]}")
    return time.monotonic() - began


def newest_commit(folder: Path) -> int:
    """When the newest committed file of a run was written, ns; 0 if there is none."""
    times = [0]
    for path in [*folder.glob("work/*/*.npz"), *folder.glob("work/*/*/checkpoint-*.npz")]:
        try:
            times.append(path.stat().st_mtime_ns)
        except FileNotFoundError:
            continue  # an old checkpoint that was just forgotten
    return max(times)


def wait_for_progress(process: subprocess.Popen, folder: Path, before: int) -> None:
    """Returns when the process commits its first file, or ends."""
    while process.poll() is None and newest_commit(folder) == before:
        time.sleep(0.02)


def kill_at_random(folder: Path, level: str, workers: int, n_kills: int, rng, span_s: float) -> int:
    """Starts the run and kills it `n_kills` times; how many kills hit it running.

    A kill comes up to `span_s` after the process has committed its first file, and one in five at
    any moment of its start.
    """
    hits = 0
    for number in range(n_kills):
        with subprocess.Popen(
            command(folder, level, "--workers", str(workers)),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        ) as process:  # fmt: skip
            if rng.random() < 0.2:
                time.sleep(rng.uniform(0.0, 3.0))
            else:
                wait_for_progress(process, folder, newest_commit(folder))
                time.sleep(rng.uniform(0.0, span_s))
            if process.poll() is None:
                hits += 1
                kill = os.killpg if number % 2 else os.kill
                kill(process.pid, signal.SIGKILL)
    return hits


def differences(folder: Path, reference: Path) -> list[str]:
    """Data sets that differ in any bit between the shards of two runs."""
    found = []
    names = sorted(path.name for path in reference.glob("*.h5md"))
    if names != sorted(path.name for path in folder.glob("*.h5md")):
        return [f"other shards: {names}"]
    for name in names:
        with h5py.File(folder / name) as one, h5py.File(reference / name) as other:
            ours, theirs = datasets(one), datasets(other)
            found += [f"{name}:{key}" for key in sorted(ours.keys() ^ theirs.keys())]
            found += [
                f"{name}:{key}"
                for key in ours.keys() & theirs.keys()
                if ours[key].tobytes() != theirs[key].tobytes()
            ]
    return found


def datasets(file: h5py.File) -> dict[str, np.ndarray]:
    """All data sets of a file by path."""
    found: dict[str, np.ndarray] = {}
    file.visititems(
        lambda path, item: (
            found.update({path: item[()]}) if isinstance(item, h5py.Dataset) else None
        )
    )
    return found


def make_whole(folder: Path, level: str, workers: int = 2) -> float:
    """The run left alone, in `folder/whole`; its wall time in s."""
    (folder / "molecules.smi").write_text(MOLECULES)
    return run_to_the_end(folder / "whole", level, "--workers", str(workers))


def kill_and_compare(
    folder: Path, level: str, n_kills: int, seed: int, whole_s: float, workers: int = 2
) -> tuple[int, list[str]]:
    """Kills the run; kills that hit a running process, and data sets that differ from `whole`."""
    rng = random.Random(seed)
    span_s = whole_s / n_kills  # on average half of the work is left after the last kill
    hits = kill_at_random(folder / "killed", level, workers, n_kills, rng, span_s)
    run_to_the_end(folder / "killed", level, "--workers", str(workers))
    return hits, differences(folder / "killed", folder / "whole")


def kill_cluster_at_random(
    folder: Path, level: str, targets: list[str], rng: random.Random, span_s: float
) -> int:
    """Runs at a scheduler started by hand, and kills one target after the other, then to the end.

    Args:
        folder: output folder of the run.
        level: level of theory.
        targets: `worker`, `scheduler` or `client`, in the order they are killed.
        rng: draws the moments.
        span_s: a kill comes up to this long after the run has committed a file.

    Returns:
        Kills that hit the run at work.

    Raises:
        RuntimeError: the run did not say in one line with exit code 1 that its scheduler is lost.
    """
    hits = 0
    client = None
    with HandCluster(folder.parent) as cluster:
        place = cluster.options
        for target in targets:
            if client is None or client.poll() is not None:
                client = subprocess.Popen(
                    command(folder, level, *place),
                    stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                )  # fmt: skip
            wait_for_progress(client, folder, newest_commit(folder))
            time.sleep(rng.uniform(0.0, span_s))
            hits += client.poll() is None
            if target == "worker":
                cluster.kill_worker(rng.randrange(len(cluster.workers)))
            elif target == "scheduler":
                cluster.kill_scheduler()
                check_lost_scheduler(client)
                cluster.restart()
            else:
                client.kill()
                client.communicate()
        if client is not None and client.poll() is None:
            _, error = client.communicate()
            if client.returncode:
                raise RuntimeError(f"exit code {client.returncode}: {error[-2000:]}")
        run_to_the_end(folder, level, *place)
    return hits


def check_lost_scheduler(client: subprocess.Popen) -> None:
    """Waits for a run whose scheduler was killed; it must say so in one line, with exit code 1."""
    _, error = client.communicate(timeout=120)
    last = error.strip().splitlines()[-1]
    if client.returncode == 0:
        return  # it was done just before
    # Workers that outlive their scheduler commit a segment while the next run has not joined yet.
    said = ("error: lost the scheduler", "error: no Dask scheduler answers")
    if client.returncode != 1 or not last.startswith(said):
        raise RuntimeError(f"exit code {client.returncode}: {error[-2000:]}")
    if "Traceback" in error:
        raise RuntimeError(error[-2000:])


def kill_cluster_and_compare(
    folder: Path, level: str, targets: list[str], seed: int, whole_s: float
) -> tuple[int, list[str]]:
    """Kills parts of a cluster; kills that hit the run at work, and differing data sets."""
    span_s = whole_s / (2 * len(targets))
    rng = random.Random(seed)
    hits = kill_cluster_at_random(folder / "lost", level, targets, rng, span_s)
    return hits, differences(folder / "lost", folder / "whole")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--level", choices=sorted(SETTINGS), default="gfn2-xtb")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scheduler", action="store_true", help="kill parts of a Dask cluster")
    options = parser.parse_args()
    level, seed = options.level, options.seed
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole_s = make_whole(folder, level)
        if options.scheduler:
            targets = random.Random(seed).choices(TARGETS, k=options.kills)
            print("killing", ", ".join(targets), flush=True)
            hits, found = kill_cluster_and_compare(folder, level, targets, seed, whole_s)
        else:
            hits, found = kill_and_compare(folder, level, options.kills, seed, whole_s)
    print(
        f"{options.kills} kills, {hits} of them hit a running process; differing: {found or 'none'}"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
