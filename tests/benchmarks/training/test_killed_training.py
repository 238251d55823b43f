"""A training that is killed by SIGKILL goes on to the same bits."""

import json
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.cli import main
from benchmarks.training.checkpoint import CHECKPOINT
from tests.support.factories import make_dataset

COMPOUNDS = ("ethylene", "acetonitrile", "chloroform", "formaldehyde")
TRAINING = [
    "--set", "training.windows_per_trajectory=8", "--set", "training.batch_size=4",
    "--set", "training.checkpoint_every_seconds=0", "--epochs", "8", "--device", "cpu",
]  # fmt: skip
MODELS = {
    "atom": (
        "--set", "model.n_blocks=1", "--set", "model.width=16", "--set", "model.n_heads=2",
        "--set", "model.feedforward_width=16", "--set", "training.optimizer=muon",
    ),
    # It draws what it leaves out of messages.
    "valence": ("--set", "model.width=16", "--set", "model.n_rounds=2"),
}  # fmt: skip


def steps_done(folder):
    """Steps in the checkpoint below a folder of results, 0 without one."""
    found = list(folder.rglob(CHECKPOINT))
    if not found:
        return 0
    return torch.load(found[0], weights_only=True)["counters"]["step"]


def run_until(argv, folder, step):
    """Start the command and kill it once its checkpoint has come past a step."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.cli", *argv],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        while process.poll() is None and steps_done(folder) < step:
            time.sleep(0.05)
        process.kill()
    assert process.returncode == -signal.SIGKILL, "it ended before it was killed"


@pytest.mark.parametrize("model", MODELS)
def test_a_training_killed_twice_ends_with_the_same_bits(tmp_path, model):
    data = tmp_path / "shards"
    make_dataset(data, COMPOUNDS, n_frames=501, store_every_fs=10.0, time_step_fs=1.0)
    argv = ["run", "--fold", "2", "--data", str(data), "--model", model, *TRAINING, *MODELS[model]]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main([*argv, "--out", str(whole)]) == 0
    (record,) = (json.loads(p.read_text()) for p in whole.rglob(f"{model}/*/record.json"))
    n_steps = record["fit"]["n_steps"]

    done = []
    for part in (0.05, 0.4):
        run_until([*argv, "--out", str(cut)], cut, part * n_steps)
        done.append(steps_done(cut))
    assert 0 < done[0] < done[1] < n_steps
    assert not list(cut.rglob("record.json"))
    assert main([*argv, "--out", str(cut)]) == 0
    (again,) = (json.loads(p.read_text()) for p in cut.rglob(f"{model}/*/record.json"))
    assert again["key"] == record["key"]
    assert again["fit"]["history"] == record["fit"]["history"]
    assert again["rows"] == record["rows"]
    weights, expected = (
        load_file(next(f.rglob(f"{model}/**/*.safetensors"))) for f in (cut, whole)
    )
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
