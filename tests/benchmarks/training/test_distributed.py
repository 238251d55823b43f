"""Several processes train one model: real ones, started by torchrun, and some that fail."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
import typer
from safetensors.torch import load_file

from benchmarks.cli import main
from benchmarks.training import distributed
from tests.support.factories import make_dataset
from tg80.console import run_app
from tg80.errors import RunFailed, UserError

# 3 training molecules of 5, 6 and 12 atoms: 21 windows an epoch.
COMPOUNDS = ("ethylene", "acetonitrile", "chlorobenzene", "chloroform", "formaldehyde")
SETTINGS = [
    "--set", "model.n_blocks=1", "--set", "model.width=16", "--set", "model.n_heads=2",
    "--set", "model.feedforward_width=16",
    "--set", "training.windows_per_trajectory=7", "--set", "training.n_lags=[1,8]",
    "--set", "training.fixed_lag_fraction=0.5", "--epochs", "3", "--device", "cpu",
]  # fmt: skip


def record_and_weights(folder):
    (record,) = (json.loads(p.read_text()) for p in folder.rglob("atom/*/record.json"))
    (weights,) = folder.rglob("atom.safetensors")
    return record, load_file(weights)


@pytest.mark.parametrize(
    "turns", [(5, 1), pytest.param((1, 5), marks=pytest.mark.slow)], ids=["at-once", "accumulated"]
)
def test_two_processes_train_as_one_with_the_doubled_batch(tmp_path, turns):
    """Batches of 10, 10 and then 1, of which the second process has none.

    By AdamW: Muon computes in bf16, whose rounding multiplies the least difference.
    """
    data = tmp_path / "shards"
    make_dataset(data, COMPOUNDS, n_frames=501, store_every_fs=10.0, time_step_fs=1.0)
    argv = ["run", "--fold", "2", "--data", str(data), *SETTINGS]
    assert main([*argv, "--set", "training.batch_size=10", "--out", str(tmp_path / "one")]) == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*torchrun, "--nproc-per-node", "2", "-m", "benchmarks.cli", *argv,
         "--set", f"training.batch_size={turns[0]}", "--set", f"training.accumulate={turns[1]}",
         "--out", str(tmp_path / "two"), "--json"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) > 1, "one process prints, and one alone"
    one, one_weights = record_and_weights(tmp_path / "one")
    two, two_weights = record_and_weights(tmp_path / "two")
    assert two["settings"]["training"]["processes"] == 2
    assert two["fit"]["n_steps"] == one["fit"]["n_steps"] == 9
    for mine, theirs in zip(two["fit"]["history"], one["fit"]["history"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)
    for name, expected in one_weights.items():
        torch.testing.assert_close(two_weights[name], expected, rtol=1e-4, atol=1e-5)


def test_alone_nothing_is_shared():
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    assert distributed.summed([1.5, 2.0]) == [1.5, 2.0]
    assert distributed.from_main("x") == "x"
    with distributed.session("cpu"), pytest.raises(UserError, match="bad"), distributed.together():
        raise UserError("bad")
    module = torch.nn.Linear(2, 2)
    assert distributed.parallel(module, unused=False) is module


def work(how):
    """What a process of two does: process 1 fails in the third round."""
    with distributed.session("cpu"):
        with distributed.together():
            if how == "setup" and distributed.rank() == 1:
                raise UserError("shard 7 cannot be read")
        for number in range(1000):
            (total,) = distributed.summed([1.0])
            assert total == 2
            if distributed.rank() == 1 and number == 3:
                if how == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                if how == "error":
                    raise UserError("out of paper")
            if distributed.is_main() and number == 3 and how == "stopped":
                os.kill(os.getpid(), signal.SIGTERM)
            if number == 5:
                raise distributed.SharedFailure("training diverged at step 5")


def process(rank, port, how, folder):
    """One of two processes, its standard error in a file."""
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    sys.stderr = open(folder / f"{rank}.txt", "w", buffering=1)  # noqa: SIM115
    app = typer.Typer()
    app.command()(lambda: work(how))
    code = run_app(app, [], "work")
    sys.stderr.flush()
    os._exit(code)


def two_processes(how, folder):
    """Exit codes and what each process said."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Forked: importing torch anew would take most of the time.
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=process, args=(r, port, how, folder)) for r in (0, 1)]
    for each in both:
        each.start()
    began = time.monotonic()
    for each in both:
        each.join(60)
    assert time.monotonic() - began < 60, "nobody waits for the dead"
    return [each.exitcode for each in both], [(folder / f"{r}.txt").read_text() for r in (0, 1)]


def test_a_mistake_that_one_process_meets_is_told_once(tmp_path):
    codes, said = two_processes("setup", tmp_path)
    assert codes == [2, 2]
    assert said == ["error: rank 1: shard 7 cannot be read\n", ""]


def test_a_failure_of_all_is_told_once(tmp_path):
    codes, said = two_processes("diverge", tmp_path)
    assert codes == [1, 1] and said == ["error: training diverged at step 5\n", ""]


@pytest.mark.parametrize("how", ["error", "kill"])
def test_a_process_that_fails_ends_the_other(how, tmp_path):
    codes, said = two_processes(how, tmp_path)
    lost = "another process of this run has ended"
    assert codes[0] == 1 and lost in said[0] and len(said[0].splitlines()) == 1
    if how == "kill":
        assert codes[1] == -signal.SIGKILL and said[1] == ""
    else:
        assert codes[1] == 2 and said[1] == "error: rank 1: out of paper\n"


def test_a_process_that_torchrun_stops_says_so_in_one_line(tmp_path):
    codes, said = two_processes("stopped", tmp_path)
    assert codes == [1, 1] and said[1] == ""
    assert "or torchrun was stopped" in said[0] and len(said[0].splitlines()) == 1


def test_a_shared_failure_is_a_failed_run():
    assert issubclass(distributed.SharedFailure, RunFailed)
