"""Ctrl-C, SIGTERM and a time to stop: one line and the right exit code, whatever is going on."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from pipelines.cli import run
from pipelines.commands.options import seconds
from pipelines.dynamics.checkpoint import read_arrays
from tg80.errors import UserError

WHOLE = "6\n\nC 0 0 0\nH 0 1.0 0.4\nH 0.9 -0.5 0.4\nH -0.9 -0.5 0.4\nO 0 0 -1.42\nH 0.9 0 -1.75\n"
GENERATE = ["generate", "--level=gfn2-xtb", "--length-fs=20000", "--workers=1"]


def stopped(number, arguments, began, send=os.kill):
    """Exit code and standard error of a command that is sent a signal once `began()` is true."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        while process.poll() is None and not began(process):
            time.sleep(0.1)
        send(process.pid, number)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    return process.returncode, errors


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_evaluation_is_left(number, code, tmp_path):
    path = tmp_path / "methanol.xyz"
    path.write_text(WHOLE)
    arguments = ["singlepoint", str(path), "--level=pbe-def2svp-exact"]
    assert stopped(number, arguments, _evaluating) == (code, "stopped\n")


def _evaluating(process):
    """Whether PySCF is loaded, which comes after all that is quick."""
    with open(f"/proc/{process.pid}/maps") as maps:
        return "libcgto" in maps.read()


@pytest.mark.parametrize(
    ("send", "wait_s", "code"), [(os.kill, 0.0, 143), (os.kill, 1.0, 143), (os.killpg, 1.0, 130)]
)
def test_a_cluster_that_is_being_started_is_closed_in_order(send, wait_s, code, tmp_path):
    """`session.json` is written just before the workers are started; Ctrl-C reaches these, too."""
    smiles = tmp_path / "list.smi"
    smiles.write_text("CO methanol\n")
    out = tmp_path / "out"

    def starting(_):
        there = (out / "session.json").exists()
        time.sleep(wait_s if there else 0.0)
        return there

    arguments = [*GENERATE, "--molecule-list", str(smiles), "--out", str(out)]
    number = signal.Signals(code - 128)
    found, errors = stopped(number, arguments, starting, send)
    lines = [line for line in errors.splitlines() if "starting" not in line]
    assert (found, lines) == (code, ["stopped"])


def test_a_time_to_stop_is_a_number_with_a_unit():
    times = {"90s": 90, "150min": 9000, "2h": 7200, "1.5 h": 5400, "1d": 86400}
    assert {text: seconds(text) for text in times} == times
    assert seconds(None) is None
    for text in ("", "90", "0s", "-1h", "2 weeks", "1e3s", "nan s", "inf"):
        with pytest.raises(UserError, match="give a time"):
            seconds(text)


def test_a_run_stops_on_time_at_a_checkpoint_and_goes_on(tmp_path, capsys):
    smiles = tmp_path / "list.smi"
    smiles.write_text("CO methanol\nC=O formaldehyde\n")
    out = tmp_path / "out"
    settings = ["pre_equilibration_fs=20", "equilibration_fs=20", "segment_fs=20", "n_conformers=3"]
    command = [*GENERATE, "--molecule-list", str(smiles), "--out", str(out), "--order=cheapest"]
    command += [f"--set={setting}" for setting in settings]

    assert run([*command, "--json", "--stop-after=0.001s"]) == 0
    told = capsys.readouterr()
    summary = json.loads(told.out)
    assert summary["stopped"] and "the time to stop has come" in told.err
    assert [row["name"] for row in summary["trajectories"]] == ["formaldehyde", "methanol"]
    assert {row["stage"] for row in summary["trajectories"]} == {"waiting"}

    began = time.monotonic()
    done = 0
    while not done:  # a longer time on a machine that is busy
        after_s = 4 + time.monotonic() - began
        assert run([*command, "--json", f"--stop-after={after_s:.3f}s"]) == 0
        assert json.loads(capsys.readouterr().out)["stopped"]
        checkpoints = list(out.glob("work/formaldehyde/r0/checkpoint-*.npz"))
        done = max((read_arrays(path)[1]["step"] for path in checkpoints), default=0)
    assert not list(out.glob("work/methanol/*"))  # the dearer of the two, with one worker
