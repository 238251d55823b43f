"""`tg80 singlepoint`: numbers out, one line for every kind of bad input."""

import json

import numpy as np
import pytest
import typer

from pipelines.commands.singlepoint import singlepoint
from tests.pipelines.structures import references
from tg80.cli_support import run_app
from tg80.theory import LEVELS

WATER = "3\nwater\nO -0.039007 0.409338 0.031234\nH -0.745229 -0.223329 0.042840\n" + (
    "H 0.787751 -0.184675 0.029803\n"
)


@pytest.fixture
def run(capsys):
    """run(*arguments) -> exit code, standard output, standard error."""
    app = typer.Typer()
    app.command()(singlepoint)

    def call(*arguments):
        code = run_app(app, [str(argument) for argument in arguments], "tg80")
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def water(tmp_path):
    path = tmp_path / "water.xyz"
    path.write_text(WATER)
    return path


@pytest.mark.parametrize("level", list(LEVELS))
def test_every_level_reports_json(run, water, level):
    code, out, _ = run(water, "--level", level, "--json")
    report = json.loads(out)
    assert code == 0 and report["converged"]
    assert report["level"]["name"] == level
    assert report["energy_ev"] == pytest.approx(report["energy_hartree"] * 27.211386, rel=1e-7)
    assert np.shape(report["forces_ev_per_angstrom"]) == (3, 3)
    assert np.shape(report["dipole_e_angstrom"]) == (3,)
    assert sum(report["mulliken_charges"]) == pytest.approx(0.0, abs=1e-8)
    assert report["homo_lumo_gap_ev"] > 1.0
    assert {"tg80", "pyscf", "tblite"} <= set(report["versions"])
    if level != "gfn2-xtb":
        assert report["cycles"] > 3 and report["gradient_norm_hartree"] < 3e-5
        reference = np.array(references()["water"]["forces_hartree_per_bohr"])
        assert np.abs(np.array(report["forces_hartree_per_bohr"]) - reference).max() < 1e-4


def test_human_output_shows_energy_and_forces(run, water):
    code, out, _ = run(water, "--level", "gfn2-xtb")
    assert code == 0
    for words in ("H2O", "hartree", "Mulliken", "dipole"):
        assert words in out


def test_charge_is_respected(run, tmp_path):
    path = tmp_path / "hydroxide.xyz"
    path.write_text("2\nOH-\nO 0 0 0\nH 0 0 0.97\n")
    code, out, _ = run(path, "--charge", "-1", "--level", "gfn2-xtb", "--json")
    assert code == 0
    assert sum(json.loads(out)["mulliken_charges"]) == pytest.approx(-1.0, abs=1e-6)


_BAD = {
    "empty": ("", "empty"),
    "no_xyz": ("CCO\n", "number of atoms"),
    "short": ("3\n\nO 0 0 0\nH 0 0 1\n", "promises 3 atoms, 2"),
    "two_frames": (WATER + WATER, "one structure a file"),
    "one_atom": ("1\n\nO 0 0 0\n", "2 or more"),
    "element": ("2\n\nXx 0 0 0\nH 0 0 1\n", "no element"),
    "uncovered": ("2\n\nAu 0 0 0\nH 0 0 1\n", "does not cover element Au"),
    "columns": ("2\n\nO 0 0\nH 0 0 1\n", "three coordinates"),
    "words": ("2\n\nO a b c\nH 0 0 1\n", "three numbers"),
    "nan": ("2\n\nO nan 0 0\nH 0 0 1\n", "not finite"),
    "far": ("2\n\nH 0 0 0\nH 0 0 1e300\n", "beyond 1000"),
    "coincident": ("3\n\nO 0 0 0\nH 0 0 1\nH 0 0 1\n", "atoms 2 and 3"),
    "odd": ("2\n\nO 0 0 0\nH 0 0 0.97\n", "even"),
}


@pytest.mark.parametrize("name", list(_BAD))
def test_bad_file_is_one_line_and_exit_code_2(run, tmp_path, name):
    text, words = _BAD[name]
    path = tmp_path / f"{name}.xyz"
    path.write_text(text)
    code, out, err = run(path, "--level", "gfn2-xtb", "--json")
    assert (code, out) == (2, "")
    assert words in err and f"{name}.xyz" in err and len(err.strip().splitlines()) == 1


def test_what_is_no_structure_file_is_refused(run, tmp_path, water):
    binary = tmp_path / "binary.xyz"
    binary.write_bytes(b"\xff\xfe\x00\x01")
    for arguments, words in (
        ((tmp_path / "nowhere.xyz",), "no such file"),
        ((tmp_path,), "folder"),
        ((binary,), "not a text file"),
        ((water, "--level", "b3lyp"), "no level of theory 'b3lyp'"),
        ((water, "--threads", "0"), "threads"),
        ((water, "--charge", "12"), "electrons"),
    ):
        code, _, err = run(*arguments)
        assert code == 2 and words in err and len(err.strip().splitlines()) == 1


def test_help_has_an_example(run):
    code, out, _ = run("--help")
    assert code == 0 and "tg80 singlepoint water.xyz" in out
