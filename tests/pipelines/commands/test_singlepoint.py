"""`tg80 singlepoint`: numbers out, one line for every kind of bad input."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest
import typer

from pipelines.commands.singlepoint import singlepoint
from tests.support.structures import references
from tg80.console import run_app
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
        assert report["cycles"] >= 1 and report["gradient_norm_hartree"] < 3e-5
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


# Readers that know three columns only, or no comment line, give other energies: -4.8896530 hartree
# for the forces in front, for sulfate that of the neutral molecule.
_AS_IT_IS_MEANT = {
    "forces first": (
        "3\nProperties=species:S:1:forces:R:3:pos:R:3 energy=-1.0\nO 0.0 0.0 0.9 0 0 0.1173\n"
        "H 0.0 0.5 -0.45 0 0.7572 -0.4692\nH 0.0 -0.5 -0.45 0 -0.7572 -0.4692\n",
        -5.07037076,
    ),
    "mass first": (
        "3\nProperties=species:S:1:mass:R:1:pos:R:3\nO 15.999 0 0 0.1173\n"
        "H 1.008 0 0.7572 -0.4692\nH 1.008 0 -0.7572 -0.4692\n",
        -5.07037076,
    ),
    "sulfate": (
        "5\ncharge=-2 multiplicity=1\nS 0 0 0\nO 0.86 0.86 0.86\nO -0.86 -0.86 0.86\n"
        "O -0.86 0.86 -0.86\nO 0.86 -0.86 -0.86\n",
        -19.81241777,
    ),
}


@pytest.mark.parametrize("name", _AS_IT_IS_MEANT)
def test_the_energy_is_that_of_the_molecule_that_is_meant(run, tmp_path, name):
    text, energy = _AS_IT_IS_MEANT[name]
    path = tmp_path / "molecule.xyz"
    path.write_text(text)
    code, out, _ = run(path, "--level", "gfn2-xtb", "--json")
    assert code == 0 and json.loads(out)["energy_hartree"] == pytest.approx(energy, abs=1e-8)


# More of what `tg80.chemistry.xyz` refuses is in its own tests.
_BAD = {
    "empty": ("", "empty"),
    "two_frames": (WATER + WATER, "one structure a file"),
    "uncovered": ("2\n\nAu 0 0 0\nH 0 0 1\n", "does not cover element Au"),
    "nan": ("2\n\nO nan 0 0\nH 0 0 1\n", "three numbers in angstrom"),
    "odd": ("2\n\nO 0 0 0\nH 0 0 0.97\n", "even"),
    "crystal": (WATER.replace("water", 'Lattice="9 0 0 0 9 0 0 0 9"'), "periodic system"),
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
    charged = tmp_path / "sulfate.xyz"
    charged.write_text(_AS_IT_IS_MEANT["sulfate"][0])
    for arguments, words in (
        ((tmp_path / "nowhere.xyz",), "no such file"),
        ((tmp_path,), "folder"),
        ((water, "--level", "b3lyp"), "no level of theory 'b3lyp'"),
        ((water, "--threads", "0"), "threads"),
        ((water, "--charge", "12"), "electrons"),
        ((water, "--charge", "-1000000", "--level", "gfn2-xtb"), "more than one for each of 3"),
        ((charged, "--charge", "0"), "line 2 says charge -2, but --charge is 0"),
    ):
        code, _, err = run(*arguments)
        assert code == 2 and words in err and len(err.strip().splitlines()) == 1


def test_no_self_consistency_is_one_line_and_exit_code_1(run, tmp_path):
    path = tmp_path / "apart.xyz"
    path.write_text("3\n\nC 0 0 0\nO 0 0 4.7\nO 0 0 -4.7\n")
    code, out, err = run(path, "--level", "gfn2-xtb")
    assert (code, out) == (1, "") and len(err.strip().splitlines()) == 1
    assert err.startswith("error: CO2 at gfn2-xtb: no self-consistency with a fresh guess, ")


def test_help_has_an_example(run):
    code, out, _ = run("--help")
    assert code == 0 and "tg80 singlepoint water.xyz" in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_evaluation_of_minutes_hears_signals(tmp_path, number):
    path = tmp_path / "gas.xyz"
    rows = np.random.default_rng(1).uniform(-60, 60, (120, 3))
    lines = [f"{'CNOH'[i % 4]} {x} {y} {z}" for i, (x, y, z) in enumerate(rows)]
    path.write_text("\n".join(["120", "", *lines]))
    script = (
        "import os, sys, threading; from pipelines.cli import run; "
        f"threading.Timer(1.0, os.kill, (os.getpid(), {int(number)})).start(); "
        f"sys.exit(run(['singlepoint', {str(path)!r}, '--level', 'gfn2-xtb']))"
    )
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (128 + number, "")
    assert ended.stderr == "stopped\n"
