"""Kills a run with SIGKILL at random moments until it ends, and compares with a run left alone.

By hand, with as many kills as wanted, on real DFT:

    python -m tests.kill_run --kills 30 --level pbe-def2svp --seed 3

Every other kill takes the whole process group (workers too), as a power cut would; the others the
main process alone, as an impatient queueing system would.
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

SETTINGS = {
    "gfn2-xtb": [
        "--length-fs=400", "--equilibration-fs=100", "--set=pre_equilibration_fs=100",
        "--set=segment_fs=10", "--set=n_conformers=5",
    ],
    "pbe-def2svp": [
        "--length-fs=12", "--equilibration-fs=3", "--set=pre_equilibration_fs=50",
        "--set=segment_fs=1", "--set=n_conformers=3",
    ],
}  # fmt: skip
MOLECULES = "C=O formaldehyde\nCO methanol\n"


def command(folder: Path, level: str, workers: int) -> list[str]:
    """The command line of the run, the same before and after every kill."""
    return [
        sys.executable, "-m", "pipelines.cli", "generate",
        "--molecule-list", str(folder.parent / "molecules.smi"), "--out", str(folder),
        "--level", level, "--workers", str(workers), "--seed", "11", *SETTINGS[level],
    ]  # fmt: skip


def run_to_the_end(folder: Path, level: str, workers: int) -> float:
    """Runs without a kill; the wall time from its first committed file to its end, s."""
    with subprocess.Popen(
        command(folder, level, workers),
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
        time.sleep(0.005)


def kill_at_random(folder: Path, level: str, workers: int, n_kills: int, rng, span_s: float) -> int:
    """Starts the run and kills it `n_kills` times; how many kills hit it running.

    A kill comes up to `span_s` after the process has committed its first file, and one in five at
    any moment of its start.
    """
    hits = 0
    for number in range(n_kills):
        with subprocess.Popen(
            command(folder, level, workers),
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


def kill_and_compare(
    folder: Path, level: str, n_kills: int, seed: int, workers: int = 2
) -> tuple[int, list[str]]:
    """The whole experiment; kills that hit a running process, and differing data sets."""
    (folder / "molecules.smi").write_text(MOLECULES)
    rng = random.Random(seed)
    whole_s = run_to_the_end(folder / "whole", level, workers)
    span_s = whole_s / n_kills  # on average half of the work is left after the last kill
    hits = kill_at_random(folder / "killed", level, workers, n_kills, rng, span_s)
    run_to_the_end(folder / "killed", level, workers)
    return hits, differences(folder / "killed", folder / "whole")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--level", choices=sorted(SETTINGS), default="gfn2-xtb")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        hits, found = kill_and_compare(Path(folder), options.level, options.kills, options.seed)
    print(
        f"{options.kills} kills, {hits} of them hit a running process; differing: {found or 'none'}"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
