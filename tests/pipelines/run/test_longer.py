"""A run made longer: the same bits as in one go, nothing lost on the way, refusals in one line."""

import json
import shutil
from pathlib import Path

import pytest

from pipelines.cli import run
from pipelines.dynamics.continuation import kept_checkpoint
from pipelines.recipe import Recipe
from pipelines.run.folder import begin_session, open_run
from pipelines.trajectory import Trajectory
from tests.stress.kill_run import differences
from tg80.chemistry.lists import MoleculeList
from tg80.chemistry.molecule import molecule_from_smiles
from tg80.errors import RunFailed
from tg80.files import verify
from tg80.shards.shard import Shard

SETTINGS = {
    "level": "gfn2-xtb", "pre_equilibration_fs": 20, "equilibration_fs": 20, "segment_fs": 20,
    "n_conformers": 3,
}  # fmt: skip
METHANOL = molecule_from_smiles("CO", "methanol")
LISTED = MoleculeList("list", [METHANOL])


def opened(folder, length_fs, replica=0, **settings):
    """A trajectory in a folder whose run has this length from now on."""
    folder.mkdir(exist_ok=True)
    recipe = Recipe.model_validate(SETTINGS | {"length_fs": length_fs} | settings)
    open_run(folder, recipe, LISTED)
    begin_session(folder, 2, LISTED)
    return Trajectory(folder, METHANOL, recipe, replica)


def finish(folder, length_fs, replicas=(0, 1), **settings):
    """All trajectories, to the end."""
    for replica in replicas:
        trajectory = opened(folder, length_fs, replica, **settings)
        while trajectory.prepare().name != "prepared":
            pass
        while trajectory.produce().name != "done":
            pass


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of the same run: 50 fs, which ends within a segment, and 110 fs in one go."""
    folder = tmp_path_factory.mktemp("runs")
    finish(folder / "short", 50)
    finish(folder / "whole", 110)
    return folder / "short", folder / "whole"


@pytest.fixture
def short(runs, tmp_path):
    return Path(shutil.copytree(runs[0], tmp_path / "short"))


def generate(folder, *more):
    smiles = folder.parent / "list.smi"
    smiles.write_text("CO methanol\n")
    settings = [f"--set={name}={value}" for name, value in SETTINGS.items()]
    where = ["--molecule-list", str(smiles), "--out", str(folder), "--workers=1", "--replicas=2"]
    return run(["generate", *where, *settings, *more])


def content_sha256(path):
    with Shard(path) as shard:
        return shard.content_sha256()


def content(folder):
    return {path: path.read_bytes() for path in folder.glob("*.*") if path.name != ".lock"}


def test_a_longer_run_holds_the_bits_of_one_made_in_one_go(short, runs, capsys):
    assert generate(short, "--length-fs=110") == 0
    assert "made longer: length_fs: 50.0, now 110.0" in capsys.readouterr().err
    assert differences(short, runs[1]) == []
    for shard in short.glob("*.h5md"):
        assert content_sha256(shard) == content_sha256(runs[1] / shard.name)
    assert (short / "recipe.toml").read_bytes() == (runs[1] / "recipe.toml").read_bytes()


def test_what_can_not_go_on_is_refused_and_nothing_is_written(short, capsys):
    before = content(short)
    kept = kept_checkpoint(short, "methanol", 0)
    kept.rename(kept.with_suffix(".away"))
    for options, says in (
        (["--length-fs=110"], "methanol-r0.h5md: can't become longer than 50 fs"),
        (["--length-fs=40"], "can't be made shorter"),
        ([], "give --length-fs"),  # nobody asked for the default of 32 ps
        (["--length-fs=110", "--seed=1"], "other settings"),
    ):
        assert generate(short, *options) == 2
        errors = capsys.readouterr().err.strip().splitlines()
        assert len(errors) == 1 and says in errors[0]
        assert content(short) == before


def test_one_replica_grows_alone_and_then_further(short, runs):
    finish(short, 70, later_length_fs=50)
    for path in short.glob("*-r1.h5md"):
        assert path.read_bytes() == (runs[0] / path.name).read_bytes()
    finish(short, 110, later_length_fs=110)
    assert differences(short, runs[1]) == []


@pytest.mark.slow
def test_a_longer_run_with_a_learned_inner_potential_holds_the_same_bits(tmp_path):
    """Its last segment is always done again: nothing tells whether the end cut it short."""
    learned = {"level": "pbe-def2svp", "integrator": "learned", "segment_fs": 12}
    for name, length_fs in (("grown", 24), ("grown", 48), ("whole", 48)):
        finish(tmp_path / name, length_fs, replicas=(0,), equilibration_fs=12, **learned)
    assert differences(tmp_path / "grown", tmp_path / "whole") == []
    with Shard(tmp_path / "grown" / "methanol-r0.h5md") as shard:
        assert shard.read("outer_step").min() == 0 < shard.read("residual_force").max()


class Failing:
    """A stepper whose next step fails."""

    def __init__(self, stepper):
        self.stepper = stepper

    def __getattr__(self, name):
        return getattr(self.stepper, name)

    def step(self, *arguments):
        raise RunFailed("no self-consistency")


def test_the_old_shard_stays_until_the_longer_one_is_whole(short, runs, capsys, monkeypatch):
    old = short / "methanol-r0.h5md"
    before = old.read_bytes()
    longer = opened(short, 110)
    assert longer.produce().time_fs == 60  # of 50 fs, the last 10 were a segment cut short
    assert verify(old, required=True) and old.read_bytes() == before
    max(longer.production_folder.glob("checkpoint-*")).unlink()  # as if killed before that

    failing = opened(short, 110)
    make = failing._level_stepper
    monkeypatch.setattr(failing, "_level_stepper", lambda: Failing(make()))
    with pytest.raises(RunFailed, match="self-consistency"):
        failing.produce()
    assert run(["collect", str(short), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["shards"] == []
    assert verify(old, required=True) and old.read_bytes() == before
    finish(short, 110)
    assert differences(short, runs[1]) == []


def test_a_run_is_made_longer_while_its_last_segment_awaits_assembly(tmp_path, runs):
    folder = tmp_path / "under-way"
    one = opened(folder, 50)
    while one.prepare().name != "prepared":
        pass
    while one.production().advance().step * one.recipe.time_step_fs < 50:
        pass
    finish(folder, 110)
    assert differences(folder, runs[1]) == []


def test_a_run_shorter_than_a_segment_begins_again(tmp_path, runs):
    finish(tmp_path / "brief", 10)
    finish(tmp_path / "brief", 110)
    assert differences(tmp_path / "brief", runs[1]) == []


def test_a_checkpoint_lost_on_the_way_fails_its_trajectory_alone(short, capsys):
    opened(short, 110)
    assert run(["status", str(short), "--json"]) == 0
    lanes = json.loads(capsys.readouterr().out)["trajectories"]
    stands = [(lane["stage"], lane["done_fs"], lane["length_fs"]) for lane in lanes]
    assert stands == [("production", 50.0, 110.0)] * 2
    kept_checkpoint(short, "methanol", 0).unlink()
    before = (short / "methanol-r0.h5md").read_bytes()
    assert generate(short, "--length-fs=110", "--json") == 1
    ends = json.loads(capsys.readouterr().out)["trajectories"]
    assert "end-r0.npz is gone" in ends[0]["failure"]
    assert (ends[1]["failure"], ends[1]["length_fs"]) == (None, 110.0)
    assert (short / "methanol-r0.h5md").read_bytes() == before
    assert run(["status", str(short)]) == 1
    assert "end-r0.npz is gone" in capsys.readouterr().out
