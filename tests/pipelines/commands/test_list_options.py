"""--skip-bad and --stereo on the command line, and what a run's folder keeps of them."""

import csv
import json

import pytest

from pipelines.cli import run
from pipelines.recipe import Recipe
from pipelines.run.folder import begin_session, open_run, read_molecules, read_run
from tg80.chemistry.lists import MoleculeList, parse_list
from tg80.errors import UserError

SHORT = [
    "--level=gfn2-xtb", "--length-fs=20", "--equilibration-fs=20", "--workers=1",
    "--set=pre_equilibration_fs=20", "--set=segment_fs=20", "--set=n_conformers=1",
]  # fmt: skip
LIST = "O water\nC1CC =bad\nOO\nCC(F)Cl haloethane\n"


@pytest.fixture
def listed(tmp_path):
    path = tmp_path / "list.smi"
    path.write_text(LIST)
    return path


def test_generate_leaves_bad_rows_out_keeps_the_reasons_and_goes_on(listed, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["generate", "--molecule-list", str(listed), "--out", str(out), *SHORT]
    assert run(words) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2 and ":2: " in errors[0] and ":4: " in errors[1] and not out.exists()

    assert run([*words, "--skip-bad", "--json"]) == 0
    printed = capsys.readouterr()
    summary = json.loads(printed.out)
    assert [row["line"] for row in summary["left_out"]] == [2, 4]
    assert "unspecified stereo" in summary["left_out"][1]["reason"]
    assert f"2 bad rows left out of {listed}, 2 taken" in printed.err
    rows = list(csv.DictReader((out / "left-out.csv").open()))
    assert [(row["list"], row["line"]) for row in rows] == [(str(listed), "2"), (str(listed), "4")]
    assert rows[0]["text"] == "C1CC =bad" and rows[0]["reason"] == summary["left_out"][0]["reason"]
    session = json.loads((out / "session.json").read_text())
    assert (session["skip_bad"], session["stereo"]) == (True, "given")

    assert run([*words, "--skip-bad"]) == 0  # the same command goes on
    capsys.readouterr()
    assert run(["status", str(out), "--json"]) == 0
    assert [row["line"] for row in json.loads(capsys.readouterr().out)["left_out"]] == ["2", "4"]
    assert run(["status", str(out)]) == 0
    assert "2 bad rows of the molecule list left out" in capsys.readouterr().out

    assert run([*words, "--skip-bad", "--stereo", "first"]) == 2
    assert "begun with --stereo given, now it is first" in capsys.readouterr().err


def test_plan_and_split_take_the_options_too(listed, tmp_path, capsys):
    words = ["plan", "--molecule-list", str(listed), "--skip-bad", "--stereo=enumerate", "--json"]
    quick = ["--level=gfn2-xtb", "--length-fs=100", "--probes=1", "--steps=1"]
    assert run([*words, *quick]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["molecules"][0]["name"] == "water"
    assert len(planned["molecules"]) == 3
    assert [row["line"] for row in planned["left_out"]] == [2]

    some = tmp_path / "some.smi"
    names = "CO methanol\nC1CC bad\nCC=O acetaldehyde\nCCO ethanol\n"
    some.write_text(names)
    words = ["split", "--molecule-list", str(some), "--restrict", "tg80-v1"]
    assert run(words) == 2
    capsys.readouterr()
    assert run([*words, "--skip-bad", "--json"]) in (0, 1)
    printed = capsys.readouterr()
    if printed.out:
        assert [row["line"] for row in json.loads(printed.out)["left_out"]] == [2]
    assert run([*words, "--stereo", "some"]) == 2
    assert run(["split", "--check", "--skip-bad"]) == 2
    assert "--check takes a split" in capsys.readouterr().err


def test_a_folder_keeps_isomers_tautomers_and_what_other_lists_left_out(tmp_path):
    recipe = Recipe(level="gfn2-xtb")
    text = ["OC(=O)C(O)C(O)C(=O)O tartaric acid", "bad", "Oc1ccnc(O)n1 enol"]
    first = parse_list(text, "a.smi", stereo="enumerate", skip_bad=True)
    assert open_run(tmp_path, recipe, first) == []
    begin_session(tmp_path, 1, first)
    names = ["tartaric-acid-s1", "tartaric-acid-s2", "enol"]
    assert list(read_molecules(tmp_path)) == names
    assert read_run(tmp_path)[1] == first.molecules
    more = parse_list(["worse", "O=c1cc[nH]c(=O)[nH]1"], "b.smi", stereo="enumerate", skip_bad=True)
    open_run(tmp_path, recipe, more)
    open_run(tmp_path, recipe, more)
    assert list(read_molecules(tmp_path)) == [*names, "uracil"]
    rows = list(csv.DictReader((tmp_path / "left-out.csv").open()))
    assert [(row["list"], row["line"]) for row in rows] == [("a.smi", "2"), ("b.smi", "1")]
    strict = MoleculeList("c.smi", more.molecules, stereo="enumerate")
    assert "--skip-bad" in open_run(tmp_path, recipe, strict)[0]
    with pytest.raises(UserError, match="--stereo enumerate"):
        open_run(tmp_path, recipe, MoleculeList("c.smi", more.molecules))
