"""Fine-tuning to one molecule: what is learnt from, what is refused, what is told."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from atom import ATOM
from atom.checkpoint import stored_parameters
from benchmarks.cli import main
from benchmarks.models import Budget, make_model
from benchmarks.models.atom import AtomJoint
from benchmarks.runs.records import read_records
from benchmarks.studies.finetune import document, figure, find_pretraining, study, tables
from benchmarks.tasks.data import molecule_data
from benchmarks.tasks.tasks import FINE_TUNING, get_task
from tests.support.factories import make_dataset
from tg80.errors import UserError
from tg80.splits.split import load_split

# In fold 2: trained on, trained on, chose the weights, held out.
COMPOUNDS = ("ethylene", "acetonitrile", "chloroform", "formaldehyde")
TASK = get_task("mini-xtb-finetune/formaldehyde")
SPLIT = load_split("tg80-v1")
TINY = [
    "--set", "model.n_blocks=1", "--set", "model.width=16", "--set", "model.n_heads=2",
    "--set", "model.feedforward_width=16", "--set", "training.windows_per_trajectory=8",
    "--epochs", "2", "--device", "cpu",
]  # fmt: skip
FAST = {"training": {"windows_per_trajectory": 8, "validations": 2}, "device": "cpu"}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    make_dataset(folder, COMPOUNDS, n_frames=501, store_every_fs=10.0, time_step_fs=1.0)
    return folder


@pytest.fixture(scope="module")
def runs(shards, tmp_path_factory):
    """A multi-task run on fold 2."""
    out = tmp_path_factory.mktemp("runs")
    argv = ["run", "--fold", "2", "--data", str(shards), "--out", str(out), *TINY]
    assert main([*argv, "--model", "atom-start"]) == 0
    return out


@pytest.fixture(scope="module")
def begin(runs):
    return find_pretraining(runs, TASK, SPLIT)


@pytest.fixture(scope="module")
def molecule(shards, begin):
    return molecule_data(TASK, begin.fold, SPLIT, shards)


def run_folder(runs):
    (path,) = runs.rglob("atom-start/*/record.json")
    return path.parent


def test_ids_of_fine_tuning_tasks_name_family_and_molecule():
    assert TASK.id == "mini-xtb-finetune/formaldehyde" and TASK.molecule == "formaldehyde"
    assert get_task("tg80-finetune/1-butanol", "heavy-input").inputs == "heavy"
    assert get_task("tg80-finetune/urea").horizon_fs == 3000
    for wrong in ("mini-xtb-finetune", "mini-xtb-finetune/", "finetune/urea", "mini-xtb-v1/urea"):
        with pytest.raises(UserError, match=r"unknown task .*tg80-finetune/NAME"):
            get_task(wrong)
    assert all(max(t.curve_lags_fs) <= t.horizon_fs for t in FINE_TUNING.values())


def test_parts_of_one_molecule(molecule):
    (train,) = molecule.training.trajectories
    assert (train.name, train.first_frame, train.n_frames) == ("formaldehyde", 0, 301)
    assert list(molecule.parts) == ["test_time"]
    frame = lambda part: [int(i.split("@")[1]) for i in part.windows.states.start_id]  # noqa: E731
    assert min(frame(molecule.training.validation[0])) >= 0.635 * 500
    assert max(frame(molecule.training.validation[0])) + 24 <= 0.755 * 500
    assert min(frame(molecule.parts["test_time"])) >= 0.79 * 500
    assert molecule.split_sha256 == SPLIT.sha256


def test_a_model_begins_with_the_pretrained_weights(begin, molecule, tmp_path):
    still = {"training": {"learning_rate": 1e-12, "windows_per_trajectory": 8}}
    model = AtomJoint.pretrained(
        ATOM(begin.module.config.model_copy(update={"time_attention": "joint"})), **still
    )
    report = model.fit(molecule.training, budget=Budget(epochs=1), seed=0, out=tmp_path)
    assert report.n_steps > 0
    for name, weight in stored_parameters(model.module).items():
        torch.testing.assert_close(weight.detach().cpu(), model.begin[name], atol=1e-9, rtol=1e-5)
    # Its settings alone are not enough to make it again.
    again = make_model("atom", **model.settings())
    with pytest.raises(UserError, match="began with other weights"):
        again.initialise(molecule.training, seed=0)
    model.save(tmp_path / "model")
    loaded = make_model("atom").load(tmp_path / "model")
    assert loaded.settings()["pretrained"] == model.settings()["pretrained"]


def test_only_the_first_frames_are_learnt_from(begin, molecule, tmp_path):
    (train,) = molecule.training.trajectories
    spoilt = train.positions.copy()
    spoilt[40:] = np.nan
    other = replace(molecule.training, trajectories=(replace(train, positions=spoilt),))
    given = FAST | {"training": FAST["training"] | {"train_frames": 40}}
    found = []
    for name, data in (("whole", molecule.training), ("spoilt", other)):
        model = type(make_model("atom-start")).pretrained(begin.module, **given)
        model.fit(data, budget=Budget(epochs=2), seed=0, out=tmp_path / name)
        found.append(dict(model.module.named_parameters()))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_the_study_compares_both_starts_and_reuses_what_is_finished(begin, molecule, tmp_path):
    asked = {"seeds": [0, 1], "budget": Budget(epochs=2), "settings": FAST, "out": tmp_path}
    found = study(begin, molecule, frames=[40, 8], **asked)
    rows = {(row.start, row.n_frames): row for row in found.rows}
    zero = rows["not fine-tuned", 0]
    trained = [rows[start, n] for n in (8, 40) for start in ("fine-tuned", "from scratch")]
    assert len({row.s2s for row in (zero, *trained)}) == 5
    assert all(row.seeds == 2 and row.s2s_spread > 0 for row in trained)
    assert {row.windows for row in found.rows} == {len(molecule.parts["test_time"].windows.states)}
    # Another seed of the order moves fine-tuning less than other random weights move scratch.
    assert rows["fine-tuned", 40].s2s_spread < rows["from scratch", 40].s2s_spread
    records = read_records(tmp_path)
    learnt = [r for r in records if r.model == "atom-start"]
    assert len(learnt) == 8 and {r.task for r in records} == {TASK.id}
    assert sum("pretrained" in r.settings for r in learnt) == 4
    value = next(r for r in learnt if "pretrained" not in r.settings and r.seed == 1)
    assert value.value("test_time", "s2s", "formaldehyde") is not None

    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    again = study(begin, molecule, frames=[8, 40], **asked)
    assert again.rows == found.rows
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()} == stamps

    (table,) = tables(found)
    assert [row[0] for row in table.rows[:3]] == ["0", "8", "40"]
    ratio = rows["from scratch", 8].s2s / rows["fine-tuned", 8].s2s
    assert table.rows[1][4] == f"{ratio:.2f}"
    assert figure(found).startswith(b"\x89PNG")
    assert not any(row["seen"] for row in document(found)["rows"])


def test_the_molecule_must_not_have_been_seen(runs, shards, tmp_path):
    path = run_folder(runs)

    def refused(name, reason, where=runs, split=SPLIT, **options):
        with pytest.raises(UserError, match=reason) as caught:
            find_pretraining(where, get_task(f"mini-xtb-finetune/{name}"), split, **options)
        assert "\n" not in str(caught.value)

    refused("ethylene", "has been trained on ethylene; take a fold that holds it out")
    refused("chloroform", "chloroform chose its weights, being in val of fold 2", path)
    refused("nonesuch", "no compound 'nonesuch'")
    refused("formaldehyde", "no such file or folder", tmp_path / "none")
    refused("formaldehyde", "that began with random weights, and no atom.safetensors", tmp_path)
    other = SPLIT.model_copy(update={"version": "custom"})
    other.__dict__.pop("sha256", None)
    refused("formaldehyde", "trained on another split than custom", split=other)
    for where in (path, path / "model", path / "model" / "atom.safetensors"):
        assert find_pretraining(where, TASK, SPLIT).fold == 2

    alone = tmp_path / "alone.safetensors"
    shutil.copy(path / "model" / "atom.safetensors", alone)
    refused("formaldehyde", "nothing tells which molecules it has seen", alone)
    begin = find_pretraining(alone, TASK, SPLIT, allow_seen=True)
    assert begin.seen and begin.model_id == "atom-start"

    twice = tmp_path / "twice"
    shutil.copytree(path, twice / "a")
    shutil.copytree(path, twice / "b")
    refused("formaldehyde", "2 runs can be begun with; name one, such as", twice)


def test_the_command(runs, shards, tmp_path, capsys):
    argv = ["finetune", "ethylene", "--from", str(runs), "--data", str(shards), "--frames", "8,40"]
    argv += ["--epochs", "1", "--set", "training.windows_per_trajectory=8", "--device", "cpu"]
    argv += ["--out", str(tmp_path)]
    assert main(argv) == 2
    assert "has been trained on ethylene" in capsys.readouterr().err
    assert main([*argv, "--allow-seen", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["pretraining"]["seen"]
    seen = {row["start"]: row["seen"] for row in found["rows"]}
    assert seen["fine-tuned"] and seen["not fine-tuned"] and not seen["from scratch"]
    assert (tmp_path / "mini-xtb-finetune/ethylene/canonical-fold2.png").exists()
    assert main([*argv, "--allow-seen", "--markdown"]) == 0
    assert "MAY HAVE BEEN SEEN" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--frames", "a"], "--frames wants whole numbers"),
        (["--frames", "1,8"], "--frames must lie between 2 and 301"),
        (["--frames", "8,302"], "--frames must lie between 2 and 301"),
        (["--task", "mini-xtb-v1"], "unknown task"),
        (["--set", "model.width=32"], "--set model: the pretrained model decides"),
        (["--track", "heavy-input"], "on track canonical; give the same --track"),
        (["--task", "tg80-finetune"], "the data of task tg80-finetune/formaldehyde are not here"),
    ],
)
def test_mistakes_of_the_command(runs, shards, tmp_path, capsys, options, message):
    data = [] if "tg80-finetune" in options else ["--data", str(shards)]
    argv = ["finetune", "formaldehyde", "--from", str(runs), *data, "--epochs", "1"]
    assert main([*argv, "--out", str(tmp_path / "out"), "--device", "cpu", *options]) == 2
    shown = capsys.readouterr().err.strip()
    assert message in shown and len(shown.splitlines()) == 1


def test_run_sends_fine_tuning_to_its_command(capsys):
    assert main(["run", "--fold", "2", "--task", "mini-xtb-finetune/urea"]) == 2
    assert "`atom-bench finetune` runs it" in capsys.readouterr().err
