"""The command line of `tg80 export`."""

import json
from pathlib import Path

import ase.io
import pytest

from pipelines.cli import run
from tests.support import factories


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    factories.make_dataset(folder, ["ethylene", "urea"], n_frames=41)
    return folder


def test_files_are_listed_with_their_spacing(data, tmp_path, capsys):
    out = tmp_path / "new" / "folder"
    arguments = ["export", str(data), "--to", "upstream", "--every", "4", "--out", str(out)]
    assert run(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"{out / 'tg80_ethylene.npz'}: ethylene, 11 frames 4 fs apart",
        f"{out / 'tg80_urea.npz'}: urea, 11 frames 4 fs apart",
    ]
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "tg80_ethylene.npz exists already" in captured.err
    assert run([*arguments, "--force"]) == 0


def test_the_train_part_of_a_fold_as_json(data, tmp_path, capsys):
    options = f"--to extxyz --fold 2 --part train --frames 5 --json --out {tmp_path}"
    assert run(["export", str(data), *options.split()]) == 0
    (file,) = json.loads(capsys.readouterr().out)
    assert Path(file["path"]).name == "fold-2-train.xyz"
    assert {row["molecule"] for row in file["trajectories"]} == {"ethylene"}
    assert file["sha256"] and file["n_frames"] == 5
    times = [f.info["time_fs"] for f in ase.io.read(file["path"], ":") if "time_fs" in f.info]
    assert times == [0.0, 5.0, 10.0, 15.0, 20.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--to npz --molecules ethanol,urea", "no trajectory of ethanol in the data"),
        ("--to csv", "no format 'csv'"),
        ("--to npz --part train", "--fold and --part go together"),
        ("--to npz --every 0", "--every"),
    ],
)
def test_a_mistake_gives_2_and_one_line(data, tmp_path, capsys, options, message):
    out = tmp_path / "out"
    assert run(["export", str(data), *options.split(), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
    assert not out.exists()


def test_a_file_in_the_folder_s_place_gives_2(data, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "deeper"):
        assert run(["export", str(data), "--to", "npz", "--out", str(out)]) == 2
        line = f"error: {tmp_path / 'file'}: is not a folder; choose another --out\n"
        assert capsys.readouterr().err == line
    assert (tmp_path / "file").read_text() == "mine"
