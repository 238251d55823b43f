"""Ctrl-C and SIGTERM: one line and the right exit code, whatever a command is at."""

import os
import signal
import subprocess
import sys
import time

import pytest

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
