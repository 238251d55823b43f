"""Tasks on one molecule: single-task, zero-shot, and the public sets."""

import json

import numpy as np
import pytest

from benchmarks.cli import main
from benchmarks.runs.records import read_record
from benchmarks.tasks.data import load_benchmark
from benchmarks.tasks.tasks import PUBLIC, TASKS, get_task, known_tasks
from tests.support import public_files
from tests.support.factories import make_dataset
from tg80.errors import UserError
from tg80.splits.split import load_split

SPLIT = load_split("tg80-v1")
N_FRAMES = 42_000  # The shortest that the leak-free protocol takes is a little less.
TINY = [
    "--set", "model.n_blocks=1", "--set", "model.width=16", "--set", "model.n_heads=2",
    "--set", "model.feedforward_width=16", "--set", "training.windows_per_trajectory=1",
    "--set", "training.validations=1", "--epochs", "1", "--device", "cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Of fold 2: three training molecules, and one held out of distribution."""
    folder = tmp_path_factory.mktemp("shards")
    names = ("ethylene", "acetonitrile", "methanol", "urea")
    make_dataset(folder, names, n_frames=501, store_every_fs=10.0, time_step_fs=1.0)
    return folder


@pytest.fixture(scope="module")
def md17(tmp_path_factory):
    folder = tmp_path_factory.mktemp("md17")
    arrays = public_files.sgdml_arrays(public_files.vibrating(N_FRAMES))
    public_files.write(folder / "md17_ethanol.npz", arrays)
    # Not a molecule of MD17, though it is called like one.
    public_files.write(folder / "rmd17_ethanol.npz", {"coords": np.zeros(3)})
    public_files.write(folder / "ethanol_ccsd_t-train.npz", arrays)
    return folder


def run(arguments, capsys):
    assert main(["run", "--json", *arguments]) == 0
    return {record["model"]: record for record in json.loads(capsys.readouterr().out)}


def refusal(arguments, capsys):
    assert main(["run", *arguments]) == 2
    shown = capsys.readouterr().err.strip()
    assert len(shown.splitlines()) == 1
    return shown


def test_tasks_on_one_molecule_are_what_was_published():
    assert get_task("tg80-singletask/urea").lags_fs == TASKS["tg80-multitask"].lags_fs
    assert get_task("tg80-singletask/urea").validation_lags_fs[-1] == 750
    zero = get_task("tg80-zero-shot/butanol")
    assert (zero.id, zero.molecule) == ("tg80-zero-shot/1-butanol", "1-butanol")
    assert zero.multi_task and zero.horizon_fs == 3000
    assert get_task("mini-xtb-zero-shot/urea").lags_fs == TASKS["mini-xtb-v1"].lags_fs
    md17, md22 = get_task("md17/aspirin"), get_task("md22/dha")
    assert md17.lags_fs == tuple(187.5 * i for i in range(1, 9))
    assert md22.lags_fs == tuple(375.0 * i for i in range(1, 9))
    assert (md17.starts, md17.train_windows, md17.as_published) == (2000, 500, False)
    published = get_task("md17/aspirin@published", "heavy-input")
    assert (published.id, published.molecule) == ("md17/aspirin@published", "aspirin")
    assert published.as_published
    with pytest.raises(UserError, match="heavy atoms only; give --track heavy-input"):
        get_task("md17/aspirin@published")
    with pytest.raises(UserError, match="md22 has no molecule 'aspirin'"):
        get_task("md22/aspirin")
    for wrong in ("md17", "md17/", "mini-xtb-v1/urea", "tg80-singletask"):
        with pytest.raises(UserError, match="unknown task"):
            get_task(wrong)


def test_what_tasks_gained_later_leaves_older_ones_their_identity():
    older = {
        "protocol", "as_published", "train_windows", "dataset", "reference", "complete",
        "extra_data",
    }  # fmt: skip
    for name in ("mini-xtb-v1", "mini-dft-v1", "tg80-multitask"):
        task = TASKS[name]
        assert task.identity() == {
            k: v for k, v in task.model_dump(mode="json", by_alias=True).items() if k not in older
        }
    tasks = [
        *known_tasks().values(),
        get_task("md17/uracil@published", "heavy-input"),
        get_task("tg80-xtb-v1", "extra-data"),
    ]
    identities = [json.dumps(task.identity(), sort_keys=True) for task in tasks]
    assert len(set(identities)) == len(tasks)
    assert all(type(task).model_validate(task.identity()) == task for task in tasks)


def test_a_single_task_sees_one_molecule(shards, tmp_path, capsys):
    data = load_benchmark(get_task("mini-xtb-singletask/urea"), None, shards)
    assert data.fold == 0 and data.training.molecules == ("urea",)
    assert list(data.parts) == ["test_time"]
    (validation,) = data.training.validation
    assert validation.name == "val_time"
    assert float(validation.windows.lags_fs.max()) == 160
    assert {"urea"} == set(data.parts["test_time"].windows.states.molecule)
    frames = [int(i.split("@")[1]) for i in data.parts["test_time"].windows.states.start_id]
    assert min(frames) >= 0.79 * 500 and max(frames) + 24 <= 500
    asked = ["--task", "mini-xtb-singletask/urea", "--data", str(shards), "--out", str(tmp_path)]
    records = run([*asked, "--model", "atom", *TINY], capsys)
    assert records["atom"]["fold"] == 0
    assert {"mean-structure", "relaxed-structure", "persistence"} < set(records)
    assert "has no folds; leave --fold out" in refusal([*asked, "--fold", "2"], capsys)
    with pytest.raises(UserError, match="no shard of furan"):
        load_benchmark(get_task("mini-xtb-singletask/furan"), None, shards)


def test_zero_shot_is_the_fold_that_holds_the_molecule_out(shards, tmp_path, capsys):
    task = get_task("mini-xtb-zero-shot/urea")
    fold = SPLIT.zero_shot_fold("urea").index
    data, whole = (load_benchmark(t, fold, shards) for t in (task, get_task("mini-xtb-v1")))
    assert load_benchmark(task, None, shards).fold == data.fold == fold
    assert list(data.parts) == list(data.blocks) == ["test_ood"]
    assert set(data.parts["test_ood"].windows.states.molecule) == {"urea"}
    cluster = SPLIT.clusters["urea"]
    assert all(SPLIT.clusters[name] != cluster for name in data.training.molecules)
    # It learns from all that the fold's training part has, and chooses its weights likewise.
    assert data.training.molecules == whole.training.molecules
    names = [[part.name for part in d.training.validation] for d in (data, whole)]
    assert names[0] == names[1]
    asked = ["--task", "mini-xtb-zero-shot/urea", "--data", str(shards), "--out", str(tmp_path)]
    records = run([*asked, "--model", "persistence"], capsys)
    assert records["persistence"]["fold"] == fold
    assert {row[1] for row in records["persistence"]["rows"]} > {"urea", "mean-over-molecules"}
    message = refusal([*asked, "--fold", str(fold % 5 + 1)], capsys)
    assert f"fold {fold} does; leave --fold out" in message
    with pytest.raises(UserError, match="no trajectory of furan in the data"):
        load_benchmark(get_task("mini-xtb-zero-shot/furan"), None, shards)
    with pytest.raises(UserError, match="no compound 'water'"):
        load_benchmark(get_task("mini-xtb-zero-shot/water"), None, shards)


def spans(data):
    """First and last frame of every window, for training, validation and test."""
    frame_fs = data.training.trajectories[0].frame_fs / 375
    length = round(data.task.horizon_fs / frame_fs)
    starts = {
        "train": [t.first_frame for t in data.training.trajectories],
        "val_time": _frames(data.training.validation[0]),
        "test_time": _frames(data.parts["test_time"]),
    }
    return {part: [(s, s + length) for s in frames] for part, frames in starts.items()}


def _frames(part):
    return [int(start_id.split("@")[1]) for start_id in part.windows.states.start_id]


def test_a_public_set_without_leaks(md17):
    data = load_benchmark(get_task("md17/ethanol"), None, md17)
    found = spans(data)
    assert [len(found[part]) for part in ("train", "val_time", "test_time")] == [500, 2000, 2000]
    ends = [max(end for _, end in found[part]) for part in ("train", "val_time")]
    begins = [min(begin for begin, _ in found[part]) for part in ("val_time", "test_time")]
    assert all(end < begin for end, begin in zip(ends, begins, strict=True))
    block = data.training.trajectories[0]
    assert (block.n_frames, block.frame_fs, block.n_atoms) == (9, 187.5, 9)
    part = data.parts["test_time"]
    assert part.windows.lags_fs[0].tolist() == list(data.task.lags_fs)
    turned = (part.windows.states.positions - part.stored_frame.states.positions).abs().amax((1, 2))
    assert float(turned.min()) > 1e-3
    raw = public_files.vibrating(N_FRAMES)
    frame = found["test_time"][7][0]
    np.testing.assert_allclose(part.stored_frame.states.positions[7], raw[frame], atol=1e-5)
    np.testing.assert_allclose(part.stored_frame.targets[7, -1], raw[frame + 3000], atol=1e-5)
    np.testing.assert_allclose(
        part.stored_frame.states.velocities[7], (raw[frame] - raw[frame - 1]) / 0.5, atol=1e-5
    )


def test_a_public_set_as_published_keeps_its_faults(md17):
    data = load_benchmark(get_task("md17/ethanol@published", "heavy-input"), None, md17)
    found = spans(data)
    assert [len(found[part]) for part in ("train", "val_time", "test_time")] == [500, 2000, 2000]
    # Most test windows share frames with a training window, and none of them is turned.
    first = np.array(found["train"])[:, 0]
    near = [np.abs(first - begin).min() < 3000 for begin, _ in found["test_time"]]
    assert np.mean(near) > 0.9
    part = data.parts["test_time"]
    assert part.stored_frame is None
    raw = public_files.vibrating(N_FRAMES)[:, :3]
    frame = found["test_time"][5][0]
    np.testing.assert_allclose(part.windows.states.positions[5], raw[frame], atol=1e-5)
    np.testing.assert_allclose(
        part.windows.states.velocities[5], (raw[frame + 1] - raw[frame]) / 0.5, atol=1e-5
    )
    leak_free = load_benchmark(get_task("md17/ethanol", "heavy-input"), None, md17)
    assert data.split_sha256 != leak_free.split_sha256


@pytest.mark.parametrize(
    ("task", "model"), [("md17/ethanol", "atom"), ("md17/ethanol@published", "egnn")]
)
def test_models_run_on_a_public_set(md17, tmp_path, capsys, monkeypatch, task, model):
    fewer = PUBLIC["md17"].model_copy(update={"starts": 40, "train_windows": 20})
    monkeypatch.setitem(PUBLIC, "md17", fewer)
    asked = ["--task", task, "--data", str(md17), "--out", str(tmp_path)]
    if "@" in task:
        asked += ["--track", "heavy-input"]
    settings = TINY if model == "atom" else ["--set", "model.width=8", *TINY[8:]]
    records = run([*asked, "--model", model, *settings], capsys)
    # Structures relaxed with GFN2-xTB are not known there.
    expected = {model, "persistence", "ballistic", "centroid", "mean-structure", "blend"}
    assert expected <= set(records) and "relaxed-structure" not in records
    assert records[model]["fit"]["n_samples"] == 20
    for record in records.values():
        assert record["task_spec"].get("as_published", False) == ("@" in task)
        assert {row[0] for row in record["rows"]} == {"test_time"}
        assert record["prediction"]["n_windows"] == 40
        # Bonds are perceived there; swinging atoms keep to their ranges.
        shares = [row[4] for row in record["rows"] if row[3] == "valid"]
        assert shares and (record["model"] != "persistence" or min(shares) > 0.9)
        assert all(np.isfinite(row[4]) for row in record["rows"])
    folders = [path.parent for path in tmp_path.rglob("record.json")]
    assert len(folders) == len(records)
    assert all(read_record(folder) for folder in folders)
    s2s = {name: _s2s(record) for name, record in records.items()}
    # The generated atoms swing about their places: the mean beats standing still.
    assert s2s["mean-structure"] < s2s["persistence"]
    assert "needs structures relaxed" in refusal([*asked, "--model", "relaxed-structure"], capsys)


def _s2s(record):
    wanted = ["mean-over-molecules", None, "s2s"]
    return next(row[4] for row in record["rows"] if row[1:4] == wanted)


def test_md22_at_its_own_spacing(tmp_path):
    numbers = np.array([6] * 12 + [7] * 4 + [8] * 4 + [1] * 22)
    positions = np.zeros((N_FRAMES, len(numbers), 3), dtype=np.float32)
    positions += np.random.default_rng(0).normal(size=(1, len(numbers), 3)) * 2
    positions[:, 0, 0] += 0.1 * np.sin(0.01 * np.arange(N_FRAMES, dtype=np.float32))
    arrays = {"R": positions, "F": positions, "E": np.zeros(N_FRAMES), "z": numbers}
    path = public_files.write(tmp_path / "md22_Ac-Ala3-NHMe.npz", arrays)
    data = load_benchmark(get_task("md22/ac-ala3-nhme"), None, path)
    assert data.parts["test_time"].windows.lags_fs[0].tolist() == [375.0 * i for i in range(1, 9)]
    assert data.training.trajectories[0].frame_fs == 375


def test_what_is_wrong_with_a_public_set_is_told(tmp_path, capsys):
    def told(task, *options):
        return refusal(["--task", task, "--model", "persistence", *options], capsys)

    folder = ["--data", str(tmp_path)]
    assert "`tg80 public md17/uracil --fetch FOLDER` fetches" in told("md17/uracil")
    assert "no md17_uracil.npz" in told("md17/uracil", *folder)
    assert "has no folds" in told("md17/uracil", *folder, "--fold", "1")
    assert "has no split" in told("md17/uracil", *folder, "--split", "tg80-v1")
    short = public_files.sgdml_arrays(public_files.vibrating(5000))
    path = public_files.write(tmp_path / "md17_ethanol.npz", short)
    assert "are too few for the leak-free single-task protocol" in told("md17/ethanol", *folder)
    public_files.write(tmp_path / "ethanol.npz", short)
    other = public_files.write(tmp_path / "ethanol_ccsd_t-train.npz", short)
    assert "its file name says ccsd-t" in told("md17/ethanol", "--data", str(other))
    assert "2 files of ethanol, name one" in told("md17/ethanol", *folder)
    path.write_bytes(path.read_bytes()[:1000])
    assert "md17_ethanol.npz: cut short" in told("md17/ethanol", "--data", str(path))
