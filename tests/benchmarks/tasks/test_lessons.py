"""What models learn from where it is not the task's own training data."""

import json
import shutil
from itertools import pairwise

import numpy as np
import pytest

from benchmarks.cli import main
from benchmarks.runs.records import read_records
from benchmarks.tasks.data import load_benchmark
from benchmarks.tasks.lessons import learning_from, lessons_of
from benchmarks.tasks.tasks import get_task
from tests.support.factories import make_dataset
from tests.support.toys import TINY_ATOM
from tg80.chemistry.lists import read_list
from tg80.chemistry.molecule import molecule_from_smiles
from tg80.errors import UserError
from tg80.splits.split import load_split

SPLIT = load_split("tg80-v1")
FOLD = SPLIT.fold(2)
EXTRA = {m.name: m for m in read_list("extra-v1").molecules}
ALLOWED, TOO_NEAR = ("acetylene", "ketene"), "glyoxylic-acid"
ATOM = ["--model", "atom", "--set", "model.n_blocks=1", "--set", "model.width=16", "--set",
    "model.n_heads=2", "--set", "model.feedforward_width=16", "--set",
    "training.windows_per_trajectory=4", "--epochs", "1", "--device", "cpu"]  # fmt: skip


@pytest.fixture(scope="module")
def shards(shards, tmp_path_factory):
    """With a compound of test_ood, which decides what is too near."""
    folder = tmp_path_factory.mktemp("with-ood")
    shutil.copytree(shards, folder, dirs_exist_ok=True)
    make_dataset(folder, ["acetic-acid"], n_frames=501, store_every_fs=10.0, time_step_fs=1.0)
    return folder


@pytest.fixture(scope="module")
def further(tmp_path_factory):
    """1 ps, frames every 2 fs."""
    folder = tmp_path_factory.mktemp("further")
    molecules = [EXTRA[name] for name in (*ALLOWED, TOO_NEAR)]
    make_dataset(folder, molecules, n_frames=501, store_every_fs=2.0, time_step_fs=1.0)
    return folder


def fold(shards, track="extra-data"):
    return load_benchmark(get_task("mini-xtb-v1", track), 2, shards)


def test_further_compounds_are_learnt_from_and_nothing_else_changes(shards, further):
    data = fold(shards)
    found = learning_from(data, SPLIT, further)
    own = data.training.molecules
    assert found.lessons.molecules == (*own, *ALLOWED)
    assert found.training is data.training and found.parts is data.parts
    assert found.lessons.validation is data.training.validation
    assert found.about.keys() == {"extra_sha256"}
    held = {name for part in ("val", "test_id", "test_ood") for name in FOLD.part(part)}
    assert not held & set(found.lessons.molecules)


def test_fewer_molecules_are_the_first_of_more(shards, further):
    data = fold(shards)
    sets = [
        set(learning_from(data, SPLIT, further, n).lessons.molecules)
        for n in range(1, len(data.training.molecules) + 3)
    ]
    assert [len(names) for names in sets] == list(range(1, len(sets) + 1))
    assert all(few < more for few, more in pairwise(sets))
    assert sets[len(data.training.molecules) - 1] == set(data.training.molecules)
    few = learning_from(fold(shards, "canonical"), SPLIT, None, 1)
    assert set(few.lessons.molecules) == sets[0] and few.about == {"molecules": 1}
    for n in (0, len(sets) + 1):
        with pytest.raises(UserError, match=f"--molecules wants 1 to {len(sets)} here, not {n}"):
            learning_from(data, SPLIT, further, n)


def test_what_cannot_be_learnt_from_is_refused(shards, further, tmp_path):
    with pytest.raises(UserError, match="go together"):
        learning_from(fold(shards, "canonical"), SPLIT, further)
    with pytest.raises(UserError, match="go together"):
        learning_from(fold(shards), SPLIT)
    with pytest.raises(UserError, match="only `atom-bench run --extra-data"):
        lessons_of(fold(shards))
    with pytest.raises(UserError, match="no track extra-data: it is one on one molecule"):
        get_task("md17/aspirin", "extra-data")
    make_dataset(tmp_path / "held", ["methanol"], n_frames=501, store_every_fs=2.0)
    with pytest.raises(UserError, match="methanol has the connectivity of methanol; leave it out"):
        learning_from(fold(shards), SPLIT, tmp_path / "held")
    make_dataset(tmp_path / "short", [EXTRA["acetylene"]], n_frames=200, store_every_fs=2.0)
    with pytest.raises(UserError, match="acetylene of the further compounds: 398 fs are shorter"):
        learning_from(fold(shards), SPLIT, tmp_path / "short")
    for task in ("tg80-zero-shot/furan", "mini-xtb-finetune/furan"):
        with pytest.raises(UserError, match="one on one molecule"):
            get_task(task, "extra-data")
    for replica, smiles in enumerate(("O=c1cc[nH]c(=O)[nH]1", "Oc1ccnc(O)n1")):
        drawn = molecule_from_smiles(smiles, "one")
        long = {"n_frames": 501, "store_every_fs": 2.0, "replica": replica}
        make_dataset(tmp_path / "tautomers", [drawn], **long)
    with pytest.raises(UserError, match="another tautomer than other replicas of one"):
        learning_from(fold(shards), SPLIT, tmp_path / "tautomers")
    make_dataset(tmp_path / "near", [EXTRA[TOO_NEAR]], n_frames=501, store_every_fs=2.0)
    with pytest.raises(UserError, match="all is too near to test_ood of fold 2"):
        learning_from(fold(shards), SPLIT, tmp_path / "near")
    (path,) = (tmp_path / "near").glob("*.h5md")
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(UserError, match="glyoxylic-acid"):
        learning_from(fold(shards), SPLIT, tmp_path / "near")
    with pytest.raises(UserError, match="nothing: no such"):
        learning_from(fold(shards), SPLIT, tmp_path / "nothing")


def test_a_run_on_further_compounds_is_ranked_apart(shards, further, tmp_path, capsys):
    out = tmp_path / "runs"
    run = ["run", "--fold", "2", "--data", str(shards), "--out", str(out), *ATOM]
    assert main([*run, "--track", "extra-data", "--extra-data", str(further)]) == 0
    assert main([*run, "--molecules", "2"]) == 0
    assert main(run) == 0
    records = read_records(out)
    learnt = {tuple(r.settings.get("lessons", ())): r for r in records if r.fit.n_steps}
    more, fewer = ("extra_sha256",), ("molecules",)
    assert learnt.keys() == {more, fewer, ()}
    assert learnt[more].track == "extra-data" and learnt[fewer].track == "canonical"
    assert len({r.key for r in learnt.values()}) == 3
    # What trivial predictors know is the task's own data, so skill is against the same.
    centroids = [r for r in records if r.model == "mean-structure"]
    assert {r.track for r in centroids} == {"canonical", "extra-data"}
    values = [r.value("test_time", "s2s") for r in centroids]
    assert np.ptp(values) == 0
    capsys.readouterr()
    assert main(["leaderboard", str(out), "--json"]) == 0
    lines = json.loads(capsys.readouterr().out)
    kinds = {(one["track"], one["settings"]) for one in lines if one["model"] == "atom"}
    assert len(kinds) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--track", "extra-data"], "go together"),
        (["--extra-data", "nothing"], "go together"),
        (["--model", "persistence", "--molecules", "3"], "learns from the task's own data"),
        (["--task", "md17/aspirin", "--molecules", "3"], "md17"),
    ],
)
def test_the_command_refuses_in_one_line(shards, arguments, message, capsys):
    task = [] if "--task" in arguments else ["--fold", "2", "--data", str(shards)]
    assert main(["run", *task, *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0 and message in error


def test_what_learns_from_windows_learns_from_further_compounds(shards, further, tmp_path):
    from benchmarks.interface import Budget
    from benchmarks.models import make_model

    lessons = learning_from(fold(shards), SPLIT, further).lessons
    model = make_model("atom", **TINY_ATOM)
    report = model.fit(lessons, budget=Budget(epochs=1), seed=0, out=tmp_path)
    assert report.n_samples == 4 * len(lessons.trajectories)
