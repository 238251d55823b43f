"""A wheel in a fresh environment, with nothing but the base dependencies. Needs a package index."""

import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("tg80", "pipelines", "atom", "benchmarks")
# What no base installation may pull in.
HEAVY = ("torch", "pyscf", "dask", "rdkit", "numba", "e3nn", "matplotlib", "umap")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def done(*command, cwd, code=0) -> str:
    """What a command prints on standard output and standard error, where it ends as it should."""
    result = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=1500
    )
    printed = result.stdout + result.stderr
    assert result.returncode == code, printed[-3000:]
    return printed


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of the programs of a fresh environment with the wheel in it."""
    folder = tmp_path_factory.mktemp("install")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, source)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    done(*pip, "wheel", "--no-deps", "--wheel-dir", folder, source, cwd=folder)
    (wheel,) = folder.glob("tg80-*.whl")
    venv.create(folder / "env", with_pip=True)
    programs = folder / "env" / "bin"
    before, began = size_mb(folder / "env"), time.monotonic()
    done(programs / "python", "-m", "pip", "install", wheel, cwd=folder)
    print(
        f"\npip install tg80: {time.monotonic() - began:.0f} s, "
        f"{size_mb(folder / 'env') - before:.0f} MB, of which the wheel is "
        f"{wheel.stat().st_size / 1e6:.0f} MB (packed)"
    )
    return programs


def size_mb(folder: Path) -> float:
    """Size of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def test_data_are_read_and_checked_without_extras(installed, tmp_path):
    script = (
        "import sys, tg80; data = tg80.load('mini-xtb'); "
        "print(data['methanol'].read('positions').shape, data.part(2, 'train')[0].name); "
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    printed = done(installed / "python", "-c", script, cwd=tmp_path)
    assert printed.splitlines()[-1] == "[]", printed
    found = done(installed / "python", "-c", "import tg80; print(tg80.__file__)", cwd=tmp_path)
    shard = Path(found.strip()).parent / "data" / "mini-xtb" / "methanol-r0.h5md"
    done(installed / "tg80", "validate", shard, cwd=tmp_path)
    done(installed / "tg80", "info", shard, cwd=tmp_path)
    done(installed / "tg80", "export", shard.parent, "--to", "npz", "--out", "npz", cwd=tmp_path)
    for program in ("tg80", "atom-bench"):
        done(installed / program, "--help", cwd=tmp_path)


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (("tg80", "generate", "--molecule-list", "tg80", "--out", "run"), "generate"),
        (("tg80", "plan", "--molecule-list", "tg80"), "generate"),
        (("atom-bench", "run", "--fold", "2"), "bench"),
        (("atom-bench", "leaderboard", "results"), "bench"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else value,
)
def test_a_command_names_the_extra_that_it_lacks(installed, tmp_path, command, extra):
    program, *arguments = command
    printed = done(installed / program, *arguments, cwd=tmp_path, code=2)
    assert len(printed.splitlines()) == 1, printed
    assert f"pip install 'tg80[{extra}]'" in printed
