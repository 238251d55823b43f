"""Profiles of batch queues, the job scripts they give, and runs in jobs that really start."""

import json
import os
import signal
import stat
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from pipelines.cli import run
from pipelines.dynamics.parts import work_folder
from pipelines.run.cluster import batch_queue
from pipelines.run.cluster.batch_queue import (
    JobProfile,
    load_profile,
    make_cluster,
    walltime_seconds,
)
from pipelines.run.cluster.tls import job_security
from tg80.errors import UserError
from tg80.shards.shard import Shard

EXAMPLES = sorted((Path(__file__).parents[3] / "examples" / "clusters").glob("*.toml"))
SHORT = [
    "--level=gfn2-xtb", "--length-fs=60", "--equilibration-fs=20",
    "--set=pre_equilibration_fs=20", "--set=segment_fs=20", "--set=n_conformers=3",
]  # fmt: skip
NAMES = {"formaldehyde": "C=O", "methanol": "CO"}


def job_script(profile):
    with (
        tempfile.TemporaryDirectory() as folder,
        make_cluster(profile, job_security(Path(folder))) as cluster,
    ):
        return cluster.job_script()


def profile(**settings):
    return JobProfile.model_validate(
        {"kind": "slurm", "jobs": 1, "memory": "4 GB", "walltime": "01:00:00"} | settings
    )


def test_there_is_an_example_for_slurm_pbs_and_a_gpu_node():
    assert {path.stem for path in EXAMPLES} >= {"slurm", "pbs", "gpu"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_give_job_scripts_of_single_thread_workers(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the jobs' log folder is made where the run is started
    found = load_profile(path, JobProfile)
    script = job_script(found)
    worker = next(line for line in script.splitlines() if "dask_worker" in line)
    assert worker.rpartition("--nthreads ")[2].split()[0] == "1"
    assert f"--nworkers {found.n_processes}" in worker
    assert "export OMP_NUM_THREADS=1" in script
    lifetime, stagger = found.lifetime() or (0, 0)
    assert f"--lifetime {lifetime}s --lifetime-stagger {stagger}s" in worker
    assert 0.8 * walltime_seconds(found.walltime) < lifetime - stagger
    assert lifetime + stagger < walltime_seconds(found.walltime)
    for line in found.prologue:
        assert line in script.splitlines()


def test_slurm_gets_what_the_profile_says():
    lines = job_script(
        profile(cores=8, queue="cpu", account="mine", directives=["--hint=nomultithread"])
    ).splitlines()
    for line in (
        "-p cpu", "-A mine", "--cpus-per-task=8", "-t 01:00:00", "--hint=nomultithread", "-J tg80",
    ):  # fmt: skip
        assert f"#SBATCH {line}" in lines


def test_pbs_gets_what_the_profile_says():
    lines = job_script(
        profile(
            kind="pbs", cores=8, queue="workq", account="mine", options={"resource_spec": "x=1"}
        )
    ).splitlines()
    for line in ("-q workq", "-A mine", "-l walltime=01:00:00", "-l x=1", "-N tg80"):
        assert f"#PBS {line}" in lines


@pytest.mark.parametrize(
    ("kind", "line"),
    [("sge", "#$ -P mine"), ("lsf", '#BSUB -P "mine"'), ("oar", "#OAR --project mine")],
)
@pytest.mark.filterwarnings("ignore:OAR Job memory")
def test_other_queues_book_on_the_project(kind, line):
    assert line in job_script(profile(kind=kind, account="mine", walltime="01:00")).splitlines()


def test_htcondor_takes_its_options():
    script = job_script(profile(kind="htcondor", options={"disk": "1 GB"}))
    assert "RequestDisk" in script and "OMP_NUM_THREADS=1" in script


@pytest.mark.parametrize(
    ("text", "kind", "seconds"),
    [("12:00:00", "slurm", 43200), ("1-00:00:00", "slurm", 86400), ("90:00", "slurm", 5400),
     ("30", "slurm", 1800), ("01:30", "lsf", 5400), ("2-06", "slurm", 194400)],
)  # fmt: skip
def test_walltimes(text, kind, seconds):
    assert walltime_seconds(text, kind) == seconds


@pytest.mark.parametrize(
    "settings",
    [{"kind": "cron"}, {"jobs": 0}, {"memory": "much"}, {"walltime": "noon"}, {"cpus": 3},
     {"lifetime_s": 3600}, {"kind": "htcondor", "queue": "cpu"}],
)  # fmt: skip
def test_bad_profiles_are_named(settings, tmp_path):
    path = tmp_path / "bad.toml"
    facts = {"kind": "slurm", "jobs": 1, "memory": "4 GB", "walltime": "01:00:00"} | settings
    path.write_text("\n".join(f"{name} = {json.dumps(value)}" for name, value in facts.items()))
    with pytest.raises(UserError, match=r"bad\.toml: "):
        load_profile(path, JobProfile)


@pytest.fixture
def smiles(tmp_path):
    path = tmp_path / "list.smi"
    path.write_text("".join(f"{smiles} {name}\n" for name, smiles in NAMES.items()))
    return path


def generate(smiles, tmp_path, text):
    path = tmp_path / "profile.toml"
    path.write_text(text)
    return run(
        ["generate", "--molecule-list", str(smiles), "--out", str(tmp_path / "out"), *SHORT,
         "--cluster", str(path), "--json"]
    )  # fmt: skip


def check_shards(folder):
    for name in NAMES:
        with Shard(folder / f"{name}-r0.h5md") as shard:
            assert shard.metadata.end == "complete"


def test_jobs_on_this_machine_run_to_the_end(smiles, tmp_path):
    local = 'kind = "local"\njobs = 1\nmemory = "4 GB"\nwalltime = "01:00:00"\n'
    assert generate(smiles, tmp_path, local) == 0
    check_shards(tmp_path / "out")


# Stands in for Slurm: starts the job script in the background and prints the number of the job.
SBATCH = """#!{python}
import subprocess, sys
process = subprocess.Popen(["bash", sys.argv[-1]], start_new_session=True,
    stdin=subprocess.DEVNULL, stdout=open({log!r}, "ab"), stderr=subprocess.STDOUT)
open({log!r} + ".jobs", "a").write(f"{{process.pid}}\\n")
import time; time.sleep(0.5)  # bash has opened the script, which is taken away when we end
print("Submitted batch job", process.pid)
"""
SCANCEL = """#!{python}
import os, signal, sys
os.killpg(int(sys.argv[-1]), signal.SIGTERM)
"""


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """A folder on PATH with commands by Slurm's names; the numbers of the jobs are in `jobs`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        path = folder / name
        path.write_text(text.format(python=sys.executable, log=str(tmp_path / "jobs.log")))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "jobs.log.jobs"


SLURM = 'kind = "slurm"\njobs = 2\nmemory = "4 GB"\nwalltime = "01:00:00"\n'


def test_jobs_are_submitted_and_given_back(smiles, tmp_path, queue):
    assert generate(smiles, tmp_path, SLURM) == 0
    check_shards(tmp_path / "out")
    assert len(queue.read_text().split()) == 2


@pytest.mark.slow
def test_a_job_that_ends_early_is_submitted_again(smiles, tmp_path, queue, monkeypatch):
    """With one job at a time the run could not end if its place were not taken."""
    monkeypatch.setattr(batch_queue, "_TEND_EVERY_S", 0.2)
    monkeypatch.setattr(batch_queue, "_GONE_AFTER_S", 0.5)

    def kill_the_first_job():
        geometries = [work_folder(tmp_path / "out", name) / "geometry.npz" for name in NAMES]
        while not any(path.exists() for path in geometries):
            time.sleep(0.02)
        os.killpg(int(queue.read_text().split()[0]), signal.SIGKILL)

    killer = threading.Thread(target=kill_the_first_job)
    killer.start()
    assert generate(smiles, tmp_path, SLURM.replace("jobs = 2", "jobs = 1")) == 0
    killer.join()
    check_shards(tmp_path / "out")
    assert len(queue.read_text().split()) == 2


def test_a_refused_job_is_told_in_the_queues_words(smiles, tmp_path, queue, capsys):
    sbatch = queue.parent / "bin" / "sbatch"
    sbatch.write_text("#!/bin/sh\necho 'sbatch: error: Invalid account' >&2\nexit 1\n")
    assert generate(smiles, tmp_path, SLURM) == 1
    error = capsys.readouterr().err.strip()
    assert error == "error: a job could not be submitted: sbatch: error: Invalid account"


def test_a_machine_without_the_queue_is_told(smiles, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert generate(smiles, tmp_path, SLURM) == 2
    assert "no sbatch on this machine" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_option_that_the_queue_does_not_know_leaves_no_run_behind(
    smiles, tmp_path, queue, capsys
):
    assert generate(smiles, tmp_path, SLURM + "[options]\ncolour = 1\n") == 2
    assert "colour" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() and not queue.exists()


def test_without_dask_jobqueue_the_extra_is_named(smiles, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    assert generate(smiles, tmp_path, SLURM) == 2
    assert "pip install 'tg80[hpc]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
