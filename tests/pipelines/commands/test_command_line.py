"""What all commands share: the version, and how they end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import tg80
from pipelines.cli import run

TG80 = [sys.executable, "-m", "pipelines.cli"]


def test_the_version_needs_no_command(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"tg80 {tg80.__version__}\n"


def test_a_command_leaves_the_environment_as_it_was(monkeypatch):
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    before = dict(os.environ)
    assert run(["--version"]) == 0
    assert dict(os.environ) == before


def test_without_a_command_the_help_is_shown(capsys):
    assert run([]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Usage: tg80") and "generate" in error and "\\n" not in error


@pytest.mark.parametrize("package", ["pipelines", "benchmarks"])
def test_ctrl_c_while_modules_are_imported_is_one_line(package):
    # The first module takes as long to import as the signal takes to come.
    code = f"""
import sys, time
from {package}.entry import main

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "{package}.cli":
            print("begun", flush=True)
            time.sleep(100)

sys.meta_path.insert(0, Slow())
main()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"begun\n"
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=100)
    assert (process.returncode, error) == (128 + signal.SIGINT, b"stopped\n")


def test_a_reader_that_closes_the_pipe_is_no_failure():
    """`tg80 split --check | head` must not say that a rule is broken."""
    process = subprocess.Popen(
        [*TG80, "split", "--check", "--no-recompute"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.wait(timeout=200) == 128 + signal.SIGPIPE
    assert process.stderr.read() == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("arguments", [["public"], ["public", "--json"], ["--version"]])
def test_a_full_disk_behind_standard_output_is_named(arguments, buffered):
    environment = os.environ | {"PYTHONUNBUFFERED": "" if buffered else "1"}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*TG80, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, timeout=200,
            env=environment, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "error: standard output: cannot be written: No space left on device\n"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["download", "--source", ".", "--molecules", ""], "--molecules names no molecule"),
        (["download", "--source", ".", "--timeout", "inf"], "86400"),
        (["export", ".", "--to", "npz", "--out", "x", "--every", "9" * 30], "1000000000"),
    ],
)
def test_values_that_mean_nothing_are_refused(arguments, reason, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 2
    error = capsys.readouterr().err
    assert reason in error and error.startswith("error: ") and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
