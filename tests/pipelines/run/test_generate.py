"""`tg80 generate` and `tg80 collect` as a user meets them."""

import json
import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from pipelines.cli import run
from pipelines.dynamics.checkpoint import read_arrays, write_arrays
from pipelines.recipe import load_recipe
from pipelines.run.folder import open_run
from pipelines.trajectory import Trajectory
from tg80.chemistry.lists import read_list
from tg80.shards.shard import Shard
from tg80.shards.validate import validate

SET = ["pre_equilibration_fs=20", "segment_fs=20", "n_conformers=3"]
SHORT = [
    "--level=gfn2-xtb", "--length-fs=100", "--equilibration-fs=20",
    *(f"--set={setting}" for setting in SET),
]  # fmt: skip


@pytest.fixture
def smiles(tmp_path):
    path = tmp_path / "list.smi"
    path.write_text("C=O formaldehyde\nCO methanol\n")
    return path


def arguments(smiles, out, *more):
    return ["generate", "--molecule-list", str(smiles), "--out", str(out), *SHORT, *more]


def start(smiles, out, *more, **popen):
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", *arguments(smiles, out, *more)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **popen,
    )  # fmt: skip


def test_a_list_becomes_valid_shards_and_a_second_run_does_nothing(smiles, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(arguments(smiles, out, "--json", "--workers", "2")) == 0
    summary = json.loads(capsys.readouterr().out)
    assert [row["stage"] for row in summary["trajectories"]] == ["done", "done"]
    shards = [out / "formaldehyde-r0.h5md", out / "methanol-r0.h5md"]
    for shard in shards:
        assert [problem for problem in validate(shard) if problem.level == "error"] == []
        with Shard(shard) as opened:
            assert opened.n_frames == 101
    times = [shard.stat().st_mtime_ns for shard in shards]
    assert run(arguments(smiles, out, "--json")) == 0
    assert [shard.stat().st_mtime_ns for shard in shards] == times
    capsys.readouterr()

    _other_settings_are_refused(smiles, out, capsys)
    _a_damaged_shard_is_named(smiles, out, shards[0], capsys)
    _a_damaged_list_of_molecules_is_named(out, capsys)


def _other_settings_are_refused(smiles, out, capsys):
    assert run(arguments(smiles, out, "--seed", "5")) == 2
    error = capsys.readouterr().err
    assert "other settings" in error and "seed: 0, now 5" in error
    other = smiles.with_name("other.smi")
    other.write_text("CCO methanol\n")
    assert run(arguments(other, out)) == 2
    assert "the name methanol belongs to CO" in capsys.readouterr().err


def _a_damaged_shard_is_named(smiles, out, shard, capsys):
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(bytes(content))
    assert run(arguments(smiles, out, "--json")) == 1
    assert str(shard) in json.loads(capsys.readouterr().out)["trajectories"][0]["failure"]
    assert shard.read_bytes() == bytes(content)


def _a_damaged_list_of_molecules_is_named(out, capsys):
    (out / "molecules.csv").write_bytes(b"\xff,\0")
    assert run(["collect", str(out)]) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and "molecules.csv" in error


def test_a_folder_with_other_files_is_refused(smiles, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    assert run(arguments(smiles, out)) == 2
    error = capsys.readouterr().err
    assert "thesis.tex" in error and len(error.strip().splitlines()) == 1
    assert (out / "thesis.tex").read_text() == "years of work"


def test_an_output_that_is_a_file_is_refused(smiles, tmp_path, capsys):
    (tmp_path / "out").write_text("")
    assert run(arguments(smiles, tmp_path / "out")) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "bad",
    [["--level", "b3lyp"], ["--workers", "0"], ["--set", "sed=1"], ["--no-such-option"],
     ["--thermostat", "nose"], ["--recipe", "missing.toml"], ["--integrator", "mts"],
     ["--order", "random"], ["--stop-after", "2"]],
)  # fmt: skip
def test_bad_options_give_one_line_and_code_2(smiles, tmp_path, capsys, bad):
    assert run(arguments(smiles, tmp_path / "out", *bad)) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_bad_list_stops_before_any_work(tmp_path, capsys):
    bad = tmp_path / "bad.smi"
    bad.write_text("CO methanol\nC(C good\n[CH3] radical\n")
    assert run(arguments(bad, tmp_path / "out")) == 2
    error = capsys.readouterr().err
    assert "bad.smi:2" in error and "bad.smi:3" in error
    assert not (tmp_path / "out").exists()


def wait_for(condition, seconds=300):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("waited in vain")


def committed_segments(out):
    return sorted(out.glob("work/*/r0/checkpoint-*.npz"))


def test_ctrl_c_stops_at_a_checkpoint_collect_reads_it_and_the_run_goes_on(
    smiles, tmp_path, capsys
):
    out = tmp_path / "out"
    long = ["--set=length_fs=800", "--json"]
    process = start(smiles, out, *long, "--workers", "2", start_new_session=True)
    wait_for(lambda: committed_segments(out))
    os.killpg(process.pid, signal.SIGINT)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert json.loads(text)["stopped"]
    assert all(read_arrays(path)[1]["step"] > 0 for path in committed_segments(out))

    assert run(["collect", str(out), "--json"]) == 0
    collected = json.loads(capsys.readouterr().out)["shards"]
    assert collected and 0 < collected[0]["length_fs"] < 800
    with Shard(collected[0]["path"]) as shard:
        assert shard.metadata.end == "collected before its end"

    assert run(arguments(smiles, out, *long, "--workers", "1")) == 0
    with Shard(out / "methanol-r0.h5md") as shard:
        assert shard.metadata.end == "complete" and shard.times_fs[-1] == 800


def test_two_runs_in_one_folder_exclude_each_other(smiles, tmp_path, capsys):
    out = tmp_path / "out"
    process = start(smiles, out, "--set=length_fs=4000", start_new_session=True)
    try:
        wait_for(lambda: (out / "recipe.toml").exists())
        assert run(arguments(smiles, out, "--set=length_fs=4000")) == 2
        assert "another run is writing here" in capsys.readouterr().err
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    # A crash leaves no lock behind.
    assert run(["collect", str(out)]) == 0


def test_a_full_disk_stops_cleanly_and_the_run_resumes(smiles, tmp_path):
    """No file may grow beyond 8 kB: parts can't be written, as on a full disk."""
    out = tmp_path / "out"

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))

    process = start(smiles, out, "--workers", "1", preexec_fn=limit)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" not in error
    assert "cannot be written" in error and "free space" in error
    assert not list(out.rglob("*.h5md"))
    assert run(arguments(smiles, out, "--workers", "1")) == 0
    assert len(list(out.glob("*.h5md"))) == 2


def test_help_has_an_example(capsys):
    for name in ("generate", "collect"):
        assert run([name, "--help"]) == 0
        assert f"Example: tg80 {name}" in " ".join(capsys.readouterr().out.split())


def test_a_molecule_without_self_consistency_fails_by_name_and_the_next_begins(tmp_path, capsys):
    smiles, out = tmp_path / "list.smi", tmp_path / "out"
    smiles.write_text("O=C=O broken\nC=O formaldehyde\n")
    recipe = load_recipe(None, {"level": "gfn2-xtb", "length_fs": 100, "equilibration_fs": 20}, SET)
    out.mkdir()
    listed = read_list(smiles)
    broken = listed.molecules[0]
    open_run(out, recipe, listed)
    geometry = Trajectory(out, broken, recipe, 0)
    positions = 4.0 * np.array([[-1.1, 0.0, 0.0], [0.0, 0.0, 0.0], [1.1, 0.0, 0.0]])
    geometry.work.mkdir(parents=True)
    write_arrays(geometry.work / "geometry.npz", {"positions": positions, "hessian": np.eye(9)}, {})
    assert run(arguments(smiles, out, "--json", "--workers", "1")) == 1
    rows = json.loads(capsys.readouterr().out)["trajectories"]
    assert [row["stage"] for row in rows] == ["waiting", "done"]
    assert "CO2 at gfn2-xtb: no self-consistency" in rows[0]["failure"]
    assert rows[1]["failure"] is None

    # It is tried again, and the replica that would start from it fails with it.
    smiles.write_text("O=C=O broken\n")
    assert run(arguments(smiles, out, "--workers", "1", "--replicas", "2")) == 1
    assert capsys.readouterr().out == ""
    assert run(["status", str(out), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    failures = {(lane["name"], lane["replica"]): lane["failure"] for lane in found["trajectories"]}
    assert failures["broken", 0] == failures["broken", 1] == rows[0]["failure"]
    totals = found["totals"]
    assert (totals["failed"], totals["done"]) == (2, 1)
