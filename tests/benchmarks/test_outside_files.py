"""Files from strangers do no harm; archives are packed and read safely; the example runs."""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from benchmarks.cli import main
from benchmarks.outside import packing, safe_hdf5
from benchmarks.outside.packing import pack, unpacked
from benchmarks.outside.scoring import score_submission
from benchmarks.outside.submission import opened, read_apart, read_submission
from benchmarks.outside.template import issue
from tests.benchmarks import outside
from tests.benchmarks.toys import toy_data
from tests.factories import make_dataset
from tg80.errors import UserError

ROOT = Path(__file__).parents[2]


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


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import os; os.kill(os.getpid(), 11)", "reading it ends in a crash"),
        ("import os; os.kill(os.getpid(), 24)", "reading it does not end"),
    ],
)
def test_a_reader_that_dies_is_told_in_a_line(program, message, path, tmp_path, monkeypatch):
    reader = tmp_path / "reader"
    reader.write_text(f"#!{sys.executable}\n{program}\n")
    reader.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(reader))
    with pytest.raises(UserError, match=message):
        read_apart(path, path)


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


def test_the_example_in_the_docs_is_the_one_that_runs():
    script = (ROOT / "examples/join.py").read_text()
    assert script in (ROOT / "docs/joining.md").read_text()
    assert len(script.splitlines()) <= 40


def test_the_docs_name_every_dataset_and_attribute(good):
    text = (ROOT / "docs/joining.md").read_text()
    with h5py.File(good) as file:
        names = {*file, *file["submission"].attrs, *file.attrs}
    assert not {name for name in names if not re.search(f"`{name}`", text)}
