"""Runs on a scheduler and workers started by hand: to the end, through losses, and refusals."""

import json
import os
import signal
import socket
import subprocess
import sys
from unittest.mock import Mock

import pytest
from distributed import KilledWorker
from distributed.scheduler import WorkerState

from pipelines.cli import run
from pipelines.dynamics.parts import work_folder
from pipelines.engines.engine import Resources
from pipelines.recipe import Recipe
from pipelines.run import task
from pipelines.run.cluster import running_scheduler
from pipelines.run.cluster.running_scheduler import SchedulerProfile, connected, find_scheduler
from pipelines.run.cluster.workers import Order, check_workers, refuse_threads
from pipelines.run.folder import begin_session, failure_path, is_locked, locked, read_run
from pipelines.run.lost_workers import MAX_RESUBMISSIONS, WorkerLost, result_of
from pipelines.run.places import choose_place
from pipelines.run.resume import Resumption
from pipelines.run.task import Ticket, differing_versions, do_piece, installed_versions
from pipelines.trajectory import Trajectory
from tests.stress.hand_cluster import HandCluster
from tests.stress.kill_run import differences
from tg80.chemistry.lists import MoleculeList
from tg80.chemistry.molecule import molecule_from_smiles
from tg80.errors import RunFailed, Tg80Error, UserError
from tg80.shards.validate import validate
from tg80.theory import get_level

SHORT = [
    "--level=gfn2-xtb", "--length-fs=100", "--equilibration-fs=20", "--seed=11",
    "--set=pre_equilibration_fs=20", "--set=segment_fs=20", "--set=n_conformers=3",
]  # fmt: skip
METHANOL = molecule_from_smiles("CO", "methanol")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with HandCluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def smiles(tmp_path_factory):
    path = tmp_path_factory.mktemp("list") / "list.smi"
    path.write_text("C=O formaldehyde\nCO methanol\n")
    return path


def arguments(smiles, out, *more):
    return ["generate", "--molecule-list", str(smiles), "--out", str(out), *SHORT, *more]


def test_workers_started_by_hand_run_to_the_end_and_give_the_same_bits(
    cluster, smiles, tmp_path, capsys
):
    joined, alone = tmp_path / "joined", tmp_path / "alone"
    assert run(arguments(smiles, joined, "--json", *cluster.options)) == 0
    summary = json.loads(capsys.readouterr().out)
    assert [row["stage"] for row in summary["trajectories"]] == ["done", "done"]
    assert [problem for problem in validate(joined) if problem.level == "error"] == []
    recipe, molecules = read_run(joined)
    for molecule in molecules:
        trajectory = Trajectory(alone, molecule, recipe, 0)
        while trajectory.prepare().name != "prepared":
            pass
        while trajectory.produce().name != "done":
            pass
    assert differences(joined, alone) == []


def test_a_run_in_spans_that_is_made_longer_gives_the_same_bits(cluster, smiles, tmp_path, capsys):
    spans, whole = tmp_path / "spans", tmp_path / "whole"
    for length_fs in (50, 110):
        stopped = True
        while stopped:
            more = [f"--length-fs={length_fs}", "--order=longest", "--stop-after=5s", "--json"]
            assert run(arguments(smiles, spans, *more, *cluster.options)) == 0
            stopped = json.loads(capsys.readouterr().out)["stopped"]
    assert run(arguments(smiles, whole, "--length-fs=110", "--workers=1")) == 0
    assert differences(spans, whole) == []


def order(folder, session, **more):
    facts = {
        "folder": folder, "ticket": Ticket(session, installed_versions()), "n_tasks": 1,
        "level": get_level("gfn2-xtb"), "molecules": [METHANOL], "device": "cpu",
        "say": lambda line: None,
    }  # fmt: skip
    return Order(**(facts | more))


def test_workers_are_checked_before_they_get_work(cluster, tmp_path):
    address = json.loads(cluster.scheduler_file.read_text())["address"]
    lines = []
    pem = cluster.certificate
    profile = SchedulerProfile(address=address, tls_ca=pem, tls_cert=pem)
    with connected(find_scheduler(profile)) as client:
        with locked(tmp_path):
            session = begin_session(tmp_path, 1, MoleculeList("list", []))
            check_workers(client, order(tmp_path, session, say=lines.append))
        assert [line for line in lines if "waiting" not in line] == []
        # Without a lock held here none is seen there.
        check_workers(client, order(tmp_path, session, say=lines.append))
        assert "locks" in lines[-1] and socket.gethostname() in lines[-1]

        versions = Ticket(session, tuple((dict(installed_versions()) | {"tg80": "9"}).items()))
        with pytest.raises(Tg80Error, match=r"scheduler has tg80 .*, not 9"):
            check_workers(client, order(tmp_path, session, ticket=versions))
        with pytest.raises(Tg80Error, match=f"{tmp_path}.*{socket.gethostname()}.*does not see"):
            check_workers(client, order(tmp_path, "another session"))


def test_a_task_refuses_to_work_for_a_run_that_is_over(tmp_path, monkeypatch):
    begin_session(tmp_path, 1, MoleculeList("list", []))
    recipe = Recipe.model_validate({"level": "gfn2-xtb"})
    ticket = Ticket("the run before", installed_versions())
    monkeypatch.setattr(task, "_PATIENCE_S", 0.1)
    with pytest.raises(Tg80Error, match="does not see what this run wrote"):
        do_piece(str(tmp_path), METHANOL, recipe, 0, True, Resources(), ticket)
    assert not work_folder(tmp_path, "methanol").exists()


def test_versions_that_differ_are_named():
    assert differing_versions({"a": "1", "b": "2"}, {"a": "1", "b": "2", "c": "3"}) == ""
    assert differing_versions({"a": "1", "b": "2"}, {"a": "3"}) == "a 3, not 1, b missing, not 2"


def test_a_worker_with_several_threads_is_refused():
    refuse_threads({"tcp://a:1": 1, "tcp://b:2": 1})
    with pytest.raises(Tg80Error, match=r"tcp://b:2 has 4 threads.*--nthreads 1"):
        refuse_threads({"tcp://a:1": 1, "tcp://b:2": 4})


@pytest.mark.parametrize(
    ("address", "code", "says"),
    [("nonsense://x", 2, "unknown address scheme"), ("missing.json", 2, "no such scheduler file"),
     ("tcp://127.0.0.1:1", 1, "no Dask scheduler answers")],
)  # fmt: skip
def test_an_address_without_a_scheduler_gives_one_line(
    smiles, tmp_path, capsys, monkeypatch, address, code, says
):
    monkeypatch.setattr(running_scheduler, "CONNECT_TIMEOUT_S", 1.0)
    out = tmp_path / "out"
    assert run(arguments(smiles, out, "--scheduler", address)) == code
    error = capsys.readouterr().err.strip()
    assert says in error and address in error and len(error.splitlines()) == 1
    assert not out.exists()


def test_something_else_at_the_address_gives_one_line(smiles, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(running_scheduler, "CONNECT_TIMEOUT_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        assert run(arguments(smiles, tmp_path / "out", "--scheduler", address)) == 1
    error = capsys.readouterr().err.strip()
    assert "no Dask scheduler answers" in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "options",
    [{"workers": 2, "scheduler": "tcp://a:1"}, {"gpu_trajectories": 2}, {"device": "tpu"},
     {"scheduler": "tcp://a:1", "profile": "slurm.toml"}, {"memory_gb": -1.0}],
)  # fmt: skip
def test_options_that_exclude_each_other_are_refused(options):
    with pytest.raises(UserError):
        choose_place(**options)


def test_memory_and_device_reach_the_evaluations():
    resources, _ = choose_place(memory_gb=1.5, device="cuda", gpu_trajectories=4)
    assert (resources.memory_gb, resources.device) == (1.5, "cuda")


def test_a_segment_that_always_kills_its_worker_fails_its_molecule_only(tmp_path):
    recipe = Recipe.model_validate({"level": "gfn2-xtb"})
    ticket = Ticket("session", installed_versions())
    resumption = Resumption(tmp_path, recipe, [METHANOL], 2, Resources(), ticket)
    work_folder(tmp_path, "methanol").mkdir(parents=True)
    (task,) = resumption.tasks()
    state = WorkerState(
        address="tcp://a:1", status="running", pid=1, name="a", nthreads=1, memory_limit=0,
        local_directory="", nanny="", server_id="a",
    )  # fmt: skip
    future = Mock(exception=lambda timeout: KilledWorker("task", state, 3))
    for _ in range(MAX_RESUBMISSIONS):
        with pytest.raises(WorkerLost):
            result_of(task, future)
    with pytest.raises(RunFailed, match="24 workers in a row died") as raised:
        result_of(task, future)
    task.on_failure(str(raised.value))
    # The replica that would start from what could not be prepared has failed, too.
    for replica, lane in enumerate(resumption.lanes):
        assert lane.failure == str(raised.value)
        assert failure_path(tmp_path, "methanol", replica).read_text().strip() == lane.failure


def test_kill_leaves_no_lock_and_asking_does_not_wait(tmp_path):
    assert is_locked(tmp_path) is False
    code = (
        "import sys, time; from pathlib import Path; from pipelines.run.folder import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        assert is_locked(tmp_path) is True
        with pytest.raises(UserError, match="another run is writing here"), locked(tmp_path):
            pass
        os.kill(holder.pid, signal.SIGKILL)
    assert is_locked(tmp_path) is False
    with locked(tmp_path):
        assert is_locked(tmp_path) is True
