"""Files from strangers do no harm; archives are packed and read safely; the example runs."""

import hashlib
import json
import re
import signal
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from benchmarks.cli import main
from benchmarks.submissions import packing, safe_hdf5
from benchmarks.submissions.packing import opened, pack, unpacked
from benchmarks.submissions.parsing import read_apart, read_submission
from benchmarks.submissions.scoring import score_submission
from benchmarks.submissions.template import issue
from benchmarks.tasks.data import load_benchmark
from benchmarks.tasks.tasks import get_task
from tests.benchmarks.submissions import outside
from tests.support.factories import make_dataset
from tests.support.toys import toy_data
from tg80.errors import Tg80Error, UserError

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    issued = issue(toy_data())
    path = tmp_path_factory.mktemp("good") / "good.h5"
    return outside.filled(path, outside.still(issued), issued)


@pytest.fixture
def path(good, tmp_path):
    copy = tmp_path / "sent.h5"
    copy.write_bytes(good.read_bytes())
    return copy


@pytest.fixture(scope="module")
def archive(good, tmp_path_factory):
    path = tmp_path_factory.mktemp("archive") / "my-net.zip"
    pack(read_submission(good), path)
    return path


def altered(content, seed):
    """Some bytes changed in the header and the tables of contents, where the harm is."""
    rng = np.random.default_rng(seed)
    changed = bytearray(content)
    for place in rng.integers(0, min(len(content), 8192), size=4):
        changed[place] ^= int(rng.integers(1, 256))
    return bytes(changed)


@pytest.mark.parametrize("n_files", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_altered_bytes_never_end_in_a_crash_or_a_traceback(good, tmp_path, n_files):
    path, n_refused = tmp_path / "sent.h5", 0
    for seed in range(n_files):
        path.write_bytes(altered(good.read_bytes(), seed))
        try:
            read_apart(path, path)
        except UserError as error:
            n_refused += 1
            assert str(path) in str(error) and "\n" not in str(error)
    assert n_refused > n_files // 3


def rewritten(archive, path, change):
    """An archive with other contents: `change` gets and may alter {name: bytes}."""
    with zipfile.ZipFile(archive) as file:
        content = {name: file.read(name) for name in file.namelist()}
    change(content)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, text in content.items():
            file.writestr(name, text)
    return path


def test_an_archive_holds_file_card_and_checksums_and_scores_like_the_file(good, archive, tmp_path):
    with zipfile.ZipFile(archive) as file:
        assert file.namelist() == ["submission.h5", "card.json", "SHA256SUMS"]
        card = json.loads(file.read("card.json"))
        file.extractall(tmp_path)
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path, check=True)
    assert card["model"] == "my-net" and card["fold"] == 2 and card["n_entries"] == 56
    again = tmp_path / "again.zip"
    pack(read_submission(good), again)
    assert again.read_bytes() == archive.read_bytes()
    with opened(archive) as submission:
        assert submission.sha256 == read_submission(good).sha256
        record = score_submission(submission, toy_data(), tmp_path / "runs")
    assert record.model == "submitted/my-net"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update({"../../evil": b"x"}), r"holds \['../../evil'\]; pack with"),
        (lambda c: c.update({"/etc/evil": b"x"}), r"holds \['/etc/evil'\]; pack with"),
        (lambda c: c.pop("SHA256SUMS"), "archive of submission.h5, card.json, SHA256SUMS is want"),
        (lambda c: c.update({"card.json": b"{}"}), "not what SHA256SUMS says"),
        (lambda c: c.update({"submission.h5": b""}), "not what SHA256SUMS says"),
        (lambda c: c.update({"card.json": b"0" * 2**21}), "unpacks to more than 1048576 bytes"),
    ],
)
def test_a_strange_archive_is_refused(change, message, archive, tmp_path):
    (tmp_path / "in").mkdir()
    path = rewritten(archive, tmp_path / "in" / "a.zip", change)
    with pytest.raises(UserError, match=message), unpacked(path):
        pass
    assert [p.name for p in tmp_path.rglob("*")] == ["in", "a.zip"]


def resummed(content):
    """Checksums that fit what was changed, as who changes it on purpose would make."""
    names = ("submission.h5", "card.json")
    sums = [f"{hashlib.sha256(content[name]).hexdigest()}  {name}\n" for name in names]
    content["SHA256SUMS"] = "".join(sums).encode()


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"model": "other-net"}, r"'model' is 'other-net' in card.json and 'my-net' in submission"),
        ({"licence": "\x1b[31m"}, r"'licence' is '.x1b\[31m' in card.json and 'MIT' in"),
        ({"n_failed": 3}, r"'n_failed' is '3' in card.json and '0' in"),
        ({"score": 0}, r"'score' is '0' in card.json and 'None' in"),
        (None, "card.json is not a JSON object; pack with `atom-bench submit`"),
    ],
)
def test_a_card_that_tells_of_another_submission_is_refused(card, message, archive, tmp_path):
    def change(content):
        told = json.loads(content["card.json"])
        content["card.json"] = json.dumps(told | card).encode() if card else b"[1"
        resummed(content)

    path = rewritten(archive, tmp_path / "a.zip", change)
    with pytest.raises(UserError, match=message) as caught, opened(path):
        pass
    assert str(caught.value).isprintable() and str(path) in str(caught.value)


def test_a_card_from_before_there_were_oracles_is_taken(archive, tmp_path):
    def change(content):
        told = json.loads(content["card.json"])
        del told["oracle"]
        content["card.json"] = json.dumps(told).encode()
        resummed(content)

    with opened(rewritten(archive, tmp_path / "a.zip", change)) as submission:
        assert submission.card.oracle == 0


def test_no_place_to_unpack_is_told_by_its_name(archive, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with monkeypatch.context() as patched:
        patched.setattr("tg80.files.os.fsync", full)
        match = rf"{tmp_path}/.*: cannot be written: No space left on device"
        with pytest.raises(Tg80Error, match=match), unpacked(archive):
            pass
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(Tg80Error, match="no folder can be made to unpack"), unpacked(archive):
        pass


def test_told_to_end_it_leaves_nothing_behind(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def stop(inside, _shown):
        assert inside.is_relative_to(tmp_path) and inside.exists()
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(packing, "read_apart", stop)
    assert main(["score", str(archive), "--out", str(tmp_path / "runs")]) == 143
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("out", ["y" * 300 + ".zip", "/proc/x.zip", "a\nb.zip"])
def test_a_place_that_cannot_be_written_is_told_before_any_work(out, path, tmp_path, capsys):
    if not out.startswith("/"):
        out = str(tmp_path / out)
    commands = (
        ["submit", "no.h5", "--out", out],
        ["template", "--fold", "9", "--out", out],
        ["score", "no.h5", "--out", out],
    )
    for command in commands:
        assert main(command) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: --out") and err.count("\n") == 1
        assert err.strip().isprintable()


def test_a_bomb_is_stopped_whatever_size_it_declares(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "MOST_BYTES", 10_000)
    path = rewritten(
        archive, tmp_path / "a.zip", lambda c: c.update({"submission.h5": bytes(10**6)})
    )
    match = r"submission.h5 unpacks to more than 10000 bytes"
    with pytest.raises(UserError, match=match), unpacked(path):
        pass
    monkeypatch.setattr(safe_hdf5, "MOST_BYTES", 100)
    with pytest.raises(UserError, match="more than 100; no submission is as large"), unpacked(path):
        pass


def test_a_damaged_archive_is_refused(archive, tmp_path):
    content = bytearray(archive.read_bytes())
    content[200:260] = bytes(60)
    path = tmp_path / "a.zip"
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match="a damaged archive"), unpacked(path):
        pass
    path.write_bytes(bytes(content[:-30]))
    with pytest.raises(UserError, match="not an HDF5 file"), opened(path):
        pass


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """True-format shards, long enough for mini-xtb-v1: 5 ps every 10 fs."""
    folder = tmp_path_factory.mktemp("shards")
    names = ("ethylene", "acetonitrile", "chloroform", "formaldehyde", "methanol", "chlorobenzene")
    make_dataset(folder, names, n_frames=501, store_every_fs=10.0, time_step_fs=1.0)
    return folder


def test_the_example_goes_from_template_to_leaderboard(shards, tmp_path, capsys):
    file, runs, archive = tmp_path / "t.h5", tmp_path / "runs", tmp_path / "sent.zip"
    made = ["template", "--fold", "2", "--data", str(shards), "--out", str(file)]
    assert main([*made, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (
        facts["fold"] == 2
        and facts["parts"] == ["test_id", "test_time"]
        and len(facts["lags_fs"]) == 12
    )
    assert main(made) == 2
    assert "exists; choose another name, or --force" in capsys.readouterr().err
    assert main(["submit", str(file), "--out", str(archive)]) == 2
    assert "entries are not filled in" in capsys.readouterr().err or not archive.exists()
    subprocess.run([sys.executable, str(ROOT / "examples/join.py"), str(file)], check=True)
    packed = ["submit", str(file), "--data", str(shards), "--out", str(archive), "--json"]
    assert main(packed) == 0
    assert json.loads(capsys.readouterr().out)["compared_with_data"] is True
    scored = ["score", str(archive), "--data", str(shards), "--out", str(runs)]
    assert main([*scored, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["model"] == "submitted/slowed-flight"
    skills = [row[4] for row in record["rows"] if row[1:4] == ["pooled", 10.0, "mse"]]
    assert skills and all(np.isfinite(skills))
    assert main(["leaderboard", str(runs), "--format", "markdown"]) == 0
    assert "submitted/slowed-flight" in capsys.readouterr().out
    # Without --data it is the shipped set that is compared, and these are other shards.
    assert main(["submit", str(file), "--out", str(tmp_path / "b.zip")]) == 2
    assert "made from other data; name their folder by --data" in capsys.readouterr().err


def test_targets_that_were_looked_up_are_asked_about(shards, tmp_path, capsys):
    data = load_benchmark(get_task("mini-xtb-v1"), 2, shards)
    issued = issue(data)
    path = outside.filled(tmp_path / "a.h5", outside.truth(issued, data), issued)
    scored = ["score", str(path), "--data", str(shards), "--out", str(tmp_path / "runs")]
    for extra in ([], ["--json"]):
        assert main([*scored, "--as-is", *extra]) == 0
        out, err = capsys.readouterr()
        asked = f"note: {len(issued.template)} entries equal the truth to 0.001 A: were targets"
        assert asked in err
    assert json.loads(out)["equal_to_truth"] == len(issued.template)
    assert main(["leaderboard", str(tmp_path / "runs"), "--costs"]) == 0
    table = capsys.readouterr().out
    assert f"{len(issued.template)} entries equal the truth" in table
    assert "as their authors say" in table
    outside.filled(path, outside.still(issued), issued, model="still")
    assert main([*scored, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["equal_to_truth"] == 0 and "note" not in err


def test_the_docs_name_every_dataset_and_attribute(good):
    text = (ROOT / "docs/benchmark/joining.md").read_text()
    with h5py.File(good) as file:
        names = {*file, *file["submission"].attrs, *file.attrs}
    assert not {name for name in names if not re.search(f"`{name}`", text)}
