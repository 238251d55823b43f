"""What `pip install .` alone can do: all packages of the extras are barred, as if missing."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[3]
MINI = ROOT / "tg80" / "data" / "mini-xtb"
MODULES = {"scikit-learn": "sklearn", "umap-learn": "umap", "dask-jobqueue": "dask_jobqueue",
           "mace-torch": "mace", "gpu4pyscf-cuda12x": "gpu4pyscf"}  # fmt: skip
# Reports of each command line: exit code and both streams.
SCRIPT = """
import contextlib, io, json, sys

class Barred:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BARRED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

BARRED, lines = json.load(sys.stdin)
sys.meta_path.insert(0, Barred())
from pipelines.cli import run
import tg80
n_atoms = tg80.load("mini-xtb")["methanol"].read("forces").shape[1]
reports = []
for line in lines:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(line)
    reports.append((code, out.getvalue(), err.getvalue()))
print(json.dumps([n_atoms, reports]))
"""


def modules_of_the_extras() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = project["optional-dependencies"].values()
    base = {Requirement(line).name for line in project["dependencies"]}
    extras = {Requirement(line).name for lines in lists for line in lines} - base - {"tg80"}
    names = [MODULES.get(name, name.lower()) for name in extras]
    return [*names, "cupy"]


def run_without_extras(*lines: list[str]) -> tuple[int, list[list]]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], input=json.dumps([modules_of_the_extras(), lines]),
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    shard = str(MINI / "methanol-r0.h5md")
    lines = {
        "help": ["--help"],
        "validate": ["validate", shard],
        "info": ["info", shard, "--json"],
        "extxyz": ["export", shard, "--to", "extxyz", "--frames", "2", "--out", str(out / "xyz")],
        "npz": ["export", shard, "--to", "npz", "--out", str(out / "npz")],
        "download": ["download", "--source", str(out), "--to", str(out / "copy")],
        "generate": ["generate", "--out", str(out / "run")],
        "singlepoint": ["singlepoint", str(out / "water.xyz"), "--level", "gfn2-xtb"],
        "split": ["split", "--check"],
        "plan": ["plan"],
        "twin": ["twin", "--data", shard],
        "status": ["status", str(out)],
    }
    (out / "water.xyz").write_text("3\n\nO 0 0 0\nH 0.76 0.59 0\nH -0.76 0.59 0\n")
    n_atoms, found = run_without_extras(*lines.values())
    assert n_atoms == 6
    return dict(zip(lines, found, strict=True)), out


def test_data_are_read_checked_and_exported(reports):
    found, out = reports
    for name in ("help", "validate", "info", "extxyz", "npz"):
        assert found[name][0] == 0, (name, found[name])
    assert "generate" in found["help"][1]
    assert "not checked: the package rdkit is not installed" in found["validate"][1]
    assert json.loads(found["info"][1])[0]["name"] == "methanol"
    frames = next((out / "xyz").glob("*.xyz")).read_text()
    assert "molecule=methanol" in frames
    with np.load(next((out / "npz").glob("*.npz"))) as arrays:
        assert arrays["R"].shape[1:] == (6, 3)


def test_a_download_fails_for_its_own_reasons(reports):
    found, _ = reports
    code, _, error = found["download"]
    assert code != 0 and "pip install" not in error


@pytest.mark.parametrize("name", ["generate", "singlepoint", "split", "plan", "twin", "status"])
def test_a_command_names_the_extra_it_needs(reports, name):
    found, _ = reports
    code, _, error = found[name]
    assert code == 2
    assert len(error.splitlines()) == 1 and "pip install 'tg80[generate]'" in error
