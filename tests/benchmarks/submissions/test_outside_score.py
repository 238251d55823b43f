"""A submission is scored as if the model ran here."""

from dataclasses import replace

import h5py
import numpy as np
import pytest

from benchmarks.leaderboard.lines import entries
from benchmarks.models import Budget, make_model
from benchmarks.runs.evaluation import fit_references
from benchmarks.runs.records import read_records
from benchmarks.runs.runner import run_once
from benchmarks.submissions.layout import write_template
from benchmarks.submissions.parsing import read_submission
from benchmarks.submissions.scoring import KEPT, count_true, score_submission
from benchmarks.submissions.template import TEST_PARTS, issue
from tests.benchmarks.submissions import outside
from tests.support import toys
from tg80.errors import Tg80Error, UserError


def built_in(name, data, out):
    tested = replace(data, parts={p: data.parts[p] for p in TEST_PARTS})
    return run_once(
        make_model(name), tested, seed=None, budget=Budget(epochs=1), out=out,
        references=fit_references(tested),
    )  # fmt: skip


def rows(record):
    return {
        (r.part, r.molecule, r.lag_fs, r.metric): (r.value, r.unit, r.n, r.n_failed)
        for r in record.rows
    }


@pytest.mark.parametrize(
    ("name", "predict"), [("persistence", outside.still), ("ballistic", outside.flying)]
)
@pytest.mark.parametrize("track", ["canonical", "heavy-input", "all-atom"])
def test_a_trivial_predictor_sent_in_equals_the_built_in_row(name, predict, track, tmp_path):
    data = toys.toy_data(task=toys.TASK.on_track(track))
    submission = outside.fill_and_read(tmp_path / "sent.h5", data, predict)
    sent, own = score_submission(submission, data, tmp_path), built_in(name, data, tmp_path)
    assert rows(sent).keys() == rows(own).keys()
    assert sent.parts == own.parts == list(data.parts)[1:]
    for key, (value, *rest) in rows(sent).items():
        # Positions are rounded to float32 here and there; skill is a difference of ones.
        rounding = 2e-5 if key[3].startswith("skill") else 1e-9
        assert value == pytest.approx(rows(own)[key][0], rel=2e-5, abs=rounding), key
        assert rest == list(rows(own)[key][1:])


def test_the_truth_scores_zero(data, tmp_path):
    submission = outside.fill_and_read(
        tmp_path / "sent.h5", data, lambda issued: outside.truth(issued, data)
    )
    record = score_submission(submission, data, tmp_path)
    errors = [row.value for row in record.rows if row.unit == "A^2"]
    skills = [row.value for row in record.rows if row.metric == "skill"]
    assert len(errors) > 50 and max(errors) < 1e-12
    assert len(skills) > 10 and min(skills) > 1 - 1e-9


def test_a_float32_dataset_of_ones_own_will_do(data, tmp_path):
    issued = issue(data)
    path = outside.filled(tmp_path / "sent.h5", 0.0 * outside.still(issued), issued)
    with h5py.File(path, "r+") as file:
        del file["predictions"], file["failed"]
        file["predictions"] = outside.truth(issued, data).astype("f4")
        file["predictions"].attrs["unit"] = "Angstrom"
    record = score_submission(read_submission(path), data, tmp_path)
    assert record.value("test_ood", "s2s", "mean-over-molecules") < 1e-12


def test_unscored_atoms_and_failed_entries_may_be_left_out(data, tmp_path):
    issued = issue(data)
    predictions = outside.truth(issued, data)
    predictions[~np.broadcast_to(issued.template.score_mask[:, None, :], predictions.shape[:3])] = (
        np.nan
    )
    predictions[3] = np.nan
    path = outside.filled(tmp_path / "sent.h5", predictions, issued)
    with h5py.File(path, "r+") as file:
        file["failed"][3] = True
    record = score_submission(read_submission(path), data, tmp_path)
    molecule, part = issued.template.molecule[3], issued.template.part[3]
    own = built_in("persistence", data, tmp_path)
    counted = record.by_lag(part, "s2s", molecule)[None]
    share = 1 / counted.n
    starts = [s for s, row in issued.row.items() if row == 3]
    assert counted.n_failed == 1 and len(starts) == 1
    # One window of the molecule errs like persistence and the others not at all.
    windows = data.parts[part].windows
    index = windows.states.start_id.index(starts[0])
    square = (windows.targets[index, -1] - windows.states.positions[index])[
        windows.states.score_mask[index]
    ]
    assert counted.value == pytest.approx(share * float(square.square().mean()), rel=1e-4)
    assert own.value(part, "s2s", molecule) > 0


def test_the_leaderboard_shows_the_row_with_its_origin(data, tmp_path):
    told = {
        "seed": 3,
        "prediction_seconds": 14.0,
        "n_parameters": 12.0,
        "inputs": "positions, lags",
    }
    submission = outside.fill_and_read(tmp_path / "sent.h5", data, outside.still, **told)
    record = score_submission(submission, data, tmp_path / "runs")
    built_in("persistence", data, tmp_path / "runs")
    lines = entries(read_records(tmp_path / "runs"))
    assert {line.model for line in lines} == {"submitted/my-net", "persistence"}
    assert record.seed == 3 and record.settings["submitted"]
    assert record.labels == ("positions",) and record.inputs == ("positions", "lags")
    (line, *_) = [line for line in lines if line.model == "submitted/my-net"]
    assert line.costs.seconds_per_trajectory == pytest.approx(14.0 / 56)
    assert line.costs.n_samples == 1000 and line.costs.training_seconds == 60.0
    assert record.fit.cpu_seconds == 60.0 and record.fit.n_parameters == 12
    folder = tmp_path / "runs/toy-v1/canonical/fold2/submitted/my-net"
    (kept,) = folder.rglob(KEPT)
    assert read_submission(kept).sha256 == submission.sha256


def near(seed):
    """Persistence, and a little chance."""

    def predict(issued):
        rng = np.random.default_rng(seed)
        return outside.still(issued) + 0.01 * rng.normal(size=issued.template.shape)

    return predict


def send(data, folder, seed, **told):
    """Score into `folder` what differs by chance, under one name."""
    path = folder / f"{seed}-{len(list(folder.glob('*.h5')))}.h5"
    submission = outside.fill_and_read(path, data, near(seed), seed=seed, **told)
    return score_submission(submission, data, folder / "runs")


@pytest.mark.parametrize(
    "claim",
    [{"labels": "positions,forces"}, {"inputs": "molecule"}, {"n_parameters": 7}, {"oracle": 1}],
)
def test_seeds_that_claim_another_model_are_no_one_line(claim, data, tmp_path):
    send(data, tmp_path, 0)
    send(data, tmp_path, 1, **claim)
    lines = entries(read_records(tmp_path / "runs"))
    assert {line.seeds for line in lines} == {1} and len(lines) == 6


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"licence": "GPL-3.0-only"}, r"licence is 'GPL-3.0-only', but .* says 'MIT'; give the"),
        ({"paper": "https://a.b/c"}, r"paper is 'https://a.b/c', but .* says ''; give the same"),
    ],
)
def test_the_name_of_another_is_refused(told, message, data, tmp_path):
    send(data, tmp_path, 0)
    with pytest.raises(UserError, match=message):
        send(data, tmp_path, 1, **told)
    with pytest.raises(UserError, match=message):
        send(data, tmp_path, 0, **told)
    assert len(read_records(tmp_path / "runs")) == 1


@pytest.mark.parametrize("claim", [{"seed": 1}, {"seed": 0, "labels": "none"}])
def test_one_prediction_is_taken_once(claim, data, tmp_path):
    submission = outside.fill_and_read(tmp_path / "a.h5", data, outside.still)
    score_submission(submission, data, tmp_path / "runs")
    again = outside.fill_and_read(tmp_path / "b.h5", data, outside.still, **claim)
    with pytest.raises(UserError, match=r"predictions are those of .*, seed 0, to the last bit"):
        score_submission(again, data, tmp_path / "runs")
    # What is not scored does not make it another.
    other = again.predictions.copy()
    other[~np.broadcast_to(again.template.score_mask[:, None], other.shape[:3])] = 1.0
    with pytest.raises(UserError, match="to the last bit"):
        score_submission(replace(again, predictions=other), data, tmp_path / "runs")


def test_an_oracle_is_shown_as_one(data, tmp_path):
    assert not send(data, tmp_path, 0).oracle
    assert send(data, tmp_path, 1, oracle=True).oracle
    lines = entries(read_records(tmp_path / "runs"))
    assert [line.oracle for line in lines if line.part == "test_id"].count(True) == 1


def test_entries_that_equal_the_truth_are_counted(data, tmp_path):
    issued = issue(data)
    known = outside.truth(issued, data)
    guessed = np.where(np.arange(len(known))[:, None, None, None] < 5, known, near(0)(issued))
    submission = read_submission(outside.filled(tmp_path / "a.h5", guessed, issued))
    assert count_true(submission, issued, data) == 5
    failed = np.arange(len(known)) == 2
    assert count_true(replace(submission, failed=failed), issued, data) == 4
    off = replace(submission, predictions=guessed + 0.002)
    assert count_true(off, issued, data) == 0


def test_seeds_of_one_model_are_one_line(data, tmp_path):
    for seed in (0, 1):
        path = tmp_path / f"{seed}.h5"
        submission = outside.fill_and_read(path, data, near(seed), seed=seed)
        score_submission(submission, data, tmp_path / "runs")
    lines = entries(read_records(tmp_path / "runs"))
    assert {line.seeds for line in lines} == {2} and len(lines) == 3


def test_sent_again_it_is_the_same_record_and_another_is_refused(data, tmp_path):
    submission = outside.fill_and_read(tmp_path / "a.h5", data, outside.still)
    first = score_submission(submission, data, tmp_path / "runs")
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("*")}
    assert score_submission(submission, data, tmp_path / "runs") == first
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("*")} == stamps
    other = outside.fill_and_read(tmp_path / "b.h5", data, outside.flying)
    with pytest.raises(UserError, match="holds another submission of my-net, seed 0"):
        score_submission(other, data, tmp_path / "runs")


def test_the_kept_submission_can_be_scored_again(data, tmp_path):
    """As after a kill before the record was written: it is its own input then."""
    submission = outside.fill_and_read(tmp_path / "a.h5", data, outside.still)
    first = score_submission(submission, data, tmp_path / "runs")
    (kept,) = (tmp_path / "runs").rglob(KEPT)
    content = kept.read_bytes()
    (kept.parents[1] / "record.json").unlink()
    again = score_submission(read_submission(kept), data, tmp_path / "runs")
    assert kept.read_bytes() == content == (tmp_path / "a.h5").read_bytes()
    assert again.rows == first.rows
    assert not [p for p in kept.parent.iterdir() if p.name.endswith(".tmp")]


def test_a_disk_that_is_full_leaves_no_half_of_a_submission(data, tmp_path, monkeypatch):
    submission = outside.fill_and_read(tmp_path / "a.h5", data, outside.still)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tg80.files.os.fsync", full)
    with pytest.raises(Tg80Error, match=rf"{KEPT}: cannot be written: No space left on device"):
        score_submission(submission, data, tmp_path / "runs")
    assert not [p for p in (tmp_path / "runs").rglob("*") if p.is_file()]


def test_parts_may_be_sent_alone(data, tmp_path):
    issued = issue(data, ["test_id"])
    path = outside.filled(tmp_path / "sent.h5", outside.still(issued), issued)
    record = score_submission(read_submission(path), data, tmp_path)
    assert record.parts == ["test_id"]
    everything = issue(data).template
    # The same entries under the same names, whichever parts are asked for.
    assert set(issued.template.entry) < set(everything.entry)


def test_a_template_of_other_data_or_fold_is_refused(data, tmp_path):
    submission = outside.fill_and_read(tmp_path / "sent.h5", data, outside.still)
    longer = [toys.toy_trajectory(name, seed=1) for name in toys.NAMES]
    for other, match in (
        (replace(data, manifest_sha256="other"), "manifest_sha256 is not that of toy-v1 here"),
        (replace(data, split_sha256="other"), "another split was used; name it by --split"),
        (toys.toy_data(task=toys.TASK.model_copy(update={"version": 2})), "the task has changed"),
        (toys.toy_data(longer), "entries are not those of this fold and parts, such as"),
    ):
        with pytest.raises(UserError, match=match):
            score_submission(submission, other, tmp_path)


def test_altered_starts_under_a_new_id_are_refused(data, tmp_path):
    issued = issue(data)
    for name in ("positions", "velocities", "lags_fs", "score_mask", "part"):
        values = getattr(issued.template, name).copy()
        if name == "part":
            values[values == "test_id"] = "test_ood"
        elif name == "score_mask":
            values[0] = True
        else:
            values[0] += 0.01
        altered = replace(issued, template=replace(issued.template, **{name: values}))
        write_template(tmp_path / "a.h5", altered.template)
        path = outside.filled(tmp_path / "a.h5", outside.still(altered), altered)
        with pytest.raises(UserError, match=r"is not what was handed out|not those of this fold"):
            score_submission(read_submission(path), data, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "predict"), [("persistence", outside.still), ("ballistic", outside.flying)]
)
def test_the_same_on_the_data_that_ship_along(name, predict, mini, tmp_path):
    submission = outside.fill_and_read(tmp_path / "sent.h5", mini, predict)
    sent, own = score_submission(submission, mini, tmp_path), built_in(name, mini, tmp_path)
    assert len(rows(sent)) > 1000 and rows(sent).keys() == rows(own).keys()
    for key, (value, *_) in rows(sent).items():
        rounding = 2e-5 if key[3].startswith("skill") else 1e-9
        assert value == pytest.approx(rows(own)[key][0], rel=2e-5, abs=rounding), key


@pytest.mark.slow
def test_the_truth_scores_zero_on_the_data_that_ship_along(mini, tmp_path):
    submission = outside.fill_and_read(
        tmp_path / "sent.h5", mini, lambda issued: outside.truth(issued, mini)
    )
    record = score_submission(submission, mini, tmp_path)
    assert max(row.value for row in record.rows if row.unit == "A^2") < 1e-12
