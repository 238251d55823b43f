import numpy as np
import pytest

from benchmarks.tasks.data import cut, load_benchmark, shipped_name
from benchmarks.tasks.scored_windows import window_rotation
from benchmarks.tasks.states import score_mask_of
from benchmarks.tasks.tasks import TASKS, Track, get_task
from benchmarks.testing import ToyDataset
from tests.support import toys
from tests.support.factories import make_dataset
from tg80.dataset import shipped_folder
from tg80.errors import UserError
from tg80.splits.split import load_split
from tg80.windows.lags import lag_frames
from tg80.windows.trajectories import Trajectory


def test_the_frozen_tasks_are_what_was_published():
    mini = get_task("mini-xtb-v1")
    assert mini.lags_fs == (120, 240, 360, 480, 600, 720, 840, 960)
    assert mini.curve_lags_fs == (10, 20, 50, 100)
    assert (mini.split, mini.level, mini.starts) == ("tg80-v1", "gfn2-xtb", 16)
    assert get_task("tg80-multitask").horizon_fs == 3000
    dft = get_task("mini-dft-v1")
    assert (dft.split, dft.level, dft.horizon_fs) == ("tg80-v1", "pbe-def2svp", 100)
    # Stored every 1 fs: 12.5 fs is a tie, and rounds up.
    frames, real_lags_fs = lag_frames(dft.lags_fs, 1.0)
    assert frames.tolist() == [13, 25, 38, 50, 63, 75, 88, 100] == real_lags_fs.tolist()
    assert all(len(task.lags_fs) == 8 for task in TASKS.values())
    xtb, long, release = (get_task(f"tg80-{name}-v1") for name in ("xtb", "xtb-long", "dft"))
    assert (xtb.lags_fs, xtb.curve_lags_fs, xtb.level) == (
        mini.lags_fs, mini.curve_lags_fs, "gfn2-xtb",
    )  # fmt: skip
    assert (long.lags_fs[0], long.horizon_fs) == (375, 3000)
    assert (release.lags_fs, release.level) == (dft.lags_fs, "pbe-def2svp")
    assert {shipped_name(task) for task in (xtb, long)} == {"tg80-xtb-v1"}
    assert {task.reference for task in (xtb, long, release)} == {"validation"}


@pytest.mark.parametrize("track", list(Track))
def test_tracks_differ_in_atoms_only(track):
    task = get_task("mini-xtb-v1", track)
    assert task.track == track
    assert task.lags_fs == TASKS["mini-xtb-v1"].lags_fs


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match="unknown task 'mini'; choose one of mini-xtb-v1"):
        get_task("mini")
    with pytest.raises(UserError, match="unknown track"):
        get_task("mini-xtb-v1", "light")


def test_tracks_choose_inputs_and_scored_atoms():
    states = {}
    for track in Track:
        data = toys.toy_data(task=toys.TASK.on_track(track))
        states[track] = data.parts["test_time"].windows.states
    heavy = states["canonical"].atomic_numbers > 1
    assert bool((states["canonical"].score_mask == heavy).all())
    assert bool((states["all-atom"].score_mask == states["all-atom"].atom_mask).all())
    assert int(states["heavy-input"].atomic_numbers[0].min()) > 1
    assert bool(states["heavy-input"].score_mask.all())


def test_padding_is_never_scored():
    states = toys.toy_data().parts["val"].windows.states
    assert not bool((score_mask_of(states.atomic_numbers, "all") & ~states.atom_mask).any())


def test_rotation_of_a_window_is_fixed_by_task_and_start():
    one = window_rotation("mini-xtb-v1", "ethanol-r0@5")
    np.testing.assert_array_equal(one, window_rotation("mini-xtb-v1", "ethanol-r0@5"))
    assert np.abs(one - window_rotation("mini-xtb-v1", "ethanol-r0@6")).max() > 1e-3
    assert np.abs(one - window_rotation("mini-dft-v1", "ethanol-r0@5")).max() > 1e-3


def test_scored_rotations_are_uniform():
    rotations = np.array([window_rotation("t", f"m@{i}") for i in range(4000)])
    assert np.abs(rotations.mean(0)).max() < 0.04
    assert np.abs(rotations.var(0) - 1 / 3).max() < 0.03


def test_windows_are_the_trajectory_turned():
    data = toys.toy_data()
    part = data.parts["test_ood"]
    plain, turned = part.stored_frame, part.windows
    assert plain.states.start_id == turned.states.start_id
    for row, start_id in enumerate(plain.states.start_id):
        turn = window_rotation("toy-v1", start_id)
        expected = plain.targets[row].numpy() @ turn.T
        np.testing.assert_allclose(turned.targets[row].numpy(), expected, atol=1e-5)


def test_parts_come_from_their_molecules_and_blocks():
    data = toys.toy_data()
    molecules = {name: set(p.windows.states.molecule) for name, p in data.parts.items()}
    assert molecules == {
        "val": set(toys.VAL),
        "test_time": set(toys.TRAIN),
        "test_id": set(toys.TEST_ID),
        "test_ood": set(toys.TEST_OOD),
    }
    length = (toys.N_FRAMES - 1) * toys.FRAME_FS
    for start_id in data.parts["test_time"].windows.states.start_id:
        frame = int(start_id.split("@")[1])
        assert frame * toys.FRAME_FS >= 0.79 * length
        assert frame * toys.FRAME_FS + 90 <= length
    assert data.training.molecules == toys.TRAIN
    assert all(t.length_fs <= 0.6 * length for t in data.training.trajectories)


def test_early_stopping_may_look_at_shorter_lags():
    whole = toys.toy_data().training.validation[-1]
    shorter = toys.TASK.model_copy(update={"validation_lags_fs": (20.0, 40.0)})
    short = toys.toy_data(task=shorter).training.validation[-1]
    assert (whole.name, whole.windows.lags_fs[0].tolist()) == ("val_time", [30, 60, 90])
    assert (short.name, short.windows.lags_fs[0].tolist()) == ("val_time", [20, 40])
    assert len(short.windows.states) > len(whole.windows.states)
    assert short.stored_frame is None
    longer = toys.TASK.model_copy(update={"validation_lags_fs": (200.0,)})
    assert [p.name for p in toys.toy_data(task=longer).training.validation] == ["val"]


def test_a_fold_that_does_not_exist_is_refused(tmp_path):
    for fold in (0, 6, 9):
        with pytest.raises(UserError, match="fold must be 1 to 5"):
            load_benchmark(toys.TASK, fold, tmp_path)


def whole_release(length_fs, frame_fs):
    """All compounds of TG80 standing still for as long as the release runs."""
    n_frames = round(length_fs / frame_fs) + 1
    trajectories = []
    for name, compound in load_split("tg80-v1").molecules.items():
        n = compound.n_atoms
        still = np.broadcast_to(np.zeros(3, dtype="f4"), (n_frames, n, 3))
        numbers = np.array([6, *[1] * (n - 1)])
        trajectories.append(Trajectory(name, 0, still, still, numbers, np.zeros((n, 3)), frame_fs))
    return ToyDataset(trajectories)


@pytest.mark.parametrize(
    ("name", "length_fs", "frame_fs", "at_later_times", "elsewhere"),
    [
        ("tg80-xtb-v1", 32_000, 10, 6, 16),
        ("tg80-xtb-long-v1", 32_000, 10, 2, 10),
        ("tg80-dft-v1", 1_000, 1, 2, 9),
    ],
)
def test_every_fold_of_a_release_has_windows_in_every_part(
    name, length_fs, frame_fs, at_later_times, elsewhere
):
    task, data = get_task(name), whole_release(length_fs, frame_fs)
    for fold in range(1, 6):
        found = cut(data, task, fold, manifest="", split_sha256="", bonds={})
        assert [part.name for part in found.training.validation] == ["val", "val_time"]
        for part, windows in found.parts.items():
            of = windows.windows.states.molecule
            wanted = at_later_times if part == "test_time" else elsewhere
            assert {of.count(molecule) for molecule in of} == {wanted}


def test_a_release_that_lacks_molecules_is_refused(tmp_path):
    names = ("ethylene", "acetonitrile", "methanol", "urea")
    make_dataset(tmp_path, names, n_frames=101, store_every_fs=10.0, time_step_fs=1.0)
    with pytest.raises(UserError, match="fold 2 of tg80-xtb-v1 lacks 76 of its 80 molecules"):
        load_benchmark(get_task("tg80-xtb-v1"), 2, tmp_path)
    partial = get_task("tg80-xtb-v1").model_copy(update={"complete": False})
    with pytest.raises(UserError, match="has no molecule of val in the data"):
        load_benchmark(partial, 2, tmp_path)


def test_replicas_stored_at_another_interval_are_for_training_alone(tmp_path):
    asked = {"n_frames": 201, "time_step_fs": 1.0}
    names = ("ethylene", "acetonitrile", "methanol", "urea")
    make_dataset(tmp_path, names, store_every_fs=10.0, **asked)
    task = toys.TASK.model_copy(update={"level": "gfn2-xtb"})
    alone = load_benchmark(task, 2, tmp_path)
    make_dataset(tmp_path, ("methanol", "urea"), store_every_fs=2.0, replica=1, **asked)
    both = load_benchmark(task, 2, tmp_path)
    assert {t.frame_fs for t in both.whole} == {10.0}
    assert "urea" not in both.training.molecules  # held out of distribution
    assert [(t.name, t.frame_fs, t.n_frames) for t in both.training.finer] == [
        ("methanol", 2.0, 201)
    ]
    for name, part in alone.parts.items():
        assert part.windows.states.start_id == both.parts[name].windows.states.start_id
    # What a model may learn from is part of a record's identity.
    assert both.manifest_sha256 != alone.manifest_sha256


def test_the_releases_of_a_checkout_are_found_by_name():
    assert any(shipped_folder("tg80-xtb-v1").rglob("*-r0.h5md"))
