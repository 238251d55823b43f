"""Hostile and damaged HDF5: refused by every reader in one line; none hangs, crashes or leaks."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

import tg80
from pipelines.cli import run as tg80_command
from tests.support import factories
from tests.tg80.shards.validation import refresh_checksum
from tests.tg80.untrusted.hostile import HOSTILE
from tg80.errors import CorruptFile, Tg80Error, UserError
from tg80.files import checksum_path
from tg80.shards.shard import Shard
from tg80.shards.twins import read_twins
from tg80.shards.validate import validate
from tg80.untrusted import apart
from tg80.untrusted.apart import run_apart
from tg80.untrusted.hdf5 import open_hdf5


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return factories.make_shard(tmp_path_factory.mktemp("good"), "ethanol", n_frames=20)


@pytest.fixture
def copy(good, tmp_path):
    path = tmp_path / "data" / good.name
    path.parent.mkdir()
    shutil.copy(good, path)
    refresh_checksum(path)
    return path


def read_all(path):
    """All that a reader can ask of a shard."""
    with Shard(path) as shard:
        _ = shard.metadata
        return shard.read("positions"), shard.static("atomic_numbers")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_shard_is_one_error_of_validation_and_is_never_read(kind, copy):
    spoil, said = HOSTILE[kind]
    spoil(copy)
    refresh_checksum(copy)
    (problem,) = [problem for problem in validate(copy.parent) if problem.level == "error"]
    assert problem.check == "readable" and re.search(said, problem.message), problem
    assert problem.message.isprintable()
    with pytest.raises(CorruptFile, match=said) as caught:
        read_all(copy)
    assert str(caught.value).startswith(f"{copy}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["external link", "bomb in a chunk"])
def test_no_command_takes_a_hostile_shard(kind, copy, tmp_path, capsys):
    HOSTILE[kind][0](copy)
    refresh_checksum(copy)
    folder, out = str(copy.parent), tmp_path / "out"
    commands = [
        ["validate", folder],
        ["publish", folder, "--out", str(out)],
        ["export", folder, "--to", "extxyz", "--out", str(out)],
    ]
    if kind == "external link":  # not seen where no positions are read
        commands += [["info", folder], ["twin", "--data", folder, "--out", str(out)]]
    for command in commands:
        assert tg80_command(command) in (1, 2), command
        text = "".join(capsys.readouterr())
        assert re.search(HOSTILE[kind][1], text) and "bug" not in text, text
    assert not out.exists() or not [path for path in out.rglob("*") if path.is_file()]
    with pytest.raises(CorruptFile):
        tg80.load(folder)["ethanol"].read("positions")


def test_a_hostile_file_of_twins_is_refused(tmp_path, capsys):
    path = tmp_path / "x-r0-twins.h5"
    with h5py.File(path, "w") as file:
        file["twins/position"] = h5py.ExternalLink("/etc/passwd", "/")
    refresh_checksum(path)
    with pytest.raises(CorruptFile, match="is a link to another file"):
        read_twins(path)
    assert tg80_command(["validate", str(path)]) == 1
    assert "is a link to another file" in capsys.readouterr().out


def test_no_library_is_loaded_that_a_file_asks_for(copy, tmp_path):
    """A plugin that leaves a mark when it is loaded."""
    mark, source = tmp_path / "mark", tmp_path / "plugin.c"
    source.write_text(
        "#include <stdio.h>\n__attribute__((constructor)) static void run(void)"
        f'{{ fclose(fopen("{mark}", "w")); }}\n'
    )
    (tmp_path / "plugins").mkdir()
    plugin = str(tmp_path / "plugins" / "libh5x.so")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", plugin, str(source)], check=True)
    HOSTILE["library to load"][0](copy)
    program = "import sys, tg80\ntg80.load(sys.argv[1])"
    environment = os.environ | {"HDF5_PLUGIN_PATH": str(tmp_path / "plugins")}
    result = subprocess.run(
        [sys.executable, "-c", program, str(copy)], env=environment, capture_output=True, text=True
    )
    assert "is packed by filter 32015" in result.stderr and not mark.exists()


def test_a_file_that_hangs_libhdf5_is_one_line_and_the_rest_is_looked_at(copy):
    """512 bytes of zeros in the heap of texts, as a bad disk leaves them, and no checksum file."""
    whole = copy.read_bytes()
    second = copy.with_name("ethanol-r1.h5md")
    second.write_bytes(whole)
    start = whole.index(b"GCOL") // 512 * 512 + 512
    copy.write_bytes(whole[:start] + bytes(512) + whole[start + 512 :])
    checksum_path(copy).unlink()
    problems = [p for p in validate(copy.parent) if p.check == "readable"]
    assert [(p.file, p.message.partition(";")[0]) for p in problems] == [
        (str(copy), "damaged, reading it does not end")
    ]
    assert read_all(second)[0].shape == (20, 9, 3)


def test_a_process_that_dies_on_a_file_is_replaced(copy):
    for function, said in [
        ("crash", "reading it ends in a crash"), ("loop", "reading it does not end"),
        ("eat", "reading it takes all memory"),
    ]:  # fmt: skip
        with pytest.raises(CorruptFile, match=f"^{copy}: damaged, {said}"):
            run_apart(f"tests.tg80.untrusted.misbehaving:{function}", str(copy), seconds=1)
        run_apart("tg80.untrusted.hdf5:inspect", str(copy), seconds=5)


def test_one_process_reads_all_files_and_a_forked_one_has_its_own(copy):
    open_hdf5(copy).close()
    first = apart._reader.process.pid
    for number in range(5):
        other = copy.with_name(f"{number}.h5md")
        shutil.copy(copy, other)
        open_hdf5(other).close()
    assert apart._reader.process.pid == first
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0
    else:
        try:
            run_apart("tg80.untrusted.hdf5:inspect", str(copy), seconds=5)
            os._exit(0 if apart._reader.process.pid != first else 2)
        except BaseException:
            os._exit(1)
    run_apart("tg80.untrusted.hdf5:inspect", str(copy), seconds=5)
    assert apart._reader.process.pid == first


def test_it_goes_when_its_parent_is_killed(copy):
    program = (
        "import sys, time; from tg80.untrusted import apart\n"
        "from tg80.untrusted.hdf5 import open_hdf5\n"
        "open_hdf5(sys.argv[1]); print(apart._reader.process.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(copy)], stdout=subprocess.PIPE, text=True
    )
    reader = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    until = time.monotonic() + 20
    while _lives(reader):
        assert time.monotonic() < until
        time.sleep(0.05)


def _lives(process):
    try:
        return " Z " not in Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False


@pytest.mark.parametrize("shape", [(), (20,), (20, 9, 2), (0, 9, 3), (20, 9, 3, 1)])
def test_values_of_another_shape_are_named_by_every_command(shape, copy, capsys):
    with h5py.File(copy, "r+") as file:
        del file["particles/trajectory/position/value"]
        file["particles/trajectory/position/value"] = np.zeros(shape, "f4")
    refresh_checksum(copy)
    out = str(copy.with_name("out"))
    for command in (["validate"], ["info"], ["export", "--to", "extxyz", "--out", out]):
        code, text = tg80_command([*command, str(copy.parent)]), "".join(capsys.readouterr())
        # `info` reads no positions, only their number.
        assert (code == 0 and command == ["info"]) or "ethanol-r0.h5md: " in text, text
        assert code in (0, 1, 2) and "bug" not in text


def test_what_a_file_was_is_not_taken_for_what_it_is(copy):
    assert len(read_all(copy)[0]) == 20
    HOSTILE["external link"][0](copy)
    with pytest.raises(CorruptFile, match="is a link to another file"):
        read_all(copy)


def test_a_locked_file_and_one_without_rights_are_called_so(copy):
    with open(copy, "rb+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="locked: another program has it open for writing"):
            read_all(copy)
    with pytest.raises(UserError, match="no such file"):
        read_all(copy.with_name("none.h5md"))
    with pytest.raises(UserError, match="is a folder; give an HDF5 file"):
        read_all(copy.parent)
    os.mkfifo(copy.with_name("pipe.h5md"))
    with pytest.raises(UserError, match="is a pipe; give an HDF5 file"):
        read_all(copy.with_name("pipe.h5md"))


def test_files_that_ship_are_read_in_this_process(monkeypatch):
    monkeypatch.setattr(apart, "_ask", lambda *_: pytest.fail("asked"))
    assert np.isfinite(tg80.load("mini-xtb")["methanol"].read("positions")).all()


def test_a_process_that_cannot_start_is_no_fault_of_the_file(copy, monkeypatch):
    apart._forget()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(Tg80Error, match="cannot be started") as caught:
        run_apart("tg80.untrusted.hdf5:inspect", str(copy), seconds=5)
    assert not isinstance(caught.value, CorruptFile)
