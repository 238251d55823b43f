"""`tg80 status`: what it tells of runs that wait, go on, were killed, failed or lost a byte."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from pipelines.cli import run
from pipelines.dynamics.parts import work_folder
from pipelines.recipe import Recipe
from pipelines.run.folder import begin_session, failure_path, locked, open_run
from pipelines.run.status import run_status
from pipelines.trajectory import Trajectory
from tg80.chemistry.lists import MoleculeList
from tg80.chemistry.molecule import molecule_from_smiles

SETTINGS = {
    "level": "gfn2-xtb", "length_fs": 80, "pre_equilibration_fs": 20, "equilibration_fs": 20,
    "segment_fs": 20, "n_conformers": 3,
}  # fmt: skip
RECIPE = Recipe.model_validate(SETTINGS)
METHANOL = molecule_from_smiles("CO", "methanol")
FORMALDEHYDE = molecule_from_smiles("C=O", "formaldehyde")


@pytest.fixture
def folder(tmp_path):
    """A run of two molecules in which methanol has two segments of production."""
    folder = tmp_path / "out"
    folder.mkdir()
    open_run(folder, RECIPE, MoleculeList("list", [METHANOL, FORMALDEHYDE]))
    begin_session(folder, 1, MoleculeList("list", []))
    methanol = Trajectory(folder, METHANOL, RECIPE, 0)
    while methanol.prepare().name != "prepared":
        pass
    for _ in range(2):
        methanol.produce()
    return folder


def status(folder, capsys, *options):
    code = run(["status", str(folder), "--json", *options])
    found = json.loads(capsys.readouterr().out)
    return code, found, {lane["name"]: lane for lane in found["trajectories"]}


def test_a_run_under_way(folder, capsys):
    files = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    code, found, lanes = status(folder, capsys)
    assert code == 0 and found["running"] is False
    methanol, formaldehyde = lanes["methanol"], lanes["formaldehyde"]
    assert (methanol["stage"], methanol["done_fs"], methanol["n_frames"]) == ("production", 40, 41)
    assert methanol["last_commit"] and methanol["damaged"] == [] and methanol["failure"] is None
    assert (formaldehyde["stage"], formaldehyde["last_commit"]) == ("waiting", None)
    assert (found["totals"]["done_fs"], found["totals"]["length_fs"]) == (40, 160)
    # 40 fs of methanol, and 100 fs of formaldehyde at the price of its fewer atoms.
    price = methanol["segment_s"] / methanol["segment_fs"]
    expected = price * (40 + 100 * (4 / 6) ** 2)
    assert found["worker_seconds_left"] == pytest.approx(expected)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == files


def test_it_says_whether_a_run_holds_the_folder(folder, capsys):
    with locked(folder):
        _, found, _ = status(folder, capsys)
    assert found["running"] is True and found["session"]["pid"] == os.getpid()
    assert found["seconds_left"] == pytest.approx(found["worker_seconds_left"])  # one is at work


def test_a_finished_run_has_verdicts(folder, capsys):
    for molecule in (METHANOL, FORMALDEHYDE):
        trajectory = Trajectory(folder, molecule, RECIPE, 0)
        while trajectory.prepare().name != "prepared":
            pass
        while trajectory.produce().name != "done":
            pass
    code, found, lanes = status(folder, capsys, "--verify")
    assert code == 0 and found["totals"]["done"] == 2 and found["worker_seconds_left"] == 0
    assert {lane["quality"] for lane in lanes.values()} <= {"ok", "warning", "error"}
    shard = folder / "methanol-r0.h5md"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(bytes(content))
    code, _, lanes = status(folder, capsys, "--verify")
    assert code == 1 and str(shard) in lanes["methanol"]["damaged"][0]


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 8
    path.write_bytes(bytes(content))


def test_flipped_bytes_are_named_and_nothing_is_touched(folder, capsys):
    production = work_folder(folder, "methanol") / "r0"
    newest = max(production.glob("checkpoint-*.npz"))
    flip(newest)
    flip(production / "part-000000.npz")
    code, _, lanes = status(folder, capsys)
    assert code == 1 and len(lanes["methanol"]["damaged"]) == 1
    assert str(newest) in lanes["methanol"]["damaged"][0]
    assert lanes["methanol"]["done_fs"] == 20  # what the checkpoint before it commits
    _, _, lanes = status(folder, capsys, "--verify")
    assert any("part-000000.npz" in line for line in lanes["methanol"]["damaged"])
    assert newest.exists() and not list(production.glob("*.corrupt"))


def test_flipped_bytes_through_generate(folder, tmp_path, capsys):
    """A checkpoint costs a segment and is named; a part ends the trajectory and stays as it is."""
    smiles = tmp_path / "list.smi"
    smiles.write_text("CO methanol\nC=O formaldehyde\n")
    settings = [f"--set={name}={value}" for name, value in SETTINGS.items()]
    command = ["generate", "--molecule-list", str(smiles), "--out", str(folder), *settings]
    production = work_folder(folder, "methanol") / "r0"
    newest = max(production.glob("checkpoint-*.npz"))
    flip(newest)
    part = production / "part-000000.npz"
    flip(part)
    damaged = part.read_bytes()
    assert run([*command, "--json", "--workers", "1"]) == 1
    summary = json.loads(capsys.readouterr().out)
    failures = {row["name"]: row["failure"] for row in summary["trajectories"]}
    assert str(part) in failures["methanol"] and failures["formaldehyde"] is None
    assert any(str(newest) in line for line in summary["warnings"])
    assert part.read_bytes() == damaged
    code, _, lanes = status(folder, capsys)
    assert code == 1 and str(part) in lanes["methanol"]["failure"]
    assert lanes["formaldehyde"]["stage"] == "done"


def test_a_failure_is_told_until_it_is_gone(folder, capsys):
    note = failure_path(folder, "methanol", 0)
    note.write_text("methanol: no self-consistency\n")
    code, found, lanes = status(folder, capsys)
    assert code == 1 and found["totals"]["failed"] == 1
    assert lanes["methanol"]["failure"] == "methanol: no self-consistency"
    assert run(["status", str(folder)]) == 1
    assert "failed: methanol-r0: methanol: no self-consistency" in capsys.readouterr().out
    note.unlink()
    assert status(folder, capsys)[0] == 0


def test_replicas_are_those_asked_for_or_found(folder):
    begin_session(folder, 3, MoleculeList("list", []))
    assert len(run_status(folder).trajectories) == 6
    (folder / "session.json").write_text("rubbish")
    assert len(run_status(folder).trajectories) == 2
    (work_folder(folder, "methanol") / "equilibration-r1").mkdir()
    assert len(run_status(folder).trajectories) == 3


def test_a_big_run_stays_readable(tmp_path, capsys):
    molecules = [molecule_from_smiles("C" * n + "O", f"alcohol-{n}") for n in range(1, 41)]
    open_run(tmp_path, RECIPE, MoleculeList("list", molecules))
    begin_session(tmp_path, 5, MoleculeList("list", []))
    assert run(["status", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) < 30 and "180 more; --all shows them" in out
    assert "0/200 trajectories done" in out
    assert run(["status", str(tmp_path), "--all"]) == 0
    assert len(capsys.readouterr().out.splitlines()) > 200


def test_a_running_and_a_killed_run(tmp_path, capsys):
    smiles = tmp_path / "list.smi"
    smiles.write_text("CO methanol\n")
    out = tmp_path / "out"
    settings = {**SETTINGS, "length_fs": 20000}
    options = [f"--set={name}={value}" for name, value in settings.items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", "generate", "--molecule-list", str(smiles),
         "--out", str(out), "--workers", "1", *options],
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while len(list(out.glob("work/*/r0/checkpoint-*.npz"))) < 2:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        code, found, lanes = status(out, capsys)
        assert (code, found["running"]) == (0, True)
        assert found["session"]["pid"] == process.pid
        assert found["seconds_left"] > 0 and lanes["methanol"]["damaged"] == []
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    code, found, _ = status(out, capsys)
    assert (code, found["running"], found["seconds_left"]) == (0, False, None)
    assert found["worker_seconds_left"] > 0


def test_a_folder_without_a_run_is_a_users_mistake(tmp_path, capsys):
    for folder in (tmp_path, tmp_path / "nothing"):
        assert run(["status", str(folder)]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
