"""What a shard says it cost: CPU time over all sessions, kills left out, and the processors."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.dynamics import cost
from pipelines.dynamics.checkpoint import read_arrays, write_arrays
from pipelines.recipe import Recipe
from pipelines.trajectory import Trajectory
from tests.stress.kill_run import newest_commit, wait_for_progress
from tg80.chemistry.molecule import molecule_from_smiles
from tg80.release.card import folder_card
from tg80.release.survey import survey
from tg80.shards.shard import Shard
from tg80.shards.validate import validate

SETTINGS = [
    "--level=gfn2-xtb", "--length-fs=400", "--equilibration-fs=20", "--seed=5",
    "--set=pre_equilibration_fs=20", "--set=segment_fs=10", "--set=n_conformers=2",
]  # fmt: skip
SHORT = {
    "level": "gfn2-xtb", "length_fs": 30, "pre_equilibration_fs": 0, "equilibration_fs": 0,
    "segment_fs": 10, "n_conformers": 2,
}  # fmt: skip


def checkpoints(folder: Path) -> dict[int, dict]:
    """Headers of the production's checkpoints by segment; one that is just forgotten left out."""
    found = {}
    for path in sorted(folder.glob("work/*/r0/checkpoint-*.npz")):
        try:
            _, header = read_arrays(path)
        except FileNotFoundError:
            continue
        found[header["segment"]] = header
    return found


def test_a_killed_and_resumed_run_adds_up_its_committed_segments(tmp_path):
    """The cost of a commit goes into the next one, and from the last one into the shard."""
    (tmp_path / "one.smi").write_text("C=O formaldehyde\n")
    out = tmp_path / "out"
    command = [
        sys.executable, "-m", "pipelines.cli", "generate", "--workers=1",
        f"--molecule-list={tmp_path / 'one.smi'}", f"--out={out}", *SETTINGS,
    ]  # fmt: skip
    for _ in range(2):
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        ) as process:
            known = set(checkpoints(out))
            while process.poll() is None and len(set(checkpoints(out)) - known) < 2:
                wait_for_progress(process, out, newest_commit(out))
            time.sleep(0.02)
            os.killpg(process.pid, signal.SIGKILL)
    left = checkpoints(out)
    committed = left[max(left)]["cost"]["cpu_seconds"]
    assert 0 < max(left) < 40 and committed > 0
    began = os.times()
    subprocess.run(command, check=True, capture_output=True)
    ended = os.times()
    spent = ended.children_user + ended.children_system
    spent -= began.children_user + began.children_system
    with Shard(out / "formaldehyde-r0.h5md") as shard:
        metadata = shard.metadata
    assert metadata.end == "complete"
    # What the last session did is in it, on top of what the two killed ones had committed.
    assert committed < metadata.statistics["cpu_seconds"] < committed + spent
    assert metadata.platform["cpu"] == cost.processor_model()


def trajectory(folder: Path) -> Trajectory:
    return Trajectory(folder, molecule_from_smiles("C=O", "formaldehyde"), Recipe(**SHORT), 0)


def prepared(folder: Path) -> Trajectory:
    one = trajectory(folder)
    while one.prepare().name != "prepared":
        pass
    return one


def edit_cost(one: Trajectory, change) -> None:
    newest = max(one.production_folder.glob("checkpoint-*.npz"))
    arrays, header = read_arrays(newest)
    change(header)
    write_arrays(newest, arrays, header)


def finish(one: Trajectory) -> Path:
    while one.produce().name != "done":
        pass
    return one.shard_path


def test_segments_on_several_machines_are_added_and_all_processors_named(tmp_path):
    one = prepared(tmp_path)
    one.produce()
    one.produce()

    def elsewhere(header):
        header["cost"] = {"cpu_seconds": 7200.0, "processors": ["Model A", "Model B"]}

    edit_cost(one, elsewhere)
    path = finish(trajectory(tmp_path))
    with Shard(path) as shard:
        metadata = shard.metadata
    assert 7200 < metadata.statistics["cpu_seconds"] < 7200 + 60
    assert metadata.platform["cpu"] == f"Model A and Model B and {cost.processor_model()}"
    assert [problem for problem in validate(path) if problem.level == "error"] == []
    shutil.rmtree(tmp_path / "work")
    card = folder_card("# small\n", survey(tmp_path))
    assert "| 2.00 |" in card and "cpu Model A and Model B and" in card
    assert "The model of the processor was not recorded" not in card


def test_a_run_that_an_older_version_began_states_no_cost(tmp_path):
    """Half of the time would look like all of it."""
    one = prepared(tmp_path)
    one.produce()
    edit_cost(one, lambda header: header.pop("cost"))
    with Shard(finish(trajectory(tmp_path))) as shard:
        assert "cpu_seconds" not in shard.metadata.statistics
        assert "cpu" not in shard.metadata.platform


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("processor\t: 0\nmodel name\t: Fast  CPU @ 3 GHz\n", "Fast CPU @ 3 GHz"),
        ("processor\t: 0\nmodel name\t:\n", None),
        (None, None),
    ],
)
def test_the_processor_is_named_as_the_system_names_it(text, model, tmp_path, monkeypatch):
    monkeypatch.setattr(cost, "_CPUINFO", tmp_path / "cpuinfo")
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    cost.processor_model.cache_clear()
    try:
        found = cost.processor_model()
    finally:
        cost.processor_model.cache_clear()
    assert found == model if model else found
