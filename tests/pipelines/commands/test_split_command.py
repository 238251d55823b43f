"""`tg80 split` as a user meets it: output, files, exit codes."""

import json

import pytest

from pipelines.cli import run
from tg80.chemistry.lists import tg80_molecules
from tg80.splits.split import load_split, mini_names


def write_list(tmp_path, molecules, name="list.smi"):
    path = tmp_path / name
    path.write_text("".join(f"{m.smiles} {m.name}\n" for m in molecules))
    return path


def test_check_prints_the_certificate(capsys):
    assert run(["split", "--check", "--no-recompute"]) == 0
    out = capsys.readouterr().out
    assert "tg80-v1" in out and "leak-free" in out and "BROKEN" not in out
    assert "random molecule splits 0." in out
    assert out.count("\nok ") == 15


def test_check_as_json(capsys):
    assert run(["split", "--check", "tg80-v1", "--no-recompute", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["holds"] and report["version"] == "tg80-v1"
    assert len(report["folds"]) == 5
    ood = [fold["nearest_train_tanimoto"]["test_ood"]["mean"] for fold in report["folds"]]
    assert max(ood) < report["random_molecule_splits"]["mean"]


def test_check_of_a_leaky_file_exits_with_1_and_names_the_leak(tmp_path, capsys):
    content = json.loads(load_split("tg80-v1").to_json())
    leak = content["folds"][2]["test_id"][0]
    content["folds"][2]["train"].append(leak)
    path = tmp_path / "leaky.json"
    path.write_text(json.dumps(content))
    assert run(["split", "--check", str(path), "--no-recompute"]) == 1
    out = capsys.readouterr().out
    assert f"fold 3: {leak} stands in 2 parts" in out
    assert "NOT leak-free" in out


def test_restriction_of_the_frozen_split_to_a_list(tmp_path, capsys):
    frozen = load_split("tg80-v1")
    names = set(mini_names(frozen.molecules, frozen.clusters))
    listed = write_list(tmp_path, [m for m in tg80_molecules() if m.name in names])
    out = tmp_path / "mini.json"
    command = ["split", "--molecule-list", str(listed), "--restrict", "tg80-v1", "--out", str(out)]
    assert run(command) == 0
    assert load_split(out) == load_split("tg80-v1").restrict(names)
    assert run(["split", "--check", str(out), "--no-recompute"]) == 0
    assert "leak-free" in capsys.readouterr().out


def test_restriction_to_the_molecules_of_shards(tmp_path, shard_factory, capsys):
    folder = tmp_path / "shards"
    folder.mkdir()
    for name in ("ethanol", "methanol", "benzene"):
        shard_factory(name, folder=folder, n_frames=4)
    assert run(["split", "--data", str(folder), "--restrict", "tg80-v1", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["molecules"]) == {
        "ethanol",
        "methanol",
        "benzene",
    }


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "give one of"),
        (["tg80-v1"], "--check tg80-v1"),
        (["--check", "nothing.json"], "no split nothing.json"),
        (["--check", "--molecule-list", "tg80"], "--check takes a split"),
        (["--molecule-list", "tg80", "--data", "."], "give one of"),
        (["--data", "missing-folder"], "no such file or folder"),
        (["--molecule-list", "missing.smi"], "missing.smi"),
        (["--molecule-list", "tg80", "--out", "missing-folder/split.json"], "missing-folder"),
    ],
)
def test_mistakes_give_one_line_and_exit_code_2(arguments, reason, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["split", *arguments]) == 2
    error = capsys.readouterr().err
    assert reason in error and error.startswith("error: ")
    assert error.count("\n") == 1


def test_a_file_that_is_there_is_kept_unless_forced(tmp_path, capsys):
    listed = write_list(tmp_path, tg80_molecules()[:19])
    content = listed.read_bytes()
    command = ["split", "--molecule-list", str(listed), "--restrict", "tg80-v1", "--out"]
    assert run([*command, str(listed)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert listed.read_bytes() == content
    figure = tmp_path / "clusters.png"
    figure.write_text("mine")
    assert run(["split", "--check", "--no-recompute", "--plot", str(figure)]) == 2
    assert figure.read_text() == "mine"
    out = tmp_path / "split.json"
    out.write_text("{}")
    run([*command, str(out), "--force"])
    assert len(load_split(out).molecules) == 19


def test_short_lists_empty_folders_and_strangers(tmp_path, capsys):
    listed = write_list(tmp_path, tg80_molecules()[:19])
    assert run(["split", "--molecule-list", str(listed)]) == 2
    assert "19 compounds are too few" in capsys.readouterr().err
    assert run(["split", "--data", str(tmp_path)]) == 2
    assert "no .h5md file" in capsys.readouterr().err
    stranger = tmp_path / "stranger.smi"
    stranger.write_text("CCCCCCCCCC decane\nCCO\n")
    assert run(["split", "--molecule-list", str(stranger), "--restrict", "tg80-v1"]) == 2
    assert "has no decane" in capsys.readouterr().err


def test_all_bad_lines_of_a_list_are_printed(tmp_path, capsys):
    listed = tmp_path / "bad.smi"
    listed.write_text("CCO\nQQ\n[CH3]\n")
    assert run(["split", "--molecule-list", str(listed)]) == 2
    error = capsys.readouterr().err
    assert "bad.smi:2:" in error and "bad.smi:3:" in error


@pytest.mark.slow
def test_the_frozen_file_is_made_by_the_command(tmp_path, capsys):
    out = tmp_path / "again.json"
    assert run(["split", "--molecule-list", "tg80", "--out", str(out)]) == 0
    made, frozen = load_split(out), load_split("tg80-v1")
    if made.library_versions == frozen.library_versions:
        assert made == frozen
    else:
        assert made.molecules_sha256 == frozen.molecules_sha256
