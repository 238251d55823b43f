"""Every malformed submission is refused, by a message of its own that says what to do."""

import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from benchmarks.cli import main
from benchmarks.submissions.layout import write_template
from benchmarks.submissions.parsing import read_submission
from benchmarks.submissions.template import issue
from tests.benchmarks.submissions import outside
from tests.support.toys import toy_data
from tg80.errors import UserError


@pytest.fixture(scope="module")
def issued():
    return issue(toy_data())


@pytest.fixture(scope="module")
def good(issued, tmp_path_factory):
    """A filled template that is in order: molecules drift a little."""
    path = tmp_path_factory.mktemp("good") / "good.h5"
    drift = 0.01 * np.arange(len(issued.template.lags_fs))[:, None, None]
    return outside.filled(path, outside.still(issued) + drift, issued)


@pytest.fixture
def path(good, tmp_path):
    return shutil.copy(good, tmp_path / "sent.h5")


def refused(path, **options):
    with pytest.raises(UserError) as caught:
        read_submission(path, **options)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and message.isprintable()
    return message.removeprefix(f"{path}: ")


def edited(change):
    """Break an open file."""

    def breaks(path):
        with h5py.File(path, "r+") as file:
            change(file)

    return breaks


def replaced(name, change):
    """Put something else in place of a dataset, its attributes kept."""

    def breaks(file):
        values, attributes = file[name][()], dict(file[name].attrs)
        del file[name]
        file[name] = change(values)
        file[name].attrs.update(attributes)

    return edited(breaks)


def predicted(change):
    """Other predictions of the right shape and type."""

    def breaks(file):
        file["predictions"][...] = change(file["predictions"][...], file)

    return edited(breaks)


def one_number(value):
    def change(x, file):
        x[4, 1, 2, 0] = value
        return x

    return predicted(change)


def told(**attributes):
    return edited(lambda file: file["submission"].attrs.update(attributes))


def header(**attributes):
    return edited(lambda file: file.attrs.update(attributes))


def _linked(link):
    def breaks(file):
        del file["predictions"]
        file["predictions"] = link

    return edited(breaks)


def _external_storage(path):
    outside_file = path.parent / "raw"
    outside_file.write_bytes(b"\0" * 10**6)
    with h5py.File(path, "r+") as file:
        shape = file["predictions"].shape
        del file["predictions"]
        file.create_dataset("predictions", shape, "f8", external=[(str(outside_file), 0, 10**6)])


def _virtual(path):
    with h5py.File(path, "r+") as file:
        shape = file["predictions"].shape
        del file["predictions"]
        layout = h5py.VirtualLayout(shape, "f8")
        layout[...] = h5py.VirtualSource(str(path.parent / "other.h5"), "x", shape)
        file.create_virtual_dataset("predictions", layout)


def _giant(file):
    del file["positions"]
    dataset = file.create_dataset("positions", (10**9, 10**5, 3), "f8", chunks=(1, 10, 3))
    dataset.attrs["unit"] = "Angstrom"


def _truncated(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _dead_chunk(path):
    with h5py.File(path) as file:
        where = file["predictions"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[where : where + 16] = b"\xff" * 16
    path.write_bytes(bytes(content))


def _fewer_rows(file):
    for name in ("entry", "part", "molecule", "positions", "velocities", "atomic_numbers",
                 "score_mask", "predictions", "failed"):  # fmt: skip
        values, attributes = file[name][1:], dict(file[name].attrs)
        del file[name]
        file[name] = values
        file[name].attrs.update(attributes)


def _more_rows(file):
    for name in ("entry", "part", "molecule", "positions", "velocities", "atomic_numbers",
                 "score_mask", "predictions", "failed"):  # fmt: skip
        values, attributes = file[name][()], dict(file[name].attrs)
        extra = np.array([b"f" * 16]) if name == "entry" else values[:1]
        del file[name]
        file[name] = np.concatenate([values, extra])
        file[name].attrs.update(attributes)


def _twice(values):
    values[1] = values[0]
    return values


def _turned(x, file):
    return x @ Rotation.random(rng=np.random.default_rng(1)).as_matrix()


BROKEN = {
    "zero size": (lambda p: p.write_bytes(b""), r"empty, 0 bytes; the copy failed, copy it again"),
    "not HDF5": (lambda p: p.write_text("x,y,z\n1,2,3\n"), r"not an HDF5 file; get it or write"),
    "cut short": (_truncated, r"cut short: the end of the file is missing; get it or"),
    "overwritten inside": (_dead_chunk, r"damaged, HDF5 says: .*; get it or write it anew"),
    "another HDF5 file": (
        edited(lambda f: f.attrs.pop("format")),
        r"no template of `atom-bench template`; fill in one of these",
    ),
    "other version": (header(format="atom-bench-template/9"), r"format is 'atom-bench-template/9'"),
    "header attribute removed": (
        edited(lambda f: f.attrs.pop("fold")), r"attribute 'fold' is missing or altered"),
    "other template's id": (
        header(id="c43c49b27d701095c93b8e446b1ea60e"), r"id 'c43c.*' is not that of this content"),
    "other fold": (header(fold=3), r"id '.*' is not that of this content .* fold, entries"),
    "states altered": (replaced("velocities", lambda v: 2 * v), r"lags were altered; begin with"),
    "entry missing": (edited(_fewer_rows), r"55 entries, the template has 56; begin"),
    "entry too many": (edited(_more_rows), r"57 entries, the template has 56; begin"),
    "entry twice": (replaced("entry", _twice), r"id '.*' is not that of this content"),
    "entries are objects": (
        replaced("entry", lambda v: v.astype(h5py.string_dtype())), r"'entry' holds values of"),
    "names that are none": (
        replaced("molecule", lambda v: np.full_like(v, b"\x1b[31m")),
        r"'molecule' holds texts that are not names",
    ),
    "states not finite": (
        replaced("positions", lambda v: v * np.nan), r"'positions' holds numbers that are not fin"),
    "unit of states": (
        edited(lambda f: f["lags_fs"].attrs.update(unit="ps")),
        r"unit of 'lags_fs' is 'ps', not 'fs'",
    ),
    "giant shape": (
        edited(_giant), r"'positions' declares 2400000000000000 bytes, .* no file of ours is like"),
    "dataset missing": (
        edited(lambda f: f.__delitem__("score_mask")), r"dataset 'score_mask' is missing"),
    "predictions missing": (
        edited(lambda f: f.__delitem__("predictions")), r"dataset 'predictions' is missing"),
    "unknown dataset": (
        edited(lambda f: f.create_dataset("targets", data=[1.0])), r"holds 'targets', which no te"),
    "group in place of dataset": (
        edited(lambda f: (f.__delitem__("failed"), f.create_group("failed"))),
        r"'failed' is not a dataset",
    ),
    "objects in the group": (
        edited(lambda f: f["submission"].create_group("more")), r"'submission' holds objects"),
    "external link": (
        _linked(h5py.ExternalLink("/etc/hostname", "/x")),
        r"'predictions' is a link to another file \('/etc/hostname'\), which is not followed",
    ),
    "soft link": (_linked(h5py.SoftLink("/positions")), r"'predictions' is a soft link, which is"),
    "external storage": (_external_storage, r"the values of 'predictions' lie in another file"),
    "virtual dataset": (_virtual, r"'predictions' is a virtual dataset, a view of other files"),
    "float16": (replaced("predictions", lambda x: x.astype("f2")), r"holds float16; write float"),
    "integers": (replaced("predictions", lambda x: x.astype("i4")), r"holds int32; write float"),
    "complex": (
        replaced("predictions", lambda x: x.astype("c16")), r"holds values of 16 .*HDF5 class 6\)"),
    "texts": (replaced("predictions", lambda x: x.astype("S8")), r"\|S8; write float32"),
    "objects": (
        edited(lambda f: (f.__delitem__("predictions"), f.create_dataset(
            "predictions", f["entry"].shape, h5py.vlen_dtype("f8")))),
        r"'predictions' holds values .*HDF5 class 9\); only plain",
    ),
    "axes swapped": (
        replaced("predictions", lambda x: x.swapaxes(1, 2)),
        r"\(56, 8, 4, 3\), not .*; write \(entries; lags; atoms; x, y, z\) in the order of"),
    "one axis less": (replaced("predictions", lambda x: x[:, 0]), r"has shape \(56, 8, 3\), not"),
    "predictions of too few": (replaced("predictions", lambda x: x[1:]), r"has shape \(55, "),
    "nothing written": (replaced("predictions", lambda x: x[:0]), r"has shape \(0, "),
    "unit missing": (
        edited(lambda f: f["predictions"].attrs.pop("unit")), r"unit of 'predictions' is 'None'"),
    "unit nm": (
        edited(lambda f: f["predictions"].attrs.update(unit="nm")),
        r"unit of 'predictions' is 'nm'; convert the positions to angstrom and set it to 'Ang",
    ),
    "unit is an array": (
        edited(lambda f: f["predictions"].attrs.update(unit=[1, 2])),
        r"attribute 'unit' of predictions is neither a text nor a number",
    ),
    "failed of another shape": (
        replaced("failed", lambda v: v[:-1]), r"'failed' has shape \(55,\) of bool; write true or"),
    "failed of other numbers": (
        replaced("failed", lambda v: v.astype("i4") + 2), r"'failed' holds numbers besides 0 and"),
    "not filled in": (
        predicted(lambda x, f: x * np.nan), r"56 of 56 entries are not filled in, the first is"),
    "one entry not filled in": (
        edited(lambda f: f["predictions"].__setitem__(7, np.nan)),
        r"1 of 56 entries are not filled in",
    ),
    "NaN": (one_number(np.nan), r"1 coordinates are NaN, the first in entry \w+ at 30 fs, atom 2"),
    "infinite": (one_number(np.inf), r"1 coordinates are infinite, the first in entry \w+ at 30"),
    "blown up": (one_number(1e9), r"1 coordinates are beyond 1e\+06 A, .* or mark the entry in 'f"),
    "all failed": (
        edited(lambda f: f["failed"].__setitem__(slice(None), True)),
        r"every entry is marked as failed; there is nothing to score",
    ),
    "in nm": (predicted(lambda x, f: x / 10), r"times 0\.1: positions in another unit\? Give ang"),
    "in bohr": (predicted(lambda x, f: x * 1.8897), r"times 1\.89: positions in another unit\?"),
    "in pm": (predicted(lambda x, f: x * 100), r"times 100: positions in another unit\?"),
    "displacements": (
        predicted(lambda x, f: f["lags_fs"][:][:, None, None] * f["velocities"][:][:, None]),
        r"displacements\? Give positions, start added",
    ),
    "other origin": (predicted(lambda x, f: x + 5.0), r"A from their start as a whole: moved to"),
    "turned": (predicted(_turned), r"have the shape of their start but are rotated"),
    "mirrored": (predicted(lambda x, f: x * [1, 1, -1]), r"shape of their start but are mirrored"),
    "entries in another order": (
        replaced("entry", lambda v: v[::-1]),
        r"id '.*' is not that of this content"),
    "lags in another order": (
        replaced("lags_fs", lambda v: v[::-1]), r"id '.*' is not that of this content"),
    "no model name": (told(model=""), r"attribute 'model' of submission is not filled in; give at"),
    "path as a name": (told(model="../../etc"), r"'model' of submission is '../../etc'; give "),
    "name with markup": (told(model="<b>net</b>"), r"'model' of submission is '<b>net</b>'"),
    "no licence": (told(licence=""), r"attribute 'licence' of submission is not filled in"),
    "script as paper": (
        told(paper="javascript:alert(1)"), r"'paper' of submission is 'javascript.*begins with"),
    "unknown labels": (told(labels="hessians"), r"'labels' of submission is 'hessians'; give what"),
    "labels of commas": (told(labels=","), r"'labels' of submission is ','; give what was learnt"),
    "labels of blanks": (told(labels=" "), r"'labels' of submission is ' '; give what"),
    "labels that end in a comma": (told(labels="none,"), r"'labels' of submission is 'none,'; gi"),
    "parameters beyond belief": (
        told(n_parameters=10**14), r"'n_parameters' of submission is '100000000000000'; give a c"),
    "faster than any machine": (
        told(prediction_seconds=1e-300), r"'prediction_seconds' of submission is '1e-300'; give s"),
    "half an oracle": (told(oracle=2), r"attribute 'oracle' of submission is '2'; give 1 where"),
    "task with control characters": (
        header(task="x\n\x1b[31m"), r"attribute 'task' is 'x.n.x1b\[31m', not a name; begin with"),
    "track with control characters": (
        header(track="x\ny"), r"attribute 'track' is 'x.ny', not a name; begin with"),
    "attribute named by control characters": (
        told(**{"\x1b[31m": 1}), r"submission has no attribute '.x1b\[31m'; remove it"),
    "cost of training untold": (
        told(samples_seen=0), r"my-net learnt from positions, but not at what cost; give samples_"),
    "negative seed": (told(seed=-1), r"attribute 'seed' of submission is '-1'; give a whole n"),
    "time not finite": (
        told(prediction_seconds=np.inf), r"'prediction_seconds' of submission is 'inf'"),
    "hardware with control characters": (
        told(hardware="\x1b[2Jgpu"), r"'hardware' of submission is '.x1b\[2Jgpu'"),
    "unknown attribute": (told(score=0.0), r"submission has no attribute 'score'; remove it"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_it_is_refused_by_a_message_of_its_own(case, path):
    from re import search

    breaks, pattern = BROKEN[case]
    breaks(path)
    message = refused(path)
    assert search(pattern, message), message
    others = [name for name, (_, p) in BROKEN.items() if search(p, message) and name != case]
    # A wrong id, whatever was altered under it, is one message.
    same_id = {
        "other template's id", "other fold", "states altered", "entry twice",
        "entries in another order", "lags in another order",
    }  # fmt: skip
    assert set(others) <= (same_id if case in same_id else set()), others


def test_what_is_in_order_is_taken(path, issued):
    submission = read_submission(path)
    assert submission.template.id == issued.template.id
    assert submission.card.model == "my-net" and not submission.failed.any()


def test_a_file_that_may_only_be_read_is_read(path):
    path.chmod(0o400)
    assert read_submission(path).card.licence == "MIT"


def test_the_command_says_it_in_one_line_with_exit_code_2(path, capsys):
    edited(lambda f: f["predictions"].attrs.update(unit="nm"))(path)
    for command in (["score"], ["submit", "--out", str(path.parent / "a.zip")]):
        assert main([*command, str(path)]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and "unit of 'predictions' is 'nm'" in err
    assert main(["score", str(path.parent)]) == 2
    assert "a folder, not a file" in capsys.readouterr().err
    assert main(["score", str(path.parent / "no.h5")]) == 2
    assert "no.h5: no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "collapsed",
    [
        lambda x, f: x * 0 + x.mean(2, keepdims=True),  # every atom at one place
        lambda x, f: x + np.random.default_rng(0).normal(size=x.shape),  # a bad model
        lambda x, f: x + np.cumsum(np.random.default_rng(0).normal(size=x.shape) * 20, axis=1),
        lambda x, f: x * 1.2,
    ],
)
def test_a_bad_model_is_no_malformed_submission(path, collapsed):
    predicted(collapsed)(path)
    read_submission(path)


def test_what_looks_wrong_can_be_meant(path):
    predicted(lambda x, f: x / 10)(path)
    assert "--as-is" in refused(path)
    read_submission(path, as_is=True)
    one_number(np.nan)(path)
    assert "NaN" in refused(path, as_is=True)


def test_a_broken_model_of_few_entries_is_not_taken_for_a_unit(path):
    def few(x, file):
        x[:5] /= 10
        return x

    predicted(few)(path)
    read_submission(path)


def test_a_library_that_a_file_asks_for_is_not_loaded(path):
    with h5py.File(path, "r+") as file:
        values = file["predictions"][...]
        del file["predictions"]
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk(values.shape)
        plist.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, (1,))
        space = h5py.h5s.create_simple(values.shape)
        h5py.h5d.create(file.id, b"predictions", h5py.h5t.IEEE_F64LE, space, plist)
    assert "is packed by filter 32001, neither gzip nor none" in refused(path)


def test_links_are_told_before_anything_behind_them_is_opened(path, tmp_path):
    # Opened, the pipe would wait for ever.
    import os

    os.mkfifo(tmp_path / "pipe")
    _linked(h5py.ExternalLink(str(tmp_path / "pipe"), "/x"))(path)
    assert "is a link to another file" in refused(path)


def test_a_declared_size_beyond_the_file_is_refused(issued, tmp_path):
    many = replace(issued.template, header=replace(issued.template.header, n_entries=2**40))
    path = tmp_path / "sent.h5"
    write_template(path, many)
    assert "56 entries, the template has 1099511627776" in refused(path)
