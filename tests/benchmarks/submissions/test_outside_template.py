"""A template holds all that is asked for, and nothing leads from it to the targets."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
from scipy.spatial.distance import pdist

from benchmarks.cli import main
from benchmarks.submissions.layout import write_template
from benchmarks.submissions.template import issue
from benchmarks.tasks.data import windows_at
from benchmarks.tasks.scored_windows import window_rotation
from tests.benchmarks.submissions import outside
from tests.support import toys
from tg80.errors import UserError


@pytest.fixture(scope="module")
def issued(data):
    return issue(data)


def frame_of(start_id):
    return int(start_id.rpartition("@")[2])


def test_it_holds_the_windows_that_are_scored_here(data, issued):
    template = issued.template
    for part in template.parts:
        windows = data.parts[part].windows
        rows = np.array([issued.row[start] for start in windows.states.start_id])
        assert (template.part[rows] == part).all()
        assert template.molecule[rows].tolist() == list(windows.states.molecule)
        n_atoms = windows.states.positions.shape[1]
        back = issued.taken_back(rows, template.positions[rows, :n_atoms])
        present = windows.states.atom_mask.numpy()
        wanted = windows.states.positions.double().numpy()
        assert np.allclose(back[present], wanted[present], rtol=0, atol=1e-12)
        mask = windows.states.score_mask.numpy()
        assert (template.score_mask[rows, :n_atoms] == mask).all()
    assert template.lags_fs.tolist() == [10.0, 30.0, 60.0, 90.0]
    assert len(issued.row) == len(template) == sum(len(data.parts[p].windows.states)
                                                   for p in template.parts)  # fmt: skip


def test_nothing_but_the_states_is_in_the_file(data, issued, tmp_path):
    path = tmp_path / "t.h5"
    write_template(path, issued.template)
    with h5py.File(path) as file:
        assert set(file) == {
            "entry", "part", "molecule", "positions", "velocities", "atomic_numbers", "score_mask",
            "lags_fs", "predictions", "failed", "submission",
        }  # fmt: skip
        assert np.isnan(file["predictions"][...]).all() and not file["failed"][...].any()
        assert file.attrs["id"] == issued.template.id
    text = path.read_bytes()
    assert not [start for start in issued.row if start.encode() in text]
    assert b"@" not in b"".join(issued.template.entry.astype("S").tolist())


def test_no_target_is_among_the_starts(data, issued):
    """Distances between atoms tell states whatever way they are turned."""
    template, closest = issued.template, []
    for part in template.parts:
        windows = data.parts[part].windows
        for name, target in zip(windows.states.molecule, windows.targets.numpy(), strict=True):
            n_atoms = (template.atomic_numbers[template.molecule == name][0] > 0).sum()
            starts = template.positions[(template.molecule == name) & (template.part == part)]
            shapes = np.array([pdist(x[:n_atoms]) for x in starts])
            wanted = np.array([pdist(x[:n_atoms]) for x in target])
            closest.append(np.abs(shapes[:, None] - wanted[None]).max(-1).min())
    assert min(closest) > 1e-3


def test_the_same_data_give_the_same_bytes(data, issued, tmp_path):
    for name, made in (("a", issued), ("b", issue(data))):
        write_template(tmp_path / name, made.template)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_order_tells_nothing_of_time(issued):
    frames = np.array([frame_of(start) for start in issued.row])
    correlation = np.corrcoef(np.arange(len(frames)), frames)[0, 1]
    assert abs(correlation) < 3 / np.sqrt(len(frames))
    assert (np.sort(issued.template.entry) == issued.template.entry).all()


def test_who_has_not_the_targets_cannot_know_names_order_or_frames(data):
    """A hundredth of an angstrom in one frame that is no start changes them all."""
    trajectories = toys.toy_trajectories()
    index = next(i for i, t in enumerate(trajectories) if t.name == "urea")
    positions = trajectories[index].positions.copy()
    positions[5] += 0.01  # the 5th frame after the first start
    trajectories[index] = replace(trajectories[index], positions=positions)
    one, other = issue(data), issue(toys.toy_data(trajectories))
    assert one.row.keys() == other.row.keys()
    assert not set(one.template.entry) & set(other.template.entry)
    start = "urea-r0@0"
    turned = [i.rotations[i.row[start]] for i in (one, other)]
    assert not np.allclose(*turned, atol=0.1)


def _recognised(states, names, first):
    """Share of states whose frame number is found by undoing the public rotation of every name.

    The molecule keeps its place in the laboratory, and the attacker is given one state undone.

    Args:
        states: positions (N, 3) by start id.
        names: start ids to try.
        first: the start id that the attacker is given.
    """
    home = states[first] @ window_rotation(toys.TASK.id, first)
    hits = []
    for start, state in states.items():
        if start != first:
            undone = {name: state @ window_rotation(toys.TASK.id, name) for name in names}
            best = min(undone, key=lambda name: np.abs(undone[name] - home).max())
            hits.append(best == start)
    return np.mean(hits)


def test_the_public_rotations_do_not_undo_those_of_a_template(data, issued):
    windows = data.parts["test_ood"].windows
    molecule = windows.states.molecule[0]
    chosen = [i for i, name in enumerate(windows.states.molecule) if name == molecule]
    ids = [windows.states.start_id[i] for i in chosen]
    n_atoms = int(windows.states.atom_mask[chosen[0]].sum())
    ours = {s: windows.states.positions[i, :n_atoms].numpy() for s, i in zip(ids, chosen)}  # noqa: B905
    sent = {s: issued.template.positions[issued.row[s], :n_atoms] for s in ids}
    # The control: the windows of `run` do not stand it.
    assert _recognised(ours, ids, ids[0]) == 1.0
    assert _recognised(sent, ids, ids[0]) < 0.4


def test_entries_are_at_their_centre_of_mass_and_distances_are_kept(issued, data):
    template = issued.template
    from tg80.constants import masses_of

    masses = masses_of(template.atomic_numbers) * (template.atomic_numbers > 0)
    centre = np.einsum("en,enj->ej", masses, template.positions) / masses.sum(1, keepdims=True)
    assert np.abs(centre).max() < 1e-12
    assert np.allclose(np.linalg.det(issued.rotations), 1.0)


def test_no_other_axis_is_as_long_as_that_of_the_atoms(data):
    same = toys.TASK.model_copy(update={"lags_fs": tuple(10.0 * i for i in range(2, 9))})
    shape = issue(toys.toy_data(task=same)).template.shape
    assert len(set(shape)) == 4


def test_overlapping_windows_give_no_template(data):
    starts = data.parts["test_id"]
    near = windows_at(data, "test_id", toys.TASK.lags_fs)
    longer = data.task.model_copy(update={"lags_fs": (30.0, 200.0)})
    with pytest.raises(UserError, match="overlap, so that starts would give targets away"):
        issue(replace(data, task=longer))
    assert len(near.states) == len(starts.windows.states)


def test_parts_that_are_not_there_are_refused(data):
    with pytest.raises(UserError, match=r"no part test_oodd in this fold; there is val, test_time"):
        issue(data, ["test_oodd"])
    assert issue(data, ["val"]).template.parts == ["val"]


def test_a_filled_copy_keeps_its_id(issued, tmp_path):
    path = outside.filled(tmp_path / "t.h5", outside.still(issued), issued)
    with h5py.File(path) as file:
        assert file.attrs["id"] == issued.template.id


@pytest.mark.parametrize("task", ["mini-xtb-finetune/methanol", "mini-xtb-finetune/nonsense"])
def test_tasks_of_fine_tuning_have_no_template(task, tmp_path, capsys):
    out = tmp_path / "t.h5"
    assert main(["template", "--task", task, "--fold", "2", "--out", str(out)]) == 2
    err = capsys.readouterr().err
    assert err == f"error: task '{task}': `atom-bench finetune` runs it; no template is made\n"
    assert not out.exists()


def test_control_characters_in_the_name_of_a_task_do_not_reach_the_terminal(tmp_path, capsys):
    task = "mini-xtb-singletask/\x1b[31mRED\nsecond line"
    assert main(["template", "--task", task, "--out", str(tmp_path / "t.h5")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: unknown task ") and err.strip().isprintable()


def test_a_template_that_names_a_task_of_fine_tuning_is_not_scored(issued, tmp_path, capsys):
    header = replace(issued.template.header, task="mini-xtb-finetune/methanol")
    altered = replace(issued, template=replace(issued.template, header=header))
    path = outside.filled(tmp_path / "t.h5", outside.still(issued), altered)
    for command in (["score"], ["submit", "--out", str(tmp_path / "a.zip")]):
        assert main([*command, str(path)]) == 2
        err = capsys.readouterr().err
        assert "`atom-bench finetune` runs it" in err and err.count("\n") == 1
