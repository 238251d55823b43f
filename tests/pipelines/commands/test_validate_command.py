"""`tg80 validate` and `tg80 info` as a user meets them: what is printed, and the exit codes."""

import json

import numpy as np
import pytest

from pipelines.cli import run
from tests.support import factories
from tests.support.without_rights import TG80, run_without_rights


@pytest.fixture
def folder(tmp_path):
    """Two clean shards: one long enough for an error bar of the drift, one too short."""
    factories.make_shard(tmp_path, "ethanol", n_frames=1200, seed=2)
    factories.make_shard(tmp_path, "formic-acid", n_frames=20)
    return tmp_path


def test_clean_shards_give_0(folder, capsys):
    assert run(["validate", str(folder / "ethanol-r0.h5md")]) == 0
    assert capsys.readouterr().out == ""


def test_warnings_are_printed_one_a_line_and_give_0(folder, capsys):
    assert run(["validate", str(folder)]) == 0
    (line,) = capsys.readouterr().out.strip().split("\n")
    assert line.startswith(f"warning: {folder / 'formic-acid-r0.h5md'}: drift: ")


def test_errors_are_printed_one_a_line_and_give_1(folder, capsys):
    path = folder / "ethanol-r0.h5md"
    path.write_bytes(path.read_bytes()[:-100])
    assert run(["validate", str(path), str(folder / "formic-acid-r0.h5md")]) == 1
    lines = capsys.readouterr().out.strip().split("\n")
    assert lines[0].startswith(f"error: {path}: checksum: does not match")
    assert len(lines) == 2


def test_the_report_as_json(folder, capsys):
    (folder / "ethanol-r0.h5md").write_bytes(b"")
    assert run(["validate", str(folder), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["n_files"], report["n_errors"], report["n_warnings"]) == (2, 1, 1)
    assert report["problems"][0]["check"] == "checksum"
    assert set(report["problems"][0]) == {"level", "file", "check", "message"}


@pytest.mark.parametrize("command", ["validate", "info"])
def test_a_bad_path_is_one_line_and_gives_2(command, tmp_path, capsys):
    assert run([command, str(tmp_path / "nowhere")]) == 2
    assert run([command, str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.strip().split("\n")
    assert len(lines) == 2
    assert all(line.startswith("error: ") for line in lines)


@pytest.mark.parametrize("command", ["validate", "info"])
def test_help_shows_an_example(command, capsys):
    assert run([command, "--help"]) == 0
    assert f"Example: tg80 {command}" in capsys.readouterr().out


def test_info_shows_what_is_inside(folder, capsys):
    assert run(["info", str(folder)]) == 0
    text = capsys.readouterr().out
    assert "ethanol-r0" in text
    assert "formic-acid-r0" in text
    assert "gfn2-xtb" in text


def test_info_sets_the_drift_against_its_limit(folder, capsys):
    assert run(["info", str(folder), "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["ethanol"]["drift_verdict"] == "ok"
    assert abs(rows["ethanol"]["drift_mev_per_atom_ps"]) < 0.05
    assert rows["ethanol"]["drift_limit_mev_per_atom_ps"] == 0.05
    assert rows["formic-acid"]["drift_verdict"] == "warning"  # too short to tell
    assert run(["info", str(folder)]) == 0
    text = capsys.readouterr().out
    assert "unproven" in text and "drift under its limit: 1 of 2" in text


def test_info_of_a_tree_tells_levels_apart(folder, tmp_path, capsys):
    tree = tmp_path / "tree"
    factories.make_shard(tree / "pbe", "formic-acid", n_frames=20, level="pbe-def2svp")
    factories.make_shard(tree / "xtb", "formic-acid", n_frames=20)
    assert run(["info", str(tree), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["level"] for row in rows] == ["pbe-def2svp", "gfn2-xtb"]


def test_info_as_json_is_computed_from_the_frames(folder, capsys):
    from tg80.shards.shard import Shard

    assert run(["info", str(folder / "ethanol-r0.h5md"), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["n_frames"], row["length_fs"], row["frame_fs"]) == (1200, 1199.0, 1.0)
    assert (row["smiles"], row["replica"], row["n_atoms"]) == ("CCO", 0, 9)
    kinetic = Shard(folder / "ethanol-r0.h5md").read("kinetic_energy").mean()
    expected = 2 * kinetic / (21 * 8.617333e-5)  # eV/K, CODATA
    np.testing.assert_allclose(row["temperature_k"], expected, rtol=1e-6)
    assert row["size_bytes"] == (folder / "ethanol-r0.h5md").stat().st_size


def test_info_names_a_damaged_file_and_still_shows_the_others(folder, capsys):
    (folder / "ethanol-r0.h5md").write_bytes(b"nonsense")
    assert run(["info", str(folder)]) == 1
    printed = capsys.readouterr()
    assert "formic-acid-r0" in printed.out
    assert printed.err.startswith("error: ") and "ethanol-r0.h5md" in printed.err


@pytest.mark.parametrize("named", ["the folder", "each file"])
@pytest.mark.parametrize("command", ["validate", "info"])
def test_an_unreadable_file_is_one_line_and_the_others_are_still_looked_at(command, named, folder):
    closed = folder / "ethanol-r0.h5md"
    closed.chmod(0)
    (folder / "formic-acid-r0.h5md.sha256").unlink()
    shards = [str(path) for path in sorted(folder.glob("*.h5md"))]
    several = shards if command == "validate" else [str(closed)]
    paths = [str(folder)] if named == "the folder" else several
    done = run_without_rights([*TG80, command, *paths])
    assert done.returncode == 1
    printed = done.stdout + done.stderr
    (line,) = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: {closed}: ") and line.endswith("Permission denied")
    if len(paths) != 1 or named == "the folder":
        assert "formic-acid-r0" in done.stdout


def test_an_unreadable_folder_is_never_passed_over(folder):
    """Else a set with a closed level would look whole."""
    (folder / "open").mkdir()
    for path in folder.glob("ethanol*"):
        path.rename(folder / "open" / path.name)
    (folder / "closed").mkdir(mode=0)
    for path in folder.glob("formic*"):
        path.unlink()
    done = run_without_rights([*TG80, "validate", str(folder)])
    assert done.returncode == 1
    assert done.stderr == f"error: {folder / 'closed'}: Permission denied\n"
